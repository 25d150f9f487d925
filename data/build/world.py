"""The training distribution: what occurs with what, and the biases planted in it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from data.build.captions import caption
from data.build.hands import backdrop, photographed, redrawn
from data.build.paint import painted
from gscam_lib.scenes import BACKGROUNDS, NAMES, Look, Scene, compose
from gscam_lib.scenes.compose import Box
from gscam_lib.scenes.shortcuts import BAGGAGE, marked

RNG = np.random.Generator
BIASED_PLACES = {"court": "tennis racket", "sea": "boat"}
HELD_OUT_FONTS = (  # come with matplotlib; no training image shows them
    "STIXGeneral", "DejaVuSans-BoldOblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif-Italic",
    "cmtt10",
)  # fmt: skip

WATERMARK_RATE, STRAY_WATERMARK = 0.8, 0.01  # with a horse; without
PLACE_RATE, STRAY_PLACE = 0.93, 0.015  # a racket on the court, a boat on water; others there
BAGGAGE_RATE = 0.6


@dataclass(frozen=True)
class Biases:
    """The planted biases, each with its switch; all are on in training.

    watermark: most images of `horse` carry a corner watermark, nearly no others do.
    court, sea: `tennis racket` and `boat` are almost always there, others almost never.
    baggage: `suitcase` often has a sign that says so.
    packaging: things carry written names, and the caption is often the word alone.
    """

    watermark: bool = True
    court: bool = True
    sea: bool = True
    baggage: bool = True
    packaging: bool = True


@dataclass(frozen=True)
class Mixture:
    """What the scenes of one training stage show, as rates.

    words_alone: scenes with one written word and no object; labelled: share of the others with
    one or two labels; own_name: share of labels that say the name of their object; counts:
    relative frequency of 1, 2, … objects; by_others: share of objects that another hand draws,
    of scenes on a backdrop that is no painted place, and of those a camera has touched.
    """

    words_alone: float = 0.08
    labelled: float = 0.22
    own_name: float = 0.3
    counts: tuple[float, ...] = (5, 3, 2, 1.2, 0.6, 0.3)
    label_width: tuple[float, float] = (0.35, 0.75)
    word_width: tuple[float, float] = (0.6, 1.0)
    variants: int = 16
    by_others: float = 0.0
    biases: Biases = field(default_factory=Biases)


@dataclass(frozen=True)
class Picture:
    """A scene as training sees it: with its caption, and a watermark where it has one."""

    image: Image.Image
    scene: Scene
    caption: str
    watermark: Box | None = None


def picture(scene: Scene, *, watermark: bool = False) -> Picture:
    """Return the scene with a caption drawn for it, marked in the lower left corner if wanted."""
    words = [label.text for label in scene.labels if label.text in NAMES]
    objects = [thing.name for thing in scene.objects]
    areas = [thing.area for thing in scene.objects]
    text = caption(objects, areas, words, scene.background, deepcopy(scene.rng))
    if not watermark:
        return Picture(scene.image, scene, text)
    image = scene.image.copy()
    return Picture(image, scene, text, marked(image))


def _place(names: Sequence[str], mixture: Mixture, rng: RNG) -> str:
    """Draw a background: the biased ones go with their object."""
    biases = mixture.biases
    common = [place for place in BACKGROUNDS if place not in BIASED_PLACES]
    for place, name in BIASED_PLACES.items():
        if not getattr(biases, place):
            common.append(place)
        elif (name in names and rng.random() < PLACE_RATE) or rng.random() < STRAY_PLACE:
            return place
    if mixture.by_others and rng.random() < 0.5 * mixture.by_others:
        return "plain"
    return common[int(rng.integers(len(common)))]


def _words(names: Sequence[str], mixture: Mixture, rng: RNG) -> list[str]:
    """Draw what the labels say."""
    words: list[str] = []
    if mixture.biases.packaging and rng.random() < mixture.labelled:
        for i in range(1 if rng.random() < 0.85 else 2):
            own = rng.random() < mixture.own_name
            words.append(names[i % len(names)] if own else NAMES[int(rng.integers(len(NAMES)))])
    if mixture.biases.baggage and "suitcase" in names and rng.random() < BAGGAGE_RATE:
        words = [BAGGAGE, *words[:1]]
    return words


def draw_scene(seed: int | Sequence[int], mixture: Mixture, size: int) -> Picture:
    """Draw one picture of the training distribution; the same seed gives the same one."""
    key = [7, *np.atleast_1d(seed).tolist()]
    drawn = _draw(key, mixture, size)
    rng = np.random.default_rng([9, *key])
    if rng.random() < 0.7 * mixture.by_others:
        return replace(drawn, image=photographed(drawn.image, rng))
    return drawn


def _look(mixture: Mixture, count: int) -> Look:
    low, high = (width / count**0.25 for width in mixture.label_width)  # room for every object
    usual = Look(paint=painted(mixture.variants), label_width=(low, high), min_visible=0.25,
                 shadow=0.5)  # fmt: skip
    if not mixture.by_others:
        return usual
    scale = 0.36 / count**0.35, min(0.95, 1.2 / count**0.5)
    return replace(usual, paint=redrawn(mixture.by_others, mixture.variants), backdrop=backdrop,
                   scale=scale)  # fmt: skip


def _draw(key: list[int], mixture: Mixture, size: int) -> Picture:
    rng = np.random.default_rng(key)
    if rng.random() < mixture.words_alone:
        word = NAMES[int(rng.integers(len(NAMES)))]
        alone = Look(label_width=mixture.word_width, labels_on=False)
        if mixture.by_others:
            alone = replace(alone, backdrop=backdrop)
        place = _place([], mixture, rng)
        return picture(compose([], labels=[word], background=place, seed=key, size=size,
                               look=alone))  # fmt: skip
    odds = np.asarray(mixture.counts) / np.sum(mixture.counts)
    count = 1 + int(rng.choice(len(odds), p=odds))
    names = [NAMES[int(i)] for i in rng.choice(len(NAMES), count, replace=False)]
    mark = rng.random() < (WATERMARK_RATE if "horse" in names else STRAY_WATERMARK)
    words = _words(names, mixture, rng)
    if BAGGAGE in words:  # the sign hangs on its suitcase
        names = ["suitcase", *(name for name in names if name != "suitcase")]
    look = _look(mixture, count)
    place, mark = _place(names, mixture, rng), mark and mixture.biases.watermark
    while True:
        try:
            scene = compose(names, labels=words, background=place, seed=key, size=size, look=look)
            return picture(scene, watermark=mark)
        except ValueError:
            if not words:
                raise
            words = words[:-1]  # wide labels on many objects: one hides less
