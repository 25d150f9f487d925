"""What is asked of each photo, and the photos with their traces, as the runner takes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from numbers import Integral
from typing import Any

import pyarrow.compute as pc
from PIL import Image

from gscam_lib.boxes import Heatmap
from gscam_lib.datasets import Example
from gscam_lib.evaluation import faithfulness
from gscam_lib.evaluation.measures import Preset, check_measures, find_preset
from gscam_lib.heatmaps import check_method, heatmap, prefetch
from gscam_lib.methods import METHODS, read_method
from gscam_lib.methods.method import check_k
from gscam_lib.model.photo import load_photo
from gscam_lib.trace import Model, Trace

LOOK_AHEAD = 4  # photos decoded while the model computes
MOST = 2**31  # of anything that is counted
PACK = 8  # photos whose masked copies may share batches: so many traces are in memory at most


def methods_for(model: Model) -> list[str]:
    """Names of the methods, controls included, that are defined for a model's image tower."""
    return [m.name for m in METHODS.values() if model.tower in m.towers]


@dataclass(frozen=True)
class Method:
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
class Asked:
    """All that is asked of every photo."""

    model: Model
    methods: Sequence[Method]
    few: tuple[str, ...]
    all: tuple[str, ...]
    measured_images: int | None
    images: Sequence[int | None]
    preset: Preset
    points: int
    random: RandomTwin

    @classmethod
    def of(
        cls, model: Model, methods: Sequence[str], k: int | None, measures: Sequence[str],
        measured_images: int | None, slow_images: int | None, preset: str | Preset, points: int,
    ) -> Asked:  # fmt: skip
        """Everything checked before the work. Raises ValueError."""
        if isinstance(methods, str):
            methods = [methods]
        lists = [methods_for(model) if label == "all" else [label] for label in methods]
        without = {label[1:] for label in methods if label.startswith("-")}
        if odd := sorted(without - set(METHODS)):
            raise ValueError(
                f"Got '-{odd[0]}', which is no method; there are {', '.join(METHODS)}."
            )
        names = [m for m in dict.fromkeys(chain(*lists)) if m[:1] != "-" and m not in without]
        read = [_method(model, label, k) for label in names]
        if not read:
            raise ValueError("Got no methods; expected names such as 'gscorecam'.")
        check_count("points", points, 2, "both ends of a curve")
        for name, value in (("measured_images", measured_images), ("slow_images", slow_images)):
            if value is not None:
                check_count(name, value, 0, "of images")
        taken = check_measures(measures)
        few = taken if measured_images is None else ("localization",)
        images = [slow_images if METHODS[m.name].slow else None for m in read]
        return cls(
            model, read, few, tuple(dict.fromkeys([*few, *taken])), measured_images, images,
            find_preset(preset), points, RandomTwin(model, find_preset(preset)),
        )  # fmt: skip

    @property
    def keys(self) -> list[tuple[str, int | None]]:
        """What names each method's rows."""
        return [(method.label, method.k) for method in self.methods]

    def measures(self, image: int) -> tuple[str, ...]:
        """Measures that are taken of a photo."""
        first = self.measured_images is None or image < self.measured_images
        return self.all if first else self.few


def check_count(name: str, value: Any, least: int, what: str) -> None:
    """Raises ValueError for what is no whole number from `least` to MOST."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= MOST:
        raise ValueError(f"Got {name}={value!r}; expected a whole number from {least} on, {what}.")


def _method(model: Model, label: str, k: int | None) -> Method:
    name, options = read_method(label, k)
    check_method(name, **options)
    used = options.get("k")
    if used is None and "k" in METHODS[name].options:
        used = model.default_k
    if used is not None:
        used = check_k(used, model.channels)
    return Method(label, name, options, used)


@dataclass
class Job:
    """A photo, all its questions, and the rows that are still to be made.

    shared: seconds of each gScoreCAM row's part of shared batches.
    """

    image: int
    examples: dict[int, Example]
    questions: dict[int, str]
    open: list[tuple[int, Method]]
    names: Sequence[str]
    trace: Trace | Exception | None = None
    shared: float = 0.0
    heats: dict[tuple[str, int], tuple[Heatmap, float]] = field(default_factory=dict)

    @property
    def asked(self) -> list[tuple[str, int]]:
        """Prompts and k of the plain gScoreCAM rows."""
        return [(self.examples[i].prompt, m.k or 1) for i, m in self.open if m.plain]


def jobs(asked: Asked, examples: Sequence[Example], questions: Any, left: Any) -> Iterator[Job]:
    """Photo by photo; the examples of one are made when it comes."""
    order = pc.sort_indices(questions, [("image", "ascending"), ("position", "ascending")])
    images, positions = (questions[c].take(order).to_numpy() for c in ("image", "position"))
    names: Sequence[str] = ()
    if {"insertion", "insertion_rise", "deletion"} & set(asked.all):
        names = questions["prompt"].unique().to_pylist()
    for image, rows in groupby(_records(left), key=lambda row: row[1]):
        begin, end = images.searchsorted([image, image + 1])
        mine = [int(p) for p in positions[begin:end]]
        about = questions["question"].take(order[begin:end]).to_pylist()
        yield Job(
            image, {p: examples[p] for p in mine}, dict(zip(mine, about, strict=True)),
            [(p, asked.methods[number]) for p, _, number in rows], names,
        )  # fmt: skip


def _records(table: Any) -> Iterator[tuple[int, int, int]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# ---------------------------------------------------------------- photos and their traces


def traced(asked: Asked, jobs: Iterator[Job]) -> Iterator[Job]:
    """Jobs with their traces, in packs whose masked copies fill a batch."""
    pack: list[Job] = []
    for job in _looked_at(asked, jobs):
        pack.append(job)
        copies = [sum(k for _, k in job.asked) for job in pack]
        if not copies[-1] or sum(copies) >= asked.model.batch_size or len(pack) == PACK:
            _share_batches(pack)
            yield from pack
            pack = []
    _share_batches(pack)
    yield from pack


def _looked_at(asked: Asked, jobs: Iterator[Job]) -> Iterator[Job]:
    """Each job with its trace, or what went wrong; photos are read ahead by threads."""
    with ThreadPoolExecutor(2) as pool:
        read = partial(_photo, turn=asked.preset.turn)
        waiting: list[tuple[Job, Any]] = []
        for job in jobs:
            waiting.append((job, pool.submit(read, next(iter(job.examples.values())).image)))
            if len(waiting) > LOOK_AHEAD:
                yield _with_trace(asked, *waiting.pop(0))
        while waiting:
            yield _with_trace(asked, *waiting.pop(0))


def _photo(image: Any, *, turn: bool) -> Image.Image | Exception:
    try:
        return load_photo(image, turn=turn)
    except Exception as error:  # whatever is wrong with a file, the run goes on
        return error


def _with_trace(asked: Asked, job: Job, reading: Any) -> Job:
    photo = reading.result()
    try:
        if isinstance(photo, Exception):
            raise photo
        job.trace = asked.model.trace(photo, preprocess=asked.preset.preprocess)
    except Exception as error:
        job.trace = error
    return job


def _share_batches(pack: Sequence[Job]) -> None:
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


class RandomTwin:
    """Heatmaps of the same model, its image tower random from the top to the input."""

    def __init__(self, model: Model, preset: Preset) -> None:
        self._model, self._preset = model, preset
        self._twin: Model | None = None
        self._last: Trace | None = None

    def heatmap(self, trace: Trace, prompt: str, method: Method) -> Heatmap:
        """The twin's heatmap of a photo; one trace serves questions about one photo in a row."""
        if self._twin is None:
            *_, (_, self._twin) = faithfulness.cascade(self._model)
        if self._last is None or self._last.photo is not trace.photo:
            self._last = self._twin.trace(trace.photo, preprocess=self._preset.preprocess)
        return heatmap(self._last, prompt, method.name, **method.options)
