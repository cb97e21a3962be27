"""Gene-wise rank correlation between measured and predicted expression, within the folds that hold patients out.

The estimand is the expected gene-wise Spearman correlation of a fitted pipeline on new patients (of new sites,
where whole sites are held out).  It is estimated within each held-out fold and averaged over folds: predictions
of different folds come from different fits, and pooling them would mix the fits' offsets with the signal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

CLIP = 0.999
"""Largest |ρ| that enters Fisher's transformation."""
RESERVED = 3
"""Fisher's z of n patients has variance 1 / (n − 3): a fold has weight n − 3, and none with three patients or fewer."""


def _midranks(values: np.ndarray, order: np.ndarray, out: np.ndarray) -> None:
    rows, n = values.shape
    for row in range(rows):
        one, ascending, ranks = values[row], order[row], out[row]
        start = 0
        while start < n:
            stop = start
            while stop + 1 < n and one[ascending[stop + 1]] == one[ascending[start]]:
                stop += 1
            for position in range(start, stop + 1):
                ranks[ascending[position]] = (start + stop) / 2
            start = stop + 1


@cache
def _compiled() -> Callable[..., None]:
    from numba import njit

    return njit(_midranks, nogil=True, cache=True)


def centred_midranks(values: np.ndarray) -> np.ndarray:
    """Midranks of every column of `values` (n, columns), shifted to mean 0 and scaled by 1 / n; float32."""
    # NumPy sorts rows in vector registers, some times faster than compiled loops do.
    rows = np.ascontiguousarray(values.T, np.float32)
    out = np.empty(rows.shape, np.float32)
    _compiled()(rows, np.argsort(rows, axis=1), out)
    n = len(values)
    return ((out - (n - 1) / 2) / max(n, 1)).T


def unit(values: np.ndarray) -> np.ndarray:
    """Centre columns and scale them to length 1, float64; columns that do not vary are 0."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=0)
    varies = length > 1e-7 * np.abs(values).max(axis=0, initial=0) * np.sqrt(len(values))
    return np.divide(centred, length, out=np.zeros_like(centred), where=varies & (length > 0))


def squares_within_folds(measured: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Squared distances from the mean of the fold, float64 (n, columns), whose sum is n times the variance.

    They are scaled by n / (n − 1), since the mean of the very patients it is taken from takes a degree of freedom;
    without it any prediction would look worse than it is by 1 / n of the variance.
    """
    squares = np.empty(measured.shape)
    for label in np.unique(fold):
        members = fold == label
        n = np.count_nonzero(members)
        centred = measured[members] - measured[members].mean(axis=0, dtype=np.float64)
        squares[members] = np.square(centred) * n / max(n - 1, 1)
    return squares


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
        Number of patients of each fold, (folds,).
    """

    rho: np.ndarray
    constant: np.ndarray
    n: np.ndarray

    def mean(self) -> np.ndarray:
        """Fisher-z average over folds, (genes,)."""
        return fisher_mean(self.rho, self.n)

    def undefined(self) -> np.ndarray:
        """Genes whose prediction is constant in a fold that has a weight, bool (genes,)."""
        return np.any(self.constant[self.n > RESERVED], axis=0)


def fold_spearman(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> FoldScores:
    """Spearman's ρ with midranks, within each fold.

    Parameters
    ----------
    measured, predicted
        (patients, genes).
    fold
        Fold that each patient is held out in, (patients,).
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
        Number of patients of each fold; a fold of three or fewer has no weight.

    Returns
    -------
    ndarray
        (genes,); NaN where a fold with a weight has no correlation, or no fold has a weight.
    """
    weights = np.maximum(np.asarray(n, float) - RESERVED, 0)
    counted = weights > 0
    if not counted.any():
        return np.full(rho.shape[1], np.nan)
    z = np.arctanh(np.clip(rho[counted].astype(float), -CLIP, CLIP))
    return np.tanh(weights[counted] @ z / weights.sum())


def scorable_genes(measured: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Genes that vary in every fold that has a weight, bool (genes,): the same set for all encoders."""
    labels, n = np.unique(fold, return_counts=True)
    kept = np.ones(measured.shape[1], bool)
    for label in labels[n > RESERVED]:
        part = measured[fold == label]
        kept &= part.max(axis=0) > part.min(axis=0)
    return kept


def permutation_within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions that shuffle patients within their own group, (patients,); a group of one stays in place.

    Shuffling within sites keeps the association of the site with both expression and images, and breaks only
    the association of a patient's own images with their own expression.
    """
    shuffled = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled[members] = rng.permutation(members)
    return shuffled
