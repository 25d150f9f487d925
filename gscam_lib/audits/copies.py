"""Copies of a photo with a part covered, kept alone or cut out. Knows pixels, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.restoration import inpaint_biharmonic

from gscam_lib.typography import cover

Array = np.ndarray[Any, Any]
SHAPES = ((0.34, 0.34, 3, 3), (0.2, 0.6, 5, 2), (0.6, 0.2, 2, 5))
"""Windows: height and width as shares of the photo, and how many stand in a column and in a row.

Squares, and lying and standing ones for what is written and for what is slender; 12 % of the photo
each, so that any is a control for any other.
"""
FILLS = ("mean", "blur", "inpaint")
"""What covers a part: the photo's mean colour; itself, blurred; what its rim suggests."""
BLUR = 0.12  # σ of the blur, as a share of the photo's side: nothing can be read or recognised
COARSE = 56  # pixels of a side in which a part is painted in: smooth, so no more are needed
HALF = 0.5  # of the photo: a larger part has no place elsewhere to be compared with


def windows() -> Array:
    """Equally large windows that cover a photo, overlapping: (29, 4) x0, y0, x1, y1 as shares."""
    return np.array(
        [
            (left, top, left + wide, top + high)
            for high, wide, rows, columns in SHAPES
            for top in np.linspace(0, 1 - high, rows)
            for left in np.linspace(0, 1 - wide, columns)
        ]
    )


WINDOWS = len(windows())


def window_masks(rows: int, columns: int) -> Array:
    """The windows as masks: (29, rows, columns) bool."""
    corners = (windows() * (columns, rows, columns, rows)).round().astype(int)
    masks = np.zeros((WINDOWS, rows, columns), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def apart() -> Array:
    """For each window, which others are its controls, as weights that sum to 1: (29, 29).

    All that share nothing with it: equally large parts at other places.
    """
    masks = window_masks(100, 100).reshape(WINDOWS, -1).astype(np.float32)
    free = masks @ masks.T == 0
    return np.asarray(free / free.sum(1, keepdims=True))


def covered(image: Array, masks: Sequence[Array], how: str) -> list[Array]:
    """Copies of a photo, each with a part covered: (H, W, 3) uint8; how: one of FILLS.

    Raises ValueError for another fill.
    """
    if how not in FILLS:
        raise ValueError(f"Got the fill {how!r}; expected some of {', '.join(FILLS)}.")
    if how == "mean":
        return [cover(image, mask.astype(np.float32)) for mask in masks]
    if how == "inpaint":
        return [np.where(mask[..., None], _painted_in(image, mask), image) for mask in masks]
    side = BLUR * max(image.shape[:2])
    soft = gaussian_filter(image.astype(np.float32), (side, side, 0), mode="nearest")
    blurred = soft.round().astype(np.uint8)
    return [np.where(mask[..., None], blurred, image) for mask in masks]


def _painted_in(image: Array, mask: Array) -> Array:
    """The photo with a hole filled from its rim, smoothly (biharmonic): (H, W, 3) uint8."""
    size = (min(COARSE, image.shape[1]), min(COARSE, image.shape[0]))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), float) / 255
    hole = np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX)) > 0
    if hole.all():
        return cover(image, mask.astype(np.float32))
    filled = inpaint_biharmonic(small, hole, channel_axis=-1)
    planes = [
        np.asarray(Image.fromarray((255 * filled[..., c]).astype(np.float32)).resize(
            image.shape[1::-1], Image.Resampling.BILINEAR))
        for c in range(3)
    ]  # fmt: skip
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


def cut(photo: Image.Image, box: Sequence[float]) -> Image.Image:
    """A window of the photo alone; box: as shares of its width and height."""
    x0, y0, x1, y1 = box
    corners = (x0 * photo.width, y0 * photo.height, x1 * photo.width, y1 * photo.height)
    left, top, right, bottom = (round(v) for v in corners)
    return photo.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def elsewhere(mask: Array, count: int) -> list[Array]:
    """The same shape at other places in the frame, which share least with it: masks (H, W) bool.

    None where the shape fills more than half of the photo, or its frame all of it.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size or mask.mean() > HALF:
        return []
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down, across = mask.shape[0] - shape.shape[0], mask.shape[1] - shape.shape[1]
    rng = np.random.default_rng(0)
    tried: list[tuple[float, int, Array]] = []
    for _ in range(8 * count):
        top, left = int(rng.integers(down + 1)), int(rng.integers(across + 1))
        other = np.zeros_like(mask)
        other[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        tried.append(((other & mask).sum() / mask.sum(), len(tried), other))
    good = sorted(tried, key=lambda t: t[:2])[:count]
    return [other for overlap, _, other in good if overlap <= HALF]
