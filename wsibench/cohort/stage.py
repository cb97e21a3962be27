"""Build a study's cohort: slides, patients and sites from its tables, paired with expression."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from wsibench.cohort import gdc, simulation
from wsibench.cohort.clinical import column, read_patients
from wsibench.cohort.expression import read_expression_table, read_gene_list
from wsibench.cohort.sample_table import SAMPLE_COLUMNS, read_sample_table
from wsibench.core import (
    Artefact,
    CohortError,
    Failure,
    GdcCohort,
    NotReady,
    SimulatedCohort,
    SlideError,
    Study,
    WsibenchError,
    check_failures,
    digest,
    failure,
    file_sha256,
    key_at,
    make_key,
    read_meta,
    record_failures,
    slide_identity,
    some,
    writing,
)

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 2
STAGE = "cohort"
COLUMNS = (*SAMPLE_COLUMNS, "identity")
"""Columns of cohort.csv, all text, empty where unknown."""


@dataclass(frozen=True)
class CohortReport:
    """Counts of a cohort, and the patients, slides and genes that were left out."""

    counts: dict[str, int]
    """Patients, slides, patients with several slides, sites, genes, …"""
    subtypes: dict[str, int]
    """Patients of each subtype."""
    exclusions: pd.DataFrame
    """Kind (what: slide, patient, gene), id and reason, as in exclusions.csv."""
    failures: list[Failure]
    """Slides whose files are missing."""
    unused_columns: list[str]
    """Columns of the sample table that were not read."""
    tables: dict[str, pd.DataFrame]
    """Further tables by title: of a GDC cohort the pairing rules with their counts, …"""

    @property
    def summary(self) -> pd.DataFrame:
        """Exclusions counted by kind and reason, with the first few ids."""
        # "missing values (3 patients)" and "missing values (4 patients)" are one reason.
        reason = self.exclusions["reason"].str.replace(r" \(.*\)$", "", regex=True)
        groups = self.exclusions.groupby(["what", reason], sort=False)["id"]
        return groups.agg(n="size", ids=lambda ids: some(list(ids))).reset_index()

    def _shown(self) -> dict[str, pd.DataFrame]:
        """Tables by title, as they are printed."""
        counts = {**self.counts, **{f"subtype {name}": n for name, n in self.subtypes.items()}}
        shown = {"Cohort": pd.DataFrame({"count": counts.keys(), "n": counts.values()})}
        title = "Left out (all in exclusions.csv)" if len(self.exclusions) else "Nothing was left out"
        shown[title] = self.summary
        if self.unused_columns:
            shown["Columns not used"] = pd.DataFrame({"column": self.unused_columns})
        return shown | self.tables

    def __str__(self) -> str:
        shown = self._shown().items()
        return "\n\n".join(
            title if table.empty else f"{title}\n{table.to_string(index=False)}" for title, table in shown
        )

    def _repr_html_(self) -> str:
        shown = self._shown().items()
        return "".join(f"<p>{escape(title)}</p>" + ("" if t.empty else t.to_html(index=False)) for title, t in shown)


@dataclass(frozen=True)
class _Source:
    """Tables that a cohort is read from."""

    table: Path
    kind: Literal["slides", "patients"]
    expression: Path | None
    columns: dict[str, str]
    folder: Path | None = None


def not_applicable(study: Study) -> str | None:
    """State the reason why the study has no cohort of its own, or None."""
    return study.no_cohort


def expected(study: Study) -> list[Artefact]:
    """List cohort.csv, exclusions.csv and expression.h5ad, and the files simulated or fetched for them.

    Raises
    ------
    NotReady
        When they have not been simulated, or the GDC has not been asked.
    """
    made = []
    if isinstance(study.cohort, SimulatedCohort):
        made = simulation.expected(study)
    elif isinstance(study.cohort, GdcCohort):
        made = gdc.expected(study)
    source, files = _source(study), _Identities(study)
    return made + _artefacts(study, source, _rows(study, source, files), files)


def build(study: Study) -> CohortReport:
    """Simulate, fetch or read the cohort's tables, check them, and write cohort.csv and expression.h5ad.

    Raises
    ------
    CohortError
        When a table cannot be used as it is; nothing is written then.
    TooManyFailures
        When more slide files are missing than the study's limits allow.
    """
    acquired = gdc.Acquired()
    if isinstance(study.cohort, SimulatedCohort):
        simulation.simulate(study)
    elif isinstance(study.cohort, GdcCohort):
        acquired = gdc.acquire(study)
    source, files = _source(study), _Identities(study)
    rows = _rows(study, source, files)
    missing = acquired.failures or _missing(rows)
    if missing or study.failures_csv.exists():
        record_failures(study.failures_csv, STAGE, missing)
    check_failures(missing, len(rows), study.limits.failed_slides)
    artefacts = _artefacts(study, source, rows, files)
    if any(artefact.due() for artefact in artefacts):
        dropped = gdc.read_pairing(study).dropped.to_numpy().tolist() if isinstance(study.cohort, GdcCohort) else []
        facts = {"files": files.seen, "unused_columns": rows.attrs["unused_columns"]}
        _write(study, source, rows, artefacts, dropped, facts | {"provenance": acquired.provenance})
    return _report(study, missing, acquired.tables)


def check(study: Study) -> list[str]:
    """Find faults of the study's tables before any work; files that are still to be fetched are no fault.

    Returns
    -------
    list of str
        One message a fault, with its remedy.
    """
    try:
        source = _source(study)
        rows = _rows(study, source, _Identities(study))
        patients = rows.drop_duplicates("patient_id").set_index("patient_id")
        if source.expression:
            _read_expression(study, source, rows)
    except NotReady:
        return []
    except WsibenchError as error:
        return [str(error)]
    faults = []
    if (
        source.expression and (patients["site"] == "").all()
        and "preserved-site" in study.folds.schemes
        and "preserved-site" not in study.folds.given
    ):
        faults.append(
            f"{source.table} has no column `site`, which preserved-site folds need. Add it, or set "
            "`folds: {schemes: [random-patient]}`."
        )
    named = [(f"targets.{name}.column", each.column) for name, each in study.targets.items() if each.column]
    named += [("clinical.covariates", name) for name in study.clinical.covariates]
    try:
        known = read_patients(study, patients)
    except WsibenchError as error:
        return [*faults, str(error)]
    for where, name in named:
        try:
            column(known, name, where)
        except CohortError as error:
            faults.append(str(error))
    return faults


def read_cohort(study: Study) -> pd.DataFrame:
    """Read cohort.csv.

    A cohort given as a table of patients has rows without `path`, and without `slide_id` where the
    table names no slides.

    Returns
    -------
    DataFrame
        One row a slide, all text, empty where unknown; `path` is absolute.

    Raises
    ------
    NotReady
        When the cohort has not been built, or the file is damaged.
    """
    key_at(study.cohort_csv)
    try:
        frame = pd.read_csv(study.cohort_csv, dtype=str, keep_default_na=False)
        frame = frame[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise NotReady(
            f"{study.cohort_csv} is damaged ({error}).", f"`wsibench run {study.name} --from 01 --to 01` rebuilds it."
        ) from None
    frame["path"] = [str(study.root / path) if path else "" for path in frame["path"]]
    return frame


def read_expression(study: Study) -> "AnnData":
    """Read the expression of the cohort's patients.

    Returns
    -------
    AnnData
        Patients × genes, X float32.

    Raises
    ------
    NotReady
        When the cohort has not been built, or has no expression.
    """
    import anndata

    key_at(study.expression_h5ad)
    return anndata.read_h5ad(study.expression_h5ad)


def has_expression(study: Study) -> bool:
    """Whether the study has expression to predict; without, it ends after embedding."""
    return _source(study).expression is not None


def slides_at_hand(study: Study) -> list[str]:
    """List the ids of slides whose files are present; a streamed cohort has none."""
    rows = read_cohort(study)
    return [slide for slide, path in zip(rows["slide_id"], rows["path"], strict=True) if path and Path(path).is_file()]


# Inputs


class _Identities:
    """Identities of files, computed again only when a file's size or time has changed."""

    def __init__(self, study: Study) -> None:
        facts = (read_meta(study.cohort_csv) or {}).get("facts", {})
        self.known: dict[str, list] = facts.get("files", {})
        self.seen: dict[str, list] = {}

    def of(self, path: str | Path | None, identify: Callable[[Path], str]) -> str:
        """Identify a file by its content; empty when there is no such file."""
        try:
            stat = Path(path).stat() if path and Path(path).is_file() else None
        except OSError:  # such as a name that is too long
            stat = None
        if stat is None:
            return ""
        size, mtime_ns, identity = self.known.get(str(path), (None, None, ""))
        if (size, mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            identity = identify(Path(path))
        self.seen[str(path)] = [stat.st_size, stat.st_mtime_ns, identity]
        return identity


def _source(study: Study) -> _Source:
    cohort = study.cohort
    if study.no_cohort:
        raise CohortError(study.no_cohort, "Ask these studies for their cohorts.")
    if isinstance(cohort, SimulatedCohort):
        return _Source(study.truth / "slides.csv", "slides", study.truth / "expression.h5ad", {})
    if isinstance(cohort, GdcCohort):
        return _Source(study.gdc / "snapshot.json.gz", "slides", study.gdc / "expression.h5ad", {})
    return _Source(
        study.resolve(cohort.slides or cohort.patients),
        "slides" if cohort.slides else "patients",
        study.resolve(cohort.expression) if cohort.expression else None,
        cohort.columns,
        study.resolve(cohort.folder) if cohort.folder else None,
    )


def _rows(study: Study, source: _Source, files: _Identities) -> pd.DataFrame:
    """The sample table's rows with each slide's identity, empty where its file is missing."""
    if isinstance(study.cohort, GdcCohort):
        rows = gdc.read_slides(study)
        rows.attrs["unused_columns"] = []
        return rows
    if isinstance(study.cohort, SimulatedCohort):
        key_at(source.table)
    rows = read_sample_table(source.table, source.kind, source.columns, source.folder)
    rows["identity"] = [files.of(path, slide_identity) for path in rows["path"]]
    return rows


def _present(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose slide file exists, and those of a cohort without slide files."""
    return rows[(rows["identity"] != "") | (rows["path"] == "")]


def _missing(rows: pd.DataFrame) -> list[Failure]:
    failures = []
    for row in rows[(rows["identity"] == "") & (rows["path"] != "")].itertuples():
        key = make_key(STAGE, FORMAT, "slide file", [row.slide_id, row.path])
        error = SlideError(f"There is no file {row.path}.", "Correct its path in the table of slides, or drop the row.")
        failures.append(failure(row.slide_id, STAGE, key, error))
    return failures


def _gene_file(study: Study) -> Path | None:
    """The file of gene symbols that ``expression.genes`` names, if it names one."""
    genes = study.expression.genes
    return study.resolve(genes) if isinstance(genes, str) and genes not in ("all", "protein_coding") else None


def _read_expression(study: Study, source: _Source, rows: pd.DataFrame) -> Any:
    file, genes = _gene_file(study), study.expression.genes
    return read_expression_table(
        source.expression,
        sorted(set(_present(rows)["patient_id"])),
        genes=read_gene_list(file, "expression.genes", "`all`, `protein_coding`, a list, or ") if file else genes,
        clip=study.expression.clip,
        id_column=source.columns.get("patient_id", "patient_id"),
        unpaired="no slide" if source.kind == "slides" else "not in the table of patients",
    )


# Outputs


def _artefacts(study: Study, source: _Source, rows: pd.DataFrame, files: _Identities) -> list[Artefact]:
    """Keys from the content of tables rather than their bytes: moving a slide makes no expression due."""
    table = files.of(source.expression, file_sha256)
    cohort = make_key(STAGE, FORMAT, study.cohort.model_dump(mode="json"), [digest(rows.to_dict("records")), table])
    # Which of the genes are scored does not concern the table.
    section = study.expression.model_dump(mode="json", exclude={"highly_variable"})
    made_from = [table, files.of(_gene_file(study), file_sha256), digest(sorted(set(_present(rows)["patient_id"])))]
    expression = make_key(STAGE, FORMAT, section, made_from)
    exclusions = make_key(STAGE, FORMAT, "exclusions", [cohort, expression])
    artefacts = [Artefact(study.cohort_csv, cohort), Artefact(study.exclusions_csv, exclusions)]
    return artefacts + ([Artefact(study.expression_h5ad, expression)] if source.expression else [])


def _write(
    study: Study,
    source: _Source,
    rows: pd.DataFrame,
    artefacts: list[Artefact],
    dropped: list[tuple[str, str, str]],
    facts: dict[str, Any],
) -> None:
    present = _present(rows)
    if present.empty:
        raise CohortError(f"None of the {len(rows)} slides of {source.table} is there.", "Correct the column path.")
    absent = rows["slide_id"][~rows.index.isin(present.index)]
    lost = sorted(set(rows["patient_id"]) - set(present["patient_id"]))
    exclusions = [("slide", slide, "no such file") for slide in absent] + dropped
    exclusions += [("patient", patient, "no slide") for patient in lost]
    expression = None
    if source.expression:
        expression = _read_expression(study, source, rows)
        present = present[present["patient_id"].isin(expression.adata.obs_names)]
        exclusions += expression.exclusions
        facts["genes_not_selected"] = expression.n_not_selected
    with writing(artefacts[1]) as path:
        frame = pd.DataFrame(exclusions, columns=["what", "id", "reason"])
        frame.drop_duplicates(["what", "id"]).to_csv(path, index=False)
    if expression:
        adata = expression.adata
        with writing(artefacts[2], n_patients=adata.n_obs, n_genes=adata.n_vars) as path:
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
    with writing(artefacts[0], **facts) as path:
        inside = [os.path.relpath(p, study.root) if Path(p).is_relative_to(study.root) else p for p in present["path"]]
        present.assign(path=inside)[list(COLUMNS)].to_csv(path, index=False)


def _report(study: Study, missing: list[Failure], tables: dict[str, pd.DataFrame]) -> CohortReport:
    rows, facts = read_cohort(study), read_meta(study.cohort_csv)["facts"]
    patients, slides = rows.drop_duplicates("patient_id"), rows[rows["slide_id"] != ""]
    counts = {
        "patients": len(patients),
        "slides": len(slides),
        "patients with several slides": int((slides["patient_id"].value_counts() > 1).sum()),
        "sites": patients["site"][patients["site"] != ""].nunique(),
        "patients without a site": int((patients["site"] == "").sum()),
    }
    if has_expression(study):
        counts["genes"] = read_meta(study.expression_h5ad)["facts"]["n_genes"]
        counts["genes not selected"] = facts["genes_not_selected"]
    subtypes = patients["subtype"][patients["subtype"] != ""].value_counts().sort_index().to_dict()
    exclusions = pd.read_csv(study.exclusions_csv, dtype=str, keep_default_na=False)
    return CohortReport(counts, subtypes, exclusions, missing, facts["unused_columns"], tables)
