"""Targets other than genes: gene-set scores, subtypes, receptors, whatever is known of patients.

Every encoder and control is read by the probes of the study, on its folds, as for genes.  A continuous
target is regressed as it is; a categorical one as an indicator a class.  Who is not known is left out,
of training and of scoring; targets that are known of the same patients are fitted together, as genes are.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.cohort import clinical
from wsibench.cohort.expression import read_gene_list
from wsibench.core import Artefact, CohortError, Study, Target, file_sha256, make_key, parallel_map, some, writing
from wsibench.regression.fit import Job, jobs, load, out_of_fold
from wsibench.regression.probes import offer
from wsibench.regression.probes.base import Fitted, Patients, Probe, Scaler

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 2
STAGE = "targets"

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
    parallel_map(_measure_job, due, label="06 targets")


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


Predicted = tuple[Outcome, np.ndarray, np.ndarray]
"""A target, its out-of-fold predictions, float32 (patients it is known of, classes), and the noise in them."""


def predict(job: Job, patients: Patients, benchmark: "AnnData", fold: np.ndarray) -> list[Predicted]:
    """Every target, predicted out of fold, with the noise that `wsibench.regression.split_half` finds in it."""
    wanted = outcomes(job.study, benchmark, fold)
    together: dict[bytes, list[Outcome]] = {}
    for outcome in wanted:
        together.setdefault(outcome.known.tobytes(), []).append(outcome)
    predicted, noise = {}, {}
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
            seed = job.study.folds.seed
            found = out_of_fold(probe, patients.take(known), y, fold[known], seed=seed, with_halves=True)
        names = [outcome.name for outcome in group]
        predicted |= zip(names, np.split(found.predicted, first[1:-1], axis=1), strict=True)
        noise |= zip(names, np.split(found.noise, first[1:-1], axis=1), strict=True)
    return [(outcome, predicted[outcome.name], noise[outcome.name]) for outcome in wanted]


def _measure_job(job: Job) -> None:
    patients, benchmark, fold = load(job)
    started = time.perf_counter()
    found = predict(job, patients, benchmark, fold)
    facts = {"seconds": round(time.perf_counter() - started, 2), "targets": {}}
    frames = []
    for outcome, predicted, noise in found:
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
                "noise": noise[:, position],
            }))  # fmt: skip
    with writing(artefact(job), **facts) as path:
        pd.concat(frames, ignore_index=True).to_parquet(path, index=False)
