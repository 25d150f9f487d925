"""Parts of photos that the reader names: boxes, masks, run lengths, folders of PNG masks, faces."""

from __future__ import annotations

import copy
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from gscam_lib.audits.files import match, some
from gscam_lib.datasets import CocoDataset, Example
from gscam_lib.datasets.outlines import draw
from gscam_lib.datasets.placement import placed
from gscam_lib.datasets.tables import read_rows
from gscam_lib.evaluation.measures import check_truth
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


def from_example(example: Example, image: Any = None) -> Region:
    """The boxes or masks of an Example, all instances together, placed as `evaluate` places them.

    image: the photo, where it is not the Example's own. The mask raises ValueError where the truth
    is of another size than the photo, or a box lies outside it.
    """
    if image is not None:
        example = copy.copy(example)  # not replace(): a mask that is decoded when asked stays so
        object.__setattr__(example, "image", image)

    def mask(photo: Image.Image) -> Mask:
        there = placed(example, photo.size)
        outline = there.mask
        if outline is None:
            return _in_photo(there, photo)
        return _fitting(np.asarray(outline, bool), photo, example.category)

    # "upright": rows that were measured when the truth was not yet turned are not taken for these
    return Region(mask, hashlib.sha256(b"upright" + example.fingerprint()).hexdigest())


def _in_photo(example: Example, photo: Image.Image) -> Mask:
    check_truth(example, photo.size)
    return boxes_to_mask(example.boxes, (photo.height, photo.width))


def read_regions(
    given: Any, photos: Mapping[str, Any] | Iterable[str], notes: list[str] | None = None
) -> dict[str, dict[str, Region]]:
    """Regions of photos: photo -> name of the region -> Region.

    given: None; a COCO JSON, its categories the names; or name -> one of: photo -> a box (x0, y0,
    x1, y1), several, a (H, W) mask, or a run-length encoding {"size", "counts"}; a folder of PNG
    masks called as the photos; a table or CSV with file, x0, y0, x1, y1; "faces". Photos without
    are left out. photos: their names, and what each is read from where that is known; notes: takes
    sentences on what is left out. Raises ValueError for other forms, for boxes that are none, and
    for photos that are not among `photos`.
    """
    known = dict(photos) if isinstance(photos, Mapping) else dict.fromkeys(photos)
    if given is None:
        return {}
    if isinstance(given, str | Path):
        return _of_coco(expanded(given), known, [] if notes is None else notes)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"Got {type(given).__name__} as regions; expected a mapping from the region's name to "
            "its boxes or masks, or a COCO JSON."
        )
    found: dict[str, dict[str, Region]] = {}
    for region, of in given.items():
        for name, one in _of_one(str(region), of, list(known)).items():
            found.setdefault(name, {})[str(region)] = one
    return found


def _of_coco(
    path: Path, photos: Mapping[str, Any], notes: list[str]
) -> dict[str, dict[str, Region]]:
    if path.suffix.lower() != ".json" or not path.is_file():
        raise FileNotFoundError(f"No COCO JSON at {path}.")
    dataset = CocoDataset(path.parent, path)
    called = dict.fromkeys(str(example.file) for example in dataset)
    if not called:
        why = " ".join(map(str, dataset.findings))
        raise ValueError(f"{path} has no annotation that is a region. {why}".rstrip())
    photo_of = match(called, photos, str(path))
    lost = [name for name in called if name not in photo_of]
    if not photo_of:
        raise ValueError(
            f"{path} has regions on {len(called)} images, none of them among the photos: "
            f"{some(lost)}. The photos are called like {some(list(photos), 2)}."
        )
    notes += [f"{path.name}: {finding}" for finding in dataset.findings]
    if lost:
        notes.append(f"{path.name}: {len(lost)} of {len(called)} images are none of the photos, "
                     f"so their regions are left out: {some(lost)}.")  # fmt: skip
    found: dict[str, dict[str, Region]] = {}
    for example in dataset:
        if name := photo_of.get(str(example.file)):
            found.setdefault(name, {})[example.category] = from_example(example, photos[name])
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
    return {str(name): _region(region, str(name), one) for name, one in given.items()}


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


def _region(region: str, file: str, given: Any) -> Region:
    if isinstance(given, Mapping):
        runs = dict(given)
        return Region(lambda photo: draw(runs, (photo.height, photo.width)), _hash(repr(runs)))
    values = np.asarray(given)
    if values.ndim == 2 and values.dtype == bool:
        return Region(lambda photo: _fitting(values, photo, region), _hash(values.tobytes()))
    boxed = values.size and values.ndim <= 2 and values.shape[-1:] == (4,)
    if boxed and values.dtype.kind in "iuf":
        boxes = tuple(_box(region, file, box) for box in np.atleast_2d(values).tolist())
        about = Example(Path(file), region, boxes, region, file, "regions")
        return Region(lambda photo: _in_photo(about, photo), _hash(repr(list(boxes))))
    raise ValueError(
        f"Got {given!r:.60} ({type(given).__name__} of shape {values.shape}) for the region "
        f"'{region}' of {file}; expected a box (x0, y0, x1, y1), several, a (H, W) mask of True "
        "and False, or a run-length encoding. Leave out photos that have none."
    )


def _box(region: str, file: str, box: Iterable[float]) -> tuple[float, float, float, float]:
    """A box of numbers, or ValueError for one that can be none on any photo."""
    x0, y0, x1, y1 = map(float, box)
    wrong = ""
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        wrong = "is not finite"
    elif x1 <= x0 or y1 <= y0:
        wrong = "has no area"
    elif max(x1, y1) <= 1:
        wrong = "is in shares of the photo"
    if wrong:
        raise ValueError(
            f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) of the region '{region}' of {file} {wrong}; "
            "expected x0 < x1 and y0 < y1, in pixels. Correct it, or leave the photo out."
        )
    return x0, y0, x1, y1


def _in_folder(folder: Path, names: list[str]) -> dict[str, Region]:
    """Masks by the photos' whole names, or by their ends where one photo alone ends so."""
    photos_of: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        called = Path(name).with_suffix(".png")
        parts = [part for part in called.parts if part not in (called.anchor, "..")]
        ends = (folder.joinpath(*parts[i:]) for i in range(len(parts)))
        path = next((p for p in ends if p.is_file()), None)
        if path is not None:
            photos_of[path].append(name)
    if shared := next(((p, of) for p, of in photos_of.items() if len(of) > 1), None):
        path, of = shared
        raise ValueError(
            f"The mask {path} may be of {some(of)}; put masks into folders as the photos are, such "
            f"as {Path(of[0]).with_suffix('.png')}."
        )
    if not photos_of:
        raise FileNotFoundError(
            f"No masks in {folder}; expected PNG files called as the photos, such as "
            f"{Path(names[0]).with_suffix('.png')}."
        )
    return {name: _png(path) for path, (name,) in photos_of.items()}


def _png(path: Path) -> Region:
    def mask(photo: Image.Image) -> Mask:
        with Image.open(path) as opened:
            return _fitting(_read_mask(opened, path), photo, path.name)

    return Region(mask, _hash(path.read_bytes()))


def _read_mask(opened: Image.Image, path: Path) -> Mask:
    """What is bright, or what is opaque where parts are transparent: (H, W) bool.

    Masks of two values, such as 0 and 1, are read as such. Raises ValueError for several dark ones.
    """
    if "A" in opened.mode or "transparency" in opened.info:
        alpha = np.asarray(opened.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return np.asarray(alpha > 127)
    grey = np.asarray(opened.convert("L"))
    if grey.max() > 127:
        return np.asarray(grey > 127)
    values = np.unique(grey)
    if len(values) > 2:
        raise ValueError(
            f"The mask {path} has the values {', '.join(map(str, values[:4]))} …, none of them "
            "bright; expected 0 and 255, or 0 and 1. Write a mask for each thing."
        )
    return np.asarray((grey == values[-1]) & (grey > 0))


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
