"""Names and keys of what a study assembles."""

import pytest
import trials
import yaml

from wsibench import assembly, cohort
from wsibench.core import NotReady, Study


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


def load(folder, **sections):
    content = {"title": "T", "cohort": {"source": "local", "patients": "patients.csv", "expression": "rna.h5ad"}}
    content["features"] = {"good": {"table": "good.csv"}}
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load(folder.name)


def test_controls_of_patients_are_those_that_the_cohort_has_groups_for(folder):
    study = load(folder)
    with pytest.raises(NotReady):
        assembly.feature_names(study)
    cohort.build(study)
    assert assembly.feature_names(study) == ["good", "site"]
    table = (folder / "patients.csv").read_text().replace("S0,", "S0,A").replace("S1,", "S1,B")
    (folder / "patients.csv").write_text(table)
    cohort.build(study)
    assert assembly.feature_names(study) == ["good", "site", "subtype-oracle"]


def test_controls_that_study_yaml_names_need_no_cohort(folder):
    assert assembly.feature_names(load(folder, controls=["clinical", "site"])) == ["good", "clinical", "site"]
    assert assembly.feature_names(load(folder, controls=[])) == ["good"]


def test_settings_of_tables_are_not_compared(folder):
    assert assembly.settings_key(load(folder), "good") == ""


def test_the_settings_key_follows_tiles_and_encoder_but_not_the_number_of_tiles(folder):
    def key(name="colour", **tiles):
        slides = {"source": "local", "slides": "slides.csv", "expression": "rna.h5ad"}
        return assembly.settings_key(load(folder, cohort=slides, encoders=["colour", "texture"], tiles=tiles), name)

    same = key()
    assert same == key(max_tiles=3, seed=5)
    assert len({same, key("texture"), key(tile_um=56.0), key(min_tissue=0.1), key(drop=["pen"])}) == 5


def test_targets_are_part_of_the_key_and_of_the_benchmark(folder):
    study = load(folder)
    cohort.build(study)
    assembly.assemble(study)
    assert "targets" not in assembly.contents(study)
    with_set = load(folder, targets={"set": {"genes": ["G1", "G2", "NONE"]}, "place": {"column": "site"}})
    assert all(artefact.due() for artefact in assembly.expected(with_set))
    before = assembly.contents(study)
    benchmark = assembly.assemble(with_set)
    after = assembly.contents(with_set)
    assert {name: after[name] for name in before} == before
    assert after["targets"]
    assert benchmark.obsm["targets"].columns.tolist() == [*(f"place=S{i}" for i in range(6)), "set"]
    assert '"n_absent": 1' in benchmark.uns["wsibench"]["targets"]
    assert list(benchmark.obsm) == ["good", "site", "targets"]
