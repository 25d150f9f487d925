"""metrics.py: against counting, closed forms, and scikit-learn's definitions by hand."""

import itertools

import numpy as np
import pytest

from gscam_lib import metrics as m


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_max_box_acc_takes_one_threshold_for_all():
    ious = np.array([[0.6, 0.2, 0.4], [0.1, 0.9, 0.55], [0.2, 0.8, 0.55]])
    assert m.max_box_acc(ious) == (pytest.approx(2 / 3), 1)
    assert m.max_box_acc(ious, delta=0.3) == (pytest.approx(1), 2)
    expected = np.mean([1, 2 / 3, 2 / 3])
    assert m.max_box_acc_v2(ious) == pytest.approx(expected)


def test_boxes_to_mask_counts_pixels():
    mask = m.boxes_to_mask([(1, 2, 4, 5), (6, 0, 8, 1)], (6, 9))
    assert mask.sum() == 9 + 2
    assert mask[2, 1]
    assert not mask[5, 3]
    assert m.boxes_to_mask([(0.4, 0, 1.6, 1)], (1, 3)).tolist() == [[True, True, False]]


def test_pointing_within_tolerance():
    values = np.zeros((50, 50))
    values[10, 10] = 1
    mask = np.zeros((50, 50), bool)
    assert not m.pointing_hit(values, mask)
    mask[10, 25] = True
    assert m.pointing_hit(values, mask)
    assert not m.pointing_hit(values, mask, tolerance=14.9)
    mask[10, 25], mask[22, 20] = False, True  # 12 down, 10 right: 15.6 away
    assert not m.pointing_hit(values, mask)


def test_energy_variation_entropy(rng):
    values = np.zeros((4, 6))
    values[1, 2], values[3, 3] = 1, 3
    mask = np.zeros((4, 6), bool)
    mask[3] = True
    assert m.energy_inside(values, mask) == pytest.approx(0.75)
    assert m.energy_inside(values * 0, mask) == 0
    assert m.total_variation(values) == pytest.approx(4 * 1 + 3 * 3)
    assert m.entropy(np.ones((4, 6))) == pytest.approx(np.log(24))
    assert m.entropy(values == 3) == 0
    step = np.repeat([[0.0, 1.0]], 5, 0)
    assert m.total_variation(step) == 5


def test_mask_iou():
    values = np.array([[0.2, 0.5, 0.9]])
    assert m.mask_iou(values, np.array([[True, True, False]])) == pytest.approx(1 / 3)
    assert m.mask_iou(values, np.zeros((1, 3), bool), threshold=2) == 0


def test_pixel_average_precision_equals_a_sort(rng):
    values = rng.permutation(900).reshape(30, 30) / 900 + 1e-4
    mask = rng.random((30, 30)) < values
    order = mask.ravel()[np.argsort(-values.ravel())]
    precision = np.cumsum(order) / np.arange(1, 901)
    expected = (precision * order).sum() / order.sum()
    assert m.pixel_average_precision([(values, mask)], bins=900) == pytest.approx(expected)
    halves = [(values[:15], mask[:15]), (values[15:], mask[15:])]
    assert m.pixel_average_precision(halves, bins=900) == pytest.approx(expected)
    with pytest.raises(ValueError, match="empty"):
        m.pixel_average_precision([(values, mask & False)])


def test_prompt_sensitivity(rng):
    a, b, c = rng.random((3, 5, 5))
    assert m.prompt_sensitivity([a, 2 * a + 1]) == pytest.approx(1)
    assert m.correlation(a, -a) == pytest.approx(-1)
    assert m.correlation(a, np.ones((5, 5))) == 0
    expected = np.mean(
        [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in itertools.combinations([a, b, c], 2)]
    )
    assert m.prompt_sensitivity([a, b, c]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="two prompts"):
        m.prompt_sensitivity([a])


def test_shapes_must_agree():
    for bad in (np.zeros((3, 4), bool), np.zeros((4, 4), int)):
        with pytest.raises(ValueError, match="bool mask of the same shape"):
            m.energy_inside(np.zeros((4, 4)), bad)


def test_bootstrap_covers_the_normal_interval(rng):
    values = rng.normal(3, 2, 400)
    low, high = m.bootstrap_interval(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_draws_images_not_rows(rng):
    """Copies of a row within an image say nothing new: the interval stays as wide."""
    values = rng.normal(0, 1, 100)
    alone = m.bootstrap_interval(values, np.arange(100))
    copied = m.bootstrap_interval(np.repeat(values, 5), np.repeat(np.arange(100), 5))
    np.testing.assert_allclose(alone, copied)
    with pytest.raises(ValueError, match="not empty"):
        m.bootstrap_interval(np.array([]), np.array([]))


def test_paired_difference(rng):
    b = rng.normal(0, 1, 200)
    noise = rng.normal(0, 0.1, 200)
    better = m.paired_difference(b + 0.1 + noise, b, np.arange(200))
    assert better["low"] < better["difference"] < better["high"]
    assert better["low"] > 0
    assert better["p"] < 0.01
    same = m.paired_difference(b + noise - noise.mean(), b, np.arange(200))
    assert same["p"] > 0.5


def test_sign_flip_p_is_exact_for_few_images():
    """Three images with equal gains: 2 of the 8 sign patterns are as extreme."""
    found = m.paired_difference(np.ones(3), np.zeros(3), np.arange(3), samples=20_000)
    assert found["p"] == pytest.approx(2 / 8, abs=0.01)
