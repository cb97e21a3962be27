"""Figures of the leaderboard: mean ρ with intervals, ranks, differences, and the distribution over genes."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.figures.catalogue import figure
from wsibench.figures.rows import PAIR, Rows, competitors, in_order, pair_name, primary, schemes_in_order
from wsibench.figures.style import (
    BAND,
    COLUMN_MM,
    INK,
    MUTED,
    PAGE_MM,
    describe,
    handle,
    heatmap,
    interval,
    legend,
    new_figure,
    number,
    palette,
    patch,
    percent,
    primary_scheme,
    probe_name,
    probe_order,
    scheme_name,
    sentence_case,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPOSURE_MARKS = {"yes": "†", "unknown": "?", "no": ""}
MAX_RANK_NUMBERS, MAX_PAIR_NUMBERS = 14, 19
"""Ranks, and competitors, beyond which a number no longer fits its cell."""
ALPHA = 0.05
"""Holm-corrected p below which two encoders differ."""
EQUAL = 0.95
"""Share of the draws within the region of practical equivalence from which on two encoders are equal in practice."""
MAX_DELTA = 0.1
"""Difference of mean ρ of the darkest colour, the same in every study."""


@figure(
    "Mean ρ of every encoder and probe",
    "Mean over genes of the Spearman correlation between out-of-fold prediction and measured expression, with its "
    "95 % bootstrap interval. Grey bands: central 95 % when expression is permuted among the patients of each site. "
    "Hollow markers are controls, which are not ranked.",
    "leaderboard",
    "null",
)
def forest(leaderboard: pd.DataFrame, null: pd.DataFrame | None = None) -> "Figure":
    """Mean gene-wise ρ of every encoder and probe with its 95 % interval, one panel a fold scheme.

    Parameters
    ----------
    leaderboard
        Table leaderboard.csv.
    null
        Table null.csv: quantiles of the mean ρ under the permutation null.

    Returns
    -------
    matplotlib.figure.Figure
        With ``alt`` and ``data``.
    """
    null = leaderboard.head(0) if null is None else _all_genes(null)
    rows, schemes = Rows.of(leaderboard, leaderboard), schemes_in_order(leaderboard["scheme"])
    heights = rows.heights
    fig = new_figure(PAGE_MM, 16 + 4.2 * len(heights))
    axes = fig.subplots(1, len(schemes), sharex=True, sharey=True, squeeze=False)[0]
    exposure = leaderboard.drop_duplicates("encoder").set_index("encoder")["tcga"]
    marks = {encoder: EXPOSURE_MARKS[value] for encoder, value in exposure.items()}
    rows.set_axes(axes, rows.names(marks))
    for ax, scheme in zip(axes, schemes, strict=True):
        ax.set(title=sentence_case(scheme_name(scheme)), xlabel="mean gene-wise Spearman ρ (95 % interval)")
        ax.axvline(0, color=MUTED, lw=0.5)
        for row in null[null["scheme"] == scheme].itertuples():
            if (height := heights.get((row.encoder, row.probe))) is not None:
                ax.fill_betweenx([height - 0.36, height + 0.36], row.q025, row.q975, color=BAND, lw=0)
        for row in leaderboard[leaderboard["scheme"] == scheme].itertuples():
            height = heights[row.encoder, row.probe]
            rows.dot(ax, (row.encoder, row.probe), row.mean_rho, height, (row.ci_low, row.ci_high))
            text, position = interval(row.mean_rho, row.ci_low, row.ci_high), (1.02, height)
            ax.annotate(text, position, xycoords=("axes fraction", "data"), va="center", fontsize=5, color=INK)
    handles = rows.row_legend()
    if len(null):
        handles.append(patch("permutation null, central 95 %"))
    remarks = {"†": "† TCGA in the encoder's training data", "?": "? TCGA exposure unknown"}
    handles += [handle(text) for mark, text in remarks.items() if mark in marks.values()]
    legend(fig, handles)
    return describe(fig, _forest_alt(leaderboard, rows.pairs, schemes, null), leaderboard)


def _all_genes(null: pd.DataFrame) -> pd.DataFrame:
    """Rows of null.csv that significance is measured against: permuted within sites, all genes together."""
    return null[(null["kind"] == "within-site") & (null["group"].fillna("") == "")]


def _forest_alt(board: pd.DataFrame, pairs: list, schemes: list[str], null: pd.DataFrame) -> str:
    parts = []
    for scheme in schemes:
        by_pair = board[board["scheme"] == scheme].set_index(PAIR)
        values = []
        for encoder, probe, control in pairs:
            if (encoder, probe) in by_pair.index:
                row = by_pair.loc[encoder, probe]
                text = f"{encoder} with {probe_name(probe)} {interval(row.mean_rho, row.ci_low, row.ci_high)}"
                values.append(text + (" as a control" if control else ""))
        parts.append(f"By {scheme_name(scheme)}: {'; '.join(values)}.")
    if len(null):
        parts.append(f"The permutation null lies between {null['q025'].min():.3f} and {null['q975'].max():.3f}.")
    return "Forest plot of mean gene-wise Spearman ρ with 95 % intervals. " + " ".join(parts)


@figure(
    "Stability of the ranks",
    "Share of the bootstrap draws in which each encoder and probe takes each rank. A stable order is a dark diagonal.",
    "rank_frequencies",
    applies=lambda inputs: inputs["rank_frequencies"]["rank"].max() > 1,
)
def rank_frequencies(frequencies: pd.DataFrame) -> "Figure":
    """Share of the bootstrap draws in which each encoder and probe takes each rank, one panel a fold scheme.

    Parameters
    ----------
    frequencies
        Table rank_frequencies.csv: scheme, encoder, probe, rank, frequency (share of the draws).
    """
    schemes = schemes_in_order(frequencies["scheme"])
    pairs = _by_mean_rank(primary(frequencies)[1])
    numbered = len(pairs) <= MAX_RANK_NUMBERS
    ranks = range(1, len(pairs) + 1) if numbered else [1, *range(5, len(pairs) + 1, 5)]
    fig = new_figure(PAGE_MM if len(schemes) > 1 else COLUMN_MM, 20 + 5 * len(pairs))
    axes = fig.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
    for ax, scheme in zip(axes, schemes, strict=True):
        part = frequencies[frequencies["scheme"] == scheme]
        table = part.pivot_table(index=PAIR, columns="rank", values="frequency", fill_value=0).reindex(pairs)
        # An empty cell says "never" better than a zero does.
        texts = table.map(lambda share: "" if share < 0.005 else f"{share:.2f}".lstrip("0"))
        mesh = heatmap(ax, table, texts if numbered else None, vmax=1)
        ax.set_xticks([rank - 0.5 for rank in ranks], ranks)
        ax.set(title=sentence_case(scheme_name(scheme)), xlabel="rank (1 = best)")
    axes[0].set_yticks(np.arange(len(pairs)) + 0.5, [pair_name(*pair) for pair in pairs])
    bar = fig.colorbar(mesh, ax=list(axes), shrink=0.8, aspect=25, pad=0.01)
    bar.set_label("share of bootstrap draws")
    bar.outline.set_visible(False)
    return describe(fig, _rank_alt(frequencies, schemes), frequencies)


def _by_mean_rank(frequencies: pd.DataFrame) -> list[tuple[str, str]]:
    weighted = frequencies.assign(mean_rank=frequencies["rank"] * frequencies["frequency"])
    means = weighted.groupby(PAIR)["mean_rank"].sum().reset_index().sort_values(["mean_rank", *PAIR])
    return list(means[PAIR].itertuples(index=False, name=None))


def _rank_alt(frequencies: pd.DataFrame, schemes: list[str]) -> str:
    parts = []
    for scheme in schemes:
        first = frequencies[(frequencies["scheme"] == scheme) & (frequencies["rank"] == 1)]
        first = first.sort_values(["frequency", *PAIR], ascending=[False, True, True])
        shares = [f"{r.encoder} with {probe_name(r.probe)} in {percent(r.frequency)}" for r in first.itertuples()]
        parts.append(f"By {scheme_name(scheme)} the first rank goes to {', '.join(shares)} of the draws.")
    return "Heat map of rank frequencies over bootstrap draws of patients. " + " ".join(parts)


@figure(
    "Differences between encoders",
    "Mean ρ of the row less that of the column, for every pair of competitors on the same bootstrap draws of patients. "
    "A pair without a mark is undecided: neither shown to differ nor shown to be equal.",
    "differences",
    options=lambda inputs: {"rope": inputs.study.ranking.rope},
)
def differences(table: pd.DataFrame, *, rope: float = 0.01) -> "Figure":
    """Difference of mean ρ of every pair of competitors by the primary scheme, and which pairs differ.

    Parameters
    ----------
    table
        Table differences.csv: scheme, encoder_a, probe_a, encoder_b, probe_b, delta, ci_low, ci_high, p_holm, p_rope.
    rope
        Half the width of the region of practical equivalence (ρ).
    """
    scheme, part = primary(table)
    order, delta, marks = _matrix(part)
    n, names = len(order) - 1, [pair_name(*pair) for pair in order]
    narrow, numbered = n <= 5, len(order) <= MAX_PAIR_NUMBERS
    fig = new_figure(COLUMN_MM if narrow else PAGE_MM, 14 + 1.05 * max(map(len, names)) + n * min(7, 120 / n))
    ax = fig.subplots()
    texts = delta.map(short_number) + marks.map(lambda mark: f"\n{mark}" if mark else "")
    texts = texts.where(delta.notna(), "") if numbered else marks
    mesh = heatmap(ax, delta, texts, vmax=MAX_DELTA, fontsize=5.5 if n <= 12 else 5)
    if not numbered:
        # Nothing is drawn below the diagonal.
        box = ax.inset_axes((0.05, 0.2, 0.25, 0.025))
        bar = fig.colorbar(mesh, cax=box, orientation="horizontal", extend="max")
        bar.set_label("Δ mean ρ")
        bar.outline.set_visible(False)
    ax.set_xticks(np.arange(n) + 0.5, names[1:], rotation=90)
    ax.set_yticks(np.arange(n) + 0.5, names[:-1])
    space = "\n" if narrow else " "
    ax.set_title(sentence_case(f"{scheme_name(scheme)}:{space}mean ρ of the row less that of the column"))
    meaning = [
        f"* different: Holm-corrected p < {short_number(ALPHA, 2)}",
        f"≈ equal in practice: |Δ| < {short_number(rope, 2)} in {percent(EQUAL)} of the draws",
    ]
    columns = 1 if narrow else 2
    handles = [handle(text) for text in meaning]
    fig.legend(handles=handles, loc="outside lower left", handlelength=0, handletextpad=0, ncols=columns)
    return describe(fig, _differences_alt(part, scheme, rope), part)


def _mark(p_holm: float, p_rope: float) -> str:
    # A difference too small to matter counts as equal, also where it is significant.
    return "≈" if p_rope >= EQUAL else "*" if p_holm < ALPHA else ""


def _matrix(part: pd.DataFrame) -> tuple[list[tuple[str, str]], pd.DataFrame, pd.DataFrame]:
    """Competitors from the best down; differences and marks, all but the last of them × all but the first."""
    a, b = (pd.MultiIndex.from_frame(part[[f"encoder_{x}", f"probe_{x}"]], names=PAIR) for x in "ab")
    lead = pd.concat([pd.Series(part["delta"].to_numpy(), a), pd.Series(-part["delta"].to_numpy(), b)])
    order = list(lead.groupby(level=PAIR).sum().sort_values(ascending=False, kind="stable").index)
    place = {pair: i for i, pair in enumerate(order)}
    delta = np.full((len(order), len(order)), np.nan)
    marks = np.full(delta.shape, "", object)
    for one, other, row in zip(a, b, part.itertuples(), strict=True):
        i, j = sorted((place[one], place[other]))
        delta[i, j] = row.delta if place[one] == i else -row.delta
        marks[i, j] = _mark(row.p_holm, row.p_rope)
    return order, pd.DataFrame(delta[:-1, 1:]), pd.DataFrame(marks[:-1, 1:])


def _differences_alt(part: pd.DataFrame, scheme: str, rope: float) -> str:
    marks = [_mark(row.p_holm, row.p_rope) for row in part.itertuples()]
    closest = part.loc[part["delta"].abs().idxmin()]
    a, b = (f"{closest[f'encoder_{x}']} with {probe_name(closest[f'probe_{x}'])}" for x in "ab")
    return (
        f"Matrix of the differences in mean ρ by {scheme_name(scheme)}: of {len(part)} pairs {marks.count('*')} differ "
        f"(Holm-corrected p < {ALPHA}) and {marks.count('≈')} are equal in practice (within ±{rope:g}). "
        f"The closest are {a} and {b}, {number(closest['delta'])} apart."
    )


@figure(
    "Gene-wise ρ by encoder",
    "Distribution over genes; dot and bar are median and quartiles. Hollow violins are controls.",
    "scores",
    "leaderboard",
)
def violins(scores: pd.DataFrame, leaderboard: pd.DataFrame, *, scheme: str | None = None) -> "Figure":
    """Distribution of gene-wise ρ over genes: one violin an encoder, one panel a probe.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    scheme
        Fold scheme; the primary one unless given.
    """
    scheme = scheme or primary_scheme(leaderboard["scheme"])
    shown = scores[(scores["scheme"] == scheme) & scores["rho"].notna()]
    by_pair = dict(list(shown.groupby(PAIR, observed=True)["rho"]))
    pairs = [pair for pair in in_order(leaderboard) if pair[:2] in by_pair]
    ranked, colours = competitors(leaderboard), palette(scores["encoder"])
    probes = sorted({probe for _, probe, _ in pairs}, key=probe_order)
    orders = [[encoder for encoder, name, _ in pairs if name == probe] for probe in probes]
    fig, axes = _violin_axes([len(order) for order in orders])
    for ax, probe, order in zip(axes, probes, orders, strict=True):
        ax.axhline(0, color=MUTED, lw=0.5)
        for i, encoder in enumerate(order):
            _violin(ax, i, by_pair[encoder, probe], colours[encoder], hollow=encoder not in ranked)
        ax.set(title=sentence_case(f"{probe_name(probe)}, {scheme_name(scheme)}"), ylabel="gene-wise Spearman ρ")
        ax.grid(axis="y")
        ax.set_xticks(range(len(order)), [name if name in ranked else f"{name}\n(control)" for name in order])
        ax.set_xlim(-0.5, len(order) - 0.5)
        ax.tick_params(axis="x", length=0)
    data = shown[["scheme", *PAIR, "gene", "rho"]].sort_values(["probe", "encoder", "gene"])
    values = []
    for encoder, probe, _ in pairs:
        low, middle, high = by_pair[encoder, probe].quantile([0.25, 0.5, 0.75])
        values.append(f"{encoder} with {probe_name(probe)}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")
    n_genes = data["gene"].nunique()
    alt = f"Violins of gene-wise Spearman ρ over {n_genes} genes by {scheme_name(scheme)}. {'; '.join(values)}."
    return describe(fig, alt, data)


def _violin_axes(counts: list[int]) -> tuple["Figure", list["Axes"]]:
    """One panel a probe: beside each other, or stacked where they would be too narrow."""
    if len(counts) * max(counts) <= 6:
        shape, fig = (1, len(counts)), new_figure(COLUMN_MM, 62)
    elif sum(counts) <= 15:
        shape, fig = (1, len(counts)), new_figure(PAGE_MM, 62)
    else:
        shape, fig = (len(counts), 1), new_figure(PAGE_MM, 8 + 46 * len(counts))
    ratios = counts if shape[0] == 1 else None
    return fig, list(fig.subplots(*shape, sharey=True, squeeze=False, width_ratios=ratios).ravel())


def _violin(ax: "Axes", x: int, rho: pd.Series, colour: str, *, hollow: bool) -> None:
    """Violin with quartiles and median."""
    if rho.max() > rho.min():  # a site control that predicts a constant has no density
        (body,) = ax.violinplot(rho.to_numpy(float), [x], widths=0.85, showextrema=False)["bodies"]
        face, edge = ("white", colour) if hollow else (colour, INK)
        body.set(facecolor=face, edgecolor=edge, linewidth=0.8 if hollow else 0.4, alpha=1)
    low, middle, high = rho.quantile([0.25, 0.5, 0.75])
    ax.plot([x, x], [low, high], color=INK, lw=2, solid_capstyle="butt")
    ax.plot(x, middle, "o", color="white", mec=INK, mew=0.5, ms=3)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    ax.annotate(number(middle, 2), (x, middle), fontsize=5, bbox=box, **place)
