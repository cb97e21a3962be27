"""What the repository promises about itself: one list of dependencies, and notebooks that only tell the story."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile

import nbformat
import pytest
import yaml

from wsibench.cli.stages import STAGES
from wsibench.core import CHECKOUT

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def test_conda_users_get_the_one_dependency_list():
    from rattler import MatchSpec

    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    specs = [spec for spec in environment["dependencies"] if isinstance(spec, str)]
    assert {MatchSpec(spec).name.normalized for spec in specs} == {"python", "pip", "make"}
    assert environment["dependencies"][-1] == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_constraints_name_versions_and_nothing_else():
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[A-Za-z0-9._-]+", text)[0].lower().replace("_", "-") for text in wanted}
    assert names <= pinned


def test_hooks_use_the_pinned_versions():
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = (CHECKOUT / "constraints.txt").read_text().splitlines()
    assert all(set(hook["additional_dependencies"]) <= set(pinned) for hook in hooks)


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("wsibench/")}
    files = [path for path in (CHECKOUT / "wsibench").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(CHECKOUT).as_posix() for path in files}
    assert any(name.endswith(".html.j2") for name in names)


def test_there_is_one_notebook_a_stage():
    assert [path.stem for path in NOTEBOOKS] == [stage.name for stage in STAGES]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_only_tell_the_story(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    opening = notebook.cells[0].source
    assert opening.startswith("# ")
    for word in ("**What**", "**Why**", "**Reads**", "**Leaves**", "**Takes**"):
        assert word in opening
    assert code[0].metadata.tags == ["parameters"]
    assert code[0].source.startswith("# parameters")
    assert "notebook.begin(study)" in code[1].source
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        tree = ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 15
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        # papermill takes sys.exit() for success and leaves the cells below unrun.
        assert "exit(" not in cell.source
