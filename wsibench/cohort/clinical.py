"""Read clinical tables, and join them with the site and subtype that the cohort itself gives.

``cohort: {clinical: …}`` of a GDC cohort names an export of TCGA's clinical data (cBioPortal's, TCGAbiolinks'
or the GDC's), whose columns are recognised by name (``tcga_clinical.yaml``); ``clinical: {table: …}`` of any
study names a table whose columns are used as they are.
"""

import gzip
import io
import re
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from wsibench.cohort.sample_table import TCGA_BARCODE, rename_columns
from wsibench.core import CohortError, GdcCohort, Study, file_sha256, read_rows, some

# Fields read from TCGA's exports, in the order of the tables.
FIELDS = ("subtype", "stage", "age_years", "er", "pr", "her2")
# Cells without information, in lower case.
UNKNOWN = {
    "", "--", "na", "nan", "n/a", "unknown", "not reported", "not available", "not evaluated", "not applicable",
}  # fmt: skip


@cache
def _tcga() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "tcga_clinical.yaml").read_text())


# The study's clinical data


def read_patients(study: Study, patients: pd.DataFrame) -> pd.DataFrame:
    """Read all columns that are known of patients.

    Parameters
    ----------
    study
        Names the clinical tables.
    patients
        Indexed by patient_id, with columns site and subtype.

    Returns
    -------
    DataFrame
        The same index; site, subtype and every other column, all text, "" where unknown.

    Raises
    ------
    CohortError
        For a table that cannot be read, has no or several rows of these patients, contradicts the cohort's
        site or subtype, or shares a column with another table.
    """
    known = patients[["site", "subtype"]].astype(object)
    if isinstance(study.cohort, GdcCohort) and study.cohort.clinical:
        path = study.resolve(study.cohort.clinical)
        known = join_clinical(known, read_tcga_clinical(path), path)
    if study.clinical.table:
        path = study.resolve(study.clinical.table)
        known = join_clinical(known, read_clinical(path, study.clinical.columns), path)
    return known


def contents(study: Study) -> list[Any]:
    """Digest the study's clinical tables for keys; a missing table only makes another key."""
    given = [study.clinical.table, getattr(study.cohort, "clinical", None)]
    paths = [study.resolve(text) for text in given if text]
    return [study.clinical.columns, *(file_sha256(path) if path.is_file() else "" for path in paths)]


# Tables


def read_clinical(path: Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a clinical table (CSV) with a column patient_id and columns of any names.

    Parameters
    ----------
    path
        The table.
    columns
        Columns to rename: our names, by theirs being the values, as in ``{patient_id: case}``.

    Returns
    -------
    DataFrame
        Indexed by patient_id, all text, "" where unknown.

    Raises
    ------
    CohortError
        When it cannot be read or lacks a column.
    """
    table = rename_columns(path, read_rows(path), columns or {}, required=["patient_id"])
    ids = pd.Index(table["patient_id"].str.strip(), name="patient_id")
    return table.drop(columns="patient_id").map(_known).set_axis(ids, axis=0)


def read_tcga_clinical(path: Path) -> pd.DataFrame:
    """Read an export of TCGA's clinical data: patients or samples, CSV or TSV, gzipped or not.

    Lines that begin with ``#`` (cBioPortal's data_clinical_*.txt) are skipped.  Of several rows of a
    patient the first one with a value is used, primary tumours before others.

    Returns
    -------
    DataFrame
        Indexed by patient_id (first 12 characters of a barcode); all text, "" where unknown: subtype
        (LumA, LumB, Basal, Her2, Normal, or as written), stage (I, II, III, IV), age_years, er, pr, her2
        (positive, negative, or as written); a field that the table lacks is "" throughout.
        ``attrs["columns"]``: the column that each field was read from.

    Raises
    ------
    CohortError
        When the table cannot be read, or names no TCGA patients.
    """
    table = _read_export(path)
    chosen = _choose_columns(table)
    if "patient_id" not in chosen:
        raise CohortError(
            f"{path} has no column of TCGA patients or samples; it has {', '.join(table.columns[:12])}.",
            f"Call it one of {', '.join(_tcga()['columns']['patient_id'])}.",
        )
    barcodes = _barcodes(table[chosen.pop("patient_id")])
    fields = pd.DataFrame({"patient_id": barcodes.str[:12], "primary": barcodes.str[13:15].isin(["", "01"])})
    for field, column in chosen.items():
        fields[field] = [_normalise(field, _known(value)) for value in table[column]]
    if "age_days" in fields and "age_years" not in fields:
        fields["age_years"] = [f"{float(days) / 365.25:.1f}" if days else "" for days in fields["age_days"]]
        chosen["age_years"] = chosen["age_days"]
    fields = fields[barcodes.str.match(TCGA_BARCODE)].sort_values("primary", ascending=False, kind="stable")
    # "" has to count as missing for the first known value to be found.
    merged = fields.replace("", pd.NA).groupby("patient_id").first().reindex(columns=list(FIELDS)).fillna("")
    merged.attrs["columns"] = {field: chosen[field] for field in FIELDS if field in chosen}
    return merged


def join_clinical(known: pd.DataFrame, table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the columns of a clinical table to those that are known already.

    Parameters
    ----------
    known
        Indexed by patient_id, text, "" where unknown.
    table
        Likewise, of any patients; a column of a name that `known` has may only repeat it.
    path
        The table's file, for errors.

    Returns
    -------
    DataFrame
        The index of `known`, its columns and the new ones.

    Raises
    ------
    CohortError
        When the table has several rows of a patient, none of these patients, or contradicts `known`.
    """
    ids = table.index
    if not ids.isin(known.index).any():
        raise CohortError(
            f"{path} shares no patient with the cohort: the cohort has {some(known.index)}; the table has {some(ids)}.",
            "Give both the same patient ids (a TCGA patient is its first 12 characters).",
        )
    repeated = ids[ids.duplicated() & ids.isin(known.index)].unique()
    if len(repeated):
        raise CohortError(f"{path} has more than one row for patient {some(repeated)}.", "Give one row a patient.")
    table = table[ids.isin(known.index)].reindex(known.index, fill_value="")
    for name in known.columns.intersection(table.columns):
        other = known.index[(table[name] != "") & (table[name] != known[name])]
        if len(other):
            before = repr(known[name][other[0]]) if known[name][other[0]] else "nothing"
            raise CohortError(
                f"{path} gives patient {other[0]} {name} {table[name][other[0]]!r}, where the cohort says {before} "
                f"({len(other)} such patients).",
                f"Correct one of them, or rename the column: `clinical: {{columns: {{my_{name}: {name}}}}}`.",
            )
    return known.join(table.drop(columns=known.columns, errors="ignore"))


# Columns


def column(known: pd.DataFrame, name: str, where: str) -> pd.Series:
    """Take one column of `read_patients`.

    Parameters
    ----------
    known
        From `read_patients`.
    name
        The column.
    where
        The setting of study.yaml that names it, for errors.

    Returns
    -------
    Series
        Text, "" where unknown.

    Raises
    ------
    CohortError
        When there is no such column, or no patient's value is known.
    """
    if name not in known or (known[name] == "").all():
        raise CohortError(
            f"{where} names {name!r}, which is known of none of the {len(known)} patients.",
            f"There are {', '.join(known.columns)}; `clinical: {{table: …}}` in study.yaml adds others.",
        )
    return known[name]


def numbers(values: pd.Series) -> np.ndarray | None:
    """Convert a column to float64, NaN where unknown; None when a known value is no finite number."""
    found = pd.to_numeric(values.where(values != ""), errors="coerce").to_numpy(np.float64)
    return found if np.isfinite(found[(values != "").to_numpy()]).all() else None


def one_hot(values: pd.Series) -> pd.DataFrame:
    """Encode categories as indicators, float32; all are 0 where the category is unknown."""
    return pd.get_dummies(values, dtype=np.float32).drop(columns="", errors="ignore")


def covariates(known: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Encode columns as numbers, float32, with nothing fitted to any patient.

    A number stays as it is; where it is unknown it is 0, and a column ``<name> unknown`` says so.
    Categories become indicators.

    Parameters
    ----------
    known
        From `read_patients`.
    names
        Columns to encode (``clinical.covariates``).

    Returns
    -------
    DataFrame
        Indexed by patient_id.

    Raises
    ------
    CohortError
        When there are no names, or one that is not known.
    """
    if not names:
        raise CohortError(
            "The control `clinical` is asked for, but the study names no covariates.",
            f"Add `clinical: {{covariates: […]}}` to study.yaml; there are {', '.join(known.columns)}.",
        )
    parts = []
    for name in names:
        values = column(known, name, "clinical.covariates")
        as_numbers = numbers(values)
        if as_numbers is None:
            parts.append(one_hot(values).add_prefix(f"{name}: "))
            continue
        parts.append(pd.DataFrame({name: np.nan_to_num(as_numbers)}, known.index))
        if np.isnan(as_numbers).any():
            parts.append(pd.DataFrame({f"{name} unknown": np.isnan(as_numbers)}, known.index))
    return pd.concat(parts, axis=1).astype(np.float32)


# Cells


def _known(cell: str) -> str:
    """Strip the brackets and quotes of TCGA's exports; "" for a cell without information."""
    bare = cell.strip("[]\"' ")
    return "" if bare.lower() in UNKNOWN else bare


def _read_export(path: Path) -> pd.DataFrame:
    separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            text = "".join(dropwhile(lambda line: line.startswith("#"), file))
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, OSError, EOFError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(
            f"The clinical table {path} cannot be read: {error}.", "Give a .csv, or a tab-separated .tsv or .txt."
        ) from None


def _choose_columns(table: pd.DataFrame) -> dict[str, str]:
    """Find the table's column for each field that it has."""
    names = {re.sub(r"\W+", "_", name.strip().lower()).strip("_"): name for name in reversed(table.columns)}
    found = {field: [names[each] for each in known if each in names] for field, known in _tcga()["columns"].items()}
    # A sample's barcode says whether it is a primary tumour; but sample_id may also be a UUID.
    found["patient_id"] = [name for name in found["patient_id"] if _barcodes(table[name]).str.match(TCGA_BARCODE).any()]
    return {field: columns[0] for field, columns in found.items() if columns}


def _barcodes(column: pd.Series) -> pd.Series:
    # R turns hyphens in names into points.
    return column.str.strip().str.upper().str.replace(".", "-")


def _normalise(field: str, value: str) -> str:
    """Write a value of a TCGA export in one way; "" where it is unknown."""
    if value.lower() in ("", "none"):
        return ""
    if field == "subtype":
        bare = re.sub(r"^BRCA[._]", "", value)
        return _tcga()["pam50"].get(re.sub(r"[^a-z0-9]", "", bare.lower()), bare)
    if field == "stage":
        stage = re.fullmatch(r"(?i)(?:stage[ _]*)?(IV|I{1,3})[ABC]?\d?", value)
        return stage[1].upper() if stage else value
    if field in ("age_years", "age_days"):
        return value if re.fullmatch(r"\d+(\.\d+)?", value) else ""
    return value.lower() if value.lower() in ("positive", "negative") else value
