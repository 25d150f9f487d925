"""boxes.py and metrics.py: against plain search, and the conventions."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import gaussian

import gscam_lib as gs
from gscam_lib import boxes
from gscam_lib.evaluation.metrics import best_iou, iou


@pytest.mark.parametrize("seed", range(12))
def test_box_equals_plain_search(seed):
    values = gaussian(np.random.default_rng(seed).random((24, 31)), sigma=1.5)
    values = (values - values.min()) / np.ptp(values)
    assert gs.heatmap_to_box(values) == naive.otsu_box(values)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_to_the_nearest_step(seed):
    """As the released code does where a map becomes 8 bits: the same as half a step added."""
    values = gaussian(np.random.default_rng(seed).random((24, 31)), sigma=1.5)
    values = (values - values.min()) / np.ptp(values)
    steps = np.round(values * 255) / 255
    expected = naive.otsu_box(steps + 1e-9)
    assert gs.heatmap_to_box(values, rounding="nearest") == expected
    with pytest.raises(ValueError, match="down or nearest"):
        gs.heatmap_to_box(values, rounding="up")


def test_rounding_decides_about_a_pixel():
    faint = np.array([[0.0, 0.9 / 255]])  # constant in steps, and not
    hot = [boxes.hot_pixels(faint, rounding=rounding) for rounding in ("down", "nearest")]
    assert [h.sum() for h in hot] == [0, 1]


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)),
           elements=st.floats(0, 1, width=32)),
    st.sampled_from(["otsu", "p50", "p99", 0.001, 0.5, 1.0]),
    st.sampled_from(boxes.RULES),
    st.sampled_from(["down", "nearest"]),
)  # fmt: skip
def test_a_box_of_any_map_lies_in_it_and_holds_hot_pixels(values, threshold, rule, rounding):
    hot = boxes.hot_pixels(values, threshold, rounding)
    box = gs.heatmap_to_box(values, threshold=threshold, rule=rule, rounding=rounding)
    assert (box is None) == (not hot.any())
    if box is not None:
        x0, y0, x1, y1 = box
        assert 0 <= x0 < x1 <= values.shape[1]
        assert 0 <= y0 < y1 <= values.shape[0]
        inside = hot[y0:y1, x0:x1]
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()
        if rule == "union":
            assert inside.sum() == hot.sum()
        if rule == "hottest_component":
            assert values[y0:y1, x0:x1].max() == values[hot].max()


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


@pytest.fixture
def islands():
    """A wide cool frame corner, a compact warm block, one hot pixel; all else is cold."""
    values = np.zeros((20, 30), np.float32)
    values[0, 0:12] = values[0:12, 0] = 0.5  # 12 × 12 rectangle, 23 pixels
    values[14:20, 14:20] = 0.8  # 6 × 6, 36 pixels
    values[2, 28] = 1.0
    return values


def test_box_rules(islands):
    rules = {
        "largest_rectangle": (0, 0, 12, 12),
        "largest_component": (14, 14, 20, 20),
        "hottest_component": (28, 2, 29, 3),
        "union": (0, 0, 29, 20),
    }
    assert set(rules) == set(boxes.RULES)
    for rule, box in rules.items():
        assert gs.heatmap_to_box(islands, threshold=0.4, rule=rule) == box, rule
    with pytest.raises(ValueError, match="largest_rectangle"):
        gs.heatmap_to_box(islands, rule="best")


def test_thresholds(islands):
    assert gs.heatmap_to_box(islands, threshold=0.9) == (28, 2, 29, 3)
    assert gs.heatmap_to_box(islands, threshold=1.0) == (28, 2, 29, 3)
    assert gs.heatmap_to_box(islands, threshold=0.8) == (14, 14, 20, 20)
    ramp = np.arange(100, dtype=float).reshape(10, 10) / 99
    assert boxes.hot_pixels(ramp, "p90").sum() == 10
    assert boxes.hot_pixels(ramp, 0.5).sum() == 50
    assert boxes.hot_pixels(islands, "p50").sum() == 23 + 36 + 1  # half the map is exactly 0
    assert not boxes.hot_pixels(np.ones((4, 4)), 0.5).any()
    for bad in ("otsuu", "p", "p100", "p0", 0, 1.5, True, float("nan"), None, [0.5], ramp):
        with pytest.raises(ValueError, match="threshold"):
            gs.heatmap_to_box(islands, threshold=bad)


def test_one_hot_pixel():
    values = np.zeros((7, 9), np.float32)
    values[4, 3] = 1
    for threshold in ("otsu", "p95", 0.2):
        for rule in boxes.RULES:
            assert gs.heatmap_to_box(values, threshold=threshold, rule=rule) == (3, 4, 4, 5)


def test_iou():
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0
    assert iou((0, 0, 1, 1), (1, 1, 2, 2), inclusive=True) == pytest.approx(1 / 7)
    assert iou((0, 0, 0, 5), (0, 0, 0, 5)) == 0


def test_iou_equals_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pair = [(*p, *(p + rng.integers(1, 9, 2))) for p in rng.integers(0, 9, (2, 2))]
        grids = np.zeros((2, 20, 20), bool)
        for grid, (x0, y0, x1, y1) in zip(grids, pair, strict=True):
            grid[y0:y1, x0:x1] = True
        assert iou(*pair) == pytest.approx((grids[0] & grids[1]).sum() / grids.any(0).sum())


def test_best_iou():
    truth = [(0, 0, 2, 2), (0, 0, 4, 4)]
    assert best_iou((0, 0, 4, 4), truth) == 1
    assert best_iou(None, truth) == 0
    assert best_iou((0, 0, 4, 4), []) == 0
