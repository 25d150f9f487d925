"""Scores of boxes, in NumPy. Boxes are (x0, y0, x1, y1), half-open pixels."""

from __future__ import annotations

from collections.abc import Sequence

from gscam_lib.boxes import Box

BoxLike = Box | Sequence[float]


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
