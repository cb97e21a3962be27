"""One feature vector per patient: pooled from tiles, read from a table, or a control that needs no slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.cohort import clinical
from wsibench.core import CohortError, FeatureTable, progress, read_matrix
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
