"""Which controls run where study.yaml says nothing of them, and where it does."""

import pandas as pd
import pytest
import trials
import yaml

from wsibench.assembly import build as assembly, pooling as vectors
from wsibench.cohort import build as cohort
from wsibench.core import NotReady, Study
from wsibench.embedding import controls


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


SLIDES = {"source": "local", "slides": "slides.csv", "expression": "rna.h5ad"}
PATIENTS = {"source": "local", "patients": "patients.csv", "expression": "rna.h5ad"}


def load(folder, **sections):
    (folder / "study.yaml").write_text(yaml.safe_dump({"title": "T", "cohort": SLIDES, **sections}))
    return Study.load(folder.name)


def test_sites_and_subtypes_decide_the_rest_once_the_cohort_is_read(folder, monkeypatch):
    study = load(folder, cohort=PATIENTS, features={"good": {"table": "good.csv"}})
    with pytest.raises(NotReady):
        controls.controls(study)
    cohort.build(study)
    assert controls.controls(study) == ["site"]
    assert assembly.names(study) == ["good", "site"]
    monkeypatch.setitem(vectors.CONTROLS, "subtype-oracle", vectors.site)
    rows = pd.DataFrame({"site": ["X", "X", ""], "subtype": ["A", "B", ""]})
    assert controls.patient_controls(rows) == ["subtype-oracle"]
    assert controls.patient_controls(rows.assign(site=["X", "Y", ""], subtype="")) == ["site"]
    assert controls.patient_controls(rows.assign(subtype=["A", "", ""])) == []


def test_what_study_yaml_names_needs_no_cohort(folder):
    assert controls.controls(load(folder, controls=["colour", "site"])) == ["colour", "site"]
    assert controls.controls(load(folder, controls=[])) == []
