"""Gene sets: what was reached in each, beside what as many genes drawn at random give."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from wsibench.figures.rows import PAIR, Rows, primary
from wsibench.figures.style import (
    COLUMN_MM,
    FAINT,
    MUTED,
    PAGE_MM,
    described,
    headed,
    left_out,
    new_figure,
    number,
    probe_name,
    scheme_name,
    styled,
)

MOST_ROWS = 12
"""Pairs of encoder and probe beyond which only each encoder's best is drawn."""
HIGH_MM, LINE_MM = 132, 2.6
"""Room for the sets on a page, and for a line of a set's name."""
NAME_WIDTH = 26
"""Letters of a set's name before it is broken."""
BAND = "#d9d9d9"
LEGEND = {1: 2, 2: 6}
"""Columns of the legend, by panels beside each other."""


@styled
def gene_sets(sets: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ of every gene set with its interval, on the band of random sets of the same size; a row a set.

    Sets that would not fit the page are left to the CSV: those with the lowest mean ρ.

    Parameters
    ----------
    sets
        As in sets.csv: scheme, encoder, probe, set, n_genes, n_missing, mean_rho, ci_low, ci_high, random_mean,
        random_low, random_high, p_random; NaN where random sets were not drawn.
    leaderboard
        Gives the order of the encoders, and which are controls.
    """
    scheme, part = primary(sets[sets["n_genes"] > 0])  # of a set without genes there is nothing to draw
    rows = Rows.of(part, leaderboard, most=MOST_ROWS)
    part = rows.among(part)
    ranked = {pair[:2] for pair in rows.pairs[: rows.n_ranked or None]}
    competing = part[pd.MultiIndex.from_frame(part[PAIR]).isin(ranked)]
    order = competing.groupby("set")["mean_rho"].mean().sort_values(ascending=False, kind="stable").index
    names = part.drop_duplicates("set").set_index("set")["n_genes"]
    labels = {name: _label(name, names[name]) for name in order}
    lines = max(label.count("\n") + 1 for label in labels.values())
    pitch_mm = max(LINE_MM * lines, 1.5 * len(rows.pairs)) + 1.2
    abreast = 1 if len(order) * pitch_mm <= 0.75 * HIGH_MM else 2
    deep = min(-(-len(order) // abreast), int(HIGH_MM // pitch_mm))
    shown = order[: abreast * deep]
    fig = new_figure(COLUMN_MM if abreast == 1 else PAGE_MM, 24 + 3 * _legend_rows(rows, abreast) + deep * pitch_mm)
    axes = fig.subplots(1, abreast, sharex=True, squeeze=False)[0]
    by = part.set_index(["set", *PAIR])
    for i, ax in enumerate(axes):
        own = shown[i * deep : (i + 1) * deep]
        _panel(ax, rows, by, list(own))
        ax.set_yticks(range(len(own)), [labels[name] for name in own])
        ax.set_ylim(deep - 0.5, -0.5)
        ax.set_xlabel("mean Spearman ρ of the set (95 % interval)")
    headed(fig, scheme_name(scheme) + left_out(len(shown), len(order), "sets"))
    handles = rows.colour_legend()
    if part["random_low"].notna().any():
        handles.append(Patch(color=BAND, lw=0, label="random sets of equal size, central 95 %"))
    fig.legend(handles=handles, loc="outside lower center", ncols=LEGEND[abreast], columnspacing=1.2)
    return described(fig, _sets_alt(part, order, len(shown), rows, scheme), part)


def _label(name: str, n_genes: int) -> str:
    """The set's name in lines of a readable length, with its size."""
    return textwrap.fill(f"{name.replace('_', ' ')} ({n_genes:,})", NAME_WIDTH)


def _legend_rows(rows: Rows, abreast: int) -> int:
    return -(-(len(rows.colour_legend()) + 1) // LEGEND[abreast])


def _panel(ax: Axes, rows: Rows, by: pd.DataFrame, names: list[str]) -> None:
    n = len(rows.pairs)
    shifts = (np.arange(n) - (n - 1) / 2) * (0.86 / n)
    size = np.clip(14 / n, 2.2, 3.5)
    for i, name in enumerate(names):
        if i % 2 == 0:
            ax.axhspan(i - 0.5, i + 0.5, color=FAINT, alpha=0.35, lw=0, zorder=-1)
        for (encoder, probe, _), shift in zip(rows.pairs, shifts, strict=True):
            if (name, encoder, probe) not in by.index:
                continue
            row, y = by.loc[(name, encoder, probe)], i + shift
            half = 0.4 * 0.86 / n
            ax.fill_betweenx([y - half, y + half], row["random_low"], row["random_high"], color=BAND, lw=0)
            rows.dot(ax, (encoder, probe), row["mean_rho"], y, (row["ci_low"], row["ci_high"]), size=size)
    ax.axvline(0, color=MUTED, lw=0.5)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _sets_alt(part: pd.DataFrame, order: pd.Index, n_shown: int, rows: Rows, scheme: str) -> str:
    by = part.set_index([*PAIR, "set"])
    encoder, probe, _ = rows.pairs[0]
    values = []
    for name in order[:n_shown]:
        if (encoder, probe, name) not in by.index:
            continue
        row = by.loc[(encoder, probe, name)]
        band = f" (random {number(row['random_low'], 2)} to {number(row['random_high'], 2)})"
        values.append(f"{name} {number(row['mean_rho'], 2)}" + (band if np.isfinite(row["random_low"]) else ""))
    heading = f"{scheme_name(scheme)}{left_out(n_shown, len(order), 'sets')}"
    return f"Mean ρ of gene sets by {heading}, for {encoder} with {probe_name(probe)}: {'; '.join(values)}."
