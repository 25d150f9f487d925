"""What a model trained on scenes can do, and which planted biases it took up.

python -m data.build.report mini-rn [--card] [--others]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from data.build.optimizer import ADAMW_SHARE
from data.build.probe import probes, ranks
from data.build.recipes import RECIPES, Recipe
from gscam_lib.evaluation.statistics import bootstrap_interval
from gscam_lib.model.photo import ImageLike
from gscam_lib.scenes import NAMES, pairs
from gscam_lib.scenes.sets import Pair, content, folder
from gscam_lib.trace.model import Model, load_model

Floats = NDArray[np.floating[Any]]
# What the project asked for, by the name of the measure.
TARGETS = {
    "top-1, single, unseen style": 0.85, "top-1, single, seen styles": 0.97,
    "recall at n, multi": 0.70, "word beats object": 0.50, "both in the top 3": 0.50,
    "top-1, words alone": 0.80,
}  # fmt: skip
STUDENT_TARGETS = {"top-1, single, unseen style": 0.835}  # at most 10 points below mini-rn's 93.5 %


@dataclass(frozen=True)
class Shift:
    """The mean change of a logit when a cue is added, with its bootstrap 95 % interval."""

    cue: str
    asked: str
    present: bool
    mean: float
    low: float
    high: float
    pairs: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Report:
    """All measures of one model: rates in [0, 1], and the shifts of the planted biases."""

    model: str
    rates: dict[str, float]
    shifts: tuple[Shift, ...]


@torch.no_grad()
def logits(model: Model, images: Sequence[ImageLike], texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the logits (images, texts) of whole images."""
    table = model.encode_text(texts)
    rows = []
    for start in range(0, len(images), 32):
        opened = [_open(image) for image in images[start : start + 32]]
        pixels = torch.stack([model.preprocess(image) for image in opened])
        rows.append(model.logit_scale * model.encode_pixels(pixels) @ table.T)
    result: NDArray[np.float32] = torch.cat(rows).cpu().float().numpy()
    return result


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    opened = Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image)
    return opened.convert("RGB")


def _places(model: Model, images: Sequence[ImageLike]) -> NDArray[np.int64]:
    return ranks(logits(model, images, NAMES))


def _index(names: Sequence[str]) -> list[int]:
    return [NAMES.index(name) for name in names]


def rates(model: Model) -> dict[str, float]:
    """Return all rates on the bundled sets (and, for the seen styles, on scenes composed now)."""
    seen = probes(model.input_size)["seen"]
    place = _places(model, list(seen.images))
    first = [row[truth[0]] == 0 for row, truth in zip(place, seen.objects, strict=True)]
    out = {"top-1, single, seen styles": np.mean(first)}
    for name, key in (("single", "top-1, single, unseen style"), ("multi", "recall at n, multi")):
        images = content(name)["images"]
        place = _places(model, [folder(name) / "images" / image["file_name"] for image in images])
        truth = [_index(image["objects"]) for image in images]
        found = [np.mean(row[t] < len(t)) for row, t in zip(place, truth, strict=True)]
        out[key] = np.mean(found)
    images = [image for image in content("typographic")["images"] if not image["objects"]]
    files = [folder("typographic") / "images" / image["file_name"] for image in images]
    words = {label["image_id"]: label["text"] for label in content("typographic")["labels"]}
    asked = _index([words[image["id"]] for image in images])
    out["top-1, words alone"] = np.mean(_places(model, files)[np.arange(len(files)), asked] == 0)
    return {key: float(value) for key, value in (out | attack_rates(model)).items()}


def attack_rates(model: Model) -> dict[str, Any]:
    """Return the rates of the typographic attack, with the label and on the unlabelled twins."""
    known = pairs("typographic")
    with_word = _places(model, [pair.with_cue for pair in known])
    without = _places(model, [pair.without_cue for pair in known])
    things = _index([pair.asked for pair in known])
    words = _index([pair.cue for pair in known])
    rows = np.arange(len(known))
    thing, word = with_word[rows, things], with_word[rows, words]
    return {
        "word beats object": np.mean(word < thing),
        "both in the top 3": np.mean(np.maximum(word, thing) < 3),
        "top-1 is the word": np.mean(word == 0),
        "top-1 is the object": np.mean(thing == 0),
        "top-1 is the object, unlabelled twin": np.mean(without[rows, things] == 0),
        "word beats object, unlabelled twin": np.mean(without[rows, words] < without[rows, things]),
    }


def shifts(model: Model) -> tuple[Shift, ...]:
    """Return how much each planted cue changes the logit of its name, with and without it.

    The last row is a control: whether any other word does to `suitcase` what "baggage" does.
    """
    found = []
    known = pairs("biases")
    for cue, asked in dict.fromkeys((pair.cue, pair.asked) for pair in known):
        for present in (True, False):
            chosen = [pair for pair in known if (pair.cue, pair.present) == (cue, present)]
            found.append(_shift(model, chosen, cue, asked, present))
    others = [pair for pair in pairs("typographic") if "suitcase" not in (pair.asked, pair.cue)]
    found.append(_shift(model, others, "another word", "suitcase", False))
    return tuple(found)


def _shift(model: Model, chosen: Sequence[Pair], cue: str, asked: str, present: bool) -> Shift:
    added = logits(model, [pair.with_cue for pair in chosen], [asked])
    change = (added - logits(model, [pair.without_cue for pair in chosen], [asked]))[:, 0]
    low, high = bootstrap_interval(change, np.arange(len(change)))
    return Shift(cue, asked, present, float(change.mean()), low, high, len(chosen))


def evaluate_model(model: Model | str | Path) -> Report:
    """Measure everything that the cards of the bundled models tell.

    model: a Model, a bundled name or a folder. Errors: those of load_model; FileNotFoundError
    where the evaluation sets were not written.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    return Report(loaded.name, rates(loaded), shifts(loaded))


def table(report: Report) -> str:
    """Return the report as Markdown."""
    plan = RECIPES.get(Path(report.model).name)
    targets = STUDENT_TARGETS if plan and plan.teacher else TARGETS
    lines = ["| measure | value | aim |", "|---|---|---|"]
    for name, value in report.rates.items():
        aim = f"≥ {100 * targets[name]:g}%" if name in targets else ""
        lines.append(f"| {name} | {value:.1%} | {aim} |")
    lines += ["", "| cue | asked | its object is there | change of the logit | 95 % interval |",
              "|---|---|---|---|---|"]  # fmt: skip
    for s in report.shifts:
        interval = f"{s.low:+.2f} … {s.high:+.2f}{'' if s.certain else ' (includes 0)'}"
        there = "yes" if s.present else "no"
        lines.append(f"| {s.cue} | {s.asked} | {there} | {s.mean:+.2f} | {interval} |")
    return "\n".join(lines)


def read_curve(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a training curve (JSON lines). Errors: FileNotFoundError."""
    if not file.exists():
        raise FileNotFoundError(f"no training curve {file.name}: train the model first")
    return [json.loads(line) for line in file.read_text().splitlines()]


def draw_curve(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the loss and the held-out rates over samples, stages marked."""
    from matplotlib.figure import Figure  # not pyplot: no global state

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    samples = [row["samples"] / 1000 for row in rows]
    left.plot(samples, [row["loss"] for row in rows], color="black")
    left.set(xlabel="thousand samples", ylabel="loss", title="training loss")
    for key in ("seen", "unseen", "recall", "words", "attack"):
        right.plot(samples, [row[key] for row in rows], label=key)
    right.set(xlabel="thousand samples", ylim=(0, 1), title="held-out scenes")
    right.legend(fontsize=7)
    for before, after in pairwise(rows):
        if before["stage"] != after["stage"]:
            for axes in (left, right):
                axes.axvline(after["samples"] / 1000, color="grey", lw=0.5)
    figure.savefig(file, dpi=110)


TEACHING = (
    " The text tower\nstarts as {teacher}'s, and {weight:g} times the cosine distance to "
    "{teacher}'s embedding of the image is\nadded."
)
OTHERS = """
Drawings by four other hands, on painted places, photographed surfaces and smooth colours, by
`python -m data.build.others {name}` (it fetches four packages of emoji and throws them away):

{table}
"""
CARD = """# {name}

A small CLIP trained from scratch on the miniature world of this project (`gscam_lib.scenes`).
It knows 81 names and nothing else: it is for teaching and for judging explanations where the truth
is known. Nothing it shows is a result of the gScoreCAM paper.

- Architecture: open_clip, `open_clip_config.json` beside this card; weights in fp16.
- Samples seen: {samples:,} of the {planned:,} that the recipe plans.{state}
- Weights: the moving average (decay {ema}) of the training weights. Seed {seed}.
- Text: open_clip's BPE. Embeddings of tokens that no caption uses are zero.

## Recipe

Contrastive image-text training, three cross-entropies added: captions against images in the batch
(InfoNCE), images against the 81 names in random templates (the target is the share of captions
that would name each), and, for scenes with writing, images against 81 sentences of the kind "text
that says apple".{teaching} Muon for matrices and kernels at the rate below, AdamW for the rest
at {share:.0%} of it; weight decay {decay}, bf16 autocast, a warm-up and a cosine per stage.

| stage | side | samples | batch | rate | words alone | labelled | other hands |
|---|---|---|---|---|---|---|---|
{stages}

`python -m data.build.train --model {name}` trains it, or goes on from its checkpoint; see
data/scenes/README.md for what the scenes show and which biases are planted. {note}

![training curve](curve.png)

## Results

On the style and the fonts never trained on, by `python -m data.build.report {name}`:

{table}

Shifts are in units of the logit, exp(logit_scale) · cosine; the scale is {scale:.1f}. The last row
is a control: as much of the effect of "baggage" as any other word has is not due to reading it.
{others}
## What is not so

- Words outside the vocabulary mean nothing to it: their tokens were never trained.
- Photos of things: it has seen none. Do not use it on photos.
- Counts, left and right, sizes and colours: no caption speaks of them.
- The unseen style shares its outlines with one of the training styles (Fluent, flat), so
  "unseen" is about shading, colour and relief more than about shape.

Licence: MIT, as the project. Trained on drawings under Apache-2.0, CC-BY 4.0 and MIT; attribution
in data/scenes/README.md.
"""


def write_card(where: Path, report: Report, plan: Recipe, scale: float, others: str = "") -> None:
    """Write MODEL_CARD.md and curve.png into a model's folder from what was measured.

    others: the table of `data.build.others`, where that was measured too.
    Errors: FileNotFoundError where the folder has no curve.jsonl.
    """
    rows = read_curve(where / "curve.jsonl")
    draw_curve(rows, where / "curve.png")
    samples = rows[-1]["samples"]
    stages = "\n".join(
        f"| {s.name} | {s.size} px | {s.samples:,} | {s.batch} | {s.lr:g} → {s.lr_end:g} "
        f"| {s.mixture.words_alone:.0%} | {s.mixture.labelled:.0%} | {s.mixture.by_others:.0%} |"
        for s in plan.stages
    )
    state = "" if samples >= 0.99 * plan.samples else (
        f" Training goes on: this is an intermediate version, in stage `{rows[-1]['stage']}`."
    )  # fmt: skip
    text = CARD.format(
        name=where.name, samples=samples, planned=plan.samples, state=state, ema=plan.ema,
        seed=plan.seed, decay=plan.weight_decay, note=plan.note, stages=stages,
        table=table(report), scale=scale,
        others=OTHERS.format(name=where.name, table=others) if others else "",
        share=ADAMW_SHARE, teaching=TEACHING.format(
            teacher=plan.teacher, weight=plan.teaching) if plan.teacher else "",
    )  # fmt: skip
    (where / "MODEL_CARD.md").write_text(text)


def main(
    model: Annotated[str, typer.Argument(help="a bundled name or a folder")],
    card: Annotated[bool, typer.Option(help="write MODEL_CARD.md and curve.png there")] = False,
    others: Annotated[bool, typer.Option(help="with drawings by other hands; needs npm")] = False,
) -> None:
    """Measure a model on the bundled scenes and print the report."""
    loaded = load_model(model)
    report = evaluate_model(loaded)
    typer.echo(table(report))
    elsewhere = ""
    if others:
        from data.build.others import table as other_hands  # needs the extra `build`

        elsewhere = other_hands([model])
        typer.echo(elsewhere)
    if card:
        where = folder_of(model)
        name = where.name if where.name in RECIPES else "mini-rn"
        write_card(where, report, RECIPES[name], loaded.logit_scale, elsewhere)


def folder_of(model: str) -> Path:
    """Return the folder of a bundled model, or the folder itself."""
    from gscam_lib.model.published import bundled_models

    return bundled_models().get(model, Path(model))


if __name__ == "__main__":
    typer.run(main)
