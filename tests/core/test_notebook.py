"""A notebook opens its study, passes over what does not apply, and shows pictures with their words."""

from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

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


PARAMETERS = "# parameters: what to turn\nstudy: str = 'demo'"


def test_injected_parameters_are_taken(shell, data_root):
    run(shell, PARAMETERS, "# Parameters\nstudy = 'demo'\n", OPEN)
    assert shell.user_ns["opened"].name == "demo"


def test_unknown_parameter_is_refused_with_those_there_are(shell, data_root):
    with pytest.raises(StudyError, match=r"takes no parameter 'stduy'. It takes: study"):
        run(shell, PARAMETERS, "# Parameters\nstduy = 'demo'\n", OPEN)


def test_cells_below_are_passed_over_until_a_study_is_opened_again(shell, data_root):
    room = SimpleNamespace(not_applicable=lambda study: "There is no expression.")
    shell.user_ns["room"] = room
    out = run(shell, PARAMETERS, OPEN, "notebook.require(room, opened)", "print('below')", "1 / 0")
    assert "below" not in out
    out = run(shell, PARAMETERS, OPEN, "print('below')")
    assert "below" in out


def test_cells_below_run_where_the_stage_applies(shell, data_root):
    shell.user_ns["room"] = SimpleNamespace(not_applicable=lambda study: None)
    assert "below" in run(shell, PARAMETERS, OPEN, "notebook.require(room, opened)", "print('below')")


def test_pictures_carry_their_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    figure = Figure(figsize=(2, 1))
    figure.alt = 'rho of "UNI" & others'
    notebook.show(figure)
    assert 'alt="rho of &quot;UNI&quot; &amp; others"' in shown[0].data
    assert 'width="220"' in shown[0].data
