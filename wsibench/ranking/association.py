"""Measures beside the headline score: other correlations and errors, significance, and adjustment for covariates.

Measures take arrays and return one value a gene, or (predictions, genes) for several predictions.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wsibench.core import CohortError, read_rows, some
from wsibench.ranking.gene_sets import GeneSet
from wsibench.ranking.predictions import Predictions
from wsibench.regression import centred_midranks, fisher_mean, metrics

ROUNDING = 1e-5
"""Share of a column's length below which a residual in float32 is rounding."""
IMMUNE = "immune"
"""Name of the gene set whose mean is the immune score."""
MIN_IMMUNE = 5
"""Fewest scored genes of that set that give a score."""
UNKNOWN = ("", "NA", "NaN", "nan")


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


class Adjustment(NamedTuple):
    """ρ after one adjustment: (fits, genes), for the patients with the covariate, averaged over some of the genes."""

    name: str
    rho: np.ndarray
    patients: np.ndarray
    genes: np.ndarray


def adjusted_rows(
    predictions: Predictions, rho: np.ndarray, sets: list[GeneSet], covariates: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Mean and median ρ of every fit without adjustment, and under every adjustment that the data allow.

    A slide shows subtype, grade, cellularity and lymphocytes, and thousands of genes correlate with them: an encoder
    that predicts these few axes predicts most genes somewhat. Each adjustment removes one axis and scores the rest:

    ``within subtype``
        Patients are compared with patients of their own subtype only.
    ``given subtype``, ``given <column>``
        Partial ρ: correlation of within-fold ranks after regression on the subtype, or on the ranks of a column of
        ``ranking.covariates``.
    ``given immune``
        Partial ρ given the immune score, the mean z-score of the scored genes of the gene set ``immune``; these genes
        are left out of the mean.

    All adjustments are linear in ranks: nonlinear dependence on an axis remains.

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
    for each in adjustments(predictions, rho, sets, covariates):
        measured, predicted, fold = _of(predictions, each.patients)
        plain = rho if each.patients.all() else within_strata(measured, predicted, fold, np.zeros(len(fold)))
        for row, adjusted in enumerate(each.rho[:, each.genes]):
            yield {
                **predictions.name(row), "adjustment": each.name, "n_patients": int(each.patients.sum()),
                "n_genes": int(each.genes.sum()), "mean_rho": adjusted.mean(), "median_rho": np.median(adjusted),
                "unadjusted_rho": plain[row, each.genes].mean(),
            }  # fmt: skip


def adjustments(
    predictions: Predictions, rho: np.ndarray, sets: list[GeneSet], covariates: pd.DataFrame
) -> Iterator[Adjustment]:
    """Compute ρ under every adjustment that the data allow.

    Parameters
    ----------
    predictions
        Out-of-fold predictions of all fits of a scheme.
    rho
        Their ρ, (fits, genes).
    sets
        Gene sets; the score of the immune set is a covariate, for the genes outside it.
    covariates
        Covariates, one row a patient and one column each.
    """
    everyone, every_gene = np.ones(len(predictions.obs), bool), np.ones(rho.shape[1], bool)
    yield Adjustment("none", rho, everyone, every_gene)
    subtypes = predictions.obs["subtype"].to_numpy(str)
    known = subtypes != ""
    names = np.unique(subtypes[known])
    if len(names) > 1:
        data, subtypes = _of(predictions, known), subtypes[known]
        yield Adjustment("within subtype", within_strata(*data, subtypes), known, every_gene)
        indicators = (subtypes[:, None] == names[1:]).astype(float)
        yield Adjustment("given subtype", partial_spearman(*data, indicators), known, every_gene)
    for column in covariates:
        values = covariates[column].reindex(predictions.obs.index).to_numpy()
        known = np.isfinite(values)
        yield Adjustment(f"given {column}", _given(predictions, values[known], known), known, every_gene)
    immune = next((each for each in sets if each.name == IMMUNE and each.size >= MIN_IMMUNE), None)
    if immune is not None and not immune.members.all():
        genes = predictions.measured[:, immune.members]
        sd = genes.std(axis=0, dtype=np.float64)
        score = ((genes - genes.mean(axis=0, dtype=np.float64)) / sd).astype(np.float32).mean(axis=1)
        yield Adjustment("given immune", _given(predictions, score, everyone), everyone, ~immune.members)


def _of(predictions: Predictions, patients: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Measured and predicted values and folds of some patients."""
    predicted = [each[patients] for each in predictions.predicted]
    return predictions.measured[patients], predicted, predictions.fold[patients]


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
