"""What a reader of the leaderboard has to know beside it: few patients or sites, one site for most, no controls.

`coverage.csv` holds what the intervals of simulated cohorts were measured to hold (``benchmarks/validity.py``,
docs/validity.md); a warning cites the cohort of that table that is nearest to the study's own from below.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.assembly import feature_names, read_benchmark
from wsibench.core import Artefact, Scheme, Study, file_sha256, key_at, make_key, read_meta, writing
from wsibench.ranking.site_predictability import why_empty
from wsibench.regression import folds
from wsibench.regression.metrics import RESERVED

FORMAT = 1
STAGE = "warnings"

COVERAGE = Path(__file__).with_name("coverage.csv")
"""scheme, patients, sites, coverage_low, coverage_high (shares of cohorts, over r and the like), cohorts (a cell)."""
FEW_PATIENTS, FEW_SITES, SMALL_FOLD = 300, 20, 20
"""Fewer than these are warned of."""
COLUMNS = ["scheme", "what", "message"]

Caveats = list[tuple[str, str]]
"""(what, message)."""


def expected(study: Study) -> list[Artefact]:
    """warnings.csv.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    key_at(study.benchmark_h5ad)
    patients = read_meta(study.benchmark_h5ad)["facts"]["contents"]["patients"]
    section = {"names": feature_names(study), "competing": _competing(study), "controls": study.controls}
    made_from = [patients, *(artefact.key for artefact in folds.expected(study)), file_sha256(COVERAGE)]
    return [Artefact(study.warnings_csv, make_key(STAGE, FORMAT, section, made_from))]


def warn(study: Study) -> pd.DataFrame:
    """Make warnings.csv unless it is current.

    Returns
    -------
    DataFrame
        As `read`.

    Raises
    ------
    NotReady
        When the patients have not been divided into folds.
    """
    (artefact,) = expected(study)
    if artefact.due():
        patients = read_benchmark(study.benchmark_h5ad).obs
        rows = [("", *caveat) for caveat in of_study(study, patients)]
        for scheme in study.folds.schemes:
            fold = folds.read(study.folds_csv(scheme), patients.index)["fold"]
            rows += [(scheme, *caveat) for caveat in of_folds(scheme, fold, patients["site"])]
        with writing(artefact) as path:
            pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    return read(study)


def read(study: Study) -> pd.DataFrame:
    """warnings.csv: scheme (empty where it is of the whole study), what, message; without rows if all is well.

    Raises
    ------
    NotReady
        When it has not been made.
    """
    key_at(study.warnings_csv)
    return pd.read_csv(study.warnings_csv, dtype=str, keep_default_na=False)


def of_study(study: Study, patients: pd.DataFrame) -> Caveats:
    """What is true of all folds; `patients` is obs of the benchmark."""
    found = []
    competing, sizes = _competing(study), patients["site"][patients["site"] != ""].value_counts()
    if len(competing) < 2:
        who = f"Only {competing[0]} competes" if competing else "No encoder competes"
        found.append(("competitors", f"{who}: there is nothing to compare. Name two encoders or tables of features."))
    if len(sizes) and sizes.iloc[0] > len(patients) / 2:
        found.append((
            "site share",
            f"Site {sizes.index[0]} has {sizes.iloc[0]} of {len(patients)} patients: the scores are mostly of this "
            "site, and where it is held out, the fits saw fewer than half of the patients.",
        ))  # fmt: skip
    if not set(feature_names(study)) - set(competing):
        why = (
            "Remove `controls: []` from study.yaml to run all that apply."
            if study.controls is not None
            else "None applies: no slides are looked at, and neither two sites nor two subtypes are known."
        )
        found.append(("controls", f"The study ran without controls: nothing says what little would do as well. {why}"))
    if why := why_empty(patients):
        found.append(("site predictability", f"sites.csv is empty. {why}"))
    return found


def of_folds(scheme: Scheme, fold: pd.Series, site: pd.Series) -> Caveats:
    """What is true of one way of dividing patients: too few of them, too few sites, folds too small.

    Parameters
    ----------
    fold, site
        Of each patient.
    """
    found = []
    n_patients, n_sites, sizes = len(fold), site[site != ""].nunique(), fold.value_counts()
    if n_patients < FEW_PATIENTS or (scheme == "preserved-site" and n_sites < FEW_SITES):
        of = f" of {n_sites} sites" if n_sites else ""
        found.append(("cohort size", f"{n_patients} patients{of}: {held(scheme, n_patients, n_sites)}"))
    if sizes.min() < SMALL_FOLD:
        small = sizes[sizes < SMALL_FOLD]
        uncounted = int((sizes <= RESERVED).sum())
        rest = f" Folds of {RESERVED} patients or fewer are not scored: {uncounted}." if uncounted else ""
        found.append((
            "fold size",
            f"{len(small)} of {len(sizes)} folds have fewer than {SMALL_FOLD} patients, the smallest {small.min()}: "
            f"correlations among so few scatter widely, and those of strong signals come out too small.{rest}",
        ))  # fmt: skip
    return found


def held(scheme: Scheme, patients: int, sites: int, table: pd.DataFrame | None = None) -> str:
    """How often the interval held the truth in the simulated cohorts that are nearest to a study's from below.

    By preserved site the number of sites is matched first, by random patients that of patients.  A study
    smaller than all that was simulated is told of the smallest.

    Parameters
    ----------
    table
        As `COVERAGE`, which is read unless it is given.
    """
    table = pd.read_csv(COVERAGE) if table is None else table
    if not (table["scheme"] == scheme).any():
        return f"how often the interval of {scheme} scores holds the truth has not been measured."
    cells, own = table[table["scheme"] == scheme], {"patients": patients, "sites": sites}
    for axis in ("sites", "patients") if scheme == "preserved-site" else ("patients", "sites"):
        below = cells.loc[cells[axis] <= own[axis], axis]
        cells = cells[cells[axis] == (below.max() if len(below) else cells[axis].min())]
    found = {axis: int(cells[axis].iloc[0]) for axis in own}
    larger = found["patients"] > patients or (scheme == "preserved-site" and found["sites"] > sites)
    low, high = _percent(cells["coverage_low"].min()), _percent(cells["coverage_high"].max())
    return (
        f"in simulated cohorts of {found['patients']} patients of {found['sites']} sites"
        f"{', larger than this one,' if larger else ''} the 95 % interval held the truth in "
        f"{low if low == high else f'{low} to {high}'} % of them (docs/validity.md)."
    )


def _percent(share: float) -> int:
    return int(np.floor(100 * share + 0.5 + 1e-9))


def _competing(study: Study) -> list[str]:
    return [*study.encoders, *study.features]
