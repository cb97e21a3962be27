"""Site predictability: how well a patient's site is predicted from the mean features of an encoder.

Slides carry the stain, scanner and habits of their laboratory [1]_, and an encoder that recognises them can score by
differences between sites rather than by tissue. A low value is no merit in itself and a high one no fault, since
preserved-site folds keep site recognition out of the score; it shows how much there is to keep out.

References
----------
.. [1] Howard et al. 2021, The impact of site-specific digital histology signatures on deep learning model
   accuracy and bias, Nature Communications 12, 4423.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.core import parallel_map

FOLDS = 5
"""Random folds of patients, stratified by site; folds that keep sites apart could not predict them."""
MIN_PATIENTS = 2 * FOLDS
"""Fewest patients of a site that takes part: two in every fold."""
COMPONENTS = 256
"""Most principal components of the training patients' standardised features."""
PENALTIES = np.logspace(-1, 4, 6)
"""Candidate penalties of ridge, in units of the mean diagonal of the kernel, as of the probe for expression."""
DRAWS = 2000


@dataclass(frozen=True)
class SitePredictability:
    """Out-of-fold accuracy of predicted sites."""

    balanced_accuracy: float
    """Mean recall of the sites; 1 / sites by chance."""
    ci_low: float
    """Of the 95 % interval: patients resampled within each site, with the fits fixed."""
    ci_high: float
    auroc: float
    """One site against all others, within folds; mean over sites and folds."""


def predictable_sites(site: np.ndarray) -> np.ndarray:
    """Select the patients of known sites with at least `MIN_PATIENTS` patients, boolean (patients,)."""
    _, member, sizes = np.unique(site, return_inverse=True, return_counts=True)
    return (sizes[member] >= MIN_PATIENTS) & (site != "")


def reason_if_empty(site: np.ndarray) -> str | None:
    """Reason why sites cannot be predicted in a cohort, or None."""
    known, large = (len(np.unique(each)) for each in (site[site != ""], site[predictable_sites(site)]))
    if large > 1:
        return None
    return f"{large} of {known} known sites have at least {MIN_PATIENTS} patients, and two are needed."


def site_table(features: Mapping[str, np.ndarray], site: np.ndarray, subtype: np.ndarray, seed: int) -> pd.DataFrame:
    """sites.csv: site predictability of every encoder and control; no rows where sites cannot be predicted.

    Parameters
    ----------
    features
        Mean features of every encoder and control, each (patients, width).
    site, subtype
        Of each patient, (patients,); "" where unknown.
    seed
        Seed of the folds.
    """
    columns = "encoder n_patients n_sites n_left_out balanced_accuracy ci_low ci_high chance auroc given_subtype"
    names = [] if reason_if_empty(site) else list(features)
    rows = parallel_map(_site_row, [(features[name], site, subtype, seed) for name in names], label="06 sites")
    table = [{"encoder": name} | row for name, row in zip(names, rows, strict=True)]
    return pd.DataFrame(table, columns=columns.split())


def _site_row(task: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> dict:
    return site_row(*task)


def site_row(features: np.ndarray, site: np.ndarray, subtype: np.ndarray, seed: int) -> dict[str, Any]:
    """Site predictability of one encoder, as it is and after subtype means are subtracted.

    Parameters
    ----------
    features
        Mean feature of each patient, (patients, width).
    site, subtype
        Of each patient, (patients,); "" where unknown.
    seed
        Seed of the folds and of the interval.

    Returns
    -------
    dict
        n_patients and n_sites that take part; n_left_out, patients of unknown or smaller sites; balanced_accuracy
        with ci_low and ci_high, chance (1 / n_sites) and auroc; given_subtype, the balanced accuracy after each
        subtype's mean is subtracted from the features (NaN unless two subtypes are known).
    """
    kept = predictable_sites(site)
    features, site, subtype = features[kept], site[kept], subtype[kept]
    with threadpool_limits(1):  # other encoders use the other cores
        found = site_predictability(features, site, seed=seed)
        given = np.nan
        if len(np.unique(subtype[subtype != ""])) > 1:
            given = site_predictability(features, site, strata=subtype, seed=seed).balanced_accuracy
    n_sites = len(np.unique(site))
    counts = {"n_patients": len(site), "n_sites": n_sites, "n_left_out": int((~kept).sum()), "chance": 1 / n_sites}
    return {**counts, **vars(found), "given_subtype": given}


def site_predictability(
    features: np.ndarray, site: np.ndarray, *, strata: np.ndarray | None = None, seed: int = 0
) -> SitePredictability:
    """Predict sites by a ridge classifier on standardised features, in random folds stratified by site.

    Sites have equal weight however many patients they have, in the fit and in the score.

    Parameters
    ----------
    features
        Mean feature of each patient, (patients, width).
    site
        Site of each patient, (patients,), each with at least `MIN_PATIENTS` patients.
    strata
        If given, a stratum of each patient, (patients,): the mean of the training patients of a stratum is
        subtracted from its features first, so that differences between strata do not predict sites.
    seed
        Seed of the folds and of the interval.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    sites, label = np.unique(site, return_inverse=True)
    varies = np.ptp(features, axis=0) > 0
    x = features[:, varies].astype(np.float64) if varies.any() else np.zeros((len(features), 1))
    correct, areas = np.zeros(len(label), bool), []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label):
        each = x if strata is None else _without_means(x, strata, train)
        scores = _site_scores(each[train], label[train], each[test])
        correct[test] = scores.argmax(axis=1) == label[test]
        areas += [roc_auc_score(label[test] == k, scores[:, k]) for k in range(len(sites))]
    n = np.bincount(label)
    recall = np.bincount(label, correct) / n
    # The number of correct predictions in a sample of a site's patients with replacement is binomial.
    draws = (np.random.default_rng(seed).binomial(n, recall, size=(DRAWS, len(n))) / n).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return SitePredictability(float(recall.mean()), float(low), float(high), float(np.mean(areas)))


def _site_scores(x: np.ndarray, label: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fit a classifier on `x`, and score the new patients for each site, (new, sites)."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()]
    if min(x.shape) > COMPONENTS:
        steps.append(PCA(COMPONENTS, random_state=0))
    model = make_pipeline(*steps, RidgeClassifierCV(PENALTIES * x.shape[1], class_weight="balanced"))
    with warnings.catch_warnings():
        # Features that vary for held-out patients only have no variance that components could explain.
        warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
        scores = model.fit(x, label).decision_function(new)
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def _without_means(x: np.ndarray, strata: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract the mean of the training patients of a patient's stratum; for a new stratum, that of all."""
    training = np.isin(np.arange(len(x)), train)
    centred = x - x[training].mean(axis=0)
    for stratum in np.unique(strata[training]):
        members = strata == stratum
        centred[members] = x[members] - x[members & training].mean(axis=0)
    return centred
