"""Loading and validation of study.yaml."""

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


def test_unknown_study_lists_the_known_ones(data_root):
    with pytest.raises(StudyError, match=r"no study 'dmo'.*demo.*real-slides"):
        Study.load("dmo")
    with pytest.raises(StudyError, match="no study"):
        Study.load("../demo")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("encoder: [uni]", "`encoder` is not a known key"),
        ("tiles: {tile_px: 224}", "`tiles.tile_px` is not a known key"),
        ("tiles: {tile_um: wide}", r"`tiles.tile_um` = 'wide'"),
        ("folds: {schemes: [random]}", r"'preserved-site', 'random-patient'"),
        ("folds: {n: 1}", r"`folds.n` = 1"),
        (
            "features: {hif: {tabel: x.csv}}",
            r"(?s)`features.hif.table` is missing.*hif.tabel` is not a known key",
        ),
        ("encoders: [hif]\nfeatures: {hif: {table: x.csv}}", "hif is both an encoder and a feature table"),
        ("probes: ridge", r"`probes` = 'ridge'"),
    ],
)
def test_invalid_values_are_named(data_root, extra, message):
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


def test_key_depends_on_all_settings_but_the_title(data_root):
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


@pytest.mark.parametrize(
    "extra",
    [
        "features: {'../../../esc': {folder: in}}",
        "features: {a/b: {table: x.csv}}",
        "encoders: ['..']",
        "encoders: [{name: ../mine, loader: callable, arch: 'a:b'}]",
        "controls: ['.hidden']",
        'targets: {"a\\nb": {column: site}}',
        "probes: ['../ridge']",
        "weights: {a/../b: x}",
    ],
)
def test_names_that_leave_the_study_folder_are_refused(data_root, extra):
    with pytest.raises(StudyError, match="should match pattern"):
        written(data_root, SMALLEST + extra)


ALIASES = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
BOMB = f"a0: &a0 [x, x, x, x, x, x, x, x, x]\n{ALIASES}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BOMB}\ntitle: *a8\ncohort: {{source: simulate}}", "`title` = "),
        (f"{BOMB}\ntitle: T\ncohort: *a8\nencoders: *a8", "`cohort` = "),
        (SMALLEST + "encoders: 5", "`encoders` = 5"),
        (SMALLEST + "own: 5", "`own` = 5"),
        (SMALLEST + "folders: [a]", "`folders` = "),
        (SMALLEST + "features: {a: {folder: x}}\nencoders: 5", "`encoders` = 5"),
        (SMALLEST + "encoders: [[uni]]", r"`encoders.0` = \['uni'\]"),
        ("title: T\ntrain: a\ntest: b\nencoders: 5", "`encoders` and `features` are lists"),
        ("title: T\ntrain: a\ntest: b\nfolds: [1]", "`folds` has a `seed` only"),
        (SMALLEST + "tiles: {seed: " + "9" * 10_000 + "}", "not valid YAML"),
        ("title: " + "[" * 5_000, "not valid YAML"),
    ],
)
def test_malformed_values_are_one_short_error(data_root, text, message):
    for part in ("a", "b"):
        written(data_root, SMALLEST, part)
    with pytest.raises(StudyError, match=message) as raised:
        written(data_root, text)
    assert len(str(raised.value)) < 3_000


def test_files_that_are_no_text_are_refused(data_root):
    path = data_root / "mine" / "study.yaml"
    path.parent.mkdir()
    path.write_bytes(b"title: \xff\xfe")
    with pytest.raises(StudyError, match="not valid YAML"):
        Study.load("mine")
    path.unlink()
    path.mkdir()
    with pytest.raises(StudyError, match="not valid YAML"):
        Study.load("mine")
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(StudyError, match="no study"):
        Study.load("mine")


@pytest.mark.parametrize("text", ["loop/x", "a\0b", "~nosuchuser/x"])
def test_unusable_paths_are_refused(data_root, text):
    study = written(data_root, SMALLEST)
    (data_root / "mine" / "loop").symlink_to(data_root / "mine" / "loop")
    with pytest.raises(StudyError, match="not a usable path"):
        study.resolve(text)


def test_damaged_part_of_an_external_study_is_named(data_root):
    written(data_root, SMALLEST, "a")
    (data_root / "b").mkdir()
    (data_root / "b" / "study.yaml").write_text("title: [")
    with pytest.raises(StudyError, match=r"b/study.yaml is not valid YAML"):
        written(data_root, "title: T\ntrain: a\ntest: b")


def test_text_that_is_no_study_is_refused(data_root):
    with pytest.raises(StudyError, match="not valid YAML"):
        written(data_root, "title: [")
    with pytest.raises(StudyError, match="holds no study"):
        written(data_root, "- a list")
