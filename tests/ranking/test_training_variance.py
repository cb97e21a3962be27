"""Variance of scores that training-sample noise adds, compared with simulated cohorts."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from wsibench.ranking import association as measures, bootstrap, targetscores, training_variance
from wsibench.regression import Patients, metrics as scores, out_of_fold


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


@dataclass(frozen=True)
class Remembered(LeastSquares):
    """Keeps its fits: of each fold the fit on all, then those on two training_variance."""

    fits: list[LeastSquares.Fitted] = field(default_factory=list)

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> LeastSquares.Fitted:
        self.fits.append(super().fit(patients, y))
        return self.fits[-1]


def test_where_nothing_is_to_be_found_the_score_varies_as_much_as_the_draws_say():
    n, genes, scored, with_noise, without = 100, 4, [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(n, 6)).astype(np.float32), rng.normal(size=(n, genes)).astype(np.float32)
        ids, fold = np.arange(n), np.arange(n) % 5
        found = out_of_fold(LeastSquares(), Patients(ids, ids, mean=x), y, fold, split_half=True)
        scored.append(scores.fold_spearman(y, found.predicted, fold).mean().mean())
        weights = bootstrap.sample_weights(fold, draws=60, seed=seed)
        sampled = bootstrap.sampled_means(y, [found.predicted], fold, weights)[0, 0]
        added = training_variance.training_draws(y, [found.predicted], [found.noise], fold, ids, draws=60, seed=seed)[
            0, 0
        ]
        without.append(sampled.var(ddof=1))
        with_noise.append((sampled + added).var(ddof=1))
    assert np.mean(without) / np.var(scored) < 0.65  # half of it is missed by samples of those tried on
    assert np.mean(with_noise) / np.var(scored) == pytest.approx(1, abs=0.25)


def test_sites_deviate_as_one_and_encoders_alike():
    rng = np.random.default_rng(0)
    site = np.repeat(np.arange(20), 10)
    fold, shared = site % 5, rng.normal(size=20)[site][:, None]
    y, x = shared + 0.1 * rng.normal(size=(200, 6)), rng.normal(size=(200, 6))
    noise = rng.normal(size=20)[site][:, None] * np.ones(6)
    alone, together = (
        training_variance.training_draws(y, [x, x], [noise, noise], fold, clusters, draws=2000, seed=0)[:, 0]
        for clusters in (np.arange(200), site)
    )
    assert together[0].std() > 2 * alone[0].std()
    assert np.array_equal(together[0], together[1])
    assert abs(together[0].mean()) < 0.1 * together[0].std()


def test_r2_varies_about_its_truth_as_much_as_samples_and_draws_say():
    n, wide, missed, sampled, drawn = 100, 12, [], [], []
    slope = np.full((wide, 1), 0.15, np.float32)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, wide)).astype(np.float32)
        y = (x @ slope + rng.normal(size=(n, 1))).astype(np.float32)
        ids, fold, probe = np.arange(n), np.arange(n) % 5, Remembered()
        found = out_of_fold(probe, Patients(ids, ids, mean=x), y, fold, split_half=True)
        error = np.mean([np.square(f.weights - slope).sum() + f.centre[0] ** 2 + 1 for f in probe.fits[::3]])
        missed.append(measures.r2(y, found.predicted, fold)[0] - (1 - error / (1 + np.square(slope).sum())))
        one = (y[:, 0], found.predicted[:, 0], found.noise[:, 0])
        drawn.append(training_variance.explained_draws(*one, fold, ids, draws=60, seed=seed).var())
        weights = bootstrap.sample_weights(fold, draws=60, seed=seed)
        sampled.append(targetscores.r2(y, found.predicted, fold, weights).var())
    assert np.sqrt(np.mean(sampled) + np.mean(drawn)) == pytest.approx(np.std(missed), rel=0.1)
    assert np.sqrt(np.mean(sampled)) < 0.9 * np.std(missed)
