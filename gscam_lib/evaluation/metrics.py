"""Scores of boxes and heatmaps against the truth. NumPy only, knows no model.

Boxes are (x0, y0, x1, y1), half-open pixels; values are (H, W) heatmaps in [0, 1]; masks are
(H, W) bool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage, stats
from skimage.metrics import structural_similarity

from gscam_lib.boxes import BoxLike
from gscam_lib.evaluation.statistics import Statistic

Array: TypeAlias = np.ndarray[Any, Any]
DELTAS = (0.3, 0.5, 0.7)
THRESHOLDS = tuple(i / 1000 for i in range(1000))
"""Shares of a map's height at which MaxBoxAcc looks for the best, as its protocol has them."""


# ---------------------------------------------------------------- boxes


def iou(a: BoxLike, b: BoxLike, *, inclusive: bool = False) -> float:
    """Intersection over union of two boxes, in [0, 1].

    inclusive: count x1 and y1 as inside, as the paper's released code does (boxes that only touch
    then share a line); for comparison with its headline. Boxes without area have the IoU 0.
    """
    more = 1 if inclusive else 0
    width = min(a[2], b[2]) - max(a[0], b[0]) + more
    height = min(a[3], b[3]) - max(a[1], b[1]) + more
    if width <= 0 or height <= 0 or (inclusive and not (_has_area(a) and _has_area(b))):
        return 0.0
    areas = [(x1 - x0 + more) * (y1 - y0 + more) for x0, y0, x1, y1 in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def _has_area(box: BoxLike) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


def best_iou(box: BoxLike | None, truth: Sequence[BoxLike], *, inclusive: bool = False) -> float:
    """Largest IoU of a box with any of the true boxes; 0 where there is no box."""
    if box is None:
        return 0.0
    return max((iou(box, t, inclusive=inclusive) for t in truth), default=0.0)


def ious_at_thresholds(
    values: Array,
    truth: Sequence[BoxLike],
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    largest: bool = False,
) -> Array:
    """Best IoU with any true box at each threshold of a (H, W) heatmap: (thresholds,).

    thresholds: shares of the map's height, in 256 steps, as in the protocol; largest: take the box
    of the largest region (MaxBoxAcc), otherwise the best of all regions (MaxBoxAccV2; Choe et al.
    2020).
    """
    grey = (values * 255).astype(np.uint8)
    levels = (np.asarray(thresholds) * int(grey.max())).astype(int)
    found = {level: _best_region(grey > level, truth, largest) for level in np.unique(levels)}
    return np.asarray([found[level] for level in levels])


def _best_region(hot: Array, truth: Sequence[BoxLike], largest: bool) -> float:
    regions, count = ndimage.label(hot, np.ones((3, 3)))
    places = ndimage.find_objects(regions)
    if largest and count:
        places = [places[np.bincount(regions.ravel())[1:].argmax()]]
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in places]
    return max((best_iou(box, truth) for box in boxes), default=0.0)


def max_box_acc(ious: Array, *, delta: float = 0.5) -> tuple[float, int]:
    """MaxBoxAcc: the best share of images with IoU ≥ delta over one threshold for the whole set.

    ious: (images, thresholds) best IoU of each image at each threshold. Returns the share and the
    index of the threshold. Choe et al., Evaluating Weakly Supervised Object Localization Methods
    Right, CVPR 2020.
    """
    shares = (np.asarray(ious) >= delta).mean(0)
    return float(shares.max()), int(shares.argmax())


def max_box_acc_v2(ious: Array, *, deltas: Sequence[float] = DELTAS) -> float:
    """MaxBoxAccV2: the mean of MaxBoxAcc over several IoU thresholds (Choe et al. 2020)."""
    return float(np.mean([max_box_acc(ious, delta=d)[0] for d in deltas]))


def box_hits(ious: Array, deltas: Sequence[float] = DELTAS) -> tuple[Array, Statistic]:
    """What `statistics.bootstrap` wants for an interval of MaxBoxAccV2 (MaxBoxAcc for one delta).

    ious: (n, thresholds). The best threshold is looked for anew in each sample.
    """
    hits = np.stack([np.asarray(ious) >= d for d in deltas], 1).astype(float)
    rows = np.concatenate([hits.reshape(len(hits), -1), np.ones((len(hits), 1))], 1)

    def statistic(sums: Array) -> Array:
        shares = sums[:, :-1] / sums[:, -1:]
        return np.asarray(shares.reshape(len(sums), len(deltas), -1).max(2).mean(1))

    return rows, statistic


# ---------------------------------------------------------------- heatmaps


def boxes_to_mask(boxes: Iterable[BoxLike], shape: tuple[int, int]) -> Array:
    """Mask of the pixels whose centre lies in any of the boxes: (H, W) bool."""
    y, x = np.ogrid[0.5 : shape[0], 0.5 : shape[1]]
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask |= (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return mask


def pointing_hit(values: Array, mask: Array, *, tolerance: float = 15) -> bool:
    """Whether the hottest pixel lies within `tolerance` pixels of the mask (the first, if several).

    Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018; as in TorchRay.
    """
    point = np.unravel_index(np.argmax(values), values.shape)
    return _near(_same_shape(values, mask), point, tolerance)


def center_hit(mask: Array, *, tolerance: float = 15) -> bool:
    """Whether the photo's middle lies within `tolerance` pixels of the mask: a blind guess.

    The baseline of the pointing game (TorchRay).
    """
    return _near(mask, (mask.shape[0] // 2, mask.shape[1] // 2), tolerance)


def _near(mask: Array, point: Any, tolerance: float) -> bool:
    if not mask.any():
        return False
    return bool(ndimage.distance_transform_edt(~mask)[point] <= tolerance)


def energy_inside(values: Array, mask: Array) -> float:
    """Share of the heat that lies on the mask; 0 for a flat map.

    Wang et al., Score-CAM, CVPR Workshops 2020 (energy-based pointing game).
    """
    inside, total = float(values[_same_shape(values, mask)].sum()), float(values.sum())
    return inside / total if total > 0 else 0.0


def total_variation(values: Array) -> float:
    """Σ|∂x| + Σ|∂y| of a heatmap: how noisy it is, in the paper's sense."""
    return float(np.abs(np.diff(values, axis=0)).sum() + np.abs(np.diff(values, axis=1)).sum())


def entropy(values: Array) -> float:
    """Entropy of the heat as a distribution over pixels, in nats; log(H·W) if spread evenly."""
    share = np.asarray(values, float).ravel() / max(float(values.sum()), np.finfo(float).tiny)
    share = share[share > 0]
    return max(0.0, float(-(share * np.log(share)).sum()))


def mask_iou(values: Array, mask: Array, *, threshold: float = 0.5) -> float:
    """IoU of the pixels at or above a threshold with a mask."""
    hot = values >= threshold
    union = (hot | _same_shape(values, mask)).sum()
    return float((hot & mask).sum() / union) if union else 0.0


def pixel_counts(values: Array, mask: Array, *, bins: int = 1000) -> Array:
    """How many pixels of a heatmap have which value, off and on the mask: (2, bins).

    Values are counted in `bins` steps from 0 to 1. Counts of several photos may be added.
    """
    step = np.minimum((np.asarray(values, float) * bins).astype(int), bins - 1)
    kinds = (~_same_shape(values, mask), mask)
    return np.stack([np.bincount(step[kind], minlength=bins) for kind in kinds]).astype(float)


def average_precision(counts: Array) -> float:
    """Area under precision and recall of the pixels in (2, bins) counts, hottest first.

    Raises ValueError where no pixel is true.
    """
    if not counts[1].sum():
        raise ValueError("PxAP needs at least one pixel of truth; all masks are empty.")
    return float(average_precisions(counts[None])[0])


def average_precisions(counts: Array) -> Array:
    """`average_precision` of each of (n, 2, bins) or (n, 2 · bins) counts: (n,)."""
    counts = counts.reshape(len(counts), 2, -1)
    wrong, right = np.moveaxis(np.cumsum(counts[:, :, ::-1], axis=2), 1, 0)
    precision = right / np.maximum(right + wrong, 1)
    recall = right / np.maximum(right[:, -1:], 1)
    areas: Array = (precision * np.diff(recall, prepend=0.0, axis=1)).sum(1)
    return areas


def pixel_average_precision(pairs: Iterable[tuple[Array, Array]], *, bins: int = 1000) -> float:
    """PxAP: area under precision and recall of all pixels of all (values, mask) pairs together.

    Scores are counted in `bins` steps from 0 to 1. Choe et al. 2020. Raises ValueError where no
    mask has a pixel.
    """
    counts = sum((pixel_counts(v, m, bins=bins) for v, m in pairs), start=np.zeros((2, bins)))
    return average_precision(counts)


def area_under(scores: Sequence[float] | Array) -> float:
    """Area under a curve of scores at even steps from 0 to 1, by trapezoids.

    The AUC of insertion and deletion (Petsiuk et al., RISE, BMVC 2018).
    """
    y = np.asarray(scores, float)
    if y.ndim != 1 or len(y) < 2:
        raise ValueError(f"Got scores of shape {y.shape}; expected at least two in a row.")
    return float((y.sum() - y[0] / 2 - y[-1] / 2) / (len(y) - 1))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's correlation of two maps; 0 where one of them is constant."""
    return correlation(stats.rankdata(a), stats.rankdata(b))


def similarity(a: Array, b: Array) -> float:
    """SSIM of two (H, W) heatmaps in [0, 1], in windows of 7 × 7 or less on smaller maps."""
    side = min(7, *a.shape)
    if side < 3:
        raise ValueError(f"Got maps of {a.shape}; SSIM needs at least 3 × 3 pixels.")
    window = side - (side + 1) % 2
    return float(structural_similarity(a, b, data_range=1.0, win_size=window))


def correlation(a: Array, b: Array) -> float:
    """Pearson correlation of two maps; 0 where one of them is constant."""
    x, y = (np.asarray(m, float).ravel() - np.mean(m) for m in (a, b))
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / scale) if scale > 0 else 0.0


def prompt_sensitivity(maps: Sequence[Array]) -> float:
    """Mean correlation between the maps of different prompts on one photo.

    1 says that the map ignores the prompt. Raises ValueError for fewer than two maps.
    """
    if len(maps) < 2:
        raise ValueError(f"Got {len(maps)} map; expected the maps of at least two prompts.")
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    return float(np.mean([correlation(a, b) for a, b in pairs]))


def _same_shape(values: Array, mask: Array) -> Array:
    if values.shape != mask.shape or mask.dtype != bool:
        raise ValueError(
            f"Got values {values.shape} and a mask {mask.shape} of {mask.dtype}; expected a bool "
            "mask of the same shape."
        )
    return mask
