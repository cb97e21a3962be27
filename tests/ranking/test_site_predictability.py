"""How well sites are told apart, where it is known how well they can be."""

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.ranking import site_predictability as sites
from wsibench.ranking.site_predictability import COLUMNS, FEWEST, predictability


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


LABEL = np.repeat(["A", "B", "C", "D"], [40, 30, 20, 10])


def test_noise_is_told_by_chance_and_a_one_hot_without_error():
    rng = np.random.default_rng(0)
    found = [predictability(rng.normal(size=(100, 20)), LABEL, seed=seed) for seed in range(10)]
    assert np.mean([each.balanced_accuracy for each in found]) == pytest.approx(0.25, abs=0.06)
    assert np.mean([each.auroc for each in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([each.ci_low <= 0.25 <= each.ci_high for each in found]) >= 0.7
    whole = predictability((LABEL[:, None] == np.unique(LABEL)).astype(np.float32), LABEL)
    assert (whole.balanced_accuracy, whole.ci_low, whole.ci_high, whole.auroc) == (1, 1, 1, 1)


def test_a_stronger_shift_is_told_better_and_sites_weigh_alike():
    rng = np.random.default_rng(1)
    shift, noise = rng.normal(size=(4, 8))[np.unique(LABEL, return_inverse=True)[1]], rng.normal(size=(100, 8))
    weak, strong = (predictability(strength * shift + noise, LABEL) for strength in (0.3, 1.5))
    assert weak.balanced_accuracy < strong.balanced_accuracy
    assert weak.auroc < strong.auroc
    assert strong.balanced_accuracy > 0.7
    # One site stands out, the three others are alike: of its own it tells all, of the others a third.
    alone = predictability(4.0 * (LABEL == "D")[:, None] + 0.1 * rng.normal(size=(100, 1)), LABEL)
    assert 0.4 < alone.balanced_accuracy < 0.6


def test_what_only_subtypes_differ_in_is_taken_off():
    rng = np.random.default_rng(2)
    site = np.repeat(["A", "B"], 60)
    subtype = np.where(rng.random(120) < np.where(site == "A", 0.9, 0.1), "basal", "luminal")
    features = 3.0 * (subtype == "basal")[:, None] + rng.normal(size=(120, 5))
    assert predictability(features, site).balanced_accuracy > 0.8
    assert predictability(features, site, strata=subtype).balanced_accuracy < 0.62


@pytest.mark.parametrize("width", [3, 300])
def test_features_that_say_nothing_tell_nothing(width):
    found = predictability(np.ones((100, width)), LABEL)
    assert found.balanced_accuracy == 0.25
    assert found.auroc == 0.5
    one_varies = np.zeros((400, width))
    one_varies[0] = np.arange(width)
    assert predictability(one_varies, np.repeat(LABEL, 4)).balanced_accuracy == pytest.approx(0.25, abs=0.01)


def test_the_table_has_every_encoder_and_control_and_is_kept(folder):
    study = trials.assembled(folder)
    table = sites.measure(study)
    assert table.columns.tolist() == COLUMNS
    assert table["encoder"].tolist() == ["good", "poor", "site"]
    assert (table[["n_patients", "n_sites", "n_left_out"]] == [60, 6, 0]).all(axis=None)
    assert table["chance"].to_numpy() == pytest.approx(1 / 6)
    assert table.set_index("encoder").loc["site", "balanced_accuracy"] == 1
    assert table["balanced_accuracy"].between(table["ci_low"], table["ci_high"]).all()
    assert table["balanced_accuracy"][:2].max() < 0.5
    assert table["given_subtype"].isna().all()  # no subtypes known
    assert not any(artefact.due() for artefact in sites.expected(study))
    other = trials.load(folder, controls=[])
    trials.assembly.assemble(other)
    assert [artefact.due() for artefact in sites.expected(other)] == ["made from other input or settings"]


def test_small_and_unknown_sites_are_left_out_and_counted(folder):
    patients = pd.read_csv(folder / "patients.csv", keep_default_na=False)
    patients.loc[:4, "site"] = ""
    patients.loc[5:8, "site"] = "tiny"
    patients["subtype"] = np.where(np.arange(60) % 2, "A", "B")
    patients.to_csv(folder / "patients.csv", index=False)
    sizes = patients["site"].value_counts()
    large = sizes[(sizes >= FEWEST) & (sizes.index != "")]
    table = sites.measure(trials.assembled(folder, folds={"n": 3, "schemes": ["random-patient"]}))
    assert (table["n_sites"] == len(large)).all()
    assert (table["n_left_out"] == 60 - large.sum()).all()
    assert table["given_subtype"].between(0, 1).all()


def test_one_site_only_leaves_an_empty_table_and_says_why(folder):
    patients = pd.read_csv(folder / "patients.csv", keep_default_na=False).assign(site="S0")
    patients.to_csv(folder / "patients.csv", index=False)
    study = trials.assembled(folder, folds={"n": 3, "schemes": ["random-patient"]}, controls=[])
    table = sites.measure(study)
    assert len(table) == 0
    assert table.columns.tolist() == COLUMNS
    assert sites.why_empty(trials.assembly.read_benchmark(study.benchmark_h5ad).obs).startswith(
        "Of 1 known sites 1 have"
    )
