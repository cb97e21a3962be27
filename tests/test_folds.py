"""Folds: whom they keep together, how even they are, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wsibench import assembly, cohort, folds
from wsibench.artefacts import Artefact, make_key, read_meta, writing
from wsibench.errors import CohortError, NotReady
from wsibench.folds import inner_groups, make_folds
from wsibench.study import Study

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


def shares(table, fold):
    """Largest deviation of a subtype's share in a fold from its share in the cohort."""
    known = table["subtype"] != ""
    counts = pd.crosstab(fold[known], table["subtype"][known], normalize="index")
    return (counts - table["subtype"][known].value_counts(normalize=True)).abs().to_numpy().max()


# Properties


@given(cohorts, st.integers(2, 3), st.integers(0, 5), st.sampled_from(SCHEMES))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::wsibench.folds.UnevenFolds")
def test_every_patient_is_in_one_fold_and_no_fold_is_empty(table, n, seed, scheme):
    fold = make_folds(table, scheme=scheme, n=n, seed=seed)
    assert fold.index.equals(table.index)
    assert fold.name == "fold"
    assert sorted(fold.unique()) == list(range(n))
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(make_folds(shuffled, scheme=scheme, n=n, seed=seed), fold.loc[shuffled.index])


@given(cohorts, st.integers(2, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::wsibench.folds.UnevenFolds")
def test_a_site_is_never_split_and_no_fold_exceeds_its_share_by_more_than_a_site(table, n, seed):
    fold = make_folds(table, scheme="preserved-site", n=n, seed=seed)
    assert (fold.groupby(table["site"]).agg(np.ptp) == 0).all()
    largest = table["site"].value_counts().iloc[0]
    assert fold.value_counts().max() <= len(table) / n + largest


@given(cohorts, st.integers(2, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_random_folds_differ_by_one_patient_in_all_and_of_each_subtype(table, n, seed):
    fold = make_folds(table, scheme="random-patient", n=n, seed=seed)
    assert np.ptp(fold.value_counts()) <= 1
    counts = pd.crosstab(fold, table["subtype"])
    assert (counts.max() - counts.min()).max() <= 1


def test_moves_and_swaps_find_an_even_division_where_there_is_one():
    fold = make_folds(patients([5, 5, 4, 4, 3, 3, 3, 3]), scheme="preserved-site", n=3, seed=0)
    assert fold.value_counts().tolist() == [10, 10, 10]


def test_subtypes_are_balanced_beyond_sizes():
    table = patients([20] * 10)
    table["subtype"] = np.where(table["site"] < "S05", "A", "B")  # a site has patients of one subtype only
    fold = make_folds(table, scheme="preserved-site", n=5, seed=0)
    assert pd.crosstab(fold, table["subtype"]).to_numpy().tolist() == [[20, 20]] * 5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_seed_gives_other_folds(scheme):
    table = patients([40, 30, 20, 20, 10, 10, 10, 5, 5, 5, 5, 5, 3, 2, 1], subtypes=("",))
    made = [make_folds(table, scheme=scheme, n=5, seed=seed) for seed in range(4)]
    together = [np.equal.outer(fold.to_numpy(), fold.to_numpy()) for fold in made]
    assert all((together[0] != other).any() for other in together[1:])
    assert {fold.value_counts().max() for fold in made} <= {40, 35}  # 40 is the largest site; 171 / 5 = 34.2


def test_a_cohort_without_sites_has_random_folds():
    table = patients([10]).assign(site="")
    assert make_folds(table, scheme="random-patient", n=5, seed=0).value_counts().tolist() == [2] * 5


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
        (patients([9] * 6).replace("S03", ""), "preserved-site", ["9 patients have no site", "P0027"]),
    ],
)
def test_patients_that_cannot_be_divided_are_refused(table, scheme, words):
    with pytest.raises(CohortError) as info:
        make_folds(table, scheme=scheme, n=5, seed=0)
    for word in words:
        assert word in str(info.value)


def test_a_site_of_more_than_half_the_cohort_is_warned_of():
    with pytest.warns(folds.UnevenFolds, match="Site S00 has 51 of 100 patients"):
        fold = make_folds(patients([51, 20, 10, 10, 9]), scheme="preserved-site", n=3, seed=0)
    assert sorted(fold.value_counts()) in ([20, 29, 51], [19, 30, 51])


# Files


@pytest.fixture
def study(data_root):
    """A benchmark of forty patients, features from a table."""
    folder = data_root / "own"
    folder.mkdir()
    table = patients([12, 8, 8, 6, 6])
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(rng.normal(size=(len(table), 3)), index=table.index, columns=["a", "b", "c"])
    table.to_csv(folder / "patients.csv")
    numbers.to_csv(folder / "expression.csv")
    numbers.to_csv(folder / "features.csv")
    write_yaml(folder)
    study = Study.load("own")
    cohort.build(study)
    assembly.assemble(study)
    return study


def write_yaml(folder, **settings):
    source = {"source": "local", "patients": "patients.csv", "expression": "expression.csv"}
    features = {"own": {"table": "features.csv"}}
    content = {"title": "T", "cohort": source, "features": features, "folds": {"n": 4, **settings}}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))


def test_folds_are_written_once_and_read_in_the_benchmarks_order(study):
    made = folds.divide(study)
    assert list(made) == SCHEMES
    table = pd.read_csv(study.folds_csv("preserved-site"), dtype=str, keep_default_na=False)
    assert list(table.columns) == ["patient_id", "site", "subtype", "fold"]
    assert made["preserved-site"].index.tolist() == assembly.read_benchmark(study).obs_names.tolist()
    stamp = study.folds_csv("preserved-site").stat().st_mtime_ns
    pd.testing.assert_series_equal(folds.divide(study)["preserved-site"], made["preserved-site"])
    assert study.folds_csv("preserved-site").stat().st_mtime_ns == stamp
    assert all(artefact.due() is None for artefact in folds.expected(study))


def test_one_scheme_does_not_depend_on_the_other(study):
    folds.divide(study)
    write_yaml(study.root, schemes=["random-patient"])
    assert [artefact.due() for artefact in folds.expected(Study.load("own"))] == [None]
    write_yaml(study.root, seed=1)
    assert all(artefact.due() for artefact in folds.expected(Study.load("own")))


def test_a_study_that_divides_once_has_the_folds_and_keys_it_had_before_there_were_repeats(study):
    once = [artefact.key for artefact in folds.expected(study)]
    patients_made = read_meta(study.benchmark_h5ad)["facts"]["contents"]["patients"]
    section = {"n": 4, "seed": 0, "scheme": "random-patient"}
    assert once[1] == make_key("folds", folds.FORMAT, section, [patients_made])
    first = folds.divide(study)["random-patient"]
    write_yaml(study.root, repeats=3, schemes=["random-patient"])
    study = Study.load("own")
    assert [artefact.key for artefact in folds.expected(study)] != once[1:]
    with pytest.raises(NotReady, match="lacks some of 3 splits"):
        folds.read_splits(study, "random-patient")
    pd.testing.assert_series_equal(folds.divide(study)["random-patient"], first)


@pytest.mark.filterwarnings("ignore::wsibench.folds.SameFolds")  # five sites
def test_repeats_are_the_splits_of_the_seeds_that_follow(study):
    write_yaml(study.root, repeats=3, seed=7, n=2)
    study = Study.load("own")
    made, obs = folds.divide(study), assembly.read_benchmark(study).obs
    for scheme in SCHEMES:
        splits = folds.read_splits(study, scheme)
        assert list(splits.columns) == ["fold", "fold_1", "fold_2"]
        assert splits.index.tolist() == obs.index.tolist()
        for seed, name in enumerate(splits, start=7):
            alone = make_folds(obs, scheme=scheme, n=2, seed=seed)
            pd.testing.assert_series_equal(splits[name], alone, check_names=False)
        pd.testing.assert_series_equal(made[scheme], splits["fold"])
        pd.testing.assert_series_equal(folds.read_folds(study, scheme), splits["fold"])
    columns = pd.read_csv(study.folds_csv("preserved-site")).columns
    assert list(columns) == ["patient_id", "site", "subtype", "fold", "fold_1", "fold_2"]


def test_splits_that_cannot_differ_are_warned_of(study):
    write_yaml(study.root, repeats=3, n=5, schemes=["preserved-site"])  # five sites, five folds: one way
    with pytest.warns(folds.SameFolds, match="3 preserved-site splits of 40 patients are 1 different"):
        folds.divide(Study.load("own"))


def test_folds_of_other_patients_are_refused(study):
    folds.divide(study)
    path = study.folds_csv("random-patient")
    table = pd.read_csv(path)
    with writing(Artefact(path, "by hand")) as temporary:
        table.iloc[1:].to_csv(temporary, index=False)
    with pytest.raises(CohortError, match="different patients"):
        folds.read_folds(study, "random-patient")


def test_balance_says_sizes_sites_and_shares(study):
    folds.divide(study)
    obs = assembly.read_benchmark(study).obs
    table = folds.balance(study, obs)
    assert table.index.names == ["scheme", "fold"]
    assert table.groupby("scheme")["n_patients"].sum().tolist() == [40, 40]
    assert table.loc["preserved-site", "n_sites"].sum() == 5
    np.testing.assert_allclose(table.filter(like="share ").sum(axis=1), 1)


def test_a_study_without_sites_or_subtypes_is_divided_at_random(study):
    pd.read_csv(study.root / "patients.csv")[["patient_id"]].to_csv(study.root / "patients.csv", index=False)
    write_yaml(study.root, schemes=["random-patient"])
    study = Study.load("own")
    cohort.build(study)
    obs = assembly.assemble(study).obs
    folds.divide(study)
    table = folds.balance(study, obs)
    assert table["n_patients"].tolist() == [10] * 4
    assert table["n_sites"].tolist() == [0] * 4


def test_folds_wait_for_the_benchmark(study):
    study.benchmark_h5ad.unlink()
    with pytest.raises(NotReady):
        folds.expected(study)


# Real sites


@pytest.mark.real
@pytest.mark.parametrize("seed", range(3))
def test_folds_of_the_1062_brca_patients_are_within_one_percent(real_data, seed):
    slides = pd.read_csv(real_data / "gdc" / "tcga_brca_diagnostic_slides.csv", dtype=str)
    table = slides.drop_duplicates("Case.ID").set_index("Case.ID")
    table = pd.DataFrame({"site": table["TSS.Code"], "subtype": ""})
    assert len(table) == 1062
    sizes = make_folds(table, scheme="preserved-site", n=5, seed=seed).value_counts()
    assert np.abs(sizes / (1062 / 5) - 1).max() <= 0.01


@pytest.mark.real
@pytest.mark.parametrize("seed", range(3))
def test_folds_of_the_884_brca_patients_are_even_in_size_and_subtype(real_data, seed):
    table = pd.read_csv(real_data / "tcga_brca" / "patients.csv", index_col="patient_id")
    table = table.rename(columns={"pam50": "subtype"})
    fold = make_folds(table, scheme="preserved-site", n=5, seed=seed)
    assert np.abs(fold.value_counts() / (884 / 5) - 1).max() <= 0.01
    # No division of these sites with sizes within 1 % does better than 3.69 points: the optimum that
    # an integer program (HiGHS) proves.  Without regard to subtypes it would be about 10.
    assert shares(table, fold) <= 0.06
    assert shares(table, make_folds(table, scheme="random-patient", n=5, seed=seed)) <= 0.01
