"""Balance of preserved-site folds on TCGA-BRCA, compared with the optimum of an integer program."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from wsibench.regression.folds import assign

SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))]


def shares(table, fold):
    """Largest deviation of a subtype's share in a fold from its share in the cohort."""
    known = table["subtype"] != ""
    counts = pd.crosstab(fold[known], table["subtype"][known], normalize="index")
    return (counts - table["subtype"][known].value_counts(normalize=True)).abs().to_numpy().max()


@pytest.fixture
def brca(real_data):
    """The 1,062 patients of TCGA-BRCA with a diagnostic slide; PAM50 of the 884 of whom it is given."""
    slides = pd.read_csv(real_data / "gdc" / "tcga_brca_diagnostic_slides.csv", dtype=str)
    index = pd.Index(slides["Case.ID"].unique(), name="patient_id")
    known = pd.read_csv(real_data / "tcga_brca" / "patients.csv", index_col="patient_id", keep_default_na=False)
    return pd.DataFrame({"site": index.str[5:7], "subtype": known["pam50"].reindex(index).fillna("")}, index=index)


def can_be_even(table, site, *, sizes, share):
    """Whether a fold with `site` in it can have one of these sizes, and shares that deviate by no more than `share`."""
    known = table[table["subtype"] != ""]
    size = table["site"].value_counts()
    counts = pd.crosstab(known["site"], known["subtype"]).reindex(size.index, fill_value=0)
    cohort = known["subtype"].value_counts(normalize=True)[counts.columns].to_numpy()
    in_fold = counts.sum(axis=1).to_numpy()[:, None]
    rows = np.c_[size, counts - in_fold * (cohort + share), counts - in_fold * (cohort - share)].T
    low = [sizes[0], *[-np.inf] * len(cohort), *[0] * len(cohort)]
    high = [sizes[1], *[0] * len(cohort), *[np.inf] * len(cohort)]
    found = milp(
        np.zeros(len(size)),
        constraints=LinearConstraint(rows, low, high),
        integrality=np.ones(len(size)),
        bounds=Bounds((size.index == site).astype(float), 1),
    )
    assert found.status in (0, 2)  # solved, or proven to be impossible
    return found.status == 0


@pytest.mark.real
def test_the_largest_brca_site_keeps_shares_from_being_within_three_points(brca):
    # Site BH has 142 of 1,062 patients, 61 % of them luminal A against 51 %; whatever 69 to 72 patients
    # of other sites join it, some subtype is off by 3.48 points: an integer program proves it.
    assert len(brca) == 1062
    assert not can_be_even(brca, "BH", sizes=(211, 214), share=0.0347)
    assert can_be_even(brca, "BH", sizes=(211, 214), share=0.0349)


@pytest.mark.real
@pytest.mark.parametrize("seed", SEEDS)
def test_folds_of_the_1062_brca_patients_are_about_as_even_as_can_be(brca, seed):
    fold = assign(brca, "preserved-site", 5, seed)
    assert np.abs(fold.value_counts() / (1062 / 5) - 1).max() <= 0.01
    assert shares(brca, fold) <= 0.04
    assert shares(brca, assign(brca, "random-patient", 5, seed)) <= 0.01


@pytest.mark.real
def test_seeds_divide_the_1062_brca_patients_differently(brca):
    made = [assign(brca, "preserved-site", 5, seed) for seed in range(3)]
    assert len({tuple(pd.factorize(fold)[0]) for fold in made}) == 3


@pytest.mark.real
@pytest.mark.parametrize("seed", SEEDS)
def test_folds_of_the_884_brca_patients_are_even_in_size_and_subtype(brca, seed):
    table = brca[brca["subtype"] != ""]
    fold = assign(table, "preserved-site", 5, seed)
    assert np.abs(fold.value_counts() / (884 / 5) - 1).max() <= 0.01
    # No division of these sites with sizes within 1 % does better than 3.69 points: the optimum that
    # an integer program (HiGHS) proves.  Without regard to subtypes it would be about 10.
    assert shares(table, fold) <= 0.05
    assert shares(table, assign(table, "random-patient", 5, seed)) <= 0.01
