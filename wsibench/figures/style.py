"""One look for every figure: sizes, type, colours, and how a figure is saved."""

import hashlib
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from wsibench.core import Artefact, writing

P = ParamSpec("P")

COLUMN_MM, PAGE_MM, MOST_HIGH_MM = 89.0, 183.0, 170.0
"""Widths of one and two journal columns, and the greatest height (mm)."""

STYLE = {
    # Matplotlib brings DejaVu Sans, so a figure is the same on every machine.
    "font.family": "DejaVu Sans",
    "font.size": 6,
    "axes.titlesize": 6.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": 6,
    "axes.labelpad": 2,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 5.5,
    "ytick.labelsize": 5.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "grid.linewidth": 0.4,
    "grid.color": "#e4e4e4",
    "legend.fontsize": 5.5,
    "legend.title_fontsize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "lines.linewidth": 0.9,
    "lines.markersize": 3.5,
    "patch.linewidth": 0.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text in Illustrator and Inkscape
    "svg.hashsalt": "wsibench",
}

INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#e4e4e4"

ENCODER_COLOURS = {
    # Okabe and Ito's palette for the encoders of the paper …
    "uni": "#0072B2",
    "h-optimus-0": "#D55E00",
    "phikon": "#009E73",
    "dinov2-large": "#E69F00",
    "medsiglip": "#CC79A7",
    # … quieter hues for hand-made features, greys for what cannot or need not see.
    "texture": "#4FA3D1",
    "colour": "#A8973A",
    "random-vit": "#9A9A9A",
    "resnet50": "#B5A59B",
    "site": "#6E6E6E",
    "oracle": "#2B2B2B",
}
OTHER_COLOURS = ("#882255", "#44AA99", "#332288", "#CC6677", "#117733", "#AA4499", "#88CCEE", "#999933", "#661100")
"""Tol's muted palette, for encoders that wsibench does not know."""

PROBE_MARKERS = {"ridge": "o", "pca-ridge": "^", "mean-sd-ridge": "v", "knn": "P", "mlp": "X", "abmil": "s"}
PROBE_NAMES = {
    "ridge": "ridge",
    "pca-ridge": "PCA ridge",
    "mean-sd-ridge": "mean-SD ridge",
    "knn": "kNN",
    "mlp": "MLP",
    "abmil": "attention MIL",
}
"""From the plain to the elaborate."""
SCHEME_NAMES = {
    "preserved-site": "preserved-site folds",
    "random-patient": "random-patient folds",
    "external": "external validation",
}


def palette(encoders: Iterable[str]) -> dict[str, str]:
    """A colour for each encoder, the same in every figure and study.

    A name that wsibench does not know gets the colour its hash points at, or the next free one
    where two names of one study would share it.
    """
    colours, taken = {}, set()
    for name in sorted(set(encoders)):
        if name in ENCODER_COLOURS:
            colours[name] = ENCODER_COLOURS[name]
            continue
        slot = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(OTHER_COLOURS)
        if len(taken) < len(OTHER_COLOURS):
            while slot in taken:
                slot = (slot + 1) % len(OTHER_COLOURS)
        taken.add(slot)
        colours[name] = OTHER_COLOURS[slot]
    return colours


def probe_name(probe: str) -> str:
    """What a probe is called on a figure."""
    return PROBE_NAMES.get(probe, probe)


def probe_marker(probe: str) -> str:
    """The marker that stands for a probe."""
    return PROBE_MARKERS.get(probe, "D")


def probe_order(probe: str) -> tuple[int, str]:
    """Sorts probes from the plain to the elaborate, unknown ones last."""
    known = list(PROBE_NAMES)
    return (known.index(probe) if probe in known else len(known), probe)


def scheme_name(scheme: str) -> str:
    """What a fold scheme is called on a figure."""
    return SCHEME_NAMES.get(scheme, scheme)


def primary_scheme(schemes: Iterable[str]) -> str:
    """The scheme that the leaderboard is read by: preserved-site where the study has it."""
    names = list(dict.fromkeys(schemes))
    return "preserved-site" if "preserved-site" in names else names[0]


def number(value: float, digits: int = 3) -> str:
    """`value` with a true minus sign, and none before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def sentence_case(text: str) -> str:
    """`text` with its first letter large, unless that is part of a name such as kNN."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def new_figure(width_mm: float, height_mm: float) -> Figure:
    """An empty figure of a printed size, outside pyplot's global state."""
    return Figure(figsize=(width_mm / 25.4, min(height_mm, MOST_HIGH_MM) / 25.4), layout="constrained")


def headed(fig: Figure, text: str) -> None:
    """Say over all panels what they have in common."""
    fig.suptitle(sentence_case(text), x=0.02, ha="left", fontsize=6.5)


def legend_columns(n: int) -> int:
    """Columns of a legend of `n` entries: at most six, and rows of about equal length."""
    return -(-n // -(-n // 6))


def left_out(shown: int, of: int, what: str) -> str:
    """What follows a heading where a page does not hold all there is; empty where it does."""
    return f"; {shown} of {of} {what}, all of them in the CSV" if shown < of else ""


def per_cent(share: float) -> str:
    """``53 %``."""
    return f"{share:.0%}".replace("%", " %")


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style, whatever the caller's matplotlib settings are."""

    @wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": mpl.get_backend()}):
            fig = function(*args, **kwargs)
            # Ticks are made when first drawn, and take the settings of that moment.
            fig.draw_without_rendering()
        return fig

    return draw


def described(fig: Figure, alt: str, data: pd.DataFrame) -> Figure:
    """Give a figure its text for people who cannot see it, and the numbers it shows.

    They are read as ``fig.alt`` and ``fig.data``, and go with the figure when it is saved.
    """
    fig.alt, fig.data = alt, data
    return fig


def alt_text(fig: Figure) -> str:
    """The text that stands for a figure where it cannot be seen; empty for one not made here."""
    return getattr(fig, "alt", "")


def save(
    fig: Figure,
    path: Path | str,
    *,
    study_key: str,
    key: str = "",
    alt: str | None = None,
    data: pd.DataFrame | None = None,
) -> list[Path]:
    """Write a figure as PDF, PNG (300 dpi) and the CSV of its numbers, the same bytes at each call.

    The study key stands in the column ``study_key`` of the CSV and, with the alt text, in the
    metadata of PDF and PNG.

    Parameters
    ----------
    path
        Without a suffix; ``.pdf``, ``.png`` and ``.csv`` are added.
    key
        The artefact key, when a stage of the study makes the figure.
    alt, data
        ``fig.alt`` and ``fig.data`` unless given.  The text goes to the sidecars, too.
    """
    path = Path(path)
    alt = fig.alt if alt is None else alt
    data = fig.data if data is None else data
    made_by = f"wsibench, study key {study_key}"
    metadata = {
        ".pdf": {"Title": path.name, "Subject": alt, "Keywords": made_by, "CreationDate": None},
        ".png": {"Title": path.name, "Description": alt, "Source": made_by},
    }
    files = [path.with_name(path.name + suffix) for suffix in (".pdf", ".png", ".csv")]
    with mpl.rc_context(STYLE):
        for file in files:
            with writing(Artefact(file, key), alt=alt, study_key=study_key) as temporary:
                if file.suffix == ".csv":
                    data.assign(study_key=study_key).to_csv(temporary, index=False, lineterminator="\n")
                else:
                    fig.savefig(temporary, metadata=metadata[file.suffix])
    return files
