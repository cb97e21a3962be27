"""Helpers of the notebooks: open a study, skip a stage that does not apply, show figures."""

import ast
import base64
import html
import io
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from IPython import get_ipython
from IPython.display import HTML, Markdown, display

from wsibench.core.errors import StudyError
from wsibench.core.study import Study
from wsibench.core.tables import some

SCREEN_DPI = 110
# Size above which a figure, then one of tissue, is shown as JPEG, which is five times smaller.
MAX_PNG_BYTES = 500_000


def begin(study: str | Study) -> Study:
    """Open the study of a notebook, and display its title, key and folder.

    Parameters
    ----------
    study
        Name of a study, or the study itself.

    Raises
    ------
    StudyError
        For an unknown study, an invalid study.yaml, or a parameter that the notebook does not have.
    """
    shell = get_ipython()
    if shell is not None:
        shell.input_transformers_cleanup[:] = [each for each in shell.input_transformers_cleanup if each is not _skip]
        _check_parameters(shell.user_ns.get("In", []))
        _show_tables_whole()
    opened = Study.load(study) if isinstance(study, str) else study
    display(Markdown(f"**{opened.title}** — study `{opened.name}`, key `{opened.key}`, files in `{opened.root}`"))
    return opened


def require(stage: ModuleType, study: Study) -> None:
    """Say why a stage does not apply to a study, and skip the cells that follow.

    Nothing is raised, so that a batch run of a study without, for example, expression succeeds.
    """
    reason = stage.not_applicable(study)
    shell = get_ipython()
    if reason:
        display(Markdown(f"**Not applicable.** {reason} The cells below are skipped."))
        if shell is not None:
            shell.input_transformers_cleanup.append(_skip)


def choose(parameter: str, value: str, options: Iterable[str]) -> str:
    """Check the value of a parameter of a notebook; an empty one takes the first option.

    Parameters
    ----------
    parameter
        Name of the parameter, for the message.
    value
        Its value.
    options
        Permitted values.

    Returns
    -------
    str
        The value; empty if it is empty and there are no options.

    Raises
    ------
    StudyError
        For a value that is not among the options.
    """
    options = list(dict.fromkeys(options))
    if value and value not in options:
        raise StudyError(f"There is no {parameter} {value!r} here.", f"Choose one of {some(options, 12)}.")
    return value or next(iter(options), "")


def show(figure: Any) -> None:
    """Display a matplotlib figure of `wsibench.figures` with its alternative text, ``figure.alt``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * SCREEN_DPI)
    source, width_px = inline_image(buffer.getvalue(), dpi=2 * SCREEN_DPI)
    alt = html.escape(figure.alt, quote=True)
    display(HTML(f'<figure><img alt="{alt}" width="{width_px}" src="{source}"></figure>'))


def inline_image(png: bytes, *, dpi: int) -> tuple[str, int]:
    """Encode a figure for a page: its data URI, and its width on a screen in pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        width_px = round(image.width * SCREEN_DPI / dpi)
        if len(png) <= MAX_PNG_BYTES:
            return f"data:image/png;base64,{base64.b64encode(png).decode()}", width_px
        jpeg = io.BytesIO()
        image.convert("RGB").save(jpeg, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}", width_px


def _show_tables_whole() -> None:
    """Let pandas show all columns, whole texts and three significant digits."""
    import pandas as pd

    for name, value in {"columns": None, "colwidth": None, "rows": 200}.items():
        pd.set_option(f"display.max_{name}", value)
    pd.set_option("display.min_rows", 40, "display.float_format", _three_digits)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _skip(lines: list[str]) -> list[str]:
    """Empty a cell, unless it sets parameters or opens a study, after which the notebook can run again."""
    opens = any("notebook.begin(" in line for line in lines)
    return lines if opens or (lines and lines[0].lower().startswith("# parameters")) else ["\n"]


def _check_parameters(cells: list[str]) -> None:
    """Refuse parameters, in the cell that papermill injects, that the notebook's own cell does not declare."""
    injected = [cell for cell in cells if cell.startswith("# Parameters")]
    declared = [cell for cell in cells if cell.startswith("# parameters")]
    if injected and declared:
        allowed, given = _names(declared), _names(injected)
        if unknown := given - allowed:
            names = ", ".join(map(repr, sorted(unknown)))
            raise StudyError(f"This notebook has no parameter {names}.", f"It has: {', '.join(sorted(allowed))}.")


def _names(cells: list[str]) -> set[str]:
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
