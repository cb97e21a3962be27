"""Notebooks open their study, skip stages that do not apply, and show figures with alternative texts."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image

from wsibench.core import notebook
from wsibench.core.errors import StudyError

OPEN = "from wsibench.core import notebook\nopened = notebook.begin(study)"


@pytest.fixture
def shell():
    """A fresh kernel-like shell, as a notebook has one."""
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, *cells: str) -> str:
    with capture_output() as captured:
        for cell in cells:
            result = shell.run_cell(cell, store_history=True)
            result.raise_error()
    return captured.stdout


PARAMETERS = "# parameters to change\nstudy: str = 'demo'  # a folder of data/\nn: int = 5"


def test_injected_parameters_are_taken(shell, data_root):
    run(shell, PARAMETERS, "# Parameters\nstudy = 'demo'\n", OPEN)
    assert shell.user_ns["opened"].name == "demo"


def test_unknown_parameter_is_refused_and_the_declared_ones_are_named(shell, data_root):
    with pytest.raises(StudyError, match=r"has no parameter 'stduy'. It has: n, study"):
        run(shell, PARAMETERS, "# Parameters\nstduy = 'demo'\n", OPEN)


def test_cells_below_are_skipped_until_a_study_is_opened_again(shell, data_root):
    stage = SimpleNamespace(not_applicable=lambda study: "There is no expression.")
    shell.user_ns["stage"] = stage
    out = run(shell, PARAMETERS, OPEN, "notebook.require(stage, opened)", "print('below')", "1 / 0")
    assert "below" not in out
    out = run(shell, PARAMETERS, OPEN, "print('below')")
    assert "below" in out


def test_large_figures_become_jpeg():
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    source, width_px = notebook.inline_image(buffer.getvalue(), dpi=220)
    assert source.startswith("data:image/jpeg;base64,")
    assert width_px == 250


def test_cells_below_run_where_the_stage_applies(shell, data_root):
    shell.user_ns["stage"] = SimpleNamespace(not_applicable=lambda study: None)
    assert "below" in run(shell, PARAMETERS, OPEN, "notebook.require(stage, opened)", "print('below')")


def test_figures_have_their_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    figure = Figure(figsize=(2, 1))
    figure.alt = 'rho of "UNI" & others'
    notebook.show(figure)
    assert 'alt="rho of &quot;UNI&quot; &amp; others"' in shown[0].data
    assert 'width="220"' in shown[0].data
