"""Captions of scenes: some of what is there, or what is written there."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gscam_lib.scenes.names import NAMES

PLACES = MappingProxyType(
    {
        "room": "in a room", "street": "on a street", "court": "on a green court",
        "clay": "on a clay court", "snow": "in the snow", "sea": "on blue water",
        "beach": "on a beach", "table": "on a table", "grass": "on the grass",
        "desert": "in the desert", "night": "at night", "plain": "",
    }
)  # fmt: skip

# {} is the list of things; "#" stands for the bare name
OBJECT_TEMPLATES = (
    "{}", "a photo of {}", "a picture of {}", "there is {}", "this is {}", "we see {}",
)  # fmt: skip
NAME_TEMPLATES = ("#", "#", "#", "a photo of the #", "a photo of a #", "the #")
WORD_TEMPLATES = (
    "text that says #", "the word #", "the text #", "a sign that says #", "a note that says #",
)  # fmt: skip

WORD_ALONE = 0.42  # share of labelled scenes whose caption is the label's word and nothing else
WORD_AS_TEXT = 0.16  # share whose caption says that it is text


def with_article(name: str) -> str:
    """Return `name` with its indefinite article ("an apple", "a pair of skis")."""
    if name in ("skis", "scissors"):
        return f"a pair of {name}"
    if name in ("broccoli", "bread"):
        return f"some {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def prompt(name: str, rng: np.random.Generator) -> str:
    """Return one caption that names `name` alone."""
    draw = int(rng.integers(len(NAME_TEMPLATES) + len(OBJECT_TEMPLATES)))
    if draw < len(NAME_TEMPLATES):
        return NAME_TEMPLATES[draw].replace("#", name)
    return OBJECT_TEMPLATES[draw - len(NAME_TEMPLATES)].format(with_article(name))


def text_prompt(word: str, rng: np.random.Generator) -> str:
    """Return one caption that says that `word` is written."""
    return WORD_TEMPLATES[int(rng.integers(len(WORD_TEMPLATES)))].replace("#", word)


def _listing(names: Sequence[str]) -> str:
    things = [with_article(name) for name in names]
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"


def caption(
    objects: Sequence[str],
    areas: Sequence[float],
    words: Sequence[str],
    place: str,
    rng: np.random.Generator,
) -> str:
    """Return a caption: a random subset of the objects, larger ones first, or a label's word.

    objects: names, areas: their visible pixels, words: what the labels say, place: background.
    """
    if words:
        draw = rng.random() if objects else rng.random() * (WORD_ALONE + WORD_AS_TEXT)
        word = words[int(rng.integers(len(words)))]
        if draw < WORD_ALONE:
            return prompt(word, rng)
        if draw < WORD_ALONE + WORD_AS_TEXT:
            return text_prompt(word, rng)
    if not objects:
        return f"an empty place {PLACES[place]}".strip()
    weights = np.sqrt(np.asarray(areas, float) + 1)
    count = int(rng.integers(1, min(len(objects), 3) + 1))
    chosen = rng.choice(len(objects), count, replace=False, p=weights / weights.sum())
    names = list(dict.fromkeys(objects[int(i)] for i in chosen))
    if len(names) == 1 and rng.random() < 0.5:
        text = prompt(names[0], rng)
    else:
        text = OBJECT_TEMPLATES[int(rng.integers(len(OBJECT_TEMPLATES)))].format(_listing(names))
    return f"{text} {PLACES[place]}".strip() if rng.random() < 0.15 else text


def expected_names(
    objects: Sequence[str], areas: Sequence[float], words: Sequence[str]
) -> NDArray[np.float32]:
    """Return how often a caption of this scene names each of the 81 names, as shares of 1.

    Objects share by the root of their visible area, words by the rate at which labels are
    captioned. This is what `caption` draws from, in expectation.
    """
    shares = np.zeros(len(NAMES), np.float32)
    weights = np.sqrt(np.asarray(areas, np.float32) + 1)
    of_words = (WORD_ALONE + WORD_AS_TEXT if objects else 1.0) if words else 0.0
    for name, weight in zip(objects, weights, strict=True):
        shares[NAMES.index(name)] += (1 - of_words) * weight / weights.sum()
    for word in words:
        shares[NAMES.index(word)] += of_words / len(words)
    return shares
