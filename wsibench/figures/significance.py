"""Single genes against permuted pairing: how many are read at all."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsibench.figures.rows import PAIR, Rows, primary
from wsibench.figures.style import (
    COLUMN_MM,
    INK,
    MUTED,
    PAGE_MM,
    described,
    headed,
    new_figure,
    per_cent,
    probe_name,
    scheme_name,
    sentence_case,
    styled,
)

EDGES = np.linspace(-1, 1, 101)
"""Of the histograms of ρ."""
FALSE_DISCOVERIES = 0.05
COLUMNS = [*PAIR, "rho_low", "rho_high", "genes", "genes_below_q", "permuted"]
MOST_PANELS = 20
"""Pairs of encoder and probe beyond which only each encoder's best is drawn."""


def null_histogram(permuted: np.ndarray) -> pd.DataFrame:
    """Share of the values of ρ under permuted pairing in each bin of `EDGES`.

    Parameters
    ----------
    permuted
        (permutations, genes) or any other shape; NaN is left out.

    Returns
    -------
    DataFrame
        rho_low, rho_high, share.
    """
    values = permuted[np.isfinite(permuted)]
    counts, _ = np.histogram(values, EDGES)
    return pd.DataFrame({"rho_low": EDGES[:-1], "rho_high": EDGES[1:], "share": counts / max(len(values), 1)})


@styled
def significant(scores: pd.DataFrame, permuted: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Gene-wise ρ of every encoder and probe against permuted pairing, with the share of genes below q = .05.

    Parameters
    ----------
    scores
        As in scores.parquet: scheme, encoder, probe, gene, rho, q; pairs without q were not permuted and are left out.
    permuted
        `null_histogram` of each pair of the primary scheme, with the columns encoder and probe.
    leaderboard
        Gives the order of the panels, and which are controls.
    """
    scheme, part = primary(scores)
    part = part.dropna(subset=["rho", "q"])
    rows = Rows.of(part, leaderboard, most=MOST_PANELS)
    columns = min(len(rows.pairs), 2 if len(rows.pairs) in (2, 4) else 5)
    n_rows = -(-len(rows.pairs) // columns)
    fig = new_figure(COLUMN_MM if columns <= 2 else PAGE_MM, 22 + 36 * n_rows)
    axes = fig.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    frames = []
    for ax, (encoder, probe, control) in zip(axes, rows.pairs, strict=False):
        own = part[(part["encoder"] == encoder) & (part["probe"] == probe)]
        null = permuted[(permuted["encoder"] == encoder) & (permuted["probe"] == probe)]
        frame = _counted(own).merge(null, on=["rho_low", "rho_high"]).assign(encoder=encoder, probe=probe)
        frames.append(frame.rename(columns={"share": "permuted"}))
        _panel(ax, frames[-1], rows.colours[encoder], control)
        ax.set_title(f"{encoder}\n{probe_name(probe)}{', control' if control else ''}")
    data = pd.concat(frames, ignore_index=True)
    data = data.loc[data[["genes", "permuted"]].max(axis=1) > 0, COLUMNS].assign(scheme=scheme)
    _frame(axes, data, columns, rows)
    headed(fig, f"{scheme_name(scheme)}, {part['gene'].nunique():,} genes")
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3 if columns > 2 else 1, columnspacing=1.4)
    return described(fig, _alt(data, rows, scheme), data)


def _frame(axes: np.ndarray, data: pd.DataFrame, columns: int, rows: Rows) -> None:
    n = len(rows.pairs)
    for i, ax in enumerate(axes[:n]):
        if i % columns == 0:
            ax.set_ylabel("share of the genes")
        if i + columns >= n:
            ax.set_xlabel("gene-wise Spearman ρ")
            ax.tick_params(labelbottom=True)
    for ax in axes[n:]:
        ax.remove()
    axes[0].set_xlim(data["rho_low"].min() - 0.02, data["rho_high"].max() + 0.02)
    # A control that predicts every gene as constant has all of them at 0, and would leave no height to the others.
    ranked = data[data["encoder"].isin([encoder for encoder, _, control in rows.pairs if not control])]
    heights = (ranked if len(ranked) else data)[["genes", "permuted"]]
    axes[0].set_ylim(0, 1.12 * heights.max().max())


def _counted(own: pd.DataFrame) -> pd.DataFrame:
    """Shares of all genes in each bin: of any gene, and of those below the false discovery rate."""
    every, _ = np.histogram(own["rho"], EDGES)
    below, _ = np.histogram(own.loc[own["q"] < FALSE_DISCOVERIES, "rho"], EDGES)
    n = len(own)
    return pd.DataFrame({"rho_low": EDGES[:-1], "rho_high": EDGES[1:], "genes": every / n, "genes_below_q": below / n})


def _panel(ax: Axes, frame: pd.DataFrame, colour: str, control: bool) -> None:
    ax.stairs(frame["genes"], EDGES, fill=True, color=colour, alpha=0.28, lw=0)
    ax.stairs(frame["genes_below_q"], EDGES, fill=True, color=colour, lw=0)
    ax.stairs(frame["permuted"], EDGES, color=INK, lw=0.7)
    ax.axvline(0, color=MUTED, lw=0.4)
    ax.text(
        0.98, 0.95, per_cent(frame["genes_below_q"].sum()), transform=ax.transAxes, ha="right", va="top", fontsize=6.5
    )


def _legend() -> list:
    return [
        Patch(color=MUTED, lw=0, label="genes with q < .05, share above"),
        Patch(color=MUTED, alpha=0.28, lw=0, label="other genes"),
        Line2D([], [], color=INK, lw=0.7, label="permuted pairing, all genes"),
    ]


def _alt(data: pd.DataFrame, rows: Rows, scheme: str) -> str:
    share = data.groupby(PAIR)["genes_below_q"].sum()
    values = [
        f"{encoder} with {probe_name(probe)} {per_cent(share[encoder, probe])}" for encoder, probe, _ in rows.pairs
    ]
    return sentence_case(
        f"histograms of gene-wise ρ against permuted pairing by {scheme_name(scheme)}; share of genes with q < .05: "
        f"{', '.join(values)}."
    )
