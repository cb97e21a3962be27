"""Warnings beside the leaderboard with the measured coverage, and site predictability where it is known."""

import numpy as np
import pandas as pd
import pytest

from wsibench.ranking import site_predictability
from wsibench.ranking.caveats import (
    COVERAGE,
    MIN_SITE,
    caveat_table,
    measured_coverage,
    scheme_caveats,
    site_table,
    study_caveats,
)

GRID = pd.DataFrame(
    [
        ("preserved-site", 100, 5, 0.71, 0.80, 1000),
        ("preserved-site", 300, 5, 0.78, 0.84, 1000),
        ("preserved-site", 300, 20, 0.93, 0.95, 1000),
        ("random-patient", 100, 5, 0.80, 0.86, 1000),
        ("random-patient", 300, 20, 0.90, 0.90, 1000),
    ],
    columns=["scheme", "patients", "sites", "coverage_low", "coverage_high", "cohorts"],
)


@pytest.mark.parametrize(
    ("scheme", "patients", "sites", "message"),
    [
        ("preserved-site", 120, 5, "of 100 patients of 5 sites 95 % intervals covered the truth in 71 to 80 %"),
        ("preserved-site", 299, 25, "of 300 patients of 20 sites, larger than this one, 95 %"),
        ("preserved-site", 900, 12, "of 300 patients of 5 sites 95 % intervals covered the truth in 78 to 84 %"),
        ("preserved-site", 60, 3, "of 100 patients of 5 sites, larger than this one, 95 %"),
        ("random-patient", 250, 40, "of 100 patients of 5 sites 95 % intervals covered the truth in 80 to 86 %"),
        ("random-patient", 300, 0, "of 300 patients of 20 sites 95 % intervals covered the truth in 90 %"),
    ],
)
def test_coverage_of_the_next_smaller_cohort_is_cited(scheme, patients, sites, message):
    assert message in measured_coverage(scheme, patients, sites, GRID)


def test_published_coverage_has_every_scheme_and_is_rounded_half_up():
    table = pd.read_csv(COVERAGE)
    assert (table["coverage_low"] <= table["coverage_high"]).all()
    assert ((table["coverage_low"] > 0.5) & (table["coverage_high"] <= 1)).all()
    assert set(table["scheme"]) == {"preserved-site", "random-patient", "external"}
    half = GRID.assign(coverage_low=0.835, coverage_high=0.895)
    assert "84 to 90 %" in measured_coverage("random-patient", 100, 5, half)


def test_external_validation_cites_its_own_coverage():
    assert "of 100 patients of 20 sites, larger than this one, 95 % intervals covered the truth in 92 to 93 %" in (
        measured_coverage("external", 16, 5)
    )


def divided(n_patients: int, n_sites: int, n_folds: int = 5) -> tuple[np.ndarray, pd.Series]:
    at = np.arange(n_patients)
    return at % n_folds, pd.Series([f"S{site}" if n_sites else "" for site in at % max(n_sites, 1)])


@pytest.mark.parametrize(
    ("scheme", "cohort", "subjects"),
    [
        ("preserved-site", (300, 20), []),
        ("preserved-site", (299, 20), ["cohort size"]),
        ("preserved-site", (300, 19), ["cohort size"]),
        ("random-patient", (300, 5), []),
        ("random-patient", (299, 0), ["cohort size"]),
        ("random-patient", (99, 5), ["cohort size", "fold size"]),
        ("preserved-site", (16, 5), ["cohort size", "fold size"]),
        ("external", (300, 19, 1), ["cohort size"]),
        ("external", (300, 0, 1), []),
    ],
)
def test_few_patients_few_sites_and_small_folds(scheme, cohort, subjects):
    found = scheme_caveats(scheme, *divided(*cohort))
    assert [each for each, _ in found] == subjects
    if cohort == (16, 5):
        assert found[0][1].startswith("5 sites in 5 folds cannot support a ranking")
        assert "4 folds of 3 patients or fewer are not scored" in found[1][1]
    if cohort == (299, 0):
        assert found[0][1].startswith("299 patients: in simulated cohorts")


def test_patients_who_are_only_trained_on_do_not_count():
    fold, site = divided(400, 40, 1)
    fold = pd.Series(fold)
    fold[:384] = -1
    (row,) = caveat_table([], {"external": fold}, site)["message"].iloc[:1]
    assert row.startswith("16 patients of 16 sites: ")


def test_one_competitor_no_controls_and_one_large_site():
    site = pd.Series(["S0"] * 35 + ["S1"] * 9 + ["S2"] * 16)
    messages = dict(study_caveats(site, ["good"], []))
    assert list(messages) == ["competitors", "site share", "controls"]
    assert messages["competitors"].startswith("Only good competes")
    assert messages["site share"].startswith("Site S0 has 35 of 60 patients")
    assert "`controls: []` in study.yaml switches them off" in messages["controls"]


def test_sites_that_cannot_be_predicted_are_explained():
    site = pd.Series(["S0"] * 20 + ["S1"] * 9 + [""] * 31)
    assert study_caveats(site, ["good", "poor"], ["site"]) == [
        ("site predictability", "sites.csv is empty. 1 of 2 known sites have at least 10 patients, and two are needed.")
    ]


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
    large = [n for name, n in sizes.items() if name and n >= MIN_SITE]
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
