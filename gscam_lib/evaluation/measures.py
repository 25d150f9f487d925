"""What a row of `evaluate` has no room for: curves, whole thresholds, maps of several prompts."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from tqdm.auto import tqdm

from gscam_lib.boxes import heatmap_to_box
from gscam_lib.datasets.example import Example
from gscam_lib.evaluation import faithfulness, metrics
from gscam_lib.evaluation.rows import Parts
from gscam_lib.evaluation.runner import run_id
from gscam_lib.heatmaps import Heatmap, check_method, heatmap
from gscam_lib.methods import read_method
from gscam_lib.model.photo import load_photo
from gscam_lib.model.prompts import Target, UnknownPromptWarning, best_prompt
from gscam_lib.trace import Trace
from gscam_lib.trace.model import Model

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", "image_id", "category", "prompt", "method")]
    + [("options", pa.string()), ("measure", pa.string()), ("values", pa.list_(pa.float64()))]
    + [("seconds", pa.float64()), ("error", pa.string()), ("model", pa.string())]
)
KEY = ["source", "image_id", "category", "prompt", "method", "options", "measure"]
BINS = 200  # of pixel counts
SIDE = 224  # of the maps on which MaxBoxAcc looks for boxes
Variants: TypeAlias = Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """One heatmap and all that a measure may ask of it.

    others: heatmaps of the same method for the image's other prompts; names: of all classes of the
    data set; points: of an insertion or deletion curve; random: makes the heatmap of the same model
    with random weights.
    """

    trace: Trace
    example: Example
    heat: Heatmap
    others: Sequence[np.ndarray[Any, Any]]
    names: Sequence[str]
    points: int
    random: Callable[[], Heatmap]

    @cached_property
    def mask(self) -> np.ndarray[Any, Any]:
        """The true mask, or the pixels of the true boxes: (H, W) bool."""
        if self.example.mask is not None:
            return self.example.mask
        return metrics.boxes_to_mask(self.example.boxes, self.heat.values.shape)

    @property
    def target(self) -> Target:
        """The prompt against the data set's other classes, so that scores are probabilities."""
        against = [n for n in self.names if n != self.example.prompt]
        return Target(self.example.prompt, against=against)

    @property
    def step(self) -> int:
        """Pixels that change from one point of a curve to the next."""
        return -(-(self.trace.model.input_size**2) // (self.points - 1))

    def curve(self, function: Callable[..., np.ndarray[Any, Any]]) -> list[float]:
        """Area under an insertion or deletion curve."""
        found = function(self.trace, self.target, self.heat.values, step=self.step)
        return [metrics.area_under(found)]

    def box_iou(self) -> list[float]:
        """IoU of the paper's box (clean)."""
        return [metrics.best_iou(heatmap_to_box(self.heat), self.example.boxes)]

    def pointing(self) -> list[float]:
        """Whether the hottest pixel hits; never for a flat map."""
        hit = not self.heat.flat and metrics.pointing_hit(self.heat.values, self.mask)
        return [float(hit)]

    def sensitivity(self) -> list[float] | None:
        """Mean correlation with the maps of the image's other prompts; None if there is none."""
        if not self.others:
            return None
        return [float(np.mean([metrics.correlation(self.heat.values, o) for o in self.others]))]

    def randomization(self) -> list[float]:
        """Rank correlation with the heatmap of the model with random weights; 0 if that is flat."""
        heat = self.random()
        return [0.0 if heat.flat else metrics.rank_correlation(self.heat.values, heat.values)]

    def pixels(self) -> list[float] | None:
        """Counts of pixels off and on the mask, 2 × BINS in a row; None without a mask."""
        if self.example.mask is None:
            return None
        counts = metrics.pixel_counts(self.heat.values, self.example.mask, bins=BINS)
        return [float(n) for n in counts.ravel()]

    def ious(self, **options: Any) -> list[float]:
        """Best IoU at each of `metrics.THRESHOLDS`, map and boxes brought to 224 × 224 pixels.

        So does the protocol of MaxBoxAcc (Choe et al. 2020), whatever the photo's size.
        """
        height, width = self.heat.values.shape
        image = Image.fromarray(np.asarray(self.heat.values, dtype=np.float32))
        small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        scale = np.array([SIDE / width, SIDE / height] * 2)
        boxes = [tuple(scale * box) for box in self.example.boxes]
        return [float(x) for x in metrics.ious_at_thresholds(small, boxes, **options)]


MEASURES: dict[str, Callable[[Seen], list[float] | None]] = {
    "iou": lambda s: s.box_iou(),
    "pointing": lambda s: s.pointing(),
    "pointing_center": lambda s: [float(metrics.center_hit(s.mask))],
    "energy": lambda s: [metrics.energy_inside(s.heat.values, s.mask)],
    "mask_iou": lambda s: (
        None if s.example.mask is None else [metrics.mask_iou(s.heat.values, s.example.mask)]
    ),
    "total_variation": lambda s: [metrics.total_variation(s.heat.values)],
    "entropy": lambda s: [metrics.entropy(s.heat.values)],
    "prompt_sensitivity": lambda s: s.sensitivity(),
    "randomization": lambda s: s.randomization(),
    "insertion": lambda s: s.curve(faithfulness.insertion),
    "deletion": lambda s: s.curve(faithfulness.deletion),
    "ious": lambda s: s.ious(),
    "ious_largest": lambda s: s.ious(rule="largest_component"),
    "pixels": lambda s: s.pixels(),
}
"""Name to measure: from what was seen to numbers, None where it is not defined."""


def measure(
    model: Model,
    dataset: Iterable[Example],
    methods: Variants,
    measures: Sequence[str],
    *,
    out: Path | str | None = None,
    points: int = 33,
    progress: bool = False,
    trace: Callable[[Image.Image], Trace] | None = None,
) -> pd.DataFrame:
    """Measure the heatmaps of every method on every example: a row for each measure.

    methods: as `evaluate` takes them, or label -> {"method": name, option: value, …}; measures:
    names in MEASURES; points: of insertion and deletion curves, both ends included; out: a folder
    that keeps the rows, so that a later call only does what is missing. Columns: source, image_id,
    category, prompt, method (the label), options, measure, values (a list), seconds (of the
    heatmap), error, model. trace: makes the trace of a photo, None for `model.trace`.
    What fails becomes a row with its error. Raises ValueError for names that do not exist.
    """
    variants = _variants(methods)
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ValueError(f"No measure {', '.join(unknown)}. There are: {', '.join(MEASURES)}.")
    examples = list(dataset)
    seen = partial(Seen, names=tuple(dict.fromkeys(e.prompt for e in examples)), points=points)
    parts = Parts(out, run_id(model, f"measures, {points} points"), schema=SCHEMA)
    random = _RandomTwin(model)
    done = {tuple(row[c] for c in KEY) for row in parts.rows()}
    images = [list(g) for _, g in groupby(examples, key=lambda e: (e.source, e.image_id))]
    errors = 0
    bar = tqdm(images, desc=f"{model.name}, measures", disable=not progress, unit="image")
    with parts, bar:
        for group in bar:
            for row in _rows(
                model.name, trace or model.trace, group, variants, measures, done, seen, random
            ):
                errors += row["error"] is not None
                parts.add(row)
            bar.set_postfix(errors=errors, refresh=False)
    return pd.DataFrame(parts.rows(), columns=SCHEMA.names)


class _RandomTwin:
    """A model whose image tower has random weights only, made when first asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: Trace | None = None

    @cached_property
    def model(self) -> Model:
        """The last of `faithfulness.cascade`."""
        *_, (_, changed) = faithfulness.cascade(self._model)
        return changed

    def heatmap(self, trace: Trace, prompt: str, options: Mapping[str, Any]) -> Heatmap:
        """The twin's heatmap of a photo; one trace serves questions about one photo in a row."""
        if self._last is None or self._last.photo is not trace.photo:
            self._last = self.model.trace(trace.photo)
        return heatmap(self._last, prompt, **options)


def _variants(methods: Variants) -> dict[str, dict[str, Any]]:
    if not isinstance(methods, Mapping):
        read = {label: read_method(label) for label in methods}
        methods = {label: {"method": name, **options} for label, (name, options) in read.items()}
    for options in methods.values():
        rest = {key: value for key, value in options.items() if key != "method"}
        check_method(options["method"], **rest)
    return {label: dict(options) for label, options in methods.items()}


def _rows(
    model: str,
    look: Callable[[Image.Image], Trace],
    group: Sequence[Example],
    variants: Mapping[str, dict[str, Any]],
    measures: Sequence[str],
    done: set[tuple[Any, ...]],
    seen: Callable[..., Seen],
    random: _RandomTwin,
) -> Iterator[dict[str, Any]]:
    trace: Trace | None = None
    for label, options in variants.items():
        wanted = [
            (i, row)
            for i, example in enumerate(group)
            for name in measures
            if _key(row := _about(model, example, label, options, name)) not in done
        ]
        if not wanted:
            continue
        try:
            trace = trace or look(load_photo(group[0].image))
            heats, seconds = _heatmaps(trace, group, options)
        except Exception as error:  # a broken photo, no memory: rows, not the end
            for _, row in wanted:
                yield row | {"values": None, "seconds": None, "error": _say(error)}
            continue
        for i, row in wanted:
            others = [h.values for j, h in enumerate(heats) if j != i]
            twin = partial(random.heatmap, trace, group[i].prompt, options)
            one = seen(trace, group[i], heats[i], others, random=twin)
            yield row | {"seconds": seconds[i]} | _try(row["measure"], one)


def _heatmaps(
    trace: Trace, group: Sequence[Example], options: Mapping[str, Any]
) -> tuple[list[Heatmap], list[float]]:
    heats, seconds = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownPromptWarning)  # the caller chose the prompts
        for example in group:
            start = time.perf_counter()
            heats.append(heatmap(trace, example.prompt, **options))
            seconds.append(time.perf_counter() - start)
    return heats, seconds


def _try(name: str, seen: Seen) -> dict[str, Any]:
    try:
        return {"values": MEASURES[name](seen), "error": None}
    except Exception as error:
        return {"values": None, "error": _say(error)}


def _about(
    model: str, example: Example, label: str, options: Mapping[str, Any], name: str
) -> dict[str, Any]:
    return {
        **{key: getattr(example, key) for key in ("source", "image_id", "category", "prompt")},
        "method": label,
        "options": json.dumps(options, sort_keys=True),
        "measure": name,
        "model": model,
    }


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[c] for c in KEY)


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------- prompts


def search_prompts(
    model: Model, dataset: Iterable[Example], candidates: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Mean logit of each candidate prompt over the images of its class; the highest is chosen.

    candidates: category -> prompts, such as those of `prompts.fill_all`. Columns: category, prompt,
    logit, images (those that can be read), chosen. Chen et al., gScoreCAM, ACCV 2022. Raises
    ValueError for a category without candidates.
    """
    logits: dict[str, list[np.ndarray[Any, Any]]] = {}
    for _, group in groupby(dataset, key=lambda e: (e.source, e.image_id)):
        same = list(group)
        for example in same:
            if not candidates.get(example.category):
                raise ValueError(f"Got no candidate prompts for the category {example.category!r}.")
            logits.setdefault(example.category, [])
        try:
            pixels = model.preprocess(load_photo(same[0].image))[None]
        except (OSError, ValueError):  # counted where the photo is evaluated
            continue
        embedding = model.encode_pixels(pixels)
        for example in same:
            texts = model.encode_text(candidates[example.category])
            found = model.logit_scale * embedding.detach() @ texts.T
            logits[example.category].append(found[0].cpu().numpy())
    rows = []
    for category, per_image in logits.items():
        blank = [np.full(len(candidates[category]), np.nan)]  # where no photo can be read
        means = np.mean(per_image or blank, axis=0)
        chosen = best_prompt(candidates[category], per_image or blank)
        for prompt, mean in zip(candidates[category], means, strict=True):
            rows.append((category, prompt, float(mean), len(per_image), prompt == chosen))
    return pd.DataFrame(rows, columns=["category", "prompt", "logit", "images", "chosen"])


def with_prompts(dataset: Iterable[Example], prompts: Mapping[str, str]) -> list[Example]:
    """The examples with other prompts: category -> prompt. Raises ValueError if one is missing."""
    examples = list(dataset)
    missing = sorted({e.category for e in examples} - set(prompts))
    if missing:
        raise ValueError(f"Got no prompt for the categories {', '.join(missing)}.")
    return [example.asked(prompts[example.category]) for example in examples]
