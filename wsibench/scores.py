"""How well predictions order patients, gene by gene, and how sure that is.

Pure functions of arrays.  The estimand is the expected gene-wise Spearman correlation of a fitted
pipeline on new patients (of new sites, where whole sites are held out).  It is estimated within each
held-out fold and averaged over folds: predictions of different folds come from different fits, and
pooling them would mix the fits' offsets with the signal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

CLIP = 0.999
"""Largest |ρ| that enters Fisher's transformation."""
RESERVED = 3
"""Fisher's z of n patients has a variance of 1 / (n − 3): a fold weighs n − 3, and three patients weigh nothing."""
GENE_BATCH = 1024
"""Genes bootstrapped at once: bounds memory to about 20 B × draws × genes."""


@njit(nogil=True, cache=True)
def _midranks(values: np.ndarray, out: np.ndarray) -> None:
    n, columns = values.shape
    for column in range(columns):
        one = values[:, column].copy()
        order = np.argsort(one)
        start = 0
        while start < n:
            stop = start
            while stop + 1 < n and one[order[stop + 1]] == one[order[start]]:
                stop += 1
            for position in range(start, stop + 1):
                out[order[position], column] = (start + stop) / 2
            start = stop + 1


def centred_midranks(values: np.ndarray) -> np.ndarray:
    """Midranks of every column, shifted to mean 0 and scaled by 1 / n; float32, like `values` (n, columns)."""
    out = np.empty(values.shape, np.float32)
    _midranks(np.asarray(values, np.float32), out)
    n = len(values)
    return (out - (n - 1) / 2) / max(n, 1)


@dataclass(frozen=True)
class FoldScores:
    """Spearman correlations within each held-out fold.

    Attributes
    ----------
    rho
        (folds, genes); 0 where the prediction is constant, NaN where the measurement is.
    constant
        (folds, genes), True where the prediction is constant.
    n
        Patients of each fold, (folds,).
    """

    rho: np.ndarray
    constant: np.ndarray
    n: np.ndarray

    def mean(self) -> np.ndarray:
        """Fisher-z average over folds, (genes,)."""
        return fisher_mean(self.rho, self.n)

    def undefined(self) -> np.ndarray:
        """Genes whose prediction is constant in a fold that counts, (genes,)."""
        return self.constant[self.n > RESERVED].any(axis=0)


def fold_spearman(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> FoldScores:
    """Spearman's ρ with midranks, within each fold.

    Parameters
    ----------
    measured, predicted
        (patients, genes).
    fold
        Label of the fold each patient is held out in, (patients,).
    """
    labels, n = np.unique(fold, return_counts=True)
    rho = np.empty((len(labels), measured.shape[1]), np.float32)
    constant = np.empty(rho.shape, bool)
    for row, label in enumerate(labels):
        members = fold == label
        y, x = centred_midranks(measured[members]), centred_midranks(predicted[members])
        yy, xx, xy = (np.einsum("ng,ng->g", a, b, dtype=np.float64) for a, b in ((y, y), (x, x), (x, y)))
        constant[row] = xx == 0
        with np.errstate(invalid="ignore", divide="ignore"):
            rho[row] = np.where(yy == 0, np.nan, np.where(xx == 0, 0, xy / np.sqrt(xx * yy)))
    return FoldScores(rho, constant, n)


def fisher_mean(rho: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Average correlations over folds by Fisher's z, with weights n − 3 and |ρ| clipped at .999.

    Parameters
    ----------
    rho
        (folds, genes).
    n
        Patients of each fold; a fold of three or fewer has no weight.

    Returns
    -------
    np.ndarray
        (genes,); NaN where a fold that counts has no correlation, or where no fold counts.
    """
    weights = np.maximum(np.asarray(n, float) - RESERVED, 0)
    counted = weights > 0
    if not counted.any():
        return np.full(rho.shape[1], np.nan)
    z = np.arctanh(np.clip(rho[counted].astype(float), -CLIP, CLIP))
    return np.tanh(weights[counted] @ z / weights.sum())


def scorable_genes(measured: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Genes that vary in every fold that counts, (genes,): the one set that all encoders are scored on."""
    labels, n = np.unique(fold, return_counts=True)
    kept = np.ones(measured.shape[1], bool)
    for label in labels[n > RESERVED]:
        part = measured[fold == label]
        kept &= part.max(axis=0) > part.min(axis=0)
    return kept


def bootstrap_weights(fold: np.ndarray, *, draws: int, seed: int, sites: np.ndarray | None = None) -> np.ndarray:
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


def bootstrap_means(
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
        (draws, patients), of `bootstrap_weights`.
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
        for row, rho in enumerate(_bootstrap_rho(measured[:, batch], [p[:, batch] for p in predicted], fold, weights)):
            defined = np.isfinite(rho)
            total[row] += member @ np.where(defined, rho, 0).T
            counted[row] += member @ defined.T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return total / counted


def _bootstrap_rho(
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


def permutation_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions that shuffle patients among those of their own group, (patients,).

    A group of one stays where it is.  Shuffling within sites keeps what a site has to do with both
    expression and picture, and breaks only what ties a patient's own picture to their own expression.
    """
    shuffled = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled[members] = rng.permutation(members)
    return shuffled
