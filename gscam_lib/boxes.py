"""Boxes from heatmaps. A box is (x0, y0, x1, y1) in pixels, half-open: x1 and y1 are outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

if TYPE_CHECKING:
    from gscam_lib.heatmaps import Heatmap

Box: TypeAlias = tuple[int, int, int, int]


def heatmap_to_box(heat: Heatmap | np.ndarray[Any, Any]) -> Box | None:
    """Box of a heatmap by the paper's protocol, or None where the map is constant.

    heat: a Heatmap, or its (H, W) values in [0, 1]. Scaled to 0…255, thresholded by Otsu; of the
    connected regions (8 neighbours) the one whose bounding rectangle is largest. Raises ValueError.
    """
    values = heat if isinstance(heat, np.ndarray) else heat.values
    if values.ndim != 2 or values.size == 0 or not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"Got values of shape {values.shape}; expected a (H, W) heatmap in [0, 1] without NaN."
        )
    grey = (values * 255).astype(np.uint8)
    if grey.min() == grey.max():
        return None
    rows = [r.bbox for r in regionprops(label(grey > threshold_otsu(grey), connectivity=2))]
    y0, x0, y1, x1 = max(rows, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    return int(x0), int(y0), int(x1), int(y1)
