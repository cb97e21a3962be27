"""Assignment to folds: groups that are kept whole, balance, and refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from wsibench.core import CohortError, Folds
from wsibench.regression import folds
from wsibench.regression.folds import assign, inner_groups

SCHEMES = ["preserved-site", "random-patient"]


def patients(sizes, seed=0, subtypes=("LumA", "LumB", "Basal", "")):
    """Patients at sites of these sizes, with subtypes at random."""
    rng = np.random.default_rng(seed)
    site = [f"S{i:02d}" for i, size in enumerate(sizes) for _ in range(size)]
    index = pd.Index([f"P{i:04d}" for i in range(len(site))], name="patient_id")
    return pd.DataFrame({"site": site, "subtype": rng.choice(subtypes, len(site))}, index=index)


cohorts = st.builds(
    patients, st.lists(st.integers(1, 60), min_size=3, max_size=25), st.integers(0, 9), st.just(("A", "B", ""))
)


# Properties


@given(cohorts, st.integers(2, 3), st.integers(0, 5), st.sampled_from(SCHEMES))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::wsibench.regression.folds.UnevenFolds")
def test_every_patient_is_in_one_fold_and_no_fold_is_empty(table, n, seed, scheme):
    fold = assign(table, scheme, n, seed)
    assert fold.index.equals(table.index)
    assert fold.name == "fold"
    assert sorted(fold.unique()) == list(range(n))
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(assign(shuffled, scheme, n, seed), fold.loc[shuffled.index])


@given(cohorts, st.integers(2, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::wsibench.regression.folds.UnevenFolds")
def test_a_site_is_never_split_and_no_fold_exceeds_its_share_by_more_than_a_site(table, n, seed):
    fold = assign(table, "preserved-site", n, seed)
    assert (fold.groupby(table["site"]).agg(np.ptp) == 0).all()
    largest = table["site"].value_counts().iloc[0]
    assert fold.value_counts().max() <= len(table) / n + largest


@given(cohorts, st.integers(2, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_random_folds_differ_by_one_patient_in_all_and_of_each_subtype(table, n, seed):
    fold = assign(table, "random-patient", n, seed)
    assert np.ptp(fold.value_counts()) <= 1
    counts = pd.crosstab(fold, table["subtype"])
    assert (counts.max() - counts.min()).max() <= 1


def test_moves_and_swaps_find_an_even_division_where_there_is_one():
    fold = assign(patients([5, 5, 4, 4, 3, 3, 3, 3]), "preserved-site", 3, 0)
    assert fold.value_counts().tolist() == [10, 10, 10]


def test_subtypes_are_balanced_beyond_sizes():
    table = patients([20] * 10)
    table["subtype"] = np.where(table["site"] < "S05", "A", "B")  # a site has patients of one subtype only
    fold = assign(table, "preserved-site", 5, 0)
    assert pd.crosstab(fold, table["subtype"]).to_numpy().tolist() == [[20, 20]] * 5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_seed_gives_other_folds(scheme):
    table = patients([40, 30, 20, 20, 10, 10, 10, 5, 5, 5, 5, 5, 3, 2, 1], subtypes=("",))
    made = [assign(table, scheme, 5, seed) for seed in range(4)]
    together = [np.equal.outer(fold.to_numpy(), fold.to_numpy()) for fold in made]
    assert all((together[0] != other).any() for other in together[1:])
    assert {fold.value_counts().max() for fold in made} <= {40, 35}  # 40 is the largest site; 171 / 5 = 34.2


def test_a_cohort_without_sites_has_random_folds():
    table = patients([10]).assign(site="")
    assert assign(table, "random-patient", 5, 0).value_counts().tolist() == [2] * 5


def test_inner_folds_keep_what_outer_folds_keep():
    table = patients([2, 1])
    assert inner_groups(table, "preserved-site").tolist() == ["S00", "S00", "S01"]
    assert inner_groups(table, "random-patient").tolist() == ["P0000", "P0001", "P0002"]


# Refusals


@pytest.mark.parametrize(
    ("table", "scheme", "words"),
    [
        (patients([3, 1]), "random-patient", ["4 patients", "5 folds"]),
        (patients([9, 9, 9]), "preserved-site", ["3 sites", "5 preserved-site folds", "random-patient"]),
        (patients([50]), "preserved-site", ["1 sites", "5 preserved-site folds", "random-patient"]),
        (patients([9] * 6).replace("S03", ""), "preserved-site", ["9 patients have no site", "P0027"]),
    ],
)
def test_patients_that_cannot_be_divided_are_refused(table, scheme, words):
    with pytest.raises(CohortError) as info:
        assign(table, scheme, 5, 0)
    for word in words:
        assert word in str(info.value)


def test_a_site_of_more_than_half_the_cohort_is_warned_of():
    with pytest.warns(folds.UnevenFolds, match="Site S00 has 51 of 100 patients"):
        fold = assign(patients([51, 20, 10, 10, 9]), "preserved-site", 3, 0)
    assert sorted(fold.value_counts()) in ([20, 29, 51], [19, 30, 51])


def test_a_patient_who_is_listed_twice_is_refused():
    table = patients([5, 5, 5])
    with pytest.raises(CohortError, match="listed twice"):
        assign(pd.concat([table, table.iloc[:1]]), "random-patient", 3, 0)


@pytest.mark.parametrize("subtypes", [("",), ("A",), ("A", "B", "")])
def test_one_site_with_half_of_the_patients_leaves_the_other_folds_even(subtypes):
    table = patients([50, 10, 10, 10, 5, 5, 5, 5], subtypes=subtypes)  # just not more than half
    fold = assign(table, "preserved-site", 3, 0)
    assert sorted(fold.value_counts()) == [25, 25, 50]


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        (patients([5] * 6), {}, []),
        (patients([3, 1]), {}, ["4 patients cannot be divided into 5 folds"] * 2),
        (patients([9, 9, 9]), {}, ["3 sites cannot be divided into 5 preserved-site folds"]),
        (patients([9, 9, 9]), {"schemes": ["random-patient"]}, []),
        (patients([9, 9, 9]), {"given": {"preserved-site": "mine.csv"}}, []),
        (patients([9] * 6).replace("S03", ""), {}, ["9 patients have no site"]),
        (patients([5] * 4), {"n": 4}, []),
        (patients([3] * 6), {"n": 6}, ["18 patients in 6 folds are 3 a fold"]),
    ],
)
def test_faults_are_found_before_the_work(table, settings, words):
    faults = folds.check_folds(table, Folds(**settings))
    assert len(faults) == len(words)
    for fault, word in zip(faults, words, strict=True):
        assert word in fault.what
        assert "folds" in fault.remedy


# Balance


def test_balance_lists_sizes_sites_and_shares_of_subtypes():
    table = patients([12, 8, 8, 6, 6])
    found = folds.balance(table, assign(table, "preserved-site", 4, 0))
    assert found["n_patients"].sum() == 40
    assert found["n_sites"].sum() == 5
    np.testing.assert_allclose(found.filter(like="share ").sum(axis=1), 1)


def test_balance_without_sites_or_subtypes_lists_sizes():
    table = patients([40]).assign(site="", subtype="")
    found = folds.balance(table, assign(table, "random-patient", 4, 0))
    assert found["n_patients"].tolist() == [10] * 4
    assert found["n_sites"].tolist() == [0] * 4
    assert found.columns.tolist() == ["n_patients", "n_sites"]
