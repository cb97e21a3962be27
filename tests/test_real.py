"""What nobody here made: real slides, one of them broken, and a real cohort."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from wsibench import assembly, cohort, ranking, regression, tiling
from wsibench.core import CHECKOUT, Study, read_failures
from wsibench.embedding import read_features
from wsibench.tiling import read_tiles

pytestmark = pytest.mark.real
CMU, TCGA = "CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"


def run(root: Path, study: str) -> str:
    command = [sys.executable, "-m", "wsibench.cli.main", "run", study]
    ran = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran.stdout


def test_real_slides_yield_features_and_failure_rows_with_remedies(real_data, data_root):
    said = run(data_root, "real-slides")
    study = Study.load("real-slides")
    failures = {row.slide_id: row for row in read_failures(study.failures_csv)}
    assert failures.keys() == {TCGA, "broken"}
    assert "mpp" in failures[TCGA].remedy
    assert "slides.csv" in failures[TCGA].remedy
    assert failures["broken"].remedy
    assert "2 slides failed" in said

    tiles = read_tiles(study.tiles_parquet(CMU))
    assert 40 < len(tiles) < 120
    assert tiles["tissue"].min() >= study.tiles.min_tissue
    for encoder in study.encoders:
        features, coords = read_features(study.features_h5(encoder, CMU))
        assert len(features) == len(coords) == len(tiles)
        assert features.std(axis=0).max() > 0
    assert list(study.figures.glob("tissue_and_tiles*.png"))
    assert (study.figures / "index.html").exists()


def test_a_slide_without_mpp_works_once_it_is_given(real_data, data_root):
    folder = data_root / "with-mpp"
    folder.mkdir()
    source = CHECKOUT / "data" / "real-slides"
    table = pd.read_csv(source / "slides.csv", dtype=str)
    table.loc[table["slide_id"] == TCGA, "mpp"] = "0.5"
    table[table["slide_id"] == TCGA].to_csv(folder / "slides.csv", index=False)
    (folder / "study.yaml").write_text((source / "study.yaml").read_text())
    run(data_root, "with-mpp")
    study = Study.load("with-mpp")
    assert read_failures(study.failures_csv) == []
    tiles = read_tiles(study.tiles_parquet(TCGA))
    assert tiles.attrs["slide_mpp"] == 0.5
    assert len(read_features(study.features_h5("texture", TCGA))[0]) == len(tiles) > 50


def test_a_real_cohort_goes_from_tables_to_a_leaderboard(real_data, data_root, monkeypatch):
    """The tracked study with what costs most left out: other probes, permutations, targets, figures."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    content = yaml.safe_load((CHECKOUT / "data" / "tcga-brca-hif" / "study.yaml").read_text())
    assert content["folds"]["repeats"] == 5
    content["folds"]["schemes"] = ["preserved-site"]
    content |= {"probes": ["ridge"], "controls": ["site"], "targets": {}}
    content["ranking"] = {"bootstrap": 100, "permutations": {}, "gene_sets": {}}
    folder = data_root / "tcga-brca-hif"
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    study = Study.load("tcga-brca-hif")
    cohort.build(study)
    assert tiling.not_applicable(study)
    assembly.assemble(study)
    regression.regress(study)
    ranking.rank(study)
    spread = ranking.read(study, "spread").set_index("encoder").loc["hif"]
    assert spread["n_splits"] == 5
    assert spread["median_rho"] >= 0.205
    board = ranking.read(study, "leaderboard").set_index("encoder")
    assert board.loc["hif", "median_rho"] >= 0.205
    assert board.loc["hif", "ci_low"] > 0.1
    assert board.loc["site", "mean_rho"] == 0
    assert board.loc["hif", "n_patients"] == 884
    assert board.loc["hif", "tcga"] == "yes"
    scores = pd.read_parquet(study.scores_parquet).query("encoder == 'hif'")
    best = scores.nlargest(30, "rho")["gene"].tolist()
    assert {"ICOS", "CD38", "CTLA4", "SIRPG", "CXCL9"} <= set(best)
