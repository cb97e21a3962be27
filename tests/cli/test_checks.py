"""Faults of a study are found before the work."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from wsibench import cohort
from wsibench.cli.checks import check, faults
from wsibench.cli.main import main
from wsibench.cli.stages import STAGES
from wsibench.core import Study, WsibenchError


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def study(data_root):
    """Write tables of patients, expression and features, and load a study of them."""

    def write(*, n: int = 40, sites: int = 8, columns=("site",), **sections) -> Study:
        folder = data_root / "s"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        patients = pd.DataFrame({"patient_id": [f"P{i}" for i in range(n)]})
        for column in columns:
            patients[column] = [f"S{i % sites}" for i in range(n)]
        patients.to_csv(folder / "patients.csv", index=False)
        for name, prefix in (("rna", "G"), ("mine", "f")):
            values = pd.DataFrame(rng.normal(size=(n, 5))).add_prefix(prefix)
            pd.concat([patients[["patient_id"]], values], axis=1).to_csv(folder / f"{name}.csv", index=False)
        content = {
            "title": "T",
            "cohort": {"source": "local", "patients": "patients.csv", "expression": "rna.csv"},
            "features": {"mine": {"table": "mine.csv"}},
            "probes": ["ridge"],
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
        return Study.load("s")

    return write


def test_a_sound_study_has_no_fault(study):
    assert not any(faults(study()).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ()}, "`site`, which preserved-site folds need"),
        ({"targets": {"er": {"column": "er_status"}}}, "er_status"),
        ({"clinical": {"covariates": ["age"]}}, "age"),
        ({"ranking": {"covariates": "nowhere.csv", "given": ["purity"]}}, "nowhere.csv"),
        ({"ranking": {"gene_sets": {"mine": "nowhere.txt"}}}, "nowhere.txt"),
        ({"probes": ["rigde"]}, "rigde"),
        ({"features": {"mine": {"table": "nowhere.csv"}}}, "nowhere.csv"),
    ],
)
def test_faults_of_tables_are_found_before_anything_runs(study, capsys, settings, message):
    study(**settings)
    assert main(["run", "s"]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert "running" not in printed.out
    assert main(["doctor", "s"]) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": 3}, r"3 sites cannot be divided into 5 .* folds.n to 3"),
        ({"n": 8, "sites": 8}, "8 patients in 5 folds"),
        ({"n": 4, "sites": 4}, "4 patients cannot be divided into 5 folds"),
    ],
)
def test_folds_are_checked_once_the_cohort_is_known(study, settings, message):
    made = study(**settings)
    cohort.build(made)
    with pytest.raises(WsibenchError, match=message):
        check(made)


def test_incomplete_gene_sets_are_counted_and_do_not_stop(study, capsys):
    made = study(ranking={"gene_sets": {"some": ["G0", "X", "Y", "Z"], "none": ["X"]}})
    cohort.build(made)
    check(made)
    printed = capsys.readouterr().out
    assert "1 of 4" in printed
    assert "0 of 1" in printed


def test_slides_without_a_resolution_are_found_once_the_cohort_is_known(data_root: Path, write_svs):
    folder = data_root / "s"
    folder.mkdir()
    path = write_svs(np.full((256, 256, 3), 240, np.uint8), None)
    pd.DataFrame({"slide_id": ["a"], "patient_id": ["p"], "path": [path]}).to_csv(folder / "slides.csv", index=False)
    text = "title: T\ncohort: {source: local, slides: slides.csv}\nencoders: [colour]\ncontrols: []\n"
    (folder / "study.yaml").write_text(text)
    study = Study.load("s")
    assert not any(faults(study).values())
    cohort.build(study)
    with pytest.raises(WsibenchError, match=r"1 of the 1 slides that were tried .* does not say its resolution"):
        check(study, STAGES[:3])
    (folder / "study.yaml").write_text(text + "tiles: {slide_mpp: 0.5}\n")
    check(Study.load("s"), STAGES[:3])


def test_weights_that_cannot_be_had_are_named_by_run_and_doctor(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = study().study_yaml.parent
    pd.DataFrame({"slide_id": ["a"], "patient_id": ["P0"], "path": ["a.svs"]}).to_csv(
        folder / "slides.csv", index=False
    )
    text = "title: T\ncohort: {source: local, slides: slides.csv}\nencoders: [uni, phikon]\ncontrols: []\n"
    (folder / "study.yaml").write_text(text)
    assert main(["doctor", "s"]) == 1
    printed = capsys.readouterr().out
    assert "FAULT 03_embedding" in printed
    assert "huggingface.co/MahmoodLab" in printed
    assert "phikon" in printed
    assert main(["run", "s"]) == 1
    printed = capsys.readouterr()
    assert "03_embedding: " in printed.err
    assert "running" not in printed.out
