"""Rows of encoder and probe: their order, names and places, and the dots with intervals that stand in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from wsibench.figures.style import INK, MUTED, palette, primary_scheme, probe_marker, probe_name, probe_order

PAIR = ["encoder", "probe"]
GAP = 0.6
"""Of a row, between what is ranked and the controls."""


def in_order(leaderboard: pd.DataFrame) -> list[tuple[str, str, bool]]:
    """(encoder, probe, is control) of every row of the primary scheme: best first, controls after the ranked."""
    board = leaderboard[leaderboard["scheme"] == primary_scheme(leaderboard["scheme"])]
    board = board.assign(control=board["rank"].isna())
    board = board.sort_values(["control", "mean_rho", *PAIR], ascending=[True, False, True, True])
    return list(board[[*PAIR, "control"]].itertuples(index=False, name=None))


def schemes_in_order(schemes: pd.Series) -> list[str]:
    """The fold schemes, the primary one first."""
    first = primary_scheme(schemes)
    return [first, *(scheme for scheme in dict.fromkeys(schemes) if scheme != first)]


def best_probes(pairs: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """Every encoder once, with the probe that it does best with."""
    best = {}
    for pair in pairs:
        best.setdefault(pair[0], pair)
    return list(best.values())


def primary(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The scheme that a table is read by, and its rows."""
    scheme = primary_scheme(table["scheme"])
    return scheme, table[table["scheme"] == scheme]


@dataclass(frozen=True)
class Rows:
    """Encoders and probes from top to bottom, the controls set apart."""

    pairs: list[tuple[str, str, bool]]
    """(encoder, probe, is control)."""
    colours: dict[str, str]
    """By encoder."""

    @classmethod
    def of(cls, table: pd.DataFrame, leaderboard: pd.DataFrame, *, most: int | None = None) -> "Rows":
        """The pairs of a table in the order of the leaderboard, which need not know all its probes.

        Parameters
        ----------
        most
            With more pairs than these only each encoder's best probe is kept.
        """
        known = in_order(leaderboard)
        controls = {encoder for encoder, _, control in known if control}
        place = {pair[:2]: i for i, pair in enumerate(known)}
        first = {encoder: place[encoder, probe] for encoder, probe, _ in reversed(known)}

        def order(pair: tuple[str, str]) -> tuple:
            encoder, probe = pair
            by_encoder = first.get(encoder, len(known))
            return encoder in controls, place.get(pair, by_encoder), by_encoder, probe_order(probe)

        pairs = sorted(table[PAIR].drop_duplicates().itertuples(index=False, name=None), key=order)
        rows = [(*pair, pair[0] in controls) for pair in pairs]
        # Colours are those that the leaderboard's encoders have together, so that every figure has the same.
        colours = palette([*leaderboard["encoder"], *table["encoder"]])
        return cls(rows if most is None or len(rows) <= most else best_probes(rows), colours)

    @property
    def n_ranked(self) -> int:
        """How many compete."""
        return sum(not control for *_, control in self.pairs)

    @property
    def pitch_mm(self) -> float:
        """Height of a row, less where there are many."""
        return min(4.2, 140 / len(self.pairs))

    @property
    def heights(self) -> dict[tuple[str, str], float]:
        """Where each row lies, downwards from 0."""
        gap = GAP if 0 < self.n_ranked < len(self.pairs) else 0
        return {pair[:2]: i + gap * pair[2] for i, pair in enumerate(self.pairs)}

    @property
    def probes(self) -> list[str]:
        """From the plain to the elaborate."""
        return sorted({probe for _, probe, _ in self.pairs}, key=probe_order)

    def among(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are about these pairs."""
        return table[pd.MultiIndex.from_frame(table[PAIR]).isin([pair[:2] for pair in self.pairs])]

    def names(self, marks: dict[str, str] | None = None) -> list[str]:
        """``uni · ridge``, with a mark after the encoder where it has one."""
        marked = ((f"{encoder} {(marks or {}).get(encoder, '')}".strip(), probe) for encoder, probe, _ in self.pairs)
        return [f"{encoder} · {probe_name(probe)}" for encoder, probe in marked]

    def lay(self, axes: Sequence[Axes], names: list[str] | None = None) -> None:
        """Panels beside each other that share these rows; names stand at the first."""
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
        """A pair's marker, hollow for a control, on its interval; the probe's marker unless another is given."""
        encoder, probe = pair
        colour, control = self.colours[encoder], (encoder, probe, True) in self.pairs
        if ends is not None:
            ax.plot(ends, [y, y], color=colour, lw=1.1, solid_capstyle="butt")
        face = "white" if control else colour
        ax.plot(x, y, marker or probe_marker(probe), color=colour, mfc=face, mew=0.8, ms=size)

    def row_legend(self) -> list[Line2D]:
        """What markers mean where the rows are named."""
        handles = [Line2D([], [], color=INK, marker=probe_marker(p), lw=0.9, label=probe_name(p)) for p in self.probes]
        if any(control for *_, control in self.pairs):
            handles.append(Line2D([], [], color=INK, marker="o", mfc="white", lw=0.9, label="control, not ranked"))
        return handles

    def colour_legend(self) -> list[Line2D]:
        """What colours and markers mean where the rows are not named."""
        handles = []
        for encoder, _, control in best_probes(self.pairs):
            face, text = ("white", f"{encoder} (control)") if control else (self.colours[encoder], encoder)
            handles.append(Line2D([], [], lw=0, marker="o", color=self.colours[encoder], mfc=face, label=text))
        if len(self.probes) > 1:
            handles += [
                Line2D([], [], lw=0, marker=probe_marker(p), color=MUTED, label=probe_name(p)) for p in self.probes
            ]
        return handles
