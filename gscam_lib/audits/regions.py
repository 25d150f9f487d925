"""Parts of photos that the reader names: boxes, masks, run lengths, folders of PNG masks, faces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from gscam_lib.datasets import CocoDataset, Example
from gscam_lib.datasets.outlines import draw
from gscam_lib.datasets.tables import read_rows
from gscam_lib.evaluation.metrics import boxes_to_mask
from gscam_lib.paths import expanded

Mask: TypeAlias = np.ndarray[Any, Any]
FACES = "faces"
"""In place of boxes: frontal faces as scikit-image's cascade finds them, right or wrong."""
SMALLEST, LONGEST = 0.08, 480  # of faces, as a share of the photo; pixels in which they are sought


@dataclass(frozen=True)
class Region:
    """A part of one photo. mask: from the upright photo to (H, W) bool; fingerprint: of what."""

    mask: Callable[[Image.Image], Mask]
    fingerprint: str


def from_example(example: Example) -> Region:
    """The boxes or masks of an Example, all instances together."""

    def mask(photo: Image.Image) -> Mask:
        shape = photo.height, photo.width
        outline = example.mask
        if outline is not None and outline.shape == shape:
            return np.asarray(outline, bool)
        return boxes_to_mask(example.boxes, shape)

    return Region(mask, hashlib.sha256(example.fingerprint()).hexdigest())


def read_regions(given: Any, names: Iterable[str]) -> dict[str, dict[str, Region]]:
    """Regions of photos: photo -> name of the region -> Region.

    given: None; a COCO JSON, its categories the names; or name -> one of: photo -> a box (x0, y0,
    x1, y1), several, a (H, W) mask, or a run-length encoding {"size", "counts"}; a folder of PNG
    masks called as the photos; a table or CSV with file, x0, y0, x1, y1; "faces". Photos without
    are left out. Raises ValueError for other forms, and for photos that are not among `names`.
    """
    known = list(names)
    if given is None:
        return {}
    if isinstance(given, str | Path):
        return _of_coco(Path(given), known)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"Got {type(given).__name__} as regions; expected a mapping from the region's name to "
            "its boxes or masks, or a COCO JSON."
        )
    found: dict[str, dict[str, Region]] = {}
    for region, of in given.items():
        for name, one in _of_one(str(region), of, known).items():
            found.setdefault(name, {})[str(region)] = one
    return found


def _of_coco(path: Path, names: list[str]) -> dict[str, dict[str, Region]]:
    path = expanded(path)
    if path.suffix.lower() != ".json" or not path.is_file():
        raise FileNotFoundError(f"No COCO JSON at {path}.")
    found: dict[str, dict[str, Region]] = {}
    short = {Path(n).name: n for n in names}
    for example in CocoDataset(path.parent, path):
        name = short.get(Path(example.file or "").name)
        if name is not None:
            found.setdefault(name, {})[example.category] = from_example(example)
    return found


def _of_one(region: str, given: Any, names: list[str]) -> dict[str, Region]:
    if isinstance(given, str) and given == FACES:
        return {name: Region(find_faces, FACES) for name in names}
    if isinstance(given, str | Path) and expanded(given).is_dir():
        return _in_folder(expanded(given), names)
    if isinstance(given, str | Path):
        _, rows = read_rows(expanded(given), needed=("file", "x0", "y0", "x1", "y1"))
        given = pd.DataFrame([row.cells for row in rows])
    if isinstance(given, pd.DataFrame):
        given = _boxes(region, given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"Got {type(given).__name__} for the region '{region}'; expected photo -> box or mask, "
            "a folder of PNG masks, a table of boxes, or 'faces'."
        )
    strange = [str(name) for name in given if str(name) not in set(names)]
    if strange:
        raise ValueError(
            f"The region '{region}' is of photos that are not among those given: "
            f"{', '.join(strange[:3])}. They are called like {', '.join(names[:2])}."
        )
    return {str(name): _region(region, one) for name, one in given.items()}


def _boxes(region: str, table: pd.DataFrame) -> dict[str, list[tuple[float, ...]]]:
    missing = [c for c in ("file", "x0", "y0", "x1", "y1") if c not in table]
    if missing:
        raise ValueError(f"The table of the region '{region}' has no {', '.join(missing)}.")
    try:
        corners = table[["x0", "y0", "x1", "y1"]].astype(float).to_numpy()
    except ValueError as error:
        raise ValueError(f"A box of the region '{region}' is no number: {error}.") from error
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for name, box in zip(table["file"].astype(str), corners, strict=True):
        boxes.setdefault(name, []).append(tuple(box))
    return boxes


def _region(region: str, given: Any) -> Region:
    if isinstance(given, Mapping):
        runs = dict(given)
        return Region(lambda photo: draw(runs, (photo.height, photo.width)), _hash(repr(runs)))
    values = np.asarray(given)
    if values.ndim == 2 and values.dtype == bool:
        return Region(lambda photo: _fitting(values, photo, region), _hash(values.tobytes()))
    if values.ndim in (1, 2) and values.shape[-1:] == (4,) and values.dtype.kind in "iuf":
        boxes = [tuple(map(float, box)) for box in np.atleast_2d(values)]
        return Region(lambda photo: boxes_to_mask(boxes, (photo.height, photo.width)),
                      _hash(repr(boxes)))  # fmt: skip
    raise ValueError(
        f"Got {type(given).__name__} of shape {values.shape} for the region '{region}'; expected a "
        "box (x0, y0, x1, y1), several, a (H, W) mask of True and False, or a run-length encoding."
    )


def _in_folder(folder: Path, names: list[str]) -> dict[str, Region]:
    found = {}
    for name in names:
        called = Path(name).with_suffix(".png")
        path = next((p for p in (folder / called, folder / called.name) if p.is_file()), None)
        if path is not None:
            found[name] = _png(path)
    if not found:
        raise FileNotFoundError(
            f"No masks in {folder}; expected PNG files called as the photos, such as "
            f"{Path(names[0]).with_suffix('.png')}."
        )
    return found


def _png(path: Path) -> Region:
    def mask(photo: Image.Image) -> Mask:
        with Image.open(path) as opened:
            return _fitting(np.asarray(opened.convert("L")) > 127, photo, path.name)

    return Region(mask, _hash(path.read_bytes()))


def _fitting(mask: Mask, photo: Image.Image, what: str) -> Mask:
    if mask.shape != (photo.height, photo.width):
        raise ValueError(
            f"The mask '{what}' has {mask.shape[1]} × {mask.shape[0]} pixels on a photo of "
            f"{photo.width} × {photo.height}."
        )
    return mask


def _hash(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def find_faces(photo: Image.Image) -> Mask:
    """Frontal faces as scikit-image's cascade finds them, as boxes a quarter larger: (H, W) bool.

    It misses turned, small and covered faces, and takes other things for faces: look at what it
    found, and never rely on it to make a person unknown. Viola and Jones 2001, with local binary
    patterns.
    """
    small = photo.copy()
    small.thumbnail((LONGEST, LONGEST))
    least = max(24, round(SMALLEST * min(small.size)))
    found = _cascade().detect_multi_scale(
        img=np.ascontiguousarray(small), scale_factor=1.15, step_ratio=1,
        min_size=(least, least), max_size=small.size[::-1],
    )  # fmt: skip
    scale = photo.width / small.width
    boxes = [
        (scale * (f["c"] - f["width"] / 8), scale * (f["r"] - f["height"] / 8),
         scale * (f["c"] + 1.125 * f["width"]), scale * (f["r"] + 1.125 * f["height"]))
        for f in found
    ]  # fmt: skip
    return boxes_to_mask(boxes, (photo.height, photo.width))
