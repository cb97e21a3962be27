"""What is known of patients besides their slides and their expression, one table of text.

``site`` and ``subtype`` are the cohort's own.  ``cohort: {clinical: …}`` of a GDC cohort adds the fields
that `wsibench.cohort.gdc.clinical` recognises in TCGA's exports; ``clinical: {table: …}`` of any study adds
whatever columns its table has, as they stand.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.cohort.gdc.clinical import UNKNOWN
from wsibench.cohort.sample_table import check_not_output
from wsibench.core import CohortError, GdcCohort, Study, file_sha256, read_rows, some

OWN = ("site", "subtype")
"""Columns that the cohort knows by itself."""
MISSING = UNKNOWN - {"none"}
"""Cells that say nothing, in lower case; ``none`` may be a finding, as of metastases."""


def read_patients(study: Study, patients: pd.DataFrame) -> pd.DataFrame:
    """All that is known of patients.

    Parameters
    ----------
    patients
        Indexed by patient_id: site, subtype.

    Returns
    -------
    DataFrame
        The same index; site, subtype and every other column there is, all text, "" unknown.

    Raises
    ------
    CohortError
        For a table that cannot be read, has no or several rows of these patients, contradicts the cohort's
        site or subtype, or shares a column with another table.
    """
    known = patients[list(OWN)].astype(object)
    for path in tables(study):
        table = _read(study, path, known.index)
        for name in known.columns.intersection(table.columns):
            _check_repeats(path, name, known[name], table[name])
        known = known.join(table.drop(columns=known.columns, errors="ignore"))
    return known


def tables(study: Study) -> list[Path]:
    """Tables beside the cohort's own: what the GDC cohort's became, and the study's."""
    paths = []
    if isinstance(study.cohort, GdcCohort) and study.cohort.clinical:
        paths.append(study.gdc / "clinical.csv")
    if study.clinical.table:
        paths.append(study.resolve(study.clinical.table))
    return paths


def contents(study: Study) -> list:
    """What decides the tables' columns, for keys: JSON-able.  A table that is missing only makes another key."""
    return [study.clinical.columns, *(file_sha256(path) if path.is_file() else "" for path in tables(study))]


def column(known: pd.DataFrame, name: str, where: str) -> pd.Series:
    """One column of `read_patients`.

    Parameters
    ----------
    where
        What of study.yaml names it.

    Raises
    ------
    CohortError
        When there is no such column, saying which there are, and when no patient's value is known.
    """
    if name not in known:
        raise CohortError(
            f"{where} names {name!r}, which is no column that is known of patients.",
            f"There are {', '.join(known.columns)}; `clinical: {{table: …}}` in study.yaml adds others.",
        )
    if (known[name] == "").all():
        raise CohortError(
            f"{where} names {name!r}, which is known of none of the {len(known)} patients.",
            "Fill the column, or leave it out of study.yaml.",
        )
    return known[name]


def numbers(values: pd.Series) -> np.ndarray | None:
    """A column as float64, NaN where unknown; None when a known value is no finite number."""
    found = pd.to_numeric(values.where(values != ""), errors="coerce").to_numpy(np.float64)
    return found if np.isfinite(found[(values != "").to_numpy()]).all() else None


def one_hot(values: pd.Series) -> pd.DataFrame:
    """An indicator a category, float32; 0 in all of them where unknown."""
    return pd.get_dummies(values, dtype=np.float32).drop(columns="", errors="ignore")


def covariates(study: Study, patients: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``clinical.covariates`` as numbers, float32, with nothing fitted to any patient.

    A number stays as it is; where it is unknown it is 0, and a column ``<name> unknown`` says so.
    Categories become indicators.

    Parameters
    ----------
    patients
        As of `read_patients`.

    Raises
    ------
    CohortError
        When the study names no covariates, or one that is not known; and as `read_patients`.
    """
    known = read_patients(study, patients)
    if not study.clinical.covariates:
        raise CohortError(
            "The control `clinical` is asked for, but the study names no covariates.",
            f"Add `clinical: {{covariates: […]}}` to study.yaml; there are {', '.join(known.columns)}.",
        )
    parts = []
    for name in study.clinical.covariates:
        values = column(known, name, "clinical.covariates")
        as_numbers = numbers(values)
        if as_numbers is None:
            parts.append(one_hot(values).add_prefix(f"{name}: "))
            continue
        part = pd.DataFrame({name: np.nan_to_num(as_numbers)}, known.index)
        if np.isnan(as_numbers).any():
            part[f"{name} unknown"] = np.isnan(as_numbers)
        parts.append(part)
    return pd.concat(parts, axis=1).astype(np.float32)


def _read(study: Study, path: Path, patients: pd.Index) -> pd.DataFrame:
    """A table's rows of these patients, indexed like them; "" for those whom it does not have."""
    check_not_output(study, path)
    table = read_rows(path)
    if path.parent != study.gdc:
        table = _renamed(path, table, study.clinical.columns)
    if "patient_id" not in table:
        raise CohortError(
            f"{path} lacks the column patient_id; it has {', '.join(table.columns)}.",
            "`clinical: {columns: {patient_id: theirs}}` in study.yaml renames.",
        )
    ids = table["patient_id"].str.strip()
    twice = ids[ids.duplicated() & ids.isin(patients)].unique()
    if len(twice):
        raise CohortError(f"{path} has more than one row for patient {some(twice)}.", "Give one row a patient.")
    if not ids.isin(patients).any():
        raise CohortError(
            f"{path} shares no patient with the cohort: the cohort has {some(patients)}; the table has {some(ids)}.",
            "Give both the same patient ids (a TCGA patient is its first 12 characters).",
        )
    table = table.drop(columns="patient_id").map(_known).set_axis(pd.Index(ids), axis=0)
    return table[table.index.isin(patients)].reindex(patients, fill_value="")


def _renamed(path: Path, table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    absent = [theirs for theirs in columns.values() if theirs not in table]
    if absent:
        raise CohortError(
            f"clinical.columns maps to {some(absent)}, which {path} does not have.",
            f"Its columns: {', '.join(table.columns)}.",
        )
    renamed = {theirs: ours for ours, theirs in columns.items()}
    replaced = [ours for ours in columns if ours in table and ours not in renamed]
    return table.drop(columns=replaced).rename(columns=renamed)


def _known(cell: str) -> str:
    """A cell without the brackets and quotes of TCGA's exports, "" where it says nothing."""
    bare = cell.strip("[]\"' ")
    return "" if bare.lower() in MISSING else bare


def _check_repeats(path: Path, name: str, known: pd.Series, given: pd.Series) -> None:
    """A column of a name that is taken may only repeat what is known already."""
    other = known.index[(given != "") & (given != known)]
    if len(other):
        before = repr(known[other[0]]) if known[other[0]] else "nothing"
        raise CohortError(
            f"{path} gives patient {other[0]} {name} {given[other[0]]!r}, where the cohort says {before} "
            f"({len(other)} such patients).",
            f"Correct one of them, or give the column another name: `clinical: {{columns: {{my_{name}: {name}}}}}`.",
        )
