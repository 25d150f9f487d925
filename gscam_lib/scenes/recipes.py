"""Recipes as data: the towers' configurations and the stages of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from gscam_lib.scenes.world import Mixture


@dataclass(frozen=True)
class Stage:
    """One stage of a curriculum: image side, samples, what the scenes show, learning rates."""

    name: str
    size: int
    samples: int
    mixture: Mixture
    lr: float
    lr_end: float
    batch: int = 128
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
    warmup: int = 100  # steps at the start of every stage
    ema: float = 0.997
    teaching: float = 4.0
    seed: int = 1
    note: str = ""  # what the card must tell beyond the stages
    teacher: str | None = None  # a bundled model whose image embeddings are imitated

    @property
    def samples(self) -> int:
        """Samples of all stages together."""
        return sum(stage.samples for stage in self.stages)


TEXT = {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2}
SIMPLE = Mixture(words_alone=0.03, labelled=0.08, counts=(6, 2, 1))
OBJECTS = Mixture(words_alone=0.15, labelled=0.15, word_width=(0.75, 1.0))
READING = Mixture(
    words_alone=0.4, labelled=0.7, word_width=(0.65, 1.0), label_width=(0.45, 0.85),
    counts=(4, 2, 1, 0.5),
)  # fmt: skip
LARGE_WORDS = replace(READING, word_width=(0.8, 1.0), label_width=(0.6, 0.95))
NATURAL = Mixture(words_alone=0.15, labelled=0.35, counts=(4, 3, 2.5, 2, 1.5, 1))

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
                Stage("objects-96", 96, 150_000, SIMPLE, 1.5e-3, 8e-4),
                # stopped early: with many objects and much variation nothing was learned quickly
                Stage("objects-128", 128, 62_464, OBJECTS, 1e-3, 7e-4),
                Stage("simple-128", 128, 37_056, SIMPLE, 8e-4, 2e-4, batch=64, reads=False),
                Stage("reading-128", 128, 150_000, LARGE_WORDS, 6e-4, 2e-4, batch=64),
                Stage("reading-160", 160, 100_000, READING, 4e-4, 1e-4, batch=64),
                Stage("natural-224", 224, 200_000, NATURAL, 3e-4, 1e-5, batch=64),
            ),
            note="In the first two stages the sprites were repainted more strongly (any hue for a "
            "third of them, contrast 0.6 to 1.3) than the code does now; that slowed it down, so "
            "the second stage was cut short. The run was interrupted and resumed several times.",
        ),
        "mini-vit": Recipe(
            config={
                "embed_dim": 256,
                "vision_cfg": {
                    "image_size": 224, "layers": 8, "width": 192, "head_width": 64,
                    "patch_size": 16,
                },
                "text_cfg": TEXT,
            },
            stages=(
                Stage("objects-128", 128, 200_000, OBJECTS, 1e-3, 3e-4),
                Stage("reading-160", 160, 200_000, READING, 5e-4, 2e-4),
                Stage("natural-224", 224, 100_000, NATURAL, 3e-4, 1e-5),
            ),
            teacher="mini-rn",
        ),
    }
)  # fmt: skip


def recipe(name: str) -> Recipe:
    """Return the recipe called `name`. Errors: ValueError, with the names there are."""
    if name not in RECIPES:
        raise ValueError(f"no recipe for {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
