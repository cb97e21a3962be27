"""Read and check a sample table: the slides or patients of a cohort, one row each."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from wsibench.core import CohortError, read_rows, some

# Columns of a table of slides; the first three are required.
SLIDES_COLUMNS = ("slide_id", "patient_id", "path", "site", "subtype", "mpp")
# Columns of a table of patients; the first is required, slide_ids are separated by semicolons.
PATIENTS_COLUMNS = ("patient_id", "site", "subtype", "slide_ids")
# Columns of a table that has been read, whichever kind it was.
SAMPLE_COLUMNS = ("slide_id", "patient_id", "site", "subtype", "path", "mpp")
# Slide ids become file names.
SAFE_ID = re.compile(r"\w(?:[\w.+=@-]{0,198}[\w+=@-])?")
# Characters 6–7 of a TCGA barcode are the tissue source site.
TCGA_BARCODE = re.compile(r"TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4}\b")
ONE_ROW = "Give each slide a row, and each row a slide."


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
    allowed = SLIDES_COLUMNS if kind == "slides" else PATIENTS_COLUMNS
    if unknown := [name for name in columns or {} if name not in allowed]:
        raise CohortError(
            f"cohort.columns maps {some(unknown)}, which is not a column that can be mapped.",
            f"Allowed: {', '.join(allowed)}.",
        )
    table = rename_columns(path, read_rows(path), columns or {}, required=allowed[: 3 if kind == "slides" else 1])
    unused = [name for name in table if name not in allowed]
    rows = _one_row_a_slide(path, table.drop(columns=unused))
    for wrong, problem, remedy in _faults(rows, with_files=kind == "slides"):
        _refuse(path, rows, wrong, problem, remedy)
    if kind == "slides":
        rows["path"] = [str(((folder or path.parent) / each).resolve()) for each in rows["path"]]
        _refuse(path, rows, rows["path"].duplicated(keep=False), "several slides have the file {path}", ONE_ROW)
    known = rows[["site", "subtype"]].replace("", pd.NA).groupby(rows["patient_id"])
    for column in ("site", "subtype"):
        several = known[column].transform("nunique") > 1
        remedy = f"A patient has one {column}, so that its slides stay in one fold."
        _refuse(path, rows, several, f"patient {{patient_id}} has several {column}s", remedy)
    rows[["site", "subtype"]] = known.transform("first").fillna("")
    rows = rows.sort_values(["patient_id", "slide_id"], ignore_index=True)
    rows.attrs["unused_columns"] = unused
    return rows


def rename_columns(path: Path, table: pd.DataFrame, columns: dict[str, str], required: Sequence[str]) -> pd.DataFrame:
    """Rename the columns of a table as study.yaml says.

    Parameters
    ----------
    path
        The table's file, for errors.
    table
        The table.
    columns
        Names in the table, by ours.
    required
        Our names of columns that it has to have.

    Returns
    -------
    DataFrame
        With our names; a column of the table that already had one of them is dropped.

    Raises
    ------
    CohortError
        When the table lacks a column that is required or mapped.
    """
    wanted = dict(zip(required, required, strict=True)) | columns
    if lacking := [theirs for theirs in wanted.values() if theirs not in table]:
        raise CohortError(
            f"{path} lacks the column {some(lacking)}; it has {', '.join(table.columns)}.",
            "`columns: {ours: theirs}` in study.yaml says what they are called in the table.",
        )
    renamed = {theirs: ours for ours, theirs in columns.items()}
    replaced = [ours for ours in columns if ours in table and ours not in renamed]
    return table.drop(columns=replaced).rename(columns=renamed)


def _one_row_a_slide(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Give a table of slides or patients all of SAMPLE_COLUMNS, and each slide a row."""
    if "slide_id" not in rows:
        _refuse(path, rows, rows["patient_id"].duplicated(), "more than one row for patient {patient_id}")
    if "slide_ids" in rows:
        rows["slide_id"] = rows["slide_ids"].str.strip("; ").str.split(r"\s*;\s*", regex=True)
        rows = rows.explode("slide_id")
    if "site" not in rows:
        rows["site"] = rows["patient_id"].str.extract(TCGA_BARCODE)["site"].fillna("")
    return rows.reindex(columns=list(SAMPLE_COLUMNS), fill_value="")


def _refuse(path: Path, rows: pd.DataFrame, wrong: pd.Series, problem: str, remedy: str = "") -> None:
    """Raise an error that names the first row for which `wrong` holds, and counts the others."""
    if wrong.any():
        first, bad = rows[wrong].iloc[0], rows[wrong]
        others = f"; {len(bad)} such rows: patients {some(bad['patient_id'].unique())}" if len(bad) > 1 else ""
        if others and "slide_id" in bad:
            others += f", slides {some(bad['slide_id'].unique())}"
        raise CohortError(f"{path}, line {bad.index[0] + 2}: {problem.format(**first)}{others}.", remedy)


def _faults(rows: pd.DataFrame, with_files: bool) -> Iterator[tuple[pd.Series, str, str]]:
    """List what can be wrong with rows: where it is, the problem, and its remedy."""
    patients, slides = rows["patient_id"], rows["slide_id"]
    clean = pd.concat([ids.map(str.isprintable) & (ids == ids.str.strip()) for ids in (patients, slides)], axis=1)
    yield (
        (patients == "") | ~clean.all(axis=1),
        "an id is empty, or holds blanks at its ends or control characters: patient {patient_id!r}, slide {slide_id!r}",
        "",
    )
    yield (slides != "") & slides.duplicated(keep=False), "slide id {slide_id} is listed more than once", ONE_ROW
    mpp = pd.to_numeric(rows["mpp"].replace("", "1"), errors="coerce")
    yield (
        ~mpp.between(0, 1000, inclusive="neither"),
        "slide {slide_id} has mpp {mpp!r}, which is not µm per pixel",
        "Give something like 0.25, or leave it empty to use the resolution that the slide states.",
    )
    if not with_files:
        return
    yield (
        ~slides.map(lambda slide: bool(SAFE_ID.fullmatch(slide))),
        "slide id {slide_id!r} cannot be a file's name",
        "Use letters, digits and . _ + = @ - (at most 200, the first a letter, digit or _, the last no point).",
    )
    # Expanded, a table from elsewhere could write a secret of the environment into failures.csv.
    yield (
        rows["path"].str.contains(r"^$|\$\{|^~", regex=True) | ~rows["path"].map(str.isprintable),
        "the path {path!r} is empty or holds ~, a ${{VARIABLE}} or control characters, which are not expanded here",
        "Give the path relative to a folder: `cohort: {folder: ${VARIABLE}/slides}` in study.yaml, where variables "
        "are expanded.",
    )
