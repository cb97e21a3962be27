"""Warnings beside the leaderboard: there where they are due, silent where they are not, with what was measured."""

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.ranking import caveats
from wsibench.ranking.caveats import COLUMNS, COVERAGE, held, of_folds
from wsibench.regression import folds


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


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
    ("scheme", "patients", "sites", "said"),
    [
        ("preserved-site", 120, 5, "of 100 patients of 5 sites the 95 % interval held the truth in 71 to 80 % of them"),
        ("preserved-site", 299, 25, "of 300 patients of 20 sites, larger than this one, the 95 %"),
        ("preserved-site", 900, 12, "of 300 patients of 5 sites the 95 % interval held the truth in 78 to 84 %"),
        ("preserved-site", 60, 3, "of 100 patients of 5 sites, larger than this one, the 95 %"),
        ("random-patient", 250, 40, "of 100 patients of 5 sites the 95 % interval held the truth in 80 to 86 %"),
        ("random-patient", 300, 0, "of 300 patients of 20 sites the 95 % interval held the truth in 90 % of them"),
    ],
)
def test_the_cell_nearest_from_below_is_cited(scheme, patients, sites, said):
    assert said in held(scheme, patients, sites, GRID)


def test_shares_are_rounded_as_docs_do():
    table = pd.read_csv(COVERAGE)
    assert (table["coverage_low"] <= table["coverage_high"]).all()
    assert ((table["coverage_low"] > 0.5) & (table["coverage_high"] <= 1)).all()
    assert set(table["scheme"]) == {"preserved-site", "random-patient"}
    half = GRID.assign(coverage_low=0.835, coverage_high=0.895)
    assert "84 to 90 %" in held("random-patient", 100, 5, half)


def divided(n_patients: int, n_sites: int, n_folds: int = 5) -> tuple[pd.Series, pd.Series]:
    at = np.arange(n_patients)
    return pd.Series(at % n_folds), pd.Series([f"S{site}" if n_sites else "" for site in at % max(n_sites, 1)])


@pytest.mark.parametrize(
    ("scheme", "cohort", "what"),
    [
        ("preserved-site", (300, 20), []),
        ("preserved-site", (299, 20), ["cohort size"]),
        ("preserved-site", (300, 19), ["cohort size"]),
        ("random-patient", (300, 5), []),
        ("random-patient", (299, 0), ["cohort size"]),
        ("random-patient", (99, 5), ["cohort size", "fold size"]),
        ("preserved-site", (16, 5), ["cohort size", "fold size"]),
    ],
)
def test_few_patients_few_sites_and_small_folds(scheme, cohort, what):
    found = of_folds(scheme, *divided(*cohort))
    assert [each for each, _ in found] == what
    if cohort == (16, 5):
        assert "not scored: 4" in found[1][1]
    if cohort == (299, 0):
        assert found[0][1].startswith("299 patients: in simulated cohorts")


def warned(folder, **sections):
    study = trials.assembled(folder, **sections)
    folds.divide(study)
    return study, caveats.warn(study)


def test_the_table_of_a_small_study_is_kept(folder):
    study, table = warned(folder)
    assert table.columns.tolist() == COLUMNS
    assert table[["scheme", "what"]].to_numpy().tolist() == [
        ["preserved-site", "cohort size"],
        ["random-patient", "cohort size"],
    ]
    assert table["message"].str.startswith("60 patients of 6 sites: in simulated cohorts of ").all()
    assert not any(artefact.due() for artefact in caveats.expected(study))


def test_one_competitor_no_controls_and_one_large_site(folder):
    patients = pd.read_csv(folder / "patients.csv", keep_default_na=False)
    patients.loc[:34, "site"] = "S0"
    patients.to_csv(folder / "patients.csv", index=False)
    only = {"features": {"good": {"table": "good.csv"}}, "folds": {"n": 3, "schemes": ["random-patient"]}}
    _, table = warned(folder, controls=[], **only)
    messages = table[table["scheme"] == ""].set_index("what")["message"]
    assert messages.index.tolist() == ["competitors", "site share", "controls", "site predictability"]
    assert messages["competitors"].startswith("Only good competes")
    assert messages["site share"].startswith(f"Site S0 has {(patients['site'] == 'S0').sum()} of 60 patients")
    assert "Remove `controls: []`" in messages["controls"]
    assert messages["site predictability"].startswith("sites.csv is empty. Of 6 known sites 1 have")
    _, table = warned(folder, controls=["site"], **only)
    assert "controls" not in table["what"].tolist()


def test_where_no_control_applies_the_table_says_so(folder):
    patients = pd.read_csv(folder / "patients.csv", keep_default_na=False).assign(site="")
    patients.to_csv(folder / "patients.csv", index=False)
    _, table = warned(folder, controls=None, folds={"n": 3, "schemes": ["random-patient"]})
    assert "None applies" in table.set_index("what").loc["controls", "message"]


def test_a_scheme_that_nobody_has_simulated_is_said_to_be_unmeasured():
    assert "has not been measured" in caveats.held("external", 50, 4)
