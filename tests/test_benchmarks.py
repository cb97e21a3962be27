"""Smoke runs of the scripts in benchmarks/: each runs to its end on the smallest input and prints its table."""

import os
import subprocess
import sys

import pytest

from wsibench.core import CHECKOUT

SMALL = {
    "device": ["--device", "cpu", "--encoders", "phikon", "--batch", "2", "--seconds", "0.1"],
    "embedding": ["--tiles", "64"],
    "probes": ["--genes", "40", "--patients", "60", "--width", "16", "--peer-fits", "1"],
    "reading": ["--tiles", "64"],
    "resampling": ["--genes", "20", "--patients", "50", "--draws", "20", "--encoders", "2"],
    "star": ["--files", "3", "--genes", "200"],
    "validity": ["--quick"],
    "validity_plots": ["--coverage", "docs/validity/coverage.csv", "--power", "docs/validity/power.csv"],
}
LIBRARIES = {"cohorts", "fixed_ranks"}
"""Modules in benchmarks/ that others import and that are no scripts."""


def test_every_script_has_a_smoke_run():
    scripts = {path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")}
    assert scripts - LIBRARIES == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_benchmark_runs_to_its_end(name, tmp_path):
    arguments = SMALL[name] + {"star": ["--folder", tmp_path], "validity_plots": ["--to", tmp_path]}.get(name, [])
    command = [sys.executable, f"benchmarks/{name}.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    run = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    if name == "validity_plots":
        assert {path.name for path in tmp_path.glob("*.png")} >= {"validity-coverage.png", "validity-power.png"}
    else:
        assert any(character.isdigit() for character in run.stdout)
