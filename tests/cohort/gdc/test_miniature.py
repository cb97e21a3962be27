"""A miniature of the paper's cohort: slides and STAR files on a local GDC, from query to leaderboard."""

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from gdc_server import PROJECT, GdcServer, serving, star_tsv

from wsibench.cli import run
from wsibench.cohort.simulation.cohort import simulate
from wsibench.core import Study, read_failures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SITES = ["A2", "BH", "E2", "D8"]
N_GENES = 60


@pytest.fixture
def server(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    """A dozen simulated patients under TCGA's names; a metastasis and a normal sample besides."""
    (data_root / "source").mkdir()
    section = {"source": "simulate", "patients": 12, "sites": 4, "seed": 3}
    (data_root / "source" / "study.yaml").write_text(yaml.safe_dump({"title": "Source", "cohort": section}))
    source = Study.load("source")
    simulate(source.cohort, source.slides, source.truth)
    slides = pd.read_csv(source.truth / "slides.csv", dtype=str)
    expression = anndata.read_h5ad(source.truth / "expression.h5ad")
    barcodes = barcodes_of(slides.drop_duplicates("patient_id").set_index("patient_id")["site"])
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        for row in slides.itertuples():
            n = 1 + int((slides["patient_id"][: row.Index] == row.patient_id).sum())
            server.offer_slide(
                f"{barcodes[row.patient_id]}-01Z-00-DX{n}", (source.slides / Path(row.path).name).read_bytes()
            )
        genes = [
            (f"ENSG{n:011d}.{n % 9}", f"GENE{n}", "lncRNA" if n % 10 == 9 else "protein_coding") for n in range(N_GENES)
        ]
        for patient, values in zip(expression.obs_names, expression.X[:, :N_GENES], strict=True):
            tpm = np.exp2(values.astype(float)).round(4)
            server.offer_rna(f"{barcodes[patient]}-01A-11R-A115-07", star_tsv(genes, (tpm * 50).astype(int), tpm))
        server.offer_slide("TCGA-E2-A15E-06Z-00-DX1", b"a metastasis, not to be fetched")
        server.offer_rna("TCGA-E2-A15E-06A-11R-A115-07", b"nor its RNA")
        yield server


def barcodes_of(sites: pd.Series) -> dict[str, str]:
    codes = dict(zip(sorted(sites.unique()), SITES, strict=True))
    return {patient: f"TCGA-{codes[site]}-A{n:03d}" for n, (patient, site) in enumerate(sites.items())}


@pytest.fixture
def make(data_root: Path) -> Callable[..., Study]:
    def write(name: str, **cohort: object) -> Study:
        (data_root / name).mkdir()
        content = {
            "title": "A miniature of TCGA-BRCA",
            "cohort": {"source": "gdc", "project": PROJECT, **cohort},
            "tiles": {"max_tiles": 12},
            "encoders": ["colour", "texture"],
            "controls": ["site"],
            "expression": {"unit": "log2_tpm", "genes": "protein_coding"},
            "folds": {"schemes": ["preserved-site", "random-patient"], "n": 2},
            "probes": ["ridge"],
            "ranking": {"bootstrap": 100, "permutations": {"ridge": 2}},
        }
        (data_root / name / "study.yaml").write_text(yaml.safe_dump(content))
        return Study.load(name)

    return write


def test_from_query_to_leaderboard_through_the_notebooks(
    server: GdcServer, make: Callable[..., Study], capsys: pytest.CaptureFixture
) -> None:
    study = make("brca")
    run.run(study)
    board = pd.read_csv(study.leaderboard_csv)
    assert set(board["encoder"]) == {"colour", "texture", "site"}
    assert set(board["n_patients"]) == {12}
    assert set(board["n_genes"]) <= set(range(1, 55))
    assert set(board["scheme"]) == {"preserved-site", "random-patient"}
    assert (study.figures / "index.html").exists()
    assert read_failures(study.failures_csv) == []
    asked = len(server.log)
    run.run(study)
    assert len(server.log) == asked
    assert "running" not in capsys.readouterr().out.split("(study brca")[-1]

    streamed = make("streamed", stream=True)
    run.run(streamed, last="04")
    ours, theirs = (anndata.read_h5ad(each.benchmark_h5ad) for each in (streamed, study))
    assert list(ours.obs_names) == list(theirs.obs_names)
    for encoder in ("colour", "texture"):
        np.testing.assert_array_equal(ours.obsm[encoder], theirs.obsm[encoder])
    np.testing.assert_array_equal(ours.X, theirs.X)
    assert not list(streamed.slides.glob("*.svs"))
