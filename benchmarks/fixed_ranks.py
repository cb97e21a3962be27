"""Bootstrap of fixed ranks: the weighted correlation of the ranks that patients have in the whole fold."""

from collections.abc import Sequence

import numpy as np

from wsibench.regression import centred_midranks, metrics


def fixed_rank_means(
    measured: np.ndarray, predicted: Sequence[np.ndarray], fold: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean within-fold correlation of every sample, float64 (predictions, draws).

    Parameters
    ----------
    measured
        (patients, genes).
    predicted
        Predictions of each fit, each (patients, genes).
    fold
        Fold of each patient, (patients,).
    weights
        Samples from `wsibench.ranking.sample_weights`, (draws, patients).
    """
    shape = (len(predicted), len(weights), measured.shape[1])
    z_sum, w_sum = np.zeros(shape), np.zeros(shape)
    for label in np.unique(fold):
        members = np.flatnonzero(fold == label)
        w, y = weights[:, members].astype(float), centred_midranks(measured[members]).astype(float)
        n = w.sum(axis=1)[:, None]
        vary = w @ (y * y) - (w @ y) ** 2 / np.maximum(n, 1)
        for row, prediction in enumerate(predicted):
            x = centred_midranks(prediction[members]).astype(float)
            varx = w @ (x * x) - (w @ x) ** 2 / np.maximum(n, 1)
            product = w @ (x * y) - (w @ x) * (w @ y) / np.maximum(n, 1)
            defined = (vary > 1e-5 * n) & (n > metrics.RESERVED)
            varies = defined & (varx > 1e-5 * n)
            rho = np.divide(
                product,
                np.sqrt(varx * vary, where=varies, out=np.ones_like(product)),
                where=varies,
                out=np.zeros_like(product),
            )
            weight = defined * np.maximum(n - metrics.RESERVED, 0)
            z_sum[row] += weight * np.arctanh(np.clip(rho, -0.999, 0.999))
            w_sum[row] += weight
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.tanh(z_sum / w_sum), axis=2)
