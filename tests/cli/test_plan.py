"""Size, time and disk space of a GDC cohort before its download."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gdc_server import PROJECT, GdcServer, save, serving

from wsibench.cli import main as cli
from wsibench.cli.checks import download_plan
from wsibench.cohort.gdc import client
from wsibench.core import CohortError, Study


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        monkeypatch.setenv("WSIBENCH_WORKERS", "2")
        for n, gigabytes in enumerate([1.0, 2.0, 3.0]):
            server.offer_slide(f"TCGA-BH-A00{n}-01Z-00-DX1", b"x")["file_size"] = int(gigabytes * 1e9)
            server.offer_rna(f"TCGA-BH-A00{n}-01A-11R-A056-07", b"y")
        yield server


def study_with(data_root: Path, **keys: object) -> Study:
    (data_root / "t").mkdir(exist_ok=True)
    content = {"title": "T", "cohort": {"source": "gdc", "project": PROJECT, **keys}, "encoders": ["colour"]}
    content["controls"] = []
    (data_root / "t" / "study.yaml").write_text(yaml.safe_dump(content))
    return Study.load("t")


def test_gigabytes_hours_and_disk(server: GdcServer, data_root: Path) -> None:
    plan = download_plan(study_with(data_root), mb_per_s=10).set_index("item")
    assert plan.loc["slides", ["files", "GB"]].tolist() == [3, 6.0]
    assert plan.loc["slides", "note"] == "3 patients of 1 sites"
    assert plan.loc["to download", ["files", "GB"]].tolist() == [6, 6.0]
    assert plan.loc["to download", "hours"] == pytest.approx(6e9 / 10e6 / 3600, abs=0.05)
    assert plan.loc["disk needed, slides kept", "GB"] >= 6.0
    assert 5.0 <= plan.loc["disk needed, streamed", "GB"] < 6.0, "two workers hold the two largest slides"
    assert not [path for _, path, _, _ in server.log if path.startswith("/data")]
    before = len(server.log)
    download_plan(study_with(data_root))
    assert len(server.log) == before, "the answer is kept"


def test_present_files_are_not_downloaded(server: GdcServer, data_root: Path, tmp_path: Path) -> None:
    [hit] = [hit for hit in server.hits.values() if hit["file_size"] == 3e9]
    save(tmp_path / "have", hit, b"x")
    plan = download_plan(study_with(data_root, slides=str(tmp_path / "have"))).set_index("item")
    assert plan.loc["to download", "GB"] == 3.0


def test_on_the_command_line(server: GdcServer, data_root: Path, capsys: pytest.CaptureFixture) -> None:
    study_with(data_root, stream=True)
    assert cli.main(["cohort", "t", "--plan", "--mb-per-s", "100"]) == 0
    printed = capsys.readouterr().out
    assert "at 100 MB/s" in printed
    assert "disk free" in printed


def test_the_tracked_study_has_a_plan(server: GdcServer, data_root: Path) -> None:
    plan = download_plan(Study.load("tcga-brca")).set_index("item")
    assert "h-optimus-0" in plan.loc["features", "note"]
    assert (data_root / "tcga-brca" / "gdc" / "snapshot.json.gz").exists()


def test_other_cohorts_have_none(data_root: Path) -> None:
    with pytest.raises(CohortError, match=r"`source: simulate`. Nothing is downloaded"):
        download_plan(Study.load("demo"))


@pytest.mark.real
def test_the_real_slides_of_2018_take_a_terabyte(real_data: Path, data_root: Path) -> None:
    rows = (real_data / "gdc" / "gdc_manifest.2018-06-26_diagnostic_TCGA-BRCA.txt").read_text().splitlines()[1:]
    slides = [
        {"file_id": uuid, "file_name": name, "file_size": int(size), "md5sum": md5}
        for _, uuid, name, md5, size, _ in (row.split("\t") for row in rows)
    ]
    patients = sorted({slide["file_name"][:12] for slide in slides})
    rna = [
        {
            "file_id": f"rna-{patient}",
            "file_name": f"{patient}.tsv",
            "file_size": 4_200_000,
            "md5sum": "0" * 32,
            "associated_entities": [{"entity_submitter_id": f"{patient}-01A-11R-A056-07"}],
        }
        for patient in patients
    ]
    answer = {"project": PROJECT, "asked": None, "status": {}, "slides": slides, "rna": rna}
    client.save_snapshot(answer, data_root / "manifest.json")
    plan = download_plan(study_with(data_root, snapshot="../manifest.json"), mb_per_s=50).set_index("item")
    assert plan.loc["slides", "files"] == 1139, "1,140 of the time, less the metastasis"
    assert plan.loc["slides", "GB"] == pytest.approx(1166, rel=0.01)
    assert plan.loc["to download", "hours"] == pytest.approx(6.5, abs=0.1)
