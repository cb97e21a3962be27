"""One feature vector per patient, pooled, read from a table or a control; bags of tiles; targets besides genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsibench.cohort import clinical
from wsibench.core import CohortError, FeatureTable, Target, progress, read_matrix, some
from wsibench.embedding import read_coords, read_features

IN_MEMORY = 2 << 30  # bytes of tile features; the bags of larger cohorts are read one by one


def mean_features(slides: pd.DataFrame, *, label: str = "pooling") -> tuple[pd.DataFrame, pd.Series]:
    """Average tile features over all tiles of all slides of each patient.

    Every tile has the same weight, so that a slide counts by its area of tissue.  Sums are float64, since
    float16 would overflow.

    Parameters
    ----------
    slides
        One row per slide: slide_id, patient_id, and path of the slide's feature file.
    label
        Label of the progress line.

    Returns
    -------
    features
        float32 (patients, dim), indexed by patient_id; without patients whose slides have no tile.
    n_tiles
        int64, indexed by slide_id.

    Raises
    ------
    CohortError
        When a feature is not a finite number.
    """
    sums: dict[str, np.ndarray] = {}
    n_tiles: dict[str, int] = {}
    rows = zip(slides["patient_id"], slides["slide_id"], slides["path"], strict=True)
    for patient, slide, path in progress(rows, total=len(slides), label=label):
        features, _ = read_features(path)
        total = features.sum(axis=0, dtype=np.float64)  # (n_tiles, dim) -> (dim,)
        if not np.isfinite(total).all():
            raise CohortError(
                f"{path} holds features that are not finite numbers.", "Delete it and run 03_embedding again."
            )
        sums[patient] = sums.get(patient, 0) + total
        n_tiles[slide] = len(features)
    tiles = pd.Series(n_tiles, dtype=np.int64)
    counts = slides["slide_id"].map(tiles).groupby(slides["patient_id"]).sum()
    means = {patient: total / counts[patient] for patient, total in sums.items() if counts[patient]}
    return pd.DataFrame.from_dict(means, orient="index", dtype=np.float32), tiles


def table_features(path: Path, slides: pd.DataFrame, settings: FeatureTable, name: str) -> pd.DataFrame:
    """Read a table of features, averaged over the slides of a patient where it has one row per slide.

    Parameters
    ----------
    path
        CSV, Parquet or h5ad.
    slides
        The cohort: slide_id, patient_id.
    settings
        Its entry under ``features`` in study.yaml.
    name
        Its name there, for messages.

    Returns
    -------
    DataFrame
        float32 (patients, columns), indexed by patient_id; NaN where the table has no value.

    Raises
    ------
    CohortError
        When the table cannot be read, has another width than study.yaml states, or shares no id with the cohort.
    """
    ids = slides[settings.id][slides[settings.id] != ""].unique()
    if not len(ids):
        raise CohortError(f"features.{name} has one row per slide, but the cohort has no slides.", "Use patient_id.")
    values, _ = read_matrix(path, id_column=settings.id, ids=ids)
    if settings.width is not None and values.shape[1] != settings.width:
        raise CohortError(
            f"features.{name}: {path} has {values.shape[1]} feature columns, study.yaml states {settings.width}.",
            "Give the table that the study was written for, or correct `width`.",
        )
    values = values.loc[values.index.intersection(ids)].dropna(how="all").astype(np.float64)
    if settings.id == "slide_id":
        patients = slides.set_index("slide_id")["patient_id"]
        values = values.groupby(patients.loc[values.index].to_numpy()).mean()
    return values.astype(np.float32)


def one_hot_control(patients: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """One-hot encode the site (site signature) or the subtype (upper bound of a subtype classifier) of patients.

    Parameters
    ----------
    patients
        Indexed by patient_id, with text columns; empty where unknown.
    column
        ``site`` or ``subtype``.
    name
        Name of the control, for messages.

    Raises
    ------
    CohortError
        When the column is unknown of all patients.
    """
    if (patients[column] == "").all():
        raise CohortError(
            f"The control `{name}` is asked for, but no patient has a {column}.",
            f"Add a column `{column}` to the cohort's table, or map one: "
            f"`cohort: {{columns: {{{column}: your_column}}}}`.",
        )
    return clinical.one_hot(patients[column])


# Targets other than genes


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


# Bags of tiles


def feature_files(obs: pd.DataFrame, folders: Sequence[Path]) -> list[list[Path]]:
    """Locate the tile features of patients.

    Parameters
    ----------
    obs
        Patients of a benchmark: slide_ids and, in external validation, external (−1 trained on, 0 tested).
    folders
        An encoder's folder of features; in external validation those of the training and of the test study.

    Returns
    -------
    list of list of Path
        One file per slide, for each patient.
    """
    tested = obs["external"] + 1 if len(folders) > 1 else np.zeros(len(obs), int)
    ids = zip(tested, obs["slide_ids"], strict=True)
    return [[folders[study] / f"{slide}.h5" for slide in slides.split(";")] for study, slides in ids]


@dataclass(frozen=True)
class StoredBags(Sequence[np.ndarray]):
    """Bags of tile features that are read from disk when they are indexed."""

    files: list[list[Path]]  # of each patient

    def __len__(self) -> int:
        """Count the patients."""
        return len(self.files)

    def __getitem__(self, position: int) -> np.ndarray:  # type: ignore[override]
        """Read the float16 (tiles, dim) features of one patient."""
        return np.concatenate([read_features(path)[0] for path in self.files[position]])


def read_bags(obs: pd.DataFrame, folders: Sequence[Path]) -> Sequence[np.ndarray]:
    """Read all tiles of patients: one float16 (tiles, dim) array per patient, slide after slide.

    Bags of more than 2 GiB together are read from disk when they are indexed.

    Parameters
    ----------
    obs, folders
        As in `feature_files`.
    """
    bags = StoredBags(feature_files(obs, folders))
    size = sum(path.stat().st_size for files in bags.files for path in files)
    return bags if size > IN_MEMORY else list(bags)


def bag_index(obs: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """Positions of the tiles of `read_bags`, in the same order: patient_id, slide_id, x, y (level-0 px).

    Parameters
    ----------
    obs, folders
        As in `feature_files`.
    """
    parts = []
    for patient, files in zip(obs.index, feature_files(obs, folders), strict=True):
        for path in files:
            xy = read_coords(path)
            parts.append(pd.DataFrame({"patient_id": patient, "slide_id": path.stem, "x": xy[:, 0], "y": xy[:, 1]}))
    return pd.concat(parts, ignore_index=True)
