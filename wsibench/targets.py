"""Targets other than genes: gene-set scores, subtypes, receptors, whatever is known of patients.

Every encoder and control is read by the probes of the study, on its folds, as for genes.  A continuous
target is regressed as it is; a categorical one as an indicator a class.  Who is not known is left out,
of training and of scoring; targets that are known of the same patients are fitted together, as genes are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench import bootstrap, clinical
from wsibench.artefacts import Artefact, file_sha256, make_key, read_meta, writing
from wsibench.assembly import read_benchmark
from wsibench.compute import map_slides
from wsibench.discrimination import balanced_accuracy, macro_auroc, n_without_auroc
from wsibench.errors import CohortError
from wsibench.expression import read_gene_list
from wsibench.probes import offer
from wsibench.probes.base import Fitted, Patients, Probe, Scaler
from wsibench.regression import Job, jobs, load, out_of_fold
from wsibench.scores import RESERVED
from wsibench.sections import Scheme, Target
from wsibench.study import Study
from wsibench.tables import some

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "targets"

COLUMNS = [
    "scheme", "encoder", "probe", "target", "kind", "measure", "score", "ci_low", "ci_high", "chance", "n_patients",
    "n_classes", "n_unknown", "n_skipped", "n_genes", "n_genes_absent",
]  # fmt: skip
"""Of targets.csv, a row a measure.

n_unknown: patients left out, since the target is not known of them or of too few of their fold.
n_skipped: folds (times classes) without a score, since the target is the same for all of the fold.
n_genes, n_genes_absent: genes of the set that are scored, and that the benchmark lacks.
"""


# What is asked for


@dataclass(frozen=True)
class Outcome:
    """A target as the patients have it."""

    name: str
    kind: str
    """``continuous`` or ``categorical``."""
    classes: tuple[str, ...]
    """In the order of the columns of `values`; one that is "" for a continuous target."""
    values: np.ndarray
    """float32 (patients, classes); NaN where unknown."""
    genes: np.ndarray
    """Positions of the gene set in the benchmark; empty for a column."""
    n_genes_absent: int = 0

    @property
    def known(self) -> np.ndarray:
        """Whether it is known of each patient, (patients,)."""
        return np.isfinite(self.values).all(axis=1)


def outcomes(study: Study, benchmark: "AnnData", fold: np.ndarray) -> list[Outcome]:
    """The study's targets, in its order.

    A gene set's values are those of the patients as they are held out: scored with the statistics of
    the patients who train in their fold.

    Raises
    ------
    CohortError
        For a column that is not there, is no number where it should be, or does not vary; for a gene
        set none of which is in the benchmark.
    """
    known = clinical.read_patients(study, benchmark.obs)
    return [
        _of_genes(study, name, target, benchmark, fold) if target.genes is not None else _of_column(name, target, known)
        for name, target in study.targets.items()
    ]


def gene_symbols(study: Study, name: str) -> list[str]:
    """Symbols of a target's gene set."""
    genes = study.targets[name].genes
    if isinstance(genes, str):
        genes = read_gene_list(study.resolve(genes), f"targets.{name}.genes")
    return list(dict.fromkeys(genes))


def set_score(training: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Mean z-score over the genes of a set, with the means and SDs of `training`.

    Parameters
    ----------
    training, expression
        (patients, genes); a gene that is constant in training counts as 0.

    Returns
    -------
    np.ndarray
        float32 (patients of `expression`,).
    """
    return Scaler.fit(training).transform(expression).mean(axis=1)


def _of_genes(study: Study, name: str, target: Target, benchmark: "AnnData", fold: np.ndarray) -> Outcome:
    symbols = gene_symbols(study, name)
    positions = benchmark.var_names.get_indexer(symbols)
    genes = positions[positions >= 0]
    if not len(genes):
        raise CohortError(
            f"targets.{name}: none of its {len(symbols)} genes ({some(symbols)}) is in the benchmark, which has "
            f"{some(benchmark.var_names)}.",
            "Correct the symbols, or let expression.genes take in these genes.",
        )
    expression = np.asarray(benchmark.X[:, genes])
    values = np.empty(len(fold), np.float32)
    for label in np.unique(fold):
        values[fold == label] = set_score(expression[fold != label], expression[fold == label])
    return Outcome(name, "continuous", ("",), values[:, None], genes, len(symbols) - len(genes))


def _of_column(name: str, target: Target, known: pd.DataFrame) -> Outcome:
    text = clinical.column(known, target.column, f"targets.{name}.column")
    if absent := [label for label in target.classes if label not in set(text)]:
        raise CohortError(
            f"targets.{name}: no patient's {target.column} is {some(absent)}.",
            f"It is {some(text[text != ''].value_counts().index, 10)}.",
        )
    text = text.where(text.isin(target.classes), "") if target.classes else text
    numbers = clinical.numbers(text)
    kind = target.kind or ("categorical" if numbers is None or target.classes else "continuous")
    here = text[text != ""]
    if kind == "continuous" and numbers is None:
        odd = here[pd.to_numeric(here, errors="coerce").isna()]
        raise CohortError(
            f"targets.{name} is continuous, but {target.column} of patient {odd.index[0]} is {odd.iloc[0]!r}.",
            "Give numbers, empty where unknown, or `kind: categorical`.",
        )
    different = np.unique(numbers[np.isfinite(numbers)] if kind == "continuous" else here.to_numpy(str))
    if len(different) == 1:
        raise CohortError(
            f"targets.{name}: {target.column} is {here.iloc[0]!r} for all {len(here)} patients it is known of.",
            "There is nothing to tell apart: leave the target out of study.yaml.",
        )
    if kind == "continuous":
        return Outcome(name, kind, ("",), numbers[:, None].astype(np.float32), np.array([], int))
    values = (text.to_numpy(str)[:, None] == different).astype(np.float32)
    values[(text == "").to_numpy()] = np.nan
    return Outcome(name, kind, tuple(different.tolist()), values, np.array([], int))


# Predictions


def artefact(job: Job) -> Artefact:
    """The job's out-of-fold predictions of all targets."""
    study = job.study
    section = {name: target.model_dump(mode="json") for name, target in study.targets.items()}
    files = [study.resolve(each.genes) for each in study.targets.values() if isinstance(each.genes, str)]
    # A list that is missing is an error of `measure`; here it only makes another key.
    lists = [file_sha256(path) if path.is_file() else "" for path in files]
    columns = clinical.contents(study) if any(each.column for each in study.targets.values()) else []
    path = study.targets_parquet(job.scheme, job.encoder, job.probe)
    return Artefact(path, make_key(STAGE, FORMAT, [section, columns], [job.artefact.key, *lists]))


def expected(study: Study) -> list[Artefact]:
    """One table a job, of a study that has targets."""
    return [artefact(job) for job in jobs(study)] if study.targets else []


def measure(study: Study) -> None:
    """Fit and predict what is due.

    Raises
    ------
    CohortError
        As `outcomes`, and when a fold leaves fewer than three patients to train on.
    """
    due = [job for job in jobs(study) if artefact(job).due()] if study.targets else []
    for _, result in map_slides(_measure_job, due, label="06 targets"):
        if isinstance(result, BaseException):
            raise result


@dataclass(frozen=True)
class Rescored:
    """A probe whose gene sets are scored anew with the statistics of whoever it is trained on."""

    probe: Probe
    sets: dict[int, pd.DataFrame]
    """Expression of a set's genes, a row a patient, by the column of y that is its score."""

    @property
    def needs(self) -> str:
        """The probe's."""
        return self.probe.needs

    @property
    def columnwise(self) -> bool:
        """The probe's."""
        return self.probe.columnwise

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int) -> Fitted:
        """Fit the probe; of the gene sets' columns of `y` nothing is used."""
        y = y.copy()
        for column, expression in self.sets.items():
            training = expression.loc[patients.ids].to_numpy()
            y[:, column] = set_score(training, training)
        return self.probe.fit(patients, y, seed=seed)


def predict(job: Job, patients: Patients, benchmark: "AnnData", fold: np.ndarray) -> list[tuple[Outcome, np.ndarray]]:
    """Every target with its out-of-fold predictions, float32 (patients it is known of, classes)."""
    wanted = outcomes(job.study, benchmark, fold)
    together: dict[bytes, list[Outcome]] = {}
    for outcome in wanted:
        together.setdefault(outcome.known.tobytes(), []).append(outcome)
    predicted = {}
    for group in together.values():
        known = np.flatnonzero(group[0].known)
        first = np.cumsum([0, *(len(outcome.classes) for outcome in group)])
        sets = {
            int(column): pd.DataFrame(np.asarray(benchmark.X[known][:, outcome.genes]), patients.ids[known])
            for outcome, column in zip(group, first[:-1], strict=True)
            if len(outcome.genes)
        }
        probe = Rescored(offer(job.probe).make(job.study), sets)
        y = np.concatenate([outcome.values[known] for outcome in group], axis=1)
        with threadpool_limits(1):
            found = out_of_fold(probe, patients.take(known), y, fold[known], seed=job.study.folds.seed).predicted
        predicted |= {
            outcome.name: part for outcome, part in zip(group, np.split(found, first[1:-1], axis=1), strict=True)
        }
    return [(outcome, predicted[outcome.name]) for outcome in wanted]


def _measure_job(job: Job) -> None:
    patients, benchmark, fold = load(job)
    started = time.perf_counter()
    found = predict(job, patients, benchmark, fold)
    facts = {"seconds": round(time.perf_counter() - started, 2), "targets": {}}
    frames = []
    for outcome, predicted in found:
        known = outcome.known
        facts["targets"][outcome.name] = {
            "kind": outcome.kind,
            "n_unknown": int((~known).sum()),
            "n_genes": len(outcome.genes),
            "n_genes_absent": outcome.n_genes_absent,
        }
        for position, label in enumerate(outcome.classes):
            frames.append(pd.DataFrame({
                "target": outcome.name, "class": label, "patient_id": patients.ids[known], "fold": fold[known],
                "measured": outcome.values[known, position], "predicted": predicted[:, position],
            }))  # fmt: skip
    with writing(artefact(job), **facts) as path:
        pd.concat(frames, ignore_index=True).to_parquet(path, index=False)


# Scores


Scored = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""measured, predicted (patients, classes), fold, weights (draws, patients) to (draws,)."""


def spearman(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's ρ within folds, averaged as genes' is, (draws,)."""
    return bootstrap.sampled_means(measured, [predicted], fold, weights, method="reranked")[0, 0]


def r2(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the variance within folds that is explained, (draws,); below 0 for worse than each fold's own mean."""
    error, total = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.unique(fold):
        members = fold == label
        w, y = weights[:, members].astype(np.float64), measured[members, 0].astype(np.float64)
        error += w @ np.square(y - predicted[members, 0])
        # Around the fold's mean in every sample: the mean of a sample lies nearer to it than the truth does, and
        # reflection would take that off the score.
        total += w @ np.square(y - y.mean())
    return 1 - np.divide(error, total, out=np.full(len(total), np.nan), where=total > 0)


MEASURES: dict[str, dict[str, tuple[Scored, tuple[float, float]]]] = {
    "continuous": {"spearman": (spearman, (-1, 1)), "r2": (r2, (-np.inf, 1))},
    "categorical": {"auroc": (macro_auroc, (0, 1)), "balanced_accuracy": (balanced_accuracy, (0, 1))},
}
"""By kind of target, the headline first: how it is scored, and between which values."""


def table(study: Study, scheme: Scheme) -> pd.DataFrame:
    """The rows of one scheme in targets.csv, columns `COLUMNS`.

    Raises
    ------
    CohortError
        For a target that is known of too few patients to be scored.
    """
    if not study.targets:
        return pd.DataFrame(columns=COLUMNS)
    measured_jobs = [job for job in jobs(study) if job.scheme == scheme]
    paths = [artefact(job).path for job in measured_jobs]
    frames = [pd.read_parquet(path) for path in paths]
    facts = read_meta(paths[0])["facts"]["targets"]
    sites = read_benchmark(study).obs["site"] if scheme == "preserved-site" else None
    rows = []
    for name in study.targets:
        parts = [frame[frame["target"] == name] for frame in frames]
        for job, found in _scored(study, name, facts[name], parts, measured_jobs, sites):
            rows.append({"scheme": scheme, "encoder": job.encoder, "probe": job.probe, "target": name, **found})
    return pd.DataFrame(rows, columns=COLUMNS)


def _scored(
    study: Study, name: str, facts: dict, parts: list[pd.DataFrame], of_jobs: list[Job], sites: pd.Series | None
) -> list[tuple[Job, dict]]:
    """A target's rows: every measure of every job, with intervals from the same samples of patients."""
    classes = parts[0]["class"].unique()
    shape = (len(classes), -1)
    one = parts[0].iloc[: len(parts[0]) // len(classes)]
    fold, patient_sites = one["fold"].to_numpy(), None if sites is None else sites[one["patient_id"]].to_numpy(str)
    labels, n = np.unique(fold, return_counts=True)
    counted = np.isin(fold, labels[n > RESERVED])
    too_few = CohortError(
        f"targets.{name} is known of {len(fold)} patients, too few to be scored in {study.folds.n} folds.",
        "Leave the target out of study.yaml, or bring more patients.",
    )
    if not counted.any():
        raise too_few
    measured = parts[0]["measured"].to_numpy().reshape(shape).T[counted]
    fold, patient_sites = fold[counted], None if sites is None else patient_sites[counted]
    settings = study.ranking
    weights = bootstrap.sample_weights(fold, draws=settings.bootstrap, seed=settings.seed, sites=patient_sites)
    widening = 1.0 if sites is None else bootstrap.widening_for_sites(fold, patient_sites)
    categorical = facts["kind"] == "categorical"
    shared = {
        **facts,
        "n_unknown": facts["n_unknown"] + int((~counted).sum()),
        "n_patients": len(fold),
        "n_classes": len(classes) if categorical else 0,
        "n_skipped": n_without_auroc(measured, fold) if categorical else _n_constant(measured[:, 0], fold),
    }
    rows = []
    for measure_name, (score, (lowest, highest)) in MEASURES[facts["kind"]].items():
        chance = {"auroc": 0.5, "balanced_accuracy": 1 / len(classes)}.get(measure_name, 0.0)
        for job, part in zip(of_jobs, parts, strict=True):
            predicted = part["predicted"].to_numpy().reshape(shape).T[counted]
            estimate = score(measured, predicted, fold, np.ones((1, len(fold)), np.float32))[0]
            sampled = score(measured, predicted, fold, weights)
            if not (np.isfinite(estimate) and np.isfinite(sampled).any()):
                raise too_few
            draws = bootstrap.confidence_draws(estimate, sampled, widening=widening)
            # Reflected draws may leave the range of the measure, where the truth cannot be.
            low, high = np.clip(bootstrap.central_interval(draws), lowest, highest)
            found = {"measure": measure_name, "score": estimate, "ci_low": low, "ci_high": high, "chance": chance}
            rows.append((job, {**shared, **found}))
    return rows


def _n_constant(measured: np.ndarray, fold: np.ndarray) -> int:
    return int(sum(np.ptp(measured[fold == label]) == 0 for label in np.unique(fold)))
