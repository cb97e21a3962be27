"""Commands and their messages."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from wsibench.cli.main import main


def test_unknown_study_is_one_clear_line(data_root, capsys):
    assert main(["run", "dmo"]) == 1
    printed = capsys.readouterr().err
    assert "There is no study 'dmo'." in printed
    assert "Studies: demo" in printed
    assert "Traceback" not in printed


def test_unknown_stage_names_the_stages(data_root, capsys):
    assert main(["run", "demo", "--from", "3"]) == 1
    assert "03_embedding" in capsys.readouterr().err


def test_stages_in_the_wrong_order_are_refused(data_root, capsys):
    assert main(["run", "demo", "--from", "05", "--to", "03"]) == 1
    assert "'03' comes before '05'" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5"])
def test_workers_have_to_be_a_positive_number(capsys, workers):
    with pytest.raises(SystemExit) as stop:
        main(["run", "demo", "--workers", workers])
    assert stop.value.code == 2
    assert "is not a number of at least 1" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"wsibench {version('wsibench')}\n"


@pytest.mark.parametrize("command", "run status figures cohort folds fit predict encoders doctor".split())  # noqa: SIM905
def test_help_of_every_command_has_an_example(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example: wsibench {command}" in capsys.readouterr().out


def test_unknown_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["rnu", "demo"])
    assert stop.value.code == 2
    assert "run" in capsys.readouterr().err


def test_unset_variable_is_named(data_root, capsys, monkeypatch):
    monkeypatch.delenv("WSIBENCH_REAL_DATA", raising=False)
    assert main(["status", "tcga-brca-hif"]) == 1
    assert "WSIBENCH_REAL_DATA" in capsys.readouterr().err


def test_status_of_a_study_that_never_ran(data_root, capsys):
    assert main(["status", "demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, "due"]
        for name in (
            "01_cohort 02_tiling 03_embedding 04_assembly 05_regression 06_ranking 07_figures".split()  # noqa: SIM905
        )
    ]


def test_doctor_says_what_the_machine_has(data_root, capsys):
    assert main(["doctor", "demo"]) == 0
    printed = capsys.readouterr().out
    for word in ("python", "openslide", "torch", "03_embedding   no fault found"):
        assert word in printed


@pytest.mark.parametrize("statement", ["import wsibench", "from wsibench.cli.main import _parser; _parser()"])
def test_importing_loads_nothing_heavy(statement):
    heavy = "{'torch', 'scanpy', 'openslide', 'anndata', 'matplotlib', 'papermill'}"
    code = f"{statement}\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)


def test_encoders_are_listed_without_torch():
    code = "from wsibench.cli.main import main\nmain(['encoders'])\nimport sys\nassert 'torch' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True, text=True)
    for name in ("dinov2-large", "medsiglip", "uni", "h-optimus-0", "phikon", "random-vit"):
        assert name in ran.stdout


@pytest.mark.parametrize(("key", "name"), [("encoders", "phikonn"), ("probes", "rigde"), ("controls", "sites")])
def test_unknown_names_are_refused_before_anything_runs(data_root, capsys, key, name):
    (data_root / "mine").mkdir()
    (data_root / "mine" / "study.yaml").write_text(f"title: T\ncohort: {{source: simulate}}\n{key}: [{name}]\n")
    assert main(["run", "mine"]) == 1
    printed = capsys.readouterr()
    assert name in printed.err
    assert "running" not in printed.out


def test_code_that_a_study_names_runs_only_when_trusted(data_root, capsys, monkeypatch):
    monkeypatch.delenv("WSIBENCH_TRUST", raising=False)
    (data_root / "mine").mkdir()
    text = "title: T\ncohort: {source: simulate}\nencoders: [{name: mine, loader: callable, arch: 'os:getcwd'}]\n"
    (data_root / "mine" / "study.yaml").write_text(text)
    assert main(["run", "mine"]) == 1
    assert "--trust" in capsys.readouterr().err
