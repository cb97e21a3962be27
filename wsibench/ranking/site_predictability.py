"""How well the site that a patient was treated at can be told from an encoder's mean features.

Slides carry their laboratory's stain, scanner and habits [1]_, and an encoder that reads them can score on what
sites differ in rather than on what is in the tissue.  A low value is no merit in itself, and a high one no
fault: preserved-site folds are what keeps it out of the score.  It says how much there is to be kept out.

References
----------
.. [1] Howard et al. 2021, The impact of site-specific digital histology signatures on deep learning model
   accuracy and bias, Nature Communications 12, 4423.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.assembly import feature_names, not_applicable, read_benchmark
from wsibench.core import Artefact, Study, key_at, make_key, parallel_map, read_meta, writing

__all__ = ["Predictability", "expected", "measure", "not_applicable", "predictability", "read", "why_empty"]

FORMAT = 1
STAGE = "sites"

FOLDS = 5
"""Random folds of patients, stratified by site; the study's own folds keep sites apart, and cannot tell them."""
FEWEST = 2 * FOLDS
"""Patients of a site that can be asked for: two in every fold."""
COMPONENTS = 256
"""Most principal components of the training patients' standardised features that a fit looks at."""
PENALTIES = np.logspace(-1, 4, 6)
"""On offer to ridge, in units of the mean diagonal of the kernel, as to the probe that reads expression."""
DRAWS = 2000
COLUMNS = [
    "encoder", "n_patients", "n_sites", "n_left_out", "balanced_accuracy", "ci_low", "ci_high", "chance", "auroc",
    "given_subtype",
]  # fmt: skip


@dataclass(frozen=True)
class Predictability:
    """How well sites are told apart, out of fold."""

    balanced_accuracy: float
    """Mean over sites of the share of their patients that are told; 1 / sites is chance."""
    ci_low: float
    """Of the 95 % interval: patients drawn anew within each site, fits taken as they are."""
    ci_high: float
    auroc: float
    """One site against all others, within folds; mean over sites and folds."""


def expected(study: Study) -> list[Artefact]:
    """sites.csv.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    key_at(study.benchmark_h5ad)
    contents = read_meta(study.benchmark_h5ad)["facts"]["contents"]
    made_from = [contents["patients"], *(contents["features"][name] for name in feature_names(study))]
    section = {"names": feature_names(study), "seed": study.folds.seed}
    return [Artefact(study.sites_csv, make_key(STAGE, FORMAT, section, made_from))]


def measure(study: Study) -> pd.DataFrame:
    """Make sites.csv unless it is current.

    Returns
    -------
    DataFrame
        As `read`.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    (artefact,) = expected(study)
    if artefact.due():
        tasks = (
            []
            if why_empty(read_benchmark(study.benchmark_h5ad).obs)
            else [(study, name) for name in feature_names(study)]
        )
        table = pd.DataFrame(parallel_map(_measure_one, tasks, label="06 sites"), columns=COLUMNS)
        with writing(artefact) as path:
            table.to_csv(path, index=False)
    return read(study)


def read(study: Study) -> pd.DataFrame:
    """sites.csv: a row an encoder, features table or control; none where `why_empty` says so.

    Returns
    -------
    DataFrame
        encoder; n_patients and n_sites that were told apart; n_left_out, patients of unknown or smaller sites;
        balanced_accuracy with ci_low and ci_high, chance (1 / n_sites) and auroc; given_subtype, the balanced
        accuracy once each subtype's mean is taken off the features (NaN unless two subtypes are known).

    Raises
    ------
    NotReady
        When it has not been made.
    """
    key_at(study.sites_csv)
    return pd.read_csv(study.sites_csv, converters={"encoder": str})


def why_empty(patients: pd.DataFrame) -> str | None:
    """Why sites cannot be told apart in a cohort, or None.

    Parameters
    ----------
    patients
        obs of the benchmark.
    """
    sizes = patients["site"][patients["site"] != ""].value_counts()
    large = int((sizes >= FEWEST).sum())
    if large > 1:
        return None
    return f"Of {len(sizes)} known sites {large} have at least {FEWEST} patients, and two are needed to be told apart."


def predictability(
    features: np.ndarray, site: np.ndarray, *, strata: np.ndarray | None = None, seed: int = 0
) -> Predictability:
    """Tell sites apart by a ridge classifier on standardised features, patients in random stratified folds.

    Sites weigh alike however many patients they have, in the fit and in the score.

    Parameters
    ----------
    features
        (patients, dim).
    site
        Of each patient, (patients,); every site has `FEWEST` patients at least.
    strata
        If given, what is to be taken off the features first, (patients,): each stratum's mean over training
        patients, so that sites of other subtypes are not told by them.
    seed
        Of the folds and of the interval.
    """
    from sklearn.metrics import roc_auc_score

    sites, label = np.unique(site, return_inverse=True)
    varies = np.ptp(features, axis=0) > 0
    x = features[:, varies].astype(np.float64) if varies.any() else np.zeros((len(features), 1))
    right, areas = np.zeros(len(label), bool), []
    for train, held in _stratified(label, seed):
        each = x if strata is None else _without_means(x, strata, train)
        scores = _told(each[train], label[train], each[held])
        right[held] = scores.argmax(axis=1) == label[held]
        areas += [roc_auc_score(label[held] == k, scores[:, k]) for k in range(len(sites))]
    n = np.bincount(label)
    told = np.bincount(label, right) / n
    # A sample of a site's patients with replacement holds a binomial number of those who were told.
    draws = (np.random.default_rng(seed).binomial(n, told, size=(DRAWS, len(n))) / n).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Predictability(float(told.mean()), float(low), float(high), float(np.mean(areas)))


def _measure_one(task: tuple[Study, str]) -> dict:
    """The row of one encoder, in one thread: others have the other cores."""
    study, name = task
    benchmark = read_benchmark(study.benchmark_h5ad)
    site, subtype = (benchmark.obs[column].to_numpy(str) for column in ("site", "subtype"))
    sites, member, sizes = np.unique(site, return_inverse=True, return_counts=True)
    asked = ((sizes >= FEWEST) & (sites != ""))[member]
    features, site, subtype = benchmark.obsm[name][asked], site[asked], subtype[asked]
    with threadpool_limits(1):
        found = predictability(features, site, seed=study.folds.seed)
        given = np.nan
        if len(np.unique(subtype[subtype != ""])) > 1:
            given = predictability(features, site, strata=subtype, seed=study.folds.seed).balanced_accuracy
    n_sites = len(np.unique(site))
    counts = {"n_patients": len(site), "n_sites": n_sites, "n_left_out": int((~asked).sum()), "chance": 1 / n_sites}
    return {"encoder": name, **counts, **vars(found), "given_subtype": given}


def _stratified(label: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label)


def _told(x: np.ndarray, label: np.ndarray, new: np.ndarray) -> np.ndarray:
    """How much new patients look like each site's, (new, sites)."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()]
    if min(x.shape) > COMPONENTS:
        steps.append(PCA(COMPONENTS, random_state=0))
    model = make_pipeline(*steps, RidgeClassifierCV(PENALTIES * x.shape[1], class_weight="balanced"))
    with warnings.catch_warnings():
        # Features of which only held-out patients vary have no variance that components could explain.
        warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
        scores = model.fit(x, label).decision_function(new)
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def _without_means(x: np.ndarray, strata: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features less the mean of the training patients of a patient's stratum; of a new stratum, of all."""
    training = np.isin(np.arange(len(x)), train)
    less = x - x[training].mean(axis=0)
    for stratum in np.unique(strata[training]):
        members = strata == stratum
        less[members] = x[members] - x[members & training].mean(axis=0)
    return less
