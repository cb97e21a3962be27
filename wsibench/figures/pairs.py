"""Which differences between encoders are real, and whether the probe decides them: two matrices."""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsibench.figures.rows import PAIR, Rows, primary, schemes_in_order
from wsibench.figures.style import (
    COLUMN_MM,
    PAGE_MM,
    described,
    new_figure,
    number,
    per_cent,
    probe_name,
    scheme_name,
    sentence_case,
    styled,
)

SURE = 0.05
"""Holm-corrected p below which two differ."""
EQUAL = 0.95
"""Share of the draws within the region of practical equivalence from which on two are equal in practice."""
MOST_ANNOTATED = 19
"""Competitors beyond which a number no longer fits its cell."""


def short(value: float, digits: int = 3) -> str:
    """``.021``: a number below 1 without the zero that says nothing."""
    return number(value, digits).replace("0.", ".", 1)


@styled
def differences(table: pd.DataFrame, *, rope: float = 0.01) -> Figure:
    """Δ of mean ρ of every pair of competitors by the primary scheme, and which of them are told apart.

    Parameters
    ----------
    table
        As in differences.csv: scheme, encoder_a, probe_a, encoder_b, probe_b, delta, ci_low, ci_high, p_holm,
        p_rope.
    rope
        Half the width of the region of practical equivalence, in ρ.
    """
    import seaborn as sns

    scheme, part = primary(table)
    order, delta, marks = _matrix(part)
    n, names = len(order) - 1, [f"{encoder} · {probe_name(probe)}" for encoder, probe in order]
    fig = new_figure(COLUMN_MM if n <= 5 else PAGE_MM, 14 + 1.05 * max(map(len, names)) + n * min(7, 120 / n))
    ax = fig.subplots()
    numbered = len(order) <= MOST_ANNOTATED
    labels = delta.map(short) + marks.map(lambda mark: f"\n{mark}" if mark else "")
    sns.heatmap(
        delta, mask=delta.isna(), annot=labels if numbered else marks, fmt="",
        annot_kws={"fontsize": 5.5 if n <= 12 else 5, "linespacing": 0.85}, cmap="Blues", vmin=0,
        vmax=max(delta.max().max(), rope), ax=ax, linewidths=0.5, cbar=False,
    )  # fmt: skip
    if not numbered:
        # Below the diagonal nothing is drawn, and there is room.
        bar = fig.colorbar(ax.collections[0], cax=ax.inset_axes((0.05, 0.2, 0.25, 0.025)), orientation="horizontal")
        bar.set_label("Δ mean ρ")
        bar.outline.set_visible(False)
    ax.set_xticks(np.arange(n) + 0.5, names[1:], rotation=90)
    ax.set_yticks(np.arange(n) + 0.5, names[:-1], rotation=0)
    ax.tick_params(length=0)
    space = "\n" if n <= 5 else " "  # a column is narrower than the sentence
    title = f"{scheme_name(scheme)}:{space}mean ρ of the row less that of the column"
    ax.set(xlabel="", ylabel="", title=sentence_case(title))
    handles = [Line2D([], [], lw=0, label=f"{mark} {text}") for mark, text in _meaning(rope).items()]
    fig.legend(handles=handles, loc="outside lower left", handlelength=0, handletextpad=0, ncols=1 if n <= 5 else 2)
    return described(fig, _differences_alt(part, scheme, rope), part)


def _meaning(rope: float) -> dict[str, str]:
    return {
        "*": f"told apart: Holm-corrected p < {short(SURE, 2)}",
        "≈": f"equal in practice: |Δ| < {short(rope, 2)} in {per_cent(EQUAL)} of the draws",
    }


def _mark(row: pd.Series) -> str:
    return ("*" if row["p_holm"] < SURE else "") + ("≈" if row["p_rope"] >= EQUAL else "")


def _matrix(part: pd.DataFrame) -> tuple[list[tuple[str, str]], pd.DataFrame, pd.DataFrame]:
    """Competitors from the best down; Δ and marks, all but the last of them × all but the first."""
    a = pd.MultiIndex.from_frame(part[["encoder_a", "probe_a"]], names=PAIR)
    b = pd.MultiIndex.from_frame(part[["encoder_b", "probe_b"]], names=PAIR)
    lead = pd.concat([pd.Series(part["delta"].to_numpy(), a), pd.Series(-part["delta"].to_numpy(), b)])
    order = list(lead.groupby(level=PAIR).sum().sort_values(ascending=False, kind="stable").index)
    place = {pair: i for i, pair in enumerate(order)}
    delta = np.full((len(order), len(order)), np.nan)
    marks = np.full(delta.shape, "", object)
    for one, other, (_, row) in zip(a, b, part.iterrows(), strict=True):
        i, j, value = place[one], place[other], row["delta"]
        i, j, value = (i, j, value) if i < j else (j, i, -value)
        delta[i, j], marks[i, j] = value, _mark(row)
    return order, pd.DataFrame(delta[:-1, 1:]), pd.DataFrame(marks[:-1, 1:])


def _differences_alt(part: pd.DataFrame, scheme: str, rope: float) -> str:
    apart, equal = part[part["p_holm"] < SURE], part[part["p_rope"] >= EQUAL]
    closest = part.loc[part["delta"].abs().idxmin()]
    a, b = (f"{closest[f'encoder_{x}']} with {probe_name(closest[f'probe_{x}'])}" for x in "ab")
    return (
        f"Matrix of the differences in mean ρ by {scheme_name(scheme)}: of {len(part)} pairs {len(apart)} are told "
        f"apart (Holm-corrected p < {SURE}) and {len(equal)} are equal in practice (within ±{rope:g}). "
        f"The closest are {a} and {b}, {number(closest['delta'])} apart."
    )


@styled
def encoder_by_probe(leaderboard: pd.DataFrame) -> Figure:
    """Mean ρ and rank of every encoder under every probe: does the probe decide the rank?  A panel a scheme.

    Parameters
    ----------
    leaderboard
        As in leaderboard.csv, with two probes or more.
    """
    import seaborn as sns

    rows, schemes = Rows.of(leaderboard, leaderboard), schemes_in_order(leaderboard["scheme"])
    order, controls = _by_mean(primary(leaderboard)[1])
    fig = new_figure(PAGE_MM if len(schemes) * len(rows.probes) > 2 else COLUMN_MM, 22 + 5 * len(order))
    axes = fig.subplots(1, len(schemes), sharey=True, squeeze=False)[0]
    low, high = min(leaderboard["mean_rho"].min(), 0), leaderboard["mean_rho"].max()
    agreements = []
    for ax, scheme in zip(axes, schemes, strict=True):
        rho, ranks = _by_encoder(leaderboard[leaderboard["scheme"] == scheme], order, rows.probes)
        labels = rho.map(short) + ranks.map(lambda rank: "" if pd.isna(rank) else f" ({rank:.0f})")
        sns.heatmap(
            rho, annot=labels, fmt="", annot_kws={"fontsize": 5.5}, cmap="Blues", vmin=low, vmax=high, ax=ax,
            cbar=False, linewidths=0.5,
        )  # fmt: skip
        _frame_probes(
            ax, rho, sentence_case(f"{scheme_name(scheme)}: mean ρ (rank)"), n_ranked=len(order) - len(controls)
        )
        agreements.append(_agreement(ranks))
        ax.set_xlabel(agreements[-1], labelpad=4)
    axes[0].set_yticks(
        np.arange(len(order)) + 0.5, [f"{name} (control)" if name in controls else name for name in order], rotation=0
    )
    data = leaderboard[["scheme", *PAIR, "mean_rho", "ci_low", "ci_high", "rank"]]
    return described(fig, _probes_alt(leaderboard, schemes, rows.probes, agreements), data)


def _by_mean(board: pd.DataFrame) -> tuple[list[str], set[str]]:
    """Encoders by their mean over probes, controls last, and which are controls."""
    by = board.assign(control=board["rank"].isna()).groupby("encoder").agg(
        control=("control", "first"), rho=("mean_rho", "mean")
    )  # fmt: skip
    by = by.sort_values(["control", "rho"], ascending=[True, False], kind="stable")
    return list(by.index), set(by.index[by["control"]])


def _by_encoder(board: pd.DataFrame, order: list[str], probes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean ρ and the rank among the competitors of the same probe, encoders × probes."""
    rho = board.pivot_table(index="encoder", columns="probe", values="mean_rho")
    competing = board[board["rank"].notna()].pivot_table(index="encoder", columns="probe", values="mean_rho")
    ranks = competing.rank(ascending=False, method="min")
    return rho.reindex(index=order, columns=probes), ranks.reindex(index=order, columns=probes)


def _frame_probes(ax: Axes, rho: pd.DataFrame, title: str, *, n_ranked: int) -> None:
    ax.set_title(title)
    ax.set_xticks(np.arange(rho.shape[1]) + 0.5, [probe_name(probe) for probe in rho.columns], rotation=0)
    ax.set_ylabel("")
    ax.tick_params(length=0)
    ax.set_facecolor("white")
    if 0 < n_ranked < len(rho):
        ax.axhline(n_ranked, color="white", lw=4)


def _agreement(ranks: pd.DataFrame) -> str:
    """Kendall's τ between probes, over the encoders that all of them rank; empty with fewer than three."""
    from scipy.stats import kendalltau

    complete = ranks.dropna()
    if len(complete) < 3:
        return ""
    tau = [kendalltau(complete[a], complete[b]).statistic for a, b in combinations(complete.columns, 2)]
    found = sorted({number(min(tau), 2), number(max(tau), 2)})
    return "Kendall's τ between probes: " + " to ".join(found)


def _probes_alt(leaderboard: pd.DataFrame, schemes: list[str], probes: list[str], agreements: list[str]) -> str:
    parts = []
    for scheme, agreement in zip(schemes, agreements, strict=True):
        board = leaderboard[(leaderboard["scheme"] == scheme) & leaderboard["rank"].notna()]
        first = board.sort_values("mean_rho", ascending=False).drop_duplicates("probe").set_index("probe")
        leads = [
            f"{first['encoder'][probe]} with {probe_name(probe)} ({number(first['mean_rho'][probe])})"
            for probe in probes
            if probe in first.index
        ]
        tail = f"; {agreement}" if agreement else ""
        parts.append(f"By {scheme_name(scheme)} these stand first: {', '.join(leads)}{tail}.")
    return "Heat map of mean ρ, encoder by probe, with ranks. " + " ".join(parts)
