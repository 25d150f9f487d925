"""A heatmap as data, and boxes from it; NumPy only.

A box is (x0, y0, x1, y1) in pixels, half-open: x1 and y1 are outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import skimage  # its parts are imported when first used

Box: TypeAlias = tuple[int, int, int, int]
BoxLike: TypeAlias = Box | Sequence[float]
Values: TypeAlias = np.ndarray[Any, Any]
Threshold: TypeAlias = str | float
"""What counts as hot: "otsu", "p90" (a percentile of the values), or a share of the height."""
Rounding = Literal["down", "nearest"]
"""How a value becomes one of 256 steps for Otsu's threshold."""
Rule = Literal["largest_rectangle", "largest_component", "hottest_component", "union"]
RULES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Where a prompt is, for one photo, model and method.

    values: (H, W) float32 in [0, 1] at the photo's size; flat: the map was constant and values are
    all zero; logit: of the whole photo; k: channels used, None for methods without k; title: the
    method as figures write it; resolution: (h, w) of the method's map before it was resized;
    passes: masked copies that were scored for it, None for methods that score none; band: nine in
    ten maps like it are nowhere further than this from the full one, 0 where all copies were scored
    (see `methods.anytime`).
    """

    values: np.ndarray[Any, Any]
    flat: bool
    logit: float
    method: str
    prompt: str
    k: int | None
    model: str
    title: str
    resolution: tuple[int, int]
    passes: int | None = None
    band: float | None = None


def heatmap_to_box(
    heat: Heatmap | Values,
    *,
    threshold: Threshold = "otsu",
    rule: Rule = "largest_rectangle",
    rounding: Rounding = "down",
) -> Box | None:
    """Box of a heatmap, by default by the paper's protocol; None where the map is constant.

    heat: a Heatmap, or its (H, W) values in [0, 1]. threshold, rounding: see `hot_pixels`. rule: of
    the connected regions (8 neighbours) the one whose bounding rectangle is largest, or that has
    the most pixels, or that has the hottest pixel, or all of them together. Raises ValueError.
    """
    check_rule(rule)
    values = _checked(heat)
    hot = hot_pixels(values, threshold, rounding)
    if not hot.any():
        return None
    if rule == "union":
        return _box((*np.argwhere(hot).min(0), *(np.argwhere(hot).max(0) + 1)))
    regions = skimage.measure.regionprops(
        skimage.measure.label(hot, connectivity=2), intensity_image=values
    )
    sizes = {
        "largest_rectangle": lambda r: r.area_bbox,
        "largest_component": lambda r: r.area,
        "hottest_component": lambda r: r.intensity_max,
    }
    return _box(max(regions, key=sizes[rule]).bbox)


def hot_pixels(
    values: Values, threshold: Threshold = "otsu", rounding: Rounding = "down"
) -> Values:
    """Pixels of a heatmap that are hot: (H, W) bool; none where the map is constant.

    threshold: "otsu", of the values in 256 steps, as the paper does; "p90", not below the 90th
    percentile of the values; a number above 0 and at most 1, not below this share of the map's
    height (its values are in [0, 1]). rounding: of the 256 steps; "nearest" is gScoreCAM's released
    code (its boxes, all of 298, agree to the pixel). Raises ValueError for other thresholds.
    """
    check_threshold(threshold)
    if rounding not in get_args(Rounding):
        raise ValueError(f"Got rounding={rounding!r}; expected {' or '.join(get_args(Rounding))}.")
    grey = (np.rint(values * 255) if rounding == "nearest" else values * 255).astype(np.uint8)
    if grey.min() == grey.max():
        return np.zeros(values.shape, bool)
    if threshold == "otsu":
        return np.asarray(grey > skimage.filters.threshold_otsu(grey))
    if isinstance(threshold, str):
        limit = float(np.percentile(values, float(threshold[1:])))
        return values >= limit if limit > 0 else values > 0
    return np.asarray(values >= threshold)


def check_threshold(threshold: Threshold) -> Threshold:
    """Return a threshold, or raise ValueError if it is none that `hot_pixels` takes."""
    try:
        if isinstance(threshold, str):
            good = threshold == "otsu" or (threshold[:1] == "p" and 0 < float(threshold[1:]) < 100)
        else:
            good = not isinstance(threshold, bool) and bool(0 < threshold <= 1)
    except (TypeError, ValueError):  # what is no number, and several of them
        good = False
    if not good:
        raise ValueError(
            f"Got threshold={threshold!r}; expected 'otsu', a percentile such as 'p90', or a share "
            "above 0 and at most 1 such as 0.2."
        )
    return threshold


def check_rule(rule: str) -> str:
    """Return a rule, or raise ValueError if it is none of RULES."""
    if rule not in RULES:
        raise ValueError(f"Got rule={rule!r}; expected one of {', '.join(RULES)}.")
    return rule


def _checked(heat: Heatmap | Values) -> Values:
    values = heat if isinstance(heat, np.ndarray) else heat.values
    if values.ndim != 2 or values.size == 0 or not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"Got values of shape {values.shape}; expected a (H, W) heatmap in [0, 1] without NaN."
        )
    return values


def _box(corners: Any) -> Box:
    """From rows and columns to x and y."""
    y0, x0, y1, x1 = map(int, corners)
    return x0, y0, x1, y1
