"""House style: sizes, colours, names and legends, and rows of encoder and probe in the order of the leaderboard."""

import hashlib
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

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
MAX_LETTERS = 8  # panels of a larger gallery are small, and named by their titles
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


def schemes_in_order(schemes: Iterable[str]) -> list[str]:
    """Fold schemes, the primary one first: preserved-site folds where there are such."""
    return sorted(dict.fromkeys(schemes), key=lambda scheme: scheme != "preserved-site")


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


def add_letters(fig: Figure) -> None:
    """Letter the panels (axes but colour bars), where there are two to `MAX_LETTERS`: a, b, c."""
    panels = [ax for ax in fig.axes if ax.get_title(loc="left") or ax.get_xlabel()]
    place = {"xytext": (-6, 4), "textcoords": "offset points", "fontsize": 7, "fontweight": "bold", "ha": "right"}
    for letter, ax in zip(string.ascii_lowercase, panels, strict=False):
        if 1 < len(panels) <= MAX_LETTERS:
            ax.annotate(letter, (0, 1), xycoords="axes fraction", **place)


def handle(label: str, **style: Any) -> Artist:
    """Legend entry of a line or marker, in the style of `matplotlib.lines.Line2D`; a black marker unless given."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **{"lw": 0, "color": INK, **style})


def patch(label: str, **style: Any) -> Artist:
    """Legend entry of a filled area, in the style of `matplotlib.patches.Patch`; grey unless given."""
    from matplotlib.patches import Patch

    return Patch(label=label, lw=0, **{"color": BAND, **style})


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


PAIR = ["encoder", "probe"]
Pair = tuple[str, str]  # encoder and probe
GAP = 0.6  # between competitors and controls, in rows


def pair_name(encoder: str, probe: str) -> str:
    """``uni · ridge``."""
    return f"{encoder} · {probe_name(probe)}"


def primary(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Primary scheme of a table, and its rows of that scheme."""
    scheme = schemes_in_order(table["scheme"])[0]
    return scheme, table[table["scheme"] == scheme]


def in_order(leaderboard: pd.DataFrame) -> list[Pair]:
    """Encoder and probe of every row of the primary scheme: best first, controls after competitors."""
    board = primary(leaderboard)[1]
    board = board.sort_values(["control", "mean_rho", *PAIR], ascending=[True, False, True, True])
    return list(board[PAIR].itertuples(index=False, name=None))


def competitors(leaderboard: pd.DataFrame) -> set[str]:
    """Encoders that are no controls."""
    return set(leaderboard.loc[~leaderboard["control"], "encoder"])


@dataclass(frozen=True)
class Rows:
    """Encoders and probes from top to bottom, controls after a gap."""

    pairs: list[Pair]
    controls: set[str]
    colours: dict[str, str]  # by encoder

    @classmethod
    def of(cls, table: pd.DataFrame, leaderboard: pd.DataFrame, *, most: int | None = None) -> "Rows":
        """Sort the pairs of a table as the leaderboard does, which need not hold all of them.

        Parameters
        ----------
        table
            Table with the columns encoder and probe.
        leaderboard
            Table leaderboard.csv.
        most
            Number of pairs above which only each encoder's best probe is kept.
        """
        known = in_order(leaderboard)
        controls = set(leaderboard["encoder"]) - competitors(leaderboard)
        place = {pair: i for i, pair in enumerate(known)}
        first = {pair[0]: i for i, pair in reversed(list(enumerate(known)))}

        def key(pair: Pair) -> tuple:
            encoder, probe = pair
            after = place.get(pair, first.get(encoder, len(known)))
            return encoder in controls, after, probe_order(probe)

        pairs = sorted(table[PAIR].drop_duplicates().itertuples(index=False, name=None), key=key)
        # Colours are those of all encoders of the leaderboard together, so that every figure has the same.
        rows = cls(pairs, controls, palette([*leaderboard["encoder"], *table["encoder"]]))
        return rows if most is None or len(pairs) <= most else cls(rows.best_probes, controls, rows.colours)

    @property
    def best_probes(self) -> list[Pair]:
        """First row of every encoder: the one of its best probe."""
        table = pd.DataFrame(self.pairs, columns=PAIR).drop_duplicates("encoder")
        return list(table.itertuples(index=False, name=None))

    @property
    def n_ranked(self) -> int:
        """Number of rows that are no controls."""
        return sum(encoder not in self.controls for encoder, _ in self.pairs)

    @property
    def pitch_mm(self) -> float:
        """Height of a row (mm)."""
        return min(4.2, 140 / len(self.pairs))

    @property
    def heights(self) -> dict[Pair, float]:
        """Position of each row, downwards from 0."""
        gap = GAP if 0 < self.n_ranked < len(self.pairs) else 0
        return {pair: i + gap * (pair[0] in self.controls) for i, pair in enumerate(self.pairs)}

    @property
    def probes(self) -> list[str]:
        """Probes from simple to complex."""
        return sorted({probe for _, probe in self.pairs}, key=probe_order)

    def among(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of a table that belong to these pairs."""
        return table[pd.MultiIndex.from_frame(table[PAIR]).isin(self.pairs)]

    def spell(self, texts: Mapping[Pair, str]) -> str:
        """Join a text of every pair, for an alternative text: ``uni with ridge .213; …``."""
        return "; ".join(f"{e} with {probe_name(p)} {texts[e, p]}" for e, p in self.pairs if (e, p) in texts)

    def set_axes(self, axes: Sequence[Axes], names: Sequence[str] | None = None) -> None:
        """Give panels beside each other these rows; the first panel has the labels."""
        for ax in axes:
            ax.grid(axis="x")
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            if 0 < self.n_ranked < len(self.pairs):
                ax.axhline(self.n_ranked - 0.2, color=MUTED, lw=0.4, ls=(0, (2, 2)))
        axes[0].set_yticks(list(self.heights.values()), names or [pair_name(*pair) for pair in self.pairs])
        axes[0].set_ylim(max(self.heights.values()) + 0.7, -0.7)

    def dot(self, ax: Axes, pair: Pair, x: float, y: float, ends: Sequence[float] = (), **style: Any) -> None:
        """Draw the marker of a pair, hollow for a control, on its interval.

        Parameters
        ----------
        ax
            Where to draw.
        pair
            Encoder and probe.
        x, y
            Position of the marker.
        ends
            Ends of the interval along x; no interval unless given.
        **style
            Style of the marker, as for `matplotlib.lines.Line2D`.
        """
        encoder, probe = pair
        colour = self.colours[encoder]
        if len(ends):
            ax.plot(ends, [y, y], color=colour, lw=1.1, solid_capstyle="butt")
        face = "white" if encoder in self.controls else colour
        ax.plot(x, y, **{"marker": probe_marker(probe), "color": colour, "mfc": face, "mew": 0.8, **style})

    def row_legend(self) -> list[Artist]:
        """Legend of the markers, where the rows are labelled."""
        handles = [handle(probe_name(probe), marker=probe_marker(probe), lw=0.9) for probe in self.probes]
        control = handle("control, not ranked", marker="o", mfc="white", lw=0.9)
        return handles if self.n_ranked == len(self.pairs) else [*handles, control]

    def colour_legend(self) -> list[Artist]:
        """Legend of colours and markers, where the rows are not labelled."""
        handles = []
        for encoder, _ in self.best_probes:
            style = (
                {"label": f"{encoder} (control)", "mfc": "white"} if encoder in self.controls else {"label": encoder}
            )
            handles.append(handle(marker="o", color=self.colours[encoder], **style))
        if len(self.probes) > 1:
            handles += [handle(probe_name(p), marker=probe_marker(p), color=MUTED) for p in self.probes]
        return handles


def remark(ax: Axes, text: str, height: float) -> None:
    """Write a text to the right of a row.

    Parameters
    ----------
    ax
        Panel with the rows.
    text
        The text.
    height
        Position of the row.
    """
    ax.annotate(text, (1.02, height), xycoords=("axes fraction", "data"), va="center", fontsize=5, color=INK)
