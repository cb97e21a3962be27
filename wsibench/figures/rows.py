"""Rows of encoder and probe in the order of the leaderboard, with their colours, markers and names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from wsibench.figures import style
from wsibench.figures.style import INK, MUTED, Artist, Axes, handle, probe_name

PAIR = ["encoder", "probe"]
GAP = 0.6  # between competitors and controls, in rows


def pair_name(encoder: str, probe: str) -> str:
    """``uni · ridge``."""
    return f"{encoder} · {probe_name(probe)}"


def in_order(leaderboard: pd.DataFrame) -> list[tuple[str, str, bool]]:
    """(encoder, probe, is control) of every row of the primary scheme: best first, controls after competitors."""
    board = primary(leaderboard)[1]
    board = board.sort_values(["control", "mean_rho", *PAIR], ascending=[True, False, True, True])
    return list(board[[*PAIR, "control"]].itertuples(index=False, name=None))


def competitors(leaderboard: pd.DataFrame) -> set[str]:
    """Encoders that are no controls."""
    return set(leaderboard.loc[~leaderboard["control"], "encoder"])


def schemes_in_order(schemes: pd.Series) -> list[str]:
    """Fold schemes, the primary one first."""
    return list(dict.fromkeys([style.primary_scheme(schemes), *schemes]))


def best_probes(pairs: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """First row of every encoder: the one of its best probe."""
    best: dict[str, tuple[str, str, bool]] = {}
    for pair in pairs:
        best.setdefault(pair[0], pair)
    return list(best.values())


def primary(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Primary scheme of a table, and its rows of that scheme."""
    scheme = style.primary_scheme(table["scheme"])
    return scheme, table[table["scheme"] == scheme]


@dataclass(frozen=True)
class Rows:
    """Encoders and probes from top to bottom, controls after a gap."""

    pairs: list[tuple[str, str, bool]]  # encoder, probe, is control
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
        controls = {encoder for encoder, _, control in known if control}
        place = {pair[:2]: i for i, pair in enumerate(known)}
        first = {encoder: place[encoder, probe] for encoder, probe, _ in reversed(known)}
        pairs = sorted(
            table[PAIR].drop_duplicates().itertuples(index=False, name=None),
            key=lambda pair: (
                pair[0] in controls,
                place.get(pair, first.get(pair[0], len(known))),
                style.probe_order(pair[1]),
            ),
        )
        rows = [(*pair, pair[0] in controls) for pair in pairs]
        # Colours are those of all encoders of the leaderboard together, so that every figure has the same.
        colours = style.palette([*leaderboard["encoder"], *table["encoder"]])
        return cls(rows if most is None or len(rows) <= most else best_probes(rows), colours)

    @property
    def n_ranked(self) -> int:
        """Number of rows that are no controls."""
        return sum(not control for *_, control in self.pairs)

    @property
    def pitch_mm(self) -> float:
        """Height of a row (mm)."""
        return min(4.2, 140 / len(self.pairs))

    @property
    def heights(self) -> dict[tuple[str, str], float]:
        """Position of each row, downwards from 0."""
        gap = GAP if 0 < self.n_ranked < len(self.pairs) else 0
        return {pair[:2]: i + gap * pair[2] for i, pair in enumerate(self.pairs)}

    @property
    def probes(self) -> list[str]:
        """Probes from simple to complex."""
        return sorted({probe for _, probe, _ in self.pairs}, key=style.probe_order)

    def among(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of a table that belong to these pairs."""
        return table[pd.MultiIndex.from_frame(table[PAIR]).isin([pair[:2] for pair in self.pairs])]

    def names(self, marks: dict[str, str] | None = None) -> list[str]:
        """Row labels, with a mark after the encoder where it has one."""
        marks = marks or {}
        return [pair_name(f"{encoder} {marks.get(encoder, '')}".strip(), probe) for encoder, probe, _ in self.pairs]

    def spell(self, texts: Mapping[tuple[str, str], str]) -> str:
        """Join a text of every pair, for an alternative text: ``uni with ridge .213; …``."""
        pairs = [(encoder, probe) for encoder, probe, _ in self.pairs if (encoder, probe) in texts]
        return "; ".join(f"{encoder} with {probe_name(probe)} {texts[encoder, probe]}" for encoder, probe in pairs)

    def set_axes(self, axes: Sequence[Axes], names: list[str] | None = None) -> None:
        """Give panels beside each other these rows; the first panel has the labels."""
        for ax in axes:
            ax.grid(axis="x")
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            if 0 < self.n_ranked < len(self.pairs):
                ax.axhline(self.n_ranked - 0.2, color=MUTED, lw=0.4, ls=(0, (2, 2)))
        axes[0].set_yticks(list(self.heights.values()), self.names() if names is None else names)
        axes[0].set_ylim(max(self.heights.values()) + 0.7, -0.7)

    def dot(
        self,
        ax: Axes,
        pair: tuple[str, str],
        x: float,
        y: float,
        ends: tuple[float, float] | None = None,
        *,
        marker: str = "",
        size: float | None = None,
    ) -> None:
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
        marker
            Marker; the probe's unless given.
        size
            Size of the marker (pt).
        """
        encoder, probe = pair
        colour, control = self.colours[encoder], (encoder, probe, True) in self.pairs
        if ends is not None:
            ax.plot(ends, [y, y], color=colour, lw=1.1, solid_capstyle="butt")
        face = "white" if control else colour
        ax.plot(x, y, marker or style.probe_marker(probe), color=colour, mfc=face, mew=0.8, ms=size)

    def row_legend(self) -> list[Artist]:
        """Legend of the markers, where the rows are labelled."""
        handles = [handle(probe_name(probe), marker=style.probe_marker(probe), lw=0.9) for probe in self.probes]
        if any(control for *_, control in self.pairs):
            handles.append(handle("control, not ranked", marker="o", face="white", lw=0.9))
        return handles

    def colour_legend(self) -> list[Artist]:
        """Legend of colours and markers, where the rows are not labelled."""
        handles = []
        for encoder, _, control in best_probes(self.pairs):
            face, text = ("white", f"{encoder} (control)") if control else (None, encoder)
            handles.append(handle(text, marker="o", color=self.colours[encoder], face=face))
        if len(self.probes) > 1:
            handles += [handle(probe_name(p), marker=style.probe_marker(p), color=MUTED) for p in self.probes]
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
