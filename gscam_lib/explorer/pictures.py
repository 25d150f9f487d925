"""Pictures of maps as PNG bytes, with Pillow alone: fit for any thread."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from gscam_lib.boxes import hot_pixels
from gscam_lib.figures import BOX_COLOR, TRUTH_COLOR, overlay

Array = np.ndarray[Any, Any]
CONTOUR_COLOR = "#FFD34D"
SIDE = 420  # pixels of a picture's longer side


def colors() -> tuple[float, ...]:
    """The colour map of overlays: red, green, blue of 256 steps, 0 to 255."""
    shades = 255 * mpl.colormaps["inferno"](range(256))[:, :3]
    return tuple(float(v) for v in shades.round(3).ravel())


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes, packed quickly rather than tightly."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1, compress_type=3)  # runs: smaller, as quick
    return stream.getvalue()


def reduced(photo: Image.Image, longest: int) -> Image.Image:
    """A copy of a photo whose longer side is at most `longest` pixels."""
    copy = photo.copy()
    copy.thumbnail((longest, longest))
    return copy


def small(values: Array, longest: int) -> tuple[tuple[int, int], bytes]:
    """A map in [0, 1] reduced for the screen: its shape (h, w), and its values as bytes."""
    height, width = values.shape
    share = min(1.0, longest / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    resized = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    return size[::-1], np.rint(255 * np.asarray(resized)).astype(np.uint8).tobytes()


def outlines(hot: Array, scale: float = 1) -> tuple[tuple[float, ...], ...]:
    """Lines around hot pixels: x, y, x, y, … each, times `scale`."""
    lines = find_contours(np.pad(hot, 1).astype(np.float32), 0.5)
    return tuple(
        tuple(round((v - 0.5) * scale, 1) for y, x in line for v in (x, y)) for line in lines
    )


def draw(
    photo: Array,
    values: Array,
    *,
    opacity: float = 0.75,
    box: Sequence[float] | None = None,
    truth: Sequence[Sequence[float]] = (),
    contour: str | float | None = None,
) -> Image.Image:
    """Lay a map over its photo, with boxes and the outline of what is hot.

    photo: (H, W, 3) uint8; values: (H, W) in [0, 1]; contour: a threshold as in `hot_pixels`.
    """
    mixed = Image.fromarray(overlay(photo, values, opacity=opacity))
    scale = SIDE / max(mixed.size)
    size = (max(1, round(mixed.width * scale)), max(1, round(mixed.height * scale)))
    picture = mixed.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    if contour is not None:
        for points in outlines(hot_pixels(values, contour), scale):
            pen.line(points, fill="#000000", width=4, joint="curve")
            pen.line(points, fill=CONTOUR_COLOR, width=2, joint="curve")
    for true in truth:
        _rectangle(pen, true, scale, TRUTH_COLOR, dash=6)  # tells it from the box in grey too
    if box is not None:
        _rectangle(pen, box, scale, BOX_COLOR)
    return picture


def _rectangle(
    pen: ImageDraw.ImageDraw, box: Sequence[float], scale: float, color: str, dash: int = 0
) -> None:
    """A rectangle on a dark rim; dash: length of its dashes and gaps, 0 for a whole line."""
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    x1, y1 = max(x1 - 1, x0 + 1), max(y1 - 1, y0 + 1)
    pen.rectangle((x0, y0, x1, y1), outline="#000000", width=4)
    inner = (x0 + 1, y0 + 1, max(x1 - 1, x0 + 1), max(y1 - 1, y0 + 1))
    if not dash:
        pen.rectangle(inner, outline=color, width=2)
        return
    x0, y0, x1, y1 = inner
    for x in range(x0, x1, 2 * dash):
        for y in (y0, y1 - 1):
            pen.rectangle((x, y, min(x + dash, x1), y + 1), fill=color)
    for y in range(y0, y1, 2 * dash):
        for x in (x0, x1 - 1):
            pen.rectangle((x, y, x + 1, min(y + dash, y1)), fill=color)


def mask_picture(photo: Array, mask: Array, *, side: int) -> Image.Image:
    """A photo seen through one channel's mask: (S, S) in [0, 1], stretched to the photo."""
    height, width = photo.shape[:2]
    grey = Image.fromarray((255 * mask).round().astype(np.uint8)).resize((width, height))
    seen = np.asarray(grey, np.float32)[..., None] / 255
    color = 255 * mpl.colormaps["inferno"](seen[..., 0])[..., :3]
    blend = 0.45 * photo * seen + 0.55 * color + 0.15 * photo * (1 - seen)
    picture = Image.fromarray(blend.clip(0, 255).astype(np.uint8))
    scale = side / max(width, height)
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))))


def sheet(pictures: Sequence[tuple[str, bytes]], columns: int) -> Image.Image:
    """Pictures with their captions on one white sheet, as many to a row as `columns`."""
    opened = [(text, Image.open(io.BytesIO(content))) for text, content in pictures]
    wide, high = max(p.width for _, p in opened), max(p.height for _, p in opened) + 44
    gap, rows = 16, -(-len(opened) // columns)
    page = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + gap) + gap), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 14)
    for i, (text, picture) in enumerate(opened):
        x, y = gap + i % columns * (wide + gap), gap + i // columns * (high + gap)
        pen.multiline_text((x, y), text, fill="#222222", font=font)
        page.paste(picture, (x, y + 44))
    return page
