"""Scores of boxes and heatmaps against the truth, and how sure they are. NumPy only.

Boxes are (x0, y0, x1, y1), half-open pixels; values are (H, W) heatmaps in [0, 1]; masks are
(H, W) bool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.ndimage import distance_transform_edt

from gscam_lib.boxes import Box

BoxLike: TypeAlias = Box | Sequence[float]
Array: TypeAlias = np.ndarray[Any, Any]


# ---------------------------------------------------------------- boxes


def iou(a: BoxLike, b: BoxLike, *, inclusive: bool = False) -> float:
    """Intersection over union of two boxes, in [0, 1].

    inclusive: count x1 and y1 as inside, as the paper's released code does; only for comparison
    with its headline. Boxes without area have the IoU 0.
    """
    more = 1 if inclusive else 0
    width = min(a[2], b[2]) - max(a[0], b[0]) + more
    height = min(a[3], b[3]) - max(a[1], b[1]) + more
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0 + more) * (y1 - y0 + more) for x0, y0, x1, y1 in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def best_iou(box: BoxLike | None, truth: Sequence[BoxLike], *, inclusive: bool = False) -> float:
    """Largest IoU of a box with any of the true boxes; 0 where there is no box."""
    if box is None:
        return 0.0
    return max((iou(box, t, inclusive=inclusive) for t in truth), default=0.0)


def max_box_acc(ious: Array, *, delta: float = 0.5) -> tuple[float, int]:
    """MaxBoxAcc: the best share of images with IoU ≥ delta over one threshold for the whole set.

    ious: (images, thresholds) best IoU of each image at each threshold. Returns the share and the
    index of the threshold. Choe et al., Evaluating Weakly Supervised Object Localization Methods
    Right, CVPR 2020.
    """
    shares = (np.asarray(ious) >= delta).mean(0)
    return float(shares.max()), int(shares.argmax())


def max_box_acc_v2(ious: Array, *, deltas: Sequence[float] = (0.3, 0.5, 0.7)) -> float:
    """MaxBoxAccV2: the mean of MaxBoxAcc over several IoU thresholds (Choe et al. 2020)."""
    return float(np.mean([max_box_acc(ious, delta=d)[0] for d in deltas]))


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
    if not _same_shape(values, mask).any():
        return False
    return bool(distance_transform_edt(~mask)[point] <= tolerance)


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
    return float(-(share * np.log(share)).sum())


def mask_iou(values: Array, mask: Array, *, threshold: float = 0.5) -> float:
    """IoU of the pixels at or above a threshold with a mask."""
    hot = values >= threshold
    union = (hot | _same_shape(values, mask)).sum()
    return float((hot & mask).sum() / union) if union else 0.0


def pixel_average_precision(pairs: Iterable[tuple[Array, Array]], *, bins: int = 1000) -> float:
    """PxAP: area under precision and recall of all pixels of all (values, mask) pairs together.

    Scores are counted in `bins` steps from 0 to 1. Choe et al. 2020. Raises ValueError where no
    mask has a pixel.
    """
    counts = np.zeros((2, bins))
    for values, mask in pairs:
        step = np.minimum((values * bins).astype(int), bins - 1)
        for kind in (0, 1):
            counts[kind] += np.bincount(
                step[_same_shape(values, mask) == bool(kind)], minlength=bins
            )
    wrong, right = np.cumsum(counts[:, ::-1], axis=1)
    if not len(right) or right[-1] == 0:
        raise ValueError("PxAP needs at least one pixel of truth; all masks are empty.")
    precision = right / np.maximum(right + wrong, 1)
    return float((precision * np.diff(right / right[-1], prepend=0.0)).sum())


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


# ---------------------------------------------------------------- how sure


def bootstrap_interval(
    values: Array, groups: Array, *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean when whole groups (images) are drawn again with replacement.

    values: (n,) numbers; groups: (n,) the image of each. Raises ValueError where there is nothing.
    """
    sums, counts = _by_group(values, groups)
    drawn = _draws(len(sums), samples, seed)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: Array, b: Array, groups: Array, *, samples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean of a − b with its 95 % interval over images, and a sign-flip p-value.

    a, b: (n,) scores of two methods on the same questions; groups: (n,) the image of each. Under
    the null hypothesis the sign of each image's summed difference is arbitrary.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    low, high = bootstrap_interval(difference, groups, samples=samples, seed=seed)
    sums, _ = _by_group(difference, groups)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (samples, len(sums)))
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12
    return {
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": float((1 + extreme.sum()) / (1 + samples)),
    }


def _by_group(values: Array, groups: Array) -> tuple[Array, Array]:
    values, groups = np.asarray(values, float), np.asarray(groups)
    if values.shape != groups.shape or values.ndim != 1 or not len(values):
        raise ValueError(
            f"Got values {values.shape} and groups {groups.shape}; expected two lists of one "
            "length, not empty."
        )
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(float)


def _draws(groups: int, samples: int, seed: int) -> Array:
    """How often each group is drawn in each sample: (samples, groups)."""
    shares = np.full(groups, 1 / groups)
    return np.random.default_rng(seed).multinomial(groups, shares, samples).astype(float)
