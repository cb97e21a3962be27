"""The table that a cohort comes from, one row a slide or patient: found, read and checked."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wsibench.core import CohortError, GdcCohort, SimulatedCohort, Study, read_rows, some

SLIDES_COLUMNS = ("slide_id", "patient_id", "path", "site", "subtype", "mpp")
"""Columns of a table of slides; the first three are required."""
PATIENTS_COLUMNS = ("patient_id", "site", "subtype", "slide_ids")
"""Columns of a table of patients; the first is required, slide_ids are separated by semicolons."""
ROSTER_COLUMNS = ("slide_id", "patient_id", "site", "subtype", "path", "mpp")
"""Columns of a table that has been read, whichever kind it was."""
SAFE_ID = re.compile(r"\w[\w.+=@-]{0,199}")
"""Slide ids become file names."""
TCGA_BARCODE = re.compile(r"TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4}\b")
"""Characters 6–7 of a TCGA barcode are the tissue source site."""


@dataclass(frozen=True)
class Source:
    """The tables that a cohort comes from, and what their columns are called there."""

    table: Path
    has_slides: bool
    """Whether the table is one of slides, with paths; else it is one of patients."""
    expression: Path | None
    columns: dict[str, str]
    """Names in the table, by ours."""
    mpp_is_override: bool
    """Whether mpp stands there to be taken instead of what the slide says."""


def source_of(study: Study) -> Source:
    """Where the study's tables lie; of a simulated cohort those of its truth, of the GDC's what it answered.

    Raises
    ------
    CohortError
        When the study has no cohort of its own.
    """
    cohort = study.cohort
    if study.no_cohort:
        raise CohortError(study.no_cohort, "Ask these studies for their cohorts.")
    if isinstance(cohort, SimulatedCohort):
        # The table of truth states each slide's mpp; cohort.csv holds only what a user overrides.
        return Source(study.truth / "slides.csv", True, study.truth / "expression.h5ad", {}, False)
    if isinstance(cohort, GdcCohort):
        return Source(study.gdc / "snapshot.json.gz", True, study.gdc / "expression.h5ad", {}, False)
    table = study.resolve(cohort.slides or cohort.patients)
    expression = study.resolve(cohort.expression) if cohort.expression else None
    for path in filter(None, (table, expression)):
        check_not_output(study, path)
    return Source(table, cohort.slides is not None, expression, cohort.columns, True)


def check_not_output(study: Study, path: Path) -> None:
    """Refuse a table of the user's that the study itself would overwrite.

    Raises
    ------
    CohortError
        When `path` is a file that a stage of the study leaves.
    """
    tables = (study.cohort_csv, study.exclusions_csv, study.failures_csv, study.expression_h5ad)
    later = (study.benchmark_h5ad, study.benchmark_exclusions_csv, study.scores_parquet, study.leaderboard_csv)
    if path in {output.resolve() for output in tables + later}:
        raise CohortError(
            f"study.yaml names {path} as input, which the study itself writes.",
            "Give your own table another name, or keep it in another folder, and correct study.yaml.",
        )


def read_roster(study: Study, source: Source) -> tuple[pd.DataFrame, list[str]]:
    """Read and check the cohort's table.

    Without a column ``site`` the site of a TCGA patient is characters 6–7 of its barcode.

    Returns
    -------
    rows
        ROSTER_COLUMNS, all text, empty where unknown, sorted by patient and slide; one row a slide,
        or one a patient of a table that names no slides.  `path` is absolute.
    unused
        Columns of the table that nothing is read from.

    Raises
    ------
    CohortError
        For columns that lack or are misspelt, ids that are empty, listed twice or no file names,
        a file that is several slides, and a patient of several sites or subtypes.
    """
    allowed = SLIDES_COLUMNS if source.has_slides else PATIENTS_COLUMNS
    required = allowed[: 3 if source.has_slides else 1]
    rows, unused = _named_columns(source, read_rows(source.table), allowed, required)
    if not source.has_slides:
        _check_unique_patients(source.table, rows)
    if "slide_ids" in rows:
        rows["slide_id"] = rows["slide_ids"].str.strip("; ").str.split(r"\s*;\s*", regex=True)
        rows = rows.explode("slide_id")
    if "site" not in rows:
        rows["site"] = rows["patient_id"].str.extract(TCGA_BARCODE)["site"].fillna("")
    rows = rows.reindex(columns=ROSTER_COLUMNS, fill_value="").reset_index(drop=True)
    _check_ids(source.table, rows, source.has_slides)
    for column in ("site", "subtype"):
        rows[column] = _one_a_patient(source.table, rows, column)
    if source.has_slides:
        rows["path"] = [str(study.resolve(path, table=source.table)) for path in rows["path"]]
        _check_one_row_a_file(source.table, rows)
    if not source.mpp_is_override:
        rows["mpp"] = ""
    _check_mpp(source.table, rows)
    return rows.sort_values(["patient_id", "slide_id"], ignore_index=True), unused


def _named_columns(
    source: Source, table: pd.DataFrame, allowed: tuple[str, ...], required: tuple[str, ...]
) -> tuple[pd.DataFrame, list[str]]:
    unknown = [name for name in source.columns if name not in allowed]
    if unknown:
        raise CohortError(
            f"cohort.columns maps {some(unknown)}, which is no column of ours.", f"Allowed: {', '.join(allowed)}."
        )
    absent = [name for name in source.columns.values() if name not in table]
    if absent:
        raise CohortError(
            f"cohort.columns maps to {some(absent)}, which {source.table} does not have.",
            f"Its columns: {', '.join(table.columns)}.",
        )
    renamed = {theirs: ours for ours, theirs in source.columns.items()}
    replaced = [ours for ours in source.columns if ours in table and ours not in renamed]
    table = table.drop(columns=replaced).rename(columns=renamed)
    lacking = [name for name in required if name not in table]
    if lacking:
        raise CohortError(
            f"{source.table} lacks the column {', '.join(lacking)}; it has {', '.join(table.columns)}.",
            f"Allowed columns: {', '.join(allowed)}; `cohort: {{columns: {{ours: theirs}}}}` in study.yaml renames.",
        )
    unused = [name for name in table if name not in allowed]
    missing = {_letters(name): name for name in allowed if name not in table}
    for name in unused:
        if _letters(name) in missing:
            raise CohortError(
                f"{source.table} has a column {name!r}: is it {missing[_letters(name)]!r}?",
                f"Allowed columns: {', '.join(allowed)}.",
            )
    return table[[name for name in allowed if name in table]].copy(), unused


def _letters(name: str) -> str:
    return re.sub(r"\W|_", "", name).casefold()


def _check_unique_patients(path: Path, rows: pd.DataFrame) -> None:
    twice = rows["patient_id"][rows["patient_id"].duplicated()].unique()
    if len(twice):
        raise CohortError(f"{path} has more than one row for patient {some(twice)}.", "Give one row a patient.")


def _check_ids(path: Path, rows: pd.DataFrame, has_slides: bool) -> None:
    patients, slides = rows["patient_id"], rows["slide_id"]
    if (patients == "").any() or (has_slides and (slides == "").any()):
        row = int(((patients == "") | (slides == "")).to_numpy().argmax()) + 2
        raise CohortError(f"{path}, line {row}: an id is empty.", "Every row needs its ids.")
    edged = [text for text in [*patients, *slides] if text != text.strip() or not (text.isprintable())]
    if edged:
        raise CohortError(
            f"{path}: the id {edged[0]!r} holds blanks at its ends or control characters.", "Remove them."
        )
    named = slides[slides != ""]
    unsafe = [slide for slide in named if not SAFE_ID.fullmatch(slide) or slide.endswith(".")]
    if has_slides and unsafe:
        raise CohortError(
            f"{path}: slide id {unsafe[0]!r} cannot be a file's name ({len(unsafe)} such ids).",
            "Use letters, digits and . _ + = @ - (at most 200, the first a letter, digit or _); paths may be anything.",
        )
    twice = named[named.duplicated()].unique()
    if len(twice):
        owners = rows[rows["slide_id"] == twice[0]]["patient_id"].unique()
        whose = f"; {twice[0]} belongs to patients {some(owners)}" if len(owners) > 1 else ""
        raise CohortError(
            f"{path} lists {len(twice)} slide ids more than once: {some(twice)}{whose}.", "Give each slide one row."
        )


def _check_one_row_a_file(path: Path, rows: pd.DataFrame) -> None:
    twice = rows[rows["path"].duplicated(keep=False)].sort_values("path", kind="stable")
    if len(twice):
        first = twice[twice["path"] == twice["path"].iloc[0]]
        raise CohortError(
            f"{path} gives one file to several slides: {first['path'].iloc[0]} is {some(list(first['slide_id']))} "
            f"of patient {some(list(first['patient_id'].unique()))}.",
            "A slide in two folds would leak: give each file one row.",
        )


def _one_a_patient(path: Path, rows: pd.DataFrame, column: str) -> pd.Series:
    """The patient's only value of a column; rows that leave it empty take it from the others."""
    known = rows[rows[column] != ""].groupby("patient_id")[column].unique()
    for patient, values in known[known.map(len) > 1].items():
        raise CohortError(
            f"{path} gives patient {patient} several {column}s: {some(values)}.",
            f"A patient has one {column}, so that its slides stay in one fold.",
        )
    return rows["patient_id"].map(known.map(lambda values: values[0])).fillna("")


def _check_mpp(path: Path, rows: pd.DataFrame) -> None:
    numbers = pd.to_numeric(rows["mpp"].where(rows["mpp"] != "", "1"), errors="coerce")
    bad = rows[~((numbers > 0) & (numbers < 1000))]
    if len(bad):
        raise CohortError(
            f"{path}: slide {bad['slide_id'].iloc[0]} has mpp {bad['mpp'].iloc[0]!r}, which is not µm a pixel.",
            "Give something like 0.25, or leave it empty to take what the slide says.",
        )
