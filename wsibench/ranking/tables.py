"""Tables of the ranking, computed from the predictions of one fold scheme."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pandas as pd

from wsibench.core import CohortError
from wsibench.ranking import bootstrap
from wsibench.ranking.association import (
    adjusted_rows,
    fold_pearson,
    pooled_spearman,
    r2,
    rmse,
    significance,
    smallest_p,
)
from wsibench.ranking.gene_sets import GeneSet, expression_levels, on_genes, random_means
from wsibench.ranking.predictions import Kind, Predictions, read_permuted
from wsibench.ranking.targets import target_rows
from wsibench.regression import fold_spearman

MIN_PERMUTATIONS = 4
"""Fewest permutations that give the null of a gene a spread."""

RANKS = ["rank", "rank_unexposed"]
"""Columns of whole numbers that may be missing."""

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """Settings of the scoring, and what is known besides the predictions."""

    draws: int = 2000
    seed: int = 0
    rope: float = 0.01
    """Half the width of the region of practical equivalence, in mean ρ."""
    gene_sets: dict[str, list[str]] | None = None
    covariates: pd.DataFrame | None = None
    match_levels: bool = True
    """Match random gene sets by mean expression, which z-scores do not have."""
    one_unit: bool = True
    """Predictions and measurements are in one unit, so that errors have a meaning."""
    study_key: str = ""


@dataclass(frozen=True)
class Scores:
    """Scores of all entries of one fold scheme, from which the tables are made."""

    predictions: Predictions
    options: Options
    rho: np.ndarray
    """Within-fold ρ, (entries, genes)."""
    undefined: np.ndarray
    """Genes with a constant prediction in a fold, boolean (entries, genes)."""
    sets: list[GeneSet]
    draws: np.ndarray
    """Confidence draws of the mean ρ of all genes, of each group, and of each gene set that has scored genes;
    (entries, means, draws)."""
    permuted: dict[Kind, list[np.ndarray | None]]
    """ρ of each entry under permuted expression, (permutations, genes)."""
    p: np.ndarray
    q: np.ndarray
    """p- and q-values against the within-site null, (entries, genes); NaN without enough permutations."""

    @property
    def mean_rho(self) -> np.ndarray:
        """Mean ρ of each entry over genes, (entries,)."""
        return self.rho.mean(axis=1)

    @property
    def ranking(self) -> np.ndarray:
        """Competing entries, best first."""
        order = np.argsort(-self.mean_rho, kind="stable")
        return order[self.predictions.competing[order]]

    def first(self, entries: np.ndarray) -> np.ndarray:
        """Share of the draws in which each of `entries` is best of them; NaN if sites do not support a ranking."""
        if not (len(entries) and self.predictions.rankable):
            return np.full(len(entries), np.nan)
        return bootstrap.rank_frequencies(self.draws[entries, 0])[:, 0]


def compute_scores(predictions: Predictions, options: Options) -> Scores:
    """Score every gene of every entry, draw from the uncertainty of the means, and read the permutation nulls.

    Parameters
    ----------
    predictions
        Measured and predicted values of one fold scheme.
    options
        Settings of the scoring.

    Raises
    ------
    CohortError
        When there are too few patients for an interval.
    """
    folds = [fold_spearman(predictions.measured, each, predictions.fold) for each in predictions.predicted]
    rho = np.stack([each.mean() for each in folds])
    sets = on_genes(options.gene_sets or {}, predictions.genes.index)
    members = np.stack([*predictions.groups.values(), *(each.members for each in sets if each.size)])
    estimate = np.stack([rho[:, each].mean(axis=1) for each in members], axis=1)
    data = (predictions.measured, predictions.predicted, predictions.noise, predictions.fold)
    sites, n, seed = predictions.sampled_sites, options.draws, options.seed
    draws = bootstrap.mean_draws(*data, estimate, members, sites=sites, draws=n, seed=seed)
    if not np.isfinite(draws).any(axis=2).all():
        n = len(predictions.obs)
        raise CohortError(f"{predictions.scheme}: too few patients ({n}) for an interval.", "Add patients.")
    permuted: dict[Kind, list[np.ndarray | None]] = {kind: _permuted(predictions, kind) for kind in get_args(Kind)}
    p, q = np.full((2, *rho.shape), np.nan)
    for row, null in enumerate(permuted["within-site"]):
        if null is not None and len(null) >= MIN_PERMUTATIONS:
            p[row], q[row] = significance(rho[row], null)
    return Scores(
        predictions, options, rho, np.stack([each.undefined() for each in folds]), sets, draws, permuted, p, q
    )


def _permuted(predictions: Predictions, kind: Kind) -> list[np.ndarray | None]:
    """ρ of the scored genes of every entry under permuted expression; None without permutations."""
    genes = predictions.genes.index.to_numpy(str)
    paths = (entry.nulls.get(kind) for entry in predictions.entries)
    return [None if path is None else read_permuted(path)[genes].to_numpy() for path in paths]


def gene_scores(scores: Scores) -> pd.DataFrame:
    """scores.parquet: one row an entry and gene."""
    predictions = scores.predictions
    about = predictions.genes[predictions.genes.columns.intersection(["group", "ceiling"])].reset_index(drop=True)
    parts = []
    for row in range(len(predictions.entries)):
        part = pd.DataFrame({"gene": predictions.genes.index.to_numpy(str), "rho": scores.rho[row]})
        part = part.assign(
            **predictions.name(row), n_folds=len(np.unique(predictions.fold)), undefined=scores.undefined[row],
            p=scores.p[row], q=scores.q[row],
        )  # fmt: skip
        parts.append(part.join(about))
    columns = ["scheme", "encoder", "probe", "gene", "rho", "n_folds", "undefined", "p", "q", *about]
    return pd.concat(parts, ignore_index=True)[columns]


TABLES: dict[str, Callable[[Scores], pd.DataFrame]] = {}
"""Functions that make the tables with rows of every fold scheme, by name."""


def _table(name: str, columns: str) -> Callable[[Callable[[Scores], Rows]], Callable[[Scores], Rows]]:
    """Register a function that gives the rows of the table `name`."""

    def register(rows: Callable[[Scores], Rows]) -> Callable[[Scores], Rows]:
        def make(scores: Scores) -> pd.DataFrame:
            frame = pd.DataFrame(list(rows(scores)), columns=columns.split())
            return frame.astype(dict.fromkeys(frame.columns.intersection(RANKS), "Int64"))

        TABLES[name] = make
        return rows

    return register


@_table(
    "leaderboard",
    "rank encoder probe scheme mean_rho ci_low ci_high median_rho p_best n_patients n_genes n_undefined tcga "
    "study_key n_sites control",
)
def _leaderboard(scores: Scores) -> Iterator[dict[str, Any]]:
    predictions, mean, competing = scores.predictions, scores.mean_rho, scores.ranking
    first = dict(zip(competing, scores.first(competing), strict=True))
    place = dict(zip(competing, pd.Series(mean[competing]).rank(ascending=False, method="min"), strict=True))
    controls = np.flatnonzero(~predictions.competing)
    for row in [*competing, *controls[np.argsort(-mean[controls], kind="stable")]]:
        entry, (low, high) = predictions.entries[row], bootstrap.clipped_interval(scores.draws[row, 0])
        yield {
            "rank": place.get(row) if predictions.rankable else None, **predictions.name(row), "mean_rho": mean[row],
            "ci_low": low, "ci_high": high, "median_rho": np.median(scores.rho[row]), "p_best": first.get(row, np.nan),
            "n_patients": len(predictions.obs), "n_genes": scores.rho.shape[1],
            "n_undefined": int(scores.undefined[row].sum()), "tcga": entry.tcga, "study_key": scores.options.study_key,
            "n_sites": predictions.obs["site"].replace("", np.nan).nunique(), "control": entry.control,
        }  # fmt: skip


@_table("encoders", "encoder scheme mean_rho ci_low ci_high p_best n_probes tcga")
def _encoders(scores: Scores) -> Iterator[dict[str, Any]]:
    """Mean ρ and P(best) of every encoder, over the probes that all competing encoders have."""
    entries, rows = scores.predictions.entries, scores.ranking
    by_encoder: dict[str, dict[str, int]] = {}
    for row in rows:
        by_encoder.setdefault(entries[row].encoder, {})[entries[row].probe] = row
    probes = dict.fromkeys(entries[row].probe for row in rows)
    shared = [probe for probe in probes if all(probe in own for own in by_encoder.values())]
    own_rows = [[own[probe] for probe in shared] for own in by_encoder.values()]
    draws = np.stack([scores.draws[own, 0].mean(axis=0) for own in own_rows]) if shared else np.empty((0, 1))
    rankable = shared and scores.predictions.rankable
    first = bootstrap.rank_frequencies(draws)[:, 0] if rankable else np.full(len(draws), np.nan)
    means = np.array([scores.mean_rho[own].mean() for own in own_rows]) if shared else np.empty(0)
    for i in np.argsort(-means, kind="stable"):
        low, high = bootstrap.clipped_interval(draws[i])
        entry = entries[own_rows[i][0]]
        yield {
            "encoder": entry.encoder, "scheme": scores.predictions.scheme, "mean_rho": means[i], "ci_low": low,
            "ci_high": high, "p_best": first[i], "n_probes": len(shared), "tcga": entry.tcga,
        }  # fmt: skip


@_table("differences", "scheme encoder_a probe_a encoder_b probe_b delta ci_low ci_high p p_holm p_rope")
def _differences(scores: Scores) -> Rows:
    """Every pair of competing entries, on the same bootstrap samples."""
    predictions, rows = scores.predictions, []
    sites, rope = predictions.sampled_sites, scores.options.rope
    freedom = np.inf if sites is None else bootstrap.degrees_of_freedom(predictions.fold, sites)
    for a, b in combinations(scores.ranking, 2):
        delta = scores.draws[a, 0] - scores.draws[b, 0]
        low, high = bootstrap.central_interval(delta)
        one, other = predictions.entries[a], predictions.entries[b]
        rows.append({
            "scheme": predictions.scheme, "encoder_a": one.encoder, "probe_a": one.probe, "encoder_b": other.encoder,
            "probe_b": other.probe, "delta": scores.mean_rho[a] - scores.mean_rho[b], "ci_low": low, "ci_high": high,
            "p": bootstrap.two_sided_p(delta, freedom), "p_rope": (np.abs(delta[np.isfinite(delta)]) < rope).mean(),
        })  # fmt: skip
    adjusted = bootstrap.holm(np.array([row["p"] for row in rows]))
    return [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


@_table("rank_frequencies", "scheme encoder probe rank frequency")
def _rank_frequencies(scores: Scores) -> Iterator[dict[str, Any]]:
    competing = np.flatnonzero(scores.predictions.competing)
    if len(competing) and scores.predictions.rankable:
        share = bootstrap.rank_frequencies(scores.draws[competing, 0])
        for position, row in enumerate(competing.tolist()):
            for place, frequency in enumerate(share[position], start=1):
                yield {**scores.predictions.name(row), "rank": place, "frequency": frequency}


@_table("null", "scheme encoder probe kind group mean q025 q975 permutations")
def _null(scores: Scores) -> Iterator[dict[str, Any]]:
    """Mean ρ under permuted expression, over all genes and by group."""
    for kind, nulls in scores.permuted.items():
        for row, rho in enumerate(nulls):
            if rho is None:
                continue
            for group, members in scores.predictions.groups.items():
                means = np.nanmean(rho[:, members], axis=1)
                low, high = np.quantile(means, [0.025, 0.975])
                yield {
                    **scores.predictions.name(row), "kind": kind, "group": group, "mean": means.mean(), "q025": low,
                    "q975": high, "permutations": len(means),
                }  # fmt: skip


@_table("groups", "scheme encoder probe group n_genes mean_rho ci_low ci_high ceiling")
def _groups(scores: Scores) -> Iterator[dict[str, Any]]:
    """Mean ρ by group of genes, beside the ceiling of a simulation."""
    genes = scores.predictions.genes
    for row in range(len(scores.rho)):
        for position, (group, members) in enumerate(scores.predictions.groups.items()):
            if group:
                low, high = bootstrap.clipped_interval(scores.draws[row, position])
                ceiling = genes["ceiling"].to_numpy(float)[members].mean() if "ceiling" in genes else np.nan
                yield {
                    **scores.predictions.name(row), "group": group, "n_genes": int(members.sum()),
                    "mean_rho": scores.rho[row, members].mean(), "ci_low": low, "ci_high": high, "ceiling": ceiling,
                }  # fmt: skip


@_table("measures", "scheme encoder probe mean_rho pooled_rho pearson r2 rmse significant permutations resolution")
def _measures(scores: Scores) -> Iterator[dict[str, Any]]:
    """Other measures: means over genes, medians of R² and RMSE, and the share of genes with q < .05."""
    measured, fold = scores.predictions.measured, scores.predictions.fold
    for row, predicted in enumerate(scores.predictions.predicted):
        null, tested = scores.permuted["within-site"][row], np.isfinite(scores.q[row]).any()
        yield {
            **scores.predictions.name(row), "mean_rho": scores.mean_rho[row],
            "pooled_rho": pooled_spearman(measured, predicted).mean(),
            "pearson": fold_pearson(measured, predicted, fold).mean(),
            "r2": np.median(r2(measured, predicted, fold)) if scores.options.one_unit else np.nan,
            "rmse": np.median(rmse(measured, predicted)) if scores.options.one_unit else np.nan,
            "significant": (scores.q[row] < 0.05).mean() if tested else np.nan,
            "permutations": 0 if null is None else len(null),
            "resolution": smallest_p(null.size) if null is not None and tested else np.nan,
        }  # fmt: skip


@_table("exposure", "scheme encoder probe tcga rank rank_unexposed p_best_unexposed")
def _exposure(scores: Scores) -> Iterator[dict[str, Any]]:
    """Ranks among all competing entries, and among those not trained on TCGA."""
    entries, rows = scores.predictions.entries, scores.ranking
    means = pd.Series(scores.mean_rho[rows], rows)
    unexposed = np.array([row for row in rows if entries[row].tcga != "yes"], int)
    first = dict(zip(unexposed, scores.first(unexposed), strict=True))
    ranks, others = (each.rank(ascending=False, method="min") for each in (means, means[unexposed]))
    for row in rows:
        rankable = scores.predictions.rankable
        yield {
            **scores.predictions.name(row), "tcga": entries[row].tcga, "rank": ranks[row] if rankable else None,
            "rank_unexposed": others.get(row) if rankable else None, "p_best_unexposed": first.get(row, np.nan),
        }  # fmt: skip


@_table("spread", "scheme encoder probe n_splits mean_rho median_rho sd_patients sd_splits n_seeds sd_seeds")
def _spread(scores: Scores) -> Iterator[dict[str, Any]]:
    """Standard deviations of the mean ρ over patients, over splits into folds, and over seeds of a network.

    Seeds are scored one by one, where the leaderboard scores their mean.
    """
    predictions = scores.predictions
    for row, (splits, seeds) in enumerate(zip(predictions.by_split, predictions.by_seed, strict=True)):
        by_split = np.nanmean(splits, axis=0)
        by_seed = np.full(1, np.nan) if seeds is None else np.nanmean(seeds, axis=0)
        yield {
            **predictions.name(row), "n_splits": len(by_split), "mean_rho": by_split.mean(),
            "median_rho": np.nanmedian(splits, axis=0).mean(), "sd_patients": np.nanstd(scores.draws[row, 0], ddof=1),
            "sd_splits": _sd(by_split), "n_seeds": len(by_seed), "sd_seeds": _sd(by_seed),
        }  # fmt: skip


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


@_table(
    "sets",
    "scheme encoder probe set n_genes n_missing mean_rho ci_low ci_high random_mean random_low random_high p_random",
)
def _sets(scores: Scores) -> Iterator[dict[str, Any]]:
    """Mean ρ of every gene set beside random sets; a set without scored genes keeps its row, without numbers."""
    measured, options = scores.predictions.measured, scores.options
    scored = [each.members for each in scores.sets if each.size]
    bins = expression_levels(measured.mean(axis=0)) if options.match_levels else np.zeros(measured.shape[1], int)
    rng, first = np.random.default_rng(options.seed), len(scores.predictions.groups)
    random = random_means(scores.rho, np.stack(scored), bins, rng) if scored else np.empty((len(scores.rho), 0))
    for row, rho in enumerate(scores.rho):
        numbers = zip(scores.draws[row, first:], random[row], strict=True)
        for each in scores.sets:
            cells = {"set": each.name, "n_genes": each.size, "n_missing": each.n_missing}
            if each.size:
                draws, others = next(numbers)
                mean, (low, high) = rho[each.members].mean(), bootstrap.clipped_interval(draws)
                random_low, random_high = bootstrap.central_interval(others)
                # One-sided: the share of random sets that are predicted as well, of which one may be the set itself.
                p = (1 + (others >= mean - 1e-9).sum()) / (1 + len(others))
                cells |= {
                    "mean_rho": mean, "ci_low": low, "ci_high": high, "random_mean": others.mean(),
                    "random_low": random_low, "random_high": random_high, "p_random": p,
                }  # fmt: skip
            yield scores.predictions.name(row) | cells


@_table("adjusted", "scheme encoder probe adjustment n_patients n_genes mean_rho median_rho unadjusted_rho")
def _adjusted(scores: Scores) -> Rows:
    covariates = pd.DataFrame() if scores.options.covariates is None else scores.options.covariates
    return adjusted_rows(scores.predictions, scores.rho, scores.sets, covariates)


@_table(
    "targets",
    "scheme encoder probe target kind measure score ci_low ci_high chance n_patients n_classes n_unknown n_skipped "
    "n_genes n_genes_absent",
)
def _targets(scores: Scores) -> Rows:
    return target_rows(scores.predictions, draws=scores.options.draws, seed=scores.options.seed)


@_table("excluded_genes", "scheme gene reason")
def _excluded_genes(scores: Scores) -> Iterator[dict[str, Any]]:
    for gene, reason in scores.predictions.excluded.items():
        yield {"scheme": scores.predictions.scheme, "gene": gene, "reason": reason}


def make_tables(scores: Scores) -> dict[str, pd.DataFrame]:
    """All tables of one fold scheme by name, with the scores of every gene."""
    return {"scores": gene_scores(scores)} | {name: make(scores) for name, make in TABLES.items()}
