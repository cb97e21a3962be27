"""Odd but usable tables give finite numbers up to the leaderboard; unusable ones one clear error."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import trials

from wsibench import ranking, regression
from wsibench.core import CohortError, Study
from wsibench.regression.folds import UnevenFolds

NUMBERS = ["mean_rho", "ci_low", "ci_high", "median_rho"]
N = 40


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def rank(data_root):
    """Rank a study with odd tables; returns its leaderboard and the study."""

    def run(*, n=N, sites=4, values=None, poor=None, site=None, **sections):
        folder = data_root / "odd"
        trials.write_tables(folder, n=n, sites=sites)
        if values:
            adata = anndata.read_h5ad(folder / "rna.h5ad")
            adata.X = values(np.array(adata.X)).astype(np.float32)
            adata.write_h5ad(folder / "rna.h5ad")
        if poor:
            table = pd.read_csv(folder / "poor.csv", index_col=0)
            pd.DataFrame(poor(table.to_numpy()), table.index, table.columns).to_csv(folder / "poor.csv")
        if site:
            patients = pd.read_csv(folder / "patients.csv", keep_default_na=False)
            patients.assign(site=site(patients["site"].to_numpy(object))).to_csv(folder / "patients.csv", index=False)
        study = trials.assembled(folder, **{"ranking": {"bootstrap": 100, "permutations": {}}, **sections})
        regression.regress(study)
        return ranking.rank(study), study

    return run


def rng():
    return np.random.default_rng(0)


def outlying(expression):
    """A patient 1,246 SD from everybody, and a gene on another scale."""
    expression[3] *= 1246
    expression[:, 2] *= 1246
    return expression


def odd_genes(expression):
    """Genes that are constant, or vary by rounding, in one patient, between two values, or beyond measure."""
    n = len(expression)
    expression[:, 0] = 1.0
    expression[:, 1] = 5 + 1e-6 * rng().normal(size=n)
    expression[:, 2] = np.eye(n)[0]
    expression[:, 3] = expression[:, 3] > 0
    expression[:, 4] *= 1e30
    return expression


def odd_features(features):
    """Features that are not known, the same for all, and of one value of 1e12."""
    features[:, 0], features[:, 1], features[:, 2] = np.nan, 3.0, 1e12 * np.eye(len(features))[0]
    return features


ODD = {
    "genes": {"values": odd_genes},
    "outliers": {"values": outlying},
    "outliers, clipped": {"values": outlying, "sections": {"expression": {"clip": 10}}},
    "features": {"poor": odd_features},
    "features that vary by rounding": {"poor": lambda x: 3 + 1e-7 * x},
    "a site with half of the cohort": {"site": lambda site: np.where(np.arange(len(site)) < N // 2 + 1, "S0", site)},
    "one gene, the same encoder twice": {
        "sections": {
            "expression": {"genes": ["G0"]},
            "features": {name: {"table": "good.csv"} for name in ("good", "again")},
        }
    },
    "one encoder, eight patients": {
        "n": 8,
        "sections": {"folds": {"n": 2}, "features": {"good": {"table": "good.csv"}}, "controls": []},
    },
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_give_finite_numbers(rank, name):
    odd = {key: value for key, value in ODD[name].items() if key != "sections"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnevenFolds)
        board, study = rank(**odd, **ODD[name].get("sections", {}))
    assert np.isfinite(board[NUMBERS]).all(axis=None)
    assert board[NUMBERS].abs().le(1).all(axis=None)
    assert (board["ci_low"] <= board["mean_rho"]).all()
    assert (board["mean_rho"] <= board["ci_high"]).all()
    differences = ranking.read(study, "differences")
    assert differences[["delta", "p", "p_rope"]].notna().all(None)
    if name == "one gene, the same encoder twice":
        assert (differences[["p", "p_rope"]] == 1).all(axis=None)
    if name == "features that vary by rounding":
        assert (board.loc[board["encoder"] == "poor", "n_undefined"] > 0).all()


UNUSABLE = {
    "no gene varies": ({"values": np.ones_like}, "none of 36 genes varies"),
    "no gene is known": ({"values": lambda y: y * np.nan}, "none of 36 genes varies over the 0 patients"),
    "no feature varies": ({"poor": np.ones_like}, r"features.poor: none of 6 columns .* 6 are constant"),
    "no feature is known": ({"poor": lambda x: x * np.nan}, "poor has 0 patients"),
    "fewer patients than folds": ({"n": 4, "sites": 4, "folds": {"n": 5}}, "4 patients cannot be divided into 5 folds"),
    "fewer sites than folds": ({"sites": 2, "folds": {"n": 3}}, "2 sites cannot be divided into 3 preserved-site"),
    "folds too small to score": ({"n": 8, "folds": {"n": 4}}, "no fold has more than 3 of the 8 patients"),
    "too few to train on": ({"n": 3, "sites": 3}, "leaves 2 patients to train on"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_tables_are_one_clear_error(rank, name):
    odd, message = UNUSABLE[name]
    with pytest.raises(CohortError, match=message) as raised:
        rank(**odd)
    assert raised.value.remedy
    assert not Study.load("odd").leaderboard_csv.exists()


@pytest.mark.filterwarnings("ignore::wsibench.regression.folds.UnevenFolds")
def test_a_site_with_all_but_a_few_leaves_the_folds_nothing_to_compare(rank):
    """One fold counts: a bootstrap is still possible, a ranking is not, and the reader is warned."""
    sites = np.r_[["S0"] * (N - 4), ["S1", "S2", "S3", "S4"]]
    board, study = rank(site=lambda _: sites, folds={"n": 5, "schemes": ["preserved-site"]})
    assert np.isfinite(board[NUMBERS]).all(axis=None)
    assert board["rank"].isna().all()
    said = ranking.read(study, "warnings").set_index("what")["message"]
    assert said["site share"].startswith("Site S0 has 36 of 40 patients")
    assert "4 folds of 3 patients or fewer are not scored." in said["fold size"]
