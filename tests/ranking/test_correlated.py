"""Fold-to-fold comparisons against numbers worked by hand, scipy's t, and cohorts whose truth is equality."""

import numpy as np
import pytest
from scipy import stats

from wsibench.ranking.correlated import Differences, corrected, corrected_t, fold_differences, posterior


def test_five_equal_folds_worked_by_hand():
    # Mean .03; squared distances .0004 + .0001 + 0 + .0001 + .0004 = .001, variance .00025.
    # 1/5 + 20/80 = .45, standard error √(.00025 · .45) = .0106066, t = 2.828427 of 4 degrees of freedom.
    found = corrected([0.01, 0.02, 0.03, 0.04, 0.05], [20] * 5, [80] * 5)
    assert found.mean == pytest.approx(0.03)
    assert found.scale == pytest.approx(0.010606602)
    assert found.degrees == 4
    assert corrected_t(found) == pytest.approx(0.047421, abs=1e-5)
    assert corrected_t(found) == pytest.approx(2 * stats.t.sf(8**0.5, 4))
    better, equal, worse = posterior(found, 0.01)
    assert better == pytest.approx(stats.t(4, loc=0.03, scale=0.010606602).sf(0.01))
    assert worse == pytest.approx(stats.t(4, loc=0.03, scale=0.010606602).cdf(-0.01))
    assert better + equal + worse == pytest.approx(1)


def test_without_a_rope_the_posterior_is_the_one_sided_test():
    found = corrected([0.01, -0.02, 0.03, 0.04, 0.0], [20] * 5, [80] * 5)
    better, equal, worse = posterior(found, 0.0)
    assert equal == pytest.approx(0, abs=1e-12)
    assert 2 * min(better, worse) == pytest.approx(corrected_t(found))


def test_without_the_correction_it_is_scipys_t_test():
    each = np.random.default_rng(0).normal(0.01, 0.02, 8)
    found = corrected(each, [30] * 8, [1e12] * 8)
    assert corrected_t(found) == pytest.approx(stats.ttest_1samp(each, 0).pvalue)


def test_unequal_folds_worked_by_hand():
    # Weights 10, 20 and 30 of 60: mean (.1 · 10 + .2 · 20 + .3 · 30) / 60 = .2333.
    # Variance 3/2 · (10 · .017778 + 20 · .001111 + 30 · .004444) / 60 = .0083333.
    # 1/3 + (10 · 13/56 + 20 · 23/46 + 30 · 33/36) / 60 = .9970238.
    found = corrected([0.1, 0.2, 0.3], [13, 23, 33], [56, 46, 36])
    assert found.mean == pytest.approx(0.2333333)
    assert found.scale == pytest.approx((0.0083333333 * 0.9970238) ** 0.5)


def test_folds_of_three_do_not_count_and_swapping_the_two_mirrors_the_answer():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.1, 0.05, (2, 5, 7))
    n_test = np.array([3, 9, 10, 11, 12])
    found, swapped = fold_differences(a, b, n_test, 45), fold_differences(b, a, n_test, 45)
    assert found.degrees == 3
    assert found.mean == pytest.approx(np.average((a - b)[1:].mean(axis=1), weights=n_test[1:] - 3))
    assert corrected_t(found) == pytest.approx(corrected_t(swapped))
    assert posterior(found, 0.01) == pytest.approx(posterior(swapped, 0.01)[::-1])


def test_folds_that_agree_and_a_single_fold():
    same = Differences(0.0, 0.0, 4)
    assert corrected_t(same) == 1
    assert posterior(same, 0.01) == (0, 1, 0)
    assert posterior(same, 0.0) == (0, 1, 0)
    assert corrected_t(Differences(0.2, 0.0, 4)) == 0
    assert posterior(Differences(-0.2, 0.0, 4), 0.01) == (0, 0, 1)
    alone = corrected([0.1], [20], [80])
    assert np.isnan([corrected_t(alone), *posterior(alone, 0.01)]).all()
    # What float32 leaves of two encoders that predict the same is no difference.
    assert corrected_t(corrected(np.float32([1e-9, -1e-9, 0]), [20] * 3, [40] * 3)) == 1


@pytest.mark.parametrize("n_test", [[20, 20, 20, 20, 20], [8, 14, 20, 26, 32]])
def test_equal_competitors_are_told_apart_as_often_as_is_said(n_test):
    """Differences as the correction takes them: correlated at the share that is tested."""
    rng, n_test, rejected, plain = np.random.default_rng(2), np.array(n_test), [], []
    n, weight = n_test.sum(), n_test - 3
    # A difference's variance is in proportion to 1 / (n − 3); its shared part is what training has in common.
    share = weight @ (n_test / (n - n_test)) / weight.sum()
    for _ in range(4000):
        each = np.sqrt(share) * rng.normal() + rng.normal(size=5) / np.sqrt(weight / weight.mean())
        rejected.append(corrected_t(corrected(each, n_test, n - n_test)) < 0.05)
        plain.append(stats.ttest_1samp(each, 0).pvalue < 0.05)
    assert np.mean(rejected) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 4000))
    assert np.mean(plain) > 0.12


def test_a_posterior_is_as_sure_as_it_is_right():
    """Where the true difference is drawn from a flat prior, it lies beyond the rope as often as is said."""
    rng, said, true = np.random.default_rng(3), [], []
    for _ in range(4000):
        delta = rng.uniform(-20, 20)
        each = delta + np.sqrt(0.25) * rng.normal() + rng.normal(size=5)
        said.append(posterior(corrected(each, [20] * 5, [80] * 5), 1.0))
        true.append((delta > 1, abs(delta) <= 1, delta < -1))
    said, true = np.array(said), np.array(true)
    near = (said[:, 0] > 0.2) & (said[:, 0] < 0.8)
    assert true[near, 0].mean() == pytest.approx(said[near, 0].mean(), abs=3 * 0.5 / np.sqrt(near.sum()))
    assert true[:, 1].mean() == pytest.approx(said[:, 1].mean(), abs=0.01)
