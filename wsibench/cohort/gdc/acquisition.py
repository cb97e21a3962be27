"""Acquire a project of the GDC for a study: its file list, the pairing, the files, and their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from wsibench.cohort.clinical import read_tcga_clinical, tcga_coverage
from wsibench.cohort.gdc import client, download
from wsibench.cohort.gdc.client import GdcFile
from wsibench.cohort.gdc.pairing import Pairing, pair
from wsibench.core import (
    Artefact,
    CohortError,
    Failure,
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

FORMAT = 1
STAGE = "cohort"


@dataclass(frozen=True)
class Acquired:
    """Files that could not be fetched, and tables to report."""

    failures: list[Failure] = field(default_factory=list)
    """Slides that could not be fetched."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Pairing rules with their counts, and coverage of the clinical table, by title."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Project, data release, time and address of the query."""


def expected(study: Study) -> list[Artefact]:
    """List the snapshot, the tables made of it, and (unless they are streamed) the slides.

    RNA files are not among them: once they have been read they may be deleted.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    pairing = read_pairing(study)
    artefacts = [_snapshot(study), _pairing_table(study, pairing), _expression(study, pairing)]
    if not study.streamed:
        artefacts += [download.artefact(file, study.slides) for file in client.gdc_files(pairing.slides)]
    return artefacts


def acquire(study: Study) -> Acquired:
    """Ask, pair, fetch and read whatever is due; slides come last, since they take longest.

    Raises
    ------
    GdcError
        When the GDC does not answer, or RNA cannot be fetched.
    DiskFull
        When the files will not fit.
    CohortError
        When a table that the study names cannot be used.
    """
    ask(study)
    pairing = read_pairing(study)
    if pairing.slides.empty:
        raise CohortError(
            f"No patient of {study.cohort.project} has both a diagnostic slide and RNA of a primary tumour."
        )
    slides = client.gdc_files(pairing.slides)
    local = local_copies(study, study.cohort.slides, slides)
    due = [file for file in slides if file.name not in local and download.artefact(file, study.slides).due()]
    if not study.streamed:
        download.check_space(due, study.slides)
    rules = _pairing_table(study, pairing)
    if rules.due():
        with writing(rules) as path:
            pairing.rules.to_csv(path, index=False)
    expression = _expression(study, pairing)
    if expression.due():
        _fetch_rna(study, client.gdc_files(pairing.rna))
        _write_expression(pairing.rna, study.rna, expression)
    errors = {} if study.streamed else download.fetch_all(slides, study.slides, label="01 slides", local=local)
    failures = [
        failure(Path(file.name).stem, STAGE, artefact.key, _try_again(errors[file.name], study, "01"))
        for file in slides
        if file.name in errors and (artefact := download.artefact(file, study.slides))
    ]
    provenance = read_meta(study.gdc / "snapshot.json.gz")["facts"]
    title = ", ".join(filter(None, (provenance["project"], provenance["data_release"], provenance["asked"])))
    tables = {title: pairing.rules}
    if study.cohort.clinical:
        clinical = read_tcga_clinical(study.resolve(study.cohort.clinical))
        tables["Clinical data"] = tcga_coverage(clinical, sorted(set(pairing.slides["patient_id"])))
    return Acquired(failures, tables, provenance)


def ask(study: Study) -> None:
    """Ask the GDC for the project's files, unless that has been done or the study names a snapshot."""
    cohort, artefact = study.cohort, _snapshot(study)
    if artefact.due():
        if cohort.snapshot:
            answer = client.read_snapshot(study.resolve(cohort.snapshot), cohort.project)
        else:
            answer = client.ask(cohort.project)
        facts = {name: str(answer.get(name) or "") for name in ("project", "asked", "api")}
        facts["data_release"] = str(answer["status"].get("data_release", ""))
        with writing(artefact, **facts) as path:
            client.save_snapshot(answer, path)


def read_pairing(study: Study) -> Pairing:
    """Pair slides with RNA from the snapshot.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    path = study.gdc / "snapshot.json.gz"
    key_at(path)
    answer = client.read_snapshot(path, study.cohort.project)
    return pair(client.file_table(answer["slides"]), client.file_table(answer["rna"]))


def read_slides(study: Study) -> pd.DataFrame:
    """Tabulate the paired slides.

    Returns
    -------
    DataFrame
        One row a slide, all text: slide_id (the file's name without suffix), patient_id, site, subtype,
        path, mpp, identity (the published md5; empty for a slide that is missing, unless slides are streamed).
    """
    paired = read_pairing(study).slides
    files = client.gdc_files(paired)
    subtypes = {}
    if study.cohort.clinical:
        subtypes = read_tcga_clinical(study.resolve(study.cohort.clinical))["subtype"].to_dict()
    rows = pd.DataFrame(
        {
            "slide_id": [Path(file.name).stem for file in files],
            "patient_id": paired["patient_id"],
            "site": paired["site"],
            "subtype": paired["patient_id"].map(subtypes).fillna(""),
            "path": [str(study.slides / file.name) for file in files],
            "mpp": "",
            "identity": [
                file.md5 if study.streamed or download.artefact(file, study.slides).due() is None else ""
                for file in files
            ],
        }
    )
    return rows.sort_values(["patient_id", "slide_id"], ignore_index=True)


def remote_files(study: Study) -> pd.DataFrame:
    """Tabulate the files that the study needs, asking the GDC when that has not been done.

    Returns
    -------
    DataFrame
        One row a file: kind (``slide`` or ``rna``), file_name, patient_id, site, size (bytes) and
        to_fetch (bool, False for files that are there or that the user has).
    """
    ask(study)
    pairing = read_pairing(study)
    tables = []
    for kind, rows, folder, local in (
        ("slide", pairing.slides, study.slides, study.cohort.slides),
        ("rna", pairing.rna, study.rna, study.cohort.rna),
    ):
        files = client.gdc_files(rows)
        copies = local_copies(study, local, files)
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
    [file] = [file for file in client.gdc_files(read_pairing(study).slides) if file.name == name]
    try:
        path = download.fetch(file, study.slides, local=local_copies(study, study.cohort.slides, [file]).get(name))
    except GdcError as error:
        raise _try_again(error, study, "03") from None
    try:
        yield path
    finally:
        meta_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def local_copies(study: Study, folder: str | None, files: list[GdcFile]) -> dict[str, Path]:
    """Find files in a folder of the user's, directly in it or in a subfolder each.

    Parameters
    ----------
    study
        Resolves the path.
    folder
        As written in study.yaml; None for no folder.
    files
        Files to look for.

    Returns
    -------
    dict
        Paths by file name.

    Raises
    ------
    CohortError
        When there is no such folder.
    """
    if not folder:
        return {}
    root = study.resolve(folder)
    if not root.is_dir():
        raise CohortError(f"There is no folder {root}.", "Correct `slides` or `rna` of the cohort in study.yaml.")
    wanted = {file.name for file in files}
    return {path.name: path for path in [*root.glob("*"), *root.glob("*/*")] if path.name in wanted}


def _try_again(error: GdcError, study: Study, stage: str) -> GdcError:
    """Add the command that retries a slide, since a recorded failure is not retried by itself."""
    command = f"wsibench run {study.name} --from {stage} --to {stage} --force"
    return GdcError(error.what, f"{error.remedy} To try again: {command}".strip())


def _snapshot(study: Study) -> Artefact:
    """Artefact of the GDC's answer: copied from the study's own snapshot when it names one, else asked for."""
    given = []
    if study.cohort.snapshot:
        path = study.resolve(study.cohort.snapshot)
        if not path.is_file():
            raise CohortError(f"There is no file {path}.", "Correct `snapshot` of the cohort in study.yaml.")
        given = [file_sha256(path)]
    key = make_key("snapshot", FORMAT, {"project": study.cohort.project}, given)
    return Artefact(study.gdc / "snapshot.json.gz", key)


def _pairing_table(study: Study, pairing: Pairing) -> Artefact:
    key = make_key("acquisition", FORMAT, "pairing", [digest(pairing.rules.to_dict("records"))])
    return Artefact(study.gdc / "pairing.csv", key)


def _expression(study: Study, pairing: Pairing) -> Artefact:
    """Artefact of the expression of all genes, before a study selects some."""
    chosen = pairing.rna[["patient_id", "md5"]].to_dict("records")
    return Artefact(study.gdc / "expression.h5ad", make_key("acquisition", FORMAT, "expression", [digest(chosen)]))


def _fetch_rna(study: Study, files: list[GdcFile]) -> None:
    local = local_copies(study, study.cohort.rna, files)
    errors = download.fetch_all(files, study.rna, label="01 RNA", local=local)
    if errors:
        name, error = next(iter(errors.items()))
        raise GdcError(f"{len(errors)} RNA files could not be fetched; {name}: {error.what}", error.remedy)


def _write_expression(rna: pd.DataFrame, folder: Path, artefact: Artefact) -> None:
    from wsibench.cohort.gdc.star import read_star  # imports anndata, which `wsibench status` does without

    adata = read_star({row.patient_id: folder / row.file_name for row in rna.itertuples(index=False)})
    adata.obs["barcode"] = rna.set_index("patient_id")["barcode"].loc[adata.obs_names]
    with writing(artefact, n_patients=adata.n_obs, n_genes=adata.n_vars) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
