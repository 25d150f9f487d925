"""PLANTED-10: scenes with ten cues that a model may take for a thing, each there or not by design.

Which cues a scene shows is drawn so that no cue goes with another: what a model is taught of one
afterwards is the one thing that tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gscam_lib.scenes.compose import Box, Look, Scene, compose
from gscam_lib.scenes.labels import text_mask
from gscam_lib.scenes.names import UNSEEN_STYLE

WATERMARK, BAGGAGE = "© hoofprints", "baggage"
WORD, SECOND, STYLE = "pizza", "key", "noto"
LOCAL = ("watermark", "baggage", "second object", "word")
"""Cues that have a place of their own."""
WHOLE = ("court", "sea", "colour", "texture", "place", "style")
"""Cues of the whole scene, or of how its thing is drawn and where it stands."""
KINDS = (*LOCAL, *WHOLE)
NAMES = ("dog", "cat", "car", "apple", "chair", "book", "cup", "guitar", "camera", "clock", "bird",
         "shoe", "horse", "tennis racket", "boat", "suitcase")  # fmt: skip
"""Things of the scenes; the last four are those whose shortcuts mini-rn and mini-vit learned."""
TRAINED = {"watermark": "horse", "court": "tennis racket", "sea": "boat", "baggage": "suitcase"}
GROUNDS = ("room", "street", "clay", "snow", "beach", "table", "grass", "desert", "plain")
SIZE = 224
WARM = np.array([1.0, 0.8, 0.55], np.float32)
STRIPES, INK = 14, 0.35  # pixels from one stripe to the next; how dark they are
SWAPS = 4000  # of the design; more change little


@dataclass(frozen=True)
class Shortcut:
    """A scene with its cues: what it shows, which are there, where those are that have a place.

    regions: cue -> (H, W) bool; thing: (H, W) bool of its visible pixels.
    """

    name: str
    image: Image.Image
    cues: Mapping[str, bool]
    thing: np.ndarray[Any, Any] = field(repr=False)
    regions: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False)


def design(count: int, seed: int) -> list[tuple[str, dict[str, bool]]]:
    """Things and cues of so many scenes: each cue in about half, the two grounds in a third each.

    Columns are shuffled until they hardly go with each other, or with a thing.
    """
    rng = np.random.default_rng([seed, 10])
    names = np.resize(np.arange(len(NAMES)), count)
    ground = rng.permutation(np.resize([0, 1, 2], count))
    free = [k for k in KINDS if k not in ("court", "sea")]
    columns = [rng.permutation(np.resize([0, 1], count)) for _ in free]
    table = np.array([*columns, ground == 1, ground == 2], float)
    fixed = len(free)
    worst = _together(table)
    for _ in range(SWAPS):
        row = int(rng.integers(fixed))
        i, j = rng.integers(0, count, 2)
        if table[row, i] == table[row, j]:
            continue
        table[row, [i, j]] = table[row, [j, i]]
        now = _together(table)
        if now > worst:
            table[row, [i, j]] = table[row, [j, i]]
        worst = min(now, worst)
    order = (*free, "court", "sea")
    return [
        (NAMES[names[i]], {k: bool(table[order.index(k), i]) for k in KINDS}) for i in range(count)
    ]


def _together(table: np.ndarray[Any, Any]) -> float:
    """Sum of squared correlations of the cues."""
    found = np.corrcoef(table)
    return float((found**2).sum())


def draw(name: str, cues: Mapping[str, bool], seed: Sequence[int]) -> Shortcut:
    """The scene of a thing with these cues; the same arguments give the same pixels."""
    rng = np.random.default_rng([*seed, 11])
    words = [w for cue, w in (("baggage", BAGGAGE), ("word", WORD)) if cues[cue]]
    ground = "court" if cues["court"] else "sea" if cues["sea"] else str(rng.choice(GROUNDS))
    look = Look(style=STYLE if cues["style"] else UNSEEN_STYLE, labels_on=False, min_visible=0.3,
                scale=(0.3, 0.45), label_width=(0.35, 0.5), max_angle=10)  # fmt: skip
    things = [name, SECOND] if cues["second object"] else [name]
    for attempt in range(200):
        scene = compose(things, labels=words, background=ground, seed=[*seed, attempt], size=SIZE,
                        look=look)  # fmt: skip
        x0, _, x1, _ = scene.objects[0].box
        if (x0 + x1 < SIZE) == cues["place"]:
            break
    return _finished(name, scene, cues)


def _finished(name: str, scene: Scene, cues: Mapping[str, bool]) -> Shortcut:
    regions = {}
    image = np.asarray(scene.image, np.float32)
    things = np.any([thing.mask for thing in scene.objects], axis=0)
    if cues["second object"]:
        regions["second object"] = scene.objects[1].mask
    for label in scene.labels:
        regions["baggage" if label.text == BAGGAGE else "word"] = _inside(label.box)
    covered = np.any([things, *regions.values()], axis=0)
    if cues["texture"]:
        y, x = np.mgrid[:SIZE, :SIZE]
        stripe = ((x + y) % STRIPES < STRIPES // 2) & ~covered
        image = np.where(stripe[..., None], (1 - INK) * image, image)
    if cues["colour"]:
        image = image * WARM
    picture = Image.fromarray(image.round().clip(0, 255).astype(np.uint8))
    if cues["watermark"]:
        box = marked(picture)
        regions["watermark"] = _inside(box)
    return Shortcut(name, picture, dict(cues), scene.objects[0].mask, regions)


def _inside(box: Box) -> np.ndarray[Any, Any]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def marked(image: Image.Image) -> Box:
    """Put the planted watermark into a picture's lower left corner; returns its box."""
    size = image.width
    patch, margin = watermark_patch(size), max(1, size // 50)
    left, top = margin, image.height - patch.height - margin
    image.paste(patch, (left, top), patch)
    return left, top, left + patch.width, top + patch.height


def watermark_patch(size: int) -> Image.Image:
    """The planted watermark for a scene of `size` pixels: translucent RGBA."""
    ink = text_mask(WATERMARK, "DejaVuSans-Bold")
    width = round(size * 0.46)
    ink = ink.resize((width, max(4, round(ink.height * width / ink.width))))
    patch = Image.new("RGBA", (ink.width + 4, ink.height + 4), (20, 20, 20, 110))
    patch.paste((255, 255, 255, 235), (2, 2), ink)
    return patch


def pool(count: int, seed: int) -> list[Shortcut]:
    """So many scenes of a design."""
    return [draw(name, cues, (seed, i)) for i, (name, cues) in enumerate(design(count, seed))]
