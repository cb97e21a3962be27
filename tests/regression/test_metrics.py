"""Spearman within folds, its bootstrap, and what is derived from it."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata, spearmanr

from wsibench.regression import metrics as scores


@pytest.fixture
def cohort():
    """Predictions of known quality, with ties: measured (120, 30), predicted (120, 30), fold (120,)."""
    rng = np.random.default_rng(3)
    measured = rng.normal(size=(120, 30)).round(1)
    predicted = (0.7 * measured + rng.normal(size=measured.shape)).round(1)
    return measured.astype(np.float32), predicted.astype(np.float32), np.arange(120) % 5


@given(arrays(np.float32, (17, 3), elements=st.sampled_from([-1e30, -1.5, 0, 1e-30, 2, 7])))
@settings(max_examples=50, deadline=None)
def test_midranks_are_scipys(values):
    expected = (rankdata(values, axis=0) - 9) / 17
    np.testing.assert_allclose(scores.centred_midranks(values), expected, atol=1e-6)


def test_spearman_within_folds_is_scipys(cohort):
    measured, predicted, fold = cohort
    found = scores.fold_spearman(measured, predicted, fold)
    for row in range(5):
        expected = [spearmanr(measured[fold == row, g], predicted[fold == row, g]).statistic for g in range(30)]
        np.testing.assert_allclose(found.rho[row], expected, atol=1e-6)
    assert not found.undefined().any()


def test_fold_offsets_do_not_enter(cohort):
    measured, predicted, fold = cohort
    shifted = predicted + 100 * fold[:, None]
    np.testing.assert_array_equal(
        scores.fold_spearman(measured, shifted, fold).mean(), scores.fold_spearman(measured, predicted, fold).mean()
    )


def test_fisher_mean_weighs_folds_by_their_patients_less_three():
    rho = np.array([[0.5], [0.1]])
    expected = np.tanh((7 * np.arctanh(0.5) + 17 * np.arctanh(0.1)) / 24)
    assert scores.fisher_mean(rho, np.array([10, 20])) == pytest.approx(expected)


def test_perfect_prediction_stays_finite():
    y = np.arange(20, dtype=np.float32)[:, None]
    assert scores.fold_spearman(y, y, np.arange(20) % 2).mean() == pytest.approx(0.999, abs=1e-6)


def test_fold_of_three_patients_has_no_weight():
    rho = np.array([[-1.0], [0.4]])
    assert scores.fisher_mean(rho, np.array([3, 30])) == pytest.approx(0.4)
    assert np.isnan(scores.fisher_mean(rho, np.array([3, 2]))).all()


def test_constant_prediction_scores_zero_and_is_counted(cohort):
    measured, predicted, fold = cohort
    predicted[:, 4] = 2.5
    predicted[fold == 1, 7] = -1
    found = scores.fold_spearman(measured, predicted, fold)
    assert found.mean()[4] == 0
    assert found.undefined().nonzero()[0].tolist() == [4, 7]
    others = scores.fisher_mean(found.rho[:, [7]] * (np.arange(5) != 1)[:, None], found.n)
    assert found.mean()[7] == pytest.approx(others[0])


def test_gene_constant_in_a_fold_is_not_scorable(cohort):
    measured, _, fold = cohort
    measured[fold == 2, 3] = 0
    assert (~scores.scorable_genes(measured, fold)).nonzero()[0].tolist() == [3]


def test_permutation_stays_within_groups():
    groups = np.array(list("aabbbbcdddd") * 3)
    shuffled = scores.permutation_within(groups, np.random.default_rng(0))
    assert sorted(shuffled) == list(range(33))
    assert (groups[shuffled] == groups).all()
    assert (shuffled != np.arange(33)).any()
