"""One vector a patient: pooled from tiles, taken from a table, or known without looking at a slide."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from wsibench.cohort.clinical import covariates, one_hot
from wsibench.cohort.sample_table import check_not_output
from wsibench.core import CohortError, SimulatedCohort, Study, digest, key_at, progress, read_matrix, some
from wsibench.embedding import read_features


@dataclass
class Vectors:
    """An encoder's, a features table's or a control's features, a row a patient."""

    values: pd.DataFrame
    """float32, indexed by patient_id."""
    contents: str = ""
    """Digest of what the values were pooled from, where that is at hand; else empty."""
    n_tiles: pd.Series = field(default_factory=lambda: pd.Series(dtype=np.int64))
    """Tiles a slide, indexed by slide_id; empty for features that no tile was looked at for."""


def pooled(study: Study, encoder: str, slides: pd.DataFrame) -> Vectors:
    """Mean over all tiles of all of a patient's slides, so that a slide weighs by its tissue.

    Parameters
    ----------
    encoder
        Whose tile features are pooled.
    slides
        The slides to pool: slide_id, patient_id.

    Raises
    ------
    CohortError
        When a feature is not a finite number.
    """
    sums: dict[str, np.ndarray] = {}
    tiles: dict[str, int] = {}
    keys = []
    rows = zip(slides["patient_id"], slides["slide_id"], strict=True)
    for patient, slide in progress(rows, total=len(slides), label=f"04 pooling {encoder}"):
        path = study.features_h5(encoder, slide)
        features, _ = read_features(path)
        total = features.sum(axis=0, dtype=np.float64)  # (n_tiles, dim) -> (dim,)
        if not np.isfinite(total).all():
            raise CohortError(
                f"{path} holds features that are not finite numbers.", "Delete it and run 03_embedding again."
            )
        sums[patient] = sums.get(patient, 0) + total
        tiles[slide] = len(features)
        keys.append([slide, key_at(path)])
    n_tiles = pd.Series(tiles, dtype=np.int64)
    counts = slides["slide_id"].map(n_tiles).groupby(slides["patient_id"]).sum()
    means = {patient: total / counts[patient] for patient, total in sums.items() if counts[patient]}
    values = pd.DataFrame.from_dict(means, orient="index", dtype=np.float32)
    return Vectors(values, digest(keys), n_tiles)


def from_table(study: Study, name: str, rows: pd.DataFrame) -> Vectors:
    """A features table's vectors, averaged over the slides of a patient where it has one a slide.

    Parameters
    ----------
    name
        The table's name under ``features`` in study.yaml.
    rows
        The cohort's rows: slide_id, patient_id.

    Raises
    ------
    CohortError
        When the table cannot be used, has another width than the study insists on, or shares no id
        with the cohort.
    """
    table = study.features[name]
    path = study.resolve(table.table)
    check_not_output(study, path)
    ids = rows[table.id][rows[table.id] != ""].unique()
    if not len(ids):
        raise CohortError(f"features.{name} has a vector a slide, but the cohort names no slides.", "Use patient_id.")
    values, _ = read_matrix(path, id_column=table.id, ids=ids)
    if table.width is not None and values.shape[1] != table.width:
        raise CohortError(
            f"features.{name}: {path} has {values.shape[1]} feature columns, study.yaml wants {table.width}.",
            "Give the table that the study was written for, or correct `width`.",
        )
    known = values.index.intersection(ids)
    if not len(known):
        raise CohortError(
            f"features.{name} shares no {table.id} with the cohort: the cohort has {some(ids)}; {path} has "
            f"{some(values.index)}.",
            f"Give both tables the same ids, or another `id` than {table.id}.",
        )
    values = values.loc[known].dropna(how="all").astype(np.float64)
    if table.id == "slide_id":
        owner = rows.set_index("slide_id")["patient_id"]
        values = values.groupby(owner.loc[values.index].to_numpy()).mean()
    return Vectors(values.astype(np.float32))


def site(study: Study, rows: pd.DataFrame) -> Vectors:
    """One-hot tissue source site: how much can be told from where a patient was treated."""
    return _one_hot(rows, "site", "site")


def subtype_oracle(study: Study, rows: pd.DataFrame) -> Vectors:
    """One-hot molecular subtype: what a perfect classifier of subtypes would tell of genes, and no more.

    An oracle, since subtypes such as PAM50 are themselves computed from the expression.
    """
    return _one_hot(rows, "subtype", "subtype-oracle")


def _one_hot(rows: pd.DataFrame, column: str, control: str) -> Vectors:
    known = _patients(rows)[column]
    if (known == "").all():
        raise CohortError(
            f"The control `{control}` is asked for, but no patient has a {column}.",
            f"Give a column `{column}` in the cohort's table, or `cohort: {{columns: {{{column}: theirs}}}}`.",
        )
    return Vectors(one_hot(known))


def clinical(study: Study, rows: pd.DataFrame) -> Vectors:
    """The study's clinical covariates: how much can be told from what is in the patient's record."""
    return Vectors(covariates(study, _patients(rows)))


def _patients(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("patient_id").set_index("patient_id")


def oracle(study: Study, rows: pd.DataFrame) -> Vectors:
    """The latents that a simulated cohort was drawn from: the best that any encoder could do."""
    if not isinstance(study.cohort, SimulatedCohort):
        raise CohortError("The control `oracle` is the truth of a simulated cohort; this cohort is none.")
    latents = pd.read_csv(study.truth / "latents.csv", dtype={"patient_id": str}).set_index("patient_id")
    return Vectors(latents.drop(columns="site").astype(np.float32))


CONTROLS = {"site": site, "clinical": clinical, "subtype-oracle": subtype_oracle, "oracle": oracle}
"""Controls that are one vector a patient."""
