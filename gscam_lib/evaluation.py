"""Evaluation: examples × methods → one row each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from gscam_lib.boxes import heatmap_to_box
from gscam_lib.clip import Model
from gscam_lib.datasets.example import Example
from gscam_lib.heatmaps import check_method, heatmap
from gscam_lib.metrics import best_iou
from gscam_lib.prompts import UnknownPromptWarning
from gscam_lib.trace import Trace

EMPTY_BOX = (0, 0, 1, 1)  # the paper's box where a map has no region


def evaluate(
    model: Model,
    dataset: Iterable[Example],
    methods: Sequence[str] = ("gscorecam",),
    *,
    k: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Localize every example with every method: one row for each pair.

    Columns: image_id, category, prompt, method, k, x0, y0, x1, y1, iou (best over the true boxes),
    hit (iou ≥ 0.5), logit, seconds, error, model. A photo that cannot be read becomes rows with
    their error. Examples of one image that follow each other share its trace. k applies to methods
    that rank channels. Protocol: Chen et al. 2022, with half-open boxes and the true maximum.
    """
    for method in methods:
        check_method(method)
    examples = tqdm(dataset, disable=not progress, unit="pair")
    rows: list[dict[str, Any]] = []
    for _, group in groupby(examples, key=lambda e: (e.source, e.image_id)):
        rows.extend(_evaluate_image(model, list(group), methods, k))
    return pd.DataFrame(rows)


def known_examples(model: Model, dataset: Iterable[Example]) -> list[Example]:
    """The examples whose prompt a model with a closed vocabulary knows; all for other models."""
    return [example for example in dataset if model.knows(example.prompt).known]


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Per method: pairs, share of hits, mean and median IoU, seconds per map, errors."""
    order = list(dict.fromkeys(rows["method"]))
    grouped = rows.groupby("method", sort=False)
    table = pd.DataFrame(
        {
            "pairs": grouped.size(),
            "hits": grouped["hit"].mean(),
            "mean IoU": grouped["iou"].mean(),
            "median IoU": grouped["iou"].median(),
            "seconds": grouped["seconds"].median(),
            "errors": grouped["error"].count(),
        }
    )
    return table.loc[order]


def _evaluate_image(
    model: Model, examples: list[Example], methods: Sequence[str], k: int | None
) -> Iterator[dict[str, Any]]:
    try:
        trace: Trace | Exception = model.trace(examples[0].image)
    except (ValueError, OSError) as error:
        trace = error
    for example in examples:
        for method in methods:
            yield {
                "image_id": example.image_id,
                "category": example.category,
                "prompt": example.prompt,
                "method": method,
                **_localize(trace, example, method, k),
                "model": model.name,
            }


def _localize(
    trace: Trace | Exception, example: Example, method: str, k: int | None
) -> dict[str, Any]:
    start = time.perf_counter()
    found: dict[str, Any]
    try:
        if isinstance(trace, Exception):
            raise trace
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownPromptWarning)  # the caller chose the prompts
            heat = heatmap(trace, example.prompt, method, k=k if method == "gscorecam" else None)
        box = heatmap_to_box(heat) or EMPTY_BOX
        overlap = best_iou(box, example.boxes)
        found = {"k": heat.k, **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))}
        found |= {"iou": overlap, "hit": overlap >= 0.5, "logit": heat.logit, "error": None}
    except (ValueError, OSError) as error:
        found = {"iou": 0.0, "hit": False, "error": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": time.perf_counter() - start}
