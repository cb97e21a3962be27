"""Encoders beside each other: the forest plot of the leaderboard and the violins over genes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsibench.figures.rows import PAIR, Rows, in_order, schemes_in_order
from wsibench.figures.style import (
    COLUMN_MM,
    INK,
    MUTED,
    PAGE_MM,
    described,
    legend_columns,
    new_figure,
    number,
    palette,
    primary_scheme,
    probe_name,
    probe_order,
    scheme_name,
    sentence_case,
    styled,
)

EXPOSURE_MARKS = {"yes": "†", "unknown": "?", "no": ""}


def rho_text(row: pd.Series) -> str:
    """``.213 (.190, .236)``: a mean and its interval, without the zeros that say nothing."""
    values = (number(row[name]).replace("0.", ".") for name in ("mean_rho", "ci_low", "ci_high"))
    return "{} ({}, {})".format(*values)


@styled
def forest(leaderboard: pd.DataFrame, null: pd.DataFrame | None = None) -> Figure:
    """Mean gene-wise ρ of every encoder and probe with its 95 % interval, a panel a fold scheme.

    Parameters
    ----------
    leaderboard
        As in leaderboard.csv; rows without a rank are controls and stand apart.
    null
        As in null.csv: where the mean ρ lies when patients and expression are paired at random.
    """
    null = None if null is None or overall(null).empty else overall(null)
    rows, schemes = Rows.of(leaderboard, leaderboard), schemes_in_order(leaderboard["scheme"])
    heights = rows.heights
    fig = new_figure(PAGE_MM, 16 + 4.2 * len(heights))
    axes = fig.subplots(1, len(schemes), sharex=True, sharey=True, squeeze=False)[0]
    exposure = leaderboard.drop_duplicates("encoder").set_index("encoder")["tcga"]
    marks = {encoder: EXPOSURE_MARKS[value] for encoder, value in exposure.items()}
    rows.lay(axes, rows.names(marks))
    for ax, scheme in zip(axes, schemes, strict=True):
        board = leaderboard[leaderboard["scheme"] == scheme]
        ax.set_title(sentence_case(scheme_name(scheme)))
        ax.axvline(0, color=MUTED, lw=0.5)
        if null is not None:
            _null_band(ax, null[null["scheme"] == scheme], heights)
        for row in board.itertuples():
            pair = (row.encoder, row.probe)
            rows.dot(ax, pair, row.mean_rho, heights[pair], (row.ci_low, row.ci_high))
        _numbers(ax, board, heights)
        ax.set_xlabel("mean gene-wise Spearman ρ (95 % interval)")
    handles = _forest_legend(rows, null is not None, set(marks.values()))
    fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)), columnspacing=1.4)
    return described(fig, _forest_alt(leaderboard, rows.pairs, schemes, null), leaderboard)


def _null_band(ax: Axes, null: pd.DataFrame, heights: dict) -> None:
    for _, row in null.iterrows():
        height = heights.get((row["encoder"], row["probe"]))
        if height is not None:
            ax.fill_betweenx([height - 0.36, height + 0.36], row["q025"], row["q975"], color="#d9d9d9", lw=0)


def overall(null: pd.DataFrame) -> pd.DataFrame:
    """The rows of null.csv that significance is measured against, all genes together: not a group, not ``free``."""
    within = null[null["kind"] == "within-site"]
    return within[within["group"].fillna("") == ""]


def _numbers(ax: Axes, board: pd.DataFrame, heights: dict) -> None:
    for _, row in board.iterrows():
        position = (1.02, heights[row["encoder"], row["probe"]])
        ax.annotate(rho_text(row), position, xycoords=("axes fraction", "data"), va="center", fontsize=5, color=INK)


def _forest_legend(rows: Rows, with_null: bool, marks: set[str]) -> list:
    handles = rows.row_legend()
    if with_null:
        handles.append(Patch(color="#d9d9d9", lw=0, label="permuted pairing, central 95 %"))
    if "†" in marks:
        handles.append(Line2D([], [], lw=0, label="† TCGA in the encoder's training data"))
    if "?" in marks:
        handles.append(Line2D([], [], lw=0, label="? TCGA exposure unknown"))
    return handles


def _forest_alt(board: pd.DataFrame, rows: list, schemes: list[str], null: pd.DataFrame | None) -> str:
    parts = []
    for scheme in schemes:
        by_pair = board[board["scheme"] == scheme].set_index(PAIR)
        values = [
            f"{encoder} with {probe_name(probe)} {rho_text(by_pair.loc[encoder, probe])}"
            + (" as a control" if control else "")
            for encoder, probe, control in rows
            if (encoder, probe) in by_pair.index
        ]
        parts.append(f"By {scheme_name(scheme)}: {'; '.join(values)}.")
    if null is not None:
        parts.append(f"Permuted pairing stays between {null['q025'].min():.3f} and {null['q975'].max():.3f}.")
    return "Forest plot of mean gene-wise Spearman ρ with 95 % intervals. " + " ".join(parts)


@styled
def violins(scores: pd.DataFrame, leaderboard: pd.DataFrame, *, scheme: str | None = None) -> Figure:
    """How gene-wise ρ is distributed over genes: a violin an encoder, a panel a probe.

    Parameters
    ----------
    scores
        As in scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    leaderboard
        Gives the order, and which encoders are controls.
    scheme
        The primary one unless given.
    """
    import seaborn as sns

    scheme = scheme or primary_scheme(leaderboard["scheme"])
    shown = scores[(scores["scheme"] == scheme) & scores["rho"].notna()]
    rows = in_order(leaderboard)
    probes = sorted({probe for _, probe, _ in rows}, key=probe_order)
    orders = {probe: [encoder for encoder, name, _ in rows if name == probe] for probe in probes}
    controls = {encoder for encoder, _, control in rows if control}
    fig, axes = _violin_axes([len(orders[probe]) for probe in probes])
    colours = palette(scores["encoder"])
    for ax, probe in zip(axes, probes, strict=True):
        part = shown[shown["probe"] == probe]
        ax.axhline(0, color=MUTED, lw=0.5)
        sns.violinplot(
            part, x="encoder", y="rho", hue="encoder", order=orders[probe], hue_order=orders[probe],
            palette=colours, ax=ax, inner=None, cut=0, density_norm="width", width=0.85,
            linewidth=0.4, saturation=1, legend=False,
        )  # fmt: skip
        _boxes(ax, part, orders[probe], colours, controls)
        ax.set_title(sentence_case(f"{probe_name(probe)}, {scheme_name(scheme)}"))
        ax.set_xlabel("")
        ax.set_ylabel("gene-wise Spearman ρ")
        ax.grid(axis="y")
        labels = [f"{name}\n(control)" if name in controls else name for name in orders[probe]]
        ax.set_xticks(range(len(labels)), labels)
        ax.tick_params(axis="x", length=0)
    data = shown[["scheme", "encoder", "probe", "gene", "rho"]].sort_values(["probe", "encoder", "gene"])
    return described(fig, _violins_alt(data, rows, scheme), data)


def _violin_axes(counts: list[int]) -> tuple[Figure, list[Axes]]:
    """A panel a probe, with room for so many violins: beside each other, or stacked where these would be too narrow."""
    if len(counts) * max(counts) <= 6:
        shape, fig = (1, len(counts)), new_figure(COLUMN_MM, 62)
    elif sum(counts) <= 15:
        shape, fig = (1, len(counts)), new_figure(PAGE_MM, 62)
    else:
        shape, fig = (len(counts), 1), new_figure(PAGE_MM, 8 + 46 * len(counts))
    ratios = counts if shape[0] == 1 else None
    return fig, list(fig.subplots(*shape, sharey=True, squeeze=False, width_ratios=ratios).ravel())


def _boxes(ax: Axes, part: pd.DataFrame, order: list[str], colours: dict[str, str], controls: set[str]) -> None:
    """Quartiles and medians inside the violins; those of controls are hollow."""
    # seaborn draws no body where all values are equal, as a site's are on folds that preserve sites.
    rho = part.groupby("encoder", observed=True)["rho"]
    spread = [encoder for encoder in order if rho.max()[encoder] > rho.min()[encoder]]
    bodies = dict(zip(spread, ax.collections, strict=True))
    for i, encoder in enumerate(order):
        if encoder in controls and encoder in bodies:
            bodies[encoder].set(facecolor="white", edgecolor=colours[encoder], linewidth=0.8)
        low, middle, high = part.loc[part["encoder"] == encoder, "rho"].quantile([0.25, 0.5, 0.75])
        ax.plot([i, i], [low, high], color=INK, lw=2, solid_capstyle="butt")
        ax.plot(i, middle, "o", color="white", mec=INK, mew=0.5, ms=3)
        ax.annotate(
            number(middle, 2), (i, middle), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=5,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75},
        )  # fmt: skip


def _violins_alt(data: pd.DataFrame, rows: list, scheme: str) -> str:
    by_pair = dict(list(data.groupby(PAIR)["rho"]))
    values = []
    for encoder, probe, _ in rows:
        if (encoder, probe) in by_pair:
            low, middle, high = by_pair[encoder, probe].quantile([0.25, 0.5, 0.75])
            values.append(
                f"{encoder} with {probe_name(probe)}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}"
            )
    n_genes = data["gene"].nunique()
    return f"Violins of gene-wise Spearman ρ over {n_genes} genes by {scheme_name(scheme)}. {'; '.join(values)}."
