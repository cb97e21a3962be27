"""Build a study's cohort: slides, patients and sites from its tables, paired with expression."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsibench.cohort import gdc, simulation
from wsibench.cohort.clinical import column, read_patients
from wsibench.cohort.expression import Expression, read_expression_table
from wsibench.cohort.sample_table import SAMPLE_COLUMNS, read_sample_table
from wsibench.core import (
    Artefact,
    CohortError,
    Failure,
    GdcCohort,
    LocalCohort,
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
# Columns of cohort.csv, all text, empty where unknown.
COLUMNS = (*SAMPLE_COLUMNS, "identity")


@dataclass(frozen=True)
class CohortReport:
    """Counts of a cohort, and the patients, slides and genes that were left out."""

    counts: dict[str, int]  # patients, slides, patients with several slides, sites, genes, …
    exclusions: pd.DataFrame  # kind (what: slide, patient, gene), id and reason, as in exclusions.csv
    # Further tables by title: subtypes, of a GDC cohort the pairing rules with their counts, …
    tables: dict[str, pd.DataFrame]

    @property
    def summary(self) -> pd.DataFrame:
        """Exclusions counted by kind and reason, with the first few ids."""
        # "missing values (3 patients)" and "missing values (4 patients)" are one reason.
        reason = self.exclusions["reason"].str.replace(r" \(.*\)$", "", regex=True)
        groups = self.exclusions.groupby(["what", reason], sort=False)["id"]
        return groups.agg(n="size", ids=lambda ids: some(list(ids))).reset_index()

    def _repr_html_(self) -> str:
        """Format the tables for a notebook."""
        counts = pd.DataFrame(self.counts.items(), columns=["count", "n"])
        left_out = "Left out (exclusions.csv lists all)" if len(self.exclusions) else "Nothing was left out."
        shown = {"Cohort": counts, left_out: self.summary} | self.tables
        return "".join(
            f"<p>{escape(title)}</p>" + ("" if table.empty else table.to_html(index=False))
            for title, table in shown.items()
        )


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
        made = simulation.expected(study.cohort, study.slides, study.truth)
    elif isinstance(study.cohort, GdcCohort):
        made = gdc.expected(gdc.Project.of(study))
    return made + _artefacts(study, _read_inputs(study))


def build(study: Study) -> CohortReport:
    """Simulate, fetch or read the cohort's tables, check them, and write cohort.csv and expression.h5ad.

    Raises
    ------
    CohortError
        When a table cannot be used as it is; nothing is written then.
    TooManyFailures
        When more slide files are missing than the study's limits allow.
    """
    failures: list[Failure] = []
    provenance: dict[str, str] = {}
    tables: dict[str, pd.DataFrame] = {}
    if isinstance(study.cohort, SimulatedCohort):
        simulation.simulate(study.cohort, study.slides, study.truth)
    elif isinstance(study.cohort, GdcCohort):
        failures = gdc.acquire(gdc.Project.of(study))
        provenance, tables = gdc.report(gdc.Project.of(study))
    inputs = _read_inputs(study)
    missing = failures or _missing(inputs.rows)
    if missing or study.failures_csv.exists():
        record_failures(study.failures_csv, STAGE, missing)
    check_failures(missing, len(inputs.rows), study.limits.failed_slides)
    artefacts = _artefacts(study, inputs)
    if any(artefact.due() for artefact in artefacts):
        _write(study, inputs, artefacts, provenance)
    return _report(study, tables)


def check(study: Study) -> list[str]:
    """Find faults of the study's tables before any work; files that are still to be fetched are no fault.

    Returns
    -------
    list of str
        One message a fault, with its remedy.
    """
    try:
        inputs = _read_inputs(study)
        patients = inputs.rows.drop_duplicates("patient_id").set_index("patient_id")
        known = read_patients(study, patients)
        inputs.read_expression()
    except NotReady:
        return []
    except WsibenchError as error:
        return [str(error)]
    faults = []
    schemes = set(study.folds.schemes) - set(study.folds.given) if inputs.expression else set()
    if "preserved-site" in schemes and (known["site"] == "").all():
        faults.append(
            f"{inputs.table} gives no patient's `site`, which preserved-site folds need. Add the column, or set "
            "`folds: {schemes: [random-patient]}`."
        )
    named = [(f"targets.{name}.column", each.column) for name, each in study.targets.items() if each.column]
    for where, name in [*named, *(("clinical.covariates", name) for name in study.clinical.covariates)]:
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
        frame = pd.read_csv(study.cohort_csv, dtype=str, keep_default_na=False)[list(COLUMNS)]
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
    """Return True if the study has expression to predict; without, it ends after embedding."""
    return not isinstance(study.cohort, LocalCohort) or study.cohort.expression is not None


def slides_at_hand(study: Study) -> list[str]:
    """List the ids of slides whose files are present; a streamed cohort has none."""
    rows = read_cohort(study)
    return [slide for slide, path in zip(rows["slide_id"], rows["path"], strict=True) if path and Path(path).is_file()]


# Inputs


def _identify(paths: Iterable[Path | str], identify: Callable[[Path], str], known: dict[str, list]) -> dict[str, list]:
    """Size, time and identity of each file that exists; the identity is taken from `known` while the others agree."""
    seen = {}
    for path in map(Path, paths):
        try:
            stat = path.stat() if path.is_file() else None
        except OSError:  # such as a name that is too long
            stat = None
        if stat:
            size, mtime_ns, identity = known.get(str(path), (None, None, ""))
            if (size, mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                identity = identify(path)
            seen[str(path)] = [stat.st_size, stat.st_mtime_ns, identity]
    return seen


@dataclass(frozen=True)
class _Inputs:
    """Sample table of a cohort, and its expression table with the settings to read it."""

    table: Path
    rows: pd.DataFrame  # as of `read_sample_table`, with each slide's identity, empty where its file is missing
    expression: Path | None
    gene_file: Path | None
    read_table: Callable[[Path, list[str]], Expression]  # reads the expression of patients as the study says
    files: dict[str, list]  # from `_identify`, by path

    @property
    def present(self) -> pd.DataFrame:
        """Rows whose slide file exists, and those of a cohort without slide files."""
        return self.rows[(self.rows["identity"] != "") | (self.rows["path"] == "")]

    def identity(self, path: Path | None) -> str:
        """Return the identity of a file; empty when there is no such file."""
        return self.files[str(path)][-1] if str(path) in self.files else ""

    def read_expression(self) -> Expression | None:
        """Read the expression of the patients who can be paired with it."""
        patients = sorted(set(self.present["patient_id"]))
        return self.read_table(self.expression, patients) if self.expression else None


def _read_inputs(study: Study) -> _Inputs:
    cohort, genes, expression = study.cohort, study.expression.genes, None
    id_column, unpaired = "patient_id", "no slide"
    if isinstance(cohort, GdcCohort):
        table, expression = study.gdc / "snapshot.json.gz", study.gdc / "expression.h5ad"
        rows = gdc.read_slides(gdc.Project.of(study))
    elif isinstance(cohort, SimulatedCohort):
        table, expression = study.truth / "slides.csv", study.truth / "expression.h5ad"
        if not table.is_file():
            raise NotReady("The cohort has not been simulated yet.", f"Run `wsibench run {study.name} --to 01`.")
        rows = read_sample_table(table)
    elif isinstance(cohort, LocalCohort):
        table = study.resolve(cohort.slides or cohort.patients or "")
        folder = study.resolve(cohort.folder) if cohort.folder else None
        rows = read_sample_table(table, "slides" if cohort.slides else "patients", cohort.columns, folder)
        expression = study.resolve(cohort.expression) if cohort.expression else None
        id_column = cohort.columns.get("patient_id", id_column)
        unpaired = unpaired if cohort.slides else "not in the table of patients"
    else:
        raise CohortError(study.no_cohort or "The study has no cohort.", "Ask its two studies for their cohorts.")
    gene_file = study.resolve(genes) if isinstance(genes, str) and genes not in ("all", "protein_coding") else None
    read = partial(
        read_expression_table,
        genes=gene_file or genes,
        clip=study.expression.clip,
        id_column=id_column,
        unpaired=unpaired,
    )
    known = (read_meta(study.cohort_csv) or {}).get("facts", {}).get("files", {})
    files = _identify(filter(None, (expression, gene_file)), file_sha256, known)
    if "identity" not in rows:
        files |= _identify(filter(None, rows["path"]), slide_identity, known)
        rows["identity"] = [files[path][-1] if path in files else "" for path in rows["path"]]
    return _Inputs(table, rows, expression, gene_file, read, files)


def _missing(rows: pd.DataFrame) -> list[Failure]:
    failures = []
    for row in rows[(rows["identity"] == "") & (rows["path"] != "")].itertuples():
        key = make_key(STAGE, FORMAT, "slide file", [row.slide_id, row.path])
        error = SlideError(f"There is no file {row.path}.", "Correct its path in the table of slides, or drop the row.")
        failures.append(failure(row.slide_id, STAGE, key, error))
    return failures


# Outputs


def _artefacts(study: Study, inputs: _Inputs) -> list[Artefact]:
    """Keys from the content of tables rather than their bytes: moving a slide makes no expression due."""
    table = inputs.identity(inputs.expression)
    section = study.model_dump(mode="json", include={"cohort"})
    cohort = make_key(STAGE, FORMAT, section, [digest(_movable(study, inputs.rows).to_dict("records")), table])
    # Which of the genes are scored does not concern the table.
    section = study.expression.model_dump(mode="json", exclude={"highly_variable"})
    genes = inputs.identity(inputs.gene_file)
    expression = make_key(STAGE, FORMAT, section, [table, genes, digest(sorted(set(inputs.present["patient_id"])))])
    exclusions = make_key(STAGE, FORMAT, "exclusions", [cohort, expression])
    artefacts = [Artefact(study.cohort_csv, cohort), Artefact(study.exclusions_csv, exclusions)]
    return artefacts + ([Artefact(study.expression_h5ad, expression)] if inputs.expression else [])


def _write(study: Study, inputs: _Inputs, artefacts: list[Artefact], provenance: dict[str, str]) -> None:
    rows, present = inputs.rows, inputs.present
    if present.empty:
        raise CohortError(f"None of the {len(rows)} slides of {inputs.table} is there.", "Correct the column path.")
    facts = {"files": inputs.files, "unused_columns": rows.attrs.get("unused_columns", [])}
    exclusions = [("slide", slide, "no such file") for slide in rows["slide_id"][~rows.index.isin(present.index)]]
    if isinstance(study.cohort, GdcCohort):
        exclusions += gdc.read_pairing(gdc.Project.of(study)).dropped.itertuples(index=False, name=None)
    lost = sorted(set(rows["patient_id"]) - set(present["patient_id"]))
    exclusions += [("patient", patient, "no slide") for patient in lost]
    expression = inputs.read_expression()
    if expression:
        adata = expression.adata
        present = present[present["patient_id"].isin(adata.obs_names)]
        exclusions += expression.exclusions
        facts["genes_not_selected"] = expression.n_not_selected
    with writing(artefacts[1]) as path:
        frame = pd.DataFrame(exclusions, columns=["what", "id", "reason"])
        frame.drop_duplicates(["what", "id"]).to_csv(path, index=False)
    if expression:
        with writing(artefacts[2], n_patients=adata.n_obs, n_genes=adata.n_vars) as path:
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
    with writing(artefacts[0], provenance=provenance, **facts) as path:
        _movable(study, present)[list(COLUMNS)].to_csv(path, index=False)


def _movable(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Name slides in the study's folder relative to it, so that a moved folder stays current."""
    inside = [os.path.relpath(p, study.root) if Path(p).is_relative_to(study.root) else p for p in rows["path"]]
    return rows.assign(path=inside)


def _report(study: Study, tables: dict[str, pd.DataFrame]) -> CohortReport:
    rows, facts = read_cohort(study), (read_meta(study.cohort_csv) or {})["facts"]
    patients, slides = rows.drop_duplicates("patient_id").replace("", None), rows[rows["slide_id"] != ""]
    counts = {
        "patients": len(patients),
        "slides": len(slides),
        "patients with several slides": int((slides["patient_id"].value_counts() > 1).sum()),
        "sites": patients["site"].nunique(),
        "patients without a site": int(patients["site"].isna().sum()),
    }
    if has_expression(study):
        counts["genes"] = (read_meta(study.expression_h5ad) or {})["facts"]["n_genes"]
        counts["genes not selected"] = facts["genes_not_selected"]
    if patients["subtype"].notna().any():
        tables = {"Subtypes": patients["subtype"].value_counts().sort_index().reset_index(name="patients")} | tables
    if unused := facts["unused_columns"]:
        tables = {f"Columns not used: {', '.join(unused)}": pd.DataFrame()} | tables
    exclusions = pd.read_csv(study.exclusions_csv, dtype=str, keep_default_na=False)
    return CohortReport(counts, exclusions, tables)
