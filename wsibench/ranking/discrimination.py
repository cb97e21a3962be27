"""How well predictions tell classes apart, in any number of weighted samples of the same patients.

Pure functions of arrays.  Like correlations (`wsibench.regression.metrics`), a class is scored within each held-out
fold and averaged over folds with weights n − 3.  Where a fold has no member of a class, or nothing but
members, the class has no score there, and the other folds speak for it.
"""

from collections.abc import Callable

import numpy as np

from wsibench.regression.metrics import RESERVED


def macro_auroc(member: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One-vs-rest area under the ROC curve, averaged over folds and then over classes.

    Parameters
    ----------
    member
        Indicators of the classes, (patients, classes).
    predicted
        What is larger for likelier members, (patients, classes).
    fold
        (patients,).
    weights
        How often each patient is in each sample, (draws, patients); ones for the score itself.

    Returns
    -------
    np.ndarray
        float64 (draws,); NaN where a sample leaves no class a score.
    """

    def score(patients: np.ndarray, w: np.ndarray) -> np.ndarray:
        columns = zip(member[patients].T > 0, predicted[patients].T, strict=True)
        return np.stack([_auroc(each, values, w) for each, values in columns], axis=1)

    return _macro(score, fold, weights)


def balanced_accuracy(member: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Recall of the classes when each patient is put into the class of the largest prediction.

    Parameters and result are those of `macro_auroc`.
    """
    hit = member.astype(np.float64) * (predicted.argmax(axis=1)[:, None] == np.arange(member.shape[1]))

    def score(patients: np.ndarray, w: np.ndarray) -> np.ndarray:
        return _ratio(w @ hit[patients], w @ member[patients].astype(np.float64))

    return _macro(score, fold, weights)


def n_without_auroc(member: np.ndarray, fold: np.ndarray) -> int:
    """How many pairs of a fold and a class have no member or no other to be told apart."""
    counts = [(member[fold == label].sum(axis=0), (fold == label).sum()) for label in np.unique(fold)]
    return int(sum(((members == 0) | (members == n)).sum() for members, n in counts))


def _auroc(member: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of pairs of a member and another that are in order, ties half, (draws,); NaN without a pair."""
    inside, outside = values[member][:, None], values[~member][None]
    ordered = (inside > outside) + 0.5 * (inside == outside)
    w_in, w_out = weights[:, member], weights[:, ~member]
    return _ratio(((w_in @ ordered) * w_out).sum(axis=1), w_in.sum(axis=1) * w_out.sum(axis=1))


def _macro(score: Callable[[np.ndarray, np.ndarray], np.ndarray], fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over classes of the mean over folds of `score`, which gives (draws, classes) for a fold's patients."""
    total, weight = 0.0, 0.0
    for label in np.unique(fold):
        patients = np.flatnonzero(fold == label)
        w = weights[:, patients].astype(np.float64)
        each = score(patients, w)
        counts = np.isfinite(each) * np.maximum(w.sum(axis=1) - RESERVED, 0)[:, None]
        total, weight = total + np.nan_to_num(each) * counts, weight + counts
    classes = _ratio(total, weight)
    defined = np.isfinite(classes)
    return _ratio(np.where(defined, classes, 0).sum(axis=1), defined.sum(axis=1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)
