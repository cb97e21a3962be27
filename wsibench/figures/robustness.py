"""What a score owes to something else: subtype and purity, the luck of patients and splits, the site."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from wsibench.figures.pairs import short
from wsibench.figures.rows import PAIR, Rows, primary
from wsibench.figures.style import (
    INK,
    MUTED,
    PAGE_MM,
    described,
    headed,
    legend_columns,
    new_figure,
    number,
    per_cent,
    probe_marker,
    probe_name,
    probe_order,
    scheme_name,
    styled,
)

MOST_ROWS = 36
"""Pairs of encoder and probe beyond which only each encoder's best is drawn."""
LEAST = 0.05
"""Mean ρ below which a share of it says nothing."""
ABREAST = 7
"""Most adjustments beside each other."""
PARTS = {"sd_patients": "patients", "sd_splits": "splits", "sd_seeds": "seeds"}


@styled
def adjusted(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """What is left of mean ρ when something else is held fixed: a panel an adjustment, a row an encoder and probe.

    Parameters
    ----------
    table
        As in adjusted.csv: scheme, encoder, probe, adjustment, n_patients, n_genes, mean_rho, and unadjusted_rho of
        the same patients and genes; the adjustment ``none`` is not drawn.
    leaderboard
        Gives the order of the rows, and which are controls.
    """
    scheme, part = primary(table)
    kinds = [kind for kind in dict.fromkeys(part["adjustment"]) if kind != "none"]
    panels = [kinds[i : i + ABREAST] for i in range(0, len(kinds), ABREAST)]
    rows = Rows.of(part, leaderboard, most=MOST_ROWS // len(panels))
    part = rows.among(part)
    by = part.set_index(["adjustment", *PAIR])
    n_patients = part.groupby("adjustment", sort=False)["n_patients"].max()
    fig = new_figure(PAGE_MM, 14 + len(panels) * (14 + rows.pitch_mm * len(rows.pairs)))
    width = max(len(line) for line in panels)
    grid = fig.subplots(len(panels), width, sharex=True, sharey=True, squeeze=False)
    for axes, line in zip(grid, panels, strict=True):
        rows.lay(axes)
        for ax, kind in zip(axes, line, strict=False):
            _left(ax, rows, by.loc[kind])
            ax.set_title(f"{kind}\n(n = {n_patients[kind]:,})")
            ax.set_xlabel("mean ρ (share left)")
            ax.margins(x=0.08)
            ax.axvline(0, color=MUTED, lw=0.5)
        for ax in axes[len(line) :]:
            ax.set_visible(False)
    headed(fig, scheme_name(scheme))
    before = Line2D([], [], color=MUTED, marker="|", ms=5, mew=1, lw=0.9, label="before adjustment")
    handles = [before, *rows.row_legend()]
    fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)), columnspacing=1.4)
    return described(fig, _adjusted_alt(by, kinds, rows, scheme), part)


def _left(ax: Axes, rows: Rows, own: pd.DataFrame) -> None:
    for pair, height in rows.heights.items():
        if pair not in own.index or np.isnan(own.loc[pair, "mean_rho"]):
            continue
        start, end = own.loc[pair, "unadjusted_rho"], own.loc[pair, "mean_rho"]
        ax.plot([start, end], [height, height], color=rows.colours[pair[0]], lw=0.8, alpha=0.6)
        ax.plot(start, height, "|", color=rows.colours[pair[0]], ms=5, mew=1)
        rows.dot(ax, pair, end, height)
        _remark(ax, per_cent(end / start) if start >= LEAST else "–", height)


def _adjusted_alt(by: pd.DataFrame, kinds: list[str], rows: Rows, scheme: str) -> str:
    values = []
    for encoder, probe, _ in rows.pairs[: rows.n_ranked or None]:
        own = by.xs((encoder, probe), level=PAIR)
        left = [
            f"{kind} {number(own.loc[kind, 'mean_rho'])} of {number(own.loc[kind, 'unadjusted_rho'])}"
            for kind in kinds
            if kind in own.index
        ]
        values.append(f"{encoder} with {probe_name(probe)}: {', '.join(left)}")
    return f"Dot plot of mean ρ by {scheme_name(scheme)} after and before adjustment. {'; '.join(values)}."


@styled
def spread(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """How far mean ρ moves with other patients, other splits and other seeds, side by side.

    Parameters
    ----------
    table
        As in spread.csv: scheme, encoder, probe, n_splits, mean_rho, sd_patients, sd_splits, n_seeds, sd_seeds; NaN
        where there was one split or seed.
    leaderboard
        Gives the order of the rows, and which are controls.
    """
    scheme, part = primary(table)
    rows = Rows.of(part, leaderboard, most=MOST_ROWS)
    part = rows.among(part)
    by = part.set_index(PAIR)
    shown = [column for column in PARTS if part[column].notna().any()]
    fig = new_figure(PAGE_MM, 22 + rows.pitch_mm * len(rows.pairs))
    axes = fig.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    rows.lay(axes)
    for ax, column in zip(axes, shown, strict=True):
        for pair, height in rows.heights.items():
            value = by[column].get(pair, np.nan)
            if np.isnan(value):
                _remark(ax, "–", height)
                continue
            ax.plot([0, value], [height, height], color=rows.colours[pair[0]], lw=1.1, solid_capstyle="butt")
            rows.dot(ax, pair, value, height)
            _remark(ax, short(value, 4), height)
        ax.set_title(_counted(column, part))
        ax.set(xlim=(0, None), xlabel="SD of the mean ρ")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    headed(fig, scheme_name(scheme))
    handles = rows.row_legend()
    fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)), columnspacing=1.4)
    return described(fig, _spread_alt(by, shown, rows, scheme), part)


def _remark(ax: Axes, text: str, height: float) -> None:
    ax.annotate(text, (1.02, height), xycoords=("axes fraction", "data"), va="center", fontsize=5, color=INK)


def _counted(column: str, part: pd.DataFrame) -> str:
    """``Splits (5)``; patients are drawn, not counted."""
    if column == "sd_patients":
        return "Other patients (bootstrap)"
    n = part.loc[part[column].notna(), f"n_{PARTS[column]}"]
    counts = " to ".join(str(int(value)) for value in sorted({n.min(), n.max()}))
    return f"Other {PARTS[column]} ({counts})"


def _spread_alt(by: pd.DataFrame, shown: list[str], rows: Rows, scheme: str) -> str:
    values = []
    for encoder, probe, _ in rows.pairs:
        found = by.loc[(encoder, probe)]
        parts = [f"{PARTS[column]} {number(found[column], 4)}" for column in shown if not np.isnan(found[column])]
        values.append(f"{encoder} with {probe_name(probe)}: {', '.join(parts)}")
    return f"Standard deviations of mean ρ by {scheme_name(scheme)}. {'; '.join(values)}."


@styled
def site_meter(sites: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """How well the features give the site away, beside what mean ρ loses when sites are new.

    Parameters
    ----------
    sites
        As in sites.csv: encoder, n_patients, n_sites, balanced_accuracy, ci_low, ci_high, chance, auroc.
    leaderboard
        Gives the loss where the study has both fold schemes, and which are controls.
    """
    rows = Rows.of(sites.assign(probe=""), leaderboard)
    loss = _lost(leaderboard, set(sites["encoder"]))
    pitch_mm = max(4.6, 2.2 * loss["probe"].nunique())
    fig = new_figure(PAGE_MM, 20 + pitch_mm * len(rows.pairs))
    axes = fig.subplots(1, 1 if loss.empty else 2, sharey=True, squeeze=False)[0]
    rows.lay(axes, [encoder for encoder, *_ in rows.pairs])
    for row in sites.itertuples():
        height = rows.heights[row.encoder, ""]
        axes[0].plot([row.chance, row.chance], [height - 0.4, height + 0.4], color=INK, lw=1)
        ends = (row.ci_low, row.ci_high)
        rows.dot(axes[0], (row.encoder, ""), row.balanced_accuracy, height, ends, marker="o")
        text = f"{short(row.balanced_accuracy, 2)} ({short(row.ci_low, 2)}, {short(row.ci_high, 2)})"
        _remark(axes[0], text, height)
    axes[0].set(title=_told(sites), xlabel="balanced accuracy (95 % interval)", xlim=(0, 1.03))
    handles = [Line2D([], [], color=INK, marker="|", ms=5, mew=1, lw=0, label="chance")]
    if not loss.empty:
        probes = sorted(loss["probe"].unique(), key=probe_order)
        _losses(axes[1], rows, loss, probes)
        handles += [Line2D([], [], color=INK, marker=probe_marker(p), lw=0, label=probe_name(p)) for p in probes]
    if rows.n_ranked < len(rows.pairs):
        handles.append(Line2D([], [], color=INK, marker="o", mfc="white", lw=0, label="control"))
    fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)), columnspacing=1.4)
    # A row an encoder and probe, so that the file can be read without the leaderboard.
    data = sites if loss.empty else sites.merge(loss, on="encoder", how="left")
    return described(fig, _meter_alt(sites, loss, rows), data)


def _lost(leaderboard: pd.DataFrame, encoders: set[str]) -> pd.DataFrame:
    """Mean ρ by random-patient folds less that by preserved-site folds: encoder, probe, rho_lost."""
    known = leaderboard[leaderboard["encoder"].isin(encoders)]
    by = known.pivot_table(index=PAIR, columns="scheme", values="mean_rho")
    if not {"random-patient", "preserved-site"} <= set(by.columns):
        return pd.DataFrame(columns=[*PAIR, "rho_lost"])
    return (by["random-patient"] - by["preserved-site"]).dropna().rename("rho_lost").reset_index()


def _told(sites: pd.DataFrame) -> str:
    n = sites["n_sites"].max()
    return f"Telling {n} sites apart from the features"


def _losses(ax: Axes, rows: Rows, loss: pd.DataFrame, probes: list[str]) -> None:
    shifts = dict(zip(probes, np.linspace(-0.3, 0.3, len(probes)) if len(probes) > 1 else [0.0], strict=True))
    for row in loss.itertuples():
        height = rows.heights[row.encoder, ""] + shifts[row.probe]
        rows.dot(ax, (row.encoder, ""), row.rho_lost, height, (0, row.rho_lost), marker=probe_marker(row.probe))
    ax.axvline(0, color=MUTED, lw=0.5)
    ax.set(title="What new sites cost", xlabel="mean ρ, random-patient less preserved-site folds")


def _meter_alt(sites: pd.DataFrame, loss: pd.DataFrame, rows: Rows) -> str:
    by, lost = sites.set_index("encoder"), loss.groupby("encoder")["rho_lost"].mean()
    values = []
    for encoder, *_ in rows.pairs:
        text = f"{encoder} {by['balanced_accuracy'][encoder]:.2f} (chance {by['chance'][encoder]:.2f})"
        values.append(text + (f", losing {number(lost[encoder])} of mean ρ" if encoder in lost else ""))
    return f"How well the features give the site away, as balanced accuracy: {'; '.join(values)}."
