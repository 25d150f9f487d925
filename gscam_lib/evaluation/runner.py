"""Evaluation: examples × methods → one row each, kept in parts so that nothing is done twice."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from gscam_lib import __version__
from gscam_lib.boxes import (
    Box,
    Rule,
    Threshold,
    check_rule,
    check_threshold,
    heatmap_to_box,
    hot_pixels,
)
from gscam_lib.datasets.example import Example
from gscam_lib.datasets.outlines import to_rle
from gscam_lib.evaluation import metrics
from gscam_lib.evaluation.rows import SCHEMA, Parts
from gscam_lib.heatmaps import check_method, heatmap, prefetch
from gscam_lib.methods import METHODS, read_method
from gscam_lib.model.photo import load_photo
from gscam_lib.model.prompts import UnknownPromptWarning
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model, load_model

KEY = ["source", "image_id", "category", "prompt", "method", "k"]
LOOK_AHEAD = 4  # photos decoded while the model computes
PACK = 8  # photos whose masked copies may share batches: so many traces are in memory at most
Group: TypeAlias = list[tuple[int, Example]]  # the examples of one image, with their positions


@dataclass(frozen=True)
class Preset:
    """How a heatmap becomes a box and how the box is judged; the photo is squashed in all.

    inclusive: count the last pixel as inside; empty_box: the box of a map that has no region;
    threshold, rule: see `boxes.heatmap_to_box`. Raises ValueError for those that do not exist.
    """

    name: str
    inclusive: bool = False
    empty_box: tuple[int, int, int, int] | None = None
    threshold: Threshold = "otsu"
    rule: Rule = "largest_rectangle"

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_rule(self.rule)

    @property
    def label(self) -> str:
        """The name; with all settings where it is not a preset of this library."""
        return self.name if PRESETS.get(self.name) == self else str(self)


PRESETS = {
    "clean": Preset("clean", inclusive=False, empty_box=None),
    "paper": Preset("paper", inclusive=True, empty_box=(0, 0, 1, 1)),
}


def evaluate(
    model: Model,
    dataset: Iterable[Example],
    methods: Sequence[str] = ("gscorecam",),
    *,
    k: int | None = None,
    preset: str | Preset = "clean",
    out: Path | str | None = None,
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
    progress: bool = False,
    trace: Callable[[Image.Image], Trace] | None = None,
) -> pd.DataFrame:
    """Localize every example with every method: one row for each pair, in the order of the data.

    Columns: example (position), source, image_id, category, prompt, method, k, x0, y0, x1, y1, iou
    (best over the true boxes), hit (iou ≥ 0.5), pointing, energy, logit, seconds, error, model,
    preset, mask (the hot pixels inside the box as "height x width:COCO's counts"). What fails
    becomes a row with its error and never stops the run. Examples of one image that follow each
    other share its trace, and images share the batches of gScoreCAM's masked copies where k is
    small. methods: names in METHODS, with options behind them where wanted, such as
    "gscorecam:ranking=variance"; k: for methods that rank channels and have none of their own.

    preset: "clean", "paper" (Chen et al. 2022: inclusive pixels), or a Preset. out: a folder; rows
    are kept there as they come, and a later call with the same arguments goes on where this one
    ended; retry: and does the rows with errors again. shard: (i, n), do the i-th of n parts of the
    images. trace: makes the trace of a photo, None for `model.trace`. Raises ValueError for bad
    arguments and for a folder that holds another run.
    """
    preset = find_preset(preset)
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"Got shard={shard}; expected (i, n) with 0 ≤ i < n.")
    for method in methods:
        name, options = read_method(method)
        check_method(name, **options)
    parts = Parts(out, run_id(model, preset.label))
    earlier = [row for row in parts.rows() if not (retry and row["error"])]
    asked = _Questions(model, methods, k, set(map(_key, earlier)))
    groups = list(_groups(dataset))[shard[0] :: shard[1]]
    total = sum(map(len, groups)) * len(methods)
    counts = [len(asked.open(group)) for group in groups]
    errors = sum(row["error"] is not None for row in earlier)
    still = [group for group, count in zip(groups, counts, strict=True) if count]
    with (
        tqdm(
            desc=model.name, total=total, initial=total - sum(counts), disable=not progress,
            unit="row",
        ) as bar,
        parts,
    ):  # fmt: skip
        for pack in _packs(asked, still, trace or model.trace):
            _share_batches(pack, k)
            for row in _rows(pack, preset):
                errors += row["error"] is not None
                parts.add(row)
                bar.set_postfix(errors=errors, refresh=False)
                bar.update()
    return _frame(parts.rows())


def find_preset(preset: str | Preset) -> Preset:
    """A preset by its name, or as it is; raises ValueError for a name that does not exist."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"No preset '{preset}'. There are: {', '.join(PRESETS)}.")
    return PRESETS[preset]


def run_id(model: Model, preset: str) -> dict[str, str]:
    """What rows must share to be put in one table: model, weights, preset, library version."""
    return {
        "model": model.name,
        "weights": model.weights_sha,
        "layer": model.layer.name,
        "preset": preset,
        "version": __version__,
    }


def merge(folder: Path | str) -> pd.DataFrame:
    """All rows of a folder, each question once, in the order of the data.

    Raises FileNotFoundError for a folder without parts, and ValueError where parts were made with
    other weights, presets or versions, saying which.
    """
    return _frame(Parts.read(folder))


def evaluate_shards(
    executor: Executor,
    model_name: str,
    dataset: Sequence[Example],
    methods: Sequence[str],
    out: Path | str,
    *,
    shards: int,
    k: int | None = None,
    preset: str | Preset = "clean",
    retry: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Run the shards of an evaluation on any concurrent.futures executor, and merge them.

    Each worker loads the model once, from its name; its threads take turns. Dask:
    `client.get_executor()`; SLURM: `submitit.AutoExecutor`. A failed shard raises its error here
    after the others have ended; what was computed stays in `out`.
    """
    jobs = [
        executor.submit(
            _evaluate_shard, model_name, list(dataset), list(methods), str(out), (i, shards), k,
            preset, retry,
        )
        for i in range(shards)
    ]  # fmt: skip
    bar = tqdm(jobs, disable=not progress, unit="shard")
    failures = [error for job in bar if (error := _failure(job)) is not None]
    if failures:
        raise failures[0]
    return merge(out)


def known_examples(model: Model, dataset: Iterable[Example]) -> list[Example]:
    """The examples whose prompt a model with a closed vocabulary knows; all for other models."""
    return [example for example in dataset if model.knows(example.prompt).known]


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Per method: pairs, share of hits with its 95 % interval over images, mean IoU, and more.

    Columns: pairs, hits, low, high, macro (mean over classes of their shares of hits), mean IoU,
    median IoU, pointing, energy, seconds (median), errors. Faulty rows count as misses.
    """
    table = {}
    for method, group in rows.groupby("method", sort=False):
        hit = group["hit"].astype(float)
        low, high = metrics.bootstrap_interval(hit.to_numpy(), group["image_id"].to_numpy())
        table[method] = {
            "pairs": len(group),
            "hits": hit.mean(),
            "low": low,
            "high": high,
            "macro": hit.groupby(group["category"]).mean().mean(),
            "mean IoU": group["iou"].mean(),
            "median IoU": group["iou"].median(),
            "pointing": group["pointing"].astype(float).mean(),
            "energy": group["energy"].mean(),
            "seconds": group["seconds"].median(),
            "errors": int(group["error"].notna().sum()),
        }
    return pd.DataFrame.from_dict(table, orient="index")


def compare(rows: pd.DataFrame, a: str, b: str, *, column: str = "iou") -> dict[str, float]:
    """Paired difference of two methods on the questions both answered, over images.

    Returns difference (a − b), low, high, p; see `metrics.paired_difference`. Raises ValueError for
    methods without common rows.
    """
    wide = rows.pivot_table(index=["image_id", "prompt"], columns="method", values=column)
    if not {a, b} <= set(wide.columns):
        raise ValueError(f"Got {a!r} and {b!r}; these rows have {', '.join(wide.columns)}.")
    both = wide[[a, b]].dropna()
    images = both.index.get_level_values("image_id").to_numpy()
    return metrics.paired_difference(both[a].to_numpy(), both[b].to_numpy(), images)


# ---------------------------------------------------------------- one image, one question


def _groups(dataset: Iterable[Example]) -> Iterator[Group]:
    for _, group in groupby(enumerate(dataset), key=lambda e: (e[1].source, e[1].image_id)):
        yield list(group)


def _photos(groups: list[Group]) -> Iterator[tuple[Group, Any]]:
    """Each group with its decoded photo, or the error of it, read ahead by threads."""
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(_photo, group) for group in groups[:LOOK_AHEAD]]
        for i, group in enumerate(groups):
            if i + LOOK_AHEAD < len(groups):
                waiting.append(pool.submit(_photo, groups[i + LOOK_AHEAD]))
            photo = waiting[i].result()
            waiting[i] = None  # type: ignore[call-overload]
            yield group, photo


def _photo(group: Group) -> Any:
    try:
        return load_photo(group[0][1].image)
    except Exception as error:  # whatever is wrong with a file, the run goes on
        return error


@dataclass(frozen=True)
class _Questions:
    """What is asked of every example, less what is done."""

    model: Model
    methods: Sequence[str]
    k: int | None
    done: set[tuple[Any, ...]]

    def open(self, group: Group) -> list[tuple[dict[str, Any], Example]]:
        """The rows of a group that are still to be made, each begun, beside its example."""
        rows = [(self._begin(*pair, method), pair[1]) for pair in group for method in self.methods]
        return [(row, example) for row, example in rows if _key(row) not in self.done]

    def _begin(self, position: int, example: Example, method: str) -> dict[str, Any]:
        name, options = read_method(method, self.k)
        used = options.get("k")
        if used is None and "k" in METHODS[name].options:
            used = self.model.default_k  # asked first, it traces a blank photo
        about = {key: getattr(example, key) for key in ("source", "image_id", "category", "prompt")}
        return {"example": position, **about, "method": method, "k": used, "model": self.model.name}


@dataclass
class _Seen:
    """A photo that was looked at: its trace, or what went wrong, and its open rows.

    shared: seconds of each gScoreCAM row's part of shared batches.
    """

    trace: Trace | Exception | None
    rows: list[tuple[dict[str, Any], Example]]
    shared: float = 0.0

    @property
    def prompts(self) -> list[str]:
        """Those of which gScoreCAM is asked."""
        return [e.prompt for row, e in self.rows if row["method"] == "gscorecam"]

    @property
    def copies(self) -> int:
        """Masked copies that gScoreCAM needs, at most."""
        return sum(row["k"] for row, _ in self.rows if row["method"] == "gscorecam")


def _packs(
    asked: _Questions, groups: list[Group], look: Callable[[Image.Image], Trace]
) -> Iterator[list[_Seen]]:
    """Photos, traced, in packs whose masked copies fill a batch."""
    pack: list[_Seen] = []
    for group, photo in _photos(groups):
        trace = photo if isinstance(photo, Exception) else _trace(look, photo)
        pack.append(_Seen(trace, asked.open(group)))
        few = pack[-1].copies and sum(s.copies for s in pack) < asked.model.batch_size
        if not few or len(pack) == PACK:
            yield pack
            pack = []
    if pack:
        yield pack


def _share_batches(pack: Sequence[_Seen], k: int | None) -> None:
    """Embed what gScoreCAM will ask of several photos, in full batches.

    Whatever fails here fails again in the row that it belongs to, and in no other.
    """
    start = time.perf_counter()
    requests = [
        (seen.trace, _ranked(seen.trace, seen.prompts))
        for seen in pack
        if isinstance(seen.trace, Trace)
    ]
    with suppress(Exception):
        prefetch(requests, k)
    rows = sum(len(prompts) for _, prompts in requests)
    for seen in pack:
        seen.shared = (time.perf_counter() - start) / max(1, rows)


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


def _rows(pack: Sequence[_Seen], preset: Preset) -> Iterator[dict[str, Any]]:
    for seen in pack:
        for row, example in seen.rows:
            if seen.trace is not None:
                found = _localize(seen.trace, example, row["method"], row["k"], preset)
                found["seconds"] += seen.shared if row["method"] == "gscorecam" else 0.0
                yield row | found | {"preset": preset.label}
        seen.trace = None  # the next pack is made while this one is still referred to


def _trace(look: Callable[[Image.Image], Trace], photo: Image.Image) -> Trace | Exception:
    try:
        return look(photo)
    except Exception as error:
        return error


def _localize(
    trace: Trace | Exception, example: Example, method: str, k: int | None, preset: Preset
) -> dict[str, Any]:
    start = time.perf_counter()
    row: dict[str, Any] = dict.fromkeys(("x0", "y0", "x1", "y1", "logit", "mask"))
    row |= {"iou": 0.0, "hit": False, "pointing": False, "energy": 0.0, "error": None}
    try:
        if isinstance(trace, Exception):
            raise trace
        _check_truth(example, trace.photo.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownPromptWarning)  # the caller chose the prompts
            name, options = read_method(method, k)
            heat = heatmap(trace, example.prompt, name, **options)
        found = heatmap_to_box(heat, threshold=preset.threshold, rule=preset.rule)
        row["seconds"] = time.perf_counter() - start
        row["logit"] = heat.logit
        box = found or preset.empty_box
        if box is not None:
            row |= dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
            row["mask"] = _mask(hot_pixels(heat.values, preset.threshold), box)
        row["iou"] = metrics.best_iou(box, example.boxes, inclusive=preset.inclusive)
        row["hit"] = row["iou"] >= 0.5
        mask = example.mask
        if mask is None:
            mask = metrics.boxes_to_mask(example.boxes, heat.values.shape)
        row["pointing"] = not heat.flat and metrics.pointing_hit(heat.values, mask)
        row["energy"] = metrics.energy_inside(heat.values, mask)
    except Exception as error:  # NaN weights, no memory, a broken photo: a row, not the end
        row["error"] = f"{type(error).__name__}: {error}"
        row["seconds"] = time.perf_counter() - start
    return row


def _check_truth(example: Example, size: tuple[int, int]) -> None:
    """Raise ValueError for a true box that has no area or lies outside the photo."""
    width, height = size
    for x0, y0, x1, y1 in example.boxes:
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            raise ValueError(
                f"The true box ({x0}, {y0}, {x1}, {y1}) of '{example.category}' has no area inside "
                f"the photo of {width} × {height} pixels; expected x0 < x1 and y0 < y1, in pixels."
            )


def _mask(hot: np.ndarray[Any, Any], box: Box) -> str:
    """The hot pixels inside a box as COCO's run lengths, with their size before them."""
    x0, y0, x1, y1 = box
    inside = np.zeros_like(hot)
    inside[y0:y1, x0:x1] = hot[y0:y1, x0:x1]
    height, width = hot.shape
    return f"{height}x{width}:{to_rle(inside)['counts']}"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(None if pd.isna(row[c]) else row[c] for c in KEY)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=SCHEMA.names)
    whole = ["k", "x0", "y0", "x1", "y1"]
    frame[whole] = frame[whole].astype("Int64")
    frame["error"] = frame["error"].astype(object).where(frame["error"].notna(), None)
    order = {method: i for i, method in enumerate(dict.fromkeys(frame["method"]))}
    rank = frame["method"].map(order)
    frame = frame.assign(_rank=rank, _bad=frame["error"].notna())  # of two, the one that worked
    frame = frame.sort_values(["example", "_rank", "_bad"], kind="stable").drop_duplicates(KEY)
    return frame.drop(columns=["_rank", "_bad"]).reset_index(drop=True)


# ---------------------------------------------------------------- in a worker


_LOADING = Lock()  # so that threads which start together load one model


@lru_cache(maxsize=1)
def _loaded(name: str) -> Model:
    return load_model(name)


def _evaluate_shard(
    model_name: str,
    dataset: list[Example],
    methods: list[str],
    out: str,
    shard: tuple[int, int],
    k: int | None,
    preset: str | Preset,
    retry: bool,
) -> int:
    with _LOADING:
        model = _loaded(model_name)
    how: dict[str, Any] = {"k": k, "preset": preset, "shard": shard, "retry": retry}
    return len(evaluate(model, dataset, methods, out=out, **how))


def _failure(job: Any) -> BaseException | None:
    error: BaseException | None = job.exception()
    return error
