"""How much a prediction owes to the luck of its training patients, told from fits on two halves of them.

The patients whom one fold scores have trained the fits of all others: what chance puts into the
expression of patient i and of patient j comes into the score twice, once with i trained on and j
predicted, and once the other way round.  A bootstrap that takes the fits as given sees it once, and
where there is nothing to predict its intervals are too narrow by √2.  What it misses can be put back
when the part of a prediction that is noise of its training patients is known.  Two fits on halves of
them agree in the signal and have noise of their own: their sum behaves like the fit on all, and their
difference like its noise.  This is the reliability of split halves [1]_, patient by patient.

References
----------
.. [1] Spearman 1910, Correlation calculated from faulty data, British Journal of Psychology 3, 271; Brown 1910,
   Some experimental results in the correlation of mental abilities, ibid. 296.
"""

from collections.abc import Sequence

import numpy as np

from wsibench.regression.metrics import RESERVED, centred_midranks, squares_within_folds

GENE_BATCH = 1024
"""Genes looked at at once."""
MOST_NOISE = np.sqrt(3.0)
"""Largest noise in units of the prediction: half fits that disagree by chance, r < −.5, say no more than that."""


def divide(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two random halves of about equal size, that keep groups whole where there are two or more.

    Parameters
    ----------
    groups
        What is not to be split: sites in the preserved-site arm, else patients; (n,).
    """
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    in_first, balance = np.zeros(len(names), bool), 0
    for group in np.random.default_rng(seed).permutation(len(names)):
        in_first[group] = balance <= 0
        balance += sizes[group] if balance <= 0 else -sizes[group]
    first = np.isin(groups, names[in_first])
    return np.flatnonzero(first), np.flatnonzero(~first)


def training_noise(one: np.ndarray, other: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """A draw of the noise that training patients leave in a prediction, float32 in its unit, (patients, genes).

    With the half fits a and b brought to one scale, noise and prediction relate as a − b to a + b, be the
    penalty so heavy that fits add up, or so light that they average.  By the formula of Spearman and
    Brown the share of the prediction's variance that is noise is (1 − r) / (1 + r) for half fits of
    correlation r.

    Parameters
    ----------
    one, other
        What fits on the two halves predict for the patients held out, (patients, genes).
    predicted
        What the fit on all predicts for them.
    """
    scale = np.linalg.norm(predicted - predicted.mean(axis=0, dtype=np.float64), axis=0)
    a, b = unit(one), unit(other)
    difference, together = a - b, np.linalg.norm(a + b, axis=0)
    size = np.linalg.norm(difference, axis=0)
    share = np.minimum(np.divide(size, together, out=np.full_like(size, np.inf), where=together > 1e-9), MOST_NOISE)
    return (unit(difference) * np.where(size > 0, share, 0) * scale).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    """Columns centred and of length 1, float64; those that do not vary are 0."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=0)
    varies = length > 1e-7 * np.abs(values).max(axis=0, initial=0) * np.sqrt(len(values))
    return np.divide(centred, length, out=np.zeros_like(centred), where=varies & (length > 0))


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
        Of each prediction, from `training_noise`.
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
