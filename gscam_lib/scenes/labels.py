"""Written labels: paper notes and bare text."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS: tuple[str, ...] = (  # all come with matplotlib
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic", "STIXGeneralItalic", "STIXGeneralBolIta", "STIXGeneralBol",
    "cmb10", "cmr10", "cmss10", "cmti10",
)  # fmt: skip

HEIGHT = 40  # pixels of the rendered text before it is scaled into a scene
PAPERS = ((252, 252, 248), (255, 244, 150), (250, 214, 222), (214, 236, 250), (222, 200, 160))
INKS = ((20, 20, 24), (30, 50, 120), (170, 24, 30), (20, 90, 50), (90, 40, 110))


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib  # only labels need it, and it is slow to import

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), HEIGHT)


@lru_cache(maxsize=20_000)
def text_mask(text: str, font: str) -> Image.Image:
    """Return the ink of `text` as a tight greyscale image (mode L)."""
    face, gap, x = _font(font), HEIGHT // 3, 0
    canvas = Image.new("L", (HEIGHT * (len(text) + 2), HEIGHT * 2))
    draw = ImageDraw.Draw(canvas)
    for word in text.split(" "):  # Computer Modern has no space
        draw.text((x + 6, 8), word, font=face, fill=255)
        x += round(face.getlength(word)) + gap
    return canvas.crop(canvas.getbbox())


def _as_written(word: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.45:
        return word
    return word.upper() if draw < 0.75 else word[0].upper() + word[1:]


def label_patch(word: str, rng: np.random.Generator, fonts: tuple[str, ...] = FONTS,
                paper: bool | None = None) -> Image.Image:  # fmt: skip
    """Return `word` written on a paper note or as bare text: RGBA, tight, unscaled."""
    ink = text_mask(_as_written(word, rng), fonts[int(rng.integers(len(fonts)))])
    on_paper = bool(rng.random() < 0.65) if paper is None else paper
    colour = INKS[int(rng.integers(len(INKS)))]
    if on_paper:
        pad_x, pad_y = (int(p) for p in rng.integers([8, 6], [22, 20]))
        sheet = PAPERS[int(rng.integers(len(PAPERS)))]
        if rng.random() < 0.15:  # chalk on a board
            sheet, colour = (40, 60, 56), (240, 240, 232)
        patch = Image.new("RGBA", (ink.width + 2 * pad_x, ink.height + 2 * pad_y), (*sheet, 255))
        patch.paste(colour, (pad_x, pad_y), ink)
        ImageDraw.Draw(patch).line(
            [(0, patch.height - 1), (patch.width, patch.height - 1)], fill=(0, 0, 0, 70), width=2
        )
        return patch
    if rng.random() < 0.5:
        colour = (250, 250, 246)
    # bare text keeps a soft rim of the opposite tone, as on packaging
    rim = (20, 20, 20) if sum(colour) > 380 else (250, 250, 246)
    edge = Image.new("L", (ink.width + 8, ink.height + 8))
    for dx, dy in ((1, 4), (7, 4), (4, 1), (4, 7)):
        edge.paste(255, (dx, dy), ink)
    patch = Image.new("RGBA", edge.size, (*rim, 0))
    patch.putalpha(edge)
    patch.paste((*colour, 255), (4, 4), ink)
    return patch
