"""Validation of a study.yaml with `train` and `test`."""

import pytest
import yaml

from wsibench.core import Study, StudyError

PART = {
    "title": "T",
    "cohort": {"source": "local", "slides": "slides.csv", "expression": "rna.csv"},
    "encoders": ["colour", "texture"],
    "controls": ["random-vit"],
    "features": {"mine": {"table": "mine.csv"}},
    "expression": {"unit": "log2_tpm"},
}
BOTH = {"title": "T", "train": "a", "test": "b"}


@pytest.fixture
def write(data_root):
    def write(name: str, content: dict) -> Study:
        (data_root / name).mkdir(exist_ok=True)
        (data_root / name / "study.yaml").write_text(yaml.safe_dump(content))
        return Study.load(name)

    write("a", PART)
    write("b", PART)
    return write


def test_features_are_named_and_defined_elsewhere(write):
    study = write("ab", {**BOTH, "encoders": ["colour"], "features": ["mine"], "controls": ["random-vit", "site"]})
    assert study.encoders == ["colour", "mine"]
    assert list(study.tables) == ["mine"]
    assert study.folds.schemes == ["external"]
    assert study.expression.unit == "log2_tpm"
    assert [part.name for part in study.parts.values()] == ["a", "b"]
    assert "a (to train on) and b (to be tested on)" in study.no_cohort


def test_different_units_count_as_unknown(write):
    write("b", {**PART, "expression": {"unit": "zscore"}})
    assert write("ab", {**BOTH, "encoders": ["colour"]}).expression.unit == "as_is"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"title": "T"}, r"give either `cohort`, or both `train` and `test`"),
        ({"title": "T", "train": "a"}, r"give either `cohort`, or both `train` and `test`"),
        ({"title": "T", "test": "a", "cohort": PART["cohort"]}, r"give either `cohort`, or both `train` and `test`"),
        ({**BOTH, "cohort": PART["cohort"]}, r"gives cohort beside `train` and `test`"),
        ({**BOTH, "tiles": {"tile_um": 112}, "weights": {}}, r"gives tiles, weights beside"),
        ({**BOTH, "train": "b"}, r"`train` and `test` are b and b"),
        ({**BOTH, "test": "ab"}, r"`train` and `test` are a and ab"),
        ({**BOTH, "test": ["b"]}, r"`test` = \['b'\]: Input should be a valid string"),
        ({**BOTH, "test": "c"}, r"There is no study 'c'"),
        ({**BOTH, "encoders": ["uni"]}, r"names uni, which study a \(train\) does not have. It has colour, texture"),
        ({**BOTH, "features": {"mine": {"table": "x.csv"}}}, r"`features` are lists, .* List names"),
        ({**BOTH, "encoders": ["colour"], "folds": {"n": 4}}, r"has a `seed` only"),
        ({**BOTH, "encoders": ["colour"], "folds": {"schemes": ["random-patient"]}}, r"has a `seed` only"),
    ],
)
def test_settings_of_the_two_studies_are_refused(write, content, message):
    with pytest.raises(StudyError, match=message):
        write("ab", content)


def test_external_studies_cannot_be_nested(write):
    write("ab", {**BOTH, "encoders": ["colour"]})
    with pytest.raises(StudyError, match="names ab, which has no cohort of its own"):
        write("abb", {**BOTH, "train": "ab"})


def test_external_folds_need_an_external_study(write):
    with pytest.raises(StudyError, match="`external` is for studies with `train` and `test`"):
        write("a", {**PART, "folds": {"schemes": ["external"]}})


def test_key_follows_the_parts_up_to_their_benchmarks(write):
    content = {**BOTH, "encoders": ["colour"]}
    key = write("ab", content).key
    assert write("ab", {**content, "title": "Other"}).key == key
    assert write("ab", {**content, "folds": {"seed": 1}}).key != key
    write("b", {**PART, "probes": ["ridge"], "ranking": {"bootstrap": 200}})
    assert write("ab", content).key == key
    write("b", {**PART, "tiles": {"tile_um": 128}})
    assert write("ab", content).key != key
