"""The bundled evaluation sets, read from disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gscam_lib.paths import SCENES, missing

if TYPE_CHECKING:
    from gscam_lib.datasets import CocoDataset, Example

SETS = ("single", "multi", "typographic", "biases", "parts")


@dataclass(frozen=True)
class Pair:
    """Two scenes that differ in one cue: with it and without it.

    cue: "watermark", "court", "sea", "baggage", or the written word; asked: the name whose logit
    is compared; present: whether that object is in the scene.
    """

    cue: str
    asked: str
    present: bool
    with_cue: Path
    without_cue: Path


def folder(name: str) -> Path:
    """Return the folder of a bundled set. Errors: ValueError, FileNotFoundError."""
    if name not in SETS:
        raise ValueError(f"no bundled set {name!r}; there are: {', '.join(SETS)}")
    path = SCENES / name
    if not (path / "instances.json").exists():
        raise FileNotFoundError(
            f"no instances.json in {path}; write the sets with: python -m data.build.sets."
            f"{missing()}"
        )
    return path


def content(name: str) -> dict[str, Any]:
    """Return instances.json of a set as it is: COCO's fields, labels, captions and cues."""
    read: dict[str, Any] = json.loads((folder(name) / "instances.json").read_text())
    return read


def load(name: str) -> CocoDataset:
    """Return the Examples of a bundled set, one for each pair of an image and a name in it.

    name: one of SETS. Boxes are half-open pixels, masks (H, W) of visible pixels.
    Errors: ValueError for another name, FileNotFoundError where the sets were not written.
    """
    from gscam_lib.datasets import CocoDataset

    path = folder(name)
    return CocoDataset(path / "images", path / "instances.json", name=f"scenes/{name}")


def written(name: str) -> list[Example]:
    """Return one Example for each written label of a set: its prompt is the word, no mask."""
    from gscam_lib.datasets import Example

    read, path = content(name), folder(name)
    files = {image["id"]: path / "images" / image["file_name"] for image in read["images"]}
    return [
        Example(
            image=files[label["image_id"]], prompt=label["text"], boxes=(_corners(label["bbox"]),),
            category=label["text"], image_id=str(label["image_id"]), source=f"scenes/{name}/labels",
        )
        for label in read["labels"]
    ]  # fmt: skip


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    return x, y, x + w, y + h


def pairs(name: str) -> list[Pair]:
    """Return the pairs of scenes with and without a cue, of `typographic` or `biases`."""
    read, path = content(name), folder(name)
    if "pairs" not in read:
        raise ValueError(f"the set {name!r} has no pairs; 'typographic' and 'biases' have")
    files = {image["id"]: path / "images" / image["file_name"] for image in read["images"]}
    return [
        Pair(pair["cue"], pair["asked"], pair["present"], files[pair["with"]],
             files[pair["without"]])
        for pair in read["pairs"]
    ]  # fmt: skip
