"""targets.csv: planted targets are found and null ones are not."""

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench import regression
from wsibench.core import CohortError
from wsibench.ranking import leaderboard as ranking, targetscores

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


def test_bag_probes_read_targets_too(folder):
    trials.write_tables(folder)
    clinic(60).to_csv(folder / "clinic.csv", index=False)
    study = trials.with_tiles(
        folder,
        probes=["abmil"],
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


def test_target_of_too_few_patients_is_one_clear_error(folder):
    study = load(folder, {"t": {"column": "few"}}, folds={"n": 3, "schemes": ["random-patient"]})
    with pytest.raises(CohortError, match=r"targets.t is known of 6 patients, too few to be scored in 3 folds"):
        ranked(study)
