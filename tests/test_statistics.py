"""statistics.py: intervals and tests over images, against plain ways to make them."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from gscam_lib.evaluation import statistics as st


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_bootstrap_covers_the_normal_interval(rng):
    values = rng.normal(3, 2, 400)
    low, high = st.bootstrap_interval(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_draws_images_not_rows(rng):
    """Copies of a row within an image say nothing new: the interval stays as wide."""
    values = rng.normal(0, 1, 100)
    alone = st.bootstrap_interval(values, np.arange(100))
    copied = st.bootstrap_interval(np.repeat(values, 5), np.repeat(np.arange(100), 5))
    np.testing.assert_allclose(alone, copied)
    with pytest.raises(ValueError, match="at least one"):
        st.bootstrap_interval(np.array([]), np.array([]))


def test_paired_difference(rng):
    b = rng.normal(0, 1, 200)
    noise = rng.normal(0, 0.1, 200)
    better = st.paired_difference(b + 0.1 + noise, b, np.arange(200))
    assert better["low"] < better["difference"] < better["high"]
    assert better["low"] > 0
    assert better["p"] < 0.01
    same = st.paired_difference(b + noise - noise.mean(), b, np.arange(200))
    assert same["p"] > 0.5


def test_sign_flip_p_is_exact_for_few_images():
    """Three images with equal gains: 2 of the 8 sign patterns are as extreme."""
    found = st.paired_difference(np.ones(3), np.zeros(3), np.arange(3), samples=20_000)
    assert found["p"] == pytest.approx(2 / 8, abs=0.01)


def test_wilcoxon_and_holm(rng):
    from scipy.stats import wilcoxon

    a, b = rng.normal(0.3, 1, 60), np.zeros(60)
    found = st.paired_difference(a, b, np.arange(60))
    assert found["wilcoxon"] == pytest.approx(wilcoxon(a).pvalue)
    assert st.paired_difference(b, b, np.arange(60))["wilcoxon"] == 1
    np.testing.assert_allclose(st.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(st.holm([0.9, 0.8]), [1, 1])
    several = rng.random(30) ** 3
    np.testing.assert_allclose(st.holm(several), multipletests(several, method="holm")[1])


def test_macro_mean_weighs_classes_alike(rng):
    values, classes = np.array([1, 1, 1, 0.0]), np.array(["a", "a", "a", "b"])
    assert st.macro_mean(values, classes) == 0.5
    values, classes = rng.random(200), rng.choice(list("abc"), 200, p=[0.8, 0.15, 0.05])
    images = np.repeat(np.arange(50), 4)
    (low, high), *_ = st.bootstrap(images, [st.by_class(values, classes)])
    draws = np.random.default_rng(5).integers(0, 50, (1000, 50))
    slow = []
    for drawn in draws:
        rows = (4 * drawn[:, None] + np.arange(4)).ravel()
        slow.append(np.mean([values[rows][classes[rows] == c].mean() for c in set(classes[rows])]))
    np.testing.assert_allclose([low, high], np.quantile(slow, [0.025, 0.975]), atol=0.02)


def test_median_interval(rng):
    values, images = rng.random(150), np.repeat(np.arange(50), 3)
    low, high = st.median_interval(values, images)
    draws = np.random.default_rng(5).integers(0, 50, (2000, 50))
    slow = [np.median(values.reshape(50, 3)[drawn]) for drawn in draws]
    np.testing.assert_allclose([low, high], np.quantile(slow, [0.025, 0.975]), atol=0.02)
    assert st.median_interval(np.array([0.0, 1, 9]), np.zeros(3)) == (1, 1)
    assert st.median_interval(np.array([9.0, 0, 1, 2]), np.zeros(4)) == (1.5, 1.5)  # as NumPy's


def test_bundles_of_many_images_give_the_same_interval(rng, monkeypatch):
    """Images of three questions, with more of them than are drawn one by one."""
    groups = np.repeat(np.arange(8000), 3)
    values = rng.exponential(1, 8000)[groups] + rng.normal(0, 0.3, len(groups))
    bundled = np.array(st.bootstrap_interval(values, groups))
    bundled_median = np.array(st.median_interval(values, groups, samples=500))
    monkeypatch.setattr(st, "BUNDLES", len(groups))
    plain = np.array(st.bootstrap_interval(values, groups))
    plain_median = np.array(st.median_interval(values, groups, samples=500))
    width, median_width = np.diff(plain)[0], np.diff(plain_median)[0]
    assert not np.array_equal(bundled, plain)
    np.testing.assert_allclose(bundled, plain, atol=0.1 * width)
    np.testing.assert_allclose(bundled_median, plain_median, atol=0.15 * median_width)
