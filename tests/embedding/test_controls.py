"""Which controls run where study.yaml says nothing of them, and where it does."""

import pandas as pd
import pytest
import trials
import yaml

from wsibench.assembly import build as assembly
from wsibench.assembly import pooling as vectors
from wsibench.cohort import build as cohort
from wsibench.core import NotReady, Study
from wsibench.embedding import controls
from wsibench.embedding import embed as embedding
from wsibench.embedding.encoders import tile_encoders


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


SLIDES = {"source": "local", "slides": "slides.csv", "expression": "rna.h5ad"}
PATIENTS = {"source": "local", "patients": "patients.csv", "expression": "rna.h5ad"}


def load(folder, **sections):
    (folder / "study.yaml").write_text(yaml.safe_dump({"title": "T", "cohort": SLIDES, **sections}))
    return Study.load(folder.name)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"encoders": ["uni"]}, ["colour", "texture", "random-vit"]),
        ({"encoders": ["uni", "texture"]}, ["colour", "random-vit"]),
        ({"encoders": ["uni"], "controls": []}, []),
        ({"encoders": ["uni"], "controls": ["resnet50", "site"]}, ["resnet50"]),
        ({"features": {"uni": {"folder": "theirs"}}}, []),
        ({"features": {"uni": {"folder": "theirs"}}, "encoders": ["phikon"]}, ["colour", "texture", "random-vit"]),
        ({"features": {"good": {"table": "good.csv"}}}, []),
        ({"features": {"good": {"table": "good.csv"}}, "cohort": PATIENTS}, []),
        ({"cohort": {"source": "simulate"}, "encoders": ["uni"]}, ["colour", "texture", "random-vit"]),
    ],
)
def test_tiles_are_looked_at_for_controls_where_they_are_looked_at_anyway(folder, sections, expected):
    study = load(folder, **sections)
    assert controls.tile_controls(study) == expected
    assert [each.name for each in tile_encoders(study)] == [*study.encoders, *expected]


def test_a_study_of_tables_alone_still_has_no_tiles(folder):
    study = load(folder, features={"good": {"table": "good.csv"}})
    assert "no encoder of tiles" in embedding.not_applicable(study)
    assert "neither encoders nor features" in assembly.not_applicable(load(folder))


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
