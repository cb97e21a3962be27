"""Samples of patients and sites, and intervals, ranks and p-values from them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from wsibench.ranking import bootstrap, resampling
from wsibench.regression import Patients, fold_spearman, out_of_fold


@pytest.fixture
def cohort():
    """Predictions of known quality, with ties: measured (120, 30), predicted (120, 30), fold (120,)."""
    rng = np.random.default_rng(3)
    measured = rng.normal(size=(120, 30)).round(1)
    predicted = (0.7 * measured + rng.normal(size=measured.shape)).round(1)
    return measured.astype(np.float32), predicted.astype(np.float32), np.arange(120) % 5


def test_patient_bootstrap_keeps_the_size_of_every_fold():
    fold = np.repeat([0, 1, 2], [5, 20, 40])
    weights = resampling.sample_weights(fold, draws=50, seed=0)
    for label, n in enumerate((5, 20, 40)):
        assert (weights[:, fold == label].sum(axis=1) == n).all()
    np.testing.assert_array_equal(weights, resampling.sample_weights(fold, draws=50, seed=0))


def test_site_bootstrap_draws_whole_sites():
    sites = np.repeat(list("abcdef"), [3, 9, 1, 7, 5, 5])
    weights = resampling.sample_weights(np.zeros(30), draws=200, seed=0, sites=sites)
    for site in "abcdef":
        assert (np.ptp(weights[:, sites == site], axis=1) == 0).all()
    assert len(np.unique(weights.sum(axis=1))) > 1


def test_unit_weights_give_the_estimate_itself(cohort):
    measured, predicted, fold = cohort
    found = resampling.sampled_means(measured, [predicted, -predicted], fold, np.ones((1, 120), np.float32))
    expected = fold_spearman(measured, predicted, fold).mean().mean()
    np.testing.assert_allclose(found[:, 0, 0], [expected, -expected], atol=1e-5)


def test_reranked_samples_are_resampled_rows_given_to_scipy(cohort):
    measured, predicted, fold = cohort
    weights = resampling.sample_weights(fold, draws=70, seed=1)
    found = resampling.sampled_means(measured, [predicted, -predicted], fold, weights)
    for draw in (0, 1, 63, 64, 69):
        z = 0
        for label in range(5):
            members = np.flatnonzero(fold == label).repeat(weights[draw, fold == label].astype(int))
            rho = [spearmanr(measured[members, g], predicted[members, g]).statistic for g in range(30)]
            z = z + np.arctanh(rho) / 5
        assert found[0, 0, draw] == pytest.approx(np.tanh(z).mean(), abs=1e-5)
        assert found[1, 0, draw] == pytest.approx(-np.tanh(z).mean(), abs=1e-5)


def test_samples_of_sites_that_leave_a_fold_empty_are_survived(cohort):
    measured, predicted, fold = cohort
    sites = np.arange(120) // 12 * 5 + fold  # two or three patients each, none in two folds
    weights = resampling.sample_weights(fold, draws=100, seed=1, sites=np.where(fold == 0, "a", sites.astype(str)))
    assert (weights[:, fold == 0].sum(axis=1) == 0).any()
    found = resampling.sampled_means(measured, [predicted], fold, weights)
    assert np.isfinite(found).all()
    assert abs(found.mean() - fold_spearman(measured, predicted, fold).mean().mean()) < 0.06


def test_gene_sets_are_averaged_apart(cohort):
    measured, predicted, fold = cohort
    weights = resampling.sample_weights(fold, draws=4, seed=1)
    sets = np.zeros((2, 30), bool)
    sets[0, :10] = sets[1, 25:] = True
    found = resampling.sampled_means(measured, [predicted], fold, weights, sets)
    for row, genes in enumerate((slice(0, 10), slice(25, 30))):
        alone = resampling.sampled_means(measured[:, genes], [predicted[:, genes]], fold, weights)
        np.testing.assert_allclose(found[:, row], alone[:, 0], atol=1e-6)


def test_batches_of_genes_change_nothing(cohort, monkeypatch):
    measured, predicted, fold = cohort
    weights = resampling.sample_weights(fold, draws=4, seed=1)
    whole = resampling.sampled_means(measured, [predicted], fold, weights)
    monkeypatch.setattr(resampling, "GENE_BATCH", 7)
    np.testing.assert_allclose(resampling.sampled_means(measured, [predicted], fold, weights), whole, rtol=1e-6)


def test_bootstrap_survives_folds_without_variation():
    rng = np.random.default_rng(0)
    fold = np.repeat([0, 1], [4, 30])
    measured = rng.normal(size=(34, 2)).astype(np.float32)
    measured[1:4] = measured[0]
    predicted = np.zeros_like(measured)
    predicted[:, 1] = measured[:, 1]
    weights = resampling.sample_weights(fold, draws=100, seed=0)
    found = resampling.sampled_means(measured, [predicted], fold, weights, np.eye(2, dtype=bool))[0]
    assert (found[0] == 0).all()
    assert (found[1] > 0.99).all()


def coverage(n, sites=None, cohorts=150):
    """Share of cohorts whose 95 % interval holds the truth: 20 genes that correlate by .3, ρ_S = .786, 5 folds."""
    truth = 6 / np.pi * np.arcsin(0.8 / 2)
    covered = 0
    for seed in range(cohorts):
        rng = np.random.default_rng(seed)
        site = np.arange(n) % (sites or n)
        fold = site % 5
        y, e = (np.sqrt(0.3) * rng.normal(size=(n, 1)) + np.sqrt(0.7) * rng.normal(size=(n, 20)) for _ in range(2))
        x = 0.8 * y + 0.6 * e
        estimate = fold_spearman(y, x, fold).mean().mean()
        weights = resampling.sample_weights(fold, draws=300, seed=seed, sites=site if sites else None)
        sampled = resampling.sampled_means(y, [x], fold, weights)[0, 0]
        widening = bootstrap.widening_for_sites(fold, site) if sites else 1.0
        draws = bootstrap.confidence_draws(estimate, sampled, widening=widening)
        low, high = bootstrap.central_interval(draws)
        covered += low <= truth <= high
    return covered / cohorts


@pytest.mark.parametrize(("n", "sites"), [(100, None), (160, 20)])
def test_interval_covers_a_known_correlation_about_as_often_as_it_says(n, sites):
    """Nominal 95 %, 150 cohorts: ± 3 Monte-Carlo SE is ± .053."""
    assert 0.89 <= coverage(n, sites) <= 1


def test_confidence_is_reflected_at_the_estimate():
    draws = bootstrap.confidence_draws(np.array([0.5]), np.array([[0.3, 0.4, 0.5]]))
    np.testing.assert_allclose(draws, [[0.7, 0.6, 0.5]])
    wide = bootstrap.confidence_draws(np.array([0.5]), np.array([[0.3, 0.4, 0.5]]), widening=2)
    np.testing.assert_allclose(wide, [[0.8, 0.6, 0.4]])


def test_few_sites_widen_and_many_do_not():
    widening = [bootstrap.widening_for_sites(np.arange(k) % 5, np.arange(k)) for k in (6, 10, 40, 1000)]
    assert widening == sorted(widening, reverse=True)
    assert widening[-1] == pytest.approx(1, abs=0.01)
    assert bootstrap.widening_for_sites(np.arange(5), np.arange(5)) > 10


def test_rank_frequencies_share_ties():
    draws = np.array([[3.0, 1, 2], [2.0, 1, 3], [1.0, 0, 1]])
    expected = np.array([[1 + 0.5 + 0, 0 + 0.5 + 1, 0], [0 + 0.5 + 1, 1 + 0.5 + 0, 0], [0, 0, 3]]) / 3
    np.testing.assert_allclose(bootstrap.rank_frequencies(draws), expected)


def test_one_competitor_is_always_first():
    assert bootstrap.rank_frequencies(np.ones((1, 10))).tolist() == [[1.0]]


def test_holm_by_hand():
    np.testing.assert_allclose(bootstrap.holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert bootstrap.holm(np.array([])).size == 0


def test_two_sided_p_is_the_share_of_draws_beyond_zero_and_further_out_the_tail():
    draws = norm.ppf((np.arange(999) + 0.5) / 999)
    for distance in (0.5, 1.0, 2.0):
        beyond = (draws + distance <= 0).sum()
        assert bootstrap.two_sided_p(draws + distance) == pytest.approx(2 * (beyond + 1) / 1000)
    for distance in (3.0, 4.5):
        for sign in (1, -1):
            found = bootstrap.two_sided_p(sign * (draws + distance))
            assert found == pytest.approx(2 * norm.sf(distance), rel=0.1)
    assert bootstrap.two_sided_p(np.zeros(999)) == 1
    assert bootstrap.two_sided_p(np.ones(999)) == pytest.approx(2 / 1000)  # draws that do not vary have no tail


def test_far_out_few_sites_tell_less_and_at_five_per_cent_the_widening_says_it_all():
    draws = norm.ppf((np.arange(99) + 0.5) / 99)
    draws /= draws.std(ddof=1)
    for freedom in (1, 5, 50):
        assert bootstrap.two_sided_p(draws + 1.96, freedom) == pytest.approx(0.05, abs=0.011)
    far = [bootstrap.two_sided_p(draws + 6, freedom) for freedom in (1, 5, 50, np.inf)]
    assert far == sorted(far, reverse=True)
    assert far[0] > 0.01
    assert far[-1] < 1e-8


def test_a_hundred_pairs_that_are_far_apart_are_told_apart():
    draws = np.random.default_rng(0).normal(5, 1, size=(100, 500))
    assert bootstrap.holm(np.array([bootstrap.two_sided_p(each) for each in draws])).max() < 0.05


@dataclass(frozen=True)
class LeastSquares:
    """The plainest probe, fast enough for hundreds of cohorts."""

    needs: ClassVar[str] = "mean"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "LeastSquares.Fitted":
        centre = y.mean(axis=0)
        return self.Fitted(np.linalg.lstsq(patients.mean, y - centre, rcond=None)[0], centre)

    @dataclass(frozen=True)
    class Fitted:
        weights: np.ndarray
        centre: np.ndarray
        chosen: ClassVar[dict[str, Any]] = {}

        def predict(self, patients: Patients) -> np.ndarray:
            return patients.mean @ self.weights + self.centre


def test_without_signal_training_draws_have_half_of_the_variance_of_the_score():
    n, genes, scored, by_patients, by_training = 100, 4, [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(n, 6)).astype(np.float32), rng.normal(size=(n, genes)).astype(np.float32)
        ids, fold = np.arange(n), np.arange(n) % 5
        found = out_of_fold(LeastSquares(), Patients(ids, ids, mean=x), y, fold, split_half=True)
        scored.append(fold_spearman(y, found.predicted, fold).mean().mean())
        weights = resampling.sample_weights(fold, draws=60, seed=seed)
        sampled = resampling.sampled_means(y, [found.predicted], fold, weights)[0, 0]
        added = bootstrap.training_draws(y, [found.predicted], [found.noise], fold, ids, draws=60, seed=seed)[0, 0]
        by_patients.append(sampled.var(ddof=1))
        by_training.append(added.var(ddof=1))
    share = np.array([np.mean(by_patients), np.mean(by_training)]) / np.var(scored)
    assert share[0] < 0.7, "samples of the evaluated patients miss a good part of the variance"
    assert share[1] == pytest.approx(0.5, abs=0.15)
    # Re-ranked samples of 20 patients a fold vary somewhat too much, never too little.
    assert 0.75 < share.sum() < 1.5


def test_training_draws_move_sites_as_one_and_encoders_alike():
    rng = np.random.default_rng(0)
    site = np.repeat(np.arange(20), 10)
    fold, shared = site % 5, rng.normal(size=20)[site][:, None]
    y, x = shared + 0.1 * rng.normal(size=(200, 6)), rng.normal(size=(200, 6))
    noise = rng.normal(size=20)[site][:, None] * np.ones(6)
    alone, together = (
        bootstrap.training_draws(y, [x, x], [noise, noise], fold, clusters, draws=2000, seed=0)[:, 0]
        for clusters in (np.arange(200), site)
    )
    assert together[0].std() > 2 * alone[0].std()
    assert np.array_equal(together[0], together[1])
    assert abs(together[0].mean()) < 0.1 * together[0].std()
