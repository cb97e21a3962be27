"""A streamed cohort: slide after slide fetched, tiled, embedded and deleted; the same results as kept ones."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from gdc_server import PROJECT, GdcServer, save, serving, star_tsv

from wsibench import cohort, embedding, tiling
from wsibench.cli import stages
from wsibench.cohort.gdc import acquisition, client
from wsibench.core import Study, meta_path, read_failures
from wsibench.embedding import read_features

PATIENTS = ["TCGA-A2-A001", "TCGA-BH-A002", "TCGA-BH-A003"]
GENES = [(f"ENSG0000000000{n}.1", f"GENE{n}", "protein_coding") for n in range(3)]
TILING, EMBEDDING = stages.STAGES[1:3]


def slide_bytes(seed: int) -> bytes:
    """A small Aperio-style slide with tissue to its edges."""
    rng = np.random.default_rng(seed)
    pixels = np.repeat(np.repeat(rng.integers(0, 60, (64, 64, 3)), 16, 0), 16, 1) + np.array([190, 90, 150])
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels.astype(np.uint8),
        tile=(256, 256),
        compression="jpeg",
        photometric="rgb",
        description="Aperio Image Library v11\n1024x1024 |AppMag = 20|MPP = 0.5",
        metadata=None,
    )
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        for seed, patient in enumerate(PATIENTS):
            server.offer_slide(f"{patient}-01Z-00-DX1", slide_bytes(seed))
            counts = np.arange(3) + seed
            server.offer_rna(f"{patient}-01A-11R-A115-07", star_tsv(GENES, counts, counts * 1.5))
        yield server


@pytest.fixture
def make(data_root: Path) -> Callable[..., Study]:
    def write(name: str, **sections: object) -> Study:
        (data_root / name).mkdir(exist_ok=True)
        content = {
            "title": "T",
            "cohort": {"source": "gdc", "project": PROJECT, "stream": True},
            "tiles": {"max_tiles": 5},
            "encoders": ["colour"],
            "controls": [],
            "limits": {"failed_slides": 0.5},
        }
        (data_root / name / "study.yaml").write_text(yaml.safe_dump(content | sections))
        return Study.load(name)

    return write


def fetches(server: GdcServer) -> int:
    return len(server.slides_asked())


def test_the_same_features_as_of_kept_slides_without_keeping_any(server: GdcServer, make: Callable[..., Study]) -> None:
    study = make("streamed")
    cohort.build(study)
    assert stages.status(study, TILING).state == "not applicable"
    assert stages.status(study, EMBEDDING).state == "due"
    made = embedding.embed_slides(study)
    assert list(made["n_tiles"]) == [5, 5, 5]
    assert not list(study.slides.iterdir()), "a slide was kept"
    assert fetches(server) == 3

    kept = make("kept", cohort={"source": "gdc", "project": PROJECT})
    cohort.build(kept)
    tiling.tile_slides(kept)
    embedding.embed_slides(kept)
    for slide_id in cohort.read_cohort(study)["slide_id"]:
        pd.testing.assert_frame_equal(
            tiling.read_tiles(study.tiles_parquet(slide_id)), tiling.read_tiles(kept.tiles_parquet(slide_id))
        )
        for ours, theirs in zip(
            read_features(study.features_h5("colour", slide_id)),
            read_features(kept.features_h5("colour", slide_id)),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert {artefact.key for artefact in embedding.expected(study)} == {
        artefact.key for artefact in embedding.expected(kept)
    }


def test_tiling_after_embedding_fetches_nothing(server: GdcServer, make: Callable[..., Study]) -> None:
    study = make("streamed")
    cohort.build(study)
    embedding.embed_slides(study)
    before = len(server.log)
    assert tiling.not_applicable(study) is None
    assert len(tiling.expected(study)) == 3
    assert tiling.tile_slides(study)["n_tiles"].tolist() == [5, 5, 5]
    assert not embedding.embed_slides(study)["new"].any()
    cohort.build(study)
    assert len(server.log) == before


def test_only_what_is_due_is_fetched(server: GdcServer, make: Callable[..., Study]) -> None:
    study = make("streamed")
    cohort.build(study)
    embedding.embed_slides(study)
    lost = study.features_h5("colour", cohort.read_cohort(study)["slide_id"][1])
    meta_path(lost).unlink()
    before = fetches(server)
    assert embedding.embed_slides(study)["new"].sum() == 1
    assert fetches(server) == before + 1


def test_failed_slide_is_a_failure_row_and_is_deleted(server: GdcServer, make: Callable[..., Study]) -> None:
    study = make("streamed")
    [bad] = [hit for hit in server.hits.values() if hit["file_name"].startswith(PATIENTS[1])]
    server.offer(bad["file_name"], b"no slide", file_id=bad["file_id"], **_kept(bad))
    [gone] = [hit for hit in server.hits.values() if hit["file_name"].startswith(PATIENTS[2])]
    cohort.build(study)
    server.trouble(f"/data/{gone['file_id']}", ("status", 403))
    with pytest.raises(Exception, match=r"2 of 3 slides failed"):
        embedding.embed_slides(study)
    rows = {row.slide_id: row for row in read_failures(study.failures_csv)}
    assert set(rows) == {Path(hit["file_name"]).stem for hit in (bad, gone)}
    assert "data release" in rows[Path(gone["file_name"]).stem].remedy
    assert not list(study.slides.glob("*.svs"))
    assert stages.status(study, EMBEDDING).why.endswith("2 slides failed (failures.csv)")
    assert len(tiling.tile_slides(study)) == 1
    assert embedding.embed_slides(study)["new"].sum() == 1, "the one that was refused is there now"


def _kept(hit: dict) -> dict:
    changed = ("id", "file_id", "file_name", "file_size", "md5sum")
    return {name: value for name, value in hit.items() if name not in changed}


def test_slide_left_by_a_killed_run_is_used(server: GdcServer, make: Callable[..., Study]) -> None:
    study = make("streamed")
    cohort.build(study)
    name = Path(cohort.read_cohort(study)["path"][0]).name
    context = acquisition.fetch_slide(study, name)
    context.__enter__()  # and the process ends here
    embedding.embed_slides(study)
    assert fetches(server) == 3
    assert not list(study.slides.iterdir())


def test_slides_of_the_user_are_not_deleted(server: GdcServer, make: Callable[..., Study], tmp_path: Path) -> None:
    theirs = [
        save(tmp_path / "theirs", hit, server.content[hit["file_id"]])
        for hit in server.hits.values()
        if hit["file_name"].endswith(".svs")
    ]
    study = make(
        "streamed", cohort={"source": "gdc", "project": PROJECT, "stream": True, "slides": str(tmp_path / "theirs")}
    )
    cohort.build(study)
    embedding.embed_slides(study)
    assert all(path.exists() for path in theirs)
    assert fetches(server) == 0
    assert not list(study.slides.iterdir())
