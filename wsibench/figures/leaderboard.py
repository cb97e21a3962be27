"""Figures of the leaderboard: mean ρ with intervals, ranks, differences, distributions over genes, and variation."""

from typing import Any

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.catalogue import figure
from wsibench.figures.style import PAGE_MM, PAIR, Axes, Figure, Rows, pair_name, primary, scheme_name

EXPOSURE_MARKS = {"yes": "†", "unknown": "?", "no": ""}
MAX_RANK_NUMBERS, MAX_PAIR_NUMBERS = 14, 19  # ranks, and competitors, beyond which numbers no longer fit
ALPHA = 0.05  # Holm-corrected p below which two encoders differ
EQUAL = 0.95  # share of the draws within the region of practical equivalence from which on two encoders are equal
MAX_DELTA = 0.1  # difference of mean ρ of the darkest colour, the same in every study
MAX_ROWS = 36  # pairs of encoder and probe beyond which only each encoder's best is drawn
PARTS = {"sd_patients": "patients", "sd_splits": "splits", "sd_seeds": "seeds"}


@figure(
    "Mean ρ of every encoder and probe",
    "Mean over genes of the Spearman correlation between out-of-fold prediction and measured expression, with its "
    "95 % bootstrap interval. Grey bands: central 95 % when expression is permuted among the patients of each site. "
    "Hollow markers are controls, which are not ranked.",
    "leaderboard",
    "null",
)
def forest(leaderboard: pd.DataFrame, null: pd.DataFrame | None = None) -> Figure:
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
    rows, schemes = Rows.of(leaderboard, leaderboard), style.schemes_in_order(leaderboard["scheme"])
    heights = rows.heights
    fig = style.new_figure(PAGE_MM, 16 + 4.2 * len(heights))
    axes = fig.subplots(1, len(schemes), sharex=True, sharey=True, squeeze=False)[0]
    exposure = leaderboard.drop_duplicates("encoder").set_index("encoder")["tcga"]
    marks = {encoder: EXPOSURE_MARKS[value] for encoder, value in exposure.items()}
    rows.set_axes(axes, [pair_name(f"{encoder} {marks[encoder]}".strip(), probe) for encoder, probe in rows.pairs])
    for ax, scheme in zip(axes, schemes, strict=True):
        ax.set(title=style.sentence_case(scheme_name(scheme)), xlabel="mean gene-wise Spearman ρ (95 % interval)")
        ax.axvline(0, color=style.MUTED, lw=0.5)
        for row in null[null["scheme"] == scheme].itertuples():
            if (height := heights.get((row.encoder, row.probe))) is not None:
                ax.fill_betweenx([height - 0.36, height + 0.36], row.q025, row.q975, color=style.BAND, lw=0)
        for row in leaderboard[leaderboard["scheme"] == scheme].itertuples():
            height = heights[row.encoder, row.probe]
            rows.dot(ax, (row.encoder, row.probe), row.mean_rho, height, (row.ci_low, row.ci_high))
            style.remark(ax, style.interval(row.mean_rho, row.ci_low, row.ci_high), height)
    handles = rows.row_legend()
    if len(null):
        handles.append(style.patch("permutation null, central 95 %"))
    remarks = {"†": "† TCGA in the encoder's training data", "?": "? TCGA exposure unknown"}
    handles += [style.handle(text) for mark, text in remarks.items() if mark in marks.values()]
    style.legend(fig, handles)
    alt = ["Forest plot of mean gene-wise Spearman ρ with 95 % intervals."]
    for scheme, board in leaderboard.groupby("scheme"):
        values = zip(board["mean_rho"], board["ci_low"], board["ci_high"], strict=True)
        texts = pd.Series([style.interval(*each) for each in values], pd.MultiIndex.from_frame(board[PAIR]))
        alt.append(f"By {scheme_name(scheme)}: {rows.spell(texts)}.")
    return style.describe(fig, " ".join(alt), leaderboard)


def _all_genes(null: pd.DataFrame) -> pd.DataFrame:
    """Rows of null.csv that significance is measured against: permuted within sites, all genes together."""
    return null[(null["kind"] == "within-site") & (null["group"].fillna("") == "")]


@figure(
    "Stability of the ranks",
    "Share of the bootstrap draws in which each encoder and probe takes each rank. A stable order is a dark diagonal.",
    "rank_frequencies",
    applies=lambda inputs: inputs["rank_frequencies"]["rank"].max() > 1,
)
def rank_frequencies(frequencies: pd.DataFrame) -> Figure:
    """Share of the bootstrap draws in which each encoder and probe takes each rank, one panel a fold scheme.

    Parameters
    ----------
    frequencies
        Table rank_frequencies.csv: scheme, encoder, probe, rank, frequency (share of the draws).
    """
    schemes = style.schemes_in_order(frequencies["scheme"])
    pairs = _by_mean_rank(primary(frequencies)[1])
    numbered = len(pairs) <= MAX_RANK_NUMBERS
    ranks = range(1, len(pairs) + 1) if numbered else [1, *range(5, len(pairs) + 1, 5)]
    fig = style.new_figure(PAGE_MM if len(schemes) > 1 else style.COLUMN_MM, 20 + 5 * len(pairs))
    axes = fig.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
    for ax, scheme in zip(axes, schemes, strict=True):
        part = frequencies[frequencies["scheme"] == scheme]
        table = part.pivot_table(index=PAIR, columns="rank", values="frequency", fill_value=0).reindex(pairs)
        # An empty cell says "never" better than a zero does.
        texts = table.map(lambda share: "" if share < 0.005 else f"{share:.2f}".lstrip("0"))
        mesh = _heatmap(ax, table, texts if numbered else None, vmax=1)
        ax.set_xticks([rank - 0.5 for rank in ranks], ranks)
        ax.set(title=style.sentence_case(scheme_name(scheme)), xlabel="rank (1 = best)", ylabel="")
    axes[0].set_yticks(np.arange(len(pairs)) + 0.5, [pair_name(*pair) for pair in pairs])
    bar = fig.colorbar(mesh, ax=list(axes), shrink=0.8, aspect=25, pad=0.01)
    bar.set_label("share of bootstrap draws")
    bar.outline.set_visible(False)
    first = primary(frequencies[frequencies["rank"] == 1])[1].sort_values("frequency", ascending=False, kind="stable")
    shares = [f"{pair_name(row.encoder, row.probe)} {style.percent(row.frequency)}" for row in first.itertuples()]
    alt = f"Heat map of rank frequencies over bootstrap draws of patients; first by {scheme_name(schemes[0])}: "
    return style.describe(fig, f"{alt}{', '.join(shares)}.", frequencies)


def _heatmap(ax: Axes, values: pd.DataFrame, texts: pd.DataFrame | None, *, vmax: float, fontsize: float = 5.5) -> Any:
    """Draw a matrix from white (0) to dark blue (`vmax`), with a text in each cell; return the cells."""
    import seaborn as sns

    annotations = {"annot": texts, "fmt": "", "annot_kws": {"fontsize": fontsize, "linespacing": 0.85}}
    look = {"cmap": "Blues", "cbar": False, "linewidths": 0.5, "xticklabels": False, "yticklabels": False}
    sns.heatmap(values, ax=ax, vmin=0, vmax=vmax, **look, **annotations)
    ax.tick_params(length=0)
    return ax.collections[0]


def _by_mean_rank(frequencies: pd.DataFrame) -> list[style.Pair]:
    weighted = frequencies.assign(mean_rank=frequencies["rank"] * frequencies["frequency"])
    means = weighted.groupby(PAIR)["mean_rank"].sum().reset_index().sort_values(["mean_rank", *PAIR])
    return list(means[PAIR].itertuples(index=False, name=None))


@figure(
    "Differences between encoders",
    "Mean ρ of the row less that of the column, for every pair of competitors on the same bootstrap draws of patients. "
    "A pair without a mark is undecided: neither shown to differ nor shown to be equal.",
    "differences",
    arguments=lambda inputs: {"table": inputs["differences"], "rope": inputs.study.ranking.rope},
)
def differences(table: pd.DataFrame, *, rope: float = 0.01) -> Figure:
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
    fig = style.new_figure(PAGE_MM, 14 + 1.05 * max(map(len, names)) + n * min(7, 120 / n))
    ax = fig.subplots()
    texts = delta.map(style.short_number) + marks.map(lambda mark: f"\n{mark}" if mark else "")
    texts = texts.where(delta.notna(), "") if len(order) <= MAX_PAIR_NUMBERS else marks
    mesh = _heatmap(ax, delta, texts, vmax=MAX_DELTA, fontsize=5.5 if n <= 12 else 5)
    bar = fig.colorbar(mesh, ax=ax, shrink=0.8, aspect=25, pad=0.01, extend="max")
    bar.set_label("Δ mean ρ")
    bar.outline.set_visible(False)
    ax.set_xticks(np.arange(n) + 0.5, names[1:], rotation=90)
    ax.set_yticks(np.arange(n) + 0.5, names[:-1])
    ax.set_title(style.sentence_case(f"{scheme_name(scheme)}: mean ρ of the row less that of the column"))
    meaning = [
        f"* different: Holm-corrected p < {style.short_number(ALPHA, 2)}",
        f"≈ equal in practice: |Δ| < {style.short_number(rope, 2)} in {style.percent(EQUAL)} of the draws",
    ]
    handles = [style.handle(text) for text in meaning]
    fig.legend(handles=handles, loc="outside lower left", handlelength=0, handletextpad=0, ncols=2)
    differ, equal = ((marks == mark).sum().sum() for mark in "*≈")
    alt = (
        f"Matrix of the differences in mean ρ by {scheme_name(scheme)}: of {len(part)} pairs {differ} differ "
        f"(Holm-corrected p < {ALPHA}) and {equal} are equal in practice (within ±{rope:g})."
    )
    return style.describe(fig, alt, part)


def _mark(p_holm: float, p_rope: float) -> str:
    # A difference too small to matter counts as equal, also where it is significant.
    return "≈" if p_rope >= EQUAL else "*" if p_holm < ALPHA else ""


def _matrix(part: pd.DataFrame) -> tuple[list[style.Pair], pd.DataFrame, pd.DataFrame]:
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


@figure(
    "Gene-wise ρ by encoder",
    "Distribution over genes; dot and bar are median and quartiles. Hollow violins are controls.",
    "scores",
    "leaderboard",
)
def violins(scores: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Distribution of gene-wise ρ over genes: one violin an encoder, one panel a probe.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    import seaborn as sns

    scheme, shown = primary(scores.dropna(subset="rho"))
    rows = Rows.of(shown, leaderboard)
    fig = style.new_figure(PAGE_MM, 8 + 46 * len(rows.probes))
    axes = fig.subplots(len(rows.probes), 1, sharey=True, squeeze=False)[:, 0]
    for ax, probe in zip(axes, rows.probes, strict=True):
        ax.axhline(0, color=style.MUTED, lw=0.5)
        own, order = shown[shown["probe"] == probe], [encoder for encoder, name in rows.pairs if name == probe]
        for fill, control in ((True, False), (False, True)):
            some = own[own["encoder"].isin(rows.controls) == control]
            look = {"fill": fill, "inner": "box", "linewidth": 0.8, "palette": rows.colours, "legend": False}
            sns.violinplot(some, x="encoder", y="rho", order=order, hue="encoder", ax=ax, **look)
        title = style.sentence_case(f"{style.probe_name(probe)}, {scheme_name(scheme)}")
        ax.set(title=title, xlabel="", ylabel="gene-wise Spearman ρ")
        ax.grid(axis="y")
        ax.set_xticks(range(len(order)), [f"{name}\n(control)" if name in rows.controls else name for name in order])
        ax.tick_params(axis="x", length=0)
    by_pair = shown.groupby(PAIR, observed=True)["rho"]
    texts = {pair: "{:.2f} ({:.2f} to {:.2f})".format(*rho.quantile([0.5, 0.25, 0.75])) for pair, rho in by_pair}
    heading = f"Violins of gene-wise Spearman ρ by {scheme_name(scheme)}; median and quartiles"
    data = shown[["scheme", *PAIR, "gene", "rho"]].sort_values(["probe", "encoder", "gene"])
    return style.describe(fig, f"{heading}: {rows.spell(texts)}.", data)


@figure(
    "Best genes",
    "Gene-wise ρ of the 60 genes with the highest mean ρ over all competitors, clustered. Chosen for their ρ, these "
    "genes look better than they would in another cohort.",
    "scores",
    "leaderboard",
)
def gene_heatmap(scores: pd.DataFrame, leaderboard: pd.DataFrame, *, n: int = 60) -> Figure:
    """Matrix of gene-wise ρ: encoder and probe × the genes with the highest mean ρ, in the order of a clustering.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    n
        Number of genes.
    """
    import seaborn as sns
    from scipy.cluster.hierarchy import leaves_list, linkage

    scheme, part = primary(scores)
    rows = Rows.of(part, leaderboard)
    table = part.pivot_table(index=PAIR, columns="gene", values="rho", observed=True).reindex(rows.pairs)
    table = table[table[: rows.n_ranked].mean().nlargest(n).index]
    if table.shape[1] > 1:
        table = table.iloc[:, leaves_list(linkage(table.fillna(0).T, "average", optimal_ordering=True))]
    fig = style.new_figure(PAGE_MM, 26 + rows.pitch_mm * len(rows.pairs))
    ax = fig.subplots()
    bar = {"label": "gene-wise ρ", "pad": 0.01, "aspect": 12}
    look = {
        "cmap": "vlag",
        "vmin": -1,
        "vmax": 1,
        "yticklabels": [pair_name(*pair) for pair in rows.pairs],
    }
    sns.heatmap(table, ax=ax, xticklabels=True, cbar_kws=bar, **look)
    ax.axhline(rows.n_ranked, color="white", lw=2)
    ax.set(title=style.sentence_case(scheme_name(scheme)), xlabel="", ylabel="")
    ax.tick_params(axis="x", rotation=90, labelsize=5, length=0)
    ax.tick_params(axis="y", rotation=0, length=0)
    texts = table.mean(axis=1).map(style.number)
    alt = (
        f"Heat map of ρ of the {table.shape[1]} genes that are predicted best, by {scheme_name(scheme)}; mean of them: "
    )
    return style.describe(fig, f"{alt}{rows.spell(texts)}.", table.reset_index().assign(scheme=scheme))


@figure(
    "Encoder against encoder",
    "Gene-wise ρ by the first encoder of the leaderboard (x) and by each other competitor (y), each with its best "
    "probe; one dot a gene; line: identity. In the titles, the share of genes that the first predicts better.",
    "scores",
    "leaderboard",
    applies=lambda inputs: len(style.competitors(inputs["leaderboard"])) > 1,
)
def encoder_against_encoder(scores: pd.DataFrame, leaderboard: pd.DataFrame, *, n: int = 8) -> Figure:
    """Gene-wise ρ by the first encoder against that by the others, one panel each.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    n
        Number of panels, at most.
    """
    scheme, part = primary(scores)
    rows = Rows.of(part, leaderboard, most=0)
    first, *others = rows.pairs[: min(n + 1, rows.n_ranked)]
    table = part.pivot_table(index="gene", columns=PAIR, values="rho", observed=True)
    columns = min(4, len(others))
    n_rows = -(-len(others) // columns)
    fig = style.new_figure(PAGE_MM, 8 + 48 * n_rows)
    axes = fig.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    values = {}
    for ax, pair in zip(axes, others, strict=False):
        look = {"color": rows.colours[pair[0]], "ms": 2, "mew": 0, "alpha": 0.4, "rasterized": True}
        ax.plot(table[first], table[pair], "o", **look)
        ax.axline((0, 0), slope=1, color=style.INK, lw=0.5)
        values[pair] = style.percent((table[first] > table[pair])[table[pair].notna()].mean())
        ax.set(
            title=f"{values[pair]} below the line",
            xlabel=f"ρ, {pair_name(*first)}",
            ylabel=f"ρ, {pair_name(*pair)}",
            box_aspect=1,
        )
    for ax in axes[len(others) :]:
        ax.remove()
    alt = f"Gene-wise ρ by {scheme_name(scheme)} of {pair_name(*first)} against others; it predicts better than "
    data = table[[first, *others]].set_axis([pair_name(*pair) for pair in (first, *others)], axis=1).reset_index()
    return style.describe(fig, f"{alt}{rows.spell(values)} of the genes.", data.assign(scheme=scheme))


@figure(
    "Sources of variation of the score",
    "SD of the mean ρ over bootstrap draws of patients, over random divisions into folds, and over seeds of the probe. "
    "A dash: there was only one.",
    "spread",
    "leaderboard",
)
def spread(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """SD of the mean ρ over patients, splits and seeds, side by side.

    Parameters
    ----------
    table
        Table spread.csv: scheme, encoder, probe, n_splits, mean_rho, sd_patients, sd_splits, n_seeds, sd_seeds; NaN
        where there was one split or seed.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(table)
    rows = Rows.of(part, leaderboard, most=MAX_ROWS)
    part = rows.among(part)
    by = part.set_index(PAIR)
    shown = [column for column in PARTS if part[column].notna().any()]
    fig = style.new_figure(PAGE_MM, 22 + rows.pitch_mm * len(rows.pairs))
    axes = fig.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    rows.set_axes(axes)
    for ax, column in zip(axes, shown, strict=True):
        for pair, height in rows.heights.items():
            value = by[column].get(pair, np.nan)
            style.remark(ax, "–" if np.isnan(value) else style.short_number(value, 4), height)
            if np.isfinite(value):
                ax.plot([0, value], [height, height], color=rows.colours[pair[0]], lw=1.1, solid_capstyle="butt")
                rows.dot(ax, pair, value, height)
        ax.set(title=_counted(column, part), xlim=(0, None), xlabel="SD of the mean ρ")
        ax.locator_params(axis="x", nbins=4)
    style.heading(fig, scheme_name(scheme))
    style.legend(fig, rows.row_legend())
    texts = by[shown].apply(
        lambda row: ", ".join(f"{PARTS[name]} {style.number(value, 4)}" for name, value in row.items()), 1
    )
    alt = f"Standard deviations of mean ρ by {scheme_name(scheme)}. {rows.spell(texts)}."
    return style.describe(fig, alt.replace(" nan", " –"), part)


def _counted(column: str, part: pd.DataFrame) -> str:
    """``Splits (5)``."""
    if column == "sd_patients":
        return "Patients (bootstrap)"
    n = part.loc[part[column].notna(), f"n_{PARTS[column]}"]
    counts = " to ".join(str(int(value)) for value in sorted({n.min(), n.max()}))
    return f"{PARTS[column].capitalize()} ({counts})"
