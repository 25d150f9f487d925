"""How well single channels see what is asked, and how noisy they are: the paper's analysis.

Each channel is brought to a grid of SIDE × SIDE, min-maxed, and boxed at the thresholds 0, .05 …
.95; the area under its best IoU is its IoU-AUC. Chen et al., gScoreCAM, ACCV 2022; the release
boxes at the photo's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from gscam_lib.boxes import BoxLike
from gscam_lib.evaluation.metrics import area_under, best_iou, total_variation
from gscam_lib.model.prompts import Prompt
from gscam_lib.trace import Trace

Array: TypeAlias = np.ndarray[Any, Any]
SIDE = 32
LEVELS = tuple(i / 20 for i in range(20))
TOP = 0.1  # of the channels, by gradient


def on_a_grid(activations: Tensor) -> Array:
    """Channels (C, h, w) as maps (C, SIDE, SIDE) from 0 to 1; constant ones are 0."""
    large = F.interpolate(activations.detach()[None].float(), (SIDE, SIDE), mode="bilinear")[0]
    maps: Array = large.relu().cpu().numpy()
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return np.asarray((maps - low) / np.maximum(high - low, 1e-8))


def iou_auc(channel: Array, truth: Sequence[BoxLike]) -> float:
    """Area under the best IoU of a channel's box over LEVELS, by trapezoids.

    channel: (SIDE, SIDE) from 0 to 1; truth: boxes in its pixels. At each level the box is that of
    the region whose rectangle is largest; where there is none, the first pixel.
    """
    grey = np.rint(channel * 255)
    ious = [best_iou(_box(grey > round(255 * level)), truth, inclusive=True) for level in LEVELS]
    return LEVELS[-1] * area_under(ious)


def _box(hot: Array) -> tuple[int, int, int, int]:
    regions, _ = ndimage.label(hot, np.ones((3, 3)))
    places = ndimage.find_objects(regions)
    if not places:
        return 0, 0, 1, 1
    y, x = max(places, key=lambda p: (p[0].stop - p[0].start) * (p[1].stop - p[1].start))
    return x.start, y.start, x.stop, y.stop


def channel_scores(
    trace: Trace, prompt: Prompt, boxes: Sequence[BoxLike], *, most: int = 128
) -> dict[str, float]:
    """What a trace's channels see of a prompt's thing.

    boxes: in the photo's pixels; most: so many channels of each group are looked at, evenly spaced
    by their gradient. Returns channels_top and channels_rest, the mean IoU-AUC of the tenth of
    highest mean gradient and of the others, and channels_variation, the mean total variation of
    those that are not constant. Raises ValueError where a trace has no gradient.
    """
    order = trace.ranking(prompt).cpu().numpy()
    cut = max(1, round(TOP * len(order)))
    width, height = trace.photo.size
    scale = np.array([SIDE / width, SIDE / height] * 2)
    truth = [tuple(scale * box) for box in boxes]
    found: dict[str, float] = {}
    variation, alive = 0.0, 0.0
    for name, group in (("channels_top", order[:cut]), ("channels_rest", order[cut:])):
        chosen = group[np.linspace(0, len(group) - 1, min(most, len(group))).astype(int)]
        maps = on_a_grid(trace.activations[chosen])
        found[name] = float(np.mean([iou_auc(m, truth) for m in maps]))
        weight = len(group) / max(1, len(maps))  # a group counts for as many as it stands for
        living = maps[maps.max((1, 2)) > 0]
        variation += weight * sum(map(total_variation, living))
        alive += weight * len(living)
    return found | {"channels_variation": variation / alive if alive else 0.0}
