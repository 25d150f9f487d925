"""The runner: examples × methods × measures → one row each, kept so that nothing is done twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pyarrow.compute as pc
from PIL import Image
from tqdm.auto import tqdm

from gscam_lib import __version__
from gscam_lib.boxes import Heatmap
from gscam_lib.datasets import Example
from gscam_lib.evaluation import faithfulness
from gscam_lib.evaluation.measures import (
    BLANK,
    MEASURES,
    Preset,
    Seen,
    check_measures,
    find_preset,
)
from gscam_lib.evaluation.questions import tabulate
from gscam_lib.evaluation.rows import Rows, open_rows, read_rows
from gscam_lib.heatmaps import check_method, heatmap, prefetch
from gscam_lib.methods import METHODS, read_method
from gscam_lib.model.photo import load_photo
from gscam_lib.model.prompts import UnknownPromptWarning
from gscam_lib.trace import Model, Trace, load_model

LOOK_AHEAD = 4  # photos decoded while the model computes
PACK = 8  # photos whose masked copies may share batches: so many traces are in memory at most


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
    "gscorecam:ranking=variance", or "all" that fit the tower; k: for methods that rank channels and
    have none of their own; measures: names in MEASURES; measured_images: localization for all, the
    other measures for the first so many images; slow_images: methods with a pass for each channel
    or mask see only so many; limit: all see only so many. preset: "clean", "paper" (Chen et al.
    2022: inclusive pixels), or a Preset. out: a folder that keeps the rows as they come; a later
    call goes on where this one ended, and may add methods, measures and questions; retry: and does
    the rows with errors again. shard: (i, n), the i-th of n parts of the images.
    Raises ValueError for bad arguments and for a folder that holds another run.
    """
    asked = _Asked.of(model, methods, k, measures, measured_images, slow_images, preset)
    if not (len(shard) == 2 and 0 <= shard[0] < shard[1]):
        raise ValueError(f"Got shard={shard}; expected (i, n) with 0 ≤ i < n.")
    examples = dataset if isinstance(dataset, Sequence) else list(dataset)
    questions = tabulate(examples)
    if limit is not None:
        questions = questions.filter(pc.field("image") < limit)
    rows = Rows(out, manifest(model, asked.preset), questions)
    left = open_rows(
        rows, asked.keys, shard=shard, retry=retry, images=asked.images,
        measures=(asked.few, asked.all), measured_images=measured_images,
    )  # fmt: skip
    bar = tqdm(desc=model.name, total=len(left), disable=not progress, unit="row")
    with bar, rows:
        errors = 0
        for job in _traced(asked, _jobs(asked, examples, questions, left)):
            for row in _answers(asked, job):
                rows.add(row)
                errors += row["error"] is not None
                bar.set_postfix(errors=errors, refresh=False)
                bar.update()
            job.trace = None  # the next pack is made while this one is still referred to
    return rows.answers(asked.keys)


def manifest(model: Model, preset: Preset) -> dict[str, Any]:
    """What all rows of a run share; a folder with another manifest is refused."""
    return {
        "library": __version__,
        "model": {
            "name": model.name,
            "weights": model.weights_sha,
            "layer": model.layer.name,
            "input": model.input_size,
            "precision": model.precision,
        },
        "preset": {key: _plain(value) for key, value in preset.settings().items()},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merge(folder: Path | str) -> pd.DataFrame:
    """All rows of a folder, each question once for each method, in the order of the data.

    Raises FileNotFoundError for a folder without parts, and ValueError where parts were made with
    other weights, presets or versions, saying which.
    """
    return read_rows(folder)


def methods_for(model: Model) -> list[str]:
    """Names of the methods, controls included, that are defined for a model's image tower."""
    return [m.name for m in METHODS.values() if model.tower in m.towers]


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
    jobs = [
        executor.submit(_shard, model_name, dataset, list(methods), str(out), (i, shards), how)
        for i in range(shards)
    ]
    bar = tqdm(jobs, disable=not progress, unit="shard")
    failures = [error for job in bar if (error := job.exception()) is not None]
    if failures:
        raise failures[0]
    return merge(out)


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


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class _Method:
    """One method of a run: as it is written, by name and options; k as rows have it."""

    label: str
    name: str
    options: dict[str, Any]
    k: int | None

    @property
    def plain(self) -> bool:
        """Whether its channels can be embedded in batches shared with other photos."""
        return self.name == "gscorecam" and set(self.options) <= {"k"}


@dataclass(frozen=True)
class _Asked:
    """All that is asked of every photo."""

    model: Model
    methods: Sequence[_Method]
    few: tuple[str, ...]
    all: tuple[str, ...]
    measured_images: int | None
    images: Sequence[int | None]
    preset: Preset
    random: _RandomTwin

    @classmethod
    def of(
        cls, model: Model, methods: Sequence[str], k: int | None, measures: Sequence[str],
        measured_images: int | None, slow_images: int | None, preset: str | Preset,
    ) -> _Asked:  # fmt: skip
        """Everything checked before the work. Raises ValueError."""
        if isinstance(methods, str):
            methods = [methods]
        names = [m for label in methods for m in ([label] if label != "all" else methods_for(model))]
        read = [_method(model, label, k) for label in dict.fromkeys(names)]
        if not read:
            raise ValueError("Got no methods; expected names such as 'gscorecam'.")
        taken = check_measures(measures)
        few = taken if measured_images is None else ("localization",)
        images = [slow_images if METHODS[m.name].slow else None for m in read]
        return cls(
            model, read, few, tuple(dict.fromkeys([*few, *taken])), measured_images, images,
            find_preset(preset), _RandomTwin(model),
        )  # fmt: skip

    @property
    def keys(self) -> list[tuple[str, int | None]]:
        """What names each method's rows."""
        return [(method.label, method.k) for method in self.methods]

    def measures(self, image: int) -> tuple[str, ...]:
        """Measures that are taken of a photo."""
        first = self.measured_images is None or image < self.measured_images
        return self.all if first else self.few


def _method(model: Model, label: str, k: int | None) -> _Method:
    name, options = read_method(label, k)
    check_method(name, **options)
    used = options.get("k")
    if used is None and "k" in METHODS[name].options:
        used = model.default_k
    if used is not None and used > model.channels:
        raise ValueError(
            f"Got k={used} for {label!r}; layer '{model.layer.name}' of {model.name} has "
            f"{model.channels} channels."
        )
    return _Method(label, name, options, used)


@dataclass
class _Job:
    """A photo, all its questions, and the rows that are still to be made.

    shared: seconds of each gScoreCAM row's part of shared batches.
    """

    image: int
    examples: dict[int, Example]
    facts: dict[int, dict[str, Any]]
    open: list[tuple[int, _Method]]
    names: Sequence[str]
    trace: Trace | Exception | None = None
    shared: float = 0.0
    heats: dict[tuple[str, int], tuple[Heatmap, float]] = field(default_factory=dict)

    @property
    def asked(self) -> list[tuple[str, int]]:
        """Prompts and k of the plain gScoreCAM rows."""
        return [(self.examples[i].prompt, m.k or 1) for i, m in self.open if m.plain]


def _jobs(asked: _Asked, examples: Sequence[Example], questions: Any, left: Any) -> Iterator[_Job]:
    """Photo by photo; the examples of one are made when it comes."""
    order = pc.sort_indices(questions, [("image", "ascending"), ("position", "ascending")])
    images, positions = (questions[c].take(order).to_numpy() for c in ("image", "position"))
    names: Sequence[str] = ()
    if {"insertion", "deletion"} & set(asked.all):
        names = questions["prompt"].unique().to_pylist()
    columns = ("question", "classes", "area")
    for image, rows in groupby(_records(left), key=lambda row: row[1]):
        begin, end = images.searchsorted([image, image + 1])
        mine = [int(p) for p in positions[begin:end]]
        about = questions.select(columns).take(order[begin:end]).to_pylist()
        yield _Job(
            image, {p: examples[p] for p in mine}, dict(zip(mine, about, strict=True)),
            [(p, asked.methods[number]) for p, _, number in rows], names,
        )  # fmt: skip


def _records(table: Any) -> Iterator[tuple[int, int, int]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# ---------------------------------------------------------------- photos and their traces


def _traced(asked: _Asked, jobs: Iterator[_Job]) -> Iterator[_Job]:
    """Jobs with their traces, in packs whose masked copies fill a batch."""
    pack: list[_Job] = []
    for job in _looked_at(asked.model, jobs):
        pack.append(job)
        copies = [sum(k for _, k in job.asked) for job in pack]
        if not copies[-1] or sum(copies) >= asked.model.batch_size or len(pack) == PACK:
            _share_batches(pack)
            yield from pack
            pack = []
    _share_batches(pack)
    yield from pack


def _looked_at(model: Model, jobs: Iterator[_Job]) -> Iterator[_Job]:
    """Each job with its trace, or what went wrong; photos are read ahead by threads."""
    with ThreadPoolExecutor(2) as pool:
        waiting: list[tuple[_Job, Any]] = []
        for job in jobs:
            waiting.append((job, pool.submit(_photo, next(iter(job.examples.values())).image)))
            if len(waiting) > LOOK_AHEAD:
                yield _with_trace(model, *waiting.pop(0))
        while waiting:
            yield _with_trace(model, *waiting.pop(0))


def _photo(image: Any) -> Image.Image | Exception:
    try:
        return load_photo(image)
    except Exception as error:  # whatever is wrong with a file, the run goes on
        return error


def _with_trace(model: Model, job: _Job, reading: Any) -> _Job:
    photo = reading.result()
    try:
        job.trace = photo if isinstance(photo, Exception) else model.trace(photo)
    except Exception as error:
        job.trace = error
    return job


def _share_batches(pack: Sequence[_Job]) -> None:
    """Embed what gScoreCAM will ask of several photos, in full batches.

    Whatever fails here fails again in the row that it belongs to, and in no other.
    """
    start, rows = time.perf_counter(), 0
    by_k: dict[int, list[tuple[Trace, list[str]]]] = {}
    for job in pack:
        if isinstance(job.trace, Trace):
            rows += len(job.asked)
            for k in dict.fromkeys(k for _, k in job.asked):
                prompts = _ranked(job.trace, [p for p, used in job.asked if used == k])
                by_k.setdefault(k, []).append((job.trace, prompts))
    for k, requests in by_k.items():
        with suppress(Exception):
            prefetch(requests, k)
    for job in pack:
        job.shared = (time.perf_counter() - start) / max(1, rows)


def _ranked(trace: Trace, prompts: Sequence[str]) -> list[str]:
    """The prompts for which channels can be ranked; one backward pass for all, if it can be."""
    good = []
    with suppress(Exception):
        trace.prepare(prompts)
    for prompt in prompts:
        with suppress(Exception):
            trace.ranking(prompt)
            good.append(prompt)
    return good


# ---------------------------------------------------------------- rows


def _answers(asked: _Asked, job: _Job) -> Iterator[dict[str, Any]]:
    """The open rows of a photo, method by method."""
    for label, group in groupby(job.open, key=lambda row: row[1].label):
        for position, method in group:
            yield _answer(asked, job, position, method)
        job.heats = {key: heat for key, heat in job.heats.items() if key[0] != label}


def _answer(asked: _Asked, job: _Job, position: int, method: _Method) -> dict[str, Any]:
    """One row: what was asked, what was found, or what went wrong."""
    example, taken = job.examples[position], asked.measures(job.image)
    row: dict[str, Any] = {
        "example": position,
        **{name: getattr(example, name) for name in ("source", "image_id", "category", "prompt")},
        **job.facts[position],
        "method": method.label,
        "k": method.k,
        "place": asked.methods.index(method),
        "model": asked.model.name,
        "preset": asked.preset.label,
        "measures": sorted(taken),
        "error": None,
    }
    start = time.perf_counter()
    try:
        trace = job.trace
        if not isinstance(trace, Trace):
            raise trace or ValueError("The photo was not looked at.")
        row["width"], row["height"] = trace.photo.size
        heat, row["seconds"] = _heat(job, trace, position, method)
        seen = Seen(
            trace, example, heat, asked.preset, job.names,
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


def _heat(job: _Job, trace: Trace, position: int, method: _Method) -> tuple[Heatmap, float]:
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


def _others(job: _Job, trace: Trace, position: int, method: _Method) -> list[Heatmap]:
    """Heatmaps of the image's other prompts; one that fails has a row of its own to say so."""
    heats = []
    for other in job.examples:
        with suppress(Exception):
            if other != position:
                heats.append(_heat(job, trace, other, method)[0])
    return heats


class _RandomTwin:
    """Heatmaps of the same model, its image tower random from the top to the input."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._twin: Model | None = None
        self._last: Trace | None = None

    def heatmap(self, trace: Trace, prompt: str, method: _Method) -> Heatmap:
        """The twin's heatmap of a photo; one trace serves questions about one photo in a row."""
        if self._twin is None:
            *_, (_, self._twin) = faithfulness.cascade(self._model)
        if self._last is None or self._last.photo is not trace.photo:
            self._last = self._twin.trace(trace.photo)
        return heatmap(self._last, prompt, method.name, **method.options)


