"""Mean ρ adjusted for subtype, covariates and the immune score, where the truth is planted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.core import CohortError, StudyError
from wsibench.ranking import adjusted, check
from wsibench.ranking.gene_sets import GeneSet
from wsibench.ranking.plan import Entry
from wsibench.ranking.predictions import Predictions
from wsibench.regression import fold_spearman

N, FOLDS = 300, 5
FOLLOWERS, OWN, SILENT = 150, 20, 20
"""Genes that follow the cohort's axis, genes with a signal of their own, and genes that are not predicted."""


@pytest.fixture
def folder(data_root):
    folder = data_root / "trial"
    folder.mkdir()
    return folder


def planted(axis: np.ndarray, *, subtypes: np.ndarray | None = None) -> Predictions:
    """Predictions of one encoder that sees the axis and the signals of single genes, each with noise."""
    rng = np.random.default_rng(1)
    genes = FOLLOWERS + OWN + SILENT
    measured, predicted = rng.normal(size=(2, N, genes)).astype(np.float32)
    follows = slice(0, FOLLOWERS)
    measured[:, follows] += axis[:, None]
    # The error in the axis is the same for every gene that follows it.
    predicted[:, follows] = (axis + 0.5 * rng.normal(size=N))[:, None] + 0.3 * predicted[:, follows]
    own = slice(FOLLOWERS, FOLLOWERS + OWN)
    predicted[:, own] += measured[:, own]
    obs = pd.DataFrame({"fold": np.arange(N) % FOLDS, "site": "S", "subtype": ""}, [f"P{i:03d}" for i in range(N)])
    return Predictions(
        scheme="random-patient",
        entries=[Entry("good", "ridge", Path("good.h5ad"))],
        measured=measured,
        predicted=[predicted],
        noise=[np.zeros_like(predicted)],
        by_split=[np.zeros((genes, 1))],
        by_seed=[None],
        obs=obs if subtypes is None else obs.assign(subtype=subtypes),
        genes=pd.DataFrame(index=[f"G{i}" for i in range(genes)]),
        excluded=pd.Series(dtype=str),
    )


def plain(predictions: Predictions) -> np.ndarray:
    """ρ without an adjustment, (fits, genes)."""
    found = [fold_spearman(predictions.measured, each, predictions.fold) for each in predictions.predicted]
    return np.stack([each.mean() for each in found])


def table(predictions: Predictions, sets: tuple[GeneSet, ...] = ()) -> pd.DataFrame:
    rows = adjusted.adjusted_rows(predictions, plain(predictions), list(sets), pd.DataFrame())
    return pd.DataFrame(rows).set_index("adjustment")


def remaining(
    predictions: Predictions, sets: tuple[GeneSet, ...] = (), covariates: pd.DataFrame | None = None
) -> dict[str, dict[str, float]]:
    """Mean ρ after each adjustment, by kind of gene."""
    kinds = {"follower": slice(0, FOLLOWERS), "own": slice(FOLLOWERS, -SILENT), "silent": slice(-SILENT, None)}
    covariates = pd.DataFrame() if covariates is None else covariates
    adjustments = adjusted.adjustments(predictions, list(sets), covariates)
    rho = {"none": plain(predictions)[0]}
    rho |= {each.name: np.where(each.genes, each.rho[0], np.nan) for each in adjustments}
    return {name: {kind: np.nanmean(each[part]) for kind, part in kinds.items()} for name, each in rho.items()}


def test_a_gene_driven_by_subtype_alone_is_gone_given_subtype():
    subtype = np.random.default_rng(0).integers(3, size=N)
    names = np.array(["Basal", "LumA", "Her2"])[subtype]
    names[::10] = ""
    predictions = planted(np.array([-1.5, 0.0, 1.5])[subtype], subtypes=names)
    rho = remaining(predictions)
    assert rho["none"]["follower"] > 0.5
    for name in ("within subtype", "given subtype"):
        assert abs(rho[name]["follower"]) < 0.05
        assert rho[name]["own"] > 0.5
    rows = table(predictions)
    assert rows.loc["given subtype", "n_patients"] == 270
    assert rows.loc["none", "n_patients"] == 300
    assert rows.loc["given subtype", "unadjusted_rho"] != rows.loc["none", "mean_rho"]
    assert rows.loc["given subtype", "unadjusted_rho"] == pytest.approx(rows.loc["none", "mean_rho"], abs=0.02)
    assert rows.loc["given subtype", "mean_rho"] < 0.3 * rows.loc["given subtype", "unadjusted_rho"]


def test_given_the_immune_score_its_followers_lose_and_its_own_genes_are_not_counted():
    predictions = planted(np.random.default_rng(0).normal(size=N))
    members = np.arange(predictions.measured.shape[1]) < 30
    immune = GeneSet("immune", members, 0)
    rho = remaining(predictions, (GeneSet("other", members, 0), immune))
    assert abs(rho["given immune"]["follower"]) < 0.1
    assert rho["given immune"]["own"] > 0.5
    rows = table(predictions, (immune,))
    assert rows.loc["given immune", "n_genes"] == 160
    assert rows.loc["none", "n_genes"] == 190
    assert "given immune" not in remaining(predictions, (GeneSet("immune", np.arange(190) < 4, 0),)), (
        "four genes are no score"
    )


def test_columns_of_a_table_are_taken_out_one_at_a_time(folder):
    axis = np.random.default_rng(0).normal(size=N)
    # Purity falls with the axis, though not linearly; ploidy has nothing to do with it.
    table = pd.DataFrame({"patient_id": [f"P{i:03d}" for i in range(N)][::-1]})
    table["purity"] = (1 / (1 + np.exp(2 * axis)))[::-1].round(6).astype(str)
    table["ploidy"] = np.random.default_rng(2).uniform(2, 4, N)
    table.loc[:29, "purity"] = "NA"
    table.to_csv(folder / "purity.csv", index=False)
    predictions = planted(axis)
    covariates = adjusted.read_covariates(folder / "purity.csv", ["purity", "ploidy"], predictions.obs.index)
    rho = remaining(predictions, covariates=covariates)
    assert abs(rho["given purity"]["follower"]) < 0.05
    assert rho["given purity"]["own"] > 0.5
    assert rho["given ploidy"]["follower"] == pytest.approx(rho["none"]["follower"], abs=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no table .*purity.csv"),
        ("patient_id,ploidy\nP000,2\n", r"no column 'purity'; it has patient_id, ploidy"),
        ("patient_id,purity\nP000,.5\nP000,.6\n", "more than one row of patient P000"),
        ("patient_id,purity\nP000,high\n", r"'purity' is not numeric: 'high' for patient P000"),
        ("patient_id,purity\nP000,inf\n", r"'purity' is not numeric: 'inf'"),
        ("patient_id,purity\nQ1,.5\nP000,NA\n", "no number for any of the study's patients"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_error(folder, text, message):
    if text is not None:
        (folder / "purity.csv").write_text(text)
    study = trials.load(folder, ranking={"covariates": "purity.csv", "given": ["purity"]})
    with pytest.raises(CohortError, match=message):
        adjusted.read_covariates(folder / "purity.csv", ["purity"], ["P000", "P001"])
    if "patients" not in message:
        assert len(check(study)) == 1, "the same fault is found before the work"


def test_a_table_and_its_columns_are_given_together(folder):
    for ranking in ({"given": ["purity"]}, {"covariates": "purity.csv"}):
        with pytest.raises(StudyError, match="give both or neither"):
            trials.load(folder, ranking=ranking)
    with pytest.raises(StudyError, match="immune is given from the study's own data"):
        trials.load(folder, ranking={"covariates": "purity.csv", "given": ["immune"]})
