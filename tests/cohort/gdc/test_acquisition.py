"""A TCGA project from the GDC's answer to cohort.csv and expression.h5ad."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from gdc_server import PROJECT, GdcServer, save, serving, star_tsv

from wsibench import cohort
from wsibench.cohort.gdc import client, download
from wsibench.core import CohortError, GdcError, NotReady, Study, StudyError, TooManyFailures, read_failures, read_meta

GENES = [
    ("ENSG00000091831.24", "ESR1", "protein_coding"),
    ("ENSG00000141736.13", "ERBB2", "protein_coding"),
    ("ENSG00000148773.14", "MKI67", "protein_coding"),
    ("ENSG00000228630.6", "HOTAIR", "lncRNA"),
    ("ENSG00000182378.14", "PLCXD1", "protein_coding"),
    ("ENSG00000182378.14_PAR_Y", "PLCXD1", "protein_coding"),
]
PATIENTS = ["TCGA-A2-A001", "TCGA-A2-A002", "TCGA-BH-A003", "TCGA-BH-A004", "TCGA-PL-A005"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        yield server


def tpm_of(patient: str) -> np.ndarray:
    return np.random.default_rng(list(patient.encode())).gamma(2, 10, len(GENES)).round(4)


def rna_of(patient: str) -> bytes:
    tpm = tpm_of(patient)
    return star_tsv(GENES, (tpm * 7).astype(int), tpm)


def slide_of(patient: str, n: int) -> bytes:
    return f"slide {n} of {patient}".encode() * 1000


@pytest.fixture
def project(server: GdcServer) -> GdcServer:
    """Five patients, one with two slides; a metastasis, a normal, a frozen section, a second aliquot."""
    for patient in PATIENTS:
        ending = "01A-02-DX1" if "PL" in patient else "01Z-00-DX1"
        server.offer_slide(f"{patient}-{ending}", slide_of(patient, 1))
        server.offer_rna(f"{patient}-01A-11R-A115-07", rna_of(patient))
    server.offer_slide(f"{PATIENTS[0]}-01Z-00-DX2", slide_of(PATIENTS[0], 2))
    server.offer_slide("TCGA-E2-A006-06Z-00-DX1", b"metastasis")
    server.offer_rna("TCGA-E2-A006-06A-11R-A115-07", rna_of("TCGA-E2-A006"))
    server.offer_rna(f"{PATIENTS[1]}-11A-11R-A115-07", rna_of("normal"))
    server.offer_rna(f"{PATIENTS[2]}-01B-11R-A115-07", rna_of("FFPE"), ffpe=True)
    return server


@pytest.fixture
def make(data_root: Path) -> Callable[..., Study]:
    def write(name: str = "brca", expression: dict | None = None, **keys: object) -> Study:
        folder = data_root / name
        folder.mkdir(exist_ok=True)
        section = {"source": "gdc", "project": PROJECT, **keys}
        content = {"title": "T", "cohort": section, "expression": expression or {"unit": "log2_tpm", "genes": "all"}}
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
        return Study.load(name)

    return write


def test_cohort_from_the_answer_of_the_gdc(project: GdcServer, make: Callable[..., Study]) -> None:
    study = make()
    with pytest.raises(NotReady):
        cohort.expected(study)
    report = cohort.build(study)
    rows = cohort.read_cohort(study)
    assert list(rows["patient_id"].unique()) == PATIENTS
    assert list(rows["site"]) == ["A2", "A2", "A2", "BH", "BH", "PL"]
    md5s = {hit["file_name"]: hit["md5sum"] for hit in project.hits.values()}
    assert [md5s[Path(path).name] for path in rows["path"]] == list(rows["identity"])
    assert list(rows["slide_id"]) == [Path(path).stem for path in rows["path"]]
    assert Path(rows["path"][0]).read_bytes() == slide_of(PATIENTS[0], 1)
    expression = cohort.read_expression(study)
    assert list(expression.obs_names) == PATIENTS
    np.testing.assert_allclose(expression["TCGA-PL-A005"].X[0], np.log2(tpm_of("TCGA-PL-A005")[:5] + 1), rtol=1e-5)
    assert list(expression.var["gene_type"]) == [gene[2] for gene in GENES[:5]]
    assert report.counts["patients with several slides"] == 1
    reasons = set(report.exclusions["reason"])
    assert {"not of a primary tumour", "another aliquot of the patient was taken"} <= reasons
    provenance = read_meta(study.cohort_csv)["facts"]["provenance"]
    assert provenance["data_release"].startswith("Data Release 45.0")
    assert provenance["api"] == project.url
    [rules] = report.tables.values()
    assert next(iter(report.tables)).startswith("TCGA-BRCA, Data Release 45.0")
    assert rules["files"].tolist() == [7, 7, 6, 8, 6, 5, 6, 5]
    assert "slides of primary tumours" in report._repr_html_()
    whole = anndata.read_h5ad(study.gdc / "expression.h5ad")
    assert whole.layers["counts"].dtype == np.int32
    assert whole.obs.loc["TCGA-BH-A003", "barcode"] == "TCGA-BH-A003-01A-11R-A115-07"
    assert all(artefact.due() is None for artefact in cohort.expected(study))


def test_a_second_build_asks_and_writes_nothing(project: GdcServer, make: Callable[..., Study]) -> None:
    study = make()
    cohort.build(study)
    before, times = len(project.log), {path: path.stat().st_mtime_ns for path in study.root.rglob("*")}
    report = cohort.build(study)
    assert len(project.log) == before
    assert {path: path.stat().st_mtime_ns for path in study.root.rglob("*")} == times
    assert report.tables
    shutil.rmtree(study.rna)
    assert all(artefact.due() is None for artefact in cohort.expected(study)), "raw RNA may be deleted once read"


def test_a_snapshot_makes_the_same_cohort_without_asking(project: GdcServer, make: Callable[..., Study]) -> None:
    first = make()
    cohort.build(first)
    n_asked = len(project.asked("POST", "/files"))
    again = make("again", snapshot="../brca/gdc/snapshot.json.gz", slides="../brca/slides", rna="../brca/rna")
    cohort.build(again)
    assert len(project.asked("POST", "/files")) == n_asked
    columns = ["slide_id", "patient_id", "site", "identity"]
    pd.testing.assert_frame_equal(cohort.read_cohort(again)[columns], cohort.read_cohort(first)[columns])
    assert (again.slides / Path(cohort.read_cohort(first)["path"][0]).name).is_symlink()


def test_a_streamed_cohort_lists_slides_that_are_not_here(project: GdcServer, make: Callable[..., Study]) -> None:
    study = make(stream=True)
    cohort.build(study)
    rows = cohort.read_cohort(study)
    assert len(rows) == 6
    assert (rows["identity"].str.len() == 32).all()
    assert not any(Path(path).exists() for path in rows["path"])
    assert not project.slides_asked()
    assert all(artefact.due() is None for artefact in cohort.expected(study))


def test_slides_in_gdc_clients_folder_are_linked(
    project: GdcServer, make: Callable[..., Study], tmp_path: Path
) -> None:
    theirs = tmp_path / "gdc-client"
    slides = [hit for hit in project.hits.values() if hit["file_name"].endswith(".svs")]
    for hit in slides[:3]:
        save(theirs, hit, project.content[hit["file_id"]])
    study = make(slides=str(theirs))
    cohort.build(study)
    linked = [path.name for path in study.slides.iterdir() if path.is_symlink()]
    assert sorted(linked) == sorted(hit["file_name"] for hit in slides[:3])
    assert len(project.slides_asked()) == 3
    with pytest.raises(CohortError, match="no folder"):
        cohort.build(make("other", slides="nowhere"))


def test_a_slide_that_cannot_be_fetched_is_a_failure_row(project: GdcServer, make: Callable[..., Study]) -> None:
    study = make()
    [bad] = [
        hit for hit in project.hits.values() if hit["file_name"].startswith(PATIENTS[4]) and "svs" in hit["file_name"]
    ]
    project.trouble(f"/data/{bad['file_id']}", "corrupt", "corrupt")
    with pytest.raises(TooManyFailures, match="1 of 6 slides"):
        cohort.build(study)
    [row] = read_failures(study.failures_csv)
    assert row.slide_id == Path(bad["file_name"]).stem
    assert "it published" in row.error
    assert row.remedy.endswith("wsibench run brca --from 01 --to 01 --force")
    assert row.key in {artefact.key for artefact in cohort.expected(study)}
    cohort.build(study)  # the server has come to its senses
    assert read_failures(study.failures_csv) == []
    assert len(cohort.read_cohort(study)) == 6


def test_missing_rna_stops_the_stage_before_slides_are_fetched(project: GdcServer, make: Callable[..., Study]) -> None:
    for hit in project.hits.values():
        if hit["file_name"].endswith(".tsv"):
            project.trouble(f"/data/{hit['file_id']}", *[("status", 403)] * 5)
    with pytest.raises(GdcError, match="5 RNA files could not be fetched"):
        cohort.build(make())
    assert not project.slides_asked()


def test_insufficient_disk_space_is_an_error_before_any_download(
    project: GdcServer, make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(download.DiskFull, match="stream: true"):
        cohort.build(make())
    assert not [path for _, path, _, _ in project.log if path.startswith("/data")]


def test_gene_lists_with_comments(project: GdcServer, make: Callable[..., Study], data_root: Path) -> None:
    (data_root / "genes.txt").write_text("# a source\nMKI67\nERBB2  # also HER2\nNOSUCHGENE\n")
    report = cohort.build(make(expression={"unit": "log2_tpm", "genes": "../genes.txt"}))
    assert report.counts["genes"] == 2
    excluded = report.exclusions[report.exclusions["what"] == "gene"]
    assert excluded["id"].tolist() == ["NOSUCHGENE"]
    coding = make("coding", expression={"unit": "log2_tpm", "genes": "protein_coding"}, slides="../brca/slides")
    assert cohort.build(coding).counts["genes"] == 4


def test_subtype_and_coverage_from_a_clinical_table(
    project: GdcServer, make: Callable[..., Study], data_root: Path
) -> None:
    (data_root / "clinic.tsv").write_text(
        "Patient ID\tSubtype\tDiagnosis Age\nTCGA-A2-A001\tBRCA_LumA\t61\nTCGA-BH-A003\tBRCA_Basal\t40\n"
    )
    study = make(clinical="../clinic.tsv")
    report = cohort.build(study)
    rows = cohort.read_cohort(study)
    assert rows["subtype"].tolist() == ["LumA", "LumA", "", "Basal", "", ""]
    shown = report.tables["Clinical data of 5 patients"].set_index("field")
    assert shown.loc["subtype", ["column", "count", "unique"]].tolist() == ["Subtype", 2, 2]
    assert shown.loc["er", ["column", "count"]].tolist() == ["", 0]
    known = cohort.clinical.read_patients(study, rows.drop_duplicates("patient_id").set_index("patient_id"))
    assert known["age_years"].tolist() == ["61", "", "40", "", ""]
    with pytest.raises(CohortError, match=r"clinical table .*none\.tsv cannot be read.*No such file"):
        cohort.build(make("other", clinical="../none.tsv"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"project": "BRCA"}, "cohort.*project"),
        ({"snapshots": "x"}, "snapshots.*not a known key"),
        ({"slides": "${NO_SUCH_VARIABLE}/x"}, "NO_SUCH_VARIABLE"),
    ],
)
def test_invalid_settings_are_refused(make: Callable[..., Study], keys: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make(**keys)
