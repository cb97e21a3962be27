"""Build a study's cohort: slides, patients and sites from its tables, paired with expression."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsibench.cohort import gdc, simulation
from wsibench.cohort.clinical import column, read_patients
from wsibench.cohort.expression import Expression, read_expression_table, read_gene_list
from wsibench.cohort.report import CohortReport
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
    writing,
)

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 2
STAGE = "cohort"
COLUMNS = (*SAMPLE_COLUMNS, "identity")
"""Columns of cohort.csv, all text, empty where unknown."""


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
    return _report(study, missing, tables)


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


class _Identities:
    """Identities of files, computed again only when a file's size or time has changed."""

    def __init__(self, meta: dict[str, Any] | None) -> None:
        self.known: dict[str, list[Any]] = (meta or {}).get("facts", {}).get("files", {})
        self.seen: dict[str, list[Any]] = {}

    def of(self, path: str | Path, identify: Callable[[Path], str]) -> str:
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


@dataclass(frozen=True)
class _Inputs:
    """Sample table of a cohort, and its expression table with the settings to read it."""

    table: Path
    rows: pd.DataFrame
    """As of `read_sample_table`, with each slide's identity, empty where its file is missing."""
    files: _Identities
    expression: Path | None
    gene_file: Path | None
    genes: str | list[str]
    clip: float | None
    id_column: str = "patient_id"
    unpaired: str = "no slide"

    @property
    def present(self) -> pd.DataFrame:
        """Rows whose slide file exists, and those of a cohort without slide files."""
        return self.rows[(self.rows["identity"] != "") | (self.rows["path"] == "")]

    def read_expression(self) -> Expression | None:
        """Read the expression of the patients who can be paired with it."""
        if self.expression is None:
            return None
        genes = self.genes
        if self.gene_file:
            genes = read_gene_list(self.gene_file, "expression.genes", "`all`, `protein_coding`, a list, or ")
        patients = sorted(set(self.present["patient_id"]))
        return read_expression_table(
            self.expression, patients, genes=genes, clip=self.clip, id_column=self.id_column, unpaired=self.unpaired
        )


def _read_inputs(study: Study) -> _Inputs:
    cohort, files, genes = study.cohort, _Identities(read_meta(study.cohort_csv)), study.expression.genes
    gene_file = study.resolve(genes) if isinstance(genes, str) and genes not in ("all", "protein_coding") else None
    settings = gene_file, genes, study.expression.clip
    if isinstance(cohort, GdcCohort):
        rows = gdc.read_slides(gdc.Project.of(study))
        return _Inputs(study.gdc / "snapshot.json.gz", rows, files, study.gdc / "expression.h5ad", *settings)
    if isinstance(cohort, SimulatedCohort):
        table = study.truth / "slides.csv"
        if not table.is_file():
            raise NotReady("The cohort has not been simulated yet.", f"Run `wsibench run {study.name} --to 01`.")
        rows = _identified(read_sample_table(table), files)
        return _Inputs(table, rows, files, study.truth / "expression.h5ad", *settings)
    if not isinstance(cohort, LocalCohort):
        raise CohortError(study.no_cohort or "The study has no cohort.", "Ask its two studies for their cohorts.")
    table = study.resolve(cohort.slides or cohort.patients or "")
    folder = study.resolve(cohort.folder) if cohort.folder else None
    rows = read_sample_table(table, "slides" if cohort.slides else "patients", cohort.columns, folder)
    expression = study.resolve(cohort.expression) if cohort.expression else None
    unpaired = "no slide" if cohort.slides else "not in the table of patients"
    id_column = cohort.columns.get("patient_id", "patient_id")
    return _Inputs(table, _identified(rows, files), files, expression, *settings, id_column, unpaired)


def _identified(rows: pd.DataFrame, files: _Identities) -> pd.DataFrame:
    return rows.assign(identity=[files.of(path, slide_identity) for path in rows["path"]])


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
    table = inputs.files.of(inputs.expression or "", file_sha256)
    section = study.model_dump(mode="json", include={"cohort"})
    cohort = make_key(STAGE, FORMAT, section, [digest(_movable(study, inputs.rows).to_dict("records")), table])
    # Which of the genes are scored does not concern the table.
    section = study.expression.model_dump(mode="json", exclude={"highly_variable"})
    genes = inputs.files.of(inputs.gene_file or "", file_sha256)
    expression = make_key(STAGE, FORMAT, section, [table, genes, digest(sorted(set(inputs.present["patient_id"])))])
    exclusions = make_key(STAGE, FORMAT, "exclusions", [cohort, expression])
    artefacts = [Artefact(study.cohort_csv, cohort), Artefact(study.exclusions_csv, exclusions)]
    return artefacts + ([Artefact(study.expression_h5ad, expression)] if inputs.expression else [])


def _write(study: Study, inputs: _Inputs, artefacts: list[Artefact], provenance: dict[str, str]) -> None:
    rows, present = inputs.rows, inputs.present
    if present.empty:
        raise CohortError(f"None of the {len(rows)} slides of {inputs.table} is there.", "Correct the column path.")
    facts = {"files": inputs.files.seen, "unused_columns": rows.attrs.get("unused_columns", [])}
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


def _report(study: Study, missing: list[Failure], tables: dict[str, pd.DataFrame]) -> CohortReport:
    rows, facts = read_cohort(study), (read_meta(study.cohort_csv) or {})["facts"]
    patients, slides = rows.drop_duplicates("patient_id"), rows[rows["slide_id"] != ""]
    counts = {
        "patients": len(patients),
        "slides": len(slides),
        "patients with several slides": int((slides["patient_id"].value_counts() > 1).sum()),
        "sites": patients["site"][patients["site"] != ""].nunique(),
        "patients without a site": int((patients["site"] == "").sum()),
    }
    if has_expression(study):
        counts["genes"] = (read_meta(study.expression_h5ad) or {})["facts"]["n_genes"]
        counts["genes not selected"] = facts["genes_not_selected"]
    subtypes = patients["subtype"][patients["subtype"] != ""].value_counts().sort_index().to_dict()
    exclusions = pd.read_csv(study.exclusions_csv, dtype=str, keep_default_na=False)
    return CohortReport(counts, subtypes, exclusions, missing, facts["unused_columns"], tables)
