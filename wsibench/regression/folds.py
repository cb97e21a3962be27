"""Assignment of patients to folds: patients in random folds, or whole sites in preserved-site folds.

Folds are written as a CSV with the column patient_id and one column for each split (fold, fold_1, …), which hold the
fold that holds the patient out, from 0.  Folds made elsewhere are read in the same format.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsibench.assembly import contents, read_benchmark
from wsibench.core import (
    Artefact,
    CohortError,
    Folds,
    Scheme,
    Study,
    file_sha256,
    key_at,
    make_key,
    read_rows,
    some,
    writing,
)
from wsibench.regression.metrics import RESERVED

FORMAT = 4
STAGE = "folds"
SIZE_TOLERANCE = 0.01
"""Share by which a fold may be larger or smaller than the mean; more where the sites allow no better."""
SIZE_WEIGHT = 3.0
"""Weight of the squared deviation of a fold's size, against that of its number of patients of a subtype."""
JITTER = 0.6
"""Share by which a site's size is varied at random to vary the order in which sites are assigned."""


class UnevenFolds(UserWarning):
    """One site has so many patients that folds cannot be of about equal size."""


class SameFolds(UserWarning):
    """Splits of different seeds divide the patients in the same way."""


def assign(patients: pd.DataFrame, scheme: Scheme, n: int, seed: int) -> pd.Series:
    """Assign patients to folds, independently of the order of the rows.

    ``random-patient`` assigns shuffled patients in turn, subtype by subtype, so that fold sizes, and the number
    of patients of each subtype, differ by one at most.  ``preserved-site`` keeps every site in one fold [1]_,
    with sizes and shares of subtypes as even as the sites allow.  ``external`` takes the folds from the column
    ``external``.

    Parameters
    ----------
    patients
        Indexed by patient_id, columns site and subtype (text, empty where unknown); for ``external`` the column
        external (−1 trained on, 0 tested).
    scheme
        Scheme of folds.
    n
        Number of folds.
    seed
        Seed of the order of patients or sites; another one gives other folds of about the same balance, where the
        sites allow more than one such division.

    Returns
    -------
    Series
        int64, named ``fold``, 0 … n − 1, −1 for patients who are never held out; in the order of `patients`.

    Raises
    ------
    CohortError
        For a patient listed twice, fewer patients or sites than folds, and, with preserved sites, patients without
        a site.

    Warns
    -----
    UnevenFolds
        When one site has more than half of the patients.

    References
    ----------
    .. [1] Howard et al. 2021, The impact of site-specific digital histology signatures on deep
       learning model accuracy and bias, Nature Communications 12, 4423.
    """
    if not patients.index.is_unique:
        raise CohortError("A patient is listed twice and would be in two folds.")
    if scheme == "external":
        return patients["external"].astype(np.int64).rename("fold")
    if faults := _faults(patients, scheme, n):
        raise faults[0]
    ordered = patients.sort_index()
    divide_up = _random_folds if scheme == "random-patient" else _site_folds
    folds = divide_up(ordered, n, np.random.default_rng(seed))
    return pd.Series(folds, index=ordered.index, name="fold", dtype=np.int64).loc[patients.index]


def _random_folds(patients: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    """Assign shuffled patients to the folds in turn, one subtype after the other."""
    order = rng.permutation(len(patients))
    order = order[np.argsort(patients["subtype"].to_numpy(str)[order], kind="stable")]
    folds = np.empty(len(patients), np.int64)
    folds[order] = rng.permutation(n)[np.arange(len(order)) % n]
    return folds


def _site_folds(patients: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    """Assign whole sites to folds, by greedy assignment with random restarts.

    Sites are assigned from about the largest to the smallest, each to the fold that it balances best.  Of many such
    assignments, each in another random order, those with folds of about equal size are kept, and the one whose shares
    of subtypes are closest to the cohort's is returned.
    """
    site, names = pd.factorize(patients["site"], sort=True)
    by_subtype = pd.crosstab(patients["site"], patients["subtype"]).drop(columns="", errors="ignore")
    counts = np.c_[np.bincount(site), by_subtype.loc[names]].astype(float)  # all patients, and those of each subtype
    if counts[:, 0].max() > len(patients) / 2:
        name, size = names[counts[:, 0].argmax()], int(counts[:, 0].max())
        warnings.warn(
            f"Site {name} has {size} of {len(patients)} patients: the fold that holds it out is "
            "predicted by models of fewer than half of the patients, and weighs more than all other folds.",
            UnevenFolds,
            stacklevel=3,
        )
    restarts = min(250 * len(names), 400_000 // len(names))
    share, mean = counts[:, 1:].sum(axis=0) / max(1, counts[:, 1:].sum()), len(patients) / n

    def excess(members: np.ndarray) -> np.ndarray:
        return members[..., 1:] - members[..., 1:].sum(axis=-1, keepdims=True) * share

    def cost(members: np.ndarray) -> np.ndarray:
        return SIZE_WEIGHT * np.square(members[..., 0] - mean) + np.square(excess(members)).sum(axis=-1)

    order = np.argsort(-counts[:, 0] * rng.uniform(1 - JITTER, 1 + JITTER, (restarts, len(names))), axis=1)
    members, folds = np.zeros((restarts, n, counts.shape[1])), np.empty(order.shape, np.int64)
    each = np.arange(restarts)
    for step, chosen in enumerate(order.T):
        added = cost(members + counts[chosen, None]) - cost(members)
        if step < n:
            added[members[..., 0] > 0] = np.inf  # the first sites open a fold each
        folds[each, chosen] = added.argmin(axis=1)
        members[each, folds[each, chosen]] += counts[chosen]
    uneven = np.abs(members[..., 0] - mean).max(axis=1)
    known = np.maximum(1, members[..., 1:].sum(axis=-1, keepdims=True))
    unlike = np.abs(excess(members) / known).max(axis=(1, 2), initial=0)
    unlike[uneven > max(uneven.min(), SIZE_TOLERANCE * mean)] = np.inf
    return rng.permutation(n)[folds[unlike.argmin()]][site]


def check_folds(patients: pd.DataFrame, settings: Folds) -> list[CohortError]:
    """List why patients cannot be divided as a study asks for, and what would work.

    Parameters
    ----------
    patients
        Indexed by patient_id, column site (text, empty where unknown).
    settings
        Section ``folds`` of study.yaml; schemes whose folds are given by a table are not checked.
    """
    made = [scheme for scheme in settings.schemes if scheme not in settings.given and scheme != "external"]
    faults = [fault for scheme in made for fault in _faults(patients, scheme, settings.n)]
    size = len(patients) // settings.n
    if made and not faults and size <= RESERVED:
        needs = f"correlations within a fold need more than {RESERVED}"
        what = f"{len(patients)} patients in {settings.n} folds are {size} a fold: {needs}."
        enough = max(2, len(patients) // (RESERVED + 1))
        faults.append(CohortError(what, f"Set folds.n to {enough} or fewer, or add patients."))
    return faults


def _faults(patients: pd.DataFrame, scheme: Scheme, n: int) -> list[CohortError]:
    random = "`folds: {schemes: [random-patient]}`"
    if len(patients) < n:
        return [CohortError(f"{len(patients)} patients cannot be divided into {n} folds.", "Lower folds.n.")]
    if scheme != "preserved-site":
        return []
    without = patients.index[patients["site"] == ""]
    if len(without):
        what = f"{len(without)} patients have no site ({some(without)}), which preserved-site folds need."
        return [CohortError(what, f"Fill in the column `site`, or set {random} in study.yaml.")]
    n_sites = patients["site"].nunique()
    if n_sites < n:
        lower = f"set folds.n to {n_sites} or fewer, or " if n_sites > 1 else ""
        what = f"{n_sites} sites cannot be divided into {n} preserved-site folds."
        return [CohortError(what, f"In study.yaml, {lower}set {random}.")]
    return []


def inner_groups(patients: pd.DataFrame, scheme: Scheme) -> np.ndarray:
    """Groups that inner folds must not split, text (n,): sites, but patients in the random-patient arm.

    A training patient of external validation whose site is unknown is a group of their own.
    """
    if scheme == "random-patient":
        return patients.index.to_numpy(str)
    return patients["site"].where(patients["site"] != "", patients.index).to_numpy(str)


def balance(patients: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """Summarise the folds of one split: n_patients, n_sites and the share of each known subtype, by fold.

    Parameters
    ----------
    patients
        Indexed by patient_id, columns site and subtype (text, empty where unknown).
    fold
        Fold of each patient.
    """
    table = patients.groupby(fold)["site"].agg(n_patients="size", n_sites=lambda site: site[site != ""].nunique())
    known = patients["subtype"] != ""
    if not known.any():
        return table
    shares = pd.crosstab(fold[known], patients["subtype"][known], normalize="index")
    return table.join(shares.add_prefix("share "))


# Tables


def split_names(n: int) -> list[str]:
    """Names of the columns of `n` splits: ``fold``, ``fold_1``, … ``fold_{n − 1}``."""
    return ["fold", *(f"fold_{repeat}" for repeat in range(1, n))]


def given(path: Path, patients: pd.DataFrame, scheme: Scheme, n_splits: int) -> pd.DataFrame:
    """Read folds made elsewhere: a CSV with the columns patient_id and fold, fold_1, …, one for each split.

    Parameters
    ----------
    path
        The CSV; patients and columns that are not asked for may be in it.
    patients
        Patients who need a fold, indexed by patient_id; column site (text, empty where unknown).
    scheme
        With ``preserved-site`` every site has to be in one fold.
    n_splits
        Number of splits.

    Returns
    -------
    DataFrame
        int64 (patients, splits), in the order of `patients`.

    Raises
    ------
    CohortError
        For missing columns and patients, a value that is not a whole number from 0, a patient listed twice, a split of
        one fold alone, and a site in several folds.
    """
    table, names = read_rows(path), split_names(n_splits)
    if absent := [name for name in ["patient_id", *names] if name not in table]:
        what = f"{path} has no column {some(absent)}; its columns are {some(list(table), 12)}."
        raise CohortError(what, "Give patient_id and, for each split, fold, fold_1, …; or lower folds.repeats.")
    table = table.set_index("patient_id")[names]
    if twice := sorted(set(table.index[table.index.duplicated()])):
        raise CohortError(f"{path} lists {some(twice)} twice.", "Give a patient one row.")
    if without := patients.index.difference(table.index).tolist():
        what = f"{path} has no fold for {len(without)} of {len(patients)} patients: {some(without)}."
        raise CohortError(what, "Every patient of the benchmark needs one; patients of other cohorts may stay in it.")
    table = table.loc[patients.index]
    valid = table.apply(lambda column: column.str.fullmatch(r"[0-9]{1,6}")).all(axis=1)
    if wrong := table.index[~valid].tolist():
        what = f"{path}: the folds of patient {wrong[0]} are {', '.join(table.loc[wrong[0]])!r}."
        raise CohortError(what, "Folds are whole numbers from 0.")
    splits = table.astype(np.int64)
    for name, fold in splits.items():
        if fold.nunique() < 2:
            raise CohortError(f"{path} has all {len(patients)} patients of the study in one fold ({name}).")
        if scheme == "preserved-site":
            _check_whole_sites(path, patients, fold)
    return splits


def _check_whole_sites(path: Path, patients: pd.DataFrame, fold: pd.Series) -> None:
    if faults := _faults(patients, "preserved-site", 1):
        raise faults[0]
    folds_of_site = fold.groupby(patients["site"]).unique()
    split = folds_of_site[folds_of_site.map(len) > 1]
    if len(split):
        where = ", ".join(map(str, sorted(split.iloc[0])))
        raise CohortError(
            f"{path} splits {len(split)} sites between folds: {some(split.index)}; {split.index[0]} is in {where}.",
            "Preserved-site folds keep every site whole. Give it under random-patient, or correct it.",
        )


def read(path: Path, patients: pd.Index | None = None) -> pd.DataFrame:
    """Read the folds of a study.

    Parameters
    ----------
    path
        ``folds/<scheme>.csv``.
    patients
        Patients in the wanted order; the order of the file unless given.

    Returns
    -------
    DataFrame
        int64 (patients, splits), indexed by patient_id; the column ``fold`` is the first split.

    Raises
    ------
    NotReady
        When the folds have not been made.
    CohortError
        When the file has other patients.
    """
    key_at(path)
    splits = pd.read_csv(path, dtype={"patient_id": str}, index_col="patient_id", keep_default_na=False)
    if patients is None:
        return splits
    if sorted(splits.index) != sorted(patients):
        raise CohortError(f"{path} and the benchmark are of different patients.", "Delete the table of folds.")
    return splits.loc[patients]


def expected(study: Study) -> list[Artefact]:
    """List one table of folds for each scheme, with its key, or raise `NotReady` without a benchmark."""
    patients = contents(study)["patients"]  # other encoders or expression leave the folds as they are
    artefacts = []
    for scheme in study.folds.schemes:
        settings: dict[str, Any] = {"scheme": scheme, "repeats": study.folds.repeats}
        if scheme in study.folds.given:
            settings["given"] = file_sha256(_given_path(study, scheme))
        else:
            settings |= {"n": study.folds.n, "seed": study.folds.seed}
        artefacts.append(Artefact(study.folds_csv(scheme), make_key(STAGE, FORMAT, settings, [patients])))
    return artefacts


def _given_path(study: Study, scheme: Scheme) -> Path:
    path = study.resolve(study.folds.given[scheme])
    if not path.is_file() or path == study.folds_csv(scheme).resolve():
        what = f"There is no table of folds {path}, or the study itself writes it."
        raise CohortError(what, "Correct `folds: {given: …}` in study.yaml.")
    return path


def divide(study: Study) -> dict[Scheme, pd.DataFrame]:
    """Make the folds that are due, and read those of all schemes of the study.

    Returns
    -------
    dict
        By scheme, int64 (patients, splits), as `read`.

    Raises
    ------
    CohortError
        When the patients cannot be divided (see `assign`), or a table of folds cannot be used (see `given`).

    Warns
    -----
    UnevenFolds, SameFolds
    """
    patients = read_benchmark(study.benchmark_h5ad).obs
    for scheme, artefact in zip(study.folds.schemes, expected(study), strict=True):
        if artefact.due():
            if scheme in study.folds.given:
                splits = given(_given_path(study, scheme), patients, scheme, study.folds.repeats)
            else:
                splits = _splits(study, scheme, patients)
            with writing(artefact) as path:
                splits.to_csv(path, index_label="patient_id")
    return {scheme: read(study.folds_csv(scheme), patients.index) for scheme in study.folds.schemes}


def _splits(study: Study, scheme: Scheme, patients: pd.DataFrame) -> pd.DataFrame:
    """Divide the patients by seed, seed + 1, …, once for each split."""
    names = split_names(study.folds.repeats)
    splits = pd.DataFrame(
        {name: assign(patients, scheme, study.folds.n, study.folds.seed + i) for i, name in enumerate(names)}
    )
    # Labels of folds are arbitrary: splits are the same when their folds hold the same patients.
    different = {tuple(pd.factorize(fold)[0]) for _, fold in splits.items()}
    if len(different) < len(names):
        warnings.warn(
            f"{len(names)} {scheme} splits of {len(patients)} patients are {len(different)} different ones: there are "
            "few ways of dividing these sites evenly, and the variation between splits is underestimated.",
            SameFolds,
            stacklevel=3,
        )
    return splits


def export(study: Study, scheme: Scheme, path: Path) -> None:
    """Copy the folds of the scheme `scheme` of a study to the CSV file `path`, which another study can be given."""
    if scheme not in study.folds.schemes:
        raise CohortError(f"The study {study.name} has no {scheme} folds.", f"It has {', '.join(study.folds.schemes)}.")
    key_at(study.folds_csv(scheme))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study.folds_csv(scheme), path)
