"""Site predictability, where it is known how predictable sites are."""

import numpy as np
import pytest

from wsibench.ranking import site_predictability
from wsibench.ranking.site_predictability import MIN_PATIENTS, site_table


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


LABEL = np.repeat(["A", "B", "C", "D"], [40, 30, 20, 10])


def test_noise_predicts_sites_by_chance_and_a_one_hot_without_error():
    rng = np.random.default_rng(0)
    found = [site_predictability(rng.normal(size=(100, 20)), LABEL, seed=seed) for seed in range(10)]
    assert np.mean([each.balanced_accuracy for each in found]) == pytest.approx(0.25, abs=0.06)
    assert np.mean([each.auroc for each in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([each.ci_low <= 0.25 <= each.ci_high for each in found]) >= 0.7
    whole = site_predictability((LABEL[:, None] == np.unique(LABEL)).astype(np.float32), LABEL)
    assert (whole.balanced_accuracy, whole.ci_low, whole.ci_high, whole.auroc) == (1, 1, 1, 1)


def test_a_stronger_shift_is_more_predictable_and_sites_have_equal_weight():
    rng = np.random.default_rng(1)
    shift, noise = rng.normal(size=(4, 8))[np.unique(LABEL, return_inverse=True)[1]], rng.normal(size=(100, 8))
    weak, strong = (site_predictability(strength * shift + noise, LABEL) for strength in (0.3, 1.5))
    assert weak.balanced_accuracy < strong.balanced_accuracy
    assert weak.auroc < strong.auroc
    assert strong.balanced_accuracy > 0.7
    # One site differs and the three others are alike: recall is 1 for the first and a third for the others.
    alone = site_predictability(4.0 * (LABEL == "D")[:, None] + 0.1 * rng.normal(size=(100, 1)), LABEL)
    assert 0.4 < alone.balanced_accuracy < 0.6


def test_differences_between_subtypes_are_subtracted():
    rng = np.random.default_rng(2)
    site = np.repeat(["A", "B"], 60)
    subtype = np.where(rng.random(120) < np.where(site == "A", 0.9, 0.1), "basal", "luminal")
    features = 3.0 * (subtype == "basal")[:, None] + rng.normal(size=(120, 5))
    assert site_predictability(features, site).balanced_accuracy > 0.8
    assert site_predictability(features, site, strata=subtype).balanced_accuracy < 0.62


@pytest.mark.parametrize("width", [3, 300])
def test_uninformative_features_predict_nothing(width):
    found = site_predictability(np.ones((100, width)), LABEL)
    assert found.balanced_accuracy == 0.25
    assert found.auroc == 0.5
    one_varies = np.zeros((400, width))
    one_varies[0] = np.arange(width)
    assert site_predictability(one_varies, np.repeat(LABEL, 4)).balanced_accuracy == pytest.approx(0.25, abs=0.01)


def cohort(n: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray]:
    site = np.array([f"S{i % 6}" for i in range(n)])
    features = {
        "noise": np.random.default_rng(0).normal(size=(n, 6)),
        "site": (site[:, None] == np.unique(site)).astype(np.float32),
    }
    return features, site


def test_the_table_has_every_encoder_and_control():
    features, site = cohort()
    table = site_table(features, site, np.full(60, ""), 0)
    assert table["encoder"].tolist() == ["noise", "site"]
    assert (table[["n_patients", "n_sites", "n_left_out"]] == [60, 6, 0]).all(axis=None)
    assert table["chance"].to_numpy() == pytest.approx(1 / 6)
    assert table.set_index("encoder").loc["site", "balanced_accuracy"] == 1
    assert table["balanced_accuracy"].between(table["ci_low"], table["ci_high"]).all()
    assert table["balanced_accuracy"][0] < 0.5
    assert table["given_subtype"].isna().all(), "no subtypes are known"


def test_small_and_unknown_sites_are_left_out_and_counted():
    features, site = cohort(80)
    site[:5], site[5:9] = "", "S9"
    sizes = dict(zip(*np.unique(site, return_counts=True), strict=True))
    large = [n for name, n in sizes.items() if name and n >= MIN_PATIENTS]
    assert len(large) == 6
    assert "S9" in sizes
    table = site_table(features, site, np.where(np.arange(80) % 2, "A", "B"), 0)
    assert (table["n_sites"] == len(large)).all()
    assert (table["n_left_out"] == 80 - sum(large)).all()
    assert table["given_subtype"].between(0, 1).all()


def test_one_site_gives_an_empty_table():
    features, _ = cohort()
    table = site_table(features, np.full(60, "S0"), np.full(60, ""), 0)
    assert len(table) == 0
    assert "balanced_accuracy" in table
