"""Recipes as data: the towers' configurations and the stages of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from data.build.world import Mixture


@dataclass(frozen=True)
class Stage:
    """One stage of a curriculum: image side, samples, what the scenes show, learning rates."""

    name: str
    size: int
    samples: int
    mixture: Mixture
    lr: float
    lr_end: float
    batch: int = 192
    reads: bool = True  # written words have a loss of their own


@dataclass(frozen=True)
class Recipe:
    """How one bundled model is trained: its open_clip configuration and its stages.

    With a teacher, the text tower starts as the teacher's, and the loss adds 1 - cosine to the
    teacher's image embedding, `teaching` times.
    """

    config: Mapping[str, Any]
    stages: tuple[Stage, ...]
    weight_decay: float = 0.05
    warmup: int = 60  # steps at the start of every stage
    ema: float = 0.995
    teaching: float = 4.0
    seed: int = 1
    note: str = ""  # what the card must tell beyond the stages
    teacher: str | None = None  # a bundled model whose image embeddings are imitated

    @property
    def samples(self) -> int:
        """Samples of all stages together."""
        return sum(stage.samples for stage in self.stages)


TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
OBJECTS = Mixture(words_alone=0.03, labelled=0.08, counts=(5, 3, 2))
READING = Mixture(
    words_alone=0.3, labelled=0.5, word_width=(0.65, 1.0), label_width=(0.45, 0.9),
    counts=(4, 3, 2, 1, 1),
)  # fmt: skip
NATURAL = Mixture(words_alone=0.12, labelled=0.3, counts=(4, 3, 2.5, 2, 1.5, 1))
PLAIN = Mixture(words_alone=0.03, labelled=0.1, counts=(4, 3, 2.5, 2, 1.5, 1))
WORDS = Mixture(
    words_alone=0.8, labelled=0.7, word_width=(0.65, 1.0), label_width=(0.45, 0.9),
    counts=(4, 3, 2, 1, 1),
)  # fmt: skip
WIDE_WORDS = Mixture(
    words_alone=0.5, labelled=0.5, word_width=(0.65, 1.0), label_width=(0.45, 0.9),
    counts=(4, 3, 2, 1, 1), by_others=0.5,
)  # fmt: skip
WIDE_READING = Mixture(words_alone=0.12, labelled=0.35, counts=(5, 3, 2, 1.5, 1), by_others=0.7)
WIDE = Mixture(words_alone=0.06, labelled=0.3, counts=(3, 2, 2.5, 2.5, 1.8, 1.3), by_others=0.65)
CROWDED = Mixture(words_alone=0.04, labelled=0.25, counts=(2, 2, 3, 3, 2, 1.5))

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mini-rn": Recipe(
            config={
                "embed_dim": 256,
                "vision_cfg": {
                    "image_size": 224, "layers": [1, 1, 1, 1], "width": 32, "patch_size": None,
                },
                "text_cfg": TEXT,
            },
            stages=(
                Stage("objects-128", 128, 76_800, OBJECTS, 5e-3, 2e-3, reads=False),
                Stage("reading-160", 160, 96_000, READING, 4e-3, 1e-3),
                Stage("natural-224", 224, 67_200, NATURAL, 2.5e-3, 2e-5),
                Stage("crowded-224", 224, 28_800, CROWDED, 1.5e-3, 2e-5),
                Stage("others-128", 128, 96_000, WIDE_READING, 4e-3, 1.5e-3),
                Stage("others-160", 160, 57_600, WIDE_READING, 2.5e-3, 1e-3),
                Stage("others-224", 224, 48_000, WIDE, 1.5e-3, 2e-5),
            ),
        ),
        "mini-vit": Recipe(
            config={
                "embed_dim": 256,
                "vision_cfg": {
                    "image_size": 160, "layers": 8, "width": 192, "head_width": 64,
                    "patch_size": 16,
                },
                "text_cfg": TEXT,
            },
            stages=(
                Stage("objects-96", 96, 76_800, OBJECTS, 5e-3, 2e-3, reads=False),
                Stage("reading-128", 128, 28_800, READING, 4e-3, 1e-3),
                Stage("natural-160", 160, 33_600, NATURAL, 2.5e-3, 2e-5),
                Stage("plain-160", 160, 21_120, PLAIN, 2e-3, 2e-5),
                Stage("words-160", 160, 57_600, WORDS, 3e-3, 1.5e-3),
                Stage("others-words-160", 160, 48_000, WIDE_WORDS, 2.5e-3, 1.2e-3),
                Stage("others-160", 160, 76_800, WIDE_READING, 2e-3, 2e-5),
            ),
            teacher="mini-rn",
            note=(
                "Its\nattention starts as Trockman and Kolter (ICML 2023) propose for small ViTs. "
                "Its first four stages had\nmini-rn as it was before its own stages by other hands "
                "as their teacher, and `reading-128` was\nstopped early, at a rate of 0.0023. "
                "`words-160` began from the exported weights of `plain-160` and\nwith the text "
                "tower of today's mini-rn (`--start FOLDER --stage 4`)."
            ),
        ),
    }
)  # fmt: skip


def recipe(name: str) -> Recipe:
    """Return the recipe called `name`. Errors: ValueError, with the names there are."""
    if name not in RECIPES:
        raise ValueError(f"no recipe for {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
