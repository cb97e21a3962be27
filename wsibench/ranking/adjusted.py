"""What is left of the mean ρ once a known cause of it is taken out.

A slide shows subtype, grade, cellularity and lymphocytes, and thousands of genes follow them: an encoder
that reads these few axes predicts most genes somewhat, and none by itself.  Each adjustment takes such an
axis away and scores what remains:

``within subtype``
    Patients are compared with those of their own subtype only.
``given subtype``, ``given <column>``
    Partial ρ: ranks within folds, freed of what is linear in the subtype, or in the ranks of a column of
    ``ranking.covariates``.
``given immune``
    Partial ρ given the immune score, the mean z-score of the scored genes of the declared set ``immune``; these
    genes themselves are left out of the mean.
``without k PCs``
    Expression freed of its k dominating axes, against predictions freed of the same.  The axes are the first k
    principal components of the standardised genes of each fold's training patients, so that no held-out
    patient has a say in which axes dominate.  Along them held-out patients have scores, by their measured
    expression.  Predictions are projected off the axes, which takes out what was read of them, errors included:
    else an encoder that misreads an axis would seem to misread each gene on it.  Then both sides are freed,
    within the fold, of what is linear in the measured scores, and Spearman's correlation of the residuals is
    taken.  What remains is how well a gene's own deviation from the axes is read; a gene that only follows an
    axis keeps nothing, however well the axis itself is read.

All are linear adjustments: what bends with an axis remains.  Components need many more genes than there are
components, else a gene is an axis of its own and taken out with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import eigh

from wsibench.core import CohortError, Study, file_sha256, read_rows, some
from wsibench.ranking.association import ROUNDING, partial_spearman, residual_spearman, within_strata
from wsibench.ranking.gene_sets import COVERED, GeneSet
from wsibench.ranking.predictions import Arm
from wsibench.regression.metrics import RESERVED, centred_midranks
from wsibench.regression.probes.base import Scaler

COLUMNS = [
    "scheme", "encoder", "probe", "adjustment", "n_patients", "n_genes", "mean_rho", "median_rho", "unadjusted_rho",
]  # fmt: skip
"""Of adjusted.csv; ``unadjusted_rho`` is the mean ρ of the same patients and genes without the adjustment."""
COMPONENTS = (1, 3, 5, 10)
IMMUNE = "immune"
"""Name of the declared set whose mean is the immune score."""
UNKNOWN = ("", "NA", "NaN", "nan")
GENE_BATCH = 4096
"""Genes standardised at once: bounds memory to about 12 B × patients × genes of a batch."""


@dataclass(frozen=True)
class Adjusted:
    """ρ after one adjustment."""

    name: str
    rho: np.ndarray
    """(encoders, genes)."""
    patients: np.ndarray
    """Who took part, boolean (patients,)."""
    genes: np.ndarray
    """What is averaged, boolean (genes,)."""


def identities(study: Study) -> list[str]:
    """What tells the table of covariates apart by content, for the key of what is made from it."""
    path = study.resolve(study.ranking.covariates) if study.ranking.covariates else None
    return [file_sha256(path)] if path and path.is_file() else []


def table(arm: Arm, rho: np.ndarray, sets: list[GeneSet]) -> pd.DataFrame:
    """Mean and median ρ of every encoder and probe under every adjustment that the study's data allow.

    Parameters
    ----------
    arm
        Who and what was scored.
    rho
        Without any adjustment, (encoders, genes).
    sets
        Of `genesets.scored`; the one called ``immune`` gives the immune score, if it has enough genes.

    Returns
    -------
    DataFrame
        A row an adjustment, encoder and probe, with `COLUMNS`; NaN where no fold has patients enough.

    Raises
    ------
    CohortError
        When the table of covariates cannot be used.
    """
    everyone, every_gene = np.ones(len(arm.fold), bool), np.ones(rho.shape[1], bool)
    rows = []
    for each in (Adjusted("none", rho, everyone, every_gene), *adjustments(arm, sets)):
        plain = rho if each.patients.all() else _plain(arm, each.patients)
        for row, left in enumerate(each.rho[:, each.genes]):
            rows.append({
                **arm.named(row), "adjustment": each.name, "n_patients": int(each.patients.sum()),
                "n_genes": int(each.genes.sum()), "mean_rho": left.mean(), "median_rho": np.median(left),
                "unadjusted_rho": plain[row, each.genes].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def adjustments(arm: Arm, sets: list[GeneSet]) -> Iterator[Adjusted]:
    """ρ under every adjustment that the study's data allow, as `table` takes them."""
    everyone, every_gene = np.ones(len(arm.fold), bool), np.ones(len(arm.genes), bool)
    yield from _of_subtype(arm)
    for column, values in read_covariates(arm.study, arm.patients).items():
        known = np.isfinite(values.to_numpy())
        yield Adjusted(f"given {column}", _given(arm, values.to_numpy()[known], known), known, every_gene)
    immune = next((each for each in sets if each.name == IMMUNE and each.size >= COVERED), None)
    if immune is not None and immune.size < len(arm.genes):
        score = Scaler.fit(arm.measured[:, immune.members]).transform(arm.measured[:, immune.members]).mean(axis=1)
        yield Adjusted("given immune", _given(arm, score, everyone), everyone, ~immune.members)
    yield from _of_components(arm)


def _of_subtype(arm: Arm) -> Iterator[Adjusted]:
    known = arm.subtypes != ""
    names = np.unique(arm.subtypes[known])
    if len(names) < 2:
        return
    subtypes, every_gene = arm.subtypes[known], np.ones(len(arm.genes), bool)
    y, x, fold = _of(arm, known)
    yield Adjusted("within subtype", within_strata(y, x, fold, subtypes), known, every_gene)
    indicators = (subtypes[:, None] == names[1:]).astype(float)
    yield Adjusted("given subtype", partial_spearman(y, x, fold, indicators), known, every_gene)


def _of_components(arm: Arm) -> Iterator[Adjusted]:
    everyone, every_gene = np.ones(len(arm.fold), bool), np.ones(len(arm.genes), bool)
    sizes = np.unique(arm.fold, return_counts=True)[1]
    # Fewer than genes and training patients, and some fold must have patients left to correlate.
    most = min(len(arm.genes) - 1, len(arm.fold) - sizes.max() - 1, sizes.max() - RESERVED - 1)
    wanted = [k for k in COMPONENTS if k <= most]
    if not wanted:
        return
    axes = components(arm.measured, arm.fold, max(wanted))
    scores = np.empty((len(arm.fold), max(wanted)), np.float32)
    for each in axes:
        scores[each.held] = each.scores
    for k in wanted:
        off = [project_off(predicted, axes, k) for predicted in arm.predicted]
        left = residual_spearman(arm.measured, off, arm.fold, scores[:, :k])
        yield Adjusted(f"without {k} PC{'s' if k > 1 else ''}", left, everyone, every_gene)


def _of(arm: Arm, patients: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    return arm.measured[patients], [each[patients] for each in arm.predicted], arm.fold[patients]


def _plain(arm: Arm, patients: np.ndarray) -> np.ndarray:
    """ρ of some of the patients without any adjustment, (encoders, genes)."""
    y, x, fold = _of(arm, patients)
    return within_strata(y, x, fold, np.zeros(len(fold)))


def _given(arm: Arm, values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Partial ρ given the ranks within folds of one value a patient, (encoders, genes)."""
    y, x, fold = _of(arm, patients)
    ranks = np.empty((len(fold), 1), np.float32)
    for label in np.unique(fold):
        ranks[fold == label] = centred_midranks(values[fold == label, None])
    return partial_spearman(y, x, fold, ranks)


@dataclass(frozen=True)
class Axes:
    """Principal components of one fold's training patients, and where those held out lie along them."""

    held: np.ndarray
    """Boolean (patients,)."""
    scores: np.ndarray
    """Of the patients held out, float32 (held, n)."""
    directions: np.ndarray
    """Orthonormal, of genes scaled by `sd`, float32 (genes, n); 0 where genes have fewer axes than n."""
    sd: np.ndarray
    """Of each gene in the training patients, (genes,)."""


def components(measured: np.ndarray, fold: np.ndarray, n: int) -> list[Axes]:
    """The first principal components of each fold's training patients, of genes scaled to mean 0 and SD 1.

    Parameters
    ----------
    measured
        (patients, genes).
    fold
        Fold that holds each patient out, (patients,).
    n
        How many components; fewer than genes, and than the patients of all folds but one.
    """
    batches = [slice(start, start + GENE_BATCH) for start in range(0, measured.shape[1], GENE_BATCH)]
    found = []
    for label in np.unique(fold):
        train = fold != label
        scalers = [Scaler.fit(measured[train, batch]) for batch in batches]
        # By products of patients, not of genes: of these there may be twenty thousand.
        products = np.zeros((len(fold), train.sum()), np.float32)
        for scaler, batch in zip(scalers, batches, strict=True):
            scaled = scaler.transform(measured[:, batch])
            products += scaled @ scaled[train].T
        last = int(train.sum()) - 1
        variance, vectors = eigh(products[train].astype(np.float64), subset_by_index=[last - n + 1, last])
        # Where genes are copies of each other there are fewer axes than asked for, and the rest is rounding.
        scale = np.where(variance > ROUNDING * variance[-1], 1 / np.sqrt(np.maximum(variance, ROUNDING)), 0)
        vectors = (vectors * scale)[:, ::-1].astype(np.float32)
        parts = [
            scaler.transform(measured[train, batch]).T @ vectors for scaler, batch in zip(scalers, batches, strict=True)
        ]
        sd = np.concatenate([scaler.scale for scaler in scalers])
        found.append(Axes(~train, products[~train] @ vectors, np.concatenate(parts), sd))
    return found


def project_off(predicted: np.ndarray, axes: list[Axes], k: int) -> np.ndarray:
    """Predictions of each fold less their part along its first `k` axes; in SD, and centred.

    Parameters
    ----------
    predicted
        (patients, genes).

    Returns
    -------
    np.ndarray
        float32 (patients, genes); 0 for a gene that a fold predicts constant.
    """
    left = np.empty(predicted.shape, np.float32)
    for each in axes:
        values, directions = predicted[each.held], each.directions[:, :k]
        varies = np.ptp(values, axis=0) > 0
        values = np.where(varies, (values - values.mean(axis=0)) / each.sd, 0).astype(np.float32)
        left[each.held] = np.where(varies, values - (values @ directions) @ directions.T, 0)
    return left


def read_covariates(study: Study, patients: np.ndarray) -> pd.DataFrame:
    """The columns ``ranking.given`` of the table ``ranking.covariates``, (patients, columns); NaN where unknown.

    Raises
    ------
    CohortError
        For a missing table or column, a patient with two rows, text where a number belongs, and a column
        that is unknown for all patients.
    """
    given = list(study.ranking.given)
    if not given:
        return pd.DataFrame(index=patients)
    path = study.resolve(study.ranking.covariates)
    rows = read_rows(path)
    absent = [column for column in ("patient_id", *given) if column not in rows]
    if absent:
        raise CohortError(
            f"{path} has no column {absent[0]!r}: it has {some(list(rows))}.",
            "Correct ranking.given in study.yaml, or name the table's columns so.",
        )
    twice = rows["patient_id"][rows["patient_id"].duplicated()]
    if len(twice):
        raise CohortError(f"{path} has more than one row of patient {some(list(twice))}.", "Keep one row a patient.")
    text = rows.set_index("patient_id")[given]
    numbers = text.apply(pd.to_numeric, errors="coerce").where(lambda values: np.isfinite(values))
    for column in given:
        wrong = text[column][numbers[column].isna() & ~text[column].str.strip().isin(UNKNOWN)]
        if len(wrong):
            raise CohortError(
                f"{path}: column {column!r} is not numeric: {wrong.iloc[0]!r} for patient {wrong.index[0]}.",
                "Numbers only, empty where unknown.",
            )
    found = numbers.reindex(patients)
    for column in given:
        if found[column].isna().all():
            raise CohortError(
                f"{path}: column {column!r} has no number for any of the study's patients, such as "
                f"{some(list(patients))}; its own patients are {some(list(rows['patient_id']))}.",
                "Give the same patient ids (a TCGA patient is its first 12 characters).",
            )
    return found
