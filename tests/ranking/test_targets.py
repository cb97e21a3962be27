"""Scores of targets other than genes, on predictions of known quality."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trials
from sklearn.metrics import roc_auc_score

from wsibench.core import CohortError
from wsibench.ranking import rank, read
from wsibench.ranking.predictions import Entry, Predictions
from wsibench.ranking.targets import fold_auroc, target_rows
from wsibench.regression import regress

N, FOLDS = 120, 3


def targets() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    grade = rng.choice(["high", "low", "middle"], N)
    table = pd.DataFrame({f"grade={label}": (grade == label).astype(float) for label in np.unique(grade)})
    table[["size", "dice"]] = rng.normal(size=(N, 2))
    table.loc[:8, ["grade=high", "grade=low", "grade=middle"]] = np.nan
    return table.set_axis([f"P{i}" for i in range(N)])


def about(column: str, n_genes: int = 0) -> dict:
    target, _, label = column.partition("=")
    kind = "category" if label else "continuous"
    return {"target": target, "class": label, "kind": kind, "genes": ["G"] * n_genes, "n_absent": 0}


def predictions(measured: pd.DataFrame, predicted: pd.DataFrame, scheme: str = "random-patient") -> Predictions:
    noise = pd.DataFrame(0.0, measured.index, measured.columns)
    frames = {"measured": measured, "predicted": predicted, "noise": noise}
    obs = pd.DataFrame({"fold": np.arange(N) % FOLDS, "site": [f"S{i % 12}" for i in range(N)], "subtype": ""})
    empty = np.empty((N, 0), np.float32)
    return Predictions(
        scheme=scheme,
        entries=[Entry("good", "ridge", Path("good.h5ad"))],
        measured=empty,
        predicted=[empty],
        noise=[empty],
        by_split=[empty],
        by_seed=[None],
        obs=obs.set_axis(measured.index),
        genes=pd.DataFrame(),
        excluded=pd.Series(dtype=str),
        targets={column: about(column) for column in measured},
        target_frames=[frames],
    )


def scored(measured: pd.DataFrame, predicted: pd.DataFrame, **options: str) -> pd.DataFrame:
    rows = target_rows(predictions(measured, predicted, **options), draws=200, seed=0)
    return pd.DataFrame(rows).set_index("target")


def test_auroc_from_ranks_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    member = (rng.random((N, 2)) < 0.3).astype(float)
    predicted = (member + rng.normal(size=(N, 2))).round(1)  # with ties
    fold = np.arange(N) % FOLDS
    area, slope = fold_auroc(member, predicted, fold)
    for column in range(2):
        each = [roc_auc_score(member[fold == k, column], predicted[fold == k, column]) for k in range(FOLDS)]
        assert area[column] == pytest.approx(np.mean(each), abs=1e-6)
    assert (slope > 0).all()


def test_a_fold_without_a_class_does_not_count():
    member, predicted = np.zeros((20, 1)), np.arange(20.0)[:, None]
    fold = np.arange(20) // 10
    member[5:10] = 1
    area, _ = fold_auroc(member, predicted, fold)
    assert area[0] == pytest.approx(1)
    assert np.isnan(fold_auroc(np.zeros((20, 1)), predicted, fold)[0][0])


@pytest.mark.parametrize("scheme", ["random-patient", "preserved-site"])
def test_predicted_targets_are_above_chance_and_noise_is_not(scheme):
    rng, measured = np.random.default_rng(2), targets()
    table = scored(measured, measured.fillna(0) + rng.normal(size=measured.shape) * [1, 1, 1, 1, 1e6], scheme=scheme)
    assert table["measure"].to_dict() == {"grade": "auroc", "size": "spearman", "dice": "spearman"}
    assert table["chance"].tolist() == [0.5, 0, 0]
    assert (table["ci_low"] < table["score"]).all()
    assert (table["score"] < table["ci_high"]).all()
    assert (table.loc[["grade", "size"], "ci_low"] > table.loc[["grade", "size"], "chance"]).all()
    assert table.loc["dice", "ci_low"] < 0 < table.loc["dice", "ci_high"]


def test_unknown_patients_are_left_out_and_counted():
    measured = targets()
    predicted = measured.fillna(1e6)
    table = scored(measured, predicted)
    assert table.loc["grade", ["n_patients", "n_unknown", "n_classes"]].tolist() == [N - 9, 9, 3]
    assert table.loc["size", ["n_patients", "n_unknown", "n_classes"]].tolist() == [N, 0, 0]
    assert table.loc["grade", ["score", "ci_low", "ci_high"]].tolist() == pytest.approx([1, 1, 1])


def test_constant_predictions_are_at_chance():
    measured = targets()
    table = scored(measured, measured * 0)
    assert table["score"].tolist() == table["chance"].tolist()


def test_a_class_missing_from_a_fold_is_counted():
    measured = targets()[["grade=high", "grade=low"]].fillna(0.0)
    measured.loc[np.arange(N) % FOLDS == 0, "grade=low"] = 0.0
    table = scored(measured, measured + np.random.default_rng(0).normal(size=measured.shape))
    assert table.loc["grade", "n_skipped"] == 1
    assert np.isfinite(table.loc["grade", ["score", "ci_low", "ci_high"]].to_numpy(float)).all()


def test_the_interval_of_auroc_covers_a_known_value_about_as_often_as_it_says():
    """Nominal 95 %, 60 cohorts: ± 3 Monte-Carlo SE is ± .084."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        member = (np.arange(N) // FOLDS % 2).astype(float)
        predicted = member + rng.normal(size=N)  # AUROC = Φ(1 / √2) = .760
        frame = pd.DataFrame({"grade=high": member, "grade=low": 1 - member}, [f"P{i}" for i in range(N)])
        row = scored(frame, pd.DataFrame({"grade=high": predicted, "grade=low": -predicted}, frame.index)).iloc[0]
        covered += row["ci_low"] <= 0.760 <= row["ci_high"]
    assert covered / 60 > 0.86


def test_a_target_of_too_few_patients_is_one_clear_error():
    measured = targets()[["size"]]
    measured.iloc[6:] = np.nan
    with pytest.raises(CohortError, match=r"targets.size is known for 6 patients, too few to be scored in 3 folds"):
        scored(measured, measured)


PATIENTS, SITES = 90, 9
NULLS = 8
"""Targets of either kind that do not depend on the features."""


def clinic(n=PATIENTS):
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
        trials.write_tables(folder, n=PATIENTS, sites=SITES)
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
    regress(study)
    rank(study)
    return study


@pytest.fixture
def folder(data_root):
    return data_root / "trial"


def board(study):
    return read(study, "targets").set_index(["scheme", "target", "measure"])


def test_planted_targets_are_predicted_and_null_targets_are_at_chance(folder):
    by = board(ranked(load(folder)))
    for scheme in ("preserved-site", "random-patient"):
        for target, measure, least in (("set", "spearman", 0.4), ("size", "spearman", 0.6), ("grade", "auroc", 0.7)):
            row = by.loc[(scheme, target, measure)]
            assert row["score"] > least
            assert row["ci_low"] > row["chance"]
        nulls = [(name, "auroc") for name in COINS] + [(name, "spearman") for name in (*DICE, "noise")]
        rows = by.loc[[(scheme, *null) for null in nulls]]
        assert abs((rows["score"] - rows["chance"]).mean()) < 0.1
        assert ((rows["ci_low"] <= rows["chance"]) & (rows["chance"] <= rows["ci_high"])).mean() > 0.8


def test_a_rare_class_is_scored_in_the_folds_that_have_it(folder):
    trials.write_tables(folder, n=PATIENTS, sites=SITES)
    odd = pd.read_csv(folder / "patients.csv")["site"] == "S0"
    two = np.where(trials.latent(PATIENTS)[:, 0] > 0, "high", "low")
    table = clinic().assign(rare=np.where(odd, "odd", two), plain=np.where(odd, "", two))
    table.to_csv(folder / "clinic.csv", index=False)
    wanted = {name: {"column": name} for name in ("rare", "plain")}
    by = board(ranked(load(folder, wanted, folds={"n": 3, "schemes": ["preserved-site"]}))).loc["preserved-site"]
    # One site has all of the class: its fold is never trained on the class and is at chance, the others lack it.
    rare, plain = by.loc[("rare", "auroc")], by.loc[("plain", "auroc")]
    assert (rare["n_skipped"], rare["n_classes"]) == (2, 3)
    assert (plain["n_skipped"], plain["n_classes"]) == (0, 2)
    assert rare["score"] == pytest.approx((2 * plain["score"] + 0.5) / 3, abs=0.05)


def test_the_subtype_control_predicts_the_subtype_and_the_site_control_no_new_site(folder):
    trials.write_tables(folder, n=PATIENTS, sites=SITES)
    table = pd.read_csv(folder / "patients.csv")
    table["subtype"] = np.where(trials.latent(PATIENTS)[:, 0] > 0, "A", "B")
    table.to_csv(folder / "patients.csv", index=False)
    wanted = {"subtype": {"column": "subtype"}}
    study = ranked(
        load(folder, wanted, controls=["subtype-oracle", "site"], folds={"n": 3, "schemes": ["preserved-site"]})
    )
    by = read(study, "targets").set_index(["encoder", "measure"])
    assert by.loc[("subtype-oracle", "auroc"), ["score", "ci_low", "ci_high"]].tolist() == pytest.approx([1, 1, 1])
    assert by.loc[("site", "auroc"), "score"] == 0.5
    assert 0.7 < by.loc[("good", "auroc"), "score"] < 1


def test_attention_mil_predicts_targets_too(folder):
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
    table = read(ranked(study), "targets").set_index(["encoder", "measure"])
    assert set(table.index.get_level_values("encoder")) == {"colour"}, "the site has no tiles"
    assert table.loc[("colour", "spearman"), "score"] > 0.5
    assert table.loc[("colour", "auroc"), "score"] > 0.7
