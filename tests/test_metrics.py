"""metrics.py: against counting, closed forms, and scikit-learn's definitions by hand."""

import itertools

import numpy as np
import pytest

from gscam_lib.evaluation import metrics as m
from gscam_lib.evaluation.statistics import bootstrap


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


def test_ious_at_thresholds_of_steps():
    """A small hot square in a large warm one, and a separate warm speck."""
    values = np.zeros((20, 20))
    values[2:12, 2:12] = 0.5
    values[4:8, 4:8] = 1
    values[16:18, 16:18] = 0.5
    thresholds = (0.25, 0.49, 0.75, 0.99)
    inner, outer, speck = (4, 4, 8, 8), (2, 2, 12, 12), (16, 16, 18, 18)
    find = m.ious_at_thresholds
    np.testing.assert_allclose(find(values, [inner], thresholds, largest=True), [0.16, 0.16, 1, 1])
    np.testing.assert_allclose(find(values, [outer], thresholds, largest=True), [1, 1, 0.16, 0.16])
    np.testing.assert_allclose(find(values, [speck], thresholds, largest=True), 0)
    np.testing.assert_allclose(find(values, [speck], thresholds), [1, 1, 0, 0])
    np.testing.assert_allclose(find(values * 0, [speck], thresholds), 0)
    ious = np.stack([find(values, [box], thresholds) for box in (inner, outer, inner)])
    assert m.max_box_acc(ious) == (pytest.approx(2 / 3), 2)  # at the known threshold 0.75


def test_max_box_acc_interval(rng):
    ious = rng.random((300, 5)) * [0.2, 0.6, 1.0, 0.8, 0.4]
    ((low, high),) = bootstrap(np.arange(300), [m.box_hits(ious, [0.5])])
    share, best = m.max_box_acc(ious)
    assert best == 2
    half = 1.96 * np.sqrt(share * (1 - share) / 300)
    assert (low, high) == (
        pytest.approx(share - half, abs=0.015),
        pytest.approx(share + half, abs=0.015),
    )
    ((low, high),) = bootstrap(np.arange(300), [m.box_hits(ious)])
    assert low < m.max_box_acc_v2(ious) < high


def test_average_precision_equals_scikit_learn(rng):
    reference = pytest.importorskip("sklearn.metrics").average_precision_score
    values = rng.integers(0, 20, (25, 30)) / 20  # many ties
    mask = rng.random((25, 30)) < 0.2 + values / 2
    counts = m.pixel_counts(values, mask, bins=20)
    assert counts.sum() == 750
    assert m.average_precision(counts) == pytest.approx(
        reference(mask.ravel(), values.ravel()), abs=1e-12
    )


def test_maps_at_the_limits():
    mask = np.zeros((10, 10), bool)
    mask[2:5, 2:7] = True
    cases = {"perfect": mask * 1.0, "inverted": 1 - mask, "flat": np.zeros((10, 10))}
    ap = {name: m.pixel_average_precision([(v, mask)]) for name, v in cases.items()}
    assert ap == {
        "perfect": pytest.approx(1),
        "inverted": pytest.approx(0.15),  # all true pixels come last, with all the others
        "flat": pytest.approx(0.15),
    }
    energy = [m.energy_inside(v, mask) for v in cases.values()]
    assert energy == [1, 0, 0]
    assert [m.pointing_hit(v, mask, tolerance=0) for v in cases.values()] == [True, False, False]
    assert [m.mask_iou(v, mask) for v in cases.values()] == [1, 0, 0]
    pixel = np.zeros((10, 10))
    pixel[3, 3] = 1
    assert m.pixel_average_precision([(pixel, mask)]) == pytest.approx(1 / 15 + 14 / 15 * 0.15)
    assert m.energy_inside(pixel, mask) == 1
    assert m.total_variation(pixel) == 4


def test_pixel_average_precision_interval(rng):
    pairs = [(rng.random((8, 8)), rng.random((8, 8)) < 0.3) for _ in range(40)]
    counts = np.stack([m.pixel_counts(v, k, bins=50) for v, k in pairs])
    rows = counts.reshape(40, -1)
    ((low, high),) = bootstrap(np.arange(40), [(rows, m.average_precisions)], samples=400)
    whole = m.pixel_average_precision(pairs, bins=50)
    assert low < whole < high
    draws = np.random.default_rng(1).integers(0, 40, (400, 40))
    slow = [m.pixel_average_precision([pairs[i] for i in d], bins=50) for d in draws]
    np.testing.assert_allclose([low, high], np.quantile(slow, [0.025, 0.975]), atol=0.015)


def test_center_is_a_blind_guess():
    mask = np.zeros((100, 60), bool)
    mask[50, 45] = True  # 15 to the right of the middle
    assert m.center_hit(mask)
    assert not m.center_hit(mask, tolerance=14.9)
    assert not m.center_hit(mask & False)


def test_area_under():
    assert m.area_under([0, 1]) == 0.5
    assert m.area_under([1, 1, 1, 1]) == 1
    assert m.area_under([0, 4, 2]) == pytest.approx(0.5 * (0 + 4) / 2 + 0.5 * (4 + 2) / 2)
    with pytest.raises(ValueError, match="two"):
        m.area_under([1])


def test_rank_correlation_and_ssim(rng):
    from scipy.stats import spearmanr

    a, b = rng.random((2, 12, 15))
    assert m.rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
    assert m.rank_correlation(a, a**3) == pytest.approx(1)
    assert m.rank_correlation(a, -a) == pytest.approx(-1)
    assert m.rank_correlation(a, np.ones_like(a)) == 0
    assert m.similarity(a, a) == pytest.approx(1)
    assert m.similarity(a, 1 - a) < 0
    assert m.similarity(a[:3, :4], a[:3, :4]) == pytest.approx(1)
    with pytest.raises(ValueError, match="3 × 3"):
        m.similarity(a[:2], b[:2])


def test_max_box_acc_looks_at_a_thousand_thresholds(rng):
    """As the protocol does, in 256 steps of grey; a plain loop over them gives the same."""
    values = np.asarray(rng.random((30, 30)) ** 3, np.float32)
    box = (3, 4, 20, 22)
    assert len(m.THRESHOLDS) == 1000
    found = m.ious_at_thresholds(values, [box])
    grey = (values * 255).astype(np.uint8)
    for i in range(0, 1000, 37):
        hot = grey > int(m.THRESHOLDS[i] * grey.max())
        from skimage.measure import label, regionprops

        boxes = [(r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2])
                 for r in regionprops(label(hot, connectivity=2))]  # fmt: skip
        assert found[i] == max((m.iou(b, box) for b in boxes), default=0.0)
