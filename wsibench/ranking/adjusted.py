"""Mean ρ adjusted for subtype, the immune score and other covariates.

A slide shows subtype, grade, cellularity and lymphocytes, and thousands of genes correlate with them: an encoder that
predicts these few axes predicts most genes somewhat. Each adjustment removes one axis and scores the rest:

``within subtype``
    Patients are compared with patients of their own subtype only.
``given subtype``, ``given <column>``
    Partial ρ: correlation of within-fold ranks after regression on the subtype, or on the ranks of a column of
    ``ranking.covariates``.
``given immune``
    Partial ρ given the immune score, the mean z-score of the scored genes of the gene set ``immune``; these genes
    are left out of the mean.

All adjustments are linear in ranks: nonlinear dependence on an axis remains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsibench.core import CohortError, read_rows, some
from wsibench.ranking.association import partial_spearman, within_strata
from wsibench.ranking.gene_sets import GeneSet
from wsibench.ranking.predictions import Predictions
from wsibench.regression import centred_midranks

IMMUNE = "immune"
"""Name of the gene set whose mean is the immune score."""
MIN_IMMUNE = 5
"""Fewest scored genes of that set that give a score."""
UNKNOWN = ("", "NA", "NaN", "nan")


@dataclass(frozen=True)
class Adjustment:
    """ρ after one adjustment."""

    name: str
    rho: np.ndarray
    """(fits, genes)."""
    patients: np.ndarray
    """Patients that the adjustment is known for, boolean (patients,)."""
    genes: np.ndarray
    """Genes that are averaged, boolean (genes,)."""


def adjusted_rows(
    predictions: Predictions, rho: np.ndarray, sets: list[GeneSet], covariates: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Mean and median ρ of every fit under every adjustment that the data allow.

    Parameters
    ----------
    predictions
        Measured and predicted values.
    rho
        Unadjusted ρ, (fits, genes).
    sets
        Gene sets; the one called ``immune`` gives the immune score if it has enough scored genes.
    covariates
        Numbers that ρ is conditioned on, one column at a time, indexed by patient; NaN where unknown.

    Yields
    ------
    dict
        One row an adjustment and fit. ``unadjusted_rho`` is the mean ρ of the same patients and genes; NaN where
        no fold has enough patients.
    """
    everyone, every_gene = np.ones(len(predictions.obs), bool), np.ones(rho.shape[1], bool)
    unadjusted = Adjustment("none", rho, everyone, every_gene)
    for each in (unadjusted, *adjustments(predictions, sets, covariates)):
        plain = rho if each.patients.all() else _unadjusted(predictions, each.patients)
        for row, adjusted in enumerate(each.rho[:, each.genes]):
            yield {
                **predictions.name(row), "adjustment": each.name, "n_patients": int(each.patients.sum()),
                "n_genes": int(each.genes.sum()), "mean_rho": adjusted.mean(), "median_rho": np.median(adjusted),
                "unadjusted_rho": plain[row, each.genes].mean(),
            }  # fmt: skip


def adjustments(predictions: Predictions, sets: list[GeneSet], covariates: pd.DataFrame) -> Iterator[Adjustment]:
    """Compute ρ under every adjustment that the data allow.

    Parameters
    ----------
    predictions
        Measured and predicted values.
    sets
        Gene sets; the one called ``immune`` gives the immune score if it has enough scored genes.
    covariates
        Numbers that ρ is conditioned on, one column at a time, indexed by patient; NaN where unknown.
    """
    measured = predictions.measured
    everyone, every_gene = np.ones(len(measured), bool), np.ones(measured.shape[1], bool)
    yield from _subtype_adjustments(predictions, every_gene)
    for column in covariates:
        values = covariates[column].reindex(predictions.obs.index).to_numpy()
        known = np.isfinite(values)
        yield Adjustment(f"given {column}", _given(predictions, values[known], known), known, every_gene)
    immune = next((each for each in sets if each.name == IMMUNE and each.size >= MIN_IMMUNE), None)
    if immune is not None and immune.size < measured.shape[1]:
        genes = measured[:, immune.members]
        sd = genes.std(axis=0, dtype=np.float64)
        score = ((genes - genes.mean(axis=0, dtype=np.float64)) / sd).astype(np.float32).mean(axis=1)
        yield Adjustment("given immune", _given(predictions, score, everyone), everyone, ~immune.members)


def _subtype_adjustments(predictions: Predictions, every_gene: np.ndarray) -> Iterator[Adjustment]:
    subtypes = predictions.obs["subtype"].to_numpy(str)
    known = subtypes != ""
    names, subtypes = np.unique(subtypes[known]), subtypes[known]
    if len(names) < 2:
        return
    measured, predicted, fold = _of(predictions, known)
    yield Adjustment("within subtype", within_strata(measured, predicted, fold, subtypes), known, every_gene)
    indicators = (subtypes[:, None] == names[1:]).astype(float)
    yield Adjustment("given subtype", partial_spearman(measured, predicted, fold, indicators), known, every_gene)


def _of(predictions: Predictions, patients: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Measured and predicted values and folds of some patients."""
    predicted = [each[patients] for each in predictions.predicted]
    return predictions.measured[patients], predicted, predictions.fold[patients]


def _unadjusted(predictions: Predictions, patients: np.ndarray) -> np.ndarray:
    """ρ of some of the patients without any adjustment, (fits, genes)."""
    measured, predicted, fold = _of(predictions, patients)
    return within_strata(measured, predicted, fold, np.zeros(len(fold)))


def _given(predictions: Predictions, values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Partial ρ given the within-fold ranks of one value a patient, (fits, genes)."""
    measured, predicted, fold = _of(predictions, patients)
    ranks = np.empty((len(fold), 1), np.float32)
    for label in np.unique(fold):
        ranks[fold == label] = centred_midranks(values[fold == label, None])
    return partial_spearman(measured, predicted, fold, ranks)


def read_covariates(path: Path, columns: Sequence[str], patients: Sequence[str] | None = None) -> pd.DataFrame:
    """Read numeric columns of a table of patients.

    Parameters
    ----------
    path
        CSV with ``patient_id`` and one row a patient (``ranking.covariates``).
    columns
        Columns to read (``ranking.given``).
    patients
        Ids of the study's patients; by default those of the table.

    Returns
    -------
    DataFrame
        (patients, columns); NaN where unknown.

    Raises
    ------
    CohortError
        For a missing table or column, a patient with two rows, text in place of a number, and a column
        that is unknown for all patients.
    """
    rows = read_rows(path)
    absent = [column for column in ("patient_id", *columns) if column not in rows]
    if absent:
        raise CohortError(
            f"{path} has no column {absent[0]!r}; it has {some(list(rows))}.",
            "Correct ranking.given in study.yaml, or rename the table's column.",
        )
    twice = rows["patient_id"][rows["patient_id"].duplicated()]
    if len(twice):
        raise CohortError(f"{path} has more than one row of patient {some(list(twice))}.", "Keep one row a patient.")
    text = rows.set_index("patient_id")[list(columns)]
    numbers = text.apply(pd.to_numeric, errors="coerce").where(lambda values: np.isfinite(values))
    found = numbers if patients is None else numbers.reindex(patients)
    for column in columns:
        wrong = text[column][numbers[column].isna() & ~text[column].str.strip().isin(UNKNOWN)]
        if len(wrong):
            raise CohortError(
                f"{path}: column {column!r} is not numeric: {wrong.iloc[0]!r} for patient {wrong.index[0]}.",
                "Numbers only, empty where unknown.",
            )
        if found[column].isna().all():
            raise CohortError(
                f"{path}: column {column!r} has no number for any of the study's patients, such as "
                f"{some(list(found.index))}; its own patients are {some(list(rows['patient_id']))}.",
                "Use the same patient ids (a TCGA patient is its first 12 characters).",
            )
    return found
