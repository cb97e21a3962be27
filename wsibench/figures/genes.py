"""Figures of single genes: their scores beside the permutation null, and predicted against measured expression."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.catalogue import figure
from wsibench.figures.inputs import best_predictions
from wsibench.figures.rows import Rows, primary
from wsibench.figures.style import COLUMN_MM, INK, MUTED, PAGE_MM, Axes, Figure, percent, probe_name, scheme_name

if TYPE_CHECKING:
    from anndata import AnnData

EDGES = np.linspace(-1, 1, 101)  # of the bins of the histograms of ρ
FDR = 0.05  # q below which a gene counts as predicted
MAX_PANELS = 20  # pairs of encoder and probe beyond which only each encoder's best is drawn


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
) -> Figure:
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
    fig = style.new_figure(COLUMN_MM if columns <= 2 else PAGE_MM, 22 + 36 * -(-n // columns))
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
    for ax in axes[:n:columns]:
        ax.set_ylabel("share of the genes")
    for ax in axes[max(0, n - columns) : n]:
        ax.set_xlabel("gene-wise Spearman ρ")
        ax.tick_params(labelbottom=True)
    for ax in axes[n:]:
        ax.remove()
    axes[0].set_xlim(data["rho_low"].min() - 0.02, data["rho_high"].max() + 0.02)
    # A control that predicts every gene as constant has all of them at 0, and would leave no height to the others.
    ranked = data[data["encoder"].isin([encoder for encoder, _, control in rows.pairs if not control])]
    axes[0].set_ylim(0, 1.12 * (ranked if len(ranked) else data)[["genes", "permuted"]].max().max())
    style.heading(fig, f"{scheme_name(scheme)}, {part['gene'].nunique():,} genes")
    handles = [style.patch("genes with q < .05", MUTED), style.patch("other genes", MUTED, alpha=0.28)]
    style.legend(fig, [*handles, style.handle("permutation null, all genes", lw=0.7)], columns=3 if columns > 2 else 1)
    alt = f"histograms of gene-wise ρ beside the permutation null by {scheme_name(scheme)}; share of genes with q < .05"
    return style.describe(fig, f"{style.sentence_case(alt)}: {', '.join(shares)}.", data)


def _histograms(own: pd.DataFrame, permuted: np.ndarray) -> pd.DataFrame:
    """Shares in each bin: of all genes, of those below the false discovery rate, and of the permutation null."""
    values = {"genes": own["rho"], "genes_below_q": own.loc[own["q"] < FDR, "rho"], "permuted": permuted}
    counts = {name: np.histogram(np.asarray(each)[np.isfinite(each)], EDGES)[0] for name, each in values.items()}
    sizes = {"genes": len(own), "genes_below_q": len(own), "permuted": max(1, counts["permuted"].sum())}
    shares = {name: counts[name] / sizes[name] for name in counts}
    return pd.DataFrame({"rho_low": EDGES[:-1], "rho_high": EDGES[1:], **shares})


def _draw_histograms(ax: Axes, frame: pd.DataFrame, colour: str) -> None:
    ax.stairs(frame["genes"], EDGES, fill=True, color=colour, alpha=0.28, lw=0)
    ax.stairs(frame["genes_below_q"], EDGES, fill=True, color=colour, lw=0)
    ax.stairs(frame["permuted"], EDGES, color=INK, lw=0.7)
    ax.axvline(0, color=MUTED, lw=0.4)


@figure(
    "Predicted against measured expression",
    "Out-of-fold predictions of the eight genes with the highest ρ of the first encoder and probe of the leaderboard; "
    "line: identity. Chosen for their ρ, these genes look better than they would in another cohort.",
    "scores",
    "benchmark",
    arguments=best_predictions,
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
) -> Figure:
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
    fig = style.new_figure(PAGE_MM, 10 + 46 * n_rows)
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
    style.heading(fig, f"out-of-fold predictions by {label}, n = {len(predicted)} patients")
    names = pd.MultiIndex.from_product([predicted.index, rho.index], names=["patient_id", "gene"])
    values = {"measured": measured.to_numpy().ravel(), "predicted": predicted.to_numpy().ravel()}
    data = pd.DataFrame(values, names).reset_index()
    scores = ", ".join(f"{gene} {value:.2f}" for gene, value in rho.items())
    alt = f"Scatter plots of predicted against measured expression by {label}, within-fold Spearman ρ: {scores}."
    return style.describe(fig, alt, data)
