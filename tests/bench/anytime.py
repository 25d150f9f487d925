"""How near a map is before all its copies are scored: budget against agreement with the full map.

    python tests/bench/anytime.py [--models mini-rn,mini-vit] [--photos 30] [--cache FOLDER]
        [--coco IMAGES --annotations instances.json] [--calibrate] [-o FOLDER]

Every copy is scored once (a cache keeps it); budgets then cost nothing. The photos that are
measured are others than those that calibrated the band.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
import typer

from gscam_lib import scenes
from gscam_lib.boxes import Heatmap, heatmap_to_box
from gscam_lib.datasets import CocoDataset, Example
from gscam_lib.evaluation import statistics
from gscam_lib.evaluation.metrics import best_iou, boxes_to_mask, iou, pointing_hit
from gscam_lib.evaluation.questions import known_examples
from gscam_lib.heatmaps import heatmap, several
from gscam_lib.methods import anytime
from gscam_lib.trace.model import Model, load_model
from tests.bench.page import FIGURES, write_section

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
SETS = ("multi", "single", "typographic", "biases")
CALIBRATING = (100, 140)  # photos of `multi`, by their place; every third photo of COCO


def photos(model: Model, name: str, examples: Sequence[Example], most: int, calibrate: bool
           ) -> Iterator[list[Example]]:  # fmt: skip
    """The known questions of each photo that is measured, or that calibrates the band."""
    by_photo: dict[str, list[Example]] = {}
    for example in examples:
        by_photo.setdefault(example.image_id, []).append(example)
    ids = list(by_photo)
    if name == "coco":
        ids = [i for place, i in enumerate(ids) if (place % 3 == 0) == calibrate]
    elif name == "multi":
        ids = ids[slice(*CALIBRATING)] if calibrate else ids[: CALIBRATING[0]]
    else:
        ids = [] if calibrate else ids[:: max(1, len(ids) // 24)]
    for i in ids[:most]:
        yield list(known_examples(model, by_photo[i]))


def rows(model: Model, name: str, questions: list[Example], cache: Path | None
         ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Agreement with the full map of each question of a photo, at every budget and by every way."""
    trace = model.trace(questions[0].image, cache=cache)
    prompts = [e.prompt for e in questions]
    whole = several(trace, prompts)
    k = trace.default_k
    for share in SHARES:
        budget = max(1, round(share * k))
        shared = several(trace, prompts, budget=budget)
        for example, full, together in zip(questions, whole, shared, strict=True):
            ask = example.prompt
            found = {"sharpened": heatmap(trace, ask, budget=budget), "shared": together}
            with patch.object(anytime, "drafts", lambda *_: None):
                found["no draft"] = heatmap(trace, ask, budget=budget)
            found["gradient order"] = heatmap(trace, ask, k=budget)
            for way, heat in found.items():
                about = {"model": model.name, "set": name, "photo": example.image_id, "way": way}
                yield {**about, "share": share, "budget": budget, **agreement(heat, full, example)}


def agreement(heat: Heatmap, full: Heatmap, example: Example) -> dict[str, float]:
    """How near a map and its box are to the full one's, and how both do against the truth."""
    ours, theirs = heatmap_to_box(heat), heatmap_to_box(full)
    both = heat.flat or full.flat
    like = float(heat.flat and full.flat) if both else float(
        np.corrcoef(heat.values.flat, full.values.flat)[0, 1])  # fmt: skip
    same = float(ours is theirs) if ours is None or theirs is None else iou(ours, theirs)
    true = boxes_to_mask(example.boxes, full.values.shape)
    hits = [best_iou(b, example.boxes) >= 0.5 for b in (ours, theirs)]
    points = [pointing_hit(h.values, true) for h in (heat, full)]
    return {"correlation": like, "iou": same, "band": -1.0 if heat.band is None else heat.band,
            "off": float(np.abs(heat.values - full.values).max()),
            "hit": float(hits[0]) - hits[1], "pointing": float(points[0]) - points[1]}  # fmt: skip


def with_span(values: pd.Series, groups: pd.Series) -> str:
    low, high = statistics.bootstrap_interval(values.to_numpy(), groups.to_numpy())
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def table(data: pd.DataFrame) -> str:
    """The section of the page."""
    lines = [
        "## Near-exact maps from fewer passes", "",
        "gScoreCAM with a budget of the k masked copies at the paper's share, against the map with "
        "all of them, for n questions on photos that calibrated nothing. Correlation and the "
        "boxes' IoU are with the full map; hits (IoU with a true box of .5) and pointing are "
        "differences to it, with 95 % intervals over photos; held: how often the full map lay "
        f"inside the band all over (stated: {anytime.SHARE:.0%}). `python tests/bench/anytime.py` "
        "writes this.", "",
        "| weights | set | n | budget | correlation | IoU | hits | pointing | held | band |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    ours = data[data["way"] == "sharpened"]
    for (model, name, share), d in ours.groupby(["model", "set", "share"], sort=False):
        held = (d["off"] <= d["band"] + 1e-6).mean()
        lines.append(
            f"| {model} | {name} | {len(d)} | {d['budget'].iloc[0]} ({share:.0%}) "
            f"| {d['correlation'].mean():.3f} | {d['iou'].mean():.3f} "
            f"| {with_span(d['hit'], d['photo'])} | {with_span(d['pointing'], d['photo'])} "
            f"| {held:.2f} | {d['band'].mean():.2f} |"
        )
    lines += ["", "What lost, on the same n questions (correlation, IoU). Shared: the copies "
              "of all of a photo's prompts serve each, as `gs.several` does it.", "",
              "| weights | budget | " + " | ".join(data["way"].unique()) + " |",
              "|---|---|" + "---|" * data["way"].nunique()]  # fmt: skip
    for (model, share), d in data.groupby(["model", "share"], sort=False):
        means = d.groupby("way", sort=False)[["correlation", "iou"]].mean()
        cells = " | ".join(f"{r.correlation:.3f}, {r.iou:.3f}" for r in means.itertuples())
        lines.append(f"| {model} | {share:.0%} | {cells} |")
    return "\n".join(lines)


def main(
    models: Annotated[str, typer.Option(help="separated by commas")] = "mini-rn,mini-vit",
    sets: Annotated[str, typer.Option(help="separated by commas")] = ",".join(SETS),
    photo_count: Annotated[int, typer.Option("--photos", help="of each set")] = 30,
    cache: Annotated[Path | None, typer.Option(help="keeps scored copies")] = None,
    coco: Annotated[Path | None, typer.Option(help="photos of COCO, for photo-lite")] = None,
    annotations: Annotated[Path | None, typer.Option(help="their instances.json")] = None,
    calibrate: Annotated[bool, typer.Option(help="print what WIDEN should be")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder")] = FIGURES,
) -> None:
    """Measure budgets against the full map."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    asked = [(m, s) for m in models.split(",") if m for s in sets.split(",")]
    if coco is not None and annotations is not None:
        asked.append(("photo-lite", "coco"))
    found: list[dict[str, Any]] = []
    opened = [CocoDataset(coco, annotations) if which == "coco" else scenes.load(which)
              for _, which in asked]  # all of them first: a wrong folder loses nothing  # fmt: skip
    for (name, which), whole in zip(asked, opened, strict=True):
        model = load_model(name)
        for questions in photos(model, which, known_examples(model, whole), photo_count, calibrate):
            found += rows(model, which, questions, cache)
            print(f"\r{name} {which}: {len(found)} rows", end="", file=sys.stderr, flush=True)
    data = pd.DataFrame(found)
    if calibrate:
        ours = data[data["way"] == "sharpened"]
        ours = ours.assign(need=(ours["off"] - anytime.LEAST) / (ours["band"] - anytime.LEAST))
        needs = ours.groupby(["model", "share"])["need"]
        typer.echo((anytime.WIDEN * needs.quantile(anytime.SHARE)).to_string())
        return
    typer.echo(table(data))
    write_section("anytime", table(data), out=out)


if __name__ == "__main__":
    typer.run(main)
