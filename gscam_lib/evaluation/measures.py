"""What is measured of a heatmap: its box and hits, and whatever else has a name in MEASURES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gscam_lib.boxes import (
    Box,
    Heatmap,
    Rounding,
    Rule,
    Threshold,
    check_rule,
    check_threshold,
    heatmap_to_box,
    hot_pixels,
)
from gscam_lib.datasets.example import Example
from gscam_lib.datasets.outlines import to_rle
from gscam_lib.evaluation import faithfulness, metrics
from gscam_lib.evaluation.channels import channel_scores
from gscam_lib.model.prompts import Target
from gscam_lib.trace import Trace

BINS = 200  # of pixel counts
SIDE = 224  # of the maps on which MaxBoxAcc looks for boxes
POINTS = 33  # of insertion and deletion curves, both ends included


@dataclass(frozen=True)
class Preset:
    """How a heatmap becomes a box and how the box is judged.

    inclusive: count the last pixel as inside; empty_box: the box of a map that has no region;
    threshold, rule, rounding: see `boxes.heatmap_to_box`; preprocess: of the photo, see
    `Model.trace`, None for the model's; turn: whether EXIF turns it. Raises ValueError for those
    that do not exist.
    """

    name: str
    inclusive: bool = False
    empty_box: Box | None = None
    threshold: Threshold = "otsu"
    rule: Rule = "largest_rectangle"
    rounding: Rounding = "down"
    preprocess: str | None = None
    turn: bool = True

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_rule(self.rule)

    @property
    def label(self) -> str:
        """The name; with all settings where it is not a preset of this library."""
        return self.name if PRESETS.get(self.name) == self else str(self)

    def settings(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


PRESETS = {
    "clean": Preset("clean"),
    "paper": Preset(
        "paper",
        inclusive=True,
        empty_box=(0, 0, 1, 1),
        rounding="nearest",
        preprocess="paper",
        turn=False,
    ),
}
"""clean: ours. paper: the released code of gScoreCAM, to the pixel."""


def find_preset(preset: str | Preset) -> Preset:
    """A preset by its name, or as it is; raises ValueError for a name that does not exist."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"No preset '{preset}'. There are: {', '.join(PRESETS)}.")
    return PRESETS[preset]


@dataclass(frozen=True, eq=False)
class Seen:
    """One heatmap and all that a measure may ask of it.

    others: gives the heatmaps of the same method for the image's other prompts; random: gives the
    heatmap of the same model with random weights; names: what the prompt is held against where a
    score must be a probability; points: of an insertion or deletion curve, both ends included.
    """

    trace: Trace
    example: Example
    heat: Heatmap
    preset: Preset
    names: Sequence[str]
    points: int
    others: Callable[[], Sequence[Heatmap]]
    random: Callable[[], Heatmap]

    @cached_property
    def mask(self) -> np.ndarray[Any, Any]:
        """The true mask, or the pixels of the true boxes: (H, W) bool."""
        if self.example.mask is not None:
            return self.example.mask
        return metrics.boxes_to_mask(self.example.boxes, self.heat.values.shape)


def localization(seen: Seen) -> dict[str, Any]:
    """The preset's box, its IoU with the best true box, pointing game and energy.

    mask: the hot pixels inside the box as "height x width:COCO's counts".
    """
    heat, preset, example = seen.heat, seen.preset, seen.example
    check_truth(example, seen.trace.photo.size)
    how: dict[str, Any] = {"threshold": preset.threshold, "rounding": preset.rounding}
    found = heatmap_to_box(heat, rule=preset.rule, **how)
    box = found or preset.empty_box
    iou = metrics.best_iou(box, example.boxes, inclusive=preset.inclusive)
    corners = box or (None,) * 4
    return {
        **dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)),
        "mask": None if box is None else _rle(hot_pixels(heat.values, **how), box),
        "iou": iou,
        "hit": iou >= 0.5,
        "pointing": not heat.flat and metrics.pointing_hit(heat.values, seen.mask),
        "energy": metrics.energy_inside(heat.values, seen.mask),
    }


def check_truth(example: Example, size: tuple[int, int]) -> None:
    """Raise ValueError for a true box that has no area or lies outside the photo."""
    width, height = size
    for x0, y0, x1, y1 in example.boxes:
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            raise ValueError(
                f"The true box ({x0}, {y0}, {x1}, {y1}) of '{example.category}' has no area inside "
                f"the photo of {width} × {height} pixels; expected x0 < x1 and y0 < y1, in pixels."
            )


def _rle(hot: np.ndarray[Any, Any], box: Box) -> str:
    x0, y0, x1, y1 = box
    inside = np.zeros_like(hot)
    inside[y0:y1, x0:x1] = hot[y0:y1, x0:x1]
    height, width = hot.shape
    return f"{height}x{width}:{to_rle(inside)['counts']}"


# ---------------------------------------------------------------- measures of one column


def _curve(function: Callable[..., np.ndarray[Any, Any]], seen: Seen) -> float:
    """Area under an insertion or deletion curve of the prompt's probability."""
    prompt = seen.example.prompt
    target = Target(prompt, against=[name for name in seen.names if name != prompt])
    step = -(-seen.trace.pixels[0].numel() // (seen.points - 1))
    return metrics.area_under(function(seen.trace, target, seen.heat.values, step=step))


def _sensitivity(seen: Seen) -> float | None:
    """Mean correlation with the maps of the image's other prompts; None if there is none."""
    others = seen.others()
    if not others:
        return None
    return float(np.mean([metrics.correlation(seen.heat.values, o.values) for o in others]))


def _randomization(seen: Seen) -> float:
    """Rank correlation with the map of the model with random weights; 0 if that is flat."""
    heat = seen.random()
    return 0.0 if heat.flat else metrics.rank_correlation(seen.heat.values, heat.values)


def _mask_iou(seen: Seen) -> float | None:
    mask = seen.example.mask
    return None if mask is None else metrics.mask_iou(seen.heat.values, mask)


def _pixels(seen: Seen) -> Sequence[float] | None:
    """Counts of pixels off and on the mask, 2 × BINS in a row; None without a mask."""
    if seen.example.mask is None:
        return None
    counts = metrics.pixel_counts(seen.heat.values, seen.example.mask, bins=BINS)
    return [float(n) for n in counts.ravel()]


def _ious(seen: Seen, *, largest: bool) -> Sequence[float]:
    """Best IoU at each of `metrics.THRESHOLDS`, map and boxes brought to 224 × 224 pixels.

    So does the protocol of MaxBoxAcc (Choe et al. 2020), whatever the photo's size.
    """
    height, width = seen.heat.values.shape
    image = Image.fromarray(np.asarray(seen.heat.values, dtype=np.float32))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).clip(0, 1)
    scale = np.array([SIDE / width, SIDE / height] * 2)
    boxes = [tuple(scale * box) for box in seen.example.boxes]
    return [float(x) for x in metrics.ious_at_thresholds(small, boxes, largest=largest)]


def _channels(seen: Seen) -> dict[str, float]:
    """Of the trace's channels, the same for every method: see `channels.channel_scores`."""
    return channel_scores(seen.trace, seen.example.prompt, seen.example.boxes)


SCALARS: dict[str, Callable[[Seen], float | None]] = {
    "pointing_center": lambda seen: float(metrics.center_hit(seen.mask)),
    "mask_iou": _mask_iou,
    "total_variation": lambda seen: metrics.total_variation(seen.heat.values),
    "entropy": lambda seen: metrics.entropy(seen.heat.values),
    "prompt_sensitivity": _sensitivity,
    "randomization": _randomization,
    "insertion": partial(_curve, faithfulness.insertion),
    "insertion_rise": partial(_curve, partial(faithfulness.insertion, blur="rise")),
    "deletion": partial(_curve, faithfulness.deletion),
}
VECTORS: dict[str, Callable[[Seen], Sequence[float] | None]] = {
    "ious": partial(_ious, largest=False),
    "ious_largest": partial(_ious, largest=True),
    "pixels": _pixels,
}


CHANNELS = ("channels_top", "channels_rest", "channels_variation")


def _column(name: str, function: Callable[[Seen], Any], seen: Seen) -> dict[str, Any]:
    return {name: function(seen)}


MEASURES: dict[str, Callable[[Seen], dict[str, Any]]] = {
    "localization": localization,
    "channels": _channels,
    **{name: partial(_column, name, function) for name, function in {**SCALARS, **VECTORS}.items()},
}
"""Name to measure: from what was seen to columns of its row, None where it is not defined."""

_INTS = ("x0", "y0", "x1", "y1")
BLANK: dict[str, Any] = {"iou": 0.0, "hit": False, "pointing": False, "energy": 0.0}
"""What localization says of a row with an error: a miss."""
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "localization": {name: pa.int64() for name in _INTS}
    | {"iou": pa.float64(), "hit": pa.bool_(), "pointing": pa.bool_(), "energy": pa.float64()}
    | {"mask": pa.string()},
    "channels": dict.fromkeys(CHANNELS, pa.float64()),
    **{name: {name: pa.float64()} for name in SCALARS},
    **{name: {name: pa.list_(pa.float32())} for name in VECTORS},
}
"""Measure to the columns that it fills."""


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or ValueError for one that is no measure."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown or isinstance(names, str):
        given = names if isinstance(names, str) else ", ".join(map(str, unknown))
        raise ValueError(f"No measure {given!r}. There are: {', '.join(MEASURES)}.")
    return tuple(dict.fromkeys(names))
