"""Warnings beside the leaderboard: few patients, sites or competitors, one large site, no controls.

`coverage.csv` holds the measured coverage of the intervals in simulated cohorts (``benchmarks/validity.py``,
docs/validity.md); a warning cites the cohort of that table that is next smaller than the study's own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.ranking.site_predictability import reason_if_empty
from wsibench.regression import metrics

COVERAGE = Path(__file__).with_name("coverage.csv")
"""scheme, patients, sites, coverage_low, coverage_high (share of the cohorts), cohorts (of each cell)."""
MIN_PATIENTS, MIN_SITES, MIN_FOLD = 300, 20, 20
"""Below these a warning is given."""

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
