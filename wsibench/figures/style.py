"""House style of the figures: sizes, fonts, colours and names; legends and heat maps; saving with the numbers."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench.core import Artefact, writing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # types alone: listing the figures of a study does not load matplotlib
    Artist = Axes = Figure = Any

# Widths of one and of two journal columns, and the greatest height (mm).
COLUMN_MM, PAGE_MM, MAX_HEIGHT_MM = 89.0, 183.0, 170.0
DPI = 300  # of saved pictures
SUFFIXES = (".pdf", ".png", ".csv")
STYLE = Path(__file__).with_name("paper.mplstyle")
INK, MUTED, FAINT, BAND = "#1a1a1a", "#6b6b6b", "#e4e4e4", "#d9d9d9"

ENCODER_COLOURS = {
    # Okabe and Ito's palette for the encoders of the paper …
    "uni": "#0072B2",
    "h-optimus-0": "#D55E00",
    "phikon": "#009E73",
    "dinov2-large": "#E69F00",
    "medsiglip": "#CC79A7",
    # … and quieter hues for hand-made features and untrained networks; greys are for patient-level controls.
    "texture": "#4FA3D1",
    "colour": "#A8973A",
    "random-vit": "#8C564B",
    "resnet50": "#7D8F69",
    "site": "#6E6E6E",
    "oracle": "#2B2B2B",
}
# Tol's muted palette without its olive, which is too close to the colour of ``colour``.
OTHER_COLOURS = ("#882255", "#44AA99", "#332288", "#CC6677", "#117733", "#AA4499", "#88CCEE", "#661100")

# From simple to complex.
PROBE_NAMES = {"ridge": "ridge", "pca-ridge": "PCA ridge", "mlp": "MLP", "abmil": "attention MIL"}
PROBE_MARKERS = {"ridge": "o", "pca-ridge": "^", "mlp": "X", "abmil": "s"}
SCHEME_NAMES = {
    "preserved-site": "preserved-site folds",
    "random-patient": "random-patient folds",
    "external": "external validation",
}


def palette(encoders: Iterable[str]) -> dict[str, str]:
    """Colour of each encoder, the same in every figure and study.

    An encoder without a colour of its own gets one of `OTHER_COLOURS` by the hash of its name, or the
    next free one where two encoders would share it.
    """
    slots: dict[str, int] = {}
    for name in sorted(set(encoders := list(encoders)) - ENCODER_COLOURS.keys()):
        slot = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(OTHER_COLOURS)
        while slot in slots.values() and len(slots) < len(OTHER_COLOURS):
            slot = (slot + 1) % len(OTHER_COLOURS)
        slots[name] = slot
    return {name: ENCODER_COLOURS.get(name) or OTHER_COLOURS[slots[name]] for name in encoders}


def probe_name(probe: str) -> str:
    """Name of a probe on a figure."""
    return PROBE_NAMES.get(probe, probe)


def probe_marker(probe: str) -> str:
    """Marker of a probe."""
    return PROBE_MARKERS.get(probe, "D")


def probe_order(probe: str) -> tuple[int, str]:
    """Sort key of probes: from simple to complex, unknown ones last."""
    known = list(PROBE_NAMES)
    return (known.index(probe) if probe in known else len(known), probe)


def scheme_name(scheme: str) -> str:
    """Name of a fold scheme on a figure."""
    return SCHEME_NAMES.get(scheme, scheme)


def primary_scheme(schemes: Iterable[str]) -> str:
    """Fold scheme that the leaderboard is headed by: preserved-site folds where the study has them."""
    names = list(dict.fromkeys(schemes))
    return "preserved-site" if "preserved-site" in names else names[0]


def number(value: float, digits: int = 3) -> str:
    """Format a number with a true minus sign, and without a sign before zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def short_number(value: float, digits: int = 3) -> str:
    """Format a number below 1 without its leading zero: ``.021``."""
    return number(value, digits).replace("0.", ".", 1)


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Format an estimate with its interval: ``.213 (.190, .236)``.

    Parameters
    ----------
    value
        The estimate.
    low, high
        Ends of its interval.
    digits
        Digits after the decimal point.
    """
    return "{} ({}, {})".format(*(short_number(each, digits) for each in (value, low, high)))


def percent(share: float) -> str:
    """Format a share as ``53 %``."""
    return f"{share:.0%}".replace("%", " %")


def sentence_case(text: str) -> str:
    """Capitalise the first letter, unless it begins an abbreviation."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def omitted(shown: int, of: int, items: str) -> str:
    """Format the remark that a page does not hold all items; empty where it does.

    Parameters
    ----------
    shown, of
        Number of items on the page, and in all.
    items
        Name of the items.
    """
    return f"; {shown} of {of} {items}, all of them in the CSV" if shown < of else ""


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, whatever the caller's matplotlib settings are."""
    import matplotlib as mpl

    with mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.get_backend()}), mpl.rc_context(fname=STYLE):
        yield


def new_figure(width_mm: float, height_mm: float) -> Figure:
    """Empty figure of a printed size, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_mm / 25.4, min(height_mm, MAX_HEIGHT_MM) / 25.4), layout="constrained")


def heading(fig: Figure, text: str) -> None:
    """Write a heading over all panels."""
    fig.suptitle(sentence_case(text), x=0.02, ha="left", fontsize=6.5)


def handle(label: str, *, marker: str = "", color: str = INK, face: str | None = None, lw: float = 0.0) -> Artist:
    """Legend entry of a line or marker.

    Parameters
    ----------
    label
        Text of the entry.
    marker
        Marker; none where empty.
    color
        Colour of line and marker.
    face
        Fill of the marker; `color` unless given.
    lw
        Width of the line (pt).
    """
    from matplotlib.lines import Line2D

    return Line2D([], [], lw=lw, marker=marker, color=color, mfc=face or color, label=label)


def patch(label: str, color: str = BAND, alpha: float = 1) -> Artist:
    """Legend entry of a filled area.

    Parameters
    ----------
    label
        Text of the entry.
    color
        Colour of the area.
    alpha
        Opacity of the area.
    """
    from matplotlib.patches import Patch

    return Patch(color=color, alpha=alpha, lw=0, label=label)


def legend(fig: Figure, handles: list, columns: int | None = None) -> None:
    """Draw a legend below all panels.

    Parameters
    ----------
    fig
        The figure.
    handles
        Legend entries.
    columns
        Number of columns; unless given at most six, with rows of about equal length.
    """
    n = len(handles)
    columns = columns or -(-n // -(-n // 6))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4)


def heatmap(ax: Axes, values: pd.DataFrame, texts: pd.DataFrame | None, *, vmax: float, fontsize: float = 5.5) -> Any:
    """Draw a matrix from white (0) to dark blue (`vmax`), with a text in each cell.

    Parameters
    ----------
    ax
        Where to draw.
    values
        Matrix; NaN is left empty.
    texts
        Text of each cell, or None.
    vmax
        Value of the darkest blue.
    fontsize
        Size of the texts (pt).

    Returns
    -------
    QuadMesh
        The coloured cells, for a colour bar.
    """
    mesh = ax.pcolormesh(values.to_numpy(float), cmap="Blues", vmin=0, vmax=vmax, edgecolors="white", linewidth=0.5)
    ax.set_ylim(len(values), 0)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if texts is not None:
        dark = values.to_numpy(float) > 0.55 * vmax
        for (i, j), text in np.ndenumerate(texts.to_numpy()):
            if text:
                style = {"fontsize": fontsize, "linespacing": 0.85, "color": "white" if dark[i, j] else INK}
                ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", **style)
    return mesh


def describe(fig: Figure, alt: str, data: pd.DataFrame) -> Figure:
    """Attach an alternative text and numbers to a figure.

    Parameters
    ----------
    fig
        The figure.
    alt
        Text for readers who cannot see the figure, kept as ``fig.alt``.
    data
        Numbers that the figure shows, kept as ``fig.data``.
    """
    vars(fig).update(alt=alt, data=data)
    return fig


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
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    with house_style():
        for file in files:
            with writing(Artefact(file, key), alt=alt, study_key=study_key) as temporary:
                if file.suffix == ".csv":
                    data = vars(fig)["data"].assign(study_key=study_key)
                    data.to_csv(temporary, index=False, lineterminator="\n")
                else:
                    fig.savefig(temporary, metadata=metadata[file.suffix])
    return files
