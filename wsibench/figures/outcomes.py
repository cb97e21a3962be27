"""Targets that are not genes: scores, classes and pathways read from the same features."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsibench.figures.rows import Rows, primary
from wsibench.figures.style import (
    INK,
    MOST_HIGH_MM,
    PAGE_MM,
    described,
    headed,
    left_out,
    legend_columns,
    new_figure,
    number,
    probe_name,
    scheme_name,
    styled,
)

MEASURES = {
    "spearman": "Spearman ρ",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "r2": "R²",
}
"""A target is drawn by the first of these that it has."""
MOST_ROWS = 14
"""Pairs of encoder and probe beyond which only each encoder's best is drawn."""
ABREAST = 4


@styled
def targets(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Score of every encoder and probe with its 95 % interval, a panel a target, beside what chance gives.

    A target with several measures is drawn by one; targets that would not fit the page are left to the CSV.

    Parameters
    ----------
    table
        As in targets.csv: scheme, encoder, probe, target, kind, measure, score, ci_low, ci_high, chance, n_patients,
        n_classes.
    leaderboard
        Gives the order of the rows, and which are controls.
    """
    scheme, part = primary(table)
    part = drawn(part)
    rows = Rows.of(part, leaderboard, most=MOST_ROWS)
    part = rows.among(part)
    names = list(dict.fromkeys(part["target"]))
    columns = min(len(names), ABREAST)
    panel_mm = 17 + 3.8 * len(rows.pairs)
    shown = names[: columns * max(1, int((MOST_HIGH_MM - 10) // panel_mm))]
    n_rows = -(-len(shown) // columns)
    fig = new_figure(PAGE_MM, 10 + n_rows * panel_mm)
    grid = fig.subplots(n_rows, columns, sharey=True, squeeze=False)
    for axes in grid:
        rows.lay(axes)
    for ax, name in zip(grid.ravel(), shown, strict=False):
        own = part[part["target"] == name]
        first = own.iloc[0]
        for row in own.itertuples():
            pair = (row.encoder, row.probe)
            rows.dot(ax, pair, row.score, rows.heights[pair], (row.ci_low, row.ci_high))
        ax.axvline(first["chance"], color=INK, lw=0.8, ls=(0, (3, 2)))
        ax.set_title(_heading(first))
        ax.set_xlabel(MEASURES[first["measure"]])
    for ax in grid.ravel()[len(shown) :]:
        ax.set_visible(False)
    headed(fig, scheme_name(scheme) + left_out(len(shown), len(names), "targets"))
    handles = [Line2D([], [], color=INK, lw=0.8, ls=(0, (3, 2)), label="chance"), *rows.row_legend()]
    fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)), columnspacing=1.4)
    return described(fig, _targets_alt(part, names, len(shown), scheme), part)


def drawn(targets: pd.DataFrame) -> pd.DataFrame:
    """The rows of the one measure that each target is drawn by."""
    place = targets["measure"].map(list(MEASURES).index)
    return targets[place == place.groupby(targets["target"]).transform("min")]


def _heading(row: pd.Series) -> str:
    name = row["target"].replace("_", " ")
    classes = f", {row['n_classes']:.0f} classes" if row["kind"] == "categorical" else ""
    return f"{name if len(name) <= 28 else name[:27] + '…'}\n(n = {row['n_patients']:,.0f}{classes})"


def _targets_alt(part: pd.DataFrame, names: list[str], n_shown: int, scheme: str) -> str:
    values = []
    for name in names[:n_shown]:
        own = part[part["target"] == name]
        best = own.loc[own["score"].idxmax()]
        values.append(
            f"{name}: {best['encoder']} with {probe_name(best['probe'])}, {MEASURES[best['measure']]} "
            f"{number(best['score'], 2)} (chance {number(best['chance'], 2)})"
        )
    heading = f"{scheme_name(scheme)}{left_out(n_shown, len(names), 'targets')}"
    return f"Scores of targets by {heading}; the best of each is {'; '.join(values)}."
