"""The seven notebooks of a study are run, interrupted and run again after changes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from damage import patch_tag
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from wsibench.cli.main import main
from wsibench.cli.stages import STAGES, status, statuses
from wsibench.cohort import read_expression
from wsibench.core import CHECKOUT, Study, meta_path, read_failures

MINI = """\
title: A simulated cohort in miniature
cohort: {source: simulate, patients: 12, sites: 4, seed: 3}
tiles: {max_tiles: 12}
encoders: [colour, random-vit]
controls: [site, oracle]
folds: {n: 3}
probes: [ridge, abmil]
abmil: {tiles_train: 12, epochs: 2, seeds: 1}
ranking: {bootstrap: 100, permutations: {ridge: 3}}
"""
COLUMNS = (
    "rank encoder probe scheme mean_rho ci_low ci_high median_rho p_best n_patients n_genes n_undefined tcga study_key "
    "n_sites control"
)


def environment(root: Path) -> dict[str, str]:
    # Slides are few: a second process would only pay for its imports.
    return {**os.environ, "WSIBENCH_DATA": str(root), "WSIBENCH_WORKERS": "0", "PYTHONDONTWRITEBYTECODE": ""}


def wsibench(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "wsibench.cli.main", *arguments]
    return subprocess.run(command, env=environment(root), capture_output=True, text=True, timeout=600)


def papermill(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    notebook = CHECKOUT / "notebooks" / f"{name}.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(root / "out.ipynb")]
    environ = environment(root)
    return subprocess.run([*command, *arguments], env=environ, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> tuple[Path, str]:
    """A data folder in which the study `mini` has been run, and what the run printed."""
    root = tmp_path_factory.mktemp("run") / "data"
    (root / "mini").mkdir(parents=True)
    (root / "mini" / "study.yaml").write_text(MINI)
    ran = wsibench(root, "run", "mini")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return root, ran.stdout


@pytest.fixture
def study(mini, monkeypatch) -> Study:
    monkeypatch.setenv("WSIBENCH_DATA", str(mini[0]))
    return Study.load("mini")


@pytest.fixture
def step_through(monkeypatch) -> Iterator[Callable[..., str]]:
    """Runs the cells of a notebook in this process, with parameters as papermill injects them; returns all they show.

    Kernels and imports would be most of the time of many notebooks in processes of their own.
    """
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")

    def run(name: str, **parameters: str) -> str:
        notebook = load_notebook_node(str(CHECKOUT / "notebooks" / f"{name}.ipynb"))
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
        with capture_output() as shown:
            for cell in parameterize_notebook(notebook, parameters).cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source, store_history=True).raise_error()
        return shown.stdout + str([output.data for output in shown.outputs])

    yield run
    InteractiveShell.clear_instance()
    pd.reset_option("^display")


@pytest.fixture
def changed(mini, tmp_path, monkeypatch):
    """Copies the finished study under another data folder, with its study.yaml changed."""

    def change(old: str, new: str) -> Study:
        root = tmp_path / "data"
        shutil.copytree(mini[0], root, symlinks=True)
        path = root / "mini" / "study.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        monkeypatch.setenv("WSIBENCH_DATA", str(root))
        return Study.load("mini")

    return change


def due(study: Study) -> list[str]:
    return [one.stage.name for one in statuses(study) if one.state == "due"]


def test_a_run_makes_all_outputs(mini, study):
    printed = mini[1]
    for stage in STAGES:
        assert f"{stage.name}" in printed
        assert (study.figures / "notebooks" / f"{stage.name}.html").exists()
    assert str(study.figures / "index.html") in printed
    board = pd.read_csv(study.leaderboard_csv)
    assert list(board.columns) == COLUMNS.split()
    assert set(board["encoder"]) == {"colour", "random-vit", "site", "oracle"}
    assert board.loc[board["encoder"].isin(["site", "oracle"]), "rank"].isna().all()
    assert board[["mean_rho", "ci_low", "ci_high"]].notna().all().all()
    assert (study.figures / "leaderboard.csv").read_bytes() == study.leaderboard_csv.read_bytes()


def test_nothing_is_due_after_a_run_and_nothing_runs_again(mini, study):
    before = {path: path.stat().st_mtime_ns for path in study.root.rglob("*") if path.is_file()}
    again = wsibench(mini[0], "run", "mini")
    assert again.returncode == 0, again.stderr
    assert "running" not in again.stdout
    assert again.stdout.count("carry the study's keys") == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in study.root.rglob("*") if path.is_file()} == before


def test_the_status_of_a_finished_study_loads_nothing_heavy(mini):
    heavy = {"torch", "numba", "anndata", "sklearn", "matplotlib"}
    code = "import sys\nfrom wsibench.cli.main import main\nmain(['status', 'mini'])\n"
    code += f"print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], env=environment(mini[0]), capture_output=True, text=True)
    assert ran.stdout.count("carry the study's keys") == len(STAGES)
    assert ran.stdout.endswith("set()\n"), ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("bootstrap: 100", "bootstrap: 101", "06_ranking"),
        ("folds: {n: 3}", "folds: {n: 3, seed: 1}", "05_regression"),
        ("max_tiles: 12", "max_tiles: 11", "02_tiling"),
    ],
)
def test_a_change_makes_due_what_depends_on_it(changed, old, new, first):
    names = [stage.name for stage in STAGES]
    assert due(changed(old, new)) == names[names.index(first) :]


def test_one_more_encoder_leaves_the_others_alone(changed):
    study = changed("[colour, random-vit]", "[colour, random-vit, texture]")
    line = str(status(study, STAGES[2]))
    n_slides = len(pd.read_csv(study.cohort_csv))
    assert f"{n_slides} of {3 * n_slides} files: {n_slides} missing" in line
    assert due(study) == [stage.name for stage in STAGES[2:]]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}"])
def test_damaged_bookkeeping_makes_due_and_is_no_traceback(changed, content):
    study = changed("title: A", "title: A")
    study.failures_csv.write_bytes(content)
    for path in (study.cohort_csv, study.benchmark_h5ad, study.leaderboard_csv):
        meta_path(path).write_bytes(content)
    assert {"01_cohort", "04_assembly", "06_ranking"} <= set(due(study))
    assert main(["status", "mini"]) == 0


def test_a_killed_run_goes_on_where_it_stopped_and_makes_a_damaged_file_again(mini, changed):
    study = changed("[colour, random-vit]", "[colour]")
    features = sorted((study.root / "features" / "colour").glob("*.h5"))
    for path in (study.root / "features").rglob("*.h5*"):
        path.unlink()
    command = [sys.executable, "-m", "wsibench.cli.main", "run", "mini", "--to", "03"]
    process = subprocess.Popen(
        command, env=environment(study.root.parent), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while sum(path.exists() for path in features) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    damaged, *kept = sorted(filter(Path.exists, features), key=lambda path: path.stat().st_mtime_ns)
    assert kept
    before = {path: path.stat().st_mtime_ns for path in kept}
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert "1 changed since it was made" in str(status(study, STAGES[2]))
    ran = wsibench(study.root.parent, "run", "mini", "--to", "03")
    assert ran.returncode == 0, ran.stderr
    assert damaged.read_bytes() == (mini[0] / damaged.relative_to(study.root.parent)).read_bytes()
    for path in features:
        original = mini[0] / path.relative_to(study.root.parent)
        with h5py.File(path) as made, h5py.File(original) as unbroken:
            np.testing.assert_array_equal(made["features"], unbroken["features"])
            np.testing.assert_array_equal(made["coords"], unbroken["coords"])
    # The last one may have been written but not signed; all the others are as the killed run left them.
    assert sum(path.stat().st_mtime_ns != time_ns for path, time_ns in before.items()) <= 1


OTHERS = {
    "01_cohort": ("slide_id", "gene"),
    "02_tiling": ("slide_id",),
    "03_embedding": ("slide_id", "encoder"),
    "04_assembly": ("patient_id", "encoder"),
    "05_regression": ("scheme", "encoder", "probe", "gene"),
    "06_ranking": ("scheme", "encoder", "probe", "gene"),
    "07_figures": ("scheme", "gene"),
}
"""Parameters of every notebook that are given other values than their defaults."""


@pytest.mark.parametrize("name", OTHERS)
def test_every_notebook_steps_through_another_slide_patient_encoder_or_gene(study, step_through, name):
    slide = pd.read_csv(study.cohort_csv).iloc[-1]
    gene = read_expression(study).var_names[-1]
    values = {"scheme": "random-patient", "encoder": "random-vit", "probe": "abmil", "gene": gene}
    values |= {"slide_id": slide["slide_id"], "patient_id": slide["patient_id"]}
    chosen = {parameter: values[parameter] for parameter in OTHERS[name]}
    shown = step_through(name, study="mini", **chosen)
    assert not [value for value in chosen.values() if value not in shown]


def test_an_unknown_parameter_is_refused_under_papermill(mini):
    ran = papermill(mini[0], "01_cohort", "-p", "study", "mini", "-p", "tile_px", "224")
    assert ran.returncode == 1
    assert "has no parameter 'tile_px'. It has: gene, slide_id, study" in ran.stderr


def test_a_failing_notebook_is_named_with_its_error(mini, tmp_path):
    folder = tmp_path / "data" / "lost"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text("title: T\ncohort: {source: local, slides: nowhere.csv}\n")
    ran = wsibench(folder.parent, "run", "lost")
    assert ran.returncode == 1
    assert "nowhere.csv" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_feature_tables_alone_skip_the_stages_on_tiles(study, step_through, monkeypatch, tmp_path):
    root = tmp_path / "data"
    folder = root / "vectors"
    folder.mkdir(parents=True)
    latents = pd.read_csv(study.truth / "latents.csv")
    latents[["patient_id", "site"]].to_csv(folder / "patients.csv", index=False)
    latents.drop(columns="site").to_csv(folder / "mine.csv", index=False)
    shutil.copy(study.expression_h5ad, folder / "rna.h5ad")
    (folder / "study.yaml").write_text(
        "title: Vectors\n"
        "cohort: {source: local, patients: patients.csv, expression: rna.h5ad}\n"
        "features: {mine: {table: mine.csv}}\n"
        "folds: {n: 3}\n"
        "probes: [ridge]\n"
        "ranking: {bootstrap: 100, permutations: {ridge: 0}}\n"
    )
    monkeypatch.setenv("WSIBENCH_DATA", str(root))
    shown = {stage.name: step_through(stage.name, study="vectors") for stage in STAGES}
    assert [name for name, text in shown.items() if "Not applicable." in text] == ["02_tiling", "03_embedding"]
    states = {one.stage.name: str(one) for one in statuses(Study.load("vectors"))}
    assert [name for name, text in states.items() if "not applicable" in text] == ["02_tiling", "03_embedding"]
    assert "the files are current" in states["07_figures"]
    assert "mine" in (folder / "leaderboard.csv").read_text()
    alone = papermill(root, "02_tiling", "-p", "study", "vectors")
    assert alone.returncode == 0, alone.stderr


@pytest.mark.parametrize(("tag", "dtype"), [("SamplesPerPixel", 1), ("TileByteCounts", 16)])
def test_a_slide_with_a_damaged_header_is_a_row_and_stops_no_stage(data_root, write_svs, tag, dtype):
    rng = np.random.default_rng(0)
    image = np.full((1600, 1600, 3), (243, 242, 245), np.int16)
    image[400:1200, 400:1200] = np.array((196, 120, 170)) + rng.integers(-15, 15, (800, 800, 1))
    good, bad = (write_svs(image.astype(np.uint8), 0.5, name=f"{name}.svs") for name in ("good", "bad"))
    patch_tag(bad, tag, 2, dtype)
    folder = data_root / "own"
    folder.mkdir()
    (folder / "slides.csv").write_text(f"slide_id,patient_id,path\ngood,P1,{good}\nbad,P2,{bad}\n")
    study_yaml = "title: T\ncohort: {source: local, slides: slides.csv}\nlimits: {failed_slides: 0.5}\n"
    (folder / "study.yaml").write_text(study_yaml)
    ran = wsibench(data_root, "run", "own", "--to", "02")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [row] = read_failures(folder / "failures.csv")
    assert (row.slide_id, row.stage) == ("bad", "tiling")
    assert "cannot be opened" in row.error
    assert (folder / "tiles" / "good.parquet").exists()
