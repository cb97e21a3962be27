"""Measures beside the headline score: pooled and Pearson correlation, R², RMSE, strata, covariates, significance.

The functions take arrays and return one value a gene, or (predictions, genes) for several predictions.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wsibench.regression import centred_midranks, fisher_mean, metrics

ROUNDING = 1e-5
"""Share of a column's length below which a residual in float32 is rounding."""


def pooled_spearman(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Spearman's ρ of every gene over the patients of all folds together, (genes,); 0 where either is constant.

    Common in the literature and biased: each fold is predicted by another fit, whose training mean deviates in the
    direction opposite to the mean of the held-out patients.
    """
    return _correlation(centred_midranks(measured), centred_midranks(predicted))


def fold_pearson(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Within-fold Pearson correlation of every gene, averaged over folds by Fisher's z.

    Parameters
    ----------
    measured, predicted
        (patients, genes).
    fold
        Fold of each patient, (patients,).

    Returns
    -------
    np.ndarray
        (genes,).
    """
    return _over_folds(fold, lambda members: _correlation(_centred(measured[members]), _centred(predicted[members])))


def r2(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Share of the within-fold variance that is explained; below 0 if worse than the mean of all patients.

    Parameters
    ----------
    measured, predicted
        (patients, genes).
    fold
        Fold of each patient, (patients,); the variance is `wsibench.regression.metrics.squares_within_folds`.

    Returns
    -------
    np.ndarray
        (genes,).
    """
    error = np.square(measured - predicted, dtype=np.float64).sum(axis=0)
    total = metrics.squares_within_folds(measured, fold).sum(axis=0)
    return 1 - np.divide(error, total, out=np.ones_like(total), where=total > 0)


def rmse(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Root mean squared error of every gene in the unit of the expression, (genes,)."""
    return np.sqrt(np.square(measured - predicted, dtype=np.float64).mean(axis=0))


def within_strata(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """Spearman's ρ within each stratum (a subtype, say) of each fold, averaged by Fisher's z with weights n − 3.

    Parameters
    ----------
    measured
        (patients, genes).
    predicted
        Predictions of each fit, each (patients, genes).
    fold, strata
        Fold and stratum of each patient, (patients,).

    Returns
    -------
    np.ndarray
        (predictions, genes); NaN where no stratum of a fold has more than three patients.
    """
    _, cell = np.unique(np.stack([np.asarray(fold, str), np.asarray(strata, str)]), axis=1, return_inverse=True)
    return _over_folds(cell.ravel(), lambda members: _against(measured, predicted, members, centred_midranks))


def partial_spearman(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, covariates: np.ndarray
) -> np.ndarray:
    """Within-fold partial Spearman correlation given k covariates, averaged with weights n − 3 − k.

    The correlation of the residuals of ranks regressed on the covariates (Fisher 1924, Metron 3, 329).

    Parameters
    ----------
    measured
        (patients, genes).
    predicted
        Predictions of each fit, each (patients, genes).
    fold
        Fold of each patient, (patients,).
    covariates
        Ranks within folds, or indicators, (patients, k).

    Returns
    -------
    np.ndarray
        (predictions, genes); NaN where no fold has more than 3 + k patients.
    """

    def rho(members: np.ndarray) -> np.ndarray:
        basis = _basis(covariates[members])
        return _against(measured, predicted, members, lambda values: _residuals(centred_midranks(values), basis))

    return _over_folds(fold, rho, used=covariates.shape[1])


def significance(rho: np.ndarray, permuted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided p-values of genes against the permutation null, and their Benjamini–Hochberg q-values.

    A hundred permutations cannot resolve p below .0099 for one gene. So Fisher's z of every gene is standardised by
    the mean and SD of its own permutations, and the standardised permutations of all genes form one null
    distribution, each value standardised by the others of its gene. No p is below `smallest_p`.

    Parameters
    ----------
    rho
        ρ of every gene, (genes,).
    permuted
        ρ of the same pipeline refitted to permuted expression, (permutations, genes), at least four permutations.

    Returns
    -------
    tuple
        p and q, (genes,) each.
    """
    from scipy.stats import false_discovery_control

    z, z0 = np.arctanh(np.clip(rho, -0.999, 0.999)), np.arctanh(np.clip(np.nan_to_num(permuted), -0.999, 0.999))
    n = len(z0)
    total, squares = z0.sum(axis=0), np.square(z0).sum(axis=0)
    pooled = np.sort(_standardised(z0, total - z0, squares - z0**2, n - 1).ravel())
    observed = _standardised(z, total, squares, n)
    p = (1 + len(pooled) - np.searchsorted(pooled, observed)) * smallest_p(len(pooled))
    return p, false_discovery_control(p)


def smallest_p(pooled: int) -> float:
    """Smallest p-value that a null of `pooled` values resolves: 1 / (permutations · genes + 1)."""
    return 1 / (pooled + 1)


def _standardised(z: np.ndarray, total: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    """Standardise `z` as a new value beside `n` others, given their sum and their sum of squares."""
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0) * n / (n - 1) * (1 + 1 / n)
    # A gene with a constant prediction scores 0 in every permutation: it is in the middle of its null.
    return np.divide(z - mean, np.sqrt(variance), out=np.zeros_like(z), where=variance > 1e-12)


def _against(
    measured: np.ndarray,
    predicted: Sequence[np.ndarray],
    members: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Correlate every prediction with the measurement after preparing both, (predictions, genes)."""
    y = prepare(measured[members])
    return np.stack([_correlation(y, prepare(x[members])) for x in predicted])


def _basis(covariates: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the centred covariates, float32 (n, at most k)."""
    found = np.linalg.svd(_centred(covariates), full_matrices=False)
    return found.U[:, 1e-8 * found.S.max(initial=1e-300) < found.S].astype(np.float32)


def _residuals(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Residuals of centred float32 columns regressed on the basis; 0 where they are no more than rounding."""
    left = values - basis @ (basis.T @ values)
    before, after = (np.einsum("ng,ng->g", each, each, dtype=np.float64) for each in (values, left))
    return np.where(after > ROUNDING**2 * before, left, np.float32(0))


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0, dtype=np.float64)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of centred columns; 0 where one does not vary."""
    norm = np.sqrt(np.square(x, dtype=np.float64).sum(axis=0) * np.square(y, dtype=np.float64).sum(axis=0))
    product = np.einsum("ng,ng->g", x, y, dtype=np.float64)
    return np.divide(product, norm, out=np.zeros_like(norm), where=norm > 1e-12)


def _over_folds(fold: np.ndarray, correlation: Callable[[np.ndarray], np.ndarray], used: int = 0) -> np.ndarray:
    """Average a correlation over folds of more than 3 + `used` patients by Fisher's z, with weights n − 3 − `used`."""
    labels, n = np.unique(fold, return_counts=True)
    counted = n - used > metrics.RESERVED
    if not counted.any():
        return np.full_like(correlation(np.ones(len(fold), bool)), np.nan)
    each = np.stack([correlation(fold == label) for label in labels[counted]])
    return fisher_mean(each.reshape(len(each), -1), n[counted] - used).reshape(each.shape[1:])
