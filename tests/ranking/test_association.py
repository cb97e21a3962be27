"""Measures beside the headline, against scipy and scikit-learn, and p-values that mean what they say."""

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, root_mean_squared_error

from wsibench.ranking.association import (
    fold_pearson,
    partial_spearman,
    pooled_spearman,
    r2,
    rmse,
    significance,
    within_strata,
)
from wsibench.regression import fold_spearman


@pytest.fixture
def cohort():
    rng = np.random.default_rng(3)
    measured = rng.normal(size=(90, 6)).astype(np.float32)
    predicted = (0.7 * measured + rng.normal(size=measured.shape)).astype(np.float32)
    return measured, predicted, np.arange(90) % 3


def test_agree_with_the_libraries(cohort):
    measured, predicted, fold = cohort
    for g in range(6):
        y, x = measured[:, g], predicted[:, g]
        assert pooled_spearman(measured, predicted)[g] == pytest.approx(spearmanr(y, x).statistic, abs=1e-5)
        r = [pearsonr(y[fold == k], x[fold == k]).statistic for k in range(3)]
        assert fold_pearson(measured, predicted, fold)[g] == pytest.approx(np.tanh(np.arctanh(r).mean()))
        assert rmse(measured, predicted)[g] == pytest.approx(root_mean_squared_error(y, x))
        unbiased = 1 - (1 - r2_score(y, x)) * 89 / 90
        assert r2(measured, predicted, np.zeros(90))[g] == pytest.approx(unbiased, abs=1e-6)


def test_the_mean_of_all_patients_explains_nothing_in_folds_of_any_size():
    measured = np.random.default_rng(0).normal(size=(400, 50)).astype(np.float32)
    for size in (4, 40):
        found = r2(measured, np.zeros_like(measured), np.arange(400) // size)
        assert found.mean() == pytest.approx(0, abs=0.02)


def test_pooling_is_fooled_by_offsets_of_folds_and_the_rest_is_not(cohort):
    measured, predicted, fold = cohort
    shifted = predicted + 10 * fold[:, None]
    assert pooled_spearman(measured, shifted).mean() < 0.5 * pooled_spearman(measured, predicted).mean()
    np.testing.assert_allclose(
        fold_pearson(measured, shifted, fold),
        fold_pearson(measured, predicted, fold),
        atol=1e-5,
    )


def test_constant_prediction_is_zero_and_finite(cohort):
    measured, predicted, fold = cohort
    predicted[:, 0] = 4
    for found in (
        pooled_spearman(measured, predicted),
        fold_pearson(measured, predicted, fold),
    ):
        assert found[0] == 0
        assert np.isfinite(found).all()


def test_what_only_tells_subtypes_apart_is_gone_within_them():
    rng = np.random.default_rng(0)
    subtype = np.arange(300) % 3
    shift = np.array([0.0, 3, 6])[subtype][:, None]
    measured, predicted = (shift + rng.normal(size=(300, 20)) for _ in range(2))
    own = measured[:, :5]
    predicted[:, :5] = own + rng.normal(size=own.shape)
    fold = np.arange(300) % 5
    within = within_strata(measured, [predicted], fold, subtype.astype(str))[0]
    given = partial_spearman(measured, [predicted], fold, np.eye(3)[subtype])[0]
    plain = fold_spearman(measured, predicted, fold).mean()
    assert plain[5:].mean() > 0.7
    for left in (within, given):
        assert abs(left[5:].mean()) < 0.08
        assert left[:5].mean() > 0.5


def test_partial_correlation_is_that_of_residual_ranks(cohort):
    measured, predicted, _ = cohort
    covariates = np.random.default_rng(0).normal(size=(90, 2)) + measured[:, :1]
    found = partial_spearman(measured, [predicted], np.zeros(90), covariates)[0]
    for g in range(6):
        y, x = (rankdata(values[:, g]) for values in (measured, predicted))
        y, x = (r - LinearRegression().fit(covariates, r).predict(covariates) for r in (y, x))
        assert found[g] == pytest.approx(pearsonr(y, x).statistic, abs=1e-4)


def test_strata_of_three_are_no_strata():
    y = np.random.default_rng(0).normal(size=(6, 2))
    assert np.isnan(within_strata(y, [y], np.zeros(6), np.array(list("aaabbb")))).all()


def null_cohort(seed, genes=400, permutations=30):
    """ρ of independent genes without signal, of differing means and spreads under permutation."""
    rng = np.random.default_rng(seed)
    mean, sd = rng.normal(0, 0.1, genes), rng.uniform(0.03, 0.2, genes)
    draw = np.tanh(mean + sd * rng.normal(size=(permutations + 1, genes)))
    return draw[0], draw[1:]


@pytest.mark.parametrize("permutations", [5, 30])
def test_p_values_of_null_genes_are_uniform(permutations):
    """40 cohorts of 400 genes: ± 4 Monte-Carlo SE of a share of .05 is ± .007."""
    p = np.concatenate([significance(*null_cohort(seed, permutations=permutations))[0] for seed in range(40)])
    tolerance = 0.007 if permutations == 30 else 0.012
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=tolerance)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.02)


def test_false_discoveries_stay_at_their_rate_and_true_ones_are_found():
    false = found = 0
    for seed in range(20):
        rho, permuted = null_cohort(seed)
        rho[:100] = np.tanh(np.arctanh(rho[:100]) + 1.2)
        _, q = significance(rho, permuted)
        false += (q[100:] < 0.05).sum() / max(1, (q < 0.05).sum()) / 20
        found += (q[:100] < 0.05).mean() / 20
    assert false < 0.06
    assert found > 0.9


def test_gene_predicted_constant_is_not_significant():
    rho, permuted = null_cohort(0)
    rho[0], permuted[:, 0] = 0, 0
    p, _ = significance(rho, permuted)
    assert 0.4 < p[0] < 0.6
