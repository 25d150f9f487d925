"""Small held-out sets that are looked at while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.build.world import HELD_OUT_FONTS
from gscam_lib.scenes import NAMES, UNSEEN_STYLE, Look, compose

Images = NDArray[np.uint8]
Scores = NDArray[np.float32]
Similarity = Callable[[Images, Sequence[str]], Scores]
SEED = 90_000_001  # far from every training seed
PLACES = ("room", "street", "grass", "beach", "table", "snow", "plain", "desert")


@dataclass(frozen=True)
class Probe:
    """Held-out images with what is in them and what is written, as indices into NAMES."""

    images: Images
    objects: list[list[int]]
    words: list[list[int]]


def _probe(rows: Sequence[tuple[Sequence[str], Sequence[str]]], size: int, look: Look, key: int
           ) -> Probe:  # fmt: skip
    scenes = [
        compose(objects, labels=words, size=size, look=look, seed=[SEED, key, i],
                background=PLACES[i % len(PLACES)])
        for i, (objects, words) in enumerate(rows)
    ]  # fmt: skip
    return Probe(
        np.stack([np.asarray(scene.image) for scene in scenes]),
        [[NAMES.index(name) for name in objects] for objects, _ in rows],
        [[NAMES.index(word) for word in words] for _, words in rows],
    )


def probes(size: int) -> dict[str, Probe]:
    """Return the held-out sets: single objects (seen, unseen style), several, words, attacks."""
    rng = np.random.default_rng(SEED)
    singles = [([name], ()) for name in NAMES] * 2
    several = [(list(rng.choice(NAMES, 3 + i % 4, replace=False)), ()) for i in range(80)]
    pairs = [rng.choice(NAMES, 2, replace=False) for _ in range(120)]
    unseen = Look(style=UNSEEN_STYLE, min_visible=0.6)
    attack = Look(style=UNSEEN_STYLE, min_visible=0.4, fonts=HELD_OUT_FONTS)
    words = Look(fonts=HELD_OUT_FONTS, label_width=(0.6, 0.95), labels_on=False)
    return {
        "seen": _probe(singles, size, Look(min_visible=0.6), 0),
        "unseen": _probe(singles, size, unseen, 1),
        "several": _probe(several, size, unseen, 2),
        "words": _probe([((), [name]) for name in NAMES], size, words, 3),
        "attack": _probe([([a], [b]) for a, b in pairs], size, attack, 4),
    }


def ranks(scores: Scores) -> NDArray[np.int64]:
    """Return the place (0 is first) of every name in every row of scores."""
    order = np.argsort(-scores, axis=1)
    return np.argsort(order, axis=1)


def measure(sets: dict[str, Probe], similarity: Similarity) -> dict[str, float]:
    """Return top-1 on single objects and words, recall at n on several, and the attack's rates."""
    place = {key: ranks(similarity(probe.images, NAMES)) for key, probe in sets.items()}
    out = {key: float(np.mean([place[key][i, t[0]] == 0 for i, t in enumerate(sets[key].objects)]))
           for key in ("seen", "unseen")}  # fmt: skip
    out["recall"] = float(np.mean([
        np.mean(place["several"][i, t] < len(t)) for i, t in enumerate(sets["several"].objects)
    ]))  # fmt: skip
    out["words"] = float(np.mean([place["words"][i, t[0]] == 0
                                  for i, t in enumerate(sets["words"].words)]))  # fmt: skip
    asked = zip(place["attack"], sets["attack"].objects, sets["attack"].words, strict=True)
    attack = [(row[thing[0]], row[word[0]]) for row, thing, word in asked]
    out["attack"] = float(np.mean([word < thing for thing, word in attack]))
    out["both in top 3"] = float(np.mean([max(pair) < 3 for pair in attack]))
    return out
