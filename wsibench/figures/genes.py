"""Figures of single genes and of their fits: permutation null, predicted against measured expression, training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import ranking, regression
from wsibench.figures import style
from wsibench.figures.catalogue import Inputs, Keys, Source, figure
from wsibench.figures.style import MUTED, PAGE_MM, PAIR, Axes, Figure, Pair, Rows, primary, probe_name, scheme_name

if TYPE_CHECKING:
    from anndata import AnnData

FDR = 0.05  # q below which a gene counts as predicted
NULL = "permutation null"
UNITS = {"log2_tpm": "log2 TPM", "log2_cpm": "log2 CPM", "zscore": "z-score", "as_is": "unit of the table"}


def _permuted(inputs: Inputs) -> dict[Pair, Any]:
    """ρ under the permutation null of the genes that are scored, (permutations, genes), by encoder and probe."""
    scores = inputs["scores"]
    genes = scores.loc[scores["scheme"] == inputs.scheme, "gene"].unique()
    fits = [fit for fit in regression.fits(inputs.study) if fit.scheme == inputs.scheme]
    nulls = {(fit.encoder, fit.probe): ranking.read_null(inputs.study, fit) for fit in fits}
    return {name: rho[genes].to_numpy() for name, rho in nulls.items() if rho is not None}


def _best_predictions(inputs: Inputs) -> dict[str, Any]:
    """Arguments for a figure of the predictions of the encoder and probe that head the leaderboard."""
    import anndata

    encoder, probe = style.in_order(inputs["leaderboard"])[0]
    scores = inputs["scores"]
    own = scores[(scores[["scheme", "encoder", "probe"]] == [inputs.scheme, encoder, probe]).all(axis=1)]
    return {
        "predictions": anndata.read_h5ad(inputs.study.predictions_h5ad(inputs.scheme, encoder, probe)),
        "benchmark": inputs["benchmark"],
        "rho": own.set_index("gene")["rho"],
        "label": f"{encoder}, {probe_name(probe)}, {scheme_name(inputs.scheme)}",
        "unit": UNITS[inputs.study.expression.unit],
        "colour": style.palette([encoder])[encoder],
    }


def _attending(inputs: Inputs) -> list[str]:
    """Encoders that attention MIL was fitted on."""
    return list(dict.fromkeys(fit.encoder for fit in regression.fits(inputs.study) if fit.probe == "abmil"))


def _curve_keys(inputs: Inputs) -> Keys:
    found = inputs.stage(regression)
    return found if found and _attending(inputs) else None


def _curves(inputs: Inputs) -> pd.DataFrame:
    """Training curves of attention MIL of every encoder under the primary scheme."""
    import h5py
    from anndata.io import read_elem

    frames = []
    for encoder in _attending(inputs):
        with h5py.File(inputs.study.predictions_h5ad(inputs.scheme, encoder, "abmil"), "r") as file:
            frames.append(read_elem(file["uns/wsibench/curves"]).assign(encoder=encoder))
    return pd.concat(frames, ignore_index=True)


PERMUTED = Source(lambda inputs: inputs.stage(ranking), _permuted)
CURVES = Source(_curve_keys, _curves)


@figure(
    "Predicted genes",
    "Share of the genes whose ρ is above the value on the x-axis, one line an encoder, beside the permutation null; in "
    "the legend the share of genes with q < .05. Dashed: controls.",
    "scores",
    PERMUTED,
    "leaderboard",
    applies=lambda inputs: inputs.keys("measures") is not None and inputs["measures"]["significant"].notna().any(),
)
def significant(scores: pd.DataFrame, permuted: Mapping[Pair, np.ndarray], leaderboard: pd.DataFrame) -> Figure:
    """Distribution of gene-wise ρ beside the permutation null, one panel a probe, and the share below q = .05.

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
    import seaborn as sns

    scheme, part = primary(scores)
    part = part.dropna(subset=["rho", "q"])
    rows = Rows.of(part, leaderboard)
    part = pd.concat([part, _null(permuted, rows)])
    share = (part["q"] < FDR).groupby([part["probe"], part["encoder"]]).mean()
    fig = style.new_figure(PAGE_MM, 75)
    axes = fig.subplots(1, len(rows.probes), sharex=True, sharey=True, squeeze=False)[0]
    for ax, probe in zip(axes, rows.probes, strict=True):
        for encoder, own in part[part["probe"] == probe].groupby("encoder", sort=False):
            look = {"color": rows.colours.get(encoder, MUTED), "ls": "--" if encoder in rows.controls else "-"}
            label = f"{encoder}, {style.percent(share[probe, encoder])}" if encoder != NULL else NULL
            sns.ecdfplot(own, x="rho", complementary=True, ax=ax, label=label, **look)
        ax.set(title=style.sentence_case(probe_name(probe)), xlabel="gene-wise Spearman ρ", ylabel="share of the genes")
        ax.legend(title="genes with q < .05", loc="upper right")
    style.heading(fig, f"{scheme_name(scheme)}, {scores['gene'].nunique():,} genes")
    texts = {(encoder, probe): style.percent(value) for (probe, encoder), value in share.items()}
    alt = f"Distributions of gene-wise ρ beside the permutation null by {scheme_name(scheme)}; share of genes with q < "
    return style.describe(fig, f"{alt}.05: {rows.spell(texts)}.", part[["scheme", *PAIR, "gene", "rho", "q"]])


def _null(permuted: Mapping[Pair, np.ndarray], rows: Rows) -> pd.DataFrame:
    """Quantiles of ρ under the permutation null of the competitors together, by probe."""
    frames = []
    for probe in rows.probes:
        known = [permuted[pair].ravel() for pair in rows.pairs[: rows.n_ranked] if pair[1] == probe]
        rho = np.nanquantile(np.concatenate(known), np.linspace(0, 1, 501)) if known else []
        frames.append(pd.DataFrame({"probe": probe, "rho": rho}))
    return pd.concat(frames).assign(encoder=NULL)


@figure(
    "Predicted against measured expression",
    "Out-of-fold predictions of the eight genes with the highest ρ of the first encoder and probe of the leaderboard; "
    "line: identity. Chosen for their ρ, these genes look better than they would in another cohort.",
    "scores",
    "benchmark",
    arguments=_best_predictions,
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
        ax.axline((low, low), slope=1, color=style.INK, lw=0.5, ls=(0, (3, 2)), zorder=0)
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


@figure(
    "Training of attention MIL",
    "One line a fold and seed; dots mark the epoch whose weights were kept.",
    CURVES,
)
def training_curves(curves: pd.DataFrame) -> Figure:
    """Loss and validation ρ over the epochs of attention MIL, one column an encoder, one line a fold and seed.

    Parameters
    ----------
    curves
        Columns encoder, fold, seed, epoch, loss, validation_rho and chosen (bool: the epoch that was kept).
    """
    encoders = list(dict.fromkeys(curves["encoder"]))
    fig = style.new_figure(PAGE_MM if len(encoders) > 2 else style.COLUMN_MM, 72)
    axes = fig.subplots(2, len(encoders), sharex=True, sharey="row", squeeze=False)
    colours, values = style.palette(encoders), []
    for (upper, lower), encoder in zip(axes.T, encoders, strict=True):
        part = curves[curves["encoder"] == encoder]
        _lines(upper, part, "loss", colours[encoder])
        _lines(lower, part, "validation_rho", colours[encoder])
        upper.set_title(encoder)
        lower.set_xlabel("epoch")
        kept = part.loc[part["chosen"], ["validation_rho", "epoch"]].mean()
        values.append(f"{encoder} {kept['validation_rho']:.2f} at epoch {kept['epoch']:.0f}")
    axes[0, 0].set_ylabel("training loss\n(MSE of z-scores)")
    axes[1, 0].set_ylabel("validation ρ\n(mean over genes)")
    n = len(curves[["fold", "seed"]].drop_duplicates())
    alt = (
        f"Training curves of attention MIL, {n} fits an encoder; mean validation ρ at the epoch that was kept: "
        f"{', '.join(values)}."
    )
    return style.describe(fig, alt, curves)


def _lines(ax: Axes, part: pd.DataFrame, column: str, colour: str) -> None:
    for _, line in part.groupby(["fold", "seed"]):
        ax.plot(line["epoch"], line[column], color=colour, lw=0.5, alpha=0.5)
    kept = part[part["chosen"]]
    ax.plot(kept["epoch"], kept[column], "o", color=colour, ms=2.5, mec=style.INK, mew=0.3)
    ax.grid(axis="y")
