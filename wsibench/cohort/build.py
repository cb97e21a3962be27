"""Who is in the study: slides, patients and sites from a cohort's tables, paired with expression."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsibench.cohort.expression import Expression, gene_file, read_expression_table
from wsibench.cohort.sample_table import ROSTER_COLUMNS, Source, read_roster, source_of
from wsibench.core import (
    Artefact,
    CohortError,
    Failure,
    GdcCohort,
    SimulatedCohort,
    SlideError,
    Study,
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

FORMAT = 1
STAGE = "cohort"

COLUMNS = (*ROSTER_COLUMNS, "identity")
"""Columns of cohort.csv, all text, empty where unknown."""


@dataclass(frozen=True)
class CohortReport:
    """Who is in the study, who is not, and why."""

    study: str
    counts: dict[str, int]
    """Slides, patients, patients with several slides, sites, genes, …"""
    subtypes: dict[str, int]
    """Patients a subtype."""
    exclusions: pd.DataFrame
    """What (slide, patient, gene), id and reason, as in exclusions.csv."""
    failures: list[Failure]
    """Slides that are not there."""
    unused_columns: list[str]
    """Columns of the cohort's table that nothing was read from."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """What else a source has to show, by title: the pairing rules of a GDC cohort with their counts, …"""

    @property
    def summary(self) -> pd.DataFrame:
        """Exclusions counted by what and reason, with the first few ids."""
        # "missing values (3 patients)" and "missing values (4 patients)" are one reason.
        reason = self.exclusions["reason"].str.replace(r" \(.*\)$", "", regex=True)
        groups = self.exclusions.groupby(["what", reason], sort=False)["id"]
        return groups.agg(n="size", ids=lambda ids: some(list(ids))).reset_index()

    def __str__(self) -> str:
        lines = [f"Cohort of {self.study}: " + ", ".join(f"{n} {what}" for what, n in self.counts.items())]
        if self.subtypes:
            lines.append("Subtypes: " + ", ".join(f"{name} {n}" for name, n in self.subtypes.items()))
        lines += [f"Left out: {row.n} × {row.what}, {row.reason} ({row.ids})" for row in self.summary.itertuples()]
        if self.unused_columns:
            lines.append(f"Columns not used: {', '.join(self.unused_columns)}")
        lines += [f"{title}\n{table.to_string(index=False)}" for title, table in self.tables.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        counts = pd.DataFrame({"n": {**self.counts, **{f"subtype {name}": n for name, n in self.subtypes.items()}}})
        unused = f"<p>Columns not used: {', '.join(self.unused_columns)}</p>" if self.unused_columns else ""
        left_out = "<p>Nothing was left out.</p>"
        if len(self.exclusions):
            left_out = "<p>Left out (exclusions.csv lists all):</p>" + self.summary.to_html(index=False)
        tables = [f"<p>{escape(title)}</p>{table.to_html(index=False)}" for title, table in self.tables.items()]
        return counts.to_html(header=False) + left_out + unused + "".join(tables)


def not_applicable(study: Study) -> str | None:
    """Why the study has no cohort of its own, or None."""
    return study.no_cohort


def expected(study: Study) -> list[Artefact]:
    """cohort.csv, exclusions.csv and expression.h5ad, and what was simulated or fetched for them."""
    if isinstance(study.cohort, SimulatedCohort):
        from wsibench.cohort.simulation import simulate

        simulated = simulate.expected(study)
        return simulated + _artefacts(study, *_simulated_keys(study, simulated))
    files = _Files(study)
    fetched = []
    if isinstance(study.cohort, GdcCohort):
        from wsibench.cohort.gdc import acquire as acquisition

        fetched = acquisition.expected(study)
    rows, _ = _rows(study, files)
    return fetched + _artefacts(study, *_table_keys(study, rows, files))


def build(study: Study) -> CohortReport:
    """Make or read the cohort's tables, check them, and write cohort.csv and expression.h5ad.

    Raises
    ------
    CohortError
        When a table cannot be used as it is; nothing is written then.
    TooManyFailures
        When more slide files are missing than the study's limits allow.
    """
    files = _Files(study)
    failures, tables, facts = [], {}, {}
    if isinstance(study.cohort, SimulatedCohort):
        from wsibench.cohort.simulation import simulate

        simulate.simulate(study)
    elif isinstance(study.cohort, GdcCohort):
        from wsibench.cohort.gdc import acquire as acquisition

        acquired = acquisition.acquire(study)
        failures, tables, facts = acquired.failures, acquired.tables, {"provenance": acquired.provenance}
    rows, unused = _rows(study, files)
    if isinstance(study.cohort, SimulatedCohort):
        keys = _simulated_keys(study, simulate.expected(study))
    else:
        keys = _table_keys(study, rows, files)
    missing = failures or _missing(rows)
    _record_missing(study, missing, len(rows))
    artefacts = _artefacts(study, *keys)
    if any(artefact.due() for artefact in artefacts):
        _write(study, source_of(study), rows, missing, artefacts, files=files.seen, unused_columns=unused, **facts)
    return _report(study, missing, tables)


def _rows(study: Study, files: "_Files") -> tuple[pd.DataFrame, list[str]]:
    """The cohort's rows with each slide's identity, and the columns that nothing is read from."""
    if isinstance(study.cohort, GdcCohort):
        from wsibench.cohort.gdc import acquire as acquisition

        return acquisition.read_slides(study), []
    rows, unused = read_roster(study, source_of(study))
    return rows.assign(identity=[files.identity(path, slide_identity) for path in rows["path"]]), unused


def read_cohort(study: Study) -> pd.DataFrame:
    """One row a slide, all text, empty where unknown; `path` is absolute.

    A cohort given as a table of patients has rows without `path`, and without `slide_id` where the
    table names no slides.

    Raises
    ------
    NotReady
        When the cohort has not been built.
    """
    key_at(study.cohort_csv)
    frame = pd.read_csv(study.cohort_csv, dtype=str, keep_default_na=False)
    frame["path"] = [str(study.root / path) if path else "" for path in frame["path"]]
    return frame


def slides_at_hand(study: Study) -> list[str]:
    """Ids of the slides whose files are here now, to be looked at: of a streamed cohort, none."""
    rows = read_cohort(study)
    return [slide for slide, path in zip(rows["slide_id"], rows["path"], strict=True) if path and Path(path).is_file()]


def read_expression(study: Study) -> "AnnData":
    """Expression of the cohort's patients: AnnData, X float32 (patients × genes).

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
    return source_of(study).expression is not None


class _Files:
    """Identities of files, read anew only when a file's size or time has changed."""

    def __init__(self, study: Study) -> None:
        facts = (read_meta(study.cohort_csv) or {}).get("facts", {})
        self.known: dict[str, list] = facts.get("files", {})
        self.seen: dict[str, list] = {}

    def identity(self, path: str | Path, identify: Callable[[Path], str]) -> str:
        """What tells the file apart by content; empty when there is no such file."""
        path = Path(path)
        if str(path) in ("", ".") or not path.is_file():
            return ""
        stat = path.stat()
        size, mtime_ns, identity = self.known.get(str(path), (None, None, ""))
        if (size, mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            identity = identify(path)
        self.seen[str(path)] = [stat.st_size, stat.st_mtime_ns, identity]
        return identity


# Keys


def _artefacts(study: Study, cohort_key: str, expression_key: str) -> list[Artefact]:
    both = make_key(STAGE, FORMAT, "exclusions", made_from=[cohort_key, expression_key])
    artefacts = [Artefact(study.cohort_csv, cohort_key), Artefact(study.exclusions_csv, both)]
    if has_expression(study):
        artefacts.append(Artefact(study.expression_h5ad, expression_key))
    return artefacts


def _simulated_keys(study: Study, simulated: list[Artefact]) -> tuple[str, str]:
    made_from = [*(artefact.key for artefact in simulated), _listed_genes(study)]
    section = study.cohort.model_dump(mode="json")
    expression = study.expression.model_dump(mode="json", exclude={"highly_variable"})
    return make_key(STAGE, FORMAT, section, made_from), make_key(STAGE, FORMAT, expression, made_from)


def _table_keys(study: Study, rows: pd.DataFrame, files: _Files) -> tuple[str, str]:
    """Keys from what the tables say rather than from their bytes: a moved slide refits nothing."""
    source = source_of(study)
    table = files.identity(source.expression, file_sha256) if source.expression else ""
    cohort = make_key(STAGE, FORMAT, study.cohort.model_dump(mode="json"), [digest(rows.to_dict("records")), table])
    patients = digest(sorted(set(_present(rows)["patient_id"])))
    # Which of the genes are scored is no matter of the table.
    section = study.expression.model_dump(mode="json", exclude={"highly_variable"})
    expression = make_key(STAGE, FORMAT, section, [table, _listed_genes(study), patients])
    return cohort, expression


def _listed_genes(study: Study) -> str:
    path = gene_file(study)
    return file_sha256(path) if path and path.is_file() else ""


# Writing


def _present(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose slide can be read, and those of a cohort without slide files."""
    return rows[(rows["identity"] != "") | (rows["path"] == "")]


def _missing(rows: pd.DataFrame) -> list[Failure]:
    failures = []
    for row in rows[(rows["identity"] == "") & (rows["path"] != "")].itertuples():
        key = make_key(STAGE, FORMAT, "slide file", [row.slide_id, row.path])
        error = SlideError(f"There is no file {row.path}.", "Correct its path in the table of slides, or drop the row.")
        failures.append(failure(row.slide_id, STAGE, key, error))
    return failures


def _record_missing(study: Study, failures: list[Failure], n_slides: int) -> None:
    if failures or study.failures_csv.exists():
        record_failures(study.failures_csv, STAGE, failures)
    check_failures(failures, n_slides, study.limits.failed_slides)


def _write(
    study: Study,
    source: Source,
    rows: pd.DataFrame,
    missing: list[Failure],
    artefacts: list[Artefact],
    **facts: object,
) -> None:
    present = _present(rows)
    if present.empty:
        raise CohortError(f"None of the {len(rows)} slides of {source.table} is there.", "Correct the column path.")
    exclusions = [("slide", row.slide_id, "no such file") for row in missing]
    if isinstance(study.cohort, GdcCohort):
        from wsibench.cohort.gdc import acquire as acquisition

        exclusions += acquisition.exclusions(study)
    lost = sorted(set(rows["patient_id"]) - set(present["patient_id"]))
    exclusions += [("patient", patient, "no slide") for patient in lost]
    table = None
    if source.expression:
        stranger = "no slide" if source.has_slides else "not in the table of patients"
        table = read_expression_table(
            study,
            source.expression,
            sorted(set(present["patient_id"])),
            id_column=source.columns.get("patient_id", "patient_id"),
            stranger=stranger,
        )
        present = present[present["patient_id"].isin(table.adata.obs_names)]
        facts["genes_not_selected"] = table.not_selected
        exclusions += table.exclusions
    with writing(artefacts[1]) as path:
        frame = pd.DataFrame(exclusions, columns=["what", "id", "reason"])
        frame.drop_duplicates(["what", "id"]).to_csv(path, index=False)
    if table is not None:
        _write_expression(artefacts[2], table)
    with writing(artefacts[0], **facts) as path:
        inside = [os.path.relpath(p, study.root) if Path(p).is_relative_to(study.root) else p for p in present["path"]]
        present.assign(path=inside)[list(COLUMNS)].to_csv(path, index=False)


def _write_expression(artefact: Artefact, table: Expression) -> None:
    with writing(artefact, n_patients=table.adata.n_obs, n_genes=table.adata.n_vars) as path:
        table.adata.write_h5ad(path, convert_strings_to_categoricals=False)


def _report(study: Study, missing: list[Failure], tables: dict[str, pd.DataFrame]) -> CohortReport:
    rows = read_cohort(study)
    facts = read_meta(study.cohort_csv)["facts"]
    patients = rows.drop_duplicates("patient_id")
    slides = rows[rows["slide_id"] != ""]
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
    return CohortReport(study.name, counts, subtypes, exclusions, missing, facts["unused_columns"], tables)
