"""Warnings beside the leaderboard: present where they apply, absent where they do not, with the measured coverage."""

import numpy as np
import pandas as pd
import pytest

from wsibench.ranking.caveats import COVERAGE, caveat_table, measured_coverage, scheme_caveats, study_caveats

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
