"""Tables of folds: written, read, given by other studies, and handed on."""

import numpy as np
import pandas as pd
import pytest
import yaml

from wsibench import assembly, cohort
from wsibench.cli.main import main
from wsibench.core import Artefact, CohortError, NotReady, Study, StudyError, writing
from wsibench.regression import folds
from wsibench.regression.folds import assign

SCHEMES = ["preserved-site", "random-patient"]


@pytest.fixture
def study(data_root):
    """A benchmark of forty patients, features from a table."""
    folder = data_root / "own"
    folder.mkdir()
    rng = np.random.default_rng(0)
    site = np.repeat(["S00", "S01", "S02", "S03", "S04"], [12, 8, 8, 6, 6])
    index = pd.Index([f"P{i:04d}" for i in range(len(site))], name="patient_id")
    table = pd.DataFrame({"site": site, "subtype": rng.choice(["LumA", "LumB", "Basal", ""], len(site))}, index)
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
    assert list(table.columns) == ["patient_id", "fold"]
    assert made["preserved-site"].index.tolist() == assembly.read_benchmark(study.benchmark_h5ad).obs_names.tolist()
    stamp = study.folds_csv("preserved-site").stat().st_mtime_ns
    pd.testing.assert_frame_equal(folds.divide(study)["preserved-site"], made["preserved-site"])
    assert study.folds_csv("preserved-site").stat().st_mtime_ns == stamp
    assert all(artefact.due() is None for artefact in folds.expected(study))


def test_one_scheme_does_not_depend_on_the_other(study):
    folds.divide(study)
    write_yaml(study.root, schemes=["random-patient"])
    assert [artefact.due() for artefact in folds.expected(Study.load("own"))] == [None]
    write_yaml(study.root, seed=1)
    assert all(artefact.due() for artefact in folds.expected(Study.load("own")))


def test_more_splits_leave_the_first_as_it_is_and_make_the_table_due(study):
    once = [artefact.key for artefact in folds.expected(study)]
    first = folds.divide(study)["random-patient"]["fold"]
    write_yaml(study.root, repeats=3, schemes=["random-patient"])
    study = Study.load("own")
    assert [artefact.key for artefact in folds.expected(study)] != once[1:]
    pd.testing.assert_series_equal(folds.divide(study)["random-patient"]["fold"], first)


@pytest.mark.filterwarnings("ignore::wsibench.regression.folds.SameFolds")  # five sites
def test_repeats_are_the_splits_of_the_seeds_that_follow(study):
    write_yaml(study.root, repeats=3, seed=7, n=2)
    study = Study.load("own")
    made, obs = folds.divide(study), assembly.read_benchmark(study.benchmark_h5ad).obs
    for scheme in SCHEMES:
        splits = made[scheme]
        assert list(splits.columns) == ["fold", "fold_1", "fold_2"]
        assert splits.index.tolist() == obs.index.tolist()
        for seed, name in enumerate(splits, start=7):
            alone = assign(obs, scheme, 2, seed)
            pd.testing.assert_series_equal(splits[name], alone, check_names=False)
        pd.testing.assert_frame_equal(folds.read(study.folds_csv(scheme)), splits, check_names=False)
    columns = pd.read_csv(study.folds_csv("preserved-site")).columns
    assert list(columns) == ["patient_id", "fold", "fold_1", "fold_2"]


def test_splits_that_cannot_differ_are_warned_of(study):
    write_yaml(study.root, repeats=3, n=5, schemes=["preserved-site"])  # five sites, five folds: one way
    with pytest.warns(folds.SameFolds, match="3 preserved-site splits of 40 patients are 1 different"):
        folds.divide(Study.load("own"))


# Given, and handed on


def given_folds(study, tables, **settings):
    """The study with tables of folds of others, as CSVs."""
    for scheme, table in tables.items():
        table.to_csv(study.root / f"{scheme}.csv", index_label="patient_id")
    names = {scheme: f"{scheme}.csv" for scheme in tables}
    write_yaml(study.root, given=names, **settings)
    return Study.load("own")


def by_site(study, folds_of_sites):
    """A table of folds that keeps sites whole."""
    site = assembly.read_benchmark(study.benchmark_h5ad).obs["site"].astype(str)
    return pd.DataFrame({name: site.map(dict(folds)) for name, folds in folds_of_sites.items()})


SITES = {"S00": 0, "S01": 1, "S02": 1, "S03": 2, "S04": 0}


def test_given_folds_are_used_unchanged_and_other_patients_ignored(study):
    table = by_site(study, {"fold": SITES})
    others = pd.DataFrame({"fold": [0, 2]}, index=["Q1", "Q2"])
    study = given_folds(study, {"preserved-site": pd.concat([others, table.sample(frac=1, random_state=0)])})
    made = folds.divide(study)
    pd.testing.assert_frame_equal(made["preserved-site"], table, check_index_type=False, check_names=False)
    obs = assembly.read_benchmark(study.benchmark_h5ad).obs
    pd.testing.assert_series_equal(made["random-patient"]["fold"], assign(obs, "random-patient", 4, 0))


def test_the_key_of_given_folds_follows_their_contents_and_nothing_else(study):
    table = by_site(study, {"fold": SITES})
    random = folds.expected(study)[1].key
    one, other = (artefact.key for artefact in folds.expected(given_folds(study, {"preserved-site": table})))
    assert other == random
    again = given_folds(study, {"preserved-site": table}, seed=7)
    assert folds.expected(again)[0].key == one
    changed = given_folds(study, {"preserved-site": by_site(study, {"fold": SITES | {"S04": 2}})})
    assert folds.expected(changed)[0].key != one


def test_given_folds_may_hold_several_splits(study):
    table = by_site(study, {"fold": SITES, "fold_1": SITES | {"S04": 2}, "fold_2": SITES | {"S04": 1}})
    study = given_folds(study, {"preserved-site": table}, repeats=2, schemes=["preserved-site"])
    folds.divide(study)
    splits = folds.read(study.folds_csv("preserved-site"), table.index)
    pd.testing.assert_frame_equal(splits, table[["fold", "fold_1"]], check_index_type=False, check_names=False)
    study = given_folds(study, {"preserved-site": table}, repeats=4, schemes=["preserved-site"])
    with pytest.raises(CohortError, match="has no column fold_3"):
        folds.divide(study)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda table: table.drop(index=["P0003", "P0007"]), ["no fold for 2 of 40 patients: P0003, P0007"]),
        (lambda table: table.assign(fold=1), ["all 40 patients of the study in one fold"]),
        (
            lambda table: table.assign(fold=table["fold"].where(table.index != "P0003", 2)),
            ["splits 1 sites between folds: S00; S00 is in 0, 2", "random-patient"],
        ),
        (lambda table: pd.concat([table, table.iloc[:1] + 1]), ["lists P0000 twice"]),
        (lambda table: table.assign(fold="one"), ["the folds of patient P0000 are 'one'", "whole numbers"]),
        (
            lambda table: table.rename(columns={"fold": "part"}),
            ["has no column fold; its columns"],
        ),
    ],
)
def test_given_folds_that_do_not_fit_the_study_are_refused(study, spoil, words):
    study = given_folds(study, {"preserved-site": spoil(by_site(study, {"fold": SITES}))})
    with pytest.raises(CohortError) as info:
        folds.divide(study)
    for word in [*words, "preserved-site.csv"]:
        assert word in str(info.value)
    assert not study.folds_csv("preserved-site").exists()


def test_random_folds_that_are_given_may_split_sites(study):
    table = by_site(study, {"fold": SITES})
    table["fold"] = np.arange(len(table)) % 3
    made = folds.divide(given_folds(study, {"random-patient": table}))
    assert made["random-patient"]["fold"].tolist() == table["fold"].tolist()


def test_a_table_of_folds_that_is_not_there_or_is_the_studys_own_is_refused(study):
    write_yaml(study.root, given={"preserved-site": "gone.csv"})
    with pytest.raises(CohortError, match=r"no table of folds .*gone\.csv"):
        folds.expected(Study.load("own"))
    write_yaml(study.root, given={"preserved-site": "folds/preserved-site.csv"})
    with pytest.raises(CohortError, match="the study itself writes it"):
        folds.expected(Study.load("own"))


def test_folds_for_a_scheme_that_is_not_asked_for_are_refused(study):
    write_yaml(study.root, given={"preserved-site": "mine.csv"}, schemes=["random-patient"])
    with pytest.raises(StudyError, match="given names preserved-site, which is not among the schemes"):
        Study.load("own")


def test_the_path_of_given_folds_may_name_a_variable(study, monkeypatch):
    monkeypatch.delenv("ELSEWHERE", raising=False)
    write_yaml(study.root, given={"random-patient": "${ELSEWHERE}/folds.csv"})
    with pytest.raises(StudyError, match=r"uses \$\{ELSEWHERE\}, which is not set"):
        Study.load("own")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_exported_folds_divide_another_study_in_the_same_way(study, tmp_path, capsys, scheme):
    first = folds.divide(study)[scheme]
    path = tmp_path / "handed" / "on.csv"
    assert main(["folds", "own", "--scheme", scheme, "-o", str(path)]) == 0
    assert f"{scheme} folds of own: {path}" in capsys.readouterr().out
    write_yaml(study.root, given={scheme: str(path)}, schemes=[scheme], seed=99)
    pd.testing.assert_frame_equal(folds.divide(Study.load("own"))[scheme], first)


def test_folds_that_were_not_made_cannot_be_written(study, tmp_path, capsys):
    assert main(["folds", "own", "-o", str(tmp_path / "folds.csv")]) == 1
    assert "has not been made yet" in capsys.readouterr().err
    write_yaml(study.root, schemes=["random-patient"])
    assert main(["folds", "own", "--scheme", "preserved-site", "-o", str(tmp_path / "folds.csv")]) == 1
    assert "The study own has no preserved-site folds. " in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "folds.csv").exists()


def test_folds_of_other_patients_are_refused(study):
    folds.divide(study)
    path = study.folds_csv("random-patient")
    table = pd.read_csv(path)
    with writing(Artefact(path, "by hand")) as temporary:
        table.iloc[1:].to_csv(temporary, index=False)
    with pytest.raises(CohortError, match="different patients"):
        folds.read(path, assembly.read_benchmark(study.benchmark_h5ad).obs_names)


def test_study_without_sites_or_subtypes_is_divided_at_random(study):
    pd.read_csv(study.root / "patients.csv")[["patient_id"]].to_csv(study.root / "patients.csv", index=False)
    write_yaml(study.root, schemes=["random-patient"])
    study = Study.load("own")
    cohort.build(study)
    assembly.assemble(study)
    assert folds.divide(study)["random-patient"]["fold"].value_counts().tolist() == [10] * 4


def test_folds_wait_for_the_benchmark(study):
    study.benchmark_h5ad.unlink()
    with pytest.raises(NotReady):
        folds.expected(study)
