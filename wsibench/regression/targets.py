"""Targets other than genes: gene-set scores and clinical columns, predicted by the same functions as genes."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from wsibench.assembly import gene_set_score
from wsibench.regression.cross_validation import out_of_fold
from wsibench.regression.probes.base import Fitted, Patients, Probe


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


def measured_targets(benchmark: AnnData, fold: np.ndarray) -> pd.DataFrame:
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


def _gene_sets(benchmark: AnnData) -> dict[str, list[str]]:
    description: dict[str, dict[str, Any]] = json.loads(benchmark.uns["wsibench"]["targets"])
    genes = {column: description[column]["genes"] for column in benchmark.obsm["targets"]}
    return {column: symbols for column, symbols in genes.items() if symbols}


def predict_targets(
    probe: Probe, patients: Patients, benchmark: AnnData, fold: np.ndarray, *, seed: int = 0
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
        and ``targets_noise`` (see `wsibench.regression.split_half.training_noise`).
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
