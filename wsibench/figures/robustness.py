"""Figures of what else moves the score: covariates, patients, splits and seeds, and the site."""

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.catalogue import figure
from wsibench.figures.rows import PAIR, Rows, primary, remark
from wsibench.figures.style import INK, MUTED, PAGE_MM, Axes, Figure, number, probe_name, scheme_name

MAX_ROWS = 36  # pairs of encoder and probe beyond which only each encoder's best is drawn
MIN_RHO = 0.05  # mean ρ below which a share of it is meaningless
MAX_ABREAST = 7  # panels beside each other
PARTS = {"sd_patients": "patients", "sd_splits": "splits", "sd_seeds": "seeds"}


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
            remark(ax, "–" if np.isnan(value) else style.short_number(value, 4), height)
            if np.isfinite(value):
                ax.plot([0, value], [height, height], color=rows.colours[pair[0]], lw=1.1, solid_capstyle="butt")
                rows.dot(ax, pair, value, height)
        ax.set(title=_counted(column, part), xlim=(0, None), xlabel="SD of the mean ρ")
        ax.locator_params(axis="x", nbins=4)
    style.heading(fig, scheme_name(scheme))
    style.legend(fig, rows.row_legend())
    texts = by[shown].apply(
        lambda row: ", ".join(f"{PARTS[name]} {number(value, 4)}" for name, value in row.items()), 1
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


@figure(
    "Site predictability",
    "Left: balanced accuracy of predicting the site from the features, beside chance. Right: mean ρ by random-patient "
    "folds less that by preserved-site folds. High in both panels: part of the score may be site recognition.",
    "sites",
    "leaderboard",
)
def site_predictability(sites: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Accuracy of predicting the site from the features, beside the loss of mean ρ on patients of new sites.

    Parameters
    ----------
    sites
        Table sites.csv: encoder, n_patients, n_sites, balanced_accuracy, ci_low, ci_high, chance, auroc.
    leaderboard
        Table leaderboard.csv: the loss where the study has both fold schemes, and the controls.
    """
    rows = Rows.of(sites.assign(probe=""), leaderboard)
    loss = _loss(leaderboard, set(sites["encoder"]))
    probes = sorted(loss["probe"].unique(), key=style.probe_order)
    fig = style.new_figure(PAGE_MM, 20 + max(4.6, 2.2 * len(probes)) * len(rows.pairs))
    axes = fig.subplots(1, 1 if loss.empty else 2, sharey=True, squeeze=False)[0]
    rows.set_axes(axes, [encoder for encoder, *_ in rows.pairs])
    for row in sites.itertuples():
        height, ends = rows.heights[row.encoder, ""], (row.ci_low, row.ci_high)
        axes[0].plot([row.chance, row.chance], [height - 0.4, height + 0.4], color=INK, lw=1)
        rows.dot(axes[0], (row.encoder, ""), row.balanced_accuracy, height, ends, marker="o")
        remark(axes[0], style.interval(row.balanced_accuracy, *ends, digits=2), height)
    title = f"Prediction of {sites['n_sites'].max()} sites from the features"
    axes[0].set(title=title, xlabel="balanced accuracy (95 % interval)", xlim=(0, 1.03))
    handles = [style.handle("chance", marker="|")]
    if probes:
        _draw_loss(axes[1], rows, loss, probes)
        handles += [style.handle(probe_name(probe), marker=style.probe_marker(probe)) for probe in probes]
    if rows.n_ranked < len(rows.pairs):
        handles.append(style.handle("control", marker="o", face="white"))
    style.legend(fig, handles)
    # One row an encoder and probe, so that the file can be read without the leaderboard.
    data = sites if loss.empty else sites.merge(loss, on="encoder", how="left")
    values = [f"{row.encoder} {row.balanced_accuracy:.2f} (chance {row.chance:.2f})" for row in sites.itertuples()]
    alt = f"Balanced accuracy of predicting the site from the features: {'; '.join(values)}."
    if probes:
        lost = loss.groupby("encoder", sort=False)["rho_lost"].mean().items()
        alt += f" Loss of mean ρ on new sites: {', '.join(f'{encoder} {number(value)}' for encoder, value in lost)}."
    return style.describe(fig, alt, data)


def _loss(leaderboard: pd.DataFrame, encoders: set[str]) -> pd.DataFrame:
    """Mean ρ by random-patient folds less that by preserved-site folds: encoder, probe, rho_lost."""
    known = leaderboard[leaderboard["encoder"].isin(encoders)]
    by = known.pivot_table(index=PAIR, columns="scheme", values="mean_rho")
    if not {"random-patient", "preserved-site"} <= set(by.columns):
        return pd.DataFrame(columns=[*PAIR, "rho_lost"])
    return (by["random-patient"] - by["preserved-site"]).dropna().rename("rho_lost").reset_index()


def _draw_loss(ax: Axes, rows: Rows, loss: pd.DataFrame, probes: list[str]) -> None:
    shifts = dict(zip(probes, np.linspace(-0.3, 0.3, len(probes)) if len(probes) > 1 else [0.0], strict=True))
    for row in loss.itertuples():
        height = rows.heights[row.encoder, ""] + shifts[row.probe]
        rows.dot(ax, (row.encoder, ""), row.rho_lost, height, (0, row.rho_lost), marker=style.probe_marker(row.probe))
    ax.axvline(0, color=MUTED, lw=0.5)
    ax.set(title="Loss of mean ρ on new sites", xlabel="mean ρ, random-patient less preserved-site folds")


@figure(
    "Adjustment for covariates",
    "Mean ρ (marker) after adjustment for subtype, purity or other covariates, beside mean ρ of the same patients and "
    "genes before it (bar), and the share that remains.",
    "adjusted",
    "leaderboard",
    applies=lambda inputs: (inputs["adjusted"]["adjustment"] != "none").any(),
)
def adjusted(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ after and before adjustment: one panel an adjustment, one row an encoder and probe.

    Parameters
    ----------
    table
        Table adjusted.csv: scheme, encoder, probe, adjustment, n_patients, n_genes, mean_rho, and unadjusted_rho of
        the same patients and genes; the adjustment ``none`` is not drawn.
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
    fig = style.new_figure(PAGE_MM, 14 + len(panels) * (14 + rows.pitch_mm * len(rows.pairs)))
    grid = fig.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
    for axes, line in zip(grid, panels, strict=True):
        rows.set_axes(axes)
        for ax, kind in zip(axes, line, strict=False):
            _draw_adjustment(ax, rows, by.loc[kind])
            ax.set(title=f"{kind}\n(n = {n_patients[kind]:,})", xlabel="mean ρ (share)")
            ax.margins(x=0.08)
            ax.axvline(0, color=MUTED, lw=0.5)
        for ax in axes[len(line) :]:
            ax.set_visible(False)
    style.heading(fig, scheme_name(scheme))
    style.legend(fig, [style.handle("before adjustment", marker="|", color=MUTED), *rows.row_legend()])
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
        before, after = own.loc[pair, "unadjusted_rho"], own.loc[pair, "mean_rho"]
        ax.plot([before, after], [height, height], color=rows.colours[pair[0]], lw=0.8, alpha=0.6)
        ax.plot(before, height, "|", color=rows.colours[pair[0]], ms=5, mew=1)
        rows.dot(ax, pair, after, height)
        remark(ax, style.percent(after / before) if before >= MIN_RHO else "–", height)
