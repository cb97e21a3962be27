"""Variance that training-sample noise adds to bootstrap samples of a score."""

from collections.abc import Sequence

import numpy as np

from wsibench.regression.metrics import RESERVED, centred_midranks, squares_within_folds, unit

GENE_BATCH = 1024
"""Genes processed at once."""


def training_draws(
    measured: np.ndarray,
    predicted: Sequence[np.ndarray],
    noise: Sequence[np.ndarray],
    fold: np.ndarray,
    clusters: np.ndarray,
    sets: np.ndarray | None = None,
    *,
    draws: int,
    seed: int,
) -> np.ndarray:
    """Deviations of mean ρ that training and trying on the same patients adds to bootstrap samples.

    A score is a sum over pairs of a patient tried on and a patient trained on.  What chance has done to
    such a pair is the same whichever of the two is tried on, and stands in the scores of two folds;
    samples of those tried on show the variance of one of them.  These draws have that of the other:
    the products of what a prediction leaves of a patient's ranks with the noise in it, their signs
    drawn at random, cluster by cluster and for all predictions alike.

    Parameters
    ----------
    measured
        (patients, genes).
    predicted
        One (patients, genes) an encoder and probe.
    noise
        Of each prediction, from `wsibench.regression.split_half.training_noise`.
    fold
        (patients,).
    clusters
        Whose deviations move together, (patients,): sites in the preserved-site arm, else patients.
    sets
        Boolean (sets, genes): the genes to average over; all of them, as one set, unless given.
    draws, seed
        Number of draws, and what they are drawn from.

    Returns
    -------
    np.ndarray
        float64 (predictions, sets, draws), of mean 0.
    """
    sets = np.ones((1, measured.shape[1]), bool) if sets is None else sets
    share = sets / sets.sum(axis=1, keepdims=True)
    labels, n = np.unique(fold, return_counts=True)
    weights = np.maximum(n - RESERVED, 0) / np.maximum(n - RESERVED, 0).sum()
    deviation = np.zeros((len(predicted), len(sets), len(fold)))
    for label, weight in zip(labels, weights, strict=True):
        members = np.flatnonzero(fold == label)
        for start in range(0, measured.shape[1], GENE_BATCH):
            batch = slice(start, start + GENE_BATCH)
            y = unit(centred_midranks(measured[members, batch]))
            for row, (x, e) in enumerate(zip(predicted, noise, strict=True)):
                product = _left_over(y, x[members, batch]) * _relative(e[members, batch], x[members, batch])
                deviation[row][:, members] += weight * (share[:, batch] @ product.T)
        deviation[:, :, members] -= deviation[:, :, members].mean(axis=2, keepdims=True)
    return _drawn(deviation, clusters, draws, seed)


def explained_draws(
    measured: np.ndarray,
    predicted: np.ndarray,
    noise: np.ndarray,
    fold: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int,
    seed: int,
) -> np.ndarray:
    """As `training_draws`, of R²: what noise in a prediction does to its squared error, to first order.

    Parameters
    ----------
    measured, predicted, noise
        Of one target, (patients,).

    Returns
    -------
    np.ndarray
        float64 (draws,), of mean 0.
    """
    total, deviation = squares_within_folds(measured, fold).sum(), 2 * (measured - predicted).astype(np.float64)
    for label in np.unique(fold):
        members = fold == label
        deviation[members] *= noise[members] - noise[members].mean(dtype=np.float64)
        deviation[members] -= deviation[members].mean()
    return _drawn(deviation / total if total else np.zeros_like(deviation), clusters, draws, seed)


def _drawn(deviation: np.ndarray, clusters: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums of deviations (…, patients) whose signs and sizes are drawn cluster by cluster, (…, draws)."""
    _, cluster = np.unique(clusters, return_inverse=True)
    together = np.zeros((*deviation.shape[:-1], cluster.max() + 1))
    np.add.at(together, (..., cluster), deviation)
    return together @ np.random.default_rng(seed).standard_normal((together.shape[-1], draws))


def _left_over(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What predictions `x` leave of the ranks `y`, columns of length 1."""
    direction = unit(x)
    return y - (y * direction).sum(axis=0) * direction


def _relative(noise: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Noise in units of the length of the centred prediction; 0 where that does not vary."""
    length = np.linalg.norm(x - x.mean(axis=0, dtype=np.float64), axis=0)
    return np.divide(noise, length, out=np.zeros(noise.shape), where=length > 0)
