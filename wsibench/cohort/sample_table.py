"""Read and check a sample table: the slides or patients of a cohort, one row each."""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from wsibench.core import CohortError, read_rows, some

SLIDES_COLUMNS = ("slide_id", "patient_id", "path", "site", "subtype", "mpp")
"""Columns of a table of slides; the first three are required."""
PATIENTS_COLUMNS = ("patient_id", "site", "subtype", "slide_ids")
"""Columns of a table of patients; the first is required, slide_ids are separated by semicolons."""
SAMPLE_COLUMNS = ("slide_id", "patient_id", "site", "subtype", "path", "mpp")
"""Columns of a table that has been read, whichever kind it was."""
SAFE_ID = re.compile(r"\w(?:[\w.+=@-]{0,198}[\w+=@-])?")
"""Slide ids become file names."""
TCGA_BARCODE = re.compile(r"TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4}\b")
"""Characters 6–7 of a TCGA barcode are the tissue source site."""


def read_sample_table(
    path: Path,
    kind: Literal["slides", "patients"] = "slides",
    columns: dict[str, str] | None = None,
    folder: Path | None = None,
) -> pd.DataFrame:
    """Read and check a table of slides, or of patients.

    Without a column ``site`` the site of a TCGA patient is characters 6–7 of its barcode.

    Parameters
    ----------
    path
        The table, a CSV.
    kind
        ``slides``: one row a slide, with slide_id, patient_id, path, and optionally site, subtype, mpp
        (µm per pixel).  ``patients``: one row a patient, with patient_id, and optionally site, subtype,
        slide_ids.
    columns
        Names in the table, by ours, such as ``{"subtype": "pam50"}``.
    folder
        Folder that relative slide paths start from; the table's own unless given.

    Returns
    -------
    DataFrame
        SAMPLE_COLUMNS, all text, empty where unknown, sorted by patient and slide; one row a slide, or one a
        patient of a table that names no slides.  `path` is absolute.  ``attrs["unused_columns"]``: columns
        of the table that were not read.

    Raises
    ------
    CohortError
        For missing columns, ids that are empty, listed twice or no file names, one file of several slides,
        and a patient of several sites or subtypes.
    """
    with_slides = kind == "slides"
    allowed = SLIDES_COLUMNS if with_slides else PATIENTS_COLUMNS
    table = rename_columns(path, read_rows(path), columns or {}, "cohort.columns", allowed)
    required = allowed[: 3 if with_slides else 1]
    lacking = [name for name in required if name not in table]
    if lacking:
        raise CohortError(
            f"{path} lacks the column {', '.join(lacking)}; it has {', '.join(table.columns)}.",
            f"Allowed columns: {', '.join(allowed)}; `cohort: {{columns: {{ours: theirs}}}}` in study.yaml renames.",
        )
    unused = [name for name in table if name not in allowed]
    rows = table.drop(columns=unused)
    if not with_slides:
        _refuse(path, rows, rows["patient_id"].duplicated(), "more than one row for patient {patient_id}")
    if "slide_ids" in rows:
        rows["slide_id"] = rows["slide_ids"].str.strip("; ").str.split(r"\s*;\s*", regex=True)
        rows = rows.explode("slide_id")
    if "site" not in rows:
        rows["site"] = rows["patient_id"].str.extract(TCGA_BARCODE)["site"].fillna("")
    rows = rows.reindex(columns=list(SAMPLE_COLUMNS), fill_value="")
    _check_ids(path, rows, with_slides)
    for column in ("site", "subtype"):
        rows[column] = _one_per_patient(path, rows, column)
    if with_slides:
        _check_paths(path, rows)
        rows["path"] = [str(((folder or path.parent) / each).resolve()) for each in rows["path"]]
        repeated = rows["path"].duplicated(keep=False) & (rows["path"] == _first_repeated(rows["path"]))
        _refuse(path, rows, repeated, "several slides have the file {path}", "Give each file one row.")
    mpp = pd.to_numeric(rows["mpp"].where(rows["mpp"] != "", "1"), errors="coerce")
    _refuse(
        path,
        rows,
        ~((mpp > 0) & (mpp < 1000)),
        "slide {slide_id} has mpp {mpp!r}, which is not µm per pixel",
        "Give something like 0.25, or leave it empty to use the resolution that the slide states.",
    )
    rows = rows.sort_values(["patient_id", "slide_id"], ignore_index=True)
    rows.attrs["unused_columns"] = unused
    return rows


def rename_columns(
    path: Path, table: pd.DataFrame, columns: dict[str, str], where: str, allowed: tuple[str, ...] | None = None
) -> pd.DataFrame:
    """Rename the columns of a table as study.yaml says.

    Parameters
    ----------
    path
        The table's file, for errors.
    table
        The table.
    columns
        Names in the table, by ours.
    where
        The setting of study.yaml, for errors.
    allowed
        Our names; None for any.

    Returns
    -------
    DataFrame
        With our names; a column of the table that already had one of them is dropped.

    Raises
    ------
    CohortError
        When one of our names is not allowed, or the table lacks a column.
    """
    unknown = [name for name in columns if allowed and name not in allowed]
    if allowed and unknown:
        raise CohortError(
            f"{where} maps {some(unknown)}, which is not a column that can be mapped.",
            f"Allowed: {', '.join(allowed)}.",
        )
    absent = [name for name in columns.values() if name not in table]
    if absent:
        raise CohortError(
            f"{where} maps to {some(absent)}, which {path} does not have.", f"Its columns: {', '.join(table.columns)}."
        )
    renamed = {theirs: ours for ours, theirs in columns.items()}
    replaced = [ours for ours in columns if ours in table and ours not in renamed]
    return table.drop(columns=replaced).rename(columns=renamed)


def _refuse(path: Path, rows: pd.DataFrame, wrong: pd.Series, problem: str, remedy: str = "") -> None:
    """Raise an error that names the first row for which `wrong` holds, and counts the others."""
    if wrong.any():
        first, bad = rows[wrong].iloc[0], rows[wrong]
        others = f"; {len(bad)} such rows: patients {some(bad['patient_id'].unique())}" if len(bad) > 1 else ""
        if others and "slide_id" in bad:
            others += f", slides {some(bad['slide_id'].unique())}"
        raise CohortError(f"{path}, line {bad.index[0] + 2}: {problem.format(**first)}{others}.", remedy)


def _check_ids(path: Path, rows: pd.DataFrame, with_slides: bool) -> None:
    patients, slides = rows["patient_id"], rows["slide_id"]
    empty = (patients == "") | ((slides == "") if with_slides else False)
    _refuse(path, rows, empty, "an id is empty", "Every row needs its ids.")
    for ids, name in ((patients, "patient_id"), (slides, "slide_id")):
        edged = (ids != ids.str.strip()) | ~ids.map(str.isprintable)
        _refuse(
            path, rows, edged, f"the id {{{name}!r}} holds blanks at its ends or control characters", "Remove them."
        )
    if with_slides:
        unsafe = ~slides.map(lambda slide: bool(SAFE_ID.fullmatch(slide)))
        remedy = "Use letters, digits and . _ + = @ - (at most 200, the first a letter, digit or _, the last no point)."
        _refuse(path, rows, unsafe, "slide id {slide_id!r} cannot be a file's name", remedy)
    repeated = (slides != "") & (slides == _first_repeated(slides[slides != ""]))
    _refuse(path, rows, repeated, "slide id {slide_id} is listed more than once", "Give each slide one row.")


def _first_repeated(values: pd.Series) -> str | None:
    repeated = values[values.duplicated()]
    return repeated.iloc[0] if len(repeated) else None


def _check_paths(path: Path, rows: pd.DataFrame) -> None:
    # Expanded, a table from elsewhere could write a secret of the environment into failures.csv.
    unexpanded = rows["path"].str.contains(r"\$\{|^~", regex=True) | ~rows["path"].map(str.isprintable)
    _refuse(
        path,
        rows,
        unexpanded | (rows["path"] == ""),
        "the path {path!r} is empty or holds ~, a ${{VARIABLE}} or control characters, which are not expanded here",
        "Give the path relative to a folder: `cohort: {folder: ${VARIABLE}/slides}` in study.yaml, where variables "
        "are expanded.",
    )


def _one_per_patient(path: Path, rows: pd.DataFrame, column: str) -> pd.Series:
    """Each patient's only value of a column; rows that leave it empty take it from the patient's others."""
    known = rows[rows[column] != ""].groupby("patient_id")[column].unique()
    for patient, values in known[known.map(len) > 1].items():
        raise CohortError(
            f"{path} gives patient {patient} several {column}s: {some(values)}.",
            f"A patient has one {column}, so that its slides stay in one fold.",
        )
    return rows["patient_id"].map(known.map(lambda values: values[0])).fillna("")
