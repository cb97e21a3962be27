"""Single genes and gene groups: what was reached beside the truth, predicted beside measured."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsibench.figures.rows import PAIR, Rows, best_probes, in_order, schemes_in_order
from wsibench.figures.style import (
    FAINT,
    INK,
    MUTED,
    PAGE_MM,
    described,
    new_figure,
    palette,
    probe_marker,
    scheme_name,
    sentence_case,
    styled,
)

MOST_SHOWN = 16


@styled
def truth_against_reached(groups: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ reached in each planted gene group beside the one attainable (simulated cohorts only).

    With more than `MOST_SHOWN` pairs of encoder and probe only each encoder's best probe is drawn.

    Parameters
    ----------
    groups
        As in groups.csv: scheme, encoder, probe, group, n_genes, mean_rho, ci_low, ci_high, ceiling
        (Spearman, NaN or 0 where nothing of the slide drives the genes).
    leaderboard
        Gives the order of the encoders, and which are controls.
    """
    schemes, rows = schemes_in_order(groups["scheme"]), in_order(leaderboard)
    if len(rows) > MOST_SHOWN:
        rows = best_probes(rows)  # more would not be told apart
    names = groups.drop_duplicates("group").set_index("group")
    order = sorted(names.index, key=lambda name: _group_order(name, names["ceiling"].get(name)))
    fig = new_figure(PAGE_MM, 18 + 48 * len(schemes))
    axes = fig.subplots(len(schemes), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = palette(groups["encoder"])
    offsets = np.linspace(-0.34, 0.34, len(rows)) if len(rows) > 1 else [0.0]
    for ax, scheme in zip(axes, schemes, strict=True):
        part = groups[groups["scheme"] == scheme].set_index([*PAIR, "group"]).sort_index()
        _ceilings(ax, names["ceiling"].reindex(order))
        for (encoder, probe, control), offset in zip(rows, offsets, strict=True):
            if (encoder, probe) not in part.index.droplevel("group"):
                continue
            reached, x = part.loc[encoder, probe].reindex(order), np.arange(len(order)) + offset
            ax.vlines(x, reached["ci_low"], reached["ci_high"], color=colours[encoder], lw=0.5, alpha=0.7)
            ax.plot(
                x, reached["mean_rho"], probe_marker(probe), color=colours[encoder],
                mfc="white" if control else colours[encoder], mew=0.7, ms=2.8,
            )  # fmt: skip
        ax.set_title(sentence_case(scheme_name(scheme)))
        ax.set_ylabel("mean Spearman ρ (95 % interval)")
        ax.axhline(0, color=MUTED, lw=0.5, zorder=0)
        ax.tick_params(axis="x", length=0)
    _name_groups(axes[-1], order, names["n_genes"])
    handles = [Line2D([], [], color=INK, lw=1, label="attainable"), *Rows(rows, colours).colour_legend()]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), columnspacing=1.4)
    return described(fig, _reached_alt(groups, order, names["ceiling"], schemes[0], rows), groups)


def _split(name: str) -> tuple[str, str]:
    """``nuclear_density_0.8`` into its driver and strength; other groups have no strength."""
    found = re.fullmatch(r"(.+)_([\d.]+)", name)
    return (found[1], found[2]) if found else (name, "")


def _group_order(name: str, ceiling: float) -> tuple:
    return (not ceiling > 0, name == "null", *_split(name))


def _name_groups(ax: Axes, order: list[str], n_genes: pd.Series) -> None:
    """Strengths under the groups, and under these the driver that they share."""
    labels = [f"{_split(name)[1] or ' '}\nn = {n_genes[name]}" for name in order]
    ax.set_xticks(range(len(order)), labels)
    ax.set_xlim(-0.6, len(order) - 0.4)
    drivers = [_split(name)[0] for name in order]
    for driver in dict.fromkeys(drivers):
        places = [i for i, other in enumerate(drivers) if other == driver]
        middle = sum(places) / len(places)
        ax.annotate(
            f"{driver.replace('_', ' ')} genes",
            (middle, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -19),
            textcoords="offset points",
            ha="center",
            va="top",
        )


def _ceilings(ax: Axes, ceilings: pd.Series) -> None:
    for i, ceiling in enumerate(ceilings):
        if i % 2 == 0:
            ax.axvspan(i - 0.5, i + 0.5, color=FAINT, alpha=0.5, lw=0, zorder=-1)
        if ceiling > 0:
            ax.plot([i - 0.44, i + 0.44], [ceiling, ceiling], color=INK, lw=1)


def _reached_alt(groups: pd.DataFrame, order: list[str], ceilings: pd.Series, scheme: str, rows: list) -> str:
    ranked = pd.MultiIndex.from_tuples([row[:2] for row in rows if not row[2]], names=PAIR)
    part = groups[groups["scheme"] == scheme].set_index(PAIR)
    part = part[part.index.isin(ranked)]
    best = part.groupby("group")["mean_rho"].max()
    values = [
        f"{name.replace('_', ' ')} {best[name]:.2f}" + (f" of {ceilings[name]:.2f}" if ceilings[name] > 0 else "")
        for name in order
        if name in best
    ]
    return (
        f"Mean ρ by planted gene group beside the attainable one, by {scheme_name(scheme)}; "
        f"best of the ranked encoders: {', '.join(values)}."
    )


@styled
def predicted_measured(
    predicted: pd.DataFrame, measured: pd.DataFrame, rho: pd.Series, *, unit: str, label: str, colour: str = MUTED
) -> Figure:
    """Out-of-fold prediction against measured expression, a panel a gene, a dot a patient.

    Parameters
    ----------
    predicted, measured
        Patients × genes, with the same index and columns.
    rho
        The score of each gene (within-fold Spearman ρ), by gene.
    unit
        Of the expression, for the axes.
    label
        What predicted: encoder, probe and scheme.
    """
    genes = list(predicted.columns)
    columns = min(len(genes), 4)
    n_rows = -(-len(genes) // columns)
    fig = new_figure(PAGE_MM, 10 + 46 * n_rows)
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    for ax, gene in zip(axes, genes, strict=False):
        ax.plot(measured[gene], predicted[gene], "o", color=colour, ms=2, mew=0, alpha=0.5, rasterized=True)
        ax.set_title(f"{gene}, ρ = {rho[gene]:.2f}")
        ax.set_box_aspect(1)
    for ax in axes[len(genes) :]:
        ax.remove()
    fig.supxlabel(f"measured expression ({unit})", fontsize=6)
    fig.supylabel(f"predicted expression ({unit})", fontsize=6)
    fig.suptitle(f"{label}, n = {len(predicted)} patients", fontsize=6.5, x=0.02, ha="left")
    long = pd.DataFrame(
        {
            "patient_id": np.repeat(predicted.index.to_numpy(), len(genes)),
            "gene": np.tile(genes, len(predicted)),
            "measured": measured[genes].to_numpy().ravel(),
            "predicted": predicted.to_numpy().ravel(),
        }
    )
    scores = ", ".join(f"{gene} {rho[gene]:.2f}" for gene in genes)
    alt = f"Scatter plots of predicted against measured expression by {label}, within-fold Spearman ρ: {scores}."
    return described(fig, alt, long)
