"""How well targets other than genes are predicted: measures that fit their kind, with intervals as genes have them."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
from anndata import AnnData

from wsibench.assembly import read_benchmark
from wsibench.core import CohortError, Scheme, Study
from wsibench.ranking import bootstrap, training_variance as halves
from wsibench.ranking.discrimination import balanced_accuracy, macro_auroc, n_without_auroc
from wsibench.regression import Fit, fits, read_predictions
from wsibench.regression.metrics import RESERVED, squares_within_folds

COLUMNS = [
    "scheme", "encoder", "probe", "target", "kind", "measure", "score", "ci_low", "ci_high", "chance", "n_patients",
    "n_classes", "n_unknown", "n_skipped", "n_genes", "n_genes_absent",
]  # fmt: skip
"""Of targets.csv, a row a measure.

n_unknown: patients left out, since the target is not known of them or of too few of their fold.
n_skipped: folds (times classes) without a score, since the target is the same for all of the fold.
n_genes, n_genes_absent: genes of the set that are scored, and that the benchmark lacks.
"""

Scored = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""measured, predicted (patients, classes), fold, weights (draws, patients) to (draws,)."""


def spearman(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's ρ within folds, averaged as genes' is, (draws,)."""
    return bootstrap.sampled_means(measured, [predicted], fold, weights, method="reranked")[0, 0]


def r2(measured: np.ndarray, predicted: np.ndarray, fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the variance within folds that is explained, (draws,); below 0 for worse than each fold's own mean."""
    w = weights.astype(np.float64)
    error = w @ np.square(measured[:, 0] - predicted[:, 0], dtype=np.float64)
    # Around the fold's mean in every sample: the mean of a sample lies nearer to it than the truth does, and
    # reflection would take that off the score.
    total = w @ squares_within_folds(measured[:, 0], fold)
    return 1 - np.divide(error, total, out=np.full(len(total), np.nan), where=total > 0)


MEASURES: dict[str, dict[str, tuple[Scored, tuple[float, float]]]] = {
    "continuous": {"spearman": (spearman, (-1, 1)), "r2": (r2, (-np.inf, 1))},
    "categorical": {"auroc": (macro_auroc, (0, 1)), "balanced_accuracy": (balanced_accuracy, (0, 1))},
}
"""By kind of target, the headline first: how it is scored, and between which values."""


def _deviations(measure: str, measured: np.ndarray, *of_one: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """What training on those tried on adds to samples of a measure, (draws,); 0 for the balanced accuracy.

    The AUROC of a class of share p is 1/2 + ρ / √(12 p (1 − p)), with ρ the correlation of belonging to it
    with the rank of the prediction.

    Parameters
    ----------
    measured
        (patients, classes).
    of_one
        Predictions and their noise, (patients, classes); fold and clusters, (patients,).
    """
    if measure == "balanced_accuracy":
        return np.zeros(draws)
    predicted, noise, fold, clusters = of_one
    if measure == "r2":
        one = measured[:, 0], predicted[:, 0], noise[:, 0]
        return halves.explained_draws(*one, fold, clusters, draws=draws, seed=seed)
    each = np.eye(measured.shape[1], dtype=bool)
    rho = halves.training_draws(measured, [predicted], [noise], fold, clusters, each, draws=draws, seed=seed)[0]
    if measure == "spearman":
        return rho[0]
    share = measured.mean(axis=0)
    return (rho / np.sqrt(12 * share * (1 - share))[:, None]).mean(axis=0)


def table(study: Study, scheme: Scheme) -> pd.DataFrame:
    """The rows of one scheme in targets.csv, columns `COLUMNS`.

    Raises
    ------
    CohortError
        For a target that is known of too few patients to be scored.
    """
    if not study.targets:
        return pd.DataFrame(columns=COLUMNS)
    measured_jobs = [fit for fit in fits(study) if fit.scheme == scheme]
    benchmark = read_benchmark(study.benchmark_h5ad)
    description = json.loads(benchmark.uns["wsibench"]["targets"])
    frames = [_long(read_predictions(fit.predictions.path), description) for fit in measured_jobs]
    facts = {one["target"]: _facts(one) for one in description.values()}
    for name, part in frames[0].groupby("target"):
        facts[name]["n_unknown"] = benchmark.n_obs - part["patient_id"].nunique()
    sites = benchmark.obs["site"] if scheme == "preserved-site" else None
    rows = []
    for name in study.targets:
        parts = [frame[frame["target"] == name] for frame in frames]
        for job, found in _scored(study, name, facts[name], parts, measured_jobs, sites):
            rows.append({"scheme": scheme, "encoder": job.encoder, "probe": job.probe, "target": name, **found})
    return pd.DataFrame(rows, columns=COLUMNS)


def _facts(one: dict) -> dict:
    kind = "categorical" if one["kind"] == "category" else "continuous"
    return {"kind": kind, "n_genes": len(one["genes"]), "n_genes_absent": one["n_absent"]}


def _long(adata: AnnData, description: dict) -> pd.DataFrame:
    """One row a target, class and patient of whom it is known."""
    parts = []
    for column, one in description.items():
        measured = adata.obsm["targets_measured"][column].dropna()
        found = {name: adata.obsm[f"targets{end}"][column][measured.index] for name, end in
                 (("predicted", ""), ("noise", "_noise"))}  # fmt: skip
        part = pd.DataFrame({"fold": adata.obs["fold"][measured.index], "measured": measured, **found})
        part.index.name = "patient_id"
        parts.append(part.reset_index().assign(target=one["target"], **{"class": one["class"]}))
    return pd.concat(parts, ignore_index=True)


def _scored(
    study: Study, name: str, facts: dict, parts: list[pd.DataFrame], of_jobs: list[Fit], sites: pd.Series | None
) -> list[tuple[Fit, dict]]:
    """A target's rows: every measure of every job, with intervals from the same samples of patients."""
    classes = parts[0]["class"].unique()
    shape = (len(classes), -1)
    one = parts[0].iloc[: len(parts[0]) // len(classes)]
    fold, patient_sites = one["fold"].to_numpy(), None if sites is None else sites[one["patient_id"]].to_numpy(str)
    labels, n = np.unique(fold, return_counts=True)
    counted = np.isin(fold, labels[n > RESERVED])
    too_few = CohortError(
        f"targets.{name} is known of {len(fold)} patients, too few to be scored in {study.folds.n} folds.",
        "Leave the target out of study.yaml, or bring more patients.",
    )
    if not counted.any():
        raise too_few
    measured = parts[0]["measured"].to_numpy().reshape(shape).T[counted]
    fold, patient_sites = fold[counted], None if sites is None else patient_sites[counted]
    settings = study.ranking
    weights = bootstrap.sample_weights(fold, draws=settings.bootstrap, seed=settings.seed, sites=patient_sites)
    widening = 1.0 if sites is None else bootstrap.widening_for_sites(fold, patient_sites)
    clusters = np.arange(len(fold)) if sites is None else patient_sites
    categorical = facts["kind"] == "categorical"
    shared = {
        **facts,
        "n_unknown": facts["n_unknown"] + int((~counted).sum()),
        "n_patients": len(fold),
        "n_classes": len(classes) if categorical else 0,
        "n_skipped": n_without_auroc(measured, fold) if categorical else _n_constant(measured[:, 0], fold),
    }
    rows = []
    for measure_name, (score, (lowest, highest)) in MEASURES[facts["kind"]].items():
        chance = {"auroc": 0.5, "balanced_accuracy": 1 / len(classes)}.get(measure_name, 0.0)
        for job, part in zip(of_jobs, parts, strict=True):
            predicted, noise = (part[column].to_numpy().reshape(shape).T[counted] for column in ("predicted", "noise"))
            estimate = score(measured, predicted, fold, np.ones((1, len(fold)), np.float32))[0]
            sampled = score(measured, predicted, fold, weights)
            if not (np.isfinite(estimate) and np.isfinite(sampled).any()):
                raise too_few
            of_one = (predicted, noise, fold, clusters)
            sampled = sampled + _deviations(measure_name, measured, *of_one, draws=len(sampled), seed=settings.seed)
            draws = bootstrap.confidence_draws(estimate, sampled, widening=widening)
            # Reflected draws may leave the range of the measure, where the truth cannot be.
            low, high = np.clip(bootstrap.central_interval(draws), lowest, highest)
            found = {"measure": measure_name, "score": estimate, "ci_low": low, "ci_high": high, "chance": chance}
            rows.append((job, {**shared, **found}))
    return rows


def _n_constant(measured: np.ndarray, fold: np.ndarray) -> int:
    return int(sum(np.ptp(measured[fold == label]) == 0 for label in np.unique(fold)))
