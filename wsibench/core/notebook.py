"""What every notebook does first and last: open its study, stop where it does not apply, show pictures."""

import ast
import html
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

from IPython import get_ipython
from IPython.display import HTML, Markdown, display

from wsibench.core.errors import StudyError
from wsibench.core.study import Study

PAPERMILL_CELL = "# Parameters"
"""First line of the cell that papermill injects; our own parameters cells begin with ``# parameters``."""


def begin(study: str | Study) -> Study:
    """Open the study a notebook was asked for, and say which it is.

    Parameters
    ----------
    study
        Name of a folder of data/ that holds a study.yaml.

    Raises
    ------
    StudyError
        For an unknown study, an unknown key in its study.yaml, or a parameter that the notebook does
        not take (papermill itself only warns about those).
    """
    _check_parameters()
    _run_all_cells()
    opened = Study.load(study) if isinstance(study, str) else study
    display(Markdown(f"**{opened.title}** — study `{opened.name}`, key `{opened.key}`, files in `{opened.root}`"))
    return opened


def require(room: ModuleType, study: Study) -> None:
    """Say why a stage does not apply to the study, and pass over the cells that follow.

    Nothing is raised, so that a batch run of a study without, say, expression ends well.
    """
    reason = room.not_applicable(study)
    if reason:
        display(Markdown(f"**Not applicable.** {reason} The cells below are passed over."))
        _pass_over_cells()


def show(figure: Any) -> None:
    """Show a figure with its alternative text, which plain inline output would lose.

    Parameters
    ----------
    figure
        A matplotlib figure made by `wsibench.figures`, which carries its text as ``figure.alt``.
    """
    from wsibench.figures.stage import SCREEN_DPI, inline

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * SCREEN_DPI)
    source, width_px = inline(buffer.getvalue(), dpi=2 * SCREEN_DPI)
    page = f'<figure><img alt="{html.escape(figure.alt, quote=True)}" width="{width_px}" src="{source}"></figure>'
    display(HTML(page))


def _pass_over_cells() -> None:
    shell = get_ipython()
    if shell is not None and _skip not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_skip)


def _run_all_cells() -> None:
    shell = get_ipython()
    if shell is not None and _skip in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_skip)


def _skip(lines: list[str]) -> list[str]:
    """Empty a cell, unless it sets parameters or opens a study: then another one may be stepped through."""
    first = lines[0].lower() if lines else ""
    opens = first.startswith(PAPERMILL_CELL.lower()) or any("notebook.begin(" in line for line in lines)
    return lines if opens else ["\n"]


def _check_parameters() -> None:
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    declared = _assigned(cells, lambda cell: cell.startswith(PAPERMILL_CELL.lower()))
    given = _assigned(cells, lambda cell: cell.startswith(PAPERMILL_CELL))
    unknown = sorted(given - declared)
    if unknown and declared:
        names = ", ".join(sorted(declared))
        raise StudyError(f"This notebook takes no parameter {', '.join(map(repr, unknown))}.", f"It takes: {names}.")


def _assigned(cells: list[str], chosen: Callable[[str], bool]) -> set[str]:
    """Names that the chosen cells assign."""
    names: set[str] = set()
    for cell in filter(chosen, cells):
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names
