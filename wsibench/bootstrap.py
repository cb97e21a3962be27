"""How sure a score is: samples of patients or sites that all encoders share, and what is read off them.

Pure functions of arrays.  The fitted models are taken as given: what is sampled is who they are tried on.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from wsibench.scores import centred_midranks

GENE_BATCH = 1024
"""Genes bootstrapped at once: bounds memory to about 20 B × draws × genes."""


def sample_weights(fold: np.ndarray, *, draws: int, seed: int, sites: np.ndarray | None = None) -> np.ndarray:
    """How often each patient is drawn in each bootstrap sample.

    Parameters
    ----------
    fold
        Fold of each patient, (patients,): each fold keeps its number of patients in every sample.
    sites
        If given, whole sites are drawn with replacement from all sites, in place of patients: new
        patients then come from new sites.  A fold's number of patients varies with the sites drawn;
        keeping it would resample two or three sites in each fold of a cohort with a dozen.

    Returns
    -------
    np.ndarray
        float32 (draws, patients).
    """
    rng = np.random.default_rng(seed)
    if sites is not None and len(np.unique(sites)) > 1:
        names, member = np.unique(sites, return_inverse=True)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        return drawn[:, member].astype(np.float32)
    weights = np.zeros((draws, len(fold)), np.float32)
    for label in np.unique(fold):
        members = np.flatnonzero(fold == label)
        n = len(members)
        weights[:, members] = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return weights


@njit(nogil=True, cache=True)
def _add_fold(total, sy, syy, sx, sxx, sxy, z_sum, w_sum):  # pragma: no cover - compiled
    """Add one fold's weighted Pearson correlation of ranks to the running Fisher-z sums."""
    draws, genes = sy.shape
    for b in range(draws):
        n = total[b]
        if n <= 3:
            continue
        for g in range(genes):
            vy = syy[b, g] - sy[b, g] * sy[b, g] / n
            # A single rank out of place in 20,000 is above this; the rounding of a sum of n float32 is below.
            if vy <= 1e-5 * n:
                continue
            vx = sxx[b, g] - sx[b, g] * sx[b, g] / n
            z = 0.0
            if vx > 1e-5 * n:
                rho = (sxy[b, g] - sx[b, g] * sy[b, g] / n) / np.sqrt(vx * vy)
                z = np.arctanh(min(max(rho, -0.999), 0.999))
            z_sum[b, g] += (n - 3) * z
            w_sum[b, g] += n - 3


def sampled_means(
    measured: np.ndarray,
    predicted: Sequence[np.ndarray],
    fold: np.ndarray,
    weights: np.ndarray,
    sets: np.ndarray | None = None,
) -> np.ndarray:
    """Mean ρ over genes in every bootstrap sample, the same samples for all predictions.

    Ranks are those of the whole fold, and a sample weights them: the correlation of a sample is the
    weighted Pearson correlation of fixed ranks, one matrix product for all samples and genes.  A fold
    in which a gene's sample does not vary has no weight for that gene in that sample.

    Parameters
    ----------
    measured
        (patients, genes).
    predicted
        One (patients, genes) an encoder and probe.
    fold
        (patients,).
    weights
        (draws, patients), of `sample_weights`.
    sets
        Boolean (sets, genes): the genes to average over; all of them, as one set, unless given.

    Returns
    -------
    np.ndarray
        float64 (predictions, sets, draws); NaN where a sample leaves a set no correlation at all.
    """
    genes, draws = measured.shape[1], len(weights)
    sets = np.ones((1, genes), bool) if sets is None else sets
    total = np.zeros((len(predicted), len(sets), draws))
    counted = np.zeros_like(total)
    for start in range(0, genes, GENE_BATCH):
        batch = slice(start, start + GENE_BATCH)
        member = sets[:, batch].astype(np.float64)
        for row, rho in enumerate(_sampled_rho(measured[:, batch], [p[:, batch] for p in predicted], fold, weights)):
            defined = np.isfinite(rho)
            total[row] += member @ np.where(defined, rho, 0).T
            counted[row] += member @ defined.T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return total / counted


def _sampled_rho(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, weights: np.ndarray
) -> list[np.ndarray]:
    """ρ of every sample and gene, float64 (draws, genes), an entry a prediction."""
    shape = (len(weights), measured.shape[1])
    z = [np.zeros(shape) for _ in predicted]
    weight = [np.zeros(shape) for _ in predicted]
    for label in np.unique(fold):
        members = np.flatnonzero(fold == label)
        w = np.ascontiguousarray(weights[:, members])
        y = centred_midranks(measured[members])
        sy, syy = w @ y, w @ (y * y)
        for row, prediction in enumerate(predicted):
            x = centred_midranks(prediction[members])
            _add_fold(w.sum(axis=1, dtype=np.float64), sy, syy, w @ x, w @ (x * x), w @ (x * y), z[row], weight[row])
    with np.errstate(invalid="ignore"):
        return [np.tanh(a / b) for a, b in zip(z, weight, strict=True)]


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of finite `draws`."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def rank_frequencies(draws: np.ndarray) -> np.ndarray:
    """How often each competitor takes each rank, (competitors, ranks), from `draws` (competitors, draws).

    Rank 1 is the largest value.  Competitors that tie share the ranks they span, so that every row and
    every column sums to 1.
    """
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    n = len(draws)
    frequency = np.zeros((n, n))
    above = (draws[None] > draws[:, None]).sum(axis=1)
    level = (draws[None] == draws[:, None]).sum(axis=1)
    for rank in range(n):
        taken = (above <= rank) & (rank < above + level)
        frequency[:, rank] = (taken / level).mean(axis=1)
    return frequency


def two_sided_p(draws: np.ndarray) -> float:
    """Bootstrap p-value of a difference against 0; never below 2 / (draws + 1)."""
    draws = draws[np.isfinite(draws)]
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted by Holm's step-down procedure."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
