"""Figures as files: small or lossless, with their captions inside, never over shipped ones."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_pdf import RendererPdf
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gscam_lib.figures.letters import readable

SHADES = 6  # of 255, from one shade to the next: half the bytes or less, and hardly seen
PRINT = 300  # dots per inch of lossless figures


def _folder() -> Path:
    """Where `save` writes: GSCAM_FIGURES, else a reader's own folder beside the shipped figures."""
    if asked := os.environ.get("GSCAM_FIGURES"):
        return Path(asked)
    shipped = Path(__file__).resolve().parents[2] / "figures"
    return shipped / "mine" if shipped.is_dir() else Path.cwd() / "figures"


def as_png(
    figure: Figure, caption: str = "", *, dpi: float | str = "figure", lossless: bool = False
) -> bytes:
    """A figure as PNG, its caption inside; in 44 shades of each colour unless lossless."""
    drawn, out = io.BytesIO(), io.BytesIO()
    _draw(figure, drawn, format="png", dpi=dpi)
    about = PngInfo()
    about.add_text("Description", caption)
    with Image.open(drawn) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    pixels = pixels if lossless else _few_shades(pixels)
    inch = {"dpi": (dpi, dpi)} if isinstance(dpi, (int, float)) else {}
    Image.fromarray(pixels).save(out, "PNG", optimize=True, pnginfo=about, **inch)
    return out.getvalue()


def save(
    figure: Figure,
    name: str,
    caption: str,
    *,
    dpi: float | None = None,
    lossless: bool | None = None,
    folder: Path | None = None,
) -> Path:
    """Write a figure as PNG and PDF with its caption inside. Returns the PNG's path.

    folder: None is that in GSCAM_FIGURES (`make figures` sets it), or figures/mine, so that shipped
    figures, their index and credits stay as they are. lossless: photos in all their shades, at 300
    dots per inch, for print; None: as GSCAM_LOSSLESS=1 says; by default small files. The files
    hold no dates, so the same figure is the same bytes. A figure that is there and looks the same,
    up to rounding on another machine, is left as it is.
    """
    if lossless is None:
        lossless = os.environ.get("GSCAM_LOSSLESS", "") not in ("", "0")
    dpi = dpi or (PRINT if lossless else mpl.rcParams["savefig.dpi"])
    folder = _folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    pdf = png.with_suffix(".pdf")
    drawn = as_png(figure, caption, dpi=dpi, lossless=lossless)
    if not (png.is_file() and pdf.is_file() and _same_picture(png, drawn, 0 if lossless else 1)):
        with contextlib.nullcontext() if lossless else _pdf_of_few_shades():
            _draw(figure, pdf, dpi=dpi, metadata={"CreationDate": None, "Subject": caption})
        png.write_bytes(drawn)
    return png


def _draw(figure: Figure, out: Any, **options: Any) -> None:
    """Save a figure with its texts made readable; we have warned of missing letters by then."""
    readable(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure.savefig(out, **options)


def _few_shades(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rounded = (pixels.astype(np.int16) + SHADES // 2) // SHADES * SHADES
    return rounded.clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def _pdf_of_few_shades() -> Iterator[None]:
    """Let photos in a PDF have as few shades as those in a PNG; lines and letters stay as drawn."""
    draw: Any = RendererPdf.draw_image

    def light(self: Any, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        draw(self, gc, x, y, np.dstack([_few_shades(im[..., :3]), im[..., 3]]), transform)

    RendererPdf.draw_image = light  # type: ignore[method-assign]
    try:
        yield
    finally:
        RendererPdf.draw_image = draw  # type: ignore[method-assign]


def _same_picture(path: Path, drawn: bytes, shades: int) -> bool:
    """Whether two PNG files have the same caption, and the same pixels up to a shade or none."""
    with Image.open(path) as old, Image.open(io.BytesIO(drawn)) as new:
        captions = [picture.info.get("Description") for picture in (old, new)]
        if old.size != new.size or captions[0] != captions[1]:
            return False
        pixels = [np.asarray(picture.convert("RGB"), np.int16) for picture in (old, new)]
    return bool(np.abs(pixels[0] - pixels[1]).max() <= shades * SHADES)


def environment(*models: Any) -> str:
    """What a notebook was run with: Python, packages, and the weights of each model."""
    packages = ("torch", "open_clip_torch", "timm", "numpy", "pillow", "scikit-image",
                "matplotlib", "seaborn")  # fmt: skip
    parts = [f"{name} {version(name)}" for name in ("gscam_lib", *packages)]
    lines = [f"Python {platform.python_version()}; {', '.join(parts)}"]
    lines += [
        f"{m.name}: {m.channels} channels at '{m.layer.name}', input {m.input_size} px, "
        f"weights {m.weights_sha}"
        for m in models
    ]
    return "\n".join(lines)
