"""Is a word unlike others? How often the lab says so of words taken at random.

    python tests/bench/words.py

A suspect must change a prompt's score more than it changes those of control words. Each word of
photo-lite's vocabulary is the prompt in its turn, other words, drawn at random, are its controls,
and the suspects are groups of real photos: drawn at random, in which nothing is to be found, and
real ones, which some words truly have to do with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
from scipy import stats

from gscam_lib.audits.evidence import among
from gscam_lib.audits.groups import sides
from gscam_lib.audits.run import WORDS
from gscam_lib.model.photo import load_photo
from gscam_lib.trace import load_model
from tests.bench.audit import MODEL, make
from tests.bench.page import write_section

Array = np.ndarray[Any, Any]
LEVELS = (0.05, 0.01, 0.05 / 15, 0.001)
DRAWN = 4000  # sets of WORDS + 1 words; each word of a set is the prompt in its turn
HALVES = 20  # random ones


def measured(folder: Path) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """Scores of the photos for all words (n, words), and which photos are held against which."""
    make(folder, 10**6)
    table = pd.read_csv(folder / "groups.csv", keep_default_na=False).drop_duplicates("unit")
    model = load_model(MODEL)
    words = [word for word in model.vocabulary or () if model.knows(word).known]
    with torch.no_grad():
        text = torch.cat([model.encode_text(words[i : i + 64]) for i in range(0, len(words), 64)])
        photos = [model.preprocess(load_photo(folder / name)) for name in table["file"]]
        parts = [torch.stack(photos[i : i + 16]) for i in range(0, len(photos), 16)]
        seen = torch.cat([model.encode_pixels(part, fast=True) for part in parts])
    scores = (model.logit_scale * seen @ text.T).numpy()
    things = table["unit"].str.extract(r" (\w+)-")[0].fillna("").where(table["source"] == "Distill")
    groups: dict[str, tuple[Array, Array]] = {}
    for column, values in (*table[["source", "note"]].items(), ("thing", things.fillna(""))):
        for group, _, inside, outside in sides(values.to_numpy(dtype=object)):
            if inside.sum() >= 5:
                groups[f"{column} = {group}"] = (inside, outside)
    return scores, groups


def rates(scores: Array, inside: Array, outside: Array) -> Array:
    """How often p-values lie below each level: over words, and the larger of both; (2, levels).

    Over photos by Welch's t, which is quicker than the lab's permutations and much the same here.
    """
    rng = np.random.default_rng(0)
    drawn = rng.random((DRAWN, scores.shape[1])).argpartition(WORDS + 1, 1)[:, : WORDS + 1]
    effects = scores[inside].mean(0) - scores[outside].mean(0)
    controls = np.arange(1, WORDS + 1)
    words = np.array([among(effects[one], 0, controls) for one in drawn])
    own = np.stack([scores[:, one[0]] - scores[:, one[1:]].mean(1) for one in drawn], 1)
    photos = stats.ttest_ind(own[inside], own[outside], equal_var=False).pvalue
    both = np.maximum(words, photos)
    return np.array([[(p < level).mean() for level in LEVELS] for p in (words, both)])


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        scores, groups = measured(Path(place))
    rng = np.random.default_rng(1)
    drawn = [rng.random(len(scores)) < 0.5 for _ in range(HALVES)]
    halves = {f"half {i}": (half, ~half) for i, half in enumerate(drawn)}
    lines = [
        "## Is a word unlike others?", "",
        f"`python tests/bench/words.py`: {scores.shape[1]} words of {MODEL}, {len(scores)} photos. "
        f"How often p-values of a word among {WORDS} others drawn at random lie below four levels, "
        "of which the third is that of fifteen suspects corrected together: mean over the groups, "
        "and the highest of them. A suspect's p is the larger of both. Only what *raises* a score "
        "is looked for, so half of a level is to be expected where nothing is to be found.", "",
        "| groups of photos | p | " + " | ".join(f"{q:.2g}" for q in LEVELS) + " |",
        "|---" * (2 + len(LEVELS)) + "|",
    ]  # fmt: skip
    for name, several in ((f"{HALVES} random halves", halves), (", ".join(groups), groups)):
        found = np.array([rates(scores, *sides_) for sides_ in several.values()])
        for p, mean, most in zip(
            ("over words", "larger"), found.mean(0), found.max(0), strict=True
        ):
            cells = [f"{a:.2g} (≤ {b:.2g})" for a, b in zip(mean, most, strict=True)]
            lines.append(f"| {name} | {p} | " + " | ".join(cells) + " |")
    lines += ["", "Words that a group truly has to do with stand out by themselves: that is no "
              "error of the test, and why a suspect that nobody planted may be found."]  # fmt: skip
    print("\n".join(lines))
    write_section("words", "\n".join(lines))


if __name__ == "__main__":
    main()
