"""Remarks beside the leaderboard: the headline, warnings, and how well sites are predicted from the features.

`coverage.csv` holds the measured coverage of the intervals in simulated cohorts (``benchmarks/validity.py``,
docs/validity.md); a warning cites the cohort of that table that is next smaller than the study's own.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.core import parallel_map
from wsibench.regression import metrics

COVERAGE = Path(__file__).with_name("coverage.csv")
"""scheme, patients, sites, coverage_low, coverage_high (share of the cohorts), cohorts (of each cell)."""
MIN_PATIENTS, MIN_SITES, MIN_FOLD = 300, 20, 20
"""Below these a warning is given."""
FOLDS = 5
"""Random folds of patients, stratified by site; folds that keep sites apart could not predict them."""
MIN_SITE = 2 * FOLDS
"""Fewest patients of a site that takes part: two in every fold."""
COMPONENTS = 256
"""Most principal components of the training patients' standardised features."""
PENALTIES = np.logspace(-1, 4, 6)
"""Candidate penalties of ridge, in units of the mean diagonal of the kernel, as of the probe for expression."""
RESAMPLES = 2000

Caveats = list[tuple[str, str]]
"""(subject, message)."""


def supports_ranking(scheme: str, site: pd.Series, fold: np.ndarray) -> bool:
    """Check that there are at least twice as many sites as folds, where sites are held out.

    Parameters
    ----------
    scheme
        Fold scheme.
    site, fold
        Site and fold of each evaluated patient, (patients,).
    """
    return scheme != "preserved-site" or site[site != ""].nunique() >= 2 * len(np.unique(fold))


def study_caveats(site: pd.Series, competitors: Sequence[str], controls: Sequence[str]) -> Caveats:
    """Caveats that hold for all fold schemes.

    Parameters
    ----------
    site
        Site of each patient, "" where unknown.
    competitors, controls
        Names of the encoders and features tables that are ranked, and of the controls.
    """
    found = []
    if len(competitors) < 2:
        who = f"Only {competitors[0]} competes" if competitors else "No encoder competes"
        found.append(("competitors", f"{who}: there is nothing to compare. Name two encoders or features tables."))
    sizes = site[site != ""].value_counts()
    if len(sizes) and sizes.iloc[0] > len(site) / 2:
        found.append((
            "site share",
            f"Site {sizes.index[0]} has {sizes.iloc[0]} of {len(site)} patients: the scores mostly reflect this "
            "site, and the fits that hold it out are trained on fewer than half of the patients.",
        ))  # fmt: skip
    if not controls:
        found.append((
            "controls",
            "The study has no controls, so that no baseline shows how well trivial features score. Controls need "
            "tiles, two known sites or two known subtypes; `controls: []` in study.yaml switches them off.",
        ))  # fmt: skip
    if reason := reason_if_empty(site.to_numpy(str)):
        found.append(("site predictability", f"sites.csv is empty. {reason}"))
    return found


def scheme_caveats(scheme: str, fold: np.ndarray, site: pd.Series) -> Caveats:
    """Caveats of one fold scheme: few patients or sites, and small folds.

    Parameters
    ----------
    scheme
        Fold scheme.
    fold
        Fold of each patient who is evaluated, (patients,).
    site
        Site of each of these patients, "" where unknown.
    """
    found = []
    n_patients, n_sites = len(fold), site[site != ""].nunique()
    sizes = np.unique(fold, return_counts=True)[1]
    if not supports_ranking(scheme, site, fold):
        found.append((
            "cohort size",
            f"{n_sites} sites in {len(sizes)} folds cannot support a ranking, and the intervals are too wide to be of "
            "use. Two sites a fold are needed: add sites, lower folds.n, or use random-patient folds.",
        ))  # fmt: skip
    elif n_patients < MIN_PATIENTS or (scheme != "random-patient" and 0 < n_sites < MIN_SITES):
        of_sites = f" of {n_sites} sites" if n_sites else ""
        coverage = measured_coverage(scheme, n_patients, n_sites)
        found.append(("cohort size", f"{n_patients} patients{of_sites}: {coverage}"))
    if sizes.min() < MIN_FOLD:
        unscored = int((sizes <= metrics.RESERVED).sum())
        rest = f" {unscored} folds of {metrics.RESERVED} patients or fewer are not scored." if unscored else ""
        found.append((
            "fold size",
            f"{(sizes < MIN_FOLD).sum()} of {len(sizes)} folds have fewer than {MIN_FOLD} patients, the smallest "
            f"{sizes.min()}: correlations of so few patients scatter widely, and strong ones are too small.{rest}",
        ))  # fmt: skip
    return found


def caveat_table(known: Caveats, folds: dict[str, pd.Series], site: pd.Series) -> pd.DataFrame:
    """warnings.csv: scheme (empty where a caveat holds for all), what, message.

    Parameters
    ----------
    known
        Caveats of the study as a whole.
    folds
        Fold of each patient by scheme; below 0 for the training patients of external validation, who do not count.
    site
        Site of each patient.
    """
    rows = [("", *caveat) for caveat in known]
    for scheme, fold in folds.items():
        evaluated = fold[fold >= 0]
        rows += [(scheme, *each) for each in scheme_caveats(scheme, evaluated.to_numpy(), site[evaluated.index])]
    return pd.DataFrame(rows, columns=["scheme", "what", "message"])


def measured_coverage(scheme: str, patients: int, sites: int, table: pd.DataFrame | None = None) -> str:
    """Cite the coverage of the 95 % interval in the simulated cohort that is next smaller than the study's own.

    Parameters
    ----------
    scheme
        Fold scheme.
    patients, sites
        Numbers of evaluated patients and of their sites. Where sites are held out, sites are matched first.
    table
        Measured coverage, by default `COVERAGE`. A cohort smaller than all of them is compared with the smallest.
    """
    cells = pd.read_csv(COVERAGE) if table is None else table
    cells, own = cells[cells["scheme"] == scheme], {"sites": sites, "patients": patients}
    for axis in own if scheme != "random-patient" else reversed(own):
        smaller = cells.loc[cells[axis] <= own[axis], axis]
        cells = cells[cells[axis] == (smaller.max() if len(smaller) else cells[axis].min())]
    n, k = (int(cells[axis].iloc[0]) for axis in ("patients", "sites"))
    larger = ", larger than this one," if n > patients or (scheme != "random-patient" and k > sites) else ""
    shares = cells["coverage_low"].min(), cells["coverage_high"].max()
    low, high = (int(np.floor(100 * share + 0.5 + 1e-9)) for share in shares)
    return (
        f"in simulated cohorts of {n} patients of {k} sites{larger} 95 % intervals covered the truth in "
        f"{low if low == high else f'{low} to {high}'} % (docs/validity.md)."
    )


def describe_best(leaderboard: pd.DataFrame, encoders: pd.DataFrame) -> str:
    """State in one or two sentences which encoder is best under the first fold scheme.

    Parameters
    ----------
    leaderboard
        leaderboard.csv.
    encoders
        encoders.csv.
    """
    scheme = leaderboard["scheme"].iloc[0]
    lines, own = (table[table["scheme"] == scheme] for table in (leaderboard, encoders))
    if own.empty:
        return "Only controls were run: there is nothing to rank."
    first, line = own.iloc[0], lines.iloc[0]
    score = f"mean ρ {first['mean_rho']:.3f} ({first['ci_low']:.3f} to {first['ci_high']:.3f})"
    if len(own) == 1:
        return f"{first['encoder']} reaches {score} in {scheme} folds; no other encoder was run."
    if np.isnan(first["p_best"]):
        return f"{line['n_sites']} sites cannot support a ranking."
    probes = f" over {first['n_probes']} probes" if first["n_probes"] > 1 else ""
    text = (
        f"{first['encoder']} predicts gene expression best of {len(own)} encoders in {scheme} folds: {score}{probes}, "
        f"first in {first['p_best']:.0%} of the bootstrap draws."
    )
    if first["n_probes"] < 2:
        return text
    return (
        f"{text} The best combination is {line['encoder']} with {line['probe']}: {line['mean_rho']:.3f} "
        f"({line['ci_low']:.3f} to {line['ci_high']:.3f}), first in {line['p_best']:.0%}."
    )


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
    """Select the patients of known sites with at least `MIN_SITE` patients, boolean (patients,)."""
    _, member, sizes = np.unique(site, return_inverse=True, return_counts=True)
    return (sizes[member] >= MIN_SITE) & (site != "")


def reason_if_empty(site: np.ndarray) -> str | None:
    """Reason why sites cannot be predicted in a cohort, or None."""
    known, large = (len(np.unique(each)) for each in (site[site != ""], site[predictable_sites(site)]))
    if large > 1:
        return None
    return f"{large} of {known} known sites have at least {MIN_SITE} patients, and two are needed."


def site_table(features: Mapping[str, np.ndarray], site: np.ndarray, subtype: np.ndarray, seed: int) -> pd.DataFrame:
    """sites.csv: how well sites are predicted from the mean features of every encoder and control.

    Slides carry the stain, scanner and habits of their laboratory [1]_, and an encoder that recognises them can score
    by differences between sites rather than by tissue. A low value is no merit in itself and a high one no fault,
    since preserved-site folds keep site recognition out of the score; it shows how much there is to keep out.

    Parameters
    ----------
    features
        Mean features of every encoder and control, each (patients, width).
    site, subtype
        Of each patient, (patients,); "" where unknown.
    seed
        Seed of the folds.

    Returns
    -------
    DataFrame
        Without rows where sites cannot be predicted.

    References
    ----------
    .. [1] Howard et al. 2021, The impact of site-specific digital histology signatures on deep learning model
       accuracy and bias, Nature Communications 12, 4423.
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
        Site of each patient, (patients,), each with at least `MIN_SITE` patients.
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
    draws = (np.random.default_rng(seed).binomial(n, recall, size=(RESAMPLES, len(n))) / n).mean(axis=1)
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
