"""The runner: examples × methods × measures → one row each, kept so that nothing is done twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pyarrow.compute as pc
from tqdm.auto import tqdm

from gscam_lib.boxes import Heatmap
from gscam_lib.datasets import Example
from gscam_lib.datasets.placement import placed
from gscam_lib.evaluation.jobs import Asked, Job, Method, check_count, jobs, traced
from gscam_lib.evaluation.measures import (
    BLANK,
    MEASURES,
    POINTS,
    Preset,
    Seen,
)
from gscam_lib.evaluation.questions import tabulate
from gscam_lib.evaluation.rows import Rows, open_rows, read_rows
from gscam_lib.heatmaps import heatmap
from gscam_lib.model.prompts import UnknownPromptWarning
from gscam_lib.paths import VERSION
from gscam_lib.trace import Model, Trace, load_model


def evaluate(
    model: Model,
    dataset: Iterable[Example],
    methods: Sequence[str] = ("gscorecam",),
    *,
    k: int | None = None,
    measures: Sequence[str] = ("localization",),
    measured_images: int | None = None,
    slow_images: int | None = None,
    limit: int | None = None,
    points: int = POINTS,
    preset: str | Preset = "clean",
    out: Path | str | None = None,
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Ask every method about every example: one row for each pair, in the order of the data.

    Columns: example (position), question (fingerprint of photo and truth), source, image_id,
    category, prompt, method, k; of localization x0, y0, x1, y1, iou (best over the true boxes), hit
    (iou ≥ 0.5), pointing, energy, mask (the hot pixels inside the box as "height x width:COCO's
    counts"); a column for each further measure; logit, seconds (of the heatmap), error, width,
    height (of the photo), classes (in its image), area (of the largest true box), model, preset,
    measures. What fails becomes a row with its error, which counts as a miss, and never stops the
    run. Photos share the batches of gScoreCAM's masked copies where k is small.

    methods: names in METHODS, with options behind them where wanted, such as
    "gscorecam:ranking=variance", or "all" that fit the tower, less those written "-rise"; k: for
    methods that rank channels and have none of their own; measures: names in MEASURES;
    measured_images: localization for all, the other measures for the first so many images;
    slow_images: methods with a pass for each channel or mask see only so many; limit: all see only
    so many; points: of insertion and deletion curves. preset: "clean", "paper" (Chen et al. 2022:
    inclusive pixels), or a Preset. out: a folder that keeps the rows as they come; a later call
    goes on where this one ended, and may add methods, measures and questions; retry: and does the
    rows with errors again. shard: (i, n), the i-th of n parts of the images.
    Raises ValueError for bad arguments and for a folder that holds another run.
    """
    asked = Asked.of(model, methods, k, measures, measured_images, slow_images, preset, points)
    whole = len(shard) == 2 and all(type(part) is int for part in shard)
    if not (whole and 0 <= shard[0] < shard[1]):
        raise ValueError(f"Got shard={shard}; expected (i, n) with 0 ≤ i < n.")
    examples = dataset if isinstance(dataset, Sequence) else list(dataset)
    questions = tabulate(examples)
    if limit is not None:
        check_count("limit", limit, 1, "of images")
        questions = questions.filter(pc.field("image") < limit)
    rows = Rows(out, manifest(model, asked.preset, points), questions)
    left = open_rows(
        rows, asked.keys, shard=shard, retry=retry, images=asked.images,
        measures=(asked.few, asked.all), measured_images=measured_images,
    )  # fmt: skip
    bar = tqdm(desc=model.name, total=len(left), disable=not progress, unit="row")
    with bar, rows:
        errors = 0
        for job in traced(asked, jobs(asked, examples, questions, left)):
            for row in _answers(asked, job):
                rows.add(row)
                errors += row["error"] is not None
                bar.set_postfix(errors=errors, refresh=False)
                bar.update()
            job.trace = None  # the next pack is made while this one is still referred to
    return rows.answers(asked.keys)


def manifest(model: Model, preset: Preset, points: int = POINTS) -> dict[str, Any]:
    """What all rows of a run share; a folder with another manifest is refused."""
    return {
        "library": VERSION,
        "model": identity(model),
        "points": points,
        "preset": {key: _plain(value) for key, value in preset.settings().items()},
    }


def identity(model: Model) -> dict[str, Any]:
    """What tells a model in a manifest: its weights, layer, precision and preprocessing."""
    return {
        "name": model.name,
        "weights": model.weights_sha,
        "layer": model.layer.name,
        "input": model.input_size,
        "precision": model.arithmetic,
        "preprocessing": str(model.preprocessing),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merge(folder: Path | str) -> pd.DataFrame:
    """All rows of a folder, each question once for each method, in the order of the data.

    Raises FileNotFoundError for a folder without parts, and ValueError where parts were made with
    other weights, presets or versions, saying which.
    """
    return read_rows(folder)


# ---------------------------------------------------------------- on an executor


def evaluate_shards(
    executor: Executor,
    model_name: str,
    dataset: Sequence[Example],
    methods: Sequence[str],
    out: Path | str,
    *,
    shards: int,
    progress: bool = False,
    **how: Any,
) -> pd.DataFrame:
    """Run the shards of an evaluation on any concurrent.futures executor, and merge them.

    how: further arguments of `evaluate`. Each worker loads the model once, from its name; its
    threads take turns. Dask: `client.get_executor()`; SLURM: `submitit.AutoExecutor`. A failed
    shard raises its error here after the others have ended; what was computed stays in `out`.
    """
    check_count("shards", shards, 1, "parts of the images")
    jobs = [
        executor.submit(_shard, model_name, dataset, list(methods), str(out), (i, shards), how)
        for i in range(shards)
    ]
    bar = tqdm(jobs, disable=not progress, unit="shard")
    failures = [error for job in bar if (error := job.exception()) is not None]
    if failures:
        raise failures[0]
    return merge(out)


def evaluate_on_dask(
    address: str,
    model_name: str,
    dataset: Sequence[Example],
    methods: Sequence[str],
    out: Path | str | None,
    **how: Any,
) -> pd.DataFrame:
    """`evaluate_shards` on Dask: address of a scheduler, tcp://…, or "local" for one made here."""
    if out is None:
        raise ValueError("--dask needs --out: a folder that all workers see.")
    try:
        import distributed
    except ImportError as error:
        raise ValueError("--dask needs the extra dask: pip install -e '.[dask]'.") from error
    client: Any = distributed.Client
    local = {"threads_per_worker": 1, "dashboard_address": None} if address == "local" else {}
    with client(None if local else address, **local) as cluster:
        pool = cluster.get_executor()
        return evaluate_shards(pool, model_name, dataset, methods, out, progress=True, **how)


_LOADING = Lock()  # so that threads which start together load one model


@lru_cache(maxsize=1)
def _loaded(name: str) -> Model:
    return load_model(name)


def _shard(
    name: str, dataset: Sequence[Example], methods: list[str], out: str, shard: tuple[int, int],
    how: dict[str, Any],
) -> int:  # fmt: skip
    with _LOADING:
        model = _loaded(name)
    return len(evaluate(model, dataset, methods, out=out, shard=shard, **how))


# ---------------------------------------------------------------- rows


def _answers(asked: Asked, job: Job) -> Iterator[dict[str, Any]]:
    """The open rows of a photo, method by method."""
    for label, group in groupby(job.open, key=lambda row: row[1].label):
        for position, method in group:
            yield _answer(asked, job, position, method)
        job.heats = {key: heat for key, heat in job.heats.items() if key[0] != label}


def _answer(asked: Asked, job: Job, position: int, method: Method) -> dict[str, Any]:
    """One row: what was asked, what was found, or what went wrong."""
    example, taken = job.examples[position], asked.measures(job.image)
    row: dict[str, Any] = {
        "example": position,
        **{name: getattr(example, name) for name in ("source", "image_id", "category", "prompt")},
        "question": job.questions[position],
        "method": method.label,
        "k": method.k,
        "place": asked.methods.index(method),
        "model": asked.model.name,
        "preset": asked.preset.label,
        "measures": ",".join(sorted(taken)),
        "error": None,
    }
    start = time.perf_counter()
    try:
        trace = job.trace
        if not isinstance(trace, Trace):
            raise trace or ValueError("The photo was not looked at.")
        row["width"], row["height"] = trace.photo.size
        example = placed(example, trace.photo.size)
        heat, row["seconds"] = _heat(job, trace, position, method)
        seen = Seen(
            trace, example, heat, asked.preset, job.names, asked.points,
            others=partial(_others, job, trace, position, method),
            random=partial(asked.random.heatmap, trace, example.prompt, method),
        )  # fmt: skip
        found: dict[str, Any] = {"logit": heat.logit}
        for name in taken:
            found |= MEASURES[name](seen)
        return row | found
    except Exception as error:  # NaN weights, no memory, a broken photo: a row, not the end
        seconds = time.perf_counter() - start
        return row | BLANK | {"error": f"{type(error).__name__}: {error}", "seconds": seconds}


def _heat(job: Job, trace: Trace, position: int, method: Method) -> tuple[Heatmap, float]:
    """A heatmap and its seconds; made once, also where a measure needs those of other prompts."""
    key = method.label, position
    if key not in job.heats:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownPromptWarning)  # the caller chose the prompts
            heat = heatmap(trace, job.examples[position].prompt, method.name, **method.options)
        shared = job.shared if method.plain else 0.0
        job.heats[key] = heat, time.perf_counter() - start + shared
    return job.heats[key]


def _others(job: Job, trace: Trace, position: int, method: Method) -> list[Heatmap]:
    """Heatmaps of the image's other prompts; one that fails has a row of its own to say so."""
    heats = []
    for other in job.examples:
        with suppress(Exception):
            if other != position:
                heats.append(_heat(job, trace, other, method)[0])
    return heats
