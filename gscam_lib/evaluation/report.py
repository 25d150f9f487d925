"""Tables from rows: per method, per number of classes, size, k, prompt; beside what is published.

Rows are those of `evaluate` (one for each question and method) or of `measure` (one for each
measure). Intervals are bootstrap 95 % intervals over images. A table's `origin` says whose numbers
a line holds; published ones carry their tag.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gscam_lib.datasets.example import Example
from gscam_lib.evaluation import metrics
from gscam_lib.evaluation.measures import BINS, measure
from gscam_lib.evaluation.measures import SCHEMA as MEASURED_SCHEMA
from gscam_lib.evaluation.rows import Parts
from gscam_lib.evaluation.runner import Preset, evaluate, merge
from gscam_lib.heatmaps import check_method
from gscam_lib.methods import METHODS, read_method, title
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model

KEPT_TRACES = 8  # of RISE and SS-CAM, some 100 MB each
QUESTION = ["source", "image_id", "category", "prompt"]
CLASS_BINS = {"1–3": (1, 3), "4–6": (4, 6), "7–9": (7, 9), "10 and more": (10, np.inf)}

# ---------------------------------------------------------------- what is published

TAGS = {
    "P": "published, as printed",
    "C": "read from the authors' released code",
    "D": "derived from a released plot file",
}
PAPER = "Chen et al. 2022, COCO val2017, RN50x16 (HilaCAM: ViT-B/32)"


def _published() -> pd.DataFrame:
    bins = ("1–3", "4–6", "7–9")
    means = {
        "gscorecam": (0.350, 0.279, 0.248), "scorecam": (0.357, 0.276, 0.241),
        "gradcam": (0.241, 0.179, 0.166), "hilacam": (0.310, 0.212, 0.165),
    }  # fmt: skip
    medians = {
        "gscorecam": (0.345, 0.210, 0.145), "scorecam": (0.339, 0.188, 0.117),
        "gradcam": (0.193, 0.100, 0.070), "hilacam": (0.273, 0.122, 0.061),
    }  # fmt: skip
    pairs = dict(zip(bins, (1150, 2790, 874), strict=True))
    rows = [
        (kind, method, b, pairs[b] if tag == "D" else None, value, tag)
        for kind, found, tag in (("mean IoU", means, "D"), ("median IoU", medians, "P"))
        for method, row in found.items()
        for b, value in zip(bins, row, strict=True)
    ]
    rows.append(("hits", "gscorecam", "all", None, 0.2083, "C"))
    return pd.DataFrame(rows, columns=["statistic", "method", "group", "pairs", "value", "tag"])


PUBLISHED = _published()
"""Published values: statistic, method, group ("all" or classes in the image), pairs, value, tag."""


def published(groups: Iterable[str]) -> pd.DataFrame:
    """Published values of these groups in the form of this library's tables.

    A line for each method, group and tag; `origin` spells the tag out. Other settings than ours:
    other weights, the whole of COCO, the released code's IoU.
    """
    chosen = PUBLISHED[PUBLISHED["group"].isin(list(groups))]
    if chosen.empty:
        return pd.DataFrame(columns=["origin", "method", "group"])
    wide = chosen.pivot_table(
        index=["tag", "method", "group"], columns="statistic", values="value", sort=False
    )
    pairs = chosen.groupby(["tag", "method", "group"])["pairs"].max()
    wide = wide.join(pairs).reset_index()
    origins = [f"{PAPER}: {TAGS[tag]} [{tag}]" for tag in wide.pop("tag")]
    wide.insert(0, "origin", origins)
    return wide.rename_axis(columns=None)


# ---------------------------------------------------------------- rows to tables


def summary(rows: pd.DataFrame, by: str | Sequence[Hashable] | pd.Series | None = None) -> Any:
    """Boxes of each method, and of each group of rows: hits, IoU, pointing, with intervals.

    rows: of `evaluate`, or `wide` rows; by: a column, or one value for each row, None for all rows
    together. Columns: origin, method, group, pairs, images, hits (IoU ≥ 0.5), hits .3, hits .7,
    macro (mean over classes of the hits), mean IoU, median IoU, pointing, pointing macro, energy,
    each with low and high, and errors (which count as misses).
    """
    groups = pd.Series("all", rows.index) if by is None else _as_groups(rows, by)
    rows, groups = rows.reset_index(drop=True), groups.reset_index(drop=True)
    lines = []
    for (model, method), mine in rows.groupby(["model", "method"], sort=False):
        for group, part in mine.groupby(groups[mine.index], sort=False, observed=True):
            line = {"origin": f"ours: {model}", "method": method, "group": group}
            lines.append(line | _boxes(part))
    return pd.DataFrame(lines)


def _as_groups(rows: pd.DataFrame, by: Any) -> pd.Series:
    if isinstance(by, str):
        return rows[by]
    return by if isinstance(by, pd.Series) else pd.Series(list(by), rows.index)


def _boxes(part: pd.DataFrame) -> dict[str, Any]:
    images = (part["source"] + "/" + part["image_id"]).to_numpy()
    iou, classes = part["iou"].to_numpy(float), part["category"].to_numpy()
    hit = (iou >= 0.5).astype(float)
    line: dict[str, Any] = {"pairs": len(part), "images": len(set(images))}
    for name, delta in (("hits", 0.5), ("hits .3", 0.3), ("hits .7", 0.7)):
        reached = (iou >= delta).astype(float)
        line |= interval(name, reached.mean(), metrics.bootstrap_interval(reached, images))
    macro = metrics.macro_interval(hit, classes, images)
    line |= interval("macro", metrics.macro_mean(hit, classes), macro)
    line |= interval("mean IoU", iou.mean(), metrics.bootstrap_interval(iou, images))
    line |= interval("median IoU", np.median(iou), metrics.median_interval(iou, images))
    for name in ("pointing", "energy"):
        if name in part:
            values = part[name].to_numpy(float)
            line |= interval(name, values.mean(), metrics.bootstrap_interval(values, images))
    if "pointing" in part:  # the mean over classes, as TorchRay reports it
        values = part["pointing"].to_numpy(float)
        macro = metrics.macro_interval(values, classes, images)
        line |= interval("pointing macro", metrics.macro_mean(values, classes), macro)
    line["errors"] = int(part["error"].notna().sum()) if "error" in part else 0
    return line


def interval(name: str, value: float, bounds: metrics.Interval) -> dict[str, float]:
    """A value and its interval as three columns."""
    return {name: float(value), f"{name} low": bounds[0], f"{name} high": bounds[1]}


def per_class(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary of each class: `group` is the category."""
    return pd.DataFrame(summary(rows, "category"))


def compare_all(
    rows: pd.DataFrame, reference: str = "gscorecam", *, column: str = "iou"
) -> pd.DataFrame:
    """Every method against one, on the questions both answered.

    Columns: method, against, pairs, difference (method − reference) with low and high, p (sign
    flips over images), wilcoxon, and both corrected for the number of methods (Holm). Raises
    ValueError where the reference has no rows.
    """
    table = rows.pivot_table(index=QUESTION, columns="method", values=column, aggfunc="mean")
    if reference not in table:
        raise ValueError(f"No rows of '{reference}'; there are {', '.join(table.columns)}.")
    lines = []
    for method in table.columns.drop(reference):
        both = table[[method, reference]].dropna()
        if both.empty:
            continue
        images = both.index.map(lambda key: f"{key[0]}/{key[1]}").to_numpy()
        found = metrics.paired_difference(
            both[method].to_numpy(), both[reference].to_numpy(), images
        )
        lines.append({"method": method, "against": reference, "pairs": len(both)} | found)
    frame = pd.DataFrame(lines)
    if not frame.empty:
        for name in ("p", "wilcoxon"):
            frame[f"{name} (Holm)"] = metrics.holm(frame[name].to_numpy())
    return frame


# ---------------------------------------------------------------- the paper's analyses


def facts(dataset: Iterable[Example]) -> pd.DataFrame:
    """What is true of each question: how many classes its image has, how large its object is.

    Columns: source, image_id, category, prompt, classes, share (of the photo's area, of the largest
    box; NaN where the photo cannot be opened). Give all examples of an image, also those whose
    class a model does not know.
    """
    rows, sizes = [], dict[tuple[str, str], float]()
    for e in dataset:
        key = e.source, e.image_id
        if key not in sizes:
            sizes[key] = _area(e.image)
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in e.boxes]
        rows.append((*key, e.category, e.prompt, max(areas, default=0) / sizes[key]))
    frame = pd.DataFrame(rows, columns=[*QUESTION, "share"])
    counts = frame.groupby(["source", "image_id"])["category"].transform("nunique")
    return frame.assign(classes=counts)


def _area(image: Path | Image.Image) -> float:
    if isinstance(image, Image.Image):
        return image.width * image.height
    try:
        with Image.open(image) as opened:  # reads the header only
            return opened.width * opened.height
    except OSError:
        return float("nan")


def _with_facts(rows: pd.DataFrame, known: pd.DataFrame, column: str) -> pd.Series:
    keys = ["source", "image_id", "category"]
    values = known.drop_duplicates(keys).set_index(keys)[column]
    asked = pd.MultiIndex.from_frame(rows[keys])
    missing = ~asked.isin(values.index)
    if missing.any():
        raise ValueError(
            f"{missing.sum()} of {len(rows)} rows are of questions that the facts do not have. "
            "Make the facts from the data set that was evaluated."
        )
    return pd.Series(values.reindex(asked).to_numpy(), rows.index)


def by_classes(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The summary by number of classes in the image, beside the published values.

    rows: of `evaluate`; known: `facts` of its data set. Groups: 1–3, 4–6, 7–9, 10 and more.
    """
    classes = _with_facts(rows, known, "classes")
    names = [next(n for n, (low, high) in CLASS_BINS.items() if low <= c <= high) for c in classes]
    groups = pd.Series(pd.Categorical(names, list(CLASS_BINS), ordered=True), rows.index)
    ours = summary(rows, groups)
    return _beside(_in_order(ours, list(CLASS_BINS)), published(list(CLASS_BINS)))


def by_size(
    rows: pd.DataFrame, known: pd.DataFrame, *, edges: Sequence[float] | None = None
) -> pd.DataFrame:
    """The summary by the size of the object, the largest box's share of the photo, in five bins.

    edges: inner edges of the bins; None takes bins of as many questions each. Photos that cannot be
    opened have no size and are left out. The paper's values are not available.
    """
    share = _with_facts(rows, known, "share").astype(float)
    rows, share = rows[share.notna().to_numpy()], share.dropna()
    inner = (
        list(edges)
        if edges is not None
        else list(np.quantile(_once(rows, share), [0.2, 0.4, 0.6, 0.8]))
    )
    bounds = [0.0, *inner, 1.0]
    names = [f"{100 * a:.3g}–{100 * b:.3g} %" for a, b in pairwise(bounds)]
    index = np.searchsorted(inner, share.to_numpy(), side="left")
    groups = pd.Categorical([names[i] for i in index], list(dict.fromkeys(names)), ordered=True)
    table = summary(rows, pd.Series(groups, rows.index))
    return _in_order(table, names)


def _in_order(table: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Methods as they came, and the groups of each in this order."""
    methods = pd.factorize(table["method"])[0]
    order = np.lexsort([table["group"].map(list(groups).index), methods])
    return table.iloc[order].reset_index(drop=True)


def _once(rows: pd.DataFrame, values: pd.Series) -> pd.Series:
    """One value for each question, however many methods answered it."""
    return values[~rows[QUESTION].duplicated()]


def by_k(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary by k of the methods that rank channels; rows of runs with different k."""
    ranked = rows[rows["k"].notna()]
    if ranked.empty:
        raise ValueError("No rows with k; evaluate a method that ranks channels, e.g. gscorecam.")
    return pd.DataFrame(summary(ranked, "k")).sort_values(["method", "group"], ignore_index=True)


def by_form(rows: pd.DataFrame) -> pd.DataFrame:
    """The summary by form of the prompt: "a photo of a {}" for a prompt that names its category."""
    forms = [
        prompt.lower().replace(category.lower(), "{}")
        for prompt, category in zip(rows["prompt"], rows["category"], strict=True)
    ]
    return pd.DataFrame(summary(rows, forms))


def by_variant(measured: pd.DataFrame) -> pd.DataFrame:
    """The summary by ranking rule or k: rows of `measure` with the variants of these functions.

    The methods are the labels, such as "gscorecam, variance"; needs the measure "iou". The paper's
    values by ranking rule and by k are not available.
    """
    if "iou" not in set(measured["measure"]):
        raise ValueError('These rows have no measure "iou"; measure it too.')
    return pd.DataFrame(summary(wide(measured)))


def rankings(k: int | None = None, rules: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Variants of gScoreCAM for `measure`, one for each ranking rule of the paper, and random."""
    used = rules or ("mean", "abs_mean", "max_abs", "variance", "random")
    share = {} if k is None else {"k": k}
    return {f"gscorecam, {r}": {"method": "gscorecam", "ranking": r, **share} for r in used}


def k_variants(ks: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Variants of gScoreCAM for `measure`, one for each k, at the cost of the largest."""
    return {f"gscorecam, k = {k}": {"method": "gscorecam", "k": int(k)} for k in ks}


def runtime(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each method: for an image with all its prompts, and for a pair.

    What a trace keeps serves later prompts and methods, so the order of methods matters; the
    photo's own pass is not in it. Columns: seconds per image (median, 10 % and 90 % quantile),
    seconds per pair (median).
    """
    good = rows[rows["error"].isna()]
    image = good.groupby(["model", "method", "source", "image_id"], sort=False)["seconds"].sum()
    by = image.groupby(level=["model", "method"], sort=False)
    frame = pd.DataFrame({
        "seconds per image": by.median(), "10 %": by.quantile(0.1), "90 %": by.quantile(0.9),
        "seconds per pair": good.groupby(["model", "method"], sort=False)["seconds"].median(),
    })  # fmt: skip
    return frame.reset_index()


def _beside(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    theirs = theirs[theirs["method"].isin(set(ours["method"]) | {"hilacam", "gradcam"})]
    return ours if theirs.empty else pd.concat([ours, theirs], ignore_index=True)


# ---------------------------------------------------------------- rows of measure


def wide(measured: pd.DataFrame) -> pd.DataFrame:
    """Rows of `measure` with a column for each measure that is one number."""
    single = measured[measured["values"].map(lambda v: v is not None and len(v) == 1)]
    single = single.assign(value=single["values"].map(lambda v: v[0]))
    keys = [*QUESTION, "method", "model"]
    table = single.pivot_table(index=keys, columns="measure", values="value", sort=False)
    return table.reset_index().rename_axis(columns=None)


def scores(measured: pd.DataFrame) -> pd.DataFrame:
    """Means of all measures that are one number, and of those over whole thresholds or pixels.

    Columns: origin, method, then each measure with low and high: MaxBoxAcc (one region, δ = .5) and
    MaxBoxAccV2 from "ious_largest" and "ious", PxAP from "pixels", and the plain means; errors.
    """
    lines = []
    for (model, method), part in measured.groupby(["model", "method"], sort=False):
        line: dict[str, Any] = {"origin": f"ours: {model}", "method": method}
        for name, found in part.groupby("measure", sort=False):
            whole = found[found["values"].notna()]
            if len(whole):
                images = (whole["source"] + "/" + whole["image_id"]).to_numpy()
                values = np.stack([np.asarray(v, float) for v in whole["values"]])
                line |= _score(str(name), values, images)
        lines.append(line | {"errors": int(part["error"].notna().sum())})
    return pd.DataFrame(lines)


def _score(name: str, values: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> dict[str, Any]:
    if name == "ious_largest":
        bounds = metrics.max_box_acc_interval(values, images, deltas=[0.5])
        share, best = metrics.max_box_acc(values)
        threshold = {"MaxBoxAcc threshold": metrics.THRESHOLDS[best]}
        return interval("MaxBoxAcc", share, bounds) | threshold
    if name == "ious":
        bounds = metrics.max_box_acc_interval(values, images)
        return interval("MaxBoxAccV2", metrics.max_box_acc_v2(values), bounds)
    if name == "pixels":
        counts = values.reshape(-1, 2, BINS)
        bounds = metrics.pixel_average_precision_interval(counts, images)
        return interval("PxAP", metrics.average_precision(counts.sum(0)), bounds)
    return interval(name, values.mean(), metrics.bootstrap_interval(values[:, 0], images))


# ---------------------------------------------------------------- the table of all methods


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The table of all methods for one model and data set, and what it was made from.

    table: a line for each method; rows: of `evaluate`; measured: of `measure` on the first images;
    known: `facts`; about: model, weights, data.
    """

    table: pd.DataFrame
    rows: pd.DataFrame
    measured: pd.DataFrame
    known: pd.DataFrame
    about: str


BESIDE = ("prompt_sensitivity", "pointing_center")
"""Measures that stand beside hits and IoU in the table of all methods."""


def methods_for(model: Model) -> list[str]:
    """Names of the methods, controls included, that are defined for a model's image tower."""
    return [m.name for m in METHODS.values() if model.tower in m.towers]


def benchmark(
    model: Model,
    dataset: Sequence[Example],
    methods: Sequence[str] | None = None,
    *,
    out: Path | str | None = None,
    limit: int | None = None,
    measures: Sequence[str] = BESIDE,
    measured_images: int = 30,
    slow_images: int | None = None,
    preset: str | Preset = "clean",
    k: int | None = None,
    whole: Iterable[Example] | None = None,
    progress: bool = False,
) -> Benchmark:
    """The table: hits at IoU ≥ .5, mean IoU, pointing, prompt sensitivity, seconds, intervals.

    dataset: examples whose class the model knows; methods: None for all that fit the tower; limit:
    only the first images; measures: names in `measures.MEASURES`, taken on the first
    measured_images images, whose maps are made again; slow_images: methods with a pass for each
    channel or mask see only so many images, and pass them once if there are at most 8; out: a
    folder that keeps all rows, so that a later call goes on where this one ended; whole: all
    examples, where the model knows only some, so that the classes of an image are counted right.
    Raises ValueError as `evaluate` does.
    """
    chosen = list(methods_for(model) if methods is None else methods)
    examples = first_images(dataset, limit)
    kept: Mapping[str, Path] = {} if out is None else _folders(Path(out))
    read = {m: read_method(m, k) for m in chosen}
    for name, options in read.values():
        check_method(name, **options)
    slow = [m for m in chosen if slow_images is not None and METHODS[read[m][0]].slow]
    rows, measured = [], []
    for names, seen in (
        ([m for m in chosen if m not in slow], examples),
        (slow, first_images(examples, slow_images)),
    ):
        if not names:
            continue
        trace = _Traces(model) if names is slow else None
        found = evaluate(
            model, seen, names, k=k, preset=preset, out=kept.get("rows"), progress=progress,
            trace=trace,
        )  # fmt: skip
        rows.append(_only(found, names, seen))
        few = first_images(seen, measured_images) if measures and measured_images else []
        variants = {m: {"method": read[m][0], **read[m][1]} for m in names}
        found = measure(
            model, few, variants, measures, out=kept.get("measures"), progress=progress, trace=trace
        )
        measured.append(_only(found, names, seen))
    known = facts(dataset if whole is None else whole)
    table, beside = pd.concat(rows), pd.concat(measured)
    fewer = f"; {', '.join(slow)} on the first {slow_images} images" if slow else ""
    about = (
        f"weights: {model.name} ({model.weights_sha}); data: {examples[0].source}, "
        f"{len(set(table['image_id']))} images, {len(table[QUESTION].drop_duplicates())} pairs; "
        f"preset {preset}; "
        f"{', '.join(measures)} on at most {measured_images} images{fewer}; "
        "95 % intervals over images"
    )
    return Benchmark(overall(table, beside), table, beside, known, about)


class _Traces:
    """Traces of a model's latest photos: embeddings that took minutes serve whatever comes next."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept: dict[tuple[Any, ...], Trace] = {}

    def __call__(self, photo: Image.Image) -> Trace:
        key = photo.size, photo.tobytes()
        if key not in self._kept:
            while len(self._kept) >= KEPT_TRACES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._model.trace(photo)
        return self._kept[key]


def read(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Rows of `evaluate`, and of `measure` where there are any, of an evaluation or benchmark.

    Raises FileNotFoundError and ValueError as `merge` does.
    """
    places = _folders(Path(folder))
    rows = merge(places["rows"] if places["rows"].is_dir() else folder)
    if not places["measures"].is_dir():
        return rows, None
    return rows, pd.DataFrame(Parts.read(places["measures"]), columns=MEASURED_SCHEMA.names)


def _folders(folder: Path) -> dict[str, Path]:
    return {"rows": folder / "rows", "measures": folder / "measures"}


def _only(frame: pd.DataFrame, methods: Sequence[str], examples: Sequence[Example]) -> pd.DataFrame:
    """The rows of these methods and examples: a folder may hold more."""
    asked = {(e.source, e.image_id, e.category, e.prompt) for e in examples}
    known = [tuple(key) in asked for key in frame[QUESTION].itertuples(index=False)]
    return frame[pd.Series(known, frame.index, dtype=bool) & frame["method"].isin(methods)]


def first_images(dataset: Iterable[Example], limit: int | None) -> list[Example]:
    """All examples of the first `limit` images. Raises ValueError where there is none."""
    examples = list(dataset)
    if not examples:
        raise ValueError("Got no examples; the data set is empty, or the model knows no class.")
    keys = dict.fromkeys((e.source, e.image_id) for e in examples)
    taken = set(list(keys)[:limit])
    return [e for e in examples if (e.source, e.image_id) in taken]


def overview(measured: pd.DataFrame) -> pd.DataFrame:
    """The table of all methods from rows of `measure` alone, which must have the measure "iou".

    Columns as in `benchmark`. What a trace keeps serves the methods that come later, so seconds
    depend on the order of the methods.
    """
    once = measured[measured["measure"] == "iou"]
    if once.empty:
        raise ValueError('These rows have no measure "iou"; measure it too.')
    table = summary(wide(measured)).drop(columns=["group", "errors"])
    found = scores(measured)
    rest = [c for c in found if c not in table and not c.startswith("iou")]
    times = runtime(once).assign(origin=lambda t: "ours: " + t["model"])
    table = table.merge(found[["origin", "method", *rest]], on=["origin", "method"], how="left")
    times = times[["origin", "method", "seconds per image"]]
    return pd.DataFrame(table.merge(times, on=["origin", "method"], how="left"))


def overall(rows: pd.DataFrame, measured: pd.DataFrame | None = None) -> pd.DataFrame:
    """The table: a line for each method, of rows of `evaluate` and, if given, of `measure`."""
    table = summary(rows).drop(columns="group")
    if measured is not None and not measured.empty:
        found = scores(measured).drop(columns=["errors", "origin"])
        table = table.merge(found, on="method", how="left")
    times = runtime(rows)[["method", "seconds per image"]]
    return pd.DataFrame(table.merge(times, on="method", how="left"))


BOXES = ("pairs", "hits", "mean IoU", "pointing")
MEASURED = ("pointing_center", "prompt_sensitivity", "MaxBoxAcc", "MaxBoxAccV2", "PxAP", "mask_iou",
            "insertion", "deletion", "total_variation", "entropy", "randomization",
            "seconds per image")  # fmt: skip
ALL = ("pairs", "hits .3", "hits", "hits .7", "macro", "mean IoU", "median IoU", "pointing",
       "pointing macro", "energy", "errors", *MEASURED)  # fmt: skip


def to_markdown(table: pd.DataFrame, columns: Sequence[str] = (*BOXES, *MEASURED)) -> str:
    """A table as Markdown, those columns it has, values with their intervals in brackets."""
    return str(cells(table, columns).to_markdown(index=False, disable_numparse=True))


def cells(table: pd.DataFrame, columns: Sequence[str] = ALL) -> pd.DataFrame:
    """A table as people read it: those columns it has, values with their intervals in brackets."""
    lines = []
    for _, row in table.iterrows():
        head = {"method": title(row["method"])}
        if "group" in table and set(table["group"]) != {"all"}:
            head["group"] = str(row["group"])
        if table["origin"].nunique() > 1:
            head["origin"] = row["origin"]
        texts = {c: _cell(row, c) for c in columns if c in table}
        lines.append(head | {name.replace("_", " "): text for name, text in texts.items()})
    return pd.DataFrame(lines)


def _cell(row: pd.Series, name: str) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    if name.startswith("seconds"):
        return f"{value:.3g}"
    if name in ("pairs", "images", "errors"):
        return str(int(value))
    if f"{name} low" not in row or pd.isna(row[f"{name} low"]):
        return f"{value:.3f}" if isinstance(value, float) else str(value)
    form = ".3f" if abs(value) < 10 else ".4g"
    return f"{value:{form}} [{row[f'{name} low']:{form}}, {row[f'{name} high']:{form}}]"


def write_benchmark(found: Benchmark, folder: Path | str) -> str:
    """Write table.md, and table, tests, classes and sizes as CSV; return the Markdown."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frames = {
        "table": found.table,
        "tests": paired_tests(found.rows, found.measured),
        "classes": by_classes(found.rows, found.known),
        "sizes": by_size(found.rows, found.known),
    }
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    text = _report(found, frames)
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def paired_tests(
    rows: pd.DataFrame, measured: pd.DataFrame | None = None, reference: str | None = None
) -> pd.DataFrame:
    """`compare_all` of the IoU and of every measure that is one number: a line for each of both.

    reference: gScoreCAM where it was run, else the first method. A column more: measure.
    """
    names = list(dict.fromkeys(rows["method"]))
    reference = reference or ("gscorecam" if "gscorecam" in names else names[0])
    found = {"iou": compare_all(rows, reference)}
    if measured is not None and not measured.empty:
        table = wide(measured)
        same = [*QUESTION, "method", "model", "iou", "pointing_center"]
        for name in table.columns.drop(same, errors="ignore"):
            if reference in set(table.dropna(subset=[name])["method"]):
                found[str(name)] = compare_all(table, reference, column=name)
    return pd.concat([f.assign(measure=name) for name, f in found.items()], ignore_index=True)


def tests_to_markdown(table: pd.DataFrame) -> str:
    """Differences with their intervals, and the p-values corrected by Holm, as Markdown."""
    if table.empty:
        return "Nothing to compare: one method alone."
    lines = [
        {
            "measure": row["measure"],
            "method": title(row["method"]),
            f"less {title(row['against'])}": f"{row['difference']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}]",
            "p (sign flips)": f"{row['p (Holm)']:.2g}",
            "p (Wilcoxon)": f"{row['wilcoxon (Holm)']:.2g}",
        }
        for _, row in table.iterrows()
    ]
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))


def groups_to_markdown(table: pd.DataFrame, column: str) -> str:
    """One column of a table by groups: a line for each method and origin, a column a group."""
    found = table[table[column].notna()]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for _, row in found.iterrows():
        line = lines.setdefault((row["method"], row["origin"]), {"method": title(row["method"])})
        if found["origin"].nunique() > 1:
            line["origin"] = row["origin"]
        line[str(row["group"])] = _cell(row, column)
    frame = pd.DataFrame(lines.values()).fillna("–")
    return str(frame.to_markdown(index=False, disable_numparse=True))


def _report(found: Benchmark, frames: Mapping[str, pd.DataFrame]) -> str:
    """The tables one below the other, and what the tags of published values mean."""
    classes, sizes = frames["classes"], frames["sizes"]
    short = [o if o.startswith("ours") else f"paper {o[-3:]}" for o in classes["origin"]]
    classes = classes.assign(origin=short)
    headline = PUBLISHED[PUBLISHED["group"] == "all"].iloc[0]
    tags = "; ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items())
    box_tests = frames["tests"][lambda t: t["measure"] == "iou"]
    return "\n\n".join([
        f"## All methods\n\n{to_markdown(found.table)}", found.about,
        f"## Against each other, by best IoU\n\n{tests_to_markdown(box_tests)}",
        "Paired over the same questions; intervals and tests over images; p corrected for the "
        "number of methods (Holm). Other measures: tests.csv.",
        "## By number of classes in the image",
        *(f"{name}, {_pairs(classes)}:\n\n{groups_to_markdown(classes, name)}"
          for name in ("mean IoU", "median IoU")),
        f"paper: {PAPER}; {tags}. Other weights and photos than ours, so not to be beaten or "
        f"missed. Of all its pairs, gScoreCAM hits {headline['value']:.2%} [{headline['tag']}].",
        "## By size of the object (share of the photo)",
        *(f"{name}, {_pairs(sizes)}:\n\n{groups_to_markdown(sizes, name)}"
          for name in ("hits", "mean IoU")),
    ]) + "\n"  # fmt: skip


def _pairs(table: pd.DataFrame) -> str:
    """How many pairs each group of ours has."""
    ours = table[table["origin"].str.startswith("ours")].drop_duplicates("group")
    return ", ".join(f"{int(n)} pairs of {g}" for g, n in zip(ours.group, ours.pairs, strict=True))
