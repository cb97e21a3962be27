"""Out-of-fold predictions of one probe, with their training-sample noise by split-half refitting.

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

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from wsibench.assembly import gene_set_score
from wsibench.core import CohortError
from wsibench.regression.metrics import unit
from wsibench.regression.probes.base import Fitted, FittedNetworks, Patients, Probe

if TYPE_CHECKING:
    from anndata import AnnData

ROUNDING = 1e-5
"""Differences below this share of a gene's SD are rounding; the largest penalty leaves ten times as much."""
MIN_TRAIN = 3
"""Fewest training patients of a fold."""
MIN_HALF = 4
"""Fewest training patients of a half; with fewer, all of the prediction is taken for noise."""
MAX_NOISE = np.sqrt(3.0)
"""Largest noise in units of the prediction; half fits that disagree by chance, r < −.5, are no evidence of more."""


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of every patient by the fit that did not see them."""

    predicted: np.ndarray
    """float32 (patients, genes); NaN for patients who are never held out."""
    seeds: np.ndarray | None
    """Predictions of each seed, float32 (seeds, patients, genes), of a probe with several."""
    noise: np.ndarray
    """Noise of the training sample that intervals have to include, float32 (patients, genes); 0 unless estimated."""
    attention: list[np.ndarray]
    """(tiles,) for each patient who is held out; empty unless the probe attends."""
    chosen: dict[str, dict[str, Any]]
    """Hyperparameters that each fold's fit selected, by fold."""
    curves: pd.DataFrame | None
    """Training curves: fold, seed, epoch, loss, validation_rho, chosen; of a probe that trains by epochs."""

    def median_chosen(self) -> str:
        """Median over folds of every number that was selected, as text."""
        median = pd.DataFrame(self.chosen.values()).select_dtypes("number").median()
        return ", ".join(f"{name} {value:.3g}" for name, value in median.items())


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
    predicted, noise = np.full(y.shape, np.nan, np.float32), np.zeros(y.shape, np.float32)
    labels = np.unique(fold[fold >= 0])
    by_seed: dict[int, np.ndarray] = {}
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
            for number, each in enumerate(seeds):
                by_seed.setdefault(number, np.full_like(predicted, np.nan))[test] = each
            attention |= zip(test.tolist(), weights, strict=True)
            curves.append(fitted.curves.assign(fold=int(label)))
            of_fold = seeds.mean(axis=0)
        else:
            of_fold = fitted.predict(test_patients)
        predicted[test] = remove_rounding(of_fold, y[train].std(axis=0, dtype=np.float64))
        if split_half and len(labels) > 1:
            noise[test] = _noise(probe, train_patients, y[train], test_patients, predicted[test], seed)
        chosen[str(label)] = fitted.chosen
    return OutOfFold(
        predicted,
        np.stack(list(by_seed.values())) if len(by_seed) > 1 else None,
        noise,
        [attention[position] for position in sorted(attention)],
        chosen,
        pd.concat(curves, ignore_index=True) if curves else None,
    )


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


# Split halves


def _noise(
    probe: Probe, train: Patients, y: np.ndarray, test: Patients, predicted: np.ndarray, seed: int
) -> np.ndarray:
    # The halves depend on the seed alone, so that they are the same for every encoder and probe.
    halves = split_groups(train.groups, seed)
    if min(map(len, halves)) < MIN_HALF:
        return predicted - predicted.mean(axis=0)
    one, other = (probe.fit(train.take(half), y[half], seed=seed).predict(test) for half in halves)
    return training_noise(one, other, predicted)


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


# Targets other than genes


@dataclass(frozen=True)
class GeneSetProbe:
    """A probe whose gene-set targets are scored anew with the mean and SD of the patients it is fitted on."""

    probe: Probe
    sets: dict[int, pd.DataFrame]
    """Expression of a set's genes, indexed by patient, by the column of y that is its score."""
    columnwise: ClassVar[bool] = False

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> Fitted:
        """Fit the probe; the gene-set columns of `y` are replaced."""
        y = y.copy()
        for column, expression in self.sets.items():
            training = expression.loc[patients.ids].to_numpy()
            y[:, column] = gene_set_score(training, training)
        return self.probe.fit(patients, y, seed=seed)


def measured_targets(benchmark: "AnnData", fold: np.ndarray) -> pd.DataFrame:
    """Measured targets, with gene sets scored by the mean and SD of the training patients of each fold.

    Parameters
    ----------
    benchmark
        With ``obsm["targets"]`` and its description in ``uns["wsibench"]["targets"]``.
    fold
        Fold that holds each patient out, (patients,); below 0 for patients who are trained on in every fold.

    Returns
    -------
    DataFrame
        float32 (patients, columns); NaN where unknown.
    """
    measured = benchmark.obsm["targets"].astype(np.float32)
    for column, genes in _gene_sets(benchmark).items():
        expression = np.asarray(benchmark[:, genes].X)
        for label in np.unique(fold):
            training = fold == label if label < 0 else fold != label
            measured.loc[fold == label, column] = gene_set_score(expression[training], expression[fold == label])
    return measured


def _gene_sets(benchmark: "AnnData") -> dict[str, list[str]]:
    description: dict[str, dict[str, Any]] = json.loads(benchmark.uns["wsibench"]["targets"])
    genes = {column: description[column]["genes"] for column in benchmark.obsm["targets"]}
    return {column: symbols for column, symbols in genes.items() if symbols}


def predict_targets(
    probe: Probe, patients: Patients, benchmark: "AnnData", fold: np.ndarray, *, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Predict targets other than genes out of fold.

    Columns that are known of the same patients are fitted together; patients of whom they are unknown are left
    out of training and of the predictions.

    Parameters
    ----------
    probe
        Probe to fit.
    patients
        Features of the benchmark's patients.
    benchmark
        With targets, as in `measured_targets`.
    fold
        Fold that holds each patient out, (patients,).
    seed
        Seed of the probe and of the halves.

    Returns
    -------
    dict
        Data frames of patients × columns, NaN where unknown: ``targets`` (predicted), ``targets_measured``
        and ``targets_noise`` (see `training_noise`).
    """
    measured, sets = measured_targets(benchmark, fold), _gene_sets(benchmark)
    predicted, noise = (pd.DataFrame(np.nan, measured.index, measured.columns, np.float32) for _ in range(2))
    known = np.isfinite(measured.to_numpy())
    for pattern in dict.fromkeys(column.tobytes() for column in known.T):
        columns = np.flatnonzero([column.tobytes() == pattern for column in known.T])
        rows = np.flatnonzero(known[:, columns[0]])
        names = measured.columns[columns]
        expression = {
            position: pd.DataFrame(np.asarray(benchmark[rows, sets[name]].X), patients.ids[rows])
            for position, name in enumerate(names)
            if name in sets
        }
        y = measured.to_numpy()[np.ix_(rows, columns)]
        rescored = GeneSetProbe(probe, expression)
        found = out_of_fold(rescored, patients.take(rows), y, fold[rows], seed=seed, split_half=True)
        predicted.iloc[rows, columns], noise.iloc[rows, columns] = found.predicted, found.noise
    return {"targets": predicted, "targets_measured": measured, "targets_noise": noise}
