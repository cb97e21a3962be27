"""How firm an order of encoders is: over bootstrap draws of patients, and between fold schemes."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsibench.figures.rows import PAIR, in_order, schemes_in_order
from wsibench.figures.style import (
    COLUMN_MM,
    FAINT,
    MUTED,
    PAGE_MM,
    described,
    new_figure,
    palette,
    per_cent,
    probe_marker,
    probe_name,
    probe_order,
    scheme_name,
    sentence_case,
    styled,
)

MOST_ANNOTATED = 14
"""Ranks beyond which a number no longer fits its cell."""


@styled
def rank_frequencies(frequencies: pd.DataFrame) -> Figure:
    """How often each encoder and probe takes each rank when patients are drawn anew.

    Parameters
    ----------
    frequencies
        As in rank_frequencies.csv: scheme, encoder, probe, rank, frequency (share of the draws).
    """
    import seaborn as sns

    schemes = schemes_in_order(frequencies["scheme"])
    rows = _by_mean_rank(frequencies[frequencies["scheme"] == schemes[0]])
    fig = new_figure(PAGE_MM if len(schemes) > 1 else COLUMN_MM, 20 + 5 * len(rows))
    axes = fig.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
    for ax, scheme in zip(axes, schemes, strict=True):
        part = frequencies[frequencies["scheme"] == scheme]
        table = part.pivot_table(index=PAIR, columns="rank", values="frequency", fill_value=0).reindex(rows)
        # An empty cell says "never" better than a zero does.
        labels = table.map(lambda share: "" if share < 0.005 else f"{share:.2f}".lstrip("0"))
        sns.heatmap(
            table, annot=labels if len(rows) <= MOST_ANNOTATED else None, fmt="", annot_kws={"fontsize": 5.5},
            cmap="Blues", vmin=0, vmax=1, ax=ax, cbar=False, linewidths=0.5,
        )  # fmt: skip
        ax.set_title(sentence_case(scheme_name(scheme)))
        ranks = range(1, len(rows) + 1) if len(rows) <= MOST_ANNOTATED else [1, *range(5, len(rows) + 1, 5)]
        ax.set_xticks([rank - 0.5 for rank in ranks], ranks, rotation=0)
        ax.set_xlabel("rank (1 = best)")
        ax.set_ylabel("")
        ax.set_yticks(np.arange(len(rows)) + 0.5, [f"{e} · {probe_name(p)}" for e, p in rows], rotation=0)
        ax.tick_params(length=0)
    bar = fig.colorbar(axes[-1].collections[0], ax=list(axes), shrink=0.8, aspect=25, pad=0.01)
    bar.set_label("share of bootstrap draws")
    bar.outline.set_visible(False)
    return described(fig, _rank_alt(frequencies, schemes), frequencies)


def _by_mean_rank(frequencies: pd.DataFrame) -> list[tuple[str, str]]:
    weighted = frequencies.assign(mean_rank=frequencies["rank"] * frequencies["frequency"])
    means = weighted.groupby(PAIR)["mean_rank"].sum().reset_index().sort_values(["mean_rank", *PAIR])
    return list(means[PAIR].itertuples(index=False, name=None))


def _rank_alt(frequencies: pd.DataFrame, schemes: list[str]) -> str:
    parts = []
    for scheme in schemes:
        part = frequencies[frequencies["scheme"] == scheme]
        first = part[part["rank"] == 1].sort_values(["frequency", *PAIR], ascending=[False, True, True])
        shares = [f"{r.encoder} with {probe_name(r.probe)} in {per_cent(r.frequency)}" for r in first.itertuples()]
        parts.append(f"By {scheme_name(scheme)} first place goes to {', '.join(shares)} of the draws.")
    return "Heat map of rank frequencies over bootstrap draws of patients. " + " ".join(parts)


@styled
def site_gap(leaderboard: pd.DataFrame) -> Figure:
    """What becomes of the mean ρ when the held-out patients come from new sites: a slope an encoder.

    Parameters
    ----------
    leaderboard
        As in leaderboard.csv, with both fold schemes.
    """
    rows = in_order(leaderboard)
    probes = sorted({probe for _, probe, _ in rows}, key=probe_order)
    n_columns = 2 if len(probes) == 4 else min(len(probes), 3)
    n_rows = -(-len(probes) // n_columns)
    fig = new_figure(COLUMN_MM if n_columns == 1 else PAGE_MM, 68 * n_rows)
    axes = fig.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    colours = palette(leaderboard["encoder"])
    by_row = leaderboard.set_index(["scheme", *PAIR])
    low, high = leaderboard["ci_low"].min(), leaderboard["ci_high"].max()
    for ax, probe in zip(axes, probes, strict=False):
        shown = [(encoder, control) for encoder, name, control in rows if name == probe]
        for i, (encoder, control) in enumerate(shown):
            ends = by_row.loc[[("random-patient", encoder, probe), ("preserved-site", encoder, probe)]]
            _slope(ax, ends, (i - (len(shown) - 1) / 2) * 0.02, colours[encoder], control)
        ax.set_title(sentence_case(probe_name(probe)))
        ax.set_xticks([0, 1], ["random-patient\nfolds", "preserved-site\nfolds"])
        ax.set_xlim(-0.15, 1.75)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="x", length=0)
        ax.set_ylim(min(low, 0) - 0.02, high + 0.02)
        ax.axhline(0, color=FAINT, lw=0.5, zorder=0)
        ends = {encoder: by_row.loc[("preserved-site", encoder, probe), "mean_rho"] for encoder, _ in shown}
        _label_ends(ax, ends, colours, spacing=(high - min(low, 0) + 0.04) * 0.055)
    for ax in axes[len(probes) :]:
        ax.remove()
    for ax in axes[::n_columns]:
        ax.set_ylabel("mean gene-wise Spearman ρ (95 % interval)")
    if any(control for *_, control in rows):
        handle = Line2D([], [], color=MUTED, marker="o", mfc="white", ls=(0, (3, 2)), label="control")
        fig.legend(handles=[handle], loc="outside lower center")
    data = leaderboard[["scheme", *PAIR, "mean_rho", "ci_low", "ci_high"]]
    return described(fig, _gap_alt(by_row, rows), data)


def _slope(ax: Axes, ends: pd.DataFrame, shift: float, colour: str, control: bool) -> None:
    x = np.array([0.0, 1.0]) + shift
    ax.vlines(x, ends["ci_low"], ends["ci_high"], color=colour, lw=0.6, alpha=0.7)
    face, dash = ("white", (0, (3, 2))) if control else (colour, "-")
    marker = probe_marker(ends.index[0][2])
    ax.plot(x, ends["mean_rho"], marker=marker, color=colour, mfc=face, mew=0.8, ls=dash)


def _label_ends(ax: Axes, ends: dict[str, float], colours: dict[str, str], *, spacing: float) -> None:
    """Names at the right ends of the slopes, moved apart where they would overlap."""
    names = sorted(ends, key=ends.get)
    heights = np.array([ends[name] for name in names])
    placed = heights.copy()
    for _ in range(200):
        gaps = np.diff(placed)
        close = gaps < spacing
        if not close.any():
            break
        push = np.where(close, (spacing - gaps) / 2 + 1e-6, 0)
        placed[:-1] -= push
        placed[1:] += push
    for name, height, place in zip(names, heights, placed, strict=True):
        ax.plot([1.06, 1.13], [height, place], color=colours[name], lw=0.4)
        ax.text(1.15, place, name, color=colours[name], va="center", fontsize=5.5)


def _gap_alt(by_row: pd.DataFrame, rows: list) -> str:
    mean = by_row["mean_rho"]
    values = [
        f"{encoder} with {probe_name(probe)} goes from {mean['random-patient', encoder, probe]:.3f} "
        f"to {mean['preserved-site', encoder, probe]:.3f}"
        for encoder, probe, _ in rows
    ]
    return f"Slopes of mean ρ from random-patient to preserved-site folds. {'; '.join(values)}."
