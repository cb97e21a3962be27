"""Catalogue of the figures, and the stage that draws those that apply to a study.

A figure is a function with the decorator `figure` in one of `MODULES`; nothing else has to be changed to add one.
"""

import html
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

import pandas as pd

from wsibench.core import Artefact, Study, WsibenchError, inline_image, make_key, meta_path, read_meta, writing
from wsibench.figures import style
from wsibench.figures.inputs import Inputs
from wsibench.figures.style import Figure

P = ParamSpec("P")

FORMAT = 2
# Modules of this folder that hold figures, in the order of the report.
MODULES = ("leaderboard", "robustness", "genes", "sets", "training", "slides", "cohort")
_ENTRIES: list["Entry"] = []


@dataclass(frozen=True)
class Entry:
    """Record of one figure."""

    name: str  # of the function and of the files
    title: str
    caption: str
    function: Callable[..., Figure]
    inputs: tuple[str, ...]  # names of `SOURCES`: the arguments of the function, unless `arguments` gives them
    applies: Callable[[Inputs], bool]  # beyond the presence of all inputs
    arguments: Callable[[Inputs], dict[str, Any]] | None

    def files(self, study: Study) -> list[Path]:
        """Paths of PDF, PNG and CSV."""
        return [study.figures / f"{self.name}{suffix}" for suffix in style.SUFFIXES]

    def artefacts(self, inputs: Inputs) -> list[Artefact]:
        """Files with their keys; none where the figure does not apply to the study."""
        keys = [inputs.keys(name) for name in self.inputs]
        if None in keys or not self.applies(inputs):
            return []
        made_from = list(dict.fromkeys(key for found in keys for key in found or []))
        # The study key stands in the files, so that another study.yaml makes other files.
        key = make_key("figures", FORMAT, {"figure": self.name, "study_key": inputs.study.key}, made_from)
        return [Artefact(path, key) for path in self.files(inputs.study)]

    def draw(self, inputs: Inputs) -> Figure:
        """Load the inputs and draw."""
        if self.arguments is not None:
            return self.function(**self.arguments(inputs))
        return self.function(*(inputs[name] for name in self.inputs))


def figure(
    title: str,
    caption: str,
    *inputs: str,
    applies: Callable[[Inputs], bool] = lambda inputs: True,
    arguments: Callable[[Inputs], dict[str, Any]] | None = None,
) -> Callable[[Callable[P, Figure]], Callable[P, Figure]]:
    """Add a drawing function to the catalogue, and let it draw in the house style.

    Parameters
    ----------
    title
        Title in the report.
    caption
        Instructions for reading the figure.
    *inputs
        Names of `wsibench.figures.inputs.SOURCES`, in the order of the function's arguments. The figure applies to
        a study that has all of them.
    applies
        Further condition.
    arguments
        Keyword arguments of the function for a study, in place of `inputs`.

    Returns
    -------
    Callable
        A decorator.
    """

    def decorate(function: Callable[P, Figure]) -> Callable[P, Figure]:
        @wraps(function)
        def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
            with style.house_style():
                fig = function(*args, **kwargs)
                # Ticks are made when first drawn, and take the settings of that moment.
                fig.draw_without_rendering()
            return fig

        _ENTRIES.append(Entry(function.__name__, title, caption, draw, inputs, applies, arguments))
        return draw

    return decorate


@cache
def catalogue() -> tuple[Entry, ...]:
    """All figures, in the order of the report."""
    for module in MODULES:
        importlib.import_module(f"wsibench.figures.{module}")
    place = {f"wsibench.figures.{module}": i for i, module in enumerate(MODULES)}
    return tuple(sorted(_ENTRIES, key=lambda entry: place[entry.function.__module__]))


def not_applicable(study: Study) -> str | None:
    """Reason why the study has no figures: None, since there is always the cohort."""
    return None


def expected(study: Study) -> list[Artefact]:
    """Three files a figure, and the copy of the leaderboard.

    Raises
    ------
    NotReady
        When an earlier stage that applies to the study is due.
    """
    inputs = Inputs(study)
    return [*(artefact for entry in catalogue() for artefact in entry.artefacts(inputs)), *_leaderboard_copy(inputs)]


def current(study: Study) -> list[Entry]:
    """Figures that apply to the study and whose files are current."""
    inputs = Inputs(study)
    found = ((entry, entry.artefacts(inputs)) for entry in catalogue())
    return [entry for entry, files in found if files and not any(artefact.due() for artefact in files)]


def draw(study: Study, only: Iterable[str] | None = None) -> pd.DataFrame:
    """Draw the figures of a study that are due, and delete those that no longer apply.

    Parameters
    ----------
    study
        Study whose earlier stages are done.
    only
        Names of the figures to draw; all that apply unless given.

    Returns
    -------
    DataFrame
        One row a figure that applies: figure, title, files.

    Raises
    ------
    WsibenchError
        For an unknown name in `only`.
    NotReady
        When an earlier stage that applies to the study is due.
    """
    known = [entry.name for entry in catalogue()]
    if unknown := set(only or ()) - set(known):
        raise WsibenchError(f"There is no figure {', '.join(sorted(unknown))}.", f"Figures: {', '.join(known)}.")
    inputs, rows = Inputs(study), []
    for entry in catalogue():
        artefacts = entry.artefacts(inputs)
        if not artefacts:
            _delete(entry.files(study))
            continue
        if (only is None or entry.name in only) and any(artefact.due() for artefact in artefacts):
            style.save(entry.draw(inputs), study.figures / entry.name, study_key=study.key, key=artefacts[0].key)
        rows.append((entry.name, entry.title, f"{study.figures / entry.name}.{{pdf,png,csv}}"))
    for artefact in _leaderboard_copy(inputs):
        if artefact.due():
            with writing(artefact) as temporary:
                temporary.write_bytes(study.leaderboard_csv.read_bytes())
    return pd.DataFrame(rows, columns=["figure", "title", "files"])


def saved(study: Study) -> list[Any]:
    """Figures of the study with their captions and alternative texts, for a notebook to display.

    Returns
    -------
    list of IPython.display.HTML
        One a figure whose files are current.
    """
    from IPython.display import HTML

    pages = []
    for entry in current(study):
        source, width_px, alt = picture(study, entry)
        image = f'<img alt="{html.escape(alt, quote=True)}" width="{width_px}" src="{source}">'
        caption = f"<b>{html.escape(entry.title)}.</b> {html.escape(entry.caption)}"
        pages.append(HTML(f"<figure>{image}<figcaption>{caption}</figcaption></figure>"))
    return pages


def picture(study: Study, entry: Entry) -> tuple[str, int, str]:
    """Data URI, width on a screen (px) and alternative text of a saved figure."""
    path = study.figures / f"{entry.name}.png"
    meta = read_meta(path) or {}
    return *inline_image(path.read_bytes(), dpi=style.DPI), meta["facts"]["alt"]


def _leaderboard_copy(inputs: Inputs) -> list[Artefact]:
    keys = inputs.keys("leaderboard")
    path = inputs.study.figures / "leaderboard.csv"
    return [] if keys is None else [Artefact(path, make_key("figures", FORMAT, {}, keys))]


def _delete(files: list[Path]) -> None:
    """Delete files that this stage made: a figure of an earlier study.yaml would be taken for a present one."""
    for path in files:
        if meta_path(path).exists():
            path.unlink(missing_ok=True)
            meta_path(path).unlink()
