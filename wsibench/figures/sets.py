"""Figures of groups and targets: gene sets, targets other than genes, planted gene groups; and of adjustments."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.catalogue import figure
from wsibench.figures.style import PAIR, Axes, Figure, Rows, number, primary, scheme_name

MAX_PAIRS = 12  # pairs of encoder and probe beyond which only each encoder's best is drawn
ITEMS_MM, LINE_MM = 128, 2.6  # height of all items on a page, and of a line of an item's name
NAME_WIDTH = 26  # letters of an item's name before it is broken
MAX_ROWS = 36  # pairs of encoder and probe in all panels of a figure beyond which only each encoder's best is drawn
MAX_ABREAST = 7  # panels beside each other
MEASURES = {"spearman": "Spearman ρ", "auroc": "AUROC"}


@dataclass(frozen=True)
class _Panel:
    """Panel with one row an item."""

    # Columns item, encoder, probe, score, ci_low and ci_high; band_low and band_high where there is a grey band, and
    # tick where there is a black tick.
    table: pd.DataFrame
    items: list[str]
    labels: dict[str, str]  # by item
    xlabel: str
    title: str = ""
    line: float = 0.0  # position of the vertical line


def _label(name: str, counts: str) -> str:
    """Name of an item with its counts, broken into short lines: ``pam50 (7 of 50)``."""
    return textwrap.fill(f"{name.replace('_', ' ')} ({counts})", NAME_WIDTH)


def _pitch_mm(rows: Rows, labels: dict[str, str]) -> float:
    """Height of an item (mm)."""
    return max(LINE_MM * (1 + max(text.count("\n") for text in labels.values())), 1.1 * len(rows.pairs)) + 1.2


def _capacity(rows: Rows, labels: dict[str, str]) -> int:
    """Number of items that fit below each other."""
    return int(ITEMS_MM // _pitch_mm(rows, labels))


def _draw_panels(rows: Rows, panels: list[_Panel], text: str, handles: list[style.Artist]) -> Figure:
    """Draw panels side by side.

    Parameters
    ----------
    rows
        Encoders and probes in the order of the dots within an item.
    panels
        At least one.
    text
        Heading.
    handles
        Legend entries beside those of encoders and probes.
    """
    handles = [*rows.colour_legend(), *handles]
    columns = 2 if len(panels) == 1 else 6
    deep = max(len(panel.items) for panel in panels)
    height = deep * max(_pitch_mm(rows, panel.labels) for panel in panels)
    fig = style.new_figure(
        style.COLUMN_MM if len(panels) == 1 else style.PAGE_MM, 24 + 3 * -(-len(handles) // columns) + height
    )
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        for i, item in enumerate(panel.items):
            if i % 2 == 0:
                ax.axhspan(i - 0.5, i + 0.5, color=style.FAINT, alpha=0.35, lw=0, zorder=-1)
            _draw_item(ax, rows, panel.table[panel.table["item"] == item], i)
        ax.axvline(panel.line, color=style.INK, lw=0.5, ls=(0, (3, 2)) if panel.line else "-")
        ax.set_yticks(range(len(panel.items)), [panel.labels[item] for item in panel.items])
        ax.set(ylim=(deep - 0.5, -0.5), xlabel=panel.xlabel, title=panel.title)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    style.heading(fig, text)
    style.legend(fig, handles, columns)
    return fig


def _draw_item(ax: Axes, rows: Rows, part: pd.DataFrame, height: int) -> None:
    n = len(rows.pairs)
    shifts, half = (np.arange(n) - (n - 1) / 2) * (0.86 / n), 0.4 * 0.86 / n
    by = part.set_index(PAIR)
    for pair, shift in zip(rows.pairs, shifts, strict=True):
        if pair in by.index:
            row, y = by.loc[pair], height + shift
            if "band_low" in row:
                ax.fill_betweenx([y - half, y + half], row["band_low"], row["band_high"], color=style.BAND, lw=0)
            rows.dot(ax, pair, row["score"], y, (row["ci_low"], row["ci_high"]), ms=np.clip(14 / n, 2.2, 3.5))
    if "tick" in part and part["tick"].max() > 0:
        ax.plot([part["tick"].max()] * 2, [height - 0.44, height + 0.44], color=style.INK, lw=1)


@figure(
    "Gene sets",
    "Mean ρ of each set (number of genes) with its 95 % interval. Grey: central 95 % of random sets of as many genes; "
    "a set beyond its band is predicted better, or worse, than genes in general.",
    "sets",
    "leaderboard",
    applies=lambda inputs: (inputs["sets"]["n_genes"] > 0).any(),
)
def gene_sets(sets: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ of every gene set with its interval, on the band of random sets of the same size.

    The sets with the lowest mean ρ are left to the CSV where not all of them fit the page.

    Parameters
    ----------
    sets
        Table sets.csv: scheme, encoder, probe, set, n_genes, n_missing, mean_rho, ci_low, ci_high, random_low,
        random_high; NaN where random sets were not drawn.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(sets[sets["n_genes"] > 0])
    rows = Rows.of(part, leaderboard, most=MAX_PAIRS)
    part = rows.among(part)
    counts = {row.set: _counts(row.n_genes, row.n_missing) for row in part.itertuples()}
    labels = {name: _label(name, text) for name, text in counts.items()}
    competing = part[part["encoder"].isin(style.competitors(leaderboard))]
    means = (competing if len(competing) else part).groupby("set")["mean_rho"].mean()
    order = list(means.sort_values(ascending=False, kind="stable").index)
    deep = _capacity(rows, labels)
    shown = [order[:deep], order[deep : 2 * deep]] if len(order) > deep else [order]
    names = {"set": "item", "mean_rho": "score", "random_low": "band_low", "random_high": "band_high"}
    table, xlabel = part.rename(columns=names), "mean Spearman ρ of the set (95 % interval)"
    text = scheme_name(scheme) + style.omitted(sum(map(len, shown)), len(order), "sets")
    with_bands = part["random_low"].notna().any()
    handles = [style.patch("random sets of equal size, central 95 %")] if with_bands else []
    fig = _draw_panels(rows, [_Panel(table, items, labels, xlabel) for items in shown], text, handles)
    encoder, probe = rows.pairs[0]
    first = part[(part["encoder"] == encoder) & (part["probe"] == probe)]
    values = "; ".join(
        f"{row.set} {number(row.mean_rho, 2)}{_random(row.random_low, row.random_high)}" for row in first.itertuples()
    )
    alt = f"Mean ρ of gene sets by {text}, for {encoder} with {style.probe_name(probe)}: {values}."
    return style.describe(fig, alt, part)


def _counts(n_genes: int, n_missing: int) -> str:
    return f"{n_genes:,} of {n_genes + n_missing:,}" if n_missing else f"{n_genes:,}"


def _random(low: float, high: float) -> str:
    return f" (random {number(low, 2)} to {number(high, 2)})" if np.isfinite(low) else ""


@figure(
    "Targets other than genes",
    "Score of each target (number of patients) with its 95 % interval; vertical line: chance.",
    "targets",
    "leaderboard",
    applies=lambda inputs: inputs["targets"]["measure"].isin(list(MEASURES)).any(),
)
def targets(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Spearman ρ or AUROC of every target with its 95 % interval, one panel a measure.

    Parameters
    ----------
    table
        Table targets.csv: scheme, encoder, probe, target, measure, score, ci_low, ci_high, chance, n_patients.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(table[table["measure"].isin(list(MEASURES))])
    rows = Rows.of(part, leaderboard, most=MAX_PAIRS)
    part = rows.among(part)
    labels = {row.target: _label(row.target, f"{row.n_patients:,.0f}") for row in part.itertuples()}
    panels, values = [], []
    for measure, own in part.assign(item=part["target"]).groupby("measure", sort=False):
        items, name = list(own["item"].unique()), MEASURES[measure]
        shown = items[: _capacity(rows, labels)]
        xlabel = f"{name} (95 % interval){style.omitted(len(shown), len(items), 'targets')}"
        panels.append(_Panel(own, shown, labels, xlabel, line=own["chance"].iloc[0]))
        for row in own.loc[own.groupby("item", sort=False)["score"].idxmax()].itertuples():
            values.append(f"{row.item} {row.encoder}, {name} {number(row.score, 2)}")
    fig = _draw_panels(rows, panels, scheme_name(scheme), [])
    alt = f"Scores of targets by {scheme_name(scheme)}; best encoder of each: {'; '.join(values)}."
    return style.describe(fig, alt, part)


@figure(
    "Planted signals of the simulated cohort",
    "Mean ρ of each planted gene group (number of genes) beside the highest that its drivers allow (black). Site genes "
    "can be predicted only by recognising the site, null genes not at all.",
    "groups",
    "leaderboard",
    applies=lambda inputs: (inputs["groups"]["ceiling"] > 0).any(),
)
def planted_signals(groups: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ of each planted gene group beside the attainable one, one panel a fold scheme (simulated cohorts only).

    Parameters
    ----------
    groups
        Table groups.csv: scheme, encoder, probe, group, n_genes, mean_rho, ci_low, ci_high, ceiling (Spearman, NaN or
        0 where nothing in the slide drives the genes).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    rows, schemes = Rows.of(groups, leaderboard, most=MAX_PAIRS), style.schemes_in_order(groups["scheme"])
    table = rows.among(groups).rename(columns={"group": "item", "mean_rho": "score", "ceiling": "tick"})
    names = groups.drop_duplicates("group").set_index("group")
    labels = {name: _label(name, f"{n:,}") for name, n in names["n_genes"].items()}
    order = sorted(names.index, key=lambda name: (not names["ceiling"][name] > 0, name == "null", name))
    xlabel = "mean Spearman ρ (95 % interval)"
    parts = {scheme: table[table["scheme"] == scheme] for scheme in schemes}
    panels = [
        _Panel(part, order, labels, xlabel, style.sentence_case(scheme_name(name))) for name, part in parts.items()
    ]
    fig = _draw_panels(rows, panels, "planted gene groups", [style.handle("attainable", lw=1)])
    ranked = rows.pairs[: rows.n_ranked]
    best = parts[schemes[0]].set_index(PAIR).loc[lambda own: own.index.isin(ranked)].groupby("item")["score"].max()
    values = [
        f"{name.replace('_', ' ')} {best[name]:.2f}" + (f" of {ceiling:.2f}" if ceiling > 0 else "")
        for name, ceiling in names["ceiling"][[name for name in order if name in best]].items()
    ]
    alt = f"Mean ρ by planted gene group beside the attainable one, by {scheme_name(schemes[0])}; best competitor: "
    return style.describe(fig, f"{alt}{', '.join(values)}.", groups)


@figure(
    "Adjustment for covariates",
    "Mean ρ (marker) after adjustment for subtype, purity or other covariates, beside mean ρ of the same patients and "
    "genes before it (bar); right of the panel the change.",
    "adjusted",
    "leaderboard",
    applies=lambda inputs: (inputs["adjusted"]["adjustment"] != "none").any(),
)
def adjusted(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ after and before adjustment: one panel an adjustment, one row an encoder and probe.

    Parameters
    ----------
    table
        Table adjusted.csv: scheme, encoder, probe, adjustment, n_patients, n_genes, mean_rho with ci_low and ci_high
        where there is an interval, and unadjusted_rho of the same patients and genes; ``none`` is not drawn.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(table)
    kinds = [kind for kind in dict.fromkeys(part["adjustment"]) if kind != "none"]
    panels = [kinds[i : i + MAX_ABREAST] for i in range(0, len(kinds), MAX_ABREAST)]
    rows = Rows.of(part, leaderboard, most=MAX_ROWS // len(panels))
    part = rows.among(part)
    by = part.set_index(["adjustment", *PAIR])
    n_patients = part.groupby("adjustment", sort=False)["n_patients"].max()
    fig = style.new_figure(style.PAGE_MM, 14 + len(panels) * (14 + rows.pitch_mm * len(rows.pairs)))
    grid = fig.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
    for axes, line in zip(grid, panels, strict=True):
        rows.set_axes(axes)
        for ax, kind in zip(axes, line, strict=False):
            _draw_adjustment(ax, rows, by.loc[kind])
            ax.set(title=f"{kind}\n(n = {n_patients[kind]:,})", xlabel="mean ρ")
            ax.margins(x=0.08)
            ax.axvline(0, color=style.MUTED, lw=0.5)
        for ax in axes[len(line) :]:
            ax.set_visible(False)
    style.heading(fig, scheme_name(scheme))
    style.legend(fig, [style.handle("before adjustment", marker="|", color=style.MUTED), *rows.row_legend()])
    after = part[part["adjustment"] != "none"].assign(
        text=lambda own: own["adjustment"] + " " + own["mean_rho"].map(number)
    )
    texts = after.groupby(PAIR)["text"].agg(", ".join)
    alt = f"Dot plot of mean ρ by {scheme_name(scheme)} after and before adjustment. After it: {rows.spell(texts)}."
    return style.describe(fig, alt, part)


def _draw_adjustment(ax: Axes, rows: Rows, own: pd.DataFrame) -> None:
    for pair, height in rows.heights.items():
        if pair not in own.index or np.isnan(own.loc[pair, "mean_rho"]):
            continue
        row = own.loc[pair]
        ends = [row[name] for name in ("ci_low", "ci_high") if name in row]
        ax.plot(row["unadjusted_rho"], height, "|", color=rows.colours[pair[0]], ms=5, mew=1)
        rows.dot(ax, pair, row["mean_rho"], height, ends)
        change = style.number(row["mean_rho"] - row["unadjusted_rho"])
        style.remark(ax, change if change.startswith("−") else f"+{change}", height)
