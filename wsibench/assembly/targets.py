"""Targets other than genes: gene-set scores and clinical columns, one numeric column each or one per class."""

from typing import Any

import numpy as np
import pandas as pd

from wsibench.cohort import clinical
from wsibench.core import CohortError, Target, some


def target_columns(
    targets: dict[str, Target], gene_sets: dict[str, list[str]], expression: pd.DataFrame, patients: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Turn the targets of study.yaml into numeric columns.

    Parameters
    ----------
    targets
        Section ``targets`` of study.yaml, by name.
    gene_sets
        Gene symbols of those that are gene sets, by name.
    expression
        (patients, genes).
    patients
        Text columns of the same patients; empty where unknown.

    Returns
    -------
    columns
        float32 (patients, columns), NaN where unknown: a continuous target or a gene-set score under the target's
        name, a class of a category as 0 and 1 under ``<target>=<class>``.
    description
        For each column: target, class (empty unless of a category), kind (continuous, category or gene-set), genes
        (those of the set that the expression has) and n_absent (those that it has not).

    Raises
    ------
    CohortError
        For a column that is missing, unknown of all patients, not numeric where it should be, or constant, for a
        class that no patient has, and for a gene set none of which is in the expression.
    """
    columns: dict[str, np.ndarray] = {}
    description: dict[str, dict[str, Any]] = {}
    for name, target in targets.items():
        if name in gene_sets:
            genes, n_absent = _genes_present(name, gene_sets[name], expression.columns)
            values = expression[genes].to_numpy()
            columns[name] = gene_set_score(values, values)
            description[name] = {"target": name, "class": "", "kind": "gene-set", "genes": genes, "n_absent": n_absent}
            continue
        for label, values in _clinical_target(name, target, patients).items():
            column = f"{name}={label}".replace("/", "∕") if label else name  # HDF5 reads a slash as a group
            columns[column] = values
            kind = "category" if label else "continuous"
            description[column] = {"target": name, "class": label, "kind": kind, "genes": [], "n_absent": 0}
    return pd.DataFrame(columns, patients.index, dtype=np.float32), description


def gene_set_score(training: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Mean z-score over the genes of a set, by the mean and SD of the training patients.

    Parameters
    ----------
    training, expression
        (patients, genes); a gene that is constant in training counts as 0.

    Returns
    -------
    np.ndarray
        float32 (patients of `expression`,).
    """
    mean, sd = training.mean(axis=0, dtype=np.float64), training.std(axis=0, dtype=np.float64)
    # Below the resolution of float32 an SD is rounding error, and dividing by it would make it a signal.
    varies = sd > 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
    z = ((expression - mean) / np.where(varies, sd, 1.0)) * varies
    return z.astype(np.float32).mean(axis=1)


def _genes_present(name: str, symbols: list[str], measured: pd.Index) -> tuple[list[str], int]:
    """Genes of a set that were measured, and the number of those that were not."""
    symbols = list(dict.fromkeys(symbols))
    genes = [symbol for symbol in symbols if symbol in measured]
    if not genes:
        raise CohortError(
            f"targets.{name}: 0 of its {len(symbols)} genes ({some(symbols)}) are in the benchmark, which has "
            f"{some(measured)}.",
            "Correct the symbols, or include these genes in expression.genes.",
        )
    return genes, len(symbols) - len(genes)


def _clinical_target(name: str, target: Target, patients: pd.DataFrame) -> dict[str, np.ndarray]:
    """Numeric values by class; under "" for a continuous target."""
    column = target.column or ""
    text = clinical.column(patients, column, f"targets.{name}.column")
    if absent := [label for label in target.classes if label not in set(text)]:
        raise CohortError(
            f"targets.{name}: no patient's {column} is {some(absent)}.",
            f"Its values: {some(text[text != ''].value_counts().index, 10)}.",
        )
    text = text.where(text.isin(target.classes), "") if target.classes else text
    known, numbers = text[text != ""], clinical.numbers(text)
    if target.kind == "continuous" and numbers is None:
        odd = known[pd.to_numeric(known, errors="coerce").isna()]
        raise CohortError(
            f"targets.{name} is continuous, but {column} of patient {odd.index[0]} is {odd.iloc[0]!r}.",
            "Give numbers, empty where unknown, or `kind: categorical`.",
        )
    if target.kind == "categorical" or target.classes:
        numbers = None
    if len(set(known) if numbers is None else set(numbers[np.isfinite(numbers)])) == 1:
        raise CohortError(
            f"targets.{name}: {column} is {known.iloc[0]!r} for all {len(known)} patients of whom it is known.",
            "A constant cannot be predicted: leave the target out of study.yaml.",
        )
    if numbers is not None:
        return {"": numbers}
    missing = np.where(text == "", np.nan, 0.0)
    return {label: missing + (text == label).to_numpy() for label in sorted(set(known))}
