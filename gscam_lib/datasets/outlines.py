"""Outlines of a COCO file, left where they are until asked for; validated before they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as run_lengths

Mask = np.ndarray[Any, Any]
_USUAL = msgspec.json.Decoder(list[list[float]])
MOST_PIXELS = 1 << 30  # of one photo; a wrong size in a file must not take all memory


class OutlineError(ValueError):
    """A segmentation that cannot be drawn."""


@dataclass(frozen=True)
class Outlines:
    """Segmentations of one image and class: where they lie in the file, and their hashes.

    size: (height, width) of the image as the file says; spans: (start, length) in bytes; places:
    of their annotations in the file's list.
    """

    file: Path
    size: tuple[int, int]
    spans: tuple[tuple[int, int], ...]
    hashes: bytes
    places: tuple[int, ...]

    def decode(self) -> Mask:
        """All of them together: (H, W) bool. Raises ValueError naming the faulty annotation."""
        height, width = self.size
        if height * width > MOST_PIXELS:
            raise OutlineError(f"{self.file}: an image of {width} × {height} pixels is too large.")
        whole = np.zeros(self.size, bool)
        for i, outline in enumerate(self.read()):
            try:
                whole |= draw(outline, self.size)
            except OutlineError as error:
                raise self._named(i, error) from error
        return whole

    def _named(self, i: int, error: OutlineError) -> OutlineError:
        return OutlineError(f"{self.file}, annotations[{self.places[i]}]: {error}")

    def read(self) -> Iterator[Any]:
        """The segmentations as the file has them.

        Raises ValueError where the file has changed, or one cannot be read.
        """
        with self.file.open("rb") as opened:
            for i, (start, length) in enumerate(self.spans):
                opened.seek(start)
                found = opened.read(length)
                if digest(found) != self.hashes[16 * i : 16 * (i + 1)]:
                    raise ValueError(f"{self.file} has changed since it was read; read it again.")
                try:
                    yield _parsed(found)
                except OutlineError as error:
                    raise self._named(i, error) from error


def digest(outline: Any) -> bytes:
    """Of a segmentation's bytes: 16 bytes."""
    return blake2b(outline, digest_size=16).digest()


def draw(outline: Any, size: tuple[int, int]) -> Mask:
    """A segmentation as JSON has it, polygons or run lengths of two kinds: (H, W) bool.

    A flat list counts as one polygon, pairs of numbers as points; polygons of less than three
    points have no area and are passed over beside others that have. Raises OutlineError.
    """
    if isinstance(outline, dict):
        runs = _runs(outline, size)
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")
    polygons = _polygons(outline, size)
    drawn = run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(polygons, *size)))
    return np.asarray(drawn > 0)


def check(outline: bytes | memoryview, size: tuple[int, int]) -> str | None:
    """What `draw` would say of a segmentation's bytes, without drawing; None for nothing."""
    low, high = _reach(size)
    with suppress(msgspec.ValidationError):  # not plain polygons: the long way
        usual = _USUAL.decode(outline)
        if usual and all(
            len(p) >= 6 and not len(p) % 2 and low <= min(p) and max(p) <= high for p in usual
        ):
            return None
    try:
        found = _parsed(outline)
        _runs(found, size) if isinstance(found, dict) else _polygons(found, size)
    except OutlineError as error:
        return str(error)
    return None


def _parsed(outline: bytes | memoryview) -> Any:
    try:
        return msgspec.json.decode(outline)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # a string is read here first
        raise OutlineError(
            f"its segmentation cannot be read ({error}); save it as UTF-8."
        ) from error


def _polygons(outline: Any, size: tuple[int, int]) -> list[list[float]]:
    if not isinstance(outline, list):
        raise OutlineError(f"its segmentation is {_short(outline)}; expected polygons or an RLE.")
    flat = outline and not isinstance(outline[0], list)
    polygons = [_polygon(polygon, size) for polygon in ([outline] if flat else outline)]
    with_area = [polygon for polygon in polygons if len(polygon) >= 6]
    if not with_area:
        raise OutlineError("none of its polygons has three points, so it has no area.")
    return with_area


def _polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    if isinstance(polygon, list) and polygon and isinstance(polygon[0], list):
        if any(not isinstance(point, list) or len(point) != 2 for point in polygon):
            raise OutlineError(f"the points of {_short(polygon)} are not pairs of numbers.")
        polygon = [value for point in polygon for value in point]
    if not isinstance(polygon, list) or any(type(value) not in (int, float) for value in polygon):
        raise OutlineError(f"its polygon {_short(polygon)} is not a list of numbers.")
    if len(polygon) % 2:
        raise OutlineError(f"its polygon has {len(polygon)} numbers; expected x and y in turn.")
    low, high = _reach(size)
    if far := [value for value in polygon if not low <= value <= high]:
        raise OutlineError(
            f"its polygon reaches {far[0]}, far outside {size[1]} × {size[0]} pixels."
        )
    return polygon


def _reach(size: tuple[int, int]) -> tuple[int, int]:
    """How far a polygon may go: pycocotools takes memory for every pixel of its edge."""
    return -2 * max(size), 4 * max(size)


def _runs(outline: dict[str, Any], size: tuple[int, int]) -> list[int]:
    """Run lengths of an RLE, after checks without which pycocotools writes beyond its array."""
    counts, given = outline.get("counts"), outline.get("size")
    if given != list(size):
        raise OutlineError(
            f"its RLE is of size {_short(given)}, but its image of {list(size)} (height, width)."
        )
    runs = _letters(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(type(run) is not int or run < 0 for run in runs):
        raise OutlineError(f"the counts {_short(counts)} of its RLE are no run lengths.")
    if sum(runs) != size[0] * size[1]:
        raise OutlineError(
            f"the counts of its RLE cover {sum(runs)} pixels, but its image has "
            f"{size[0] * size[1]} ({size[1]} × {size[0]})."
        )
    return runs


def _letters(counts: str) -> list[int]:
    """Run lengths of COCO's compressed text: 5 bits a letter, differences from the last but one."""
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise OutlineError(f"the counts {_short(counts)} of its RLE are no run lengths.")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise OutlineError(f"the counts {_short(counts)} of its RLE end within a number.")
    return runs


def to_rle(mask: Mask) -> dict[str, Any]:
    """A (H, W) bool mask in COCO's compressed run lengths: {"size": [H, W], "counts": str}."""
    found: dict[str, Any] = run_lengths.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
