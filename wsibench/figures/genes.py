"""Figures of single genes and of their fits: permutation null, predicted against measured expression, training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import ranking, regression
from wsibench.figures import style
from wsibench.figures.catalogue import Inputs, Keys, Source, figure, in_house_style
from wsibench.figures.style import (
    MUTED,
    PAGE_MM,
    PAIR,
    Axes,
    Figure,
    Pair,
    Rows,
    pair_name,
    primary,
    probe_name,
    scheme_name,
)

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
    "ρ against the level and the variance of expression",
    "One dot a gene, by the encoder and probe that head the leaderboard; line: median of each twentieth of the genes.",
    "scores",
    "benchmark",
    "leaderboard",
    arguments=lambda inputs: {
        "scores": inputs["scores"],
        "benchmark": inputs["benchmark"],
        "leaderboard": inputs["leaderboard"],
        "unit": UNITS[inputs.study.expression.unit],
    },
)
def rho_by_expression(
    scores: pd.DataFrame, benchmark: "AnnData", leaderboard: pd.DataFrame, *, unit: str = ""
) -> Figure:
    """Gene-wise ρ of the first encoder and probe against mean and standard deviation of the measured expression.

    Parameters
    ----------
    scores
        Table scores.parquet: scheme, encoder, probe, gene, rho (NaN where undefined).
    benchmark
        Measured expression, patients × genes.
    leaderboard
        Table leaderboard.csv.
    unit
        Unit of the expression, for the axes.
    """
    scheme, part = primary(scores.dropna(subset="rho"))
    pair = style.in_order(leaderboard)[0]
    rho = part[(part[PAIR] == list(pair)).all(axis=1)].set_index("gene")["rho"]
    measured = benchmark[:, list(rho.index)].to_df()
    data = pd.DataFrame({"mean": measured.mean(), "sd": measured.std(), "rho": rho})
    fig = style.new_figure(PAGE_MM, 62)
    axes, values = fig.subplots(1, 2, sharey=True), []
    for ax, column in zip(axes, ("mean", "sd"), strict=True):
        ax.plot(data[column], data["rho"], "o", color=style.palette([pair[0]])[pair[0]], ms=2, mew=0, alpha=0.4)
        ax.lines[0].set_rasterized(True)
        parts = data.groupby(pd.qcut(data[column], 20, duplicates="drop"), observed=True)[[column, "rho"]].median()
        ax.plot(parts[column], parts["rho"], color=style.INK)
        ax.axhline(0, color=MUTED, lw=0.5)
        ax.set(xlabel=f"{column.replace('sd', 'SD')} of the measured expression ({unit})")
        values.append(f"{column} {style.number(data[column].corr(data['rho'], 'spearman'), 2)}")
    axes[0].set_ylabel("gene-wise Spearman ρ")
    text = f"{pair_name(*pair)}, {scheme_name(scheme)}, {len(data):,} genes"
    style.heading(fig, text)
    alt = f"Gene-wise ρ against the expression of the gene, {text}; Spearman correlation with {' and '.join(values)}."
    return style.describe(fig, alt, data.rename_axis("gene").reset_index())


@figure(
    "Predicted against measured expression",
    "Out-of-fold predictions of the eight genes with the highest ρ of the first encoder and probe of the leaderboard, "
    "less the mean of the fold, as ρ is taken within folds; colours: folds; line: identity. Chosen for their ρ, these "
    "genes look better than they would in another cohort.",
    "scores",
    "benchmark",
    arguments=_best_predictions,
)
def predicted_measured(
    predictions: "AnnData", benchmark: "AnnData", rho: pd.Series, *, label: str = "", unit: str = "", n: int = 8
) -> Figure:
    """Out-of-fold predictions against measured expression, each less the mean of its fold: one panel a gene.

    Parameters
    ----------
    predictions
        Out-of-fold predictions, patients × genes; the folds in the column ``fold`` of obs, one fold without it.
    benchmark
        Measured expression of these patients and genes, and perhaps of others.
    rho
        Within-fold Spearman ρ by gene; the `n` genes of the highest are drawn.
    label
        Encoder, probe and scheme, for the heading.
    unit
        Unit of the expression, for the axes.
    n
        Number of genes.
    """
    rho = rho.dropna().sort_values(ascending=False, kind="stable").head(n)
    columns = min(len(rho), 4)
    n_rows = -(-len(rho) // columns)
    fig = style.new_figure(PAGE_MM, 10 + 46 * n_rows)
    axes, frames = fig.subplots(n_rows, columns, squeeze=False).ravel(), []
    for ax, gene in zip(axes, rho.index, strict=False):
        frames.append(_scatter(ax, predictions[:, gene], benchmark[predictions.obs_names, gene]).assign(gene=gene))
        ax.set(title=f"{gene}, ρ = {rho[gene]:.2f}", xlabel="", ylabel="")
    for ax in axes[len(rho) :]:
        ax.remove()
    fig.supxlabel(f"measured expression less the fold's mean ({unit})", fontsize=6)
    fig.supylabel(f"predicted expression less the fold's mean ({unit})", fontsize=6)
    style.heading(fig, f"out-of-fold predictions by {label}, n = {predictions.n_obs} patients")
    scores = ", ".join(f"{gene} {value:.2f}" for gene, value in rho.items())
    alt = f"Scatter plots of predicted against measured expression by {label}, within-fold Spearman ρ: {scores}."
    return style.describe(fig, alt, pd.concat(frames).reset_index())


def _scatter(ax: Axes, predictions: "AnnData", measured: "AnnData") -> pd.DataFrame:
    """Draw one gene, each fold less its mean and in its colour, and return the values drawn from."""
    import seaborn as sns

    fold = predictions.obs["fold"] if "fold" in predictions.obs else pd.Series(0, predictions.obs_names)
    values = {"measured": measured.to_df().iloc[:, 0], "predicted": predictions.to_df().iloc[:, 0]}
    frame = pd.DataFrame(values).rename_axis("patient_id")
    centred = frame - frame.groupby(fold.to_numpy()).transform("mean")
    colours = [style.OTHER_COLOURS[i % len(style.OTHER_COLOURS)] for i in range(fold.nunique())]
    look = {"palette": colours, "s": 5, "linewidth": 0, "alpha": 0.7, "legend": False}
    sns.scatterplot(centred, x="measured", y="predicted", hue=fold.to_numpy(), ax=ax, rasterized=True, **look)
    ax.axline((0, 0), slope=1, color=style.INK, lw=0.5, ls=(0, (3, 2)), zorder=0)
    ax.set_box_aspect(1)
    return frame.assign(fold=fold.to_numpy())


@in_house_style
def gene_lookup(
    gene: str,
    predictions: Mapping[Pair, "AnnData"],
    benchmark: "AnnData",
    leaderboard: pd.DataFrame,
    *,
    scheme: str,
    unit: str = "",
    draws: int = 2000,
) -> Figure:
    """ρ of one gene for every encoder and probe with its 95 % interval, and the predictions of the first of them.

    The intervals are exploratory: their coverage was measured for means over genes, not for single genes.

    Parameters
    ----------
    gene
        Name of the gene.
    predictions
        Out-of-fold predictions by encoder and probe, of one scheme: fold and site in obs, layer noise.
    benchmark
        Measured expression of these patients and genes, and perhaps of others.
    leaderboard
        Table leaderboard.csv, for the order and the controls.
    scheme
        Fold scheme of the predictions: patients are drawn in random-patient folds, else whole sites.
    unit
        Unit of the expression, for the axes.
    draws
        Number of bootstrap draws.
    """
    rows = Rows.of(pd.DataFrame(list(predictions), columns=PAIR), leaderboard)
    some = [predictions[pair][:, gene] for pair in rows.pairs]
    measured = benchmark[some[0].obs_names, gene]
    table = pd.DataFrame(rows.pairs, columns=PAIR).assign(gene=gene, **_gene_scores(some, measured, scheme, draws))
    fig = style.new_figure(PAGE_MM, max(62, 20 + rows.pitch_mm * len(rows.pairs)))
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    rows.set_axes([left])
    left.axvline(0, color=MUTED, lw=0.5)
    texts = {}
    for row in table.itertuples():
        pair, ends = (row.encoder, row.probe), (row.ci_low, row.ci_high)
        texts[pair] = style.interval(row.rho, *ends, digits=2)
        rows.dot(left, pair, row.rho, rows.heights[pair], ends)
        style.remark(left, texts[pair], rows.heights[pair])
    left.set(title=f"{gene}, {scheme_name(scheme)}", xlabel="Spearman ρ within folds (exploratory 95 % interval)")
    _scatter(right, some[0], measured)
    right.set(title=pair_name(*rows.pairs[0]), xlabel=f"measured less the fold's mean ({unit})")
    right.set_ylabel(f"predicted less the fold's mean ({unit})")
    style.legend(fig, rows.row_legend())
    alt = f"ρ of {gene} with exploratory 95 % intervals by {scheme_name(scheme)}: {rows.spell(texts)}."
    return style.describe(fig, alt, table)


def _gene_scores(
    predictions: Sequence["AnnData"], measured: "AnnData", scheme: str, draws: int
) -> dict[str, np.ndarray]:
    """ρ of one gene with its interval, by the same draws as the means of the leaderboard."""
    obs, y = predictions[0].obs, measured.X
    fold, site = obs["fold"].to_numpy(), obs["site"].to_numpy(str)
    rho = np.array([regression.fold_spearman(y, each.X, fold).mean() for each in predictions])
    values, noise = [each.X for each in predictions], [each.layers["noise"] for each in predictions]
    sites = site if scheme != "random-patient" and len(np.unique(site)) > 1 and (site != "").all() else None
    drawn = ranking.mean_draws(y, values, noise, fold, rho, np.ones((1, 1), bool), sites=sites, draws=draws)
    low, high = np.clip([ranking.central_interval(each[0]) for each in drawn], -1, 1).T
    return {"rho": rho[:, 0], "ci_low": low, "ci_high": high}


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
