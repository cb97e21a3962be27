"""Notebooks open their study, skip stages that do not apply, and show figures with alternative texts."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
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
    pd.reset_option("^display")


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


def test_tables_show_whole_texts_and_three_significant_digits(shell, data_root):
    caveat = "a long sentence " * 20
    wide = pd.DataFrame({f"column {i}": [0.123456] for i in range(30)}).assign(p=1.23456e-37, n=12345.0, caveat=caveat)
    run(shell, PARAMETERS, OPEN)
    shown = wide._repr_html_()
    assert caveat.strip() in shown
    assert "column 15" in shown
    assert {"0.123", "1.23e-37", "12345"} <= {cell.partition("</td>")[0] for cell in shown.split("<td>")}


@pytest.mark.parametrize(("value", "chosen"), [("", "a"), ("b", "b")])
def test_an_empty_parameter_takes_the_first_option(value, chosen):
    assert notebook.choose("gene", value, ["a", "b", "a"]) == chosen


def test_a_parameter_without_options_is_empty():
    assert notebook.choose("slide_id", "", []) == ""


def test_a_parameter_that_the_study_lacks_is_refused_with_the_options():
    with pytest.raises(StudyError, match=r"no gene 'ESR2' here\. Choose one of ESR1, PGR"):
        notebook.choose("gene", "ESR2", ["ESR1", "PGR"])
