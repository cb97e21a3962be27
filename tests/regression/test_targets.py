"""Targets other than genes: planted ones are found, empty ones are not, and nobody held out has a say."""

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.core import CohortError, Study, StudyError, Target, read_meta
from wsibench.ranking import leaderboard as ranking, targetscores
from wsibench.regression import fit as regression, targets
from wsibench.regression.fit import Job
from wsibench.regression.probes.base import Patients

N = 90
SITES = 9
NULLS = 8
"""Targets of either kind that nothing tells of."""


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


def clinic(n=N):
    """One column that features carry, one that they do not, of each kind; and a rare class."""
    rng, z = np.random.default_rng(3), trials.latent(n)
    kind = np.where(z[:, 0] > 0.4, "high", np.where(z[:, 0] < -0.4, "low", "middle"))
    kind[rng.permutation(n)[:9]] = ""
    return pd.DataFrame({
        "patient_id": [f"P{i:03d}" for i in range(n)],
        "grade": kind,
        "size": z[:, 1] + 0.3 * rng.normal(size=n),
        **{f"coin{i}": rng.choice(["heads", "tails"], n) for i in range(NULLS)},
        **{f"dice{i}": rng.normal(size=n) for i in range(NULLS)},
        "same": "yes",
        "few": ["1", "2", "3", "4", "5", "6"] + [""] * (n - 6),
    })  # fmt: skip


COINS, DICE = ([f"{name}{i}" for i in range(NULLS)] for name in ("coin", "dice"))
TARGETS = {
    "set": {"genes": [f"G{i}" for i in range(4)] + ["absent"]},
    "noise": {"genes": [f"G{i}" for i in range(2 * trials.GENES, 3 * trials.GENES)]},
    **{name: {"column": name} for name in ("grade", "size", *COINS, *DICE)},
}


def load(folder, wanted=None, **sections):
    if not folder.exists():
        trials.write_tables(folder, n=N, sites=SITES)
    if not (folder / "clinic.csv").exists():
        clinic().to_csv(folder / "clinic.csv", index=False)
    given = {
        "features": {"good": {"table": "good.csv"}},
        "controls": [],
        "ranking": {"bootstrap": 400, "permutations": {}},
        "clinical": {"table": "clinic.csv"},
        "targets": TARGETS if wanted is None else wanted,
    }
    return trials.assembled(folder, **given | sections)


def with_targets(study, **wanted):
    return study.model_copy(update={"targets": {name: Target(**each) for name, each in wanted.items()}})


def ranked(study):
    regression.regress(study)
    ranking.rank(study)
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One study, ranked, for tests that only look."""
    root = tmp_path_factory.mktemp("targets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(root))
        patch.setenv("WSIBENCH_WORKERS", "0")
        yield ranked(load(root / "trial"))


@pytest.fixture
def folder(data_root):
    return data_root / "trial"


def board(study):
    return ranking.read(study, "targets").set_index(["scheme", "target", "measure"])


def test_table_says_what_was_scored_and_against_which_chance(study):
    table = ranking.read(study, "targets")
    assert table.columns.tolist() == targetscores.COLUMNS
    assert len(table) == 2 * 2 * len(TARGETS)
    kinds = table.groupby("target")["kind"].first().to_dict()
    assert kinds == {name: "categorical" if name in ("grade", *COINS) else "continuous" for name in TARGETS}
    chance = table[table["measure"] != "balanced_accuracy"].groupby("measure")["chance"].unique().map(list)
    assert chance.to_dict() == {"spearman": [0], "r2": [0], "auroc": [0.5]}
    by = board(study).loc["preserved-site"]
    assert by.loc[("coin0", "balanced_accuracy"), "chance"] == 1 / 2
    assert by.loc[("grade", "balanced_accuracy"), "chance"] == 1 / 3
    assert (table["ci_low"] <= table["score"] + 1e-6).all()
    assert (table["score"] <= table["ci_high"] + 1e-6).all()


def test_what_features_carry_is_found_and_what_they_do_not_is_at_chance(study):
    by = board(study)
    for scheme in ("preserved-site", "random-patient"):
        for target, measure, least in (("set", "spearman", 0.4), ("size", "spearman", 0.6), ("grade", "auroc", 0.7)):
            row = by.loc[(scheme, target, measure)]
            assert row["score"] > least
            assert row["ci_low"] > row["chance"]
        nulls = [(name, "auroc") for name in COINS] + [(name, "spearman") for name in (*DICE, "noise")]
        rows = by.loc[[(scheme, *null) for null in nulls]]
        assert abs((rows["score"] - rows["chance"]).mean()) < 0.1
        assert ((rows["ci_low"] <= rows["chance"]) & (rows["chance"] <= rows["ci_high"])).mean() > 0.8
        assert by.loc[(scheme, "size", "r2"), "score"] > 0.3
        assert by.loc[(scheme, "grade", "balanced_accuracy"), "score"] > 0.45


def test_what_is_unknown_is_left_out_and_counted(study):
    by = board(study).loc["random-patient"]
    grade = by.loc[("grade", "auroc")]
    assert (grade["n_patients"], grade["n_unknown"], grade["n_classes"]) == (N - 9, 9, 3)
    size = by.loc[("size", "spearman")]
    assert (size["n_patients"], size["n_unknown"], size["n_classes"], size["n_genes"]) == (N, 0, 0, 0)
    one = by.loc[("set", "spearman")]
    assert (one["n_genes"], one["n_genes_absent"]) == (4, 1)
    predictions = pd.read_parquet(study.targets_parquet("random-patient", "good", "ridge"))
    unknown = clinic().loc[clinic()["grade"] == "", "patient_id"]
    assert not predictions.loc[predictions["target"] == "grade", "patient_id"].isin(unknown).any()


def test_rare_class_is_scored_where_it_is_and_counted_where_it_is_not(folder):
    trials.write_tables(folder, n=N, sites=SITES)
    odd = pd.read_csv(folder / "patients.csv")["site"] == "S0"
    two = np.where(trials.latent(N)[:, 0] > 0, "high", "low")
    table = clinic().assign(rare=np.where(odd, "odd", two), plain=np.where(odd, "", two))
    table.to_csv(folder / "clinic.csv", index=False)
    wanted = {name: {"column": name} for name in ("rare", "plain")}
    by = board(ranked(load(folder, wanted, folds={"n": 3, "schemes": ["preserved-site"]}))).loc["preserved-site"]
    # One site has all of the class: its fold never trains on it and is at chance, the others have none of it.
    rare, plain = by.loc[("rare", "auroc")], by.loc[("plain", "auroc")]
    assert (rare["n_skipped"], rare["n_classes"]) == (2, 3)
    assert (plain["n_skipped"], plain["n_classes"]) == (0, 2)
    assert rare["score"] == pytest.approx((2 * plain["score"] + 0.5) / 3, abs=0.05)


def test_the_subtype_oracle_reads_the_subtype_and_the_site_reads_no_new_site(folder):
    trials.write_tables(folder, n=N, sites=SITES)
    table = pd.read_csv(folder / "patients.csv")
    table["subtype"] = np.where(trials.latent(N)[:, 0] > 0, "A", "B")
    table.to_csv(folder / "patients.csv", index=False)
    wanted = {"subtype": {"column": "subtype"}}
    study = ranked(
        load(folder, wanted, controls=["subtype-oracle", "site"], folds={"n": 3, "schemes": ["preserved-site"]})
    )
    by = ranking.read(study, "targets").set_index(["encoder", "measure"])
    assert by.loc[("subtype-oracle", "auroc"), ["score", "ci_low", "ci_high"]].tolist() == [1, 1, 1]
    assert by.loc[("site", "auroc"), "score"] == 0.5
    assert 0.7 < by.loc[("good", "auroc"), "score"] < 1


@pytest.mark.parametrize("what", ["expression", "columns"])
def test_patients_held_out_have_no_say_in_their_own_predictions(study, what):
    columns = {"size": {"column": "site"}, "grade": {"column": "subtype"}}
    job = Job(with_targets(study, set=TARGETS["set"], **columns), "random-patient", "good", "ridge")
    patients, benchmark, fold = regression.load(job)
    table, held = clinic(), fold == 1
    benchmark.obs["site"], benchmark.obs["subtype"] = table["size"].astype(str).array, table["grade"].array
    before = targets.predict(job, patients, benchmark, fold)
    if what == "expression":
        benchmark.X[held] = 100 - 3 * benchmark.X[held]
    else:
        benchmark.obs.loc[held, "site"] = (7 - 5 * table["size"][held]).astype(str).array
        benchmark.obs.loc[held & (benchmark.obs["subtype"] != ""), "subtype"] = "low"
    after = targets.predict(job, patients, benchmark, fold)
    changed = {"expression": {"set"}, "columns": {"size", "grade"}}[what]
    for (outcome, now, _), (_, then, _) in zip(after, before, strict=True):
        known = held[outcome.known]
        np.testing.assert_array_equal(now[known], then[known])
        moved = not np.allclose(now[~known], then[~known], atol=1e-4)
        assert moved == (outcome.name in changed), "those who trained with them are predicted otherwise"


def test_patients_of_classes_that_are_not_asked_for_count_as_unknown(study):
    _, benchmark, fold = regression.load(Job(study, "random-patient", "good", "ridge"))
    wanted = {"grade": {"column": "grade", "classes": ["low", "high"]}, "few": {"column": "few", "classes": ["3", "1"]}}
    grade, few = targets.outcomes(with_targets(study, **wanted), benchmark, fold)
    given = clinic()["grade"]
    assert grade.classes == ("high", "low")
    np.testing.assert_array_equal(grade.known, given.isin(["high", "low"]))
    np.testing.assert_array_equal(grade.values[grade.known, 0] == 1, given[grade.known] == "high")
    assert (few.kind, few.classes, few.known.sum()) == ("categorical", ("1", "3"), 2)


def test_a_gene_set_is_scored_with_training_statistics_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(3, [1, 5, 0.1], size=(30, 3))
    fold = np.arange(30) % 3
    benchmark = anndata.AnnData(x.astype(np.float32), pd.DataFrame(index=[f"P{i}" for i in range(30)]))
    benchmark.var_names = ["A", "B", "C"]
    benchmark.obs[["site", "subtype"]] = ""
    study = Study.model_validate(
        {"title": "T", "cohort": {"source": "simulate"}, "targets": {"s": {"genes": ["C", "A"]}}}
    )
    (outcome,) = targets.outcomes(study, benchmark, fold)
    for f in range(3):
        train, held = x[fold != f][:, [2, 0]], x[fold == f][:, [2, 0]]
        expected = ((held - train.mean(axis=0)) / train.std(axis=0)).mean(axis=1)
        np.testing.assert_allclose(outcome.values[fold == f, 0], expected, atol=1e-5)

    def fit(patients, y, *, seed):
        return SimpleNamespace(chosen={}, y=y)

    probe = targets.Rescored(SimpleNamespace(fit=fit), {0: pd.DataFrame(x[:, [2, 0]], benchmark.obs_names)})
    train = np.flatnonzero(fold != 0)
    ids = benchmark.obs_names.to_numpy(str)
    y = probe.fit(Patients(ids, ids).take(train), np.zeros((20, 1)), seed=0).y
    z = (x[train][:, [2, 0]] - x[train][:, [2, 0]].mean(axis=0)) / x[train][:, [2, 0]].std(axis=0)
    np.testing.assert_allclose(y[:, 0], z.mean(axis=1), atol=1e-5)


def test_targets_are_due_when_they_or_their_table_change(study):
    assert not any(artefact.due() for artefact in targets.expected(study))
    assert read_meta(study.targets_parquet("random-patient", "good", "ridge"))["facts"]["seconds"] >= 0
    assert targets.expected(with_targets(study)) == []
    for other in (with_targets(study, dice0={"column": "dice0"}), with_targets(study, dice0={"column": "coin0"})):
        assert {artefact.due() for artefact in targets.expected(other)} == {"made from other input or settings"}
    keys = [artefact.key for artefact in targets.expected(study)]
    path = study.resolve("clinic.csv")
    text = path.read_text()
    path.write_text(text.replace("heads", "face"))
    try:
        assert not set(keys) & {artefact.key for artefact in targets.expected(study)}
    finally:
        path.write_text(text)


def test_bag_probes_read_targets_too(folder):
    trials.write_tables(folder)
    clinic(60).to_csv(folder / "clinic.csv", index=False)
    study = trials.with_tiles(
        folder,
        probes=["mean-sd-ridge"],
        encoders=["colour"],
        controls=["site"],
        folds={"n": 3, "schemes": ["random-patient"]},
        ranking={"bootstrap": 100, "permutations": {}},
        clinical={"table": "clinic.csv"},
        targets={"size": {"column": "size"}, "grade": {"column": "grade"}},
    )
    table = ranking.read(ranked(study), "targets").set_index(["encoder", "measure"])
    assert set(table.index.get_level_values("encoder")) == {"colour"}, "the site has no tiles"
    assert table.loc[("colour", "spearman"), "score"] > 0.5
    assert table.loc[("colour", "auroc"), "score"] > 0.7


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"column": "graed"}, r"targets.t.column names 'graed'.*There are site, subtype, grade, size, coin0"),
        ({"column": "subtype"}, r"'subtype', which is known of none of the 90 patients"),
        ({"column": "grade", "classes": ["low", "hihg"]}, r"targets.t: no patient's grade is hihg. It is .*high"),
        ({"column": "same"}, r"targets.t: same is 'yes' for all 90 patients"),
        ({"column": "coin0", "kind": "continuous"}, r"is continuous, but coin0 of patient P000 is '(heads|tails)'"),
        ({"genes": ["TP53", "MKI67"]}, r"none of its 2 genes \(TP53, MKI67\) is in the benchmark.*expression.genes"),
        ({"genes": "none.txt"}, r"targets.t.genes names .*none.txt, which is no file"),
    ],
)
def test_target_that_cannot_be_had(study, target, message):
    _, benchmark, fold = regression.load(Job(study, "random-patient", "good", "ridge"))
    with pytest.raises(CohortError, match=message):
        targets.outcomes(with_targets(study, t=target), benchmark, fold)


def test_target_of_too_few_patients_is_one_clear_error(folder):
    study = load(folder, {"t": {"column": "few"}}, folds={"n": 3, "schemes": ["random-patient"]})
    with pytest.raises(CohortError, match=r"targets.t is known of 6 patients, too few to be scored in 3 folds"):
        ranked(study)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "exactly one of `genes` and `column`"),
        ({"genes": ["A"], "column": "x"}, "exactly one of `genes` and `column`"),
        ({"genes": ["A"], "kind": "categorical"}, "score of a gene set is continuous"),
        ({"column": "x", "kind": "continuous", "classes": ["a", "b"]}, "only a categorical column has `classes`"),
        ({"column": "x", "classes": ["a"]}, r"`targets.t.classes`"),
        ({"colum": "x"}, r"unknown key 'colum' in `targets` \(did you mean 'column'"),
    ],
)
def test_target_that_makes_no_sense_is_refused(folder, target, message):
    folder.mkdir()
    with pytest.raises(StudyError, match=message):
        trials.load(folder, targets={"t": target})
