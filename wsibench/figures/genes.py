"""Figures of genes, gene sets and other targets: scores, permutation null, predicted against measured values."""

import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.figures.catalogue import figure
from wsibench.figures.inputs import best_fit_options
from wsibench.figures.rows import PAIR, Rows, best_probes, in_order, primary, schemes_in_order
from wsibench.figures.style import (
    BAND,
    COLUMN_MM,
    FAINT,
    INK,
    MUTED,
    PAGE_MM,
    describe,
    handle,
    heading,
    legend,
    new_figure,
    number,
    omitted,
    palette,
    patch,
    percent,
    probe_marker,
    probe_name,
    scheme_name,
    sentence_case,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = np.linspace(-1, 1, 101)
"""Bins of the histograms of ρ."""
FDR = 0.05
"""q below which a gene counts as predicted."""
MAX_PANELS, MAX_SHOWN, MAX_ROWS = 20, 16, 12
"""Pairs of encoder and probe beyond which only each encoder's best is drawn: of `significant`,
`truth_against_reached`, and `gene_sets` and `targets`."""
SETS_MM, LINE_MM = 132, 2.6
"""Height of all sets on a page, and of a line of a set's name (mm)."""
NAME_WIDTH = 26
"""Letters of a set's name before it is broken."""
MEASURES = {"spearman": "Spearman ρ", "auroc": "AUROC"}


@figure(
    "Predicted genes",
    "Gene-wise ρ of all genes; strong colour: q < .05 (share in the title); line: permutation null. Each gene is "
    "tested against its own permutations, so that strong and pale overlap.",
    "scores",
    "permuted",
    "leaderboard",
    applies=lambda inputs: inputs.keys("measures") is not None and inputs["measures"]["significant"].notna().any(),
)
def significant(
    scores: pd.DataFrame, permuted: Mapping[tuple[str, str], np.ndarray], leaderboard: pd.DataFrame
) -> "Figure":
    """Histograms of gene-wise ρ beside the permutation null, with the share of genes below q = .05.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho, q; pairs without q are left out.
    permuted
        ρ under the permutation null by encoder and probe of the primary scheme: (permutations, genes), NaN where
        undefined.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(scores)
    part = part.dropna(subset=["rho", "q"])
    rows = Rows.of(part, leaderboard, most=MAX_PANELS)
    n = len(rows.pairs)
    columns = min(n, 2 if n in (2, 4) else 5)
    fig = new_figure(COLUMN_MM if columns <= 2 else PAGE_MM, 22 + 36 * -(-n // columns))
    axes = fig.subplots(-(-n // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    frames, shares = [], []
    for ax, (encoder, probe, control) in zip(axes, rows.pairs, strict=False):
        own = part[(part["encoder"] == encoder) & (part["probe"] == probe)]
        frame = _histograms(own, permuted[encoder, probe])
        share = percent(frame["genes_below_q"].sum())
        _draw_histograms(ax, frame, rows.colours[encoder])
        ax.set_title(f"{encoder}{' (control)' if control else ''}\n{probe_name(probe)}, {share}")
        shares.append(f"{encoder} with {probe_name(probe)} {share}")
        frames.append(frame.assign(scheme=scheme, encoder=encoder, probe=probe))
    data = pd.concat(frames, ignore_index=True)
    data = data[data[["genes", "permuted"]].max(axis=1) > 0]
    _frame_histograms(axes, data, columns, rows)
    heading(fig, f"{scheme_name(scheme)}, {part['gene'].nunique():,} genes")
    handles = [patch("genes with q < .05", MUTED), patch("other genes", MUTED, alpha=0.28)]
    legend(fig, [*handles, handle("permutation null, all genes", lw=0.7)], columns=3 if columns > 2 else 1)
    alt = f"histograms of gene-wise ρ beside the permutation null by {scheme_name(scheme)}; share of genes with q < .05"
    return describe(fig, f"{sentence_case(alt)}: {', '.join(shares)}.", data)


def _histograms(own: pd.DataFrame, permuted: np.ndarray) -> pd.DataFrame:
    """Shares in each bin: of all genes, of those below the false discovery rate, and of the permutation null."""
    values = {"genes": own["rho"], "genes_below_q": own.loc[own["q"] < FDR, "rho"], "permuted": permuted}
    counts = {name: np.histogram(np.asarray(each)[np.isfinite(each)], EDGES)[0] for name, each in values.items()}
    sizes = {"genes": len(own), "genes_below_q": len(own), "permuted": max(1, counts["permuted"].sum())}
    shares = {name: counts[name] / sizes[name] for name in counts}
    return pd.DataFrame({"rho_low": EDGES[:-1], "rho_high": EDGES[1:], **shares})


def _draw_histograms(ax: "Axes", frame: pd.DataFrame, colour: str) -> None:
    ax.stairs(frame["genes"], EDGES, fill=True, color=colour, alpha=0.28, lw=0)
    ax.stairs(frame["genes_below_q"], EDGES, fill=True, color=colour, lw=0)
    ax.stairs(frame["permuted"], EDGES, color=INK, lw=0.7)
    ax.axvline(0, color=MUTED, lw=0.4)


def _frame_histograms(axes: np.ndarray, data: pd.DataFrame, columns: int, rows: Rows) -> None:
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
    axes[0].set_ylim(0, 1.12 * (ranked if len(ranked) else data)[["genes", "permuted"]].max().max())


@figure(
    "Gene sets",
    "Mean ρ of each set (number of genes) with its 95 % interval. Grey: central 95 % of random sets of as many genes; "
    "a set beyond its band is predicted better, or worse, than genes in general.",
    "sets",
    "leaderboard",
    applies=lambda inputs: (inputs["sets"]["n_genes"] > 0).any(),
)
def gene_sets(sets: pd.DataFrame, leaderboard: pd.DataFrame) -> "Figure":
    """Mean ρ of every gene set with its interval, on the band of random sets of the same size; one row a set.

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
    rows = Rows.of(part, leaderboard, most=MAX_ROWS)
    labels = {row.set: _set_label(row.set, row.n_genes, row.n_missing) for row in part.itertuples()}
    part = rows.among(part).rename(columns={"random_low": "band_low", "random_high": "band_high"})
    order = _by_mean(part.assign(item=part["set"]), rows)
    pitch_mm = max(LINE_MM * max(label.count("\n") + 1 for label in labels.values()), 1.5 * len(rows.pairs)) + 1.2
    abreast = 1 if len(order) * pitch_mm <= 0.75 * SETS_MM else 2
    deep = min(-(-len(order) // abreast), int(SETS_MM // pitch_mm))
    shown, handles = order[: abreast * deep], rows.colour_legend()
    legend_columns = 2 if abreast == 1 else 6
    height_mm = 24 + 3 * -(-(len(handles) + 1) // legend_columns) + deep * pitch_mm
    fig = new_figure(COLUMN_MM if abreast == 1 else PAGE_MM, height_mm)
    axes = fig.subplots(1, abreast, sharex=True, squeeze=False)[0]
    for i, ax in enumerate(axes):
        own = shown[i * deep : (i + 1) * deep]
        _draw_items(ax, rows, part.assign(item=part["set"], score=part["mean_rho"]), own)
        ax.set_yticks(range(len(own)), [labels[name] for name in own])
        ax.set(ylim=(deep - 0.5, -0.5), xlabel="mean Spearman ρ of the set (95 % interval)")
        ax.axvline(0, color=MUTED, lw=0.5)
    text = scheme_name(scheme) + omitted(len(shown), len(order), "sets")
    heading(fig, text)
    if part["band_low"].notna().any():
        handles.append(patch("random sets of equal size, central 95 %"))
    legend(fig, handles, legend_columns)
    return describe(fig, _sets_alt(part, shown, rows, text), part)


def _set_label(name: str, n_genes: int, n_missing: int) -> str:
    """Name with the number of genes: ``pam50 (7 of 50)``."""
    counts = f"{n_genes:,} of {n_genes + n_missing:,}" if n_missing else f"{n_genes:,}"
    return textwrap.fill(f"{name.replace('_', ' ')} ({counts})", NAME_WIDTH)


def _by_mean(part: pd.DataFrame, rows: Rows) -> list[str]:
    """Items by the mean ρ over competitors, best first."""
    pairs = [pair[:2] for pair in rows.pairs[: rows.n_ranked or None]]
    competing = part[pd.MultiIndex.from_frame(part[PAIR]).isin(pairs)]
    return list(competing.groupby("item")["mean_rho"].mean().sort_values(ascending=False, kind="stable").index)


def _draw_items(ax: "Axes", rows: Rows, part: pd.DataFrame, names: list[str]) -> None:
    """One row an item: dots with intervals of every encoder and probe, on grey bands where there are any."""
    by, n = part.set_index(["item", *PAIR]), len(rows.pairs)
    shifts, half = (np.arange(n) - (n - 1) / 2) * (0.86 / n), 0.4 * 0.86 / n
    for i, name in enumerate(names):
        if i % 2 == 0:
            ax.axhspan(i - 0.5, i + 0.5, color=FAINT, alpha=0.35, lw=0, zorder=-1)
        for pair, shift in zip((pair[:2] for pair in rows.pairs), shifts, strict=True):
            if (name, *pair) in by.index:
                row, y = by.loc[(name, *pair)], i + shift
                if "band_low" in row:
                    ax.fill_betweenx([y - half, y + half], row["band_low"], row["band_high"], color=BAND, lw=0)
                ends = (row["ci_low"], row["ci_high"])
                rows.dot(ax, pair, row["score"], y, ends, size=np.clip(14 / n, 2.2, 3.5))
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _sets_alt(part: pd.DataFrame, shown: list[str], rows: Rows, text: str) -> str:
    encoder, probe, _ = rows.pairs[0]
    by = part[(part["encoder"] == encoder) & (part["probe"] == probe)].set_index("set")
    values = []
    for name in (name for name in shown if name in by.index):
        row = by.loc[name]
        band = f" (random {number(row['band_low'], 2)} to {number(row['band_high'], 2)})"
        values.append(f"{name} {number(row['mean_rho'], 2)}" + (band if np.isfinite(row["band_low"]) else ""))
    return f"Mean ρ of gene sets by {text}, for {encoder} with {probe_name(probe)}: {'; '.join(values)}."


@figure(
    "Targets other than genes",
    "Score of each target with its 95 % interval; dashed: chance.",
    "targets",
    "leaderboard",
    applies=lambda inputs: inputs["targets"]["measure"].isin(list(MEASURES)).any(),
)
def targets(table: pd.DataFrame, leaderboard: pd.DataFrame) -> "Figure":
    """Spearman ρ or AUROC of every target with its 95 % interval; one row a target, one panel a measure.

    Parameters
    ----------
    table
        Table targets.csv: scheme, encoder, probe, target, measure, score, ci_low, ci_high, chance, n_patients.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    scheme, part = primary(table[table["measure"].isin(list(MEASURES))])
    rows = Rows.of(part, leaderboard, most=MAX_ROWS)
    part = rows.among(part)
    panels = {measure: part[part["measure"] == measure] for measure in MEASURES if measure in set(part["measure"])}
    names = {measure: list(dict.fromkeys(own["target"])) for measure, own in panels.items()}
    most = int(SETS_MM // (1.5 * len(rows.pairs) + 3))
    deep = min(most, max(map(len, names.values())))
    fig = new_figure(PAGE_MM, 30 + deep * (1.5 * len(rows.pairs) + 3))
    best = []
    for ax, (measure, own) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        shown = names[measure][:deep]
        _draw_items(ax, rows, own.assign(item=own["target"]), shown)
        ax.axvline(own["chance"].iloc[0], color=INK, lw=0.8, ls=(0, (3, 2)))
        sizes = own.drop_duplicates("target").set_index("target")["n_patients"]
        labels = [textwrap.fill(f"{name.replace('_', ' ')} ({sizes[name]:,})", NAME_WIDTH) for name in shown]
        ax.set_yticks(range(len(shown)), labels)
        text = f"{MEASURES[measure]} (95 % interval){omitted(len(shown), len(names[measure]), 'targets')}"
        ax.set(ylim=(deep - 0.5, -0.5), xlabel=text)
        for row in own.loc[own.groupby("target", sort=False)["score"].idxmax()].itertuples():
            best.append(f"{row.target} {row.encoder}, {MEASURES[measure]} {number(row.score, 2)}")
    heading(fig, scheme_name(scheme))
    legend(fig, rows.colour_legend(), 6)
    return describe(fig, f"Scores of targets by {scheme_name(scheme)}; best encoder of each: {'; '.join(best)}.", part)


@figure(
    "Planted signals of the simulated cohort",
    "Mean ρ of each planted gene group beside the highest that its drivers allow (black). Site genes can be predicted "
    "only by recognising the site, null genes not at all.",
    "groups",
    "leaderboard",
    applies=lambda inputs: (inputs["groups"]["ceiling"] > 0).any(),
)
def truth_against_reached(groups: pd.DataFrame, leaderboard: pd.DataFrame) -> "Figure":
    """Mean ρ of each planted gene group beside the attainable one, one panel a fold scheme (simulated cohorts only).

    Parameters
    ----------
    groups
        Table groups.csv: scheme, encoder, probe, group, n_genes, mean_rho, ci_low, ci_high, ceiling (Spearman, NaN or
        0 where nothing in the slide drives the genes).
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    """
    schemes, pairs = schemes_in_order(groups["scheme"]), in_order(leaderboard)
    pairs = best_probes(pairs) if len(pairs) > MAX_SHOWN else pairs
    names = groups.drop_duplicates("group").set_index("group")
    order = sorted(names.index, key=lambda name: _group_order(name, names["ceiling"][name]))
    fig = new_figure(PAGE_MM, 18 + 48 * len(schemes))
    axes = fig.subplots(len(schemes), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = palette(groups["encoder"])
    offsets = np.linspace(-0.34, 0.34, len(pairs)) if len(pairs) > 1 else [0.0]
    for ax, scheme in zip(axes, schemes, strict=True):
        part = groups[groups["scheme"] == scheme].set_index([*PAIR, "group"]).sort_index()
        _draw_ceilings(ax, names["ceiling"].reindex(order))
        for (encoder, probe, control), offset in zip(pairs, offsets, strict=True):
            if (encoder, probe) in part.index.droplevel("group"):
                reached, x = part.loc[encoder, probe].reindex(order), np.arange(len(order)) + offset
                colour = colours[encoder]
                ax.vlines(x, reached["ci_low"], reached["ci_high"], color=colour, lw=0.5, alpha=0.7)
                face = "white" if control else colour
                ax.plot(x, reached["mean_rho"], probe_marker(probe), color=colour, mfc=face, mew=0.7, ms=2.8)
        ax.set(title=sentence_case(scheme_name(scheme)), ylabel="mean Spearman ρ (95 % interval)")
        ax.axhline(0, color=MUTED, lw=0.5, zorder=0)
        ax.tick_params(axis="x", length=0)
    _name_groups(axes[-1], order, names["n_genes"])
    handles = [handle("attainable", lw=1), *Rows(pairs, colours).colour_legend()]
    legend(fig, handles, min(len(handles), 8))
    return describe(fig, _reached_alt(groups, order, names["ceiling"], schemes[0], pairs), groups)


def _split(name: str) -> tuple[str, str]:
    """Driver and strength of a group: ``nuclear_density_0.8``; other groups have no strength."""
    found = re.fullmatch(r"(.+)_([\d.]+)", name)
    return (found[1], found[2]) if found else (name, "")


def _group_order(name: str, ceiling: float) -> tuple:
    return (not ceiling > 0, name == "null", *_split(name))


def _name_groups(ax: "Axes", order: list[str], n_genes: pd.Series) -> None:
    """Write strengths under the groups, and under these the driver that they share."""
    ax.set_xticks(range(len(order)), [f"{_split(name)[1] or ' '}\nn = {n_genes[name]}" for name in order])
    ax.set_xlim(-0.6, len(order) - 0.4)
    drivers = [_split(name)[0] for name in order]
    place = {"xycoords": ("data", "axes fraction"), "xytext": (0, -19), "textcoords": "offset points"}
    for driver in dict.fromkeys(drivers):
        middle = np.mean([i for i, other in enumerate(drivers) if other == driver])
        ax.annotate(f"{driver.replace('_', ' ')} genes", (middle, 0), ha="center", va="top", **place)


def _draw_ceilings(ax: "Axes", ceilings: pd.Series) -> None:
    for i, ceiling in enumerate(ceilings):
        if i % 2 == 0:
            ax.axvspan(i - 0.5, i + 0.5, color=FAINT, alpha=0.5, lw=0, zorder=-1)
        if ceiling > 0:
            ax.plot([i - 0.44, i + 0.44], [ceiling, ceiling], color=INK, lw=1)


def _reached_alt(groups: pd.DataFrame, order: list[str], ceilings: pd.Series, scheme: str, pairs: list) -> str:
    part = groups[groups["scheme"] == scheme].set_index(PAIR)
    best = part[part.index.isin([pair[:2] for pair in pairs if not pair[2]])].groupby("group")["mean_rho"].max()
    values = [
        f"{name.replace('_', ' ')} {best[name]:.2f}" + (f" of {ceilings[name]:.2f}" if ceilings[name] > 0 else "")
        for name in order
        if name in best
    ]
    return (
        f"Mean ρ by planted gene group beside the attainable one, by {scheme_name(scheme)}; "
        f"best of the ranked encoders: {', '.join(values)}."
    )


@figure(
    "Predicted against measured expression",
    "Out-of-fold predictions of the eight genes with the highest ρ of the first encoder and probe of the leaderboard; "
    "line: identity. Chosen for their ρ, these genes look better than they would in another cohort.",
    "best_predictions",
    "benchmark",
    "best_rho",
    options=best_fit_options,
)
def predicted_measured(
    predictions: "AnnData",
    benchmark: "AnnData",
    rho: pd.Series,
    *,
    label: str = "",
    unit: str = "",
    colour: str = MUTED,
    n: int = 8,
) -> "Figure":
    """Out-of-fold predictions against measured expression, one panel a gene, one dot a patient.

    Parameters
    ----------
    predictions
        Out-of-fold predictions, patients × genes.
    benchmark
        Measured expression of these patients and genes, and perhaps of others.
    rho
        Within-fold Spearman ρ by gene; the `n` genes of the highest are drawn.
    label
        Encoder, probe and scheme, for the heading.
    unit
        Unit of the expression, for the axes.
    colour
        Colour of the dots.
    n
        Number of genes.
    """
    rho = rho.dropna().sort_values(ascending=False, kind="stable").head(n)
    predicted = predictions[:, list(rho.index)].to_df()
    measured = benchmark[predicted.index, list(rho.index)].to_df()
    columns = min(len(rho), 4)
    n_rows = -(-len(rho) // columns)
    fig = new_figure(PAGE_MM, 10 + 46 * n_rows)
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    for ax, gene in zip(axes, rho.index, strict=False):
        ax.plot(measured[gene], predicted[gene], "o", color=colour, ms=2, mew=0, alpha=0.5, rasterized=True)
        low, high = ax.get_ylim()
        ax.axline((low, low), slope=1, color=INK, lw=0.5, ls=(0, (3, 2)), zorder=0)
        ax.set(title=f"{gene}, ρ = {rho[gene]:.2f}", xlim=ax.get_xlim(), ylim=(low, high))
        ax.set_box_aspect(1)
    for ax in axes[len(rho) :]:
        ax.remove()
    fig.supxlabel(f"measured expression ({unit})", fontsize=6)
    fig.supylabel(f"predicted expression ({unit})", fontsize=6)
    heading(fig, f"out-of-fold predictions by {label}, n = {len(predicted)} patients")
    names = pd.MultiIndex.from_product([predicted.index, rho.index], names=["patient_id", "gene"])
    values = {"measured": measured.to_numpy().ravel(), "predicted": predicted.to_numpy().ravel()}
    data = pd.DataFrame(values, names).reset_index()
    scores = ", ".join(f"{gene} {value:.2f}" for gene, value in rho.items())
    alt = f"Scatter plots of predicted against measured expression by {label}, within-fold Spearman ρ: {scores}."
    return describe(fig, alt, data)
