"""What the report says beside the leaderboard: the ranking's other tables, cut to what a page can hold.

Each function takes a table as the ranking leaves it and returns a `Section`; all digits and all rows stay in the CSV.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsibench.figures.rows import PAIR, in_order, primary
from wsibench.figures.style import number, per_cent, probe_name, probe_order, scheme_name

MOST_PAIRS = 15
MOST_SETS, MOST_TARGETS = 20, 20
MEASURES = {"spearman": "Spearman ρ", "r2": "R²", "auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Section:
    """A table of the page."""

    name: str
    """Of the CSV in the study's data folder, and of the place on the page."""
    title: str
    caption: str
    header: list[str]
    text: int
    """How many columns from the left hold text rather than numbers."""
    rows: list[list[str]]
    left_out: int = 0
    """Rows that are in the CSV only."""


def sections(read: Callable[[str], pd.DataFrame], rope: float) -> list[Section]:
    """A section for every table that has rows.

    Parameters
    ----------
    read
        Gives the ranking's table of a name, without rows where there is none.
    rope
        Half the width of the region of practical equivalence, in ρ.
    """
    board = read("leaderboard")
    made: dict[str, Callable[[pd.DataFrame], Section]] = {
        "differences": lambda table: differences(table, rope),
        "spread": lambda table: spread(table, board),
        "adjusted": lambda table: adjusted(table, board),
        "sets": lambda table: sets(table, board),
        "targets": lambda table: targets(table, board),
        "sites": sites,
    }
    found = [make(table) for name, make in made.items() if len(table := read(name))]
    return [section for section in found if section.rows]


def differences(table: pd.DataFrame, rope: float = 0.01) -> Section:
    """The pairs of the primary scheme from the best down."""
    scheme, part = primary(table)
    more = "p_equal" in part
    header = ["the better", "the other", "Δ mean ρ", "95 % interval", "p (Holm)", f"|Δ| < {rope:g}"]
    rows = [
        [
            _pair(row.encoder_a, row.probe_a), _pair(row.encoder_b, row.probe_b), number(row.delta),
            _interval(row.ci_low, row.ci_high), _p(row.p_holm), _share(row.p_rope),
            *([_p(row.p_corrected_t), _share(row.p_equal)] if more else []),
        ]
        for row in part.head(MOST_PAIRS).itertuples()
    ]  # fmt: skip
    caption = (
        f"{_by(scheme)}: every pair of competitors on the same draws of patients; p from the bootstrap, corrected by "
        f"Holm for all {len(part)} pairs; |Δ| < {rope:g}: share of the draws in which the two are equal in practice."
    )
    if more:
        header += ["p (corrected t)", "P(equal)"]
        caption += " Corrected t and P(equal): tests over folds that allow for their common training patients."
    return Section("differences", "Which differences are real", caption, header, 2, rows, len(part) - len(rows))


def sets(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Section:
    """Mean ρ of each gene set by its best competitor, beside random sets."""
    scheme, part = primary(table)
    best = _best(part, "set", "mean_rho", leaderboard)
    rows = [
        [
            row.set, _pair(row.encoder, row.probe), f"{row.n_genes:.0f}", number(row.mean_rho),
            _interval(row.ci_low, row.ci_high), _interval(row.random_low, row.random_high), _p(row.p_random),
        ]
        for row in best.head(MOST_SETS).itertuples()
    ]  # fmt: skip
    caption = (
        f"{_by(scheme)}: each set by the encoder and probe that reads it best, beside the central 95 % of random sets "
        "of as many genes. Being the best of several, these scores are a little too high."
    )
    header = ["set", "best read by", "genes", "mean ρ", "95 % interval", "random sets", "p"]
    return Section("sets", "Gene sets", caption, header, 2, rows, len(best) - len(rows))


def adjusted(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Section:
    """What the adjustments leave of the first competitor of each probe."""
    scheme, part = primary(table)
    first = {}
    for encoder, probe, control in in_order(leaderboard):
        if not control:
            first.setdefault(probe, encoder)
    rows = []
    for probe in sorted(first, key=probe_order):
        own = part[(part["encoder"] == first[probe]) & (part["probe"] == probe) & (part["adjustment"] != "none")]
        rows += [
            [
                _pair(row.encoder, row.probe), row.adjustment, f"{row.n_patients:.0f}", f"{row.n_genes:.0f}",
                number(row.unadjusted_rho), number(row.mean_rho),
            ]
            for row in own.dropna(subset="mean_rho").itertuples()
        ]  # fmt: skip
    caption = f"{_by(scheme)}: mean ρ of the same patients and genes before and after, the first encoder of each probe."
    header = ["encoder", "adjustment", "patients", "genes", "before", "after"]
    return Section("adjusted", "What is left after adjustment", caption, header, 2, rows)


def spread(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Section:
    """SDs of the mean ρ, in the order of the leaderboard."""
    scheme, part = primary(table)
    rows = [
        [
            _pair(row.encoder, row.probe), number(row.mean_rho), number(row.sd_patients, 4),
            _counted(row.sd_splits, row.n_splits), _counted(row.sd_seeds, row.n_seeds),
        ]
        for row in _ordered(part, leaderboard).itertuples()
    ]  # fmt: skip
    caption = f"{_by(scheme)}: SD of the mean ρ over draws of patients, over splits and over seeds (how many)."
    header = ["encoder", "mean ρ", "patients", "splits", "seeds"]
    return Section("spread", "What moves the score", caption, header, 1, rows)


def sites(table: pd.DataFrame) -> Section:
    """How well the features give the site away, the worst offender first."""
    rows = [
        [
            row.encoder, f"{row.n_sites:.0f}", number(row.balanced_accuracy), _interval(row.ci_low, row.ci_high),
            number(row.chance), number(row.auroc),
        ]
        for row in table.sort_values("balanced_accuracy", ascending=False, kind="stable").itertuples()
    ]  # fmt: skip
    caption = "The site told from the features alone: what an encoder knows of stain and scanner it can score with."
    header = ["encoder", "sites", "balanced accuracy", "95 % interval", "chance", "AUROC"]
    return Section("sites", "How well features give the site away", caption, header, 1, rows)


def targets(table: pd.DataFrame, leaderboard: pd.DataFrame) -> Section:
    """Every measure of each target by its best competitor."""
    scheme, part = primary(table)
    best = pd.concat([_best(own, "target", "score", leaderboard) for _, own in part.groupby("measure", sort=False)])
    place = {name: i for i, name in enumerate(dict.fromkeys(part["target"]))}
    best = best.sort_values("target", key=lambda names: names.map(place), kind="stable")
    rows = [
        [
            row.target, MEASURES[row.measure], _pair(row.encoder, row.probe), f"{row.n_patients:.0f}",
            number(row.score), _interval(row.ci_low, row.ci_high), number(row.chance, 2),
        ]
        for row in best.head(MOST_TARGETS).itertuples()
    ]  # fmt: skip
    caption = (
        f"{_by(scheme)}: each target by the encoder and probe that reads it best. Being the best of several, these "
        "scores are a little too high."
    )
    header = ["target", "measure", "best read by", "patients", "score", "95 % interval", "chance"]
    return Section("targets", "Targets other than genes", caption, header, 3, rows, len(best) - len(rows))


def _by(scheme: str) -> str:
    return f"By {scheme_name(scheme)}"


def _pair(encoder: str, probe: str) -> str:
    return f"{encoder} · {probe_name(probe)}"


def _ordered(part: pd.DataFrame, leaderboard: pd.DataFrame) -> pd.DataFrame:
    place = {pair[:2]: i for i, pair in enumerate(in_order(leaderboard))}
    return part.assign(place=[place.get(pair, len(place)) for pair in _pairs(part)]).sort_values("place", kind="stable")


def _pairs(part: pd.DataFrame) -> list[tuple[str, str]]:
    return list(part[PAIR].itertuples(index=False, name=None))


def _best(part: pd.DataFrame, what: str, score: str, leaderboard: pd.DataFrame) -> pd.DataFrame:
    """The best competitor's row of each `what`, the best first; controls only where nothing competes."""
    controls = {encoder for encoder, _, control in in_order(leaderboard) if control}
    competing = part[~part["encoder"].isin(controls)]
    shown = (competing if len(competing) else part).sort_values(score, ascending=False, kind="stable")
    return shown.drop_duplicates(what)


def _interval(low: float, high: float) -> str:
    return "–" if np.isnan(low) else f"{number(low)} to {number(high)}"


def _p(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _share(value: float) -> str:
    return "–" if np.isnan(value) else per_cent(value)


def _counted(sd: float, n: float) -> str:
    return "–" if np.isnan(sd) else f"{number(sd, 4)} ({n:.0f})"
