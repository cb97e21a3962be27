"""The leaderboard: which encoder reads expression best, and how sure that is."""

from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wsibench import bootstrap, null, scores
from wsibench.arms import Arm, load_arm
from wsibench.artefacts import Artefact, key_at, make_key, writing
from wsibench.assembly import not_applicable
from wsibench.encoders import tcga
from wsibench.errors import CohortError, NotReady
from wsibench.regression import expected as predictions_expected
from wsibench.regression import jobs
from wsibench.study import Scheme, Study

__all__ = ["expected", "not_applicable", "rank", "read"]

FORMAT = 1
STAGE = "ranking"

TABLES = {
    "leaderboard": [
        "rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best", "n_patients",
        "n_genes", "n_undefined", "tcga", "study_key",
    ],
    "differences": [
        "scheme", "encoder_a", "probe_a", "encoder_b", "probe_b", "delta", "ci_low", "ci_high", "p", "p_holm", "p_rope",
    ],
    "rank_frequencies": ["scheme", "encoder", "probe", "rank", "frequency"],
    "null": ["scheme", "encoder", "probe", "group", "mean", "q025", "q975", "permutations"],
    "groups": ["scheme", "encoder", "probe", "group", "n_genes", "mean_rho", "ci_low", "ci_high", "ceiling"],
    "excluded_genes": ["scheme", "gene", "reason"],
}  # fmt: skip
"""The tables beside scores.parquet, with their columns; ``group`` is empty for all genes together."""
TEXT = ("encoder", "probe", "scheme", "tcga", "study_key", "encoder_a", "probe_a", "encoder_b", "probe_b", "group",
        "gene", "reason")  # fmt: skip


def expected(study: Study) -> list[Artefact]:
    """The null's tables, scores.parquet, and the tables of `TABLES`.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    predictions = [artefact.key for artefact in predictions_expected(study)]
    nulls = null.expected(study)
    section = {"ranking": study.ranking.model_dump(mode="json"), "study": study.key}
    key = make_key(STAGE, FORMAT, section, [*predictions, *(artefact.key for artefact in nulls)])
    paths = [study.scores_parquet, *(_path(study, table) for table in TABLES)]
    return [*nulls, *(Artefact(path, make_key(STAGE, FORMAT, path.name, [key])) for path in paths)]


def _path(study: Study, table: str) -> Path:
    return study.leaderboard_csv.with_name(f"{table}.csv")


Table = Literal["leaderboard", "differences", "rank_frequencies", "null", "groups", "excluded_genes"]


def read(study: Study, table: Table) -> pd.DataFrame:
    """One of the ranking's tables; without rows where the study has nothing to put there.

    Returns
    -------
    DataFrame
        With the columns of `TABLES`; text columns hold "" and never NaN.

    Raises
    ------
    NotReady
        When the ranking has not been made.
    """
    key_at(_path(study, table))
    kinds = {column: str for column in TABLES[table] if column in TEXT}
    frame = pd.read_csv(_path(study, table), converters=kinds)
    return frame.astype({"rank": "Int64"}) if table == "leaderboard" else frame


def rank(study: Study) -> pd.DataFrame:
    """Score, bootstrap and rank what is due.

    Returns
    -------
    DataFrame
        The leaderboard: preserved-site folds first, controls without a rank after the encoders.

    Raises
    ------
    NotReady
        When predictions have not been made.
    CohortError
        When no gene varies in every fold, or no fold has more than three patients.
    """
    late = [job.artefact for job in jobs(study) if job.artefact.due()]
    if late:
        raise NotReady(f"{len(late)} predictions are due, {late[0].path} first.", "Run the stage 05_regression.")
    null.permute(study)
    artefacts = expected(study)
    made = [
        artefact for artefact in artefacts if artefact.path == study.scores_parquet or artefact.path.suffix == ".csv"
    ]
    if any(artefact.due() for artefact in made):
        arms = [_rank_arm(study, scheme) for scheme in study.folds.schemes]
        for artefact in made:
            name = artefact.path.stem
            parts = [part for arm in arms if len(part := arm[name])]
            columns = None if name == "scores" else TABLES[name]
            frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
            with writing(artefact) as path:
                frame.to_parquet(path, index=False) if name == "scores" else frame.to_csv(path, index=False)
    return read(study, "leaderboard")


def _rank_arm(study: Study, scheme: Scheme) -> dict[str, pd.DataFrame]:
    """The rows of one scheme in every table."""
    arm = load_arm(study, scheme)
    found = [scores.fold_spearman(arm.measured, predicted, arm.fold) for predicted in arm.predicted]
    rho = np.stack([each.mean() for each in found])
    undefined = np.stack([each.undefined() for each in found])
    sites = arm.sites if scheme == "preserved-site" else None
    weights = bootstrap.sample_weights(arm.fold, draws=study.ranking.bootstrap, seed=study.ranking.seed, sites=sites)
    sets = arm.sets
    draws = bootstrap.sampled_means(arm.measured, arm.predicted, arm.fold, weights, np.stack(list(sets.values())))
    if not np.isfinite(draws).any(axis=2).all():
        raise CohortError(f"{scheme}: too few patients ({len(arm.fold)}) for an interval.", "Bring more patients.")
    return {
        "scores": _scores(arm, rho, undefined),
        "leaderboard": _leaderboard(arm, rho, undefined, draws[:, 0]),
        "differences": _differences(arm, rho, draws[:, 0]),
        "rank_frequencies": _frequencies(arm, draws[:, 0]),
        "null": _null(arm, sets),
        "groups": _groups(arm, rho, draws, sets),
        "excluded_genes": pd.DataFrame({"gene": arm.excluded}).assign(scheme=scheme, reason="constant in a fold")[
            TABLES["excluded_genes"]
        ],
    }


def _scores(arm: Arm, rho: np.ndarray, undefined: np.ndarray) -> pd.DataFrame:
    """A row an encoder, probe and gene."""
    n_folds = len(np.unique(arm.fold))
    parts = []
    for row in range(len(arm.jobs)):
        part = pd.DataFrame({"gene": arm.genes.index.to_numpy(str), "rho": rho[row], "n_folds": n_folds})
        part = part.assign(**arm.named(row), undefined=undefined[row])
        for column in arm.genes.columns.intersection(["group", "ceiling"]):
            part[column] = arm.genes[column].to_numpy()
        parts.append(part)
    columns = ["scheme", "encoder", "probe", "gene", "rho", "n_folds", "undefined"]
    frame = pd.concat(parts, ignore_index=True)
    return frame[columns + [column for column in frame if column not in columns]]


def _leaderboard(arm: Arm, rho: np.ndarray, undefined: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    first = np.full(len(arm.jobs), np.nan)
    if arm.ranked.any():
        first[arm.ranked] = bootstrap.rank_frequencies(draws[arm.ranked])[:, 0]
    rows = []
    for row, job in enumerate(arm.jobs):
        low, high = bootstrap.percentile_interval(draws[row])
        rows.append({
            **arm.named(row), "mean_rho": rho[row].mean(), "ci_low": low, "ci_high": high,
            "median_rho": np.median(rho[row]), "p_best": first[row], "n_patients": len(arm.fold),
            "n_genes": rho.shape[1], "n_undefined": int(undefined[row].sum()), "tcga": tcga(arm.study, job.encoder),
            "study_key": arm.study.key, "ranked": arm.ranked[row],
        })  # fmt: skip
    board = pd.DataFrame(rows).sort_values(["ranked", "mean_rho"], ascending=False, kind="stable", ignore_index=True)
    place = board["mean_rho"].where(board["ranked"]).rank(ascending=False, method="min")
    board["rank"] = place.astype("Int64")
    return board[TABLES["leaderboard"]]


def _differences(arm: Arm, rho: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """Every pair of competitors, on the same patients in every draw."""
    order = [row for row in np.argsort(-rho.mean(axis=1), kind="stable") if arm.ranked[row]]
    rows = []
    for a, b in combinations(order, 2):
        delta = draws[a] - draws[b]
        low, high = bootstrap.percentile_interval(delta)
        rows.append({
            "scheme": arm.scheme, "encoder_a": arm.jobs[a].encoder, "probe_a": arm.jobs[a].probe,
            "encoder_b": arm.jobs[b].encoder, "probe_b": arm.jobs[b].probe,
            "delta": rho[a].mean() - rho[b].mean(), "ci_low": low, "ci_high": high, "p": bootstrap.two_sided_p(delta),
            "p_rope": float((np.abs(delta[np.isfinite(delta)]) < arm.study.ranking.rope).mean()),
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=[column for column in TABLES["differences"] if column != "p_holm"])
    return frame.assign(p_holm=bootstrap.holm(frame["p"].to_numpy(float)))[TABLES["differences"]]


def _frequencies(arm: Arm, draws: np.ndarray) -> pd.DataFrame:
    competing = np.flatnonzero(arm.ranked)
    if not len(competing):
        return pd.DataFrame(columns=TABLES["rank_frequencies"])
    share = bootstrap.rank_frequencies(draws[competing])
    rows = [
        {**arm.named(row), "rank": place + 1, "frequency": share[position, place]}
        for position, row in enumerate(competing)
        for place in range(len(competing))
    ]
    return pd.DataFrame(rows)


def _null(arm: Arm, sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """Where the mean ρ lies under permuted pairing, over all genes and by group."""
    rows = []
    for row, job in enumerate(arm.jobs):
        if not null.permutations(job):
            continue
        permuted = null.read_null(job)[arm.genes.index.to_numpy(str)].to_numpy()
        for group, members in sets.items():
            means = np.nanmean(permuted[:, members], axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            rows.append({
                **arm.named(row), "group": group, "mean": means.mean(), "q025": low, "q975": high,
                "permutations": len(means),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=TABLES["null"])


def _groups(arm: Arm, rho: np.ndarray, draws: np.ndarray, sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """Mean ρ by group of genes, beside what could be reached."""
    rows = []
    for row in range(len(arm.jobs)):
        for position, (group, members) in enumerate(sets.items()):
            if not group:
                continue
            low, high = bootstrap.percentile_interval(draws[row, position])
            ceiling = arm.genes["ceiling"].to_numpy(float)[members].mean() if "ceiling" in arm.genes else np.nan
            rows.append({
                **arm.named(row), "group": group, "n_genes": int(members.sum()), "mean_rho": rho[row, members].mean(),
                "ci_low": low, "ci_high": high, "ceiling": ceiling,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=TABLES["groups"])
