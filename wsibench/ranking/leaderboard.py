"""The leaderboard: which encoder reads expression best, and how sure that is."""

from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wsibench.assembly import not_applicable
from wsibench.core import Artefact, CohortError, NotReady, Scheme, Study, key_at, make_key, parallel_map, writing
from wsibench.embedding import tcga
from wsibench.ranking import (
    adjusted,
    association as measures,
    bootstrap,
    correlated,
    fusion,
    gene_sets as genesets,
    permutation as null,
    spread,
    targetscores,
    training_variance,
)
from wsibench.ranking.caveats import expected as caveats_expected, warn
from wsibench.ranking.predictions import Arm, load_arm
from wsibench.ranking.site_predictability import expected as sites_expected, measure as measure_sites
from wsibench.regression import Fit, expected as predictions_expected, fits, metrics as scores

__all__ = ["expected", "not_applicable", "rank", "read"]

FORMAT = 6
STAGE = "ranking"
FEWEST_PERMUTATIONS = 4
"""A gene's own null needs as many to have a spread."""

TABLES = {
    "leaderboard": [
        "rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best", "n_patients",
        "n_genes", "n_undefined", "tcga", "study_key",
    ],
    "differences": [
        "scheme", "encoder_a", "probe_a", "encoder_b", "probe_b", "delta", "ci_low", "ci_high", "p", "p_holm", "p_rope",
        "p_corrected_t", "p_a_better", "p_equal", "p_b_better",
    ],
    "rank_frequencies": ["scheme", "encoder", "probe", "rank", "frequency"],
    "null": ["scheme", "encoder", "probe", "kind", "group", "mean", "q025", "q975", "permutations"],
    "groups": ["scheme", "encoder", "probe", "group", "n_genes", "mean_rho", "ci_low", "ci_high", "ceiling"],
    "measures": [
        "scheme", "encoder", "probe", "mean_rho", "pooled_rho", "pearson", "r2", "rmse", "significant", "permutations",
        "resolution",
    ],
    "exposure": ["scheme", "encoder", "probe", "tcga", "rank", "rank_unexposed", "p_best_unexposed"],
    "spread": spread.COLUMNS,
    "excluded_genes": ["scheme", "gene", "reason"],
    "sets": genesets.COLUMNS,
    "adjusted": adjusted.COLUMNS,
    "targets": targetscores.COLUMNS,
}  # fmt: skip
"""The tables beside scores.parquet, with their columns; ``group`` is empty for all genes together."""
TEXT = ("encoder", "probe", "scheme", "tcga", "study_key", "encoder_a", "probe_a", "encoder_b", "probe_b", "group",
        "gene", "reason", "kind", "set", "adjustment", "target", "measure")  # fmt: skip


def expected(study: Study) -> list[Artefact]:
    """Fused predictions, the null's, targets, how well sites are told, warnings, and the tables of `TABLES`.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    fused = fusion.expected(study)
    predictions = [artefact.key for artefact in [*predictions_expected(study), *fused]]
    made = [*fused, *null.expected(study)]
    section = {"ranking": study.ranking.model_dump(mode="json"), "study": study.key}
    read_from = [*genesets.identities(study), *adjusted.identities(study)]
    key = make_key(STAGE, FORMAT, section, [*predictions, *(artefact.key for artefact in made), *read_from])
    paths = [study.scores_parquet, *(_path(study, table) for table in TABLES)]
    tables = [Artefact(path, make_key(STAGE, FORMAT, path.name, [key])) for path in paths]
    return [*made, *sites_expected(study), *caveats_expected(study), *tables]


def _path(study: Study, table: str) -> Path:
    return study.leaderboard_csv.with_name(f"{table}.csv")


Table = Literal[
    "leaderboard", "differences", "rank_frequencies", "null", "groups", "measures", "exposure", "spread",
    "excluded_genes", "sets", "adjusted", "targets",
]  # fmt: skip


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
    late = [fit.predictions for fit in fits(study) if fit.predictions.due()]
    if late:
        raise NotReady(f"{len(late)} predictions are due, {late[0].path} first.", "Run the stage 05_regression.")
    fusion.fuse(study)
    null.permute(study)
    measure_sites(study)
    warn(study)
    made = [artefact for artefact in expected(study) if artefact.path.stem in ("scores", *TABLES)]
    if any(artefact.due() for artefact in made):
        arms = _rank_arms(study)
        for artefact in made:
            name = artefact.path.stem
            parts = [part for arm in arms if len(part := arm[name])]
            columns = None if name == "scores" else TABLES[name]
            frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
            with writing(artefact) as path:
                frame.to_parquet(path, index=False) if name == "scores" else frame.to_csv(path, index=False)
    return read(study, "leaderboard")


def _rank_arms(study: Study) -> list[dict[str, pd.DataFrame]]:
    """The rows of every scheme, each ranked by a process of its own."""
    return parallel_map(partial(_rank_arm, study), study.folds.schemes, label="06 schemes")


def _rank_arm(study: Study, scheme: Scheme) -> dict[str, pd.DataFrame]:
    """The rows of one scheme in every table."""
    arm = load_arm(study, scheme)
    found = [scores.fold_spearman(arm.measured, predicted, arm.fold) for predicted in arm.predicted]
    rho = np.stack([each.mean() for each in found])
    undefined = np.stack([each.undefined() for each in found])
    sets, declared = arm.sets, genesets.scored(study, arm.genes.index)
    members = np.stack([*sets.values(), *genesets.filled(declared)])
    estimate = np.stack([rho[:, genes].mean(axis=1) for genes in members], axis=1)
    draws = _draws(arm, estimate, members)
    permuted, free = ([_permuted(arm, job, kind) for job in arm.jobs] for kind in null.KINDS)
    p_q = [_significance(each, null_of) for each, null_of in zip(rho, permuted, strict=True)]
    return {
        "scores": _scores(arm, rho, undefined, p_q),
        "leaderboard": _leaderboard(arm, rho, undefined, draws[:, 0]),
        "differences": _differences(arm, rho, draws[:, 0], found),
        "rank_frequencies": _frequencies(arm, draws[:, 0]),
        "null": _null(arm, {"within-site": permuted, "free": free}, sets),
        "groups": _groups(arm, rho, draws, sets),
        "measures": _measures(arm, rho, permuted, p_q),
        "exposure": _exposure(arm, rho, draws[:, 0]),
        "spread": spread.spread(arm, draws[:, 0]),
        "excluded_genes": pd.DataFrame({"scheme": scheme, "gene": arm.excluded.index, "reason": arm.excluded.array}),
        "sets": genesets.table(arm, rho, draws[:, len(sets) :], declared),
        "adjusted": adjusted.table(arm, rho, declared),
        "targets": targetscores.table(study, scheme),
    }


def _draws(arm: Arm, estimate: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Draws of where the truth of `estimate` lies, (predictions, sets, draws), the same patients in each for all."""
    ranking, sites = arm.study.ranking, arm.drawn_sites
    data = (arm.measured, arm.predicted)
    weights = bootstrap.sample_weights(arm.fold, draws=ranking.bootstrap, seed=ranking.seed, sites=sites)
    sampled = bootstrap.sampled_means(*data, arm.fold, weights, members, method="reranked")
    if not np.isfinite(sampled).any(axis=2).all():
        raise CohortError(f"{arm.scheme}: too few patients ({len(arm.fold)}) for an interval.", "Bring more patients.")
    clusters = np.arange(len(arm.fold)) if sites is None else sites
    sampled += training_variance.training_draws(
        *data, arm.noise, arm.fold, clusters, members, draws=ranking.bootstrap, seed=ranking.seed
    )
    widening = 1.0 if sites is None else bootstrap.widening_for_sites(arm.fold, sites)
    return bootstrap.confidence_draws(estimate, sampled, widening=widening)


def _permuted(arm: Arm, job: Fit | fusion.Fusion, kind: null.Kind) -> np.ndarray | None:
    """ρ under permuted pairing of the genes that are scored, (permutations, genes)."""
    if not null.permutations(arm.study, job, kind):
        return None
    return null.read_null(arm.study, job, kind)[arm.genes.index.to_numpy(str)].to_numpy()


def _significance(rho: np.ndarray, permuted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """p and q of every gene; NaN without enough permutations to tell their spread."""
    if permuted is None or len(permuted) < FEWEST_PERMUTATIONS:
        return np.full(len(rho), np.nan), np.full(len(rho), np.nan)
    return measures.significance(rho, permuted)


def _scores(arm: Arm, rho: np.ndarray, undefined: np.ndarray, p_q: list) -> pd.DataFrame:
    """A row an encoder, probe and gene."""
    n_folds = len(np.unique(arm.fold))
    parts = []
    for row in range(len(arm.jobs)):
        part = pd.DataFrame({"gene": arm.genes.index.to_numpy(str), "rho": rho[row], "n_folds": n_folds})
        part = part.assign(**arm.named(row), undefined=undefined[row], p=p_q[row][0], q=p_q[row][1])
        for column in arm.genes.columns.intersection(["group", "ceiling"]):
            part[column] = arm.genes[column].to_numpy()
        parts.append(part)
    columns = ["scheme", "encoder", "probe", "gene", "rho", "n_folds", "undefined", "p", "q"]
    frame = pd.concat(parts, ignore_index=True)
    return frame[columns + [column for column in frame if column not in columns]]


def _of_correlations(draws: np.ndarray) -> tuple[float, float]:
    """The central interval; reflected and widened draws leave ±1 where few patients tell a strong signal."""
    low, high = np.clip(bootstrap.central_interval(draws), -1, 1)
    return float(low), float(high)


def _leaderboard(arm: Arm, rho: np.ndarray, undefined: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    first = np.full(len(arm.jobs), np.nan)
    if arm.ranked.any():
        first[arm.ranked] = bootstrap.rank_frequencies(draws[arm.ranked])[:, 0]
    rows = []
    for row, job in enumerate(arm.jobs):
        low, high = _of_correlations(draws[row])
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


def _differences(arm: Arm, rho: np.ndarray, draws: np.ndarray, found: list[scores.FoldScores]) -> pd.DataFrame:
    """Every pair of competitors, on the same patients in every draw, and from fold to fold."""
    order = [row for row in np.argsort(-rho.mean(axis=1), kind="stable") if arm.ranked[row]]
    sites = arm.drawn_sites
    freedom = np.inf if sites is None else bootstrap.freedom_of_sites(arm.fold, sites)
    rows = []
    for a, b in combinations(order, 2):
        delta = draws[a] - draws[b]
        low, high = bootstrap.central_interval(delta)
        folds = correlated.fold_differences(found[a].rho, found[b].rho, found[a].n, len(arm.fold))
        a_better, equal, b_better = correlated.posterior(folds, arm.study.ranking.rope)
        rows.append({
            "scheme": arm.scheme, "encoder_a": arm.jobs[a].encoder, "probe_a": arm.jobs[a].probe,
            "encoder_b": arm.jobs[b].encoder, "probe_b": arm.jobs[b].probe,
            "delta": rho[a].mean() - rho[b].mean(), "ci_low": low, "ci_high": high,
            "p": bootstrap.two_sided_p(delta, freedom),
            "p_rope": float((np.abs(delta[np.isfinite(delta)]) < arm.study.ranking.rope).mean()),
            "p_corrected_t": correlated.corrected_t(folds), "p_a_better": a_better, "p_equal": equal,
            "p_b_better": b_better,
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


def _null(arm: Arm, permuted: dict[null.Kind, list], sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """Where the mean ρ lies under permuted pairing, over all genes and by group."""
    rows = []
    for kind, row in product(permuted, range(len(arm.jobs))):
        rho = permuted[kind][row]
        if rho is None:
            continue
        for group, members in sets.items():
            means = np.nanmean(rho[:, members], axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            rows.append({
                **arm.named(row), "kind": kind, "group": group, "mean": means.mean(), "q025": low, "q975": high,
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
            low, high = _of_correlations(draws[row, position])
            ceiling = arm.genes["ceiling"].to_numpy(float)[members].mean() if "ceiling" in arm.genes else np.nan
            rows.append({
                **arm.named(row), "group": group, "n_genes": int(members.sum()), "mean_rho": rho[row, members].mean(),
                "ci_low": low, "ci_high": high, "ceiling": ceiling,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=TABLES["groups"])


def _measures(arm: Arm, rho: np.ndarray, permuted: list, p_q: list) -> pd.DataFrame:
    """Other measures: means over genes, medians of R² and RMSE, and the share of genes with q < .05."""
    rows = []
    for row, predicted in enumerate(arm.predicted):
        q = p_q[row][1]
        rows.append({
            **arm.named(row), "mean_rho": rho[row].mean(),
            "pooled_rho": measures.pooled_spearman(arm.measured, predicted).mean(),
            "pearson": measures.fold_pearson(arm.measured, predicted, arm.fold).mean(),
            "r2": np.median(measures.r2(arm.measured, predicted, arm.fold)) if arm.one_unit else np.nan,
            "rmse": np.median(measures.rmse(arm.measured, predicted)) if arm.one_unit else np.nan,
            "significant": (q < 0.05).mean() if np.isfinite(q).any() else np.nan,
            "permutations": 0 if permuted[row] is None else len(permuted[row]),
            "resolution": measures.smallest_p(permuted[row].size) if np.isfinite(q).any() else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=TABLES["measures"])


def _exposure(arm: Arm, rho: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """Ranks among all competitors, and among those that did not have TCGA in their training data."""
    competing = [row for row in np.argsort(-rho.mean(axis=1), kind="stable") if arm.ranked[row]]
    frame = pd.DataFrame([arm.named(row) for row in competing], columns=["scheme", "encoder", "probe"])
    frame["tcga"] = [tcga(arm.study, arm.jobs[row].encoder) for row in competing]
    means = pd.Series([rho[row].mean() for row in competing], dtype=float)
    unexposed = (frame["tcga"] != "yes").to_numpy()
    frame["rank"] = means.rank(ascending=False, method="min").astype("Int64")
    frame["rank_unexposed"] = means.where(unexposed).rank(ascending=False, method="min").astype("Int64")
    frame["p_best_unexposed"] = np.nan
    if unexposed.any():
        rows = np.array(competing)[unexposed]
        frame.loc[unexposed, "p_best_unexposed"] = bootstrap.rank_frequencies(draws[rows])[:, 0]
    return frame
