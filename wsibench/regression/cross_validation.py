"""Out-of-fold predictions of one probe, with their training-sample noise by split-half refitting."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wsibench.core import CohortError
from wsibench.regression.probes.base import FittedNetworks, Patients, Probe
from wsibench.regression.split_half import split_groups, training_noise

ROUNDING = 1e-5
"""Differences below this share of a gene's SD are rounding; the largest penalty leaves ten times as much."""
MIN_TRAIN = 3
"""Fewest training patients of a fold."""
MIN_HALF = 4
"""Fewest training patients of a half; with fewer, all of the prediction is taken for noise."""


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of every patient by the fit that did not see them."""

    predicted: np.ndarray
    """float32 (patients, genes); NaN for patients who are never held out."""
    seeds: np.ndarray | None
    """Predictions of each seed, float32 (seeds, patients, genes), of a probe with several."""
    noise: np.ndarray | Any
    """Noise of the training sample that intervals have to include, float32 (patients, genes); None unless estimated."""
    attention: list[np.ndarray]
    """(tiles,) for each patient who is held out; empty unless the probe attends."""
    chosen: dict[str, dict[str, Any]]
    """Hyperparameters that each fold's fit selected, by fold."""
    curves: pd.DataFrame | None
    """Training curves: fold, seed, epoch, loss, validation_rho, chosen; of a probe that trains by epochs."""

    def median_chosen(self) -> str:
        """Median over folds of every number that was selected, as text."""
        folds = list(self.chosen.values())
        numbers = [name for name, value in folds[0].items() if isinstance(value, int | float)]
        return ", ".join(f"{name} {np.median([each[name] for each in folds]):.3g}" for name in numbers)


def out_of_fold(
    probe: Probe, patients: Patients, y: np.ndarray, fold: np.ndarray, *, seed: int = 0, split_half: bool = False
) -> OutOfFold:
    """For each fold, fit the probe on all other patients and predict those of the fold.

    Parameters
    ----------
    probe
        Probe to fit.
    patients
        Features.
    y
        Expression, float32 (patients, genes).
    fold
        Fold that holds each patient out, (patients,); below 0 for patients who are trained on in every fold.
    seed
        Seed of the probe and of the halves.
    split_half
        Also fit on two halves of every fold's training patients, to estimate the noise in the predictions.  With
        one fold alone no test patient trains another fold's fit, and the noise is 0.

    Raises
    ------
    CohortError
        When a fold leaves fewer than three patients to train on.
    """
    predicted = np.full(y.shape, np.nan, np.float32)
    labels = np.unique(fold[fold >= 0])
    noise = np.zeros(y.shape, np.float32) if split_half else None
    by_seed: np.ndarray | None = None
    attention: dict[int, np.ndarray] = {}
    chosen, curves = {}, []
    for label in labels:
        train, test = np.flatnonzero(fold != label), np.flatnonzero(fold == label)
        if len(train) < MIN_TRAIN:
            raise CohortError(f"Fold {label} leaves {len(train)} patients to train on.", "Lower folds.n in study.yaml.")
        train_patients, test_patients = patients.take(train), patients.take(test)
        fitted = probe.fit(train_patients, y[train], seed=seed)
        if isinstance(fitted, FittedNetworks):
            seeds, weights = fitted.predict_seeds(test_patients)
            by_seed = np.empty((len(seeds), *y.shape), np.float32) if by_seed is None else by_seed
            by_seed[:, test] = seeds
            attention |= zip(test.tolist(), weights, strict=True)
            curves.append(fitted.curves.assign(fold=int(label)))
            of_fold = seeds.mean(axis=0)
        else:
            of_fold = fitted.predict(test_patients)
        predicted[test] = remove_rounding(of_fold, y[train].std(axis=0, dtype=np.float64))
        if noise is not None and len(labels) > 1:
            noise[test] = _noise(probe, train_patients, y[train], test_patients, predicted[test], seed)
        chosen[str(label)] = fitted.chosen
    return OutOfFold(
        predicted,
        by_seed if by_seed is not None and len(by_seed) > 1 else None,
        noise,
        [attention[position] for position in sorted(attention)],
        chosen,
        pd.concat(curves, ignore_index=True) if curves else None,
    )


def _noise(
    probe: Probe, train: Patients, y: np.ndarray, test: Patients, predicted: np.ndarray, seed: int
) -> np.ndarray:
    # The halves depend on the seed alone, so that they are the same for every encoder and probe.
    halves = split_groups(train.groups, seed)
    if min(map(len, halves)) < MIN_HALF:
        return predicted - predicted.mean(axis=0)
    one, other = (probe.fit(train.take(half), y[half], seed=seed).predict(test) for half in halves)
    return training_noise(one, other, predicted)


def remove_rounding(predicted: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Make predictions of a fold constant for genes that vary by rounding only.

    Patients with equal features (patients of unseen sites, for the site control) differ in the last bit,
    depending on their position in a matrix product, and ranks would make a signal of that.

    Parameters
    ----------
    predicted
        (patients, genes).
    sd
        SD of each gene in the training patients, (genes,).
    """
    flat = np.ptp(predicted, axis=0) <= ROUNDING * sd
    return np.where(flat, predicted[:1], predicted)
