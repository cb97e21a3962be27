"""Catalogue of the figures, and the stage that draws those that apply to a study.

A figure is a function with the decorator `figure` in one of `MODULES`; nothing else has to be changed to add one.
The decorator names the figure's inputs: tables of the ranking, those in `SOURCES`, or a `Source` of its own.
"""

import html
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec

import pandas as pd

from wsibench import assembly, cohort, ranking
from wsibench.core import (
    Artefact,
    NotReady,
    Study,
    WsibenchError,
    inline_image,
    key_at,
    make_key,
    meta_path,
    read_meta,
    writing,
)
from wsibench.figures import style
from wsibench.figures.style import Figure

P = ParamSpec("P")
Keys = list[str] | None  # artefact keys; None where the study does not have the input

FORMAT = 4
# Modules of this folder that hold figures, in the order of the report.
MODULES = ("leaderboard", "genes", "sets", "slides", "cohort")
_ENTRIES: list["Entry"] = []


@dataclass(frozen=True)
class Source:
    """Input of figures: the keys of the artefacts that it is made from, and the function that loads it."""

    keys: Callable[["Inputs"], Keys]
    load: Callable[["Inputs"], Any]


class Inputs:
    """Inputs of the figures of one study; each is loaded at most once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.scheme = style.schemes_in_order(study.folds.schemes)[0]  # the primary one
        # Keys raise NotReady when the stage that makes the input applies to the study and is due.
        self.keys = cache(lambda source: _source(source).keys(self))
        self.stage = cache(self._stage)
        self._load = cache(lambda source: _source(source).load(self))

    def __getitem__(self, source: str | Source) -> Any:
        return self._load(source)

    def _stage(self, stage: ModuleType) -> Keys:
        """Keys of all files of a stage."""
        if stage.not_applicable(self.study):
            return None
        artefacts = stage.expected(self.study)
        for artefact in artefacts:
            if why := artefact.due():
                raise NotReady(f"{artefact.path} is {why}.", "Run the stages before, or `wsibench run <study>`.")
        return [artefact.key for artefact in artefacts]


def _source(source: str | Source) -> Source:
    if isinstance(source, Source):
        return source
    table: Any = source
    of_ranking = Source(partial(_table_keys, table), lambda inputs: ranking.read(inputs.study, table))
    return SOURCES.get(source, of_ranking)


def _table_keys(name: Any, inputs: Inputs) -> Keys:
    """Keys of a table of the ranking; a study without rows in it does not have it, but may have an empty null."""
    ranked = inputs.stage(ranking)
    return ranked if ranked and (name == "null" or len(inputs[name])) else None


SOURCES = {
    "benchmark": Source(
        lambda inputs: inputs.stage(assembly), lambda inputs: assembly.read_benchmark(inputs.study.benchmark_h5ad)
    ),
    "cohort": Source(
        lambda inputs: None if cohort.not_applicable(inputs.study) else [key_at(inputs.study.cohort_csv)],
        lambda inputs: cohort.read_cohort(inputs.study),
    ),
}


@dataclass(frozen=True)
class Entry:
    """Record of one figure."""

    name: str  # of the function and of the files
    title: str
    caption: str
    function: Callable[..., Figure]
    inputs: tuple[str | Source, ...]  # the arguments of the function, unless `arguments` gives them
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


def in_house_style(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the house style, with lettered panels."""

    @wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.house_style():
            fig = function(*args, **kwargs)
            style.add_letters(fig)
            # Ticks are made when first drawn, and take the settings of that moment.
            fig.draw_without_rendering()
        return fig

    return draw


def figure(
    title: str,
    caption: str,
    *inputs: str | Source,
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
        Tables of the ranking, names of `SOURCES` and sources, in the order of the function's arguments. The figure
        applies to a study that has all of them.
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
        draw = in_house_style(function)
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
            save(entry.draw(inputs), study.figures / entry.name, study_key=study.key, key=artefacts[0].key)
        rows.append((entry.name, entry.title, f"{study.figures / entry.name}.{{pdf,png,csv}}"))
    for artefact in _leaderboard_copy(inputs):
        if artefact.due():
            with writing(artefact) as temporary:
                temporary.write_bytes(study.leaderboard_csv.read_bytes())
    return pd.DataFrame(rows, columns=["figure", "title", "files"])


def save(fig: Figure, path: Path | str, *, study_key: str, key: str = "") -> list[Path]:
    """Write a figure as PDF, PNG (300 dpi) and the CSV of its numbers; the same bytes at each call.

    The study key stands in the column ``study_key`` of the CSV and, with the alternative text, in the
    metadata of PDF and PNG.

    Parameters
    ----------
    fig
        Figure with its text in ``fig.alt`` and its numbers in ``fig.data``.
    path
        Path without a suffix; ``.pdf``, ``.png`` and ``.csv`` are added.
    study_key
        Key of the study that the numbers come from.
    key
        Artefact key, when a stage of the study makes the figure.

    Returns
    -------
    list of Path
        The three files.
    """
    path, alt, source = Path(path), vars(fig)["alt"], f"wsibench, study key {study_key}"
    metadata = {
        ".pdf": {"Title": path.name, "Subject": alt, "Keywords": source, "CreationDate": None},
        ".png": {"Title": path.name, "Description": alt, "Source": source},
    }
    files = [path.with_name(path.name + suffix) for suffix in style.SUFFIXES]
    with style.house_style():
        for file in files:
            with writing(Artefact(file, key), alt=alt, study_key=study_key) as temporary:
                if file.suffix == ".csv":
                    data = vars(fig)["data"].assign(study_key=study_key)
                    data.to_csv(temporary, index=False, lineterminator="\n")
                else:
                    fig.savefig(temporary, metadata=metadata[file.suffix])
    return files


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
