"""A project of the GDC brought here: its file list, who can be paired, the files, and their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wsibench.cohort.gdc import clinical, download, pairing as tcga, snapshot, star
from wsibench.cohort.gdc.client import GdcFile
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
    """What `acquire` could not get, and what it has to show."""

    failures: list[Failure]
    """Slides that could not be fetched."""
    tables: dict[str, pd.DataFrame]
    """Pairing rules with their counts, and coverage of the clinical table."""
    provenance: dict[str, str]
    """Project, data release, the hour it was asked, and the address."""


def snapshot_artefact(study: Study) -> Artefact:
    """The GDC's answer, kept: the user's when the study names one, else the one that was asked for."""
    made_from = _identities(study, [study.cohort.snapshot])
    key = make_key("snapshot", FORMAT, {"project": study.cohort.project}, made_from)
    return Artefact(study.gdc / "snapshot.json.gz", key)


def expected(study: Study) -> list[Artefact]:
    """The snapshot, the tables made of it, and (unless they are streamed) the slides.

    RNA files are not among them: once they have been read they may be deleted.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    asked = snapshot_artefact(study)
    key_at(asked.path)
    pairing = read_pairing(study)
    artefacts = [asked, *_tables(study, pairing).values()]
    if not study.streamed:
        artefacts += [download.artefact(file, study.slides) for file in snapshot.gdc_files(pairing.slides)]
    return artefacts


def acquire(study: Study) -> Acquired:
    """Ask, pair, fetch and read whatever is due; slides come last, since they take longest.

    Raises
    ------
    GdcError
        When the GDC does not answer, or RNA cannot be had.
    DiskFull
        When the files will not fit.
    CohortError
        When a table that the study names cannot be used.
    """
    cohort = study.cohort
    ask(study)
    pairing = read_pairing(study)
    if pairing.slides.empty:
        raise CohortError(f"No patient of {cohort.project} has both a diagnostic slide and RNA of a primary tumour.")
    slides = snapshot.gdc_files(pairing.slides)
    rna = [] if cohort.xena else snapshot.gdc_files(pairing.rna)
    have = found(study, cohort.slides, slides)
    if not study.streamed:
        download.check_space([file for file in slides if _to_fetch(file, study.slides, have)], study.slides)
    tables = _tables(study, pairing)
    if tables["pairing"].due():
        with writing(tables["pairing"]) as path:
            pairing.rules.to_csv(path, index=False)
    if "clinical" in tables and tables["clinical"].due():
        with writing(tables["clinical"]) as path:
            clinical.read_clinical(study.resolve(cohort.clinical)).to_csv(path)
    if tables["expression"].due():
        if rna:
            _fetch_rna(study, rna)
        _write_expression(study, pairing, tables["expression"])
    errors = {} if study.streamed else download.fetch_all(slides, study.slides, label="01 slides", already=have)
    failures = [
        failure(
            Path(file.name).stem,
            STAGE,
            download.artefact(file, study.slides).key,
            _again(errors[file.name], study, "01"),
        )
        for file in slides
        if file.name in errors
    ]
    provenance = read_meta(snapshot_artefact(study).path)["facts"]
    return Acquired(failures, _shown(study, pairing, provenance), provenance)


def ask(study: Study) -> None:
    """Ask the GDC for the project's files, unless that has been done or the study names an answer."""
    cohort, asked = study.cohort, snapshot_artefact(study)
    if asked.due():
        if cohort.snapshot:
            answer = snapshot.read_snapshot(study.resolve(cohort.snapshot), cohort.project)
        else:
            answer = snapshot.ask(cohort.project)
        facts = {name: answer.get(name) or "" for name in ("project", "asked", "api")}
        facts["data_release"] = answer["status"].get("data_release", "")
        with writing(asked, **facts) as path:
            snapshot.save_snapshot(answer, path)


def read_pairing(study: Study) -> tcga.Pairing:
    """Slides and RNA that the rules keep, from the snapshot.

    Raises
    ------
    NotReady
        When the GDC has not been asked yet.
    """
    cohort = study.cohort
    path = snapshot_artefact(study).path
    key_at(path)
    answer = snapshot.read_snapshot(path, cohort.project)
    rna = snapshot.file_table(answer["rna"])
    if cohort.xena:
        barcodes = star.xena_samples(study.resolve(cohort.xena.tpm))
        rna = pd.DataFrame({"file_name": barcodes, "barcode": barcodes, "ffpe": False})
    return tcga.pair(snapshot.file_table(answer["slides"]), rna)


def read_slides(study: Study) -> pd.DataFrame:
    """One row a slide, all text: slide_id, patient_id, site, subtype, path, mpp, identity.

    `identity` is the published md5; it is empty for a slide that is not here, unless slides are
    streamed.  `slide_id` is the file's name without its suffix.
    """
    pairing, streamed = read_pairing(study), study.streamed
    files = snapshot.gdc_files(pairing.slides)
    subtypes = _subtypes(study)
    artefacts = [download.artefact(file, study.slides) for file in files]
    rows = pd.DataFrame(
        {
            "slide_id": [Path(file.name).stem for file in files],
            "patient_id": pairing.slides["patient_id"],
            "site": pairing.slides["site"],
            "subtype": pairing.slides["patient_id"].map(subtypes).fillna(""),
            "path": [str(artefact.path) for artefact in artefacts],
            "mpp": "",
            "identity": [
                file.md5 if streamed or artefact.due() is None else ""
                for file, artefact in zip(files, artefacts, strict=True)
            ],
        }
    )
    return rows.sort_values(["patient_id", "slide_id"], ignore_index=True)


@contextmanager
def fetched(study: Study, name: str) -> Iterator[Path]:
    """One slide of a streamed cohort, here for as long as the context lasts.

    What was fetched is deleted however the context ends, or else the slides that fail would fill the
    disk; a slide in a folder of the user's own stays there.  A process that is killed leaves at most
    the slide it was at, which the next one takes up.

    Raises
    ------
    GdcError
        When the slide cannot be had; the part that was fetched stays, to be gone on with.
    """
    [file] = [file for file in snapshot.gdc_files(read_pairing(study).slides) if file.name == name]
    try:
        path = download.fetch(file, study.slides, already=found(study, study.cohort.slides, [file]).get(name))
    except GdcError as error:
        raise _again(error, study, "03") from None
    try:
        yield path
    finally:
        meta_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _again(error: GdcError, study: Study, stage: str) -> GdcError:
    """The error of a slide, saying how to try it again: a failure that is known is not, by itself."""
    command = f"wsibench run {study.name} --from {stage} --to {stage} --force"
    return GdcError(error.what, f"{error.remedy} To try again: {command}".strip())


def exclusions(study: Study) -> list[tuple[str, str, str]]:
    """What the pairing rules drop: what, id, reason."""
    return list(read_pairing(study).dropped.itertuples(index=False, name=None))


def expression_path(study: Study) -> Path:
    """Expression of all genes, with counts as a layer, before a study selects genes."""
    return study.gdc / "expression.h5ad"


def _tables(study: Study, pairing: tcga.Pairing) -> dict[str, Artefact]:
    cohort = study.cohort
    chosen = pairing.rna[["patient_id", "barcode"] if cohort.xena else ["patient_id", "md5"]].to_dict("records")
    given = _identities(study, cohort.xena.paths) if cohort.xena else []
    tables = {
        "pairing": Artefact(
            study.gdc / "pairing.csv",
            make_key("acquisition", FORMAT, "pairing", [digest(pairing.rules.to_dict("records"))]),
        ),
        "expression": Artefact(
            expression_path(study), make_key("acquisition", FORMAT, "expression", [digest(chosen), *given])
        ),
    }
    if cohort.clinical:
        key = make_key("acquisition", FORMAT, "clinical", _identities(study, [cohort.clinical]))
        tables["clinical"] = Artefact(study.gdc / "clinical.csv", key)
    return tables


def _identities(study: Study, given: list[str | None]) -> list[str]:
    """sha256 of files that the study names."""
    paths = [study.resolve(path) for path in given if path]
    for path in paths:
        if not path.is_file():
            raise CohortError(f"There is no file {path}.", "Correct its path under `cohort` in study.yaml.")
    return [file_sha256(path) for path in paths]


def _subtypes(study: Study) -> dict[str, str]:
    if not study.cohort.clinical:
        return {}
    table = clinical.read_clinical(study.resolve(study.cohort.clinical))
    return table["subtype"].to_dict()


def _fetch_rna(study: Study, files: list[GdcFile]) -> None:
    have = found(study, study.cohort.rna, files)
    errors = download.fetch_batches(files, study.rna, label="01 RNA", already=have)
    if errors:
        name, error = next(iter(errors.items()))
        raise GdcError(f"{len(errors)} batches of RNA could not be had; of {name}: {error.what}", error.remedy)


def _write_expression(study: Study, pairing: tcga.Pairing, artefact: Artefact) -> None:
    cohort = study.cohort
    if cohort.xena:
        paths = [study.resolve(path) if path else None for path in (cohort.xena.tpm, cohort.xena.counts)]
        _, samples = star.read_xena(paths[0], counts=paths[1], annotation=study.resolve(cohort.xena.annotation))
        adata = samples[pairing.rna["barcode"].to_numpy()].copy()
        adata.obs_names = pd.Index(pairing.rna["patient_id"], name="patient_id")
    else:
        adata = star.read_star(
            {row.patient_id: study.rna / row.file_name for row in pairing.rna.itertuples(index=False)}
        )
    adata.obs["barcode"] = pairing.rna.set_index("patient_id")["barcode"].loc[adata.obs_names]
    with writing(artefact, n_patients=adata.n_obs, n_genes=adata.n_vars) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)


def found(study: Study, folder: str | None, files: list[GdcFile]) -> dict[str, Path]:
    """Files that the user has, by name: in `folder` itself, or a folder each, whatever that is called."""
    if not folder:
        return {}
    root = study.resolve(folder)
    if not root.is_dir():
        raise CohortError(f"There is no folder {root}.", "Correct `slides` or `rna` of the cohort in study.yaml.")
    wanted = {file.name for file in files}
    return {path.name: path for path in [*root.glob("*"), *root.glob("*/*")] if path.name in wanted}


def _to_fetch(file: GdcFile, folder: Path, have: dict[str, Path]) -> bool:
    return file.name not in have and download.artefact(file, folder).due() is not None


def _shown(study: Study, pairing: tcga.Pairing, provenance: dict[str, str]) -> dict[str, pd.DataFrame]:
    asked = f"asked {provenance['asked']}" if provenance["asked"] else ""
    title = ", ".join(filter(None, (provenance["project"], provenance["data_release"], asked)))
    shown = {title: pairing.rules}
    if study.cohort.clinical:
        table = clinical.read_clinical(study.resolve(study.cohort.clinical))
        shown["Clinic and subtype"] = clinical.coverage(table, sorted(set(pairing.slides["patient_id"])))
    return shown
