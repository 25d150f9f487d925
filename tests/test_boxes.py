"""boxes.py and metrics.py: against plain search, and the conventions."""

import naive
import numpy as np
import pytest
from skimage.filters import gaussian

import gscam_lib as gs
from gscam_lib.metrics import best_iou, iou


@pytest.mark.parametrize("seed", range(12))
def test_box_equals_plain_search(seed):
    values = gaussian(np.random.default_rng(seed).random((24, 31)), sigma=1.5)
    values = (values - values.min()) / np.ptp(values)
    assert gs.heatmap_to_box(values) == naive.otsu_box(values)


def test_box_is_half_open_and_takes_the_largest_rectangle():
    values = np.zeros((20, 30), np.float32)
    values[2:5, 3:11] = 1
    assert gs.heatmap_to_box(values) == (3, 2, 11, 5)
    values[10:20, 25:30] = 0.9  # a larger rectangle wins although it is cooler
    assert gs.heatmap_to_box(values) == (25, 10, 30, 20)
    values[:] = np.eye(20, 30)  # diagonal neighbours belong together
    assert gs.heatmap_to_box(values) == (0, 0, 20, 20)


def test_flat_and_bad_values():
    assert gs.heatmap_to_box(np.zeros((5, 5))) is None
    assert gs.heatmap_to_box(np.ones((5, 5))) is None
    assert gs.heatmap_to_box(np.full((1, 1), 0.4)) is None
    for bad in (np.full((4, 4), np.nan), np.full((4, 4), 2.0), np.zeros(5), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="heatmap"):
            gs.heatmap_to_box(bad)


def test_iou():
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert iou((0, 0, 1, 1), (1, 1, 2, 2), inclusive=True) == pytest.approx(1 / 7)
    assert iou((0, 0, 0, 5), (0, 0, 0, 5)) == 0


def test_iou_equals_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = [(*p, *(p + rng.integers(1, 9, 2))) for p in rng.integers(0, 9, (2, 2))]
        grids = np.zeros((2, 20, 20), bool)
        for grid, (x0, y0, x1, y1) in zip(grids, boxes, strict=True):
            grid[y0:y1, x0:x1] = True
        assert iou(*boxes) == pytest.approx((grids[0] & grids[1]).sum() / grids.any(0).sum())


def test_best_iou():
    truth = [(0, 0, 2, 2), (0, 0, 4, 4)]
    assert best_iou((0, 0, 4, 4), truth) == 1
    assert best_iou(None, truth) == 0
    assert best_iou((0, 0, 4, 4), []) == 0
