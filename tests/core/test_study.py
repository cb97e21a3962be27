"""study.yaml is refused, with the remedy named, unless every word of it is understood."""

import textwrap
from pathlib import Path

import pytest

from wsibench.core.errors import StudyError
from wsibench.core.paths import CHECKOUT
from wsibench.core.study import Study, studies

SMALLEST = "title: T\ncohort: {source: simulate}\n"


def written(data_root: Path, text: str, name: str = "mine") -> Study:
    folder = data_root / name
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(textwrap.dedent(text))
    return Study.load(name)


def test_tracked_studies_load(monkeypatch):
    monkeypatch.setenv("WSIBENCH_REAL_DATA", "/somewhere")
    names = {path.parent.name for path in (CHECKOUT / "data").glob("*/study.yaml")}
    assert {"demo", "real-slides", "tcga-brca-hif"} <= names
    for name in names:
        assert Study.load(name).name == name


def test_unknown_study_names_those_there_are(data_root):
    with pytest.raises(StudyError, match=r"no study 'dmo'.*Did you mean 'demo'\?.*real-slides"):
        Study.load("dmo")
    with pytest.raises(StudyError, match="no study"):
        Study.load("../demo")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("encoder: [uni]", r"unknown key 'encoder' \(did you mean 'encoders'\?\); allowed: title"),
        ("tiles: {tile_px: 224}", r"unknown key 'tile_px' in `tiles`.*allowed: tile_um"),
        ("tiles: {tile_um: wide}", r"`tiles.tile_um` = 'wide'"),
        ("folds: {schemes: [random]}", r"'preserved-site', 'random-patient'"),
        ("folds: {n: 1}", r"`folds.n` = 1"),
        ("features: {hif: {tabel: x.csv}}", r"unknown key 'tabel' in `features` \(did you mean 'table'"),
        ("encoders: [hif]\nfeatures: {hif: {table: x.csv}}", r"hif stands both under encoders and under features"),
        ("probes: ridge", r"`probes` = 'ridge'"),
    ],
)
def test_what_is_wrong_and_what_is_allowed_is_said(data_root, extra, message):
    with pytest.raises(StudyError, match=message):
        written(data_root, SMALLEST + extra)


def test_local_cohort_needs_one_table_of_patients(data_root):
    with pytest.raises(StudyError, match="exactly one of `slides`"):
        written(data_root, "title: T\ncohort: {source: local}\n")


def test_unset_variable_is_named(data_root, monkeypatch):
    monkeypatch.delenv("MY_COHORT", raising=False)
    text = "title: T\ncohort: {source: local, slides: '${MY_COHORT}/slides.csv'}\n"
    with pytest.raises(StudyError, match=r"\$\{MY_COHORT\}, which is not set. Set it: export MY_COHORT="):
        written(data_root, text)
    monkeypatch.setenv("MY_COHORT", "/cohort")
    study = written(data_root, text)
    assert study.resolve(study.cohort.slides) == Path("/cohort/slides.csv")
    assert study.resolve("tables/x.csv") == data_root / "mine" / "tables" / "x.csv"


def test_key_follows_what_decides_a_result(data_root):
    key = written(data_root, SMALLEST).key
    assert written(data_root, SMALLEST.replace("T", "Other title")).key == key
    assert written(data_root, SMALLEST + "tiles: {tile_um: 112}").key == key, "stating a default changes nothing"
    assert written(data_root, SMALLEST + "tiles: {tile_um: 128}").key != key


def test_study_is_frozen(data_root):
    study = written(data_root, SMALLEST)
    with pytest.raises(Exception, match="frozen"):
        study.title = "Other"


def test_moved_data_folder_keeps_the_checkouts_studies(data_root):
    assert Study.load("demo").root == data_root / "demo"
    assert Study.load("demo").figures == data_root.parent / "figures" / "demo"
    written(data_root, SMALLEST, "own")
    assert {"own", "demo"} <= set(studies())


def test_text_that_is_no_study_is_refused(data_root):
    with pytest.raises(StudyError, match="not valid YAML"):
        written(data_root, "title: [")
    with pytest.raises(StudyError, match="holds no study"):
        written(data_root, "- a list")
