"""Figures, in one style. Each function takes `ax=None` and gives the Axes back; none shows it."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import RendererPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gscam_lib.boxes import Box, Heatmap

STYLE = Path(__file__).parent / "gscam.mplstyle"
FOLDER = Path(os.environ.get("GSCAM_FIGURES", Path(__file__).resolve().parents[2] / "figures"))
ROWS = 256  # of a photo that are mixed at a time
BOX_COLOR, TRUTH_COLOR = "#5CF2FF", "#FFFFFF"  # seen on inferno; white for the truth


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use the project's style inside a `with`; the reader's own settings stay as they were."""
    with mpl.rc_context(fname=STYLE):
        yield


def use_style() -> None:
    """Use the project's style from here on; in a notebook, show figures as `as_png` has them."""
    plt.style.use(STYLE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        plt.switch_backend(mpl.get_backend())  # it sets its own format when it is loaded
        shell.display_formatter.formatters["image/png"].for_type(Figure, as_png)


def overlay(
    photo: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    *,
    cmap: str = "inferno",
    opacity: float = 0.75,
) -> np.ndarray[Any, Any]:
    """Lay a (H, W) heatmap in [0, 1] over a (H, W, 3) uint8 photo: (H, W, 3) uint8.

    The photo keeps its own colours where the heat is 0; the hotter, the more the map's colour
    covers it: by `opacity` at heat 1, and by v² (3 − 2v) of that at heat v, so that what is cold
    stays clear. Raises ValueError where the sizes differ.
    """
    if values.shape != photo.shape[:2]:
        raise ValueError(f"Got a heatmap of {values.shape} on a photo of {photo.shape[:2]} pixels.")
    colors = 255 * mpl.colormaps[cmap](np.arange(256))[:, :3].astype(np.float32)
    mixed = np.empty_like(photo)
    for i in range(0, len(photo), ROWS):  # large photos would take gigabytes in one piece
        v, part = values[i : i + ROWS, :, None].astype(np.float32), photo[i : i + ROWS]
        color = colors[np.minimum((v[..., 0] * 256).astype(np.int16), 255)]
        alpha = opacity * v * v * (3 - 2 * v)
        mixed[i : i + ROWS] = np.rint(part + alpha * (color - part))
    return mixed


def show_photo(photo: np.ndarray[Any, Any] | Image.Image, *, ax: Axes | None = None) -> Axes:
    """Show a photo without ticks."""
    ax = plt.subplots()[1] if ax is None else ax
    ax.imshow(np.asarray(photo))
    ax.set_axis_off()
    return ax


def show_heatmap(
    photo: np.ndarray[Any, Any],
    heat: Heatmap,
    *,
    box: Box | None = None,
    truth: Sequence[Sequence[float]] = (),
    cmap: str = "inferno",
    ax: Axes | None = None,
) -> Axes:
    """Show a heatmap over its photo, titled with its prompt; box in cyan, true boxes in white."""
    ax = show_photo(overlay(photo, heat.values, cmap=cmap), ax=ax)
    for true in truth:
        draw_box(true, color=TRUTH_COLOR, ax=ax)
    if box is not None:
        draw_box(box, color=BOX_COLOR, ax=ax)
    ax.set_title(textwrap.fill(f"“{heat.prompt}”{'  (flat)' if heat.flat else ''}", 34))
    return ax


def draw_box(box: Sequence[float], *, color: str = BOX_COLOR, ax: Axes) -> Axes:
    """Draw a half-open (x0, y0, x1, y1) box along the outer edges of its pixels."""
    x0, y0, x1, y1 = box
    for width, shade in ((3.5, "#000000"), (1.8, color)):  # a dark rim is seen on any photo
        patch = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=shade, lw=width)
        ax.add_patch(patch).set_clip_on(False)  # boxes at the photo's edge are seen whole
    return ax


def describe(heats: Sequence[Heatmap]) -> str:
    """One line for captions: methods, channels, weights."""
    ks: dict[tuple[str, str], dict[int, None]] = {}
    for heat in heats:
        ks.setdefault((heat.title, heat.model), {}).update({heat.k: None} if heat.k else {})
    parts = []
    for (title, model), used in ks.items():
        channels = f", k = {', '.join(map(str, used))}" if used else ""
        parts.append(f"{title}{channels} · weights: {model}")
    return "   |   ".join(parts)


def panels(
    photo: np.ndarray[Any, Any],
    heats: Sequence[Heatmap],
    boxes: Sequence[Box | None] | None = None,
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """The photo and its heatmaps side by side, with a line below that names methods and weights.

    titles: above the heatmaps instead of their prompts.
    """
    height, width = photo.shape[:2]
    columns = len(heats) + 1
    side = 3.2
    figure, axes = plt.subplots(
        1,
        columns,
        figsize=(side * columns, side * min(2.0, height / width) + 0.55),
        layout="constrained",
    )
    show_photo(photo, ax=axes[0]).set_title("photo")
    for ax, heat, box in zip(axes[1:], heats, boxes or [None] * len(heats), strict=True):
        show_heatmap(photo, heat, box=box, ax=ax)
    for ax, title in zip(axes[1:], titles or (), strict=False):
        ax.set_title(title)
    figure.supxlabel(describe(heats), fontsize=8.5, color="#555555", x=0.01, ha="left")
    return figure


SHADES = 6  # of 255, from one shade to the next: half the bytes or less, and hardly seen


def as_png(figure: Figure, caption: str = "", *, dpi: float | str = "figure") -> bytes:
    """A figure as PNG in 44 shades of each colour, so that files stay small; its caption inside."""
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as opened:
        pixels = _few_shades(np.asarray(opened.convert("RGB")))
    about = PngInfo()
    about.add_text("Description", caption)
    Image.fromarray(pixels).save(out, "PNG", optimize=True, pnginfo=about)
    return out.getvalue()


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


def save(figure: Figure, name: str, caption: str, *, folder: Path = FOLDER) -> Path:
    """Write a figure as PNG and PDF with its caption inside, and list it in the folder's index.

    The files hold no dates, so the same figure is the same bytes. A figure that is there and looks
    the same, up to rounding on another machine, is left as it is. Returns the PNG's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    pdf = png.with_suffix(".pdf")
    drawn = as_png(figure, caption, dpi=mpl.rcParams["savefig.dpi"])
    if not (png.is_file() and pdf.is_file() and _same_picture(png, drawn)):
        png.write_bytes(drawn)
        with _pdf_of_few_shades():
            figure.savefig(pdf, metadata={"CreationDate": None, "Subject": caption})
    write_index(folder)
    return png


def _same_picture(path: Path, drawn: bytes) -> bool:
    """Whether two PNG files have the same caption, and the same pixels up to one shade."""
    with Image.open(path) as old, Image.open(io.BytesIO(drawn)) as new:
        captions = [picture.info.get("Description") for picture in (old, new)]
        if old.size != new.size or captions[0] != captions[1]:
            return False
        pixels = [np.asarray(picture.convert("RGB"), np.int16) for picture in (old, new)]
    return bool(np.abs(pixels[0] - pixels[1]).max() <= SHADES)


def write_index(folder: Path = FOLDER) -> Path:
    """Write the folder's README.md from the captions inside its PNG files."""
    parts = ["# Figures", "Made by the notebooks (`make figures`); each is there as PDF too."]
    for png in sorted(folder.glob("*.png")):
        with Image.open(png) as opened:
            caption = opened.info.get("Description", "")
        parts.append(f"## {png.stem}\n![{png.stem}]({png.name})\n\n{caption}")
    index = folder / "README.md"
    index.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return index


# ---------------------------------------------------------------- for the notebooks


def grid(
    rows: Sequence[tuple[np.ndarray[Any, Any], Sequence[Heatmap]]],
    boxes: Sequence[Sequence[Box | None]],
    truths: Sequence[Sequence[Sequence[float]]],
    *,
    titles: Sequence[str],
    ious: Sequence[Sequence[float]],
    side: float = 1.75,
) -> Figure:
    """Scenes × methods: each photo with its true boxes (white), then a heatmap for each method.

    rows: (photo, heatmaps) of each scene; boxes: one for each heatmap (cyan), None where there is
    none; truths: the true boxes of each scene; titles: above the columns; ious: below each heatmap,
    bold from 0.5 on.
    """
    height, width = rows[0][0].shape[:2]
    columns = len(rows[0][1]) + 1
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(side * columns, (side * height / width + 0.22) * len(rows) + 0.2),
        layout="constrained",
        squeeze=False,
    )
    for i, (photo, heats) in enumerate(rows):
        show_photo(photo, ax=axes[i, 0])
        for true in truths[i]:
            draw_box(true, color=TRUTH_COLOR, ax=axes[i, 0])
        axes[i, 0].text(0, -0.05, heats[0].prompt, transform=axes[i, 0].transAxes, va="top")
        for ax, heat, box, iou in zip(axes[i, 1:], heats, boxes[i], ious[i], strict=True):
            show_heatmap(photo, heat, box=box, truth=truths[i], ax=ax).set_title("")
            weight = "bold" if iou >= 0.5 else "normal"
            ax.text(0, -0.05, f"IoU {iou:.2f}", transform=ax.transAxes, va="top", weight=weight)
    for ax, title in zip(axes[0], ["scene", *titles], strict=True):
        ax.set_title(title)
    return figure


def gallery(
    scenes: Sequence[tuple[np.ndarray[Any, Any], Sequence[Heatmap]]],
    truths: Sequence[Sequence[Sequence[float]]],
    boxes: Sequence[Sequence[Box | None]],
    *,
    notes: Sequence[Sequence[str]] | None = None,
    grey: Sequence[str] = (),
    columns: int = 7,
    side: float = 1.5,
) -> Figure:
    """Many methods on a few photos: rows of maps, wrapped, each titled with its method.

    scenes: (photo, heatmaps); truths: the true boxes of each (white); boxes: one for each heatmap
    (cyan), None where there is none; notes: below each heatmap; grey: methods whose titles are
    grey, the controls.
    """
    lines = [-(-(len(heats) + 1) // columns) for _, heats in scenes]
    ratios = [
        photo.shape[0] / photo.shape[1] for (photo, _), n in zip(scenes, lines, strict=True)
        for _ in range(n)
    ]  # fmt: skip
    head = 0.42 if notes else 0.26  # inches of text above and below each map
    heights = [side * ratio + head for ratio in ratios]
    figure, axes = plt.subplots(
        sum(lines), columns, figsize=(side * columns, sum(heights)), layout="constrained",
        squeeze=False, gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (photo, heats) in enumerate(scenes):
        first, *rest = axes[sum(lines[:i]) : sum(lines[: i + 1])].flat
        show_photo(photo, ax=first).set_title(f"“{heats[0].prompt}”", fontsize=9.5, weight="bold")
        for true in truths[i]:
            draw_box(true, color=TRUTH_COLOR, ax=first)
        for j, (ax, heat) in enumerate(zip(rest, heats, strict=False)):
            show_heatmap(photo, heat, box=boxes[i][j], truth=truths[i], ax=ax)
            color = "#888888" if heat.method in grey else "#222222"
            ax.set_title(f"{heat.title}{' (flat)' if heat.flat else ''}", fontsize=9.5, color=color)
            if notes:
                ax.text(0, -0.04, notes[i][j], transform=ax.transAxes, va="top", fontsize=8.5)
    return figure


def intervals(
    labels: Sequence[str],
    means: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    highlight: str = "",
    grey: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Means with their intervals as points on lines, the first label on top.

    labels, means, lows, highs: one of each for a row; highlight: the label drawn in another colour;
    grey: labels drawn in grey, the controls.
    """
    ax = plt.subplots(layout="constrained")[1] if ax is None else ax
    for y, (name, mean, low, high) in enumerate(zip(labels, means, lows, highs, strict=True)):
        color = "C4" if name == highlight else "#999999" if name in grey else "C0"
        ax.plot([low, high], [y, y], color=color, lw=2.5, solid_capstyle="round", alpha=0.55)
        ax.plot(mean, y, "o", color=color, ms=7)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.set_axisbelow(True)
    return ax


def verdict(what: str, found: Mapping[str, float]) -> str:
    """One sentence on a paired difference: its mean, its interval, and whether that leaves out 0.

    what: such as "gScoreCAM − Grad-CAM, IoU"; found: difference, low and high, as `gs.compare`
    gives them.
    """
    low, high = found["low"], found["high"]
    if low > 0 or high < 0:
        says = f"the first is {'higher' if low > 0 else 'lower'}, the interval leaves out 0"
    else:
        says = "not decided, the interval includes 0"
    return f"{what}: {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {says}"


def environment(*models: Any) -> str:
    """What a notebook was run with: Python, packages, and the weights of each model."""
    packages = ("torch", "open_clip_torch", "timm", "numpy", "pillow", "scikit-image", "matplotlib")
    parts = [f"{name} {version(name)}" for name in ("gscam_lib", *packages)]
    lines = [f"Python {platform.python_version()}; {', '.join(parts)}"]
    lines += [
        f"{m.name}: {m.channels} channels at '{m.layer.name}', input {m.input_size} px, "
        f"weights {m.weights_sha}"
        for m in models
    ]
    return "\n".join(lines)
