"""Who is held out together: patients in random folds, or whole sites in preserved-site folds."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsibench.assembly import not_applicable, read_benchmark
from wsibench.core import Artefact, CohortError, NotReady, Scheme, Study, key_at, make_key, read_meta, some, writing
from wsibench.regression.foldfiles import FileFormat, given_digest, read_given, write_splits
from wsibench.regression.sitefolds import hand_out

__all__ = [
    "balance",
    "divide",
    "expected",
    "export",
    "inner_groups",
    "make_folds",
    "not_applicable",
    "read_folds",
    "read_splits",
    "split_names",
]

FORMATS: dict[Scheme, int] = {"preserved-site": 2, "random-patient": 1, "external": 1}
GIVEN_FORMAT = 1
STAGE = "folds"


class UnevenFolds(UserWarning):
    """Folds that cannot be of about equal size."""


class SameFolds(UserWarning):
    """Splits of different seeds that divide the patients alike."""


def split_names(study: Study) -> list[str]:
    """Columns of the study's splits: ``fold``, ``fold_1``, … ``fold_{repeats − 1}``."""
    return ["fold", *(f"fold_{repeat}" for repeat in range(1, study.folds.repeats))]


def expected(study: Study) -> list[Artefact]:
    """One table of folds a scheme.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    CohortError
        When there is no table of folds where the study gives one.
    """
    key_at(study.benchmark_h5ad)
    # Another encoder or another clip leaves the folds as they are: they know patients only.
    patients = read_meta(study.benchmark_h5ad)["facts"]["contents"]["patients"]
    return [Artefact(study.folds_csv(scheme), _key(study, scheme, patients)) for scheme in study.folds.schemes]


def _key(study: Study, scheme: Scheme, patients: str) -> str:
    settings: dict[str, int | str] = {"scheme": scheme, "repeats": study.folds.repeats}
    if scheme in study.folds.given:
        contents = given_digest(_given_path(study, scheme))
        return make_key(STAGE, GIVEN_FORMAT, settings, [patients, contents])
    settings |= {"n": study.folds.n, "seed": study.folds.seed}
    return make_key(STAGE, FORMATS[scheme], settings, [patients])


def divide(study: Study) -> dict[Scheme, pd.Series]:
    """Make the folds that are due, and read all of the study's schemes.

    Raises
    ------
    CohortError
        When the patients cannot be divided as the study says (see `make_folds`), or a table of folds
        that the study gives cannot be read (see `wsibench.regression.foldfiles.read_given`), lacks patients of
        the benchmark or splits, or splits a site in the preserved-site arm.

    Warns
    -----
    UnevenFolds, SameFolds
    """
    patients = read_benchmark(study.benchmark_h5ad).obs
    for scheme, artefact in zip(study.folds.schemes, expected(study), strict=True):
        if artefact.due():
            make = _given_splits if scheme in study.folds.given else _make_splits
            splits, facts = make(study, scheme, patients)
            with writing(artefact, sizes=[_sizes(fold) for _, fold in splits.items()], **facts) as path:
                patients[["site", "subtype"]].join(splits).to_csv(path, index_label="patient_id")
    return {scheme: read_folds(study, scheme) for scheme in study.folds.schemes}


def _make_splits(study: Study, scheme: Scheme, patients: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The study's splits of `patients`, (patients, repeats), and what a sidecar says of them."""
    seeds = range(study.folds.seed, study.folds.seed + study.folds.repeats)
    names = split_names(study)
    splits = pd.DataFrame(
        {
            name: make_folds(patients, scheme=scheme, n=study.folds.n, seed=seed)
            for name, seed in zip(names, seeds, strict=True)
        }
    )
    # Labels of folds mean nothing: folds are the same when they hold the same patients.
    different = {tuple(pd.factorize(fold)[0]) for _, fold in splits.items()}
    if len(different) < len(names):
        warnings.warn(
            f"{len(names)} {scheme} splits of {len(patients)} patients are {len(different)} different ones: there are "
            "few ways of dividing these sites evenly, and what varies between splits is less than it seems.",
            SameFolds,
            stacklevel=3,
        )
    return splits, {}


def _given_path(study: Study, scheme: Scheme) -> Path:
    path = study.resolve(study.folds.given[scheme])
    if path == study.folds_csv(scheme).resolve():
        raise CohortError(
            f"study.yaml gives {path} as folds, which the study itself writes.", "Copy it, and give the copy."
        )
    return path


def _given_splits(study: Study, scheme: Scheme, patients: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The splits that a table of others holds, and what a sidecar says of them; checked as far as `scheme` promises."""
    path, names = _given_path(study, scheme), split_names(study)
    given = read_given(path)
    if not set(names) <= set(given):
        raise CohortError(
            f"{path} holds {given.shape[1]} splits, and the study asks for {len(names)}.",
            "Lower folds.repeats in study.yaml.",
        )
    without = patients.index.difference(given.index)
    if len(without):
        raise CohortError(
            f"{path} has no fold for {len(without)} of {len(patients)} patients: {some(without)}.",
            "Every patient of the benchmark needs one; patients of other cohorts may stay in it.",
        )
    splits = given.loc[patients.index, names]
    for name, fold in splits.items():
        if fold.nunique() < 2:
            raise CohortError(f"{path} holds all {len(patients)} patients of the study in one fold ({name}).")
        if scheme == "preserved-site":
            _check_whole_sites(path, patients, fold)
    return splits, {"given": str(path), "n_other_patients": len(given) - len(patients)}


def _check_whole_sites(path: Path, patients: pd.DataFrame, fold: pd.Series) -> None:
    _check_have_sites(patients)
    folds_of_site = fold.groupby(patients["site"]).unique()
    split = folds_of_site[folds_of_site.map(len) > 1]
    if len(split):
        where = ", ".join(map(str, sorted(split.iloc[0])))
        raise CohortError(
            f"{path} splits {len(split)} sites between folds: {some(split.index)}; {split.index[0]} is in {where}.",
            "Preserved-site folds keep every site whole. Give it under random-patient, or correct it.",
        )


def _sizes(fold: pd.Series) -> list[int]:
    return fold.value_counts().sort_index().tolist()


def read_folds(study: Study, scheme: Scheme) -> pd.Series:
    """The fold in which each patient is held out: the first column of `read_splits`.

    Raises
    ------
    NotReady
        When the folds have not been made.
    CohortError
        When the table does not put every patient of the benchmark into one fold.
    """
    return read_splits(study, scheme)["fold"]


def read_splits(study: Study, scheme: Scheme) -> pd.DataFrame:
    """The fold in which each patient is held out, split by split.

    Returns
    -------
    DataFrame
        int64, patients in the order of the benchmark × splits; columns as `split_names` gives them.

    Raises
    ------
    NotReady
        When the folds, or as many splits as the study asks for, have not been made.
    CohortError
        When the table does not put every patient of the benchmark into one fold of each split.
    """
    path, names = study.folds_csv(scheme), split_names(study)
    key_at(path)
    table = pd.read_csv(path, dtype={"patient_id": str}, index_col="patient_id", keep_default_na=False)
    if not set(names) <= set(table.columns):
        raise NotReady(f"{path} lacks some of {len(names)} splits.", "Run 05_regression, which divides the patients.")
    patients = read_benchmark(study.benchmark_h5ad).obs_names
    if sorted(table.index) != sorted(patients):
        raise CohortError(f"{path} and {study.benchmark_h5ad} are of different patients.", "Delete the table of folds.")
    return table.loc[patients, names].astype(np.int64)


def export(study: Study, scheme: Scheme, path: Path, form: FileFormat) -> None:
    """Write a study's splits of one scheme in a format of `wsibench.regression.foldfiles`.

    Raises
    ------
    NotReady
        When they have not been made.
    CohortError
        When the study has no such scheme, or the format cannot hold its splits.
    """
    if scheme not in study.folds.schemes:
        raise CohortError(f"The study {study.name} has no {scheme} folds.", f"It has {', '.join(study.folds.schemes)}.")
    splits = read_splits(study, scheme)
    write_splits(read_benchmark(study.benchmark_h5ad).obs[["site", "subtype"]].join(splits), path, form)


def make_folds(patients: pd.DataFrame, *, scheme: Scheme, n: int, seed: int) -> pd.Series:
    """Divide patients into folds; the same for the same patients, in whatever order they come.

    ``random-patient`` deals shuffled patients out subtype by subtype, so that the sizes of folds,
    and the numbers of each subtype in them, differ by one at most.  ``preserved-site`` keeps every
    site in one fold [1]_, with sizes and shares of subtypes as even as `wsibench.regression.sitefolds.hand_out`
    makes them.  Another seed gives other folds of about the same balance, where the sites allow more
    than one such division.  ``external`` holds out the test patients together, and the training
    patients never.

    Parameters
    ----------
    patients
        Indexed by patient_id, columns site and subtype (text, empty where unknown); for ``external``
        cohort (train or test).
    scheme
        What is kept together.
    n
        Number of folds.
    seed
        Shuffles patients, or the order of sites.

    Returns
    -------
    Series
        int64, named ``fold``, 0 … n − 1, −1 for patients who are never held out; in the order of `patients`.

    Raises
    ------
    CohortError
        For fewer patients or sites than folds, and patients without a site in the preserved-site arm.

    Warns
    -----
    UnevenFolds
        When one site holds more than half of the patients.

    References
    ----------
    .. [1] Howard et al. 2021, The impact of site-specific digital histology signatures on deep
       learning model accuracy and bias, Nature Communications 12, 4423.
    """
    if not patients.index.is_unique:
        raise CohortError("A patient is listed twice: it would stand in two folds.")
    if scheme == "external":
        return patients["external"].astype(np.int64).rename("fold")
    if len(patients) < n:
        raise CohortError(f"{len(patients)} patients cannot be divided into {n} folds.", "Lower folds.n in study.yaml.")
    ordered = patients.sort_index()
    rng = np.random.default_rng(seed)
    if scheme == "random-patient":
        folds = _deal(ordered["subtype"].to_numpy(str), n, rng)
    else:
        _check_sites(ordered, n)
        folds = _keep_sites(ordered, n, rng)
    return pd.Series(folds, index=ordered.index, name="fold", dtype=np.int64).loc[patients.index]


def inner_groups(patients: pd.DataFrame, scheme: Scheme) -> np.ndarray:
    """What inner folds must not split, (n,) text: sites, but patients in the random-patient arm.

    A training patient of external validation whose site is unknown is a group of their own.
    """
    if scheme == "random-patient":
        return patients.index.to_numpy(str)
    return patients["site"].where(patients["site"] != "", patients.index).to_numpy(str)


def balance(study: Study, patients: pd.DataFrame) -> pd.DataFrame:
    """How even the folds are: a row a scheme and fold, with sizes and the share of each subtype.

    Parameters
    ----------
    patients
        obs of the benchmark.
    """
    tables = []
    for scheme in study.folds.schemes:
        fold = read_folds(study, scheme)
        groups = patients.groupby(fold)
        table = groups["site"].agg(n_patients="size", n_sites=lambda site: site[site != ""].nunique())
        known = patients["subtype"] != ""
        shares = pd.crosstab(fold[known], patients["subtype"][known], normalize="index")
        table = table.join(shares.add_prefix("share ")) if known.any() else table
        tables.append(table.reset_index().assign(scheme=scheme).set_index(["scheme", "fold"]))
    return pd.concat(tables)


def _check_have_sites(patients: pd.DataFrame) -> None:
    without = patients.index[patients["site"] == ""]
    if len(without):
        raise CohortError(
            f"{len(without)} patients have no site ({some(without)}), which preserved-site folds need.",
            "Fill in the column `site`, or set `folds: {schemes: [random-patient]}` in study.yaml.",
        )


def _check_sites(patients: pd.DataFrame, n: int) -> None:
    _check_have_sites(patients)
    sizes = patients["site"].value_counts()
    if len(sizes) < n:
        raise CohortError(
            f"{len(sizes)} sites cannot be divided into {n} preserved-site folds.",
            "Lower folds.n, or set `folds: {schemes: [random-patient]}` in study.yaml.",
        )
    if sizes.iloc[0] > len(patients) / 2:
        warnings.warn(
            f"Site {sizes.index[0]} has {sizes.iloc[0]} of {len(patients)} patients: the fold that holds it out is "
            "predicted by models that saw fewer than half of the patients, and weighs more than all others.",
            UnevenFolds,
            stacklevel=3,
        )


def _deal(subtypes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Folds of shuffled patients, dealt out one by one with like next to like."""
    order = rng.permutation(len(subtypes))
    order = order[np.argsort(subtypes[order], kind="stable")]
    folds = np.empty(len(subtypes), np.int64)
    folds[order] = rng.permutation(n)[np.arange(len(order)) % n]
    return folds


def _keep_sites(patients: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    sites, site = np.unique(patients["site"].to_numpy(str), return_inverse=True)
    known = patients["subtype"].to_numpy(str) != ""
    subtypes, subtype = np.unique(patients["subtype"].to_numpy(str)[known], return_inverse=True)
    counts = np.zeros((len(sites), 1 + len(subtypes)))  # patients of a site, in all and of each known subtype
    np.add.at(counts[:, 0], site, 1)
    np.add.at(counts, (site[known], 1 + subtype), 1)
    return hand_out(counts, n, rng)[site]
