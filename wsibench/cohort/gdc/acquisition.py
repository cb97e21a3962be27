"""Acquire a project of the GDC: its file list, the pairing of slides with RNA, the files, and their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wsibench.cohort.clinical import read_tcga_clinical
from wsibench.cohort.gdc import client, download
from wsibench.cohort.gdc.client import GdcFile
from wsibench.cohort.gdc.tables import Pairing, pair, read_star
from wsibench.core import (
    Artefact,
    CohortError,
    Failure,
    GdcCohort,
    GdcError,
    Study,
    digest,
    failure,
    file_sha256,
    key_at,
    make_key,
    meta_path,
    read_meta,
    writing,
)

FORMAT = 2
STAGE = "cohort"


@dataclass(frozen=True)
class Project:
    """A project of the GDC, and the folders of its files."""

    study: str  # name of the study, for the commands in messages
    name: str  # such as ``TCGA-BRCA``
    tables: Path  # folder of the snapshot and of the tables made of it
    slides: Path
    rna: Path
    streamed: bool  # slides are fetched one by one when they are embedded, and not kept
    snapshot: Path | None  # a snapshot to use instead of asking the GDC
    local_slides: Path | None  # folder of slides that the user has downloaded already
    local_rna: Path | None
    clinical: Path | None  # an export of TCGA's clinical data

    @classmethod
    def of(cls, study: Study) -> "Project":
        """Take the project from a study with ``cohort: {source: gdc}``."""
        cohort = study.cohort
        assert isinstance(cohort, GdcCohort)
        given = (cohort.snapshot, cohort.slides, cohort.rna, cohort.clinical)
        paths = [study.resolve(text) if text else None for text in given]
        return cls(study.name, cohort.project, study.gdc, study.slides, study.rna, cohort.stream, *paths)

    @property
    def snapshot_file(self) -> Artefact:
        """Snapshot in the study's folder."""
        given = [file_sha256(path) if path.is_file() else "" for path in (self.snapshot,) if path]
        return Artefact(self.tables / "snapshot.json.gz", make_key("snapshot", FORMAT, {"project": self.name}, given))

    def pairing_file(self, pairing: Pairing) -> Artefact:
        """Locate the table of pairing rules."""
        key = make_key("acquisition", FORMAT, "pairing", [digest(pairing.rules.to_dict("records"))])
        return Artefact(self.tables / "pairing.csv", key)

    def expression_file(self, pairing: Pairing) -> Artefact:
        """Locate the expression of all genes, from which a study selects some."""
        chosen = digest(pairing.rna[["patient_id", "md5"]].to_dict("records"))
        return Artefact(self.tables / "expression.h5ad", make_key("acquisition", FORMAT, "expression", [chosen]))


def expected(project: Project) -> list[Artefact]:
    """List the snapshot, the tables made of it, and (unless they are streamed) the slides.

    RNA files are not among them: once they have been read they may be deleted.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    pairing = read_pairing(project)
    artefacts = [project.snapshot_file, project.pairing_file(pairing), project.expression_file(pairing)]
    if not project.streamed:
        artefacts += [download.artefact(file, project.slides) for file in client.gdc_files(pairing.slides)]
    return artefacts


def acquire(project: Project) -> list[Failure]:
    """Ask, pair, fetch and read whatever is due; slides come last, since they take longest.

    Returns
    -------
    list of Failure
        Slides that could not be fetched.

    Raises
    ------
    GdcError
        When the GDC does not answer, or RNA cannot be fetched.
    DiskFull
        When the files will not fit.
    CohortError
        When a table that the study names cannot be used.
    """
    ask(project)
    pairing = read_pairing(project)
    if pairing.slides.empty:
        raise CohortError(f"No patient of {project.name} has both a diagnostic slide and RNA of a primary tumour.")
    slides = client.gdc_files(pairing.slides)
    local = find_local(project.local_slides, slides)
    if not project.streamed:
        download.check_space([file for file in slides if file.name not in local], project.slides)
    rules = project.pairing_file(pairing)
    if rules.due():
        with writing(rules) as path:
            pairing.rules.to_csv(path, index=False)
    expression = project.expression_file(pairing)
    if expression.due():
        _fetch_expression(project, pairing.rna, expression)
    errors = {} if project.streamed else download.fetch_all(slides, project.slides, label="01 slides", local=local)
    return [
        failure(
            Path(file.name).stem, STAGE, download.artefact(file, project.slides).key, _try_again(project, "01", error)
        )
        for file, error in errors.items()
    ]


def report(project: Project) -> tuple[dict[str, str], dict[str, pd.DataFrame]]:
    """Describe an acquired project.

    Returns
    -------
    provenance
        Project, data release, time and address of the query.
    tables
        By title: the pairing rules with their counts, and a summary of the clinical data.
    """
    pairing, meta = read_pairing(project), read_meta(project.snapshot_file.path)
    provenance = meta["facts"] if meta else {}
    tables = {", ".join(filter(None, map(provenance.get, ("project", "data_release", "asked")))): pairing.rules}
    if project.clinical:
        clinical = read_tcga_clinical(project.clinical)
        known = clinical.reindex(pairing.slides["patient_id"].unique()).replace("", pd.NA)
        summary = known.describe().T.rename_axis("field").reset_index()
        summary.insert(1, "column", summary["field"].map(clinical.attrs["columns"]).fillna(""))
        tables[f"Clinical data of {len(known)} patients"] = summary
    return provenance, tables


def ask(project: Project) -> None:
    """Ask the GDC for the project's files, unless that has been done or the study names a snapshot."""
    artefact = project.snapshot_file
    if artefact.due():
        answer = client.read_snapshot(project.snapshot, project.name) if project.snapshot else client.ask(project.name)
        facts = {name: str(answer.get(name) or "") for name in ("project", "asked", "api")}
        facts["data_release"] = str(answer["status"].get("data_release", ""))
        with writing(artefact, **facts) as path:
            client.save_snapshot(answer, path)


def read_pairing(project: Project) -> Pairing:
    """Pair slides with RNA from the snapshot.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    path = project.tables / "snapshot.json.gz"
    key_at(path)
    answer = client.read_snapshot(path, project.name)
    return pair(client.file_table(answer["slides"]), client.file_table(answer["rna"]))


def read_slides(project: Project) -> pd.DataFrame:
    """Tabulate the paired slides.

    Returns
    -------
    DataFrame
        One row a slide, all text: slide_id (the file's name without suffix), patient_id, site, subtype,
        path, mpp, identity (the published md5; empty for a slide that is missing, unless slides are streamed).
    """
    rows = read_pairing(project).slides
    artefacts = [download.artefact(file, project.slides) for file in client.gdc_files(rows)]
    there = pd.Series([project.streamed or artefact.due() is None for artefact in artefacts], rows.index)
    subtypes = read_tcga_clinical(project.clinical)["subtype"].to_dict() if project.clinical else {}
    rows = rows.assign(
        slide_id=[artefact.path.stem for artefact in artefacts],
        subtype=rows["patient_id"].map(subtypes).fillna(""),
        path=[str(artefact.path) for artefact in artefacts],
        mpp="",
        identity=rows["md5"].where(there, ""),
    )
    columns = ["slide_id", "patient_id", "site", "subtype", "path", "mpp", "identity"]
    return rows[columns].sort_values(["patient_id", "slide_id"], ignore_index=True)


def remote_files(study: Study) -> pd.DataFrame:
    """Tabulate the files that a GDC study needs, asking the GDC when that has not been done.

    Returns
    -------
    DataFrame
        One row a file: kind (``slide`` or ``rna``), file_name, patient_id, site, size (bytes) and
        to_fetch (bool, False for files that are there or that the user has).
    """
    project = Project.of(study)
    ask(project)
    pairing = read_pairing(project)
    tables = []
    for kind, rows, folder, local in (
        ("slide", pairing.slides, project.slides, project.local_slides),
        ("rna", pairing.rna, project.rna, project.local_rna),
    ):
        files = client.gdc_files(rows)
        copies = find_local(local, files)
        due = [file.name not in copies and bool(download.artefact(file, folder).due()) for file in files]
        tables.append(rows[["file_name", "patient_id", "site", "size"]].assign(kind=kind, to_fetch=due))
    return pd.concat(tables, ignore_index=True)


@contextmanager
def fetch_slide(study: Study, name: str) -> Iterator[Path]:
    """Fetch one slide of a streamed cohort for the duration of a ``with`` block.

    The file is deleted however the block ends, since otherwise slides that fail would fill the disk; a
    slide in a folder of the user's own stays there.  A process that is killed leaves at most one slide,
    which the next one uses.

    Parameters
    ----------
    study
        With ``cohort: {source: gdc, stream: true}``.
    name
        The slide's file name.

    Yields
    ------
    Path
        The slide.

    Raises
    ------
    GdcError
        When the slide cannot be fetched; a part that was fetched stays, to be continued.
    """
    project = Project.of(study)
    [file] = [file for file in client.gdc_files(read_pairing(project).slides) if file.name == name]
    try:
        path = download.fetch(file, project.slides, local=find_local(project.local_slides, [file]).get(name))
    except GdcError as error:
        raise _try_again(project, "03", error) from None
    try:
        yield path
    finally:
        meta_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def find_local(folder: Path | None, files: list[GdcFile]) -> dict[str, Path]:
    """Find the user's copies of files, directly in a folder or in a subfolder each; paths by file name.

    Raises
    ------
    CohortError
        When there is no such folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise CohortError(f"There is no folder {folder}.", "Correct `slides` or `rna` of the cohort in study.yaml.")
    wanted = {file.name for file in files}
    return {path.name: path for path in [*folder.glob("*"), *folder.glob("*/*")] if path.name in wanted}


def _try_again(project: Project, stage: str, error: GdcError) -> GdcError:
    """Add the command that retries a slide, since a recorded failure is not retried by itself."""
    command = f"wsibench run {project.study} --from {stage} --to {stage} --force"
    return GdcError(error.what, f"{error.remedy} To try again: {command}".strip())


def _fetch_expression(project: Project, rna: pd.DataFrame, artefact: Artefact) -> None:
    files = client.gdc_files(rna)
    errors = download.fetch_all(files, project.rna, label="01 RNA", local=find_local(project.local_rna, files))
    for file, error in errors.items():
        raise GdcError(f"{len(errors)} RNA files could not be fetched; {file.name}: {error.what}", error.remedy)
    patients = rna.set_index("patient_id")
    adata = read_star({patient: project.rna / name for patient, name in patients["file_name"].items()})
    adata.obs["barcode"] = patients["barcode"].loc[adata.obs_names]
    with writing(artefact, n_patients=adata.n_obs, n_genes=adata.n_vars) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
