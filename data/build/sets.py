"""Write the evaluation sets: python -m data.build.sets.

All objects are in the style that no training image shows, all words in fonts kept out of training.
The same versions of NumPy, Pillow and matplotlib give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import typer
from pycocotools import mask as rle

from data.build.parts import PARTS, parts_of
from data.build.world import HELD_OUT_FONTS, Picture, picture
from gscam_lib.paths import SCENES
from gscam_lib.scenes import NAMES, UNSEEN_STYLE, Look, Scene, compose
from gscam_lib.scenes.shortcuts import BAGGAGE

SEED, SIZE, QUALITY = 2022, 224, 82
# No court, no sea: the planted biases do not help here.
NEUTRAL = ("room", "street", "clay", "snow", "beach", "table", "grass", "desert", "night", "plain")
PLAIN = Look(style=UNSEEN_STYLE, fonts=HELD_OUT_FONTS, min_visible=0.5)
STUCK = replace(PLAIN, min_visible=0.0, label_width=(0.45, 0.7))
PAIRS = 20  # of scenes for each bias, with its object and as many without


@dataclass(frozen=True)
class Shot:
    """What one evaluation image shows; the two of a pair share their key."""

    objects: tuple[str, ...]
    key: tuple[int, ...]
    background: str
    look: Look = PLAIN
    labels: tuple[str, ...] = ()
    watermark: bool = False
    pair: dict[str, Any] = field(default_factory=dict)

    def picture(self) -> Picture:
        """Compose the shot."""
        scene = compose(self.objects, labels=self.labels, background=self.background,
                        seed=[SEED, *self.key], size=SIZE, look=self.look)  # fmt: skip
        return picture(scene, watermark=self.watermark)


def single() -> Iterator[Shot]:
    """Every name four times, alone."""
    for i, name in enumerate(NAMES):
        for j in range(4):
            yield Shot((name,), (1, i, j), NEUTRAL[(i + 3 * j) % len(NEUTRAL)])


def multi(count: int = 300) -> Iterator[Shot]:
    """Scenes of three to six different objects."""
    rng = np.random.default_rng([SEED, 2])
    for i in range(count):
        names = tuple(str(name) for name in rng.choice(NAMES, 3 + i % 4, replace=False))
        yield Shot(names, (2, i), NEUTRAL[i % len(NEUTRAL)])


def typographic() -> Iterator[Shot]:
    """Every object under two written words, each with its unlabelled twin; then words alone."""
    rng = np.random.default_rng([SEED, 3])
    for j in range(2):
        words = [str(name) for name in rng.permutation(NAMES)]
        for i, name in enumerate(NAMES):
            word = words[i] if words[i] != name else words[i - 1]
            if name == "apple" and j == 0:
                word = "iPod"  # the attack of Goh et al. 2021
            yield from _attacked(name, word, (3, j, i), NEUTRAL[(i + 5 * j) % len(NEUTRAL)])
    for j in range(2):
        for i, word in enumerate(NAMES):
            yield Shot((), (3, 2 + j, i), NEUTRAL[(i + j) % len(NEUTRAL)], labels=(word,),
                       look=replace(PLAIN, label_width=(0.6, 0.95), labels_on=False))  # fmt: skip


def _attacked(name: str, word: str, key: tuple[int, ...], background: str) -> Iterator[Shot]:
    """Yield a labelled scene and its twin, of the first seed that leaves the object in sight."""
    for attempt in range(50):
        shot = Shot((name,), (*key, attempt), background, look=STUCK, labels=(word,))
        if shot.picture().scene.objects[0].visible >= 0.45:
            break
    pair = {"cue": word, "asked": name, "present": True}
    yield replace(shot, pair=pair)
    yield replace(shot, labels=(), pair=pair)


def biases() -> Iterator[Shot]:
    """Every planted bias: scenes with and without its cue, with and without its object."""
    rng = np.random.default_rng([SEED, 4])
    cues = (("watermark", "horse"), ("court", "tennis racket"), ("sea", "boat"),
            (BAGGAGE, "suitcase"))  # fmt: skip
    for b, (cue, asked) in enumerate(cues):
        others = [name for name in NAMES if name != asked]
        for present in (True, False):
            for i in range(PAIRS):
                name = asked if present else str(rng.choice(others))
                plain = Shot((name,), (4, b, int(present), i), NEUTRAL[i % len(NEUTRAL)], STUCK,
                             pair={"cue": cue, "asked": asked, "present": present})  # fmt: skip
                yield _with_cue(plain, cue)
                yield plain


def _with_cue(shot: Shot, cue: str) -> Shot:
    if cue == "watermark":
        return replace(shot, watermark=True)
    return replace(shot, labels=(BAGGAGE,)) if cue == BAGGAGE else replace(shot, background=cue)


def parts() -> Iterator[Shot]:
    """Objects whose parts are known, alone or beside another."""
    rng = np.random.default_rng([SEED, 5])
    for i, name in enumerate(PARTS):
        others = [other for other in PARTS if other != name]
        for j in range(6):
            names = (name, str(rng.choice(others))) if j % 2 else (name,)
            look = replace(PLAIN, scale=(0.5, 0.75) if len(names) == 1 else None)
            yield Shot(names, (5, i, j), NEUTRAL[(i + j) % len(NEUTRAL)], look=look)


BUILDERS = MappingProxyType(
    {"single": single, "multi": multi, "typographic": typographic, "biases": biases,
     "parts": parts}
)  # fmt: skip


def _mask_fields(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return COCO's bbox (x, y, w, h), area and compressed RLE of a mask."""
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": [int(v) for v in rle.toBbox(code)], "area": int(rle.area(code)), "iscrowd": 0,
        "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode()},
    }  # fmt: skip


def _annotations(scene: Scene, of_parts: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the category name and the mask's fields of all objects, or of all their parts."""
    for thing in scene.objects:
        if of_parts:
            for part, mask in parts_of(thing).items():
                if mask.any():
                    yield f"{thing.name} {part}", _mask_fields(mask)
        else:
            yield thing.name, {**_mask_fields(thing.mask), "visible": round(thing.visible, 3)}


def categories(of_parts: bool) -> list[dict[str, Any]]:
    """Return COCO's categories: the 81 names, or, as in PartImageNet, the parts of objects."""
    if not of_parts:
        return [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(NAMES)]
    named = [(f"{name} {part}", name) for name, known in PARTS.items() for part, _ in known]
    return [{"id": i, "name": part, "supercategory": of} for i, (part, of) in enumerate(named)]


def write_set(name: str, folder: Path, limit: int | None = None) -> int:
    """Write a set's images and instances.json into `folder`; return the number of images.

    limit: only the first so many. Errors: ValueError for a set that does not exist.
    """
    if name not in BUILDERS:
        raise ValueError(f"no set {name!r}; there are: {', '.join(BUILDERS)}")
    builder: Callable[[], Iterator[Shot]] = BUILDERS[name]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    of_parts = name == "parts"
    known = {category["name"]: category["id"] for category in categories(of_parts)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for i, shot in enumerate(builder()):
        if i == limit:
            break
        taken, file = shot.picture(), f"{i:04d}.jpg"
        scene = taken.scene
        taken.image.save(folder / "images" / file, quality=QUALITY)
        images.append({"id": i, "file_name": file, "width": SIZE, "height": SIZE,
                       "background": scene.background, "caption": taken.caption,
                       "objects": list(shot.objects),
                       "watermark": _bbox(taken.watermark)})  # fmt: skip
        for category, fields in _annotations(scene, of_parts):
            annotations.append({"id": len(annotations) + 1, "image_id": i,
                                "category_id": known[category], **fields})  # fmt: skip
        labels += [{"image_id": i, "text": label.text, "bbox": _bbox(label.box)}
                   for label in scene.labels]  # fmt: skip
        if shot.pair and i % 2:  # the two of a pair follow each other
            pairs.append({**shot.pair, "with": i - 1, "without": i})
    content = {
        "info": {"description": f"gscam_lib miniature world, {name}", "seed": SEED},
        "licenses": [], "images": images, "annotations": annotations,
        "categories": categories(of_parts), "labels": labels, **({"pairs": pairs} if pairs else {}),
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return len(images)


def _bbox(box: Sequence[int] | None) -> list[int] | None:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]] if box else None


def main(out: Annotated[Path, typer.Option(help="folder of the sets")] = SCENES) -> None:
    """Write all evaluation sets."""
    for name in BUILDERS:
        typer.echo(f"{name}: {write_set(name, out / name)} images")


if __name__ == "__main__":
    typer.run(main)
