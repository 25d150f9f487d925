"""Truth in the pixels of the photo as it is seen: a photo's header against its data set's word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from gscam_lib.boxes import BoxLike
from gscam_lib.datasets.example import Example
from gscam_lib.paths import expanded


@dataclass(frozen=True)
class Header:
    """A photo's stored (width, height) and EXIF orientation, 1 to 8; 1 where it has none."""

    stored: tuple[int, int]
    orientation: int

    @property
    def seen(self) -> tuple[int, int]:
        """Width and height once the photo is upright."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    @property
    def ambiguous(self) -> bool:
        """Whether a size cannot tell pixels as stored from pixels as seen."""
        return self.orientation > 1 and self.stored == self.seen


def header(image: Any) -> Header:
    """Of a path, a PIL image or an array; pixels are not decoded.

    Raises FileNotFoundError, ValueError for what is no photo.
    """
    if isinstance(image, np.ndarray):
        return Header((image.shape[1], image.shape[0]), 1)
    if isinstance(image, Image.Image):
        return _header(image)
    path = expanded(image)
    if not os.path.isfile(path):  # also where no file can have such a name
        raise FileNotFoundError(f"No photo at {path}.")
    try:
        with Image.open(path) as opened:
            return _header(opened)
    except Exception as error:  # a damaged file can break its reader in any way
        raise ValueError(f"{path} cannot be read as a photo ({error}).") from error


def _header(image: Image.Image) -> Header:
    orientation = image.getexif().get(0x0112, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    if orientation > 1 and isinstance(image, TiffImageFile):  # whose size Pillow has turned
        return Header((image.tag_v2[256], image.tag_v2[257]), orientation)
    return Header(image.size, orientation)


def placed(example: Example, seen: tuple[int, int] | None = None) -> Example:
    """The same question with its truth in the pixels of the photo as it is seen.

    Where the data set's size is that of the photo as stored, before EXIF turns it, boxes and mask
    are turned with it. seen: the upright photo's (width, height) where it is known; the header is
    read only where they differ. Raises ValueError where the data set speaks of a photo of another
    size, and FileNotFoundError and ValueError as `header`.
    """
    if example.photo_size is None or example.photo_size == seen:
        return example
    found = header(example.image)
    if wrong := mismatch(example.photo_size, found):
        raise ValueError(f"{example.file or example.image}: {wrong}")
    if example.photo_size == found.seen:
        return example
    boxes = tuple(turn_box(box, found) for box in example.boxes)
    mask = example.mask
    return Example(
        example.image, example.prompt, boxes, example.category, example.image_id, example.source,
        None if mask is None else turn_mask(mask, found.orientation), example.word, found.seen,
        example.file,
    )  # fmt: skip


def mismatch(size: tuple[int, int], found: Header) -> str | None:
    """What is wrong with a data set's (width, height) of a photo; None where it is one of its."""
    if size in (found.seen, found.stored):
        return None
    (width, height), (w, h) = size, found.seen
    how = "they are sizes of different photos"
    if size[::-1] == found.seen:
        how = "width and height are exchanged, and the photo carries no EXIF turn that says so"
    elif abs(width * h - height * w) <= max(width, height, w, h):
        how = f"the photo was resized by {w / width:.3g} since"
    elif abs(width * w - height * h) <= max(width, height, w, h):
        how = f"the photo was turned and resized by {w / height:.3g} since"
    return (
        f"the truth is of {width} × {height} pixels, the photo has {w} × {h}: {how}. Use the "
        "photos that were annotated, or correct boxes and sizes."
    )


def turn_box(box: BoxLike, found: Header) -> BoxLike:
    """A box of the stored pixels in those of the upright photo."""
    (width, height), (x0, y0, x1, y1) = found.stored, box
    if found.orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if found.orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if found.orientation >= 5 else (x0, y0, x1, y1)


def turn_mask(mask: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """A (height, width) mask of the stored pixels in those of the upright photo."""
    if orientation in (2, 3, 7, 8):
        mask = mask[:, ::-1]
    if orientation in (3, 4, 6, 7):
        mask = mask[::-1]
    return np.ascontiguousarray(mask.T if orientation >= 5 else mask)
