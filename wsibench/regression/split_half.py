"""Training-sample noise of predictions, estimated by split-half refitting.

Each patient is predicted by a fit that the patients of the other folds trained, and trains the fits that predict
those others.  Chance in the expression of patients i and j therefore enters the score twice: once with i as a
training and j as a test patient, and once the other way round.  A bootstrap that takes the fits as given sees it
once, and where there is no signal its intervals are too narrow by √2.  The missing part can be added when the noise
that the training sample leaves in a prediction is known.  Fits on two halves of the training patients agree in the
signal and differ in their noise, so that their difference, rescaled to the fit on all patients, behaves like its
noise.  This is the reliability of split halves [1]_, patient by patient.

References
----------
.. [1] Spearman 1910, Correlation calculated from faulty data, British Journal of Psychology 3, 271; Brown 1910,
   Some experimental results in the correlation of mental abilities, ibid. 296.
"""

import numpy as np

from wsibench.regression.metrics import unit

MAX_NOISE = np.sqrt(3.0)
"""Largest noise in units of the prediction; half fits that disagree by chance, r < −.5, are no evidence of more."""


def split_groups(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two random halves of about equal size that keep groups whole, if there are two groups or more.

    Parameters
    ----------
    groups
        Labels that are not split: sites in the preserved-site arm, else patients; (n,).
    seed
        Seed of the order in which groups are assigned.
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
    """Estimate the noise that the training sample leaves in a prediction, float32 in its unit, (patients, genes).

    With the predictions a and b of the two halves scaled to equal length, the noise relates to the prediction as
    a − b to a + b, which holds for any penalty, whether fits add up or average.  By the Spearman-Brown formula the
    share of the prediction's variance that is noise is (1 − r) / (1 + r) for halves of correlation r.

    Parameters
    ----------
    one, other
        Predictions of the test patients by fits on the two halves, (patients, genes).
    predicted
        Predictions of the same patients by the fit on all training patients, (patients, genes).
    """
    scale = np.linalg.norm(predicted - predicted.mean(axis=0, dtype=np.float64), axis=0)
    a, b = unit(one), unit(other)
    difference, together = a - b, np.linalg.norm(a + b, axis=0)
    size = np.linalg.norm(difference, axis=0)
    share = np.minimum(np.divide(size, together, out=np.full_like(size, np.inf), where=together > 1e-9), MAX_NOISE)
    return (unit(difference) * np.where(size > 0, share, 0) * scale).astype(np.float32)
