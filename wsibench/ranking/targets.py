"""Scores of targets other than genes: Spearman's ρ of numbers and gene-set scores, AUROC of categories."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from wsibench.core import CohortError
from wsibench.ranking.bootstrap import clipped_interval, mean_draws
from wsibench.ranking.predictions import Predictions
from wsibench.ranking.resampling import sampled_means
from wsibench.regression import centred_midranks, metrics


def target_rows(predictions: Predictions, *, draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """Score every target of every fit, with intervals as for genes.

    Parameters
    ----------
    predictions
        Predictions, of which `targets` describes the columns: target, class, kind, genes, n_absent.
    draws
        Number of bootstrap samples.
    seed
        Seed of the samples.

    Yields
    ------
    dict
        One row a target and fit. n_unknown: patients without the target, or with too few others in their fold.
        n_skipped: folds (times classes) in which the target is constant, and which have no score. n_genes,
        n_genes_absent: genes of a gene set that the benchmark has, and lacks.

    Raises
    ------
    CohortError
        For a target that is known for too few patients to be scored.
    """
    columns: dict[str, list[str]] = {}
    for column, about in predictions.targets.items():
        columns.setdefault(about["target"], []).append(column)
    for target, names in columns.items():
        about = predictions.targets[names[0]]
        for row, frames in enumerate(predictions.target_frames):
            if frames:
                parts = {name: frame[names] for name, frame in frames.items()}
                found = _score(target, about["kind"] == "category", parts, predictions, draws=draws, seed=seed)
                yield {
                    **predictions.name(row), "target": target, "kind": about["kind"], **found,
                    "n_genes": len(about["genes"]), "n_genes_absent": about["n_absent"],
                }  # fmt: skip


def _score(
    target: str, category: bool, parts: dict[str, pd.DataFrame], predictions: Predictions, *, draws: int, seed: int
) -> dict[str, Any]:
    """Score of one fit's target with its interval, on the patients for whom it is known."""
    known = parts["measured"].notna().all(axis=1).to_numpy()
    n_known, (labels, n) = known.sum(), np.unique(predictions.fold[known], return_counts=True)
    known &= np.isin(predictions.fold, labels[n > metrics.RESERVED])
    measured, predicted, noise = (parts[name].to_numpy()[known] for name in ("measured", "predicted", "noise"))
    fold, sites = predictions.fold[known], predictions.sampled_sites
    constant = sum((np.ptp(measured[fold == label], axis=0) == 0).sum() for label in np.unique(fold))
    if constant == len(np.unique(fold)) * measured.shape[1]:
        raise CohortError(
            f"targets.{target} is known for {n_known} patients, too few to be scored in {len(labels)} folds.",
            "Remove the target from study.yaml, or add patients.",
        )
    score, slope = fold_auroc(measured, predicted, fold) if category else (np.zeros(1), np.ones(1))
    defined = np.isfinite(score)
    # The mean over classes of AUROC, less 1/2, is a weighted mean of their correlations.
    weights = np.where(defined, slope, 0)[None] + 1e-12 * defined
    one = (measured, [predicted])
    rho = sampled_means(*one, fold, np.ones((1, len(fold)), np.float32), weights)[0, :, 0]
    estimate, factor = (score[defined].mean(), slope[defined].mean()) if category else (rho[0], 1.0)
    sites = None if sites is None else sites[known]
    found = mean_draws(*one, [noise], fold, rho[None], weights, sites=sites, draws=draws, seed=seed)[0, 0]
    low, high = clipped_interval(estimate + factor * (found - rho[0]), lowest=0.0 if category else -1.0)
    return {
        "measure": "auroc" if category else "spearman", "score": estimate, "ci_low": low, "ci_high": high,
        "chance": 0.5 if category else 0.0, "n_patients": int(known.sum()), "n_unknown": int((~known).sum()),
        "n_classes": measured.shape[1] if category else 0, "n_skipped": int(constant),
    }  # fmt: skip


def fold_auroc(member: np.ndarray, predicted: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-vs-rest area under the ROC curve within folds, averaged with weights n − 3, from ranks.

    The AUROC is 1/2 plus the difference between the mean ranks of members and others, divided by n (Hanley & McNeil
    1982, Radiology 143, 29), and that is 1/2 + slope · ρ, with ρ the Spearman correlation of membership and
    prediction. A fold with members only, or without any, has no score; the other folds determine the mean.

    Parameters
    ----------
    member
        0/1 indicators of the classes, (patients, classes).
    predicted
        Scores of the classes, (patients, classes).
    fold
        Fold of each patient, (patients,).

    Returns
    -------
    tuple
        AUROC and slope of each class, (classes,) each; NaN for a class without a score in any fold.
    """
    area, slope, weight = (np.zeros(member.shape[1]) for _ in range(3))
    for label in np.unique(fold):
        patients = fold == label
        n, ranks, inside = patients.sum(), centred_midranks(predicted[patients]), member[patients] > 0
        share = inside.mean(axis=0)
        both = (share > 0) & (share < 1)
        spread = share * (1 - share) + ~both
        covariance = (ranks * inside).mean(axis=0, dtype=np.float64)
        counts = both * max(n - metrics.RESERVED, 0)
        area += counts * (0.5 + covariance / spread)
        slope += counts * ranks.std(axis=0, dtype=np.float64) / np.sqrt(spread)
        weight += counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / weight, slope / weight
