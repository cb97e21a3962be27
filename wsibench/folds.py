"""Who is held out together: patients in random folds, or whole sites in preserved-site folds."""

import warnings

import numpy as np
import pandas as pd

from wsibench.artefacts import Artefact, key_at, make_key, read_meta, writing
from wsibench.assembly import not_applicable, read_benchmark
from wsibench.errors import CohortError, NotReady
from wsibench.sections import Scheme
from wsibench.study import Study

__all__ = [
    "balance",
    "divide",
    "expected",
    "inner_groups",
    "make_folds",
    "not_applicable",
    "read_folds",
    "read_splits",
    "split_names",
]

FORMAT = 1
STAGE = "folds"

RESTARTS = 40
"""Orders in which sites are handed out; one of the best outcomes is taken."""
JITTER = 0.3
"""Share by which a site's size is varied to vary the order."""
SIZE_WEIGHT = 10.0
"""How much more a patient too many in a fold counts than one of a subtype too many: sizes come first."""
TOLERANCE = 2.0
"""Outcomes as good as the best: within the cost of two folds that are a patient too large or small."""


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
    """
    key_at(study.benchmark_h5ad)
    # Another encoder or another clip leaves the folds as they are: they know patients only.
    patients = read_meta(study.benchmark_h5ad)["facts"]["contents"]["patients"]
    settings = study.folds.model_dump(mode="json", exclude={"schemes"})
    if study.folds.repeats == 1:  # what was divided once before there were repeats stays as it is
        del settings["repeats"]
    return [
        Artefact(study.folds_csv(scheme), make_key(STAGE, FORMAT, {**settings, "scheme": scheme}, [patients]))
        for scheme in study.folds.schemes
    ]


def divide(study: Study) -> dict[Scheme, pd.Series]:
    """Make the folds that are due, and read all of the study's schemes.

    Raises
    ------
    CohortError
        When the patients cannot be divided as the study says; see `make_folds`.
    """
    patients = read_benchmark(study).obs
    for scheme, artefact in zip(study.folds.schemes, expected(study), strict=True):
        if artefact.due():
            splits = _make_splits(study, scheme, patients)
            with writing(artefact, sizes=[_sizes(fold) for _, fold in splits.items()]) as path:
                patients[["site", "subtype"]].join(splits).to_csv(path, index_label="patient_id")
    return {scheme: read_folds(study, scheme) for scheme in study.folds.schemes}


def _make_splits(study: Study, scheme: Scheme, patients: pd.DataFrame) -> pd.DataFrame:
    """The study's splits of `patients`, (patients, repeats)."""
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
    return splits


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
    patients = read_benchmark(study).obs_names
    if sorted(table.index) != sorted(patients):
        raise CohortError(f"{path} and {study.benchmark_h5ad} are of different patients.", "Delete the table of folds.")
    return table.loc[patients, names].astype(np.int64)


def make_folds(patients: pd.DataFrame, *, scheme: Scheme, n: int, seed: int) -> pd.Series:
    """Divide patients into folds; the same for the same patients, in whatever order they come.

    ``random-patient`` deals shuffled patients out subtype by subtype, so that the sizes of folds,
    and the numbers of each subtype in them, differ by one at most.  ``preserved-site`` keeps every
    site in one fold [1]_: sites are handed out from the largest to the smallest, each to the fold
    that it balances best, and then moved and swapped for as long as that helps.  Another seed gives
    other folds of about the same balance, where the sites allow more than one such division.
    ``external`` holds out the test patients together, and the training patients never.

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
        return (patients["cohort"] == "test").astype(np.int64).sub(1).rename("fold")
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


def _check_sites(patients: pd.DataFrame, n: int) -> None:
    without = patients.index[patients["site"] == ""]
    if len(without):
        raise CohortError(
            f"{len(without)} patients have no site ({', '.join(without[:3])}…), which preserved-site folds need.",
            "Fill in the column `site`, or set `folds: {schemes: [random-patient]}` in study.yaml.",
        )
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
    subtypes, subtype = np.unique(patients["subtype"].to_numpy(str), return_inverse=True)
    counts = np.zeros((len(sites), 1 + len(subtypes)))  # patients of a site, in all and of each subtype
    np.add.at(counts, (site, 1 + subtype), 1)
    counts[:, 0] = counts[:, 1:].sum(axis=1)
    weights = np.r_[SIZE_WEIGHT, np.ones(len(subtypes))]
    handed_out = [_improved(_greedy(counts, n, weights, rng), counts, n, weights) for _ in range(RESTARTS)]
    costs = np.array([(_excess(folds, counts, n) ** 2 @ weights).sum() for folds in handed_out])
    # Any of the good ones: the very best would be the same for every seed, and hide how much the
    # choice of folds matters.
    return handed_out[rng.choice(np.flatnonzero(costs <= costs.min() + TOLERANCE * SIZE_WEIGHT))][site]


def _excess(folds: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """What each fold holds, in all and of each subtype, less its even share; (n, 1 + n_subtypes)."""
    return np.stack([counts[folds == fold].sum(axis=0) for fold in range(n)]) - counts.sum(axis=0) / n


def _greedy(counts: np.ndarray, n: int, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sites handed out about from the largest to the smallest, each where it costs least; (n_sites,).

    Parameters
    ----------
    counts
        (n_sites, 1 + n_subtypes) patients of each site, in all and by subtype.
    weights
        (1 + n_subtypes,) what a squared excess of a fold costs.
    """
    folds = np.full(len(counts), -1)
    excess = _excess(folds, counts, n)
    order = np.argsort(-counts[:, 0] * rng.uniform(1 - JITTER, 1 + JITTER, len(counts)))
    for rank, site in enumerate(order):
        cost = ((excess + counts[site]) ** 2 - excess**2) @ weights
        if rank < n:  # no fold stays empty
            cost[np.isin(np.arange(n), folds)] = np.inf
        shuffled = rng.permutation(n)  # among equals the first wins
        folds[site] = shuffled[np.argmin(cost[shuffled])]
        excess[folds[site]] += counts[site]
    return folds


def _improved(folds: np.ndarray, counts: np.ndarray, n: int, weights: np.ndarray) -> np.ndarray:
    """The folds after the best move of a site, or swap of two, again and again until none helps.

    Moving counts x from fold a to fold b changes the cost Σ w excess² by
    2 (x·excess_b − x·excess_a + x·x), with · weighted by w; a swap moves the difference of two sites.
    """
    folds, every = folds.copy(), np.arange(len(counts))
    products = (counts * weights) @ counts.T  # (n_sites, n_sites)
    own = np.diag(products)
    while True:
        held = (counts * weights) @ _excess(folds, counts, n).T  # (n_sites, n)
        here, there = held[every, folds], held[:, folds]  # there: site i in the fold of site j
        move = held - here[:, None] + own[:, None]
        move[every, folds] = np.inf
        move[np.bincount(folds, minlength=n)[folds] == 1] = np.inf  # no fold becomes empty
        swap = there + there.T - here[:, None] - here + own[:, None] + own - 2 * products
        swap[folds[:, None] == folds] = np.inf
        if min(move.min(), swap.min()) > -1e-6:
            return folds
        if move.min() <= swap.min():
            site, fold = np.unravel_index(np.argmin(move), move.shape)
            folds[site] = fold
        else:
            one, other = np.unravel_index(np.argmin(swap), swap.shape)
            folds[one], folds[other] = folds[other], folds[one]
