"""Bootstrap samples of patients or sites, and the mean Spearman correlation of every sample.

Every sample is ranked anew, as if its rows were given to scipy's ``spearmanr``.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

GENE_BATCH = 1024
"""Genes bootstrapped at once: bounds memory to about 20 B × draws × genes."""


def sample_weights(fold: np.ndarray, *, draws: int, seed: int, sites: np.ndarray | None = None) -> np.ndarray:
    """Draw bootstrap samples of patients, or of whole sites, as counts of every patient.

    Parameters
    ----------
    fold
        Fold of each patient, (patients,). A fold keeps its number of patients in every sample of patients.
    draws
        Number of samples.
    seed
        Seed of the random generator.
    sites
        Site of each patient, (patients,). If given, and if there is more than one site, whole sites are drawn with
        replacement from all sites, since new patients then come from new sites. A fold's number of patients varies
        with the sites drawn: keeping it would resample two or three sites a fold in a cohort of a dozen sites.

    Returns
    -------
    np.ndarray
        float32 (draws, patients), the number of times each patient is in each sample.
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


def sampled_means(
    measured: np.ndarray,
    predicted: Sequence[np.ndarray],
    fold: np.ndarray,
    weights: np.ndarray,
    sets: np.ndarray | None = None,
) -> np.ndarray:
    """Mean within-fold Spearman correlation of every bootstrap sample, with the same samples for all predictions.

    A fold in which a gene does not vary in a sample has no weight for that gene in that sample.

    Parameters
    ----------
    measured
        Measured values, (patients, genes).
    predicted
        Predictions of each fit, each (patients, genes).
    fold
        Fold of each patient, (patients,).
    weights
        Samples from `sample_weights`, (draws, patients).
    sets
        Weights of the genes in each mean, boolean or float (sets, genes). By default one mean of all genes.

    Returns
    -------
    np.ndarray
        float64 (predictions, sets, draws); NaN where a sample leaves a set without any correlation.
    """
    genes, draws = measured.shape[1], len(weights)
    sets = np.ones((1, genes), bool) if sets is None else sets
    total = np.zeros((len(predicted), len(sets), draws))
    counted = np.zeros_like(total)
    for start in range(0, genes, GENE_BATCH):
        batch = slice(start, start + GENE_BATCH)
        member = sets[:, batch].astype(np.float64)
        rho = _reranked_rho(measured[:, batch], [each[:, batch] for each in predicted], fold, weights)
        for row, each in enumerate(rho):
            defined = np.isfinite(each)
            total[row] += member @ np.where(defined, each, 0).T
            counted[row] += member @ defined.T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return total / counted


LANES = 64
"""Samples that are ranked together: as many float32 numbers as a few vector registers hold."""


@njit(nogil=True, cache=True, fastmath=True)
def _walk(order, first, weights, n, ranks, other, squares, products):  # pragma: no cover - compiled
    """Rank every patient in `LANES` samples in one pass over the sorted patients.

    Writes the centred midranks to `ranks`, the sums of their squares to `squares`, and the sums of their
    products with the ranks `other` to `products`.
    """
    below, tied = np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    squares[:], products[:] = 0, 0
    start, patients = 0, len(order)
    while start < patients:
        stop = start + 1
        w = weights[order[start]]
        for lane in range(LANES):
            tied[lane] = w[lane]
        while stop < patients and not first[stop]:
            w = weights[order[stop]]
            for lane in range(LANES):
                tied[lane] += w[lane]
            stop += 1
        for position in range(start, stop):
            patient = order[position]
            w, row, beside = weights[patient], ranks[patient], other[patient]
            for lane in range(LANES):
                rank = below[lane] + np.float32(0.5) * (tied[lane] - n[lane])
                row[lane] = rank
                squares[lane] += w[lane] * rank * rank
                products[lane] += w[lane] * rank * beside[lane]
        for lane in range(LANES):
            below[lane] += tied[lane]
        start = stop


@njit(nogil=True, cache=True, fastmath=True)
def _add_reranked(y_order, y_first, x_order, x_first, weights, n, z_sum, w_sum):  # pragma: no cover - compiled
    """Add one fold's Spearman correlations of re-ranked samples to the running sums of Fisher's z.

    Orders and firsts are (genes, patients), those of predictions (predictions, genes, patients); `weights` is
    (blocks, patients, LANES), `n` (blocks, LANES), and the sums are (predictions, blocks, genes, LANES).
    """
    blocks, patients, _ = weights.shape
    y, x = np.zeros((patients, LANES), np.float32), np.zeros((patients, LANES), np.float32)
    yy, xx, xy = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for block in range(blocks):
        w, total = weights[block], n[block]
        for gene in range(len(y_order)):
            _walk(y_order[gene], y_first[gene], w, total, y, x, yy, xy)
            for row in range(len(x_order)):
                if x_first[row, gene].sum() == 1:  # constant in the fold: the correlation is 0 in every sample
                    xx[:] = 0
                else:
                    _walk(x_order[row, gene], x_first[row, gene], w, total, x, y, xx, xy)
                for lane in range(LANES):
                    weight = total[lane] - 3
                    if weight <= 0 or yy[lane] < 0.1:
                        continue
                    w_sum[row, block, gene, lane] += weight
                    if xx[lane] >= 0.1:
                        rho = xy[lane] / np.sqrt(xx[lane] * yy[lane])
                        z_sum[row, block, gene, lane] += weight * np.arctanh(min(max(rho, -0.999), 0.999))


def _sorted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the patients by every gene; returns their order and the starts of new values, both (genes, patients)."""
    values = np.ascontiguousarray(values.T)
    order = np.argsort(values, axis=1).astype(np.int32)
    ranked = np.take_along_axis(values, order, axis=1)
    return order, np.diff(ranked, axis=1, prepend=np.nan) != 0


def _reranked_rho(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, weights: np.ndarray
) -> list[np.ndarray]:
    """Compute ρ of every sample and gene, float64 (draws, genes) for each prediction."""
    draws, genes = len(weights), measured.shape[1]
    blocks = -(-draws // LANES)
    padded = np.zeros((blocks * LANES, weights.shape[1]), np.float32)
    padded[:draws] = weights
    z, weight = (np.zeros((len(predicted), blocks, genes, LANES)) for _ in range(2))
    for label in np.unique(fold):
        members = np.flatnonzero(fold == label)
        w = np.ascontiguousarray(padded[:, members].reshape(blocks, LANES, -1).transpose(0, 2, 1))
        x = [_sorted(prediction[members]) for prediction in predicted]
        orders, firsts = (np.stack(part) for part in zip(*x, strict=True))
        _add_reranked(*_sorted(measured[members]), orders, firsts, w, w.sum(axis=1), z, weight)
    with np.errstate(invalid="ignore"):
        rho = np.tanh(z / weight).transpose(0, 1, 3, 2).reshape(len(predicted), blocks * LANES, genes)
    return list(rho[:, :draws])
