"""What stands beside the headline score: other measures, other strata, and significance gene by gene.

Pure functions of arrays; each returns one value a gene, or a row of them for each of several predictions.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wsibench.regression.metrics import RESERVED, centred_midranks, fisher_mean, squares_within_folds

ROUNDING = 1e-5
"""Share of a column's norm below which a residual in float32 is rounding."""


def pooled_spearman(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Spearman's ρ over the patients of all folds together, (genes,); 0 where either is constant.

    Common in the literature, and biased: folds are predicted by different fits, whose training means
    move against the mean of those held out.
    """
    return _correlation(centred_midranks(measured), centred_midranks(predicted))


def fold_pearson(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Pearson's r within folds, averaged as ρ is, (genes,)."""
    return _over_folds(fold, lambda members: _correlation(_centred(measured[members]), _centred(predicted[members])))


def r2(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Share of the variance within folds that is explained, (genes,); below 0 for worse than the mean of all patients.

    The variance is that of `wsibench.regression.metrics.squares_within_folds`.
    """
    error = np.square(measured - predicted, dtype=np.float64).sum(axis=0)
    total = squares_within_folds(measured, fold).sum(axis=0)
    return 1 - np.divide(error, total, out=np.ones_like(total), where=total > 0)


def rmse(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Root mean squared error in the unit of the expression, (genes,)."""
    return np.sqrt(np.square(measured - predicted, dtype=np.float64).mean(axis=0))


def within_strata(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """ρ within each stratum (a subtype, say) of each fold, averaged with weights n − 3, (predictions, genes).

    What is left of a correlation when patients are compared with their like only.  NaN where no stratum
    has more than three patients.
    """
    _, cell = np.unique(np.stack([np.asarray(fold, str), np.asarray(strata, str)]), axis=1, return_inverse=True)
    return _over_folds(cell.ravel(), lambda members: _against(measured, predicted, members, centred_midranks))


def partial_spearman(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, covariates: np.ndarray
) -> np.ndarray:
    """Spearman's ρ given covariates, within folds, averaged with weights n − 3 − k, (predictions, genes).

    Ranks of both sides are freed of what is linear in the covariates of the fold.

    Parameters
    ----------
    covariates
        (patients, k): ranks within folds, or indicators.
    """

    def rho(members: np.ndarray) -> np.ndarray:
        basis = _basis(covariates[members])
        return _against(measured, predicted, members, lambda values: _freed(centred_midranks(values), basis))

    return _over_folds(fold, rho, used=covariates.shape[1])


def residual_spearman(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, covariates: np.ndarray
) -> np.ndarray:
    """Spearman's ρ of residuals given covariates, within folds, averaged as `partial_spearman`.

    Here values, not ranks, are freed of what is linear in the covariates, and their residuals then ranked: for
    covariates that are themselves sums of the measured values, such as principal components.

    Parameters
    ----------
    covariates
        (patients, k), on the scale of the values.
    """

    def rho(members: np.ndarray) -> np.ndarray:
        basis = _basis(covariates[members])

        def residual_ranks(values: np.ndarray) -> np.ndarray:
            centred = np.where(np.ptp(values, axis=0) > 0, _centred(values), 0).astype(np.float32)
            return centred_midranks(_freed(centred, basis))

        return _against(measured, predicted, members, residual_ranks)

    return _over_folds(fold, rho, used=covariates.shape[1])


def significance(rho: np.ndarray, permuted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided p-values of genes against permuted pairing, and their Benjamini–Hochberg q-values.

    A hundred permutations cannot put one gene's p below .0099.  So every gene's Fisher z is measured in
    mean and SD of its own permutations, and the permutations of all genes then form one null, each
    measured against the others of its gene as the gene itself is against all.  No p is below
    `smallest_p`.

    Parameters
    ----------
    rho
        (genes,).
    permuted
        (permutations, genes), of the same pipeline refitted; at least four.

    Returns
    -------
    tuple
        p and q, (genes,) each.
    """
    from scipy.stats import false_discovery_control

    z, z0 = np.arctanh(np.clip(rho, -0.999, 0.999)), np.arctanh(np.clip(np.nan_to_num(permuted), -0.999, 0.999))
    n = len(z0)
    total, squares = z0.sum(axis=0), np.square(z0).sum(axis=0)
    pooled = np.sort(_scaled(z0, total - z0, squares - z0**2, n - 1).ravel())
    observed = _scaled(z, total, squares, n)
    p = (1 + len(pooled) - np.searchsorted(pooled, observed)) * smallest_p(len(pooled))
    return p, false_discovery_control(p)


def smallest_p(pooled: int) -> float:
    """The finest p that a null of so many values tells: 1 / (permutations · genes + 1)."""
    return 1 / (pooled + 1)


def _scaled(z: np.ndarray, total: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    """`z` in units of how a new value scatters about the mean of `n` others, given their sum and sum of squares."""
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0) * n / (n - 1) * (1 + 1 / n)
    # A gene that is predicted constant scores 0 in every permutation: it is in the middle of its null.
    return np.divide(z - mean, np.sqrt(variance), out=np.zeros_like(z), where=variance > 1e-12)


def _against(
    measured: np.ndarray,
    predicted: Sequence[np.ndarray],
    members: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Correlation of every prediction with the measurement after both are prepared, (predictions, genes)."""
    y = prepare(measured[members])
    return np.stack([_correlation(y, prepare(x[members])) for x in predicted])


def _basis(covariates: np.ndarray) -> np.ndarray:
    """An orthonormal basis of centred covariates, float32 (n, at most k)."""
    found = np.linalg.svd(_centred(covariates), full_matrices=False)
    return found.U[:, 1e-8 * found.S.max(initial=1e-300) < found.S].astype(np.float32)


def _freed(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Centred float32 columns less what is linear in the basis; 0 where no more than rounding is left."""
    left = values - basis @ (basis.T @ values)
    before, after = (np.einsum("ng,ng->g", each, each, dtype=np.float64) for each in (values, left))
    return np.where(after > ROUNDING**2 * before, left, np.float32(0))


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0, dtype=np.float64)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of centred columns; 0 where one does not vary."""
    norm = np.sqrt(np.square(x, dtype=np.float64).sum(axis=0) * np.square(y, dtype=np.float64).sum(axis=0))
    product = np.einsum("ng,ng->g", x, y, dtype=np.float64)
    return np.divide(product, norm, out=np.zeros_like(norm), where=norm > 1e-12)


def _over_folds(fold: np.ndarray, correlation: Callable[[np.ndarray], np.ndarray], used: int = 0) -> np.ndarray:
    """Average a correlation over folds of more than 3 + `used` patients, with those taken off their weight."""
    labels, n = np.unique(fold, return_counts=True)
    counted = n - used > RESERVED
    if not counted.any():
        return np.full_like(correlation(np.ones(len(fold), bool)), np.nan)
    each = np.stack([correlation(fold == label) for label in labels[counted]])
    return fisher_mean(each.reshape(len(each), -1), n[counted] - used).reshape(each.shape[1:])
