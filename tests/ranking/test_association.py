"""Measures beside the headline against scipy and scikit-learn, and adjustments where the truth is planted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trials
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, root_mean_squared_error

from wsibench.core import CohortError, StudyError
from wsibench.ranking import association, check
from wsibench.ranking.association import (
    fold_pearson,
    partial_spearman,
    pooled_spearman,
    r2,
    rmse,
    significance,
    within_strata,
)
from wsibench.ranking.gene_sets import GeneSet
from wsibench.ranking.predictions import Entry, Predictions
from wsibench.regression import fold_spearman


@pytest.fixture
def cohort():
    rng = np.random.default_rng(3)
    measured = rng.normal(size=(90, 6)).astype(np.float32)
    predicted = (0.7 * measured + rng.normal(size=measured.shape)).astype(np.float32)
    return measured, predicted, np.arange(90) % 3


def test_agree_with_the_libraries(cohort):
    measured, predicted, fold = cohort
    for g in range(6):
        y, x = measured[:, g], predicted[:, g]
        assert pooled_spearman(measured, predicted)[g] == pytest.approx(spearmanr(y, x).statistic, abs=1e-5)
        r = [pearsonr(y[fold == k], x[fold == k]).statistic for k in range(3)]
        assert fold_pearson(measured, predicted, fold)[g] == pytest.approx(np.tanh(np.arctanh(r).mean()))
        assert rmse(measured, predicted)[g] == pytest.approx(root_mean_squared_error(y, x))
        unbiased = 1 - (1 - r2_score(y, x)) * 89 / 90
        assert r2(measured, predicted, np.zeros(90))[g] == pytest.approx(unbiased, abs=1e-6)


def test_the_mean_of_all_patients_explains_nothing_in_folds_of_any_size():
    measured = np.random.default_rng(0).normal(size=(400, 50)).astype(np.float32)
    for size in (4, 40):
        found = r2(measured, np.zeros_like(measured), np.arange(400) // size)
        assert found.mean() == pytest.approx(0, abs=0.02)


def test_pooling_is_fooled_by_offsets_of_folds_and_the_rest_is_not(cohort):
    measured, predicted, fold = cohort
    shifted = predicted + 10 * fold[:, None]
    assert pooled_spearman(measured, shifted).mean() < 0.5 * pooled_spearman(measured, predicted).mean()
    np.testing.assert_allclose(
        fold_pearson(measured, shifted, fold),
        fold_pearson(measured, predicted, fold),
        atol=1e-5,
    )


def test_constant_prediction_is_zero_and_finite(cohort):
    measured, predicted, fold = cohort
    predicted[:, 0] = 4
    for found in (
        pooled_spearman(measured, predicted),
        fold_pearson(measured, predicted, fold),
    ):
        assert found[0] == 0
        assert np.isfinite(found).all()


def test_what_only_tells_subtypes_apart_is_gone_within_them():
    rng = np.random.default_rng(0)
    subtype = np.arange(300) % 3
    shift = np.array([0.0, 3, 6])[subtype][:, None]
    measured, predicted = (shift + rng.normal(size=(300, 20)) for _ in range(2))
    own = measured[:, :5]
    predicted[:, :5] = own + rng.normal(size=own.shape)
    fold = np.arange(300) % 5
    within = within_strata(measured, [predicted], fold, subtype.astype(str))[0]
    given = partial_spearman(measured, [predicted], fold, np.eye(3)[subtype])[0]
    plain = fold_spearman(measured, predicted, fold).mean()
    assert plain[5:].mean() > 0.7
    for left in (within, given):
        assert abs(left[5:].mean()) < 0.08
        assert left[:5].mean() > 0.5


def test_partial_correlation_is_that_of_residual_ranks(cohort):
    measured, predicted, _ = cohort
    covariates = np.random.default_rng(0).normal(size=(90, 2)) + measured[:, :1]
    found = partial_spearman(measured, [predicted], np.zeros(90), covariates)[0]
    for g in range(6):
        y, x = (rankdata(values[:, g]) for values in (measured, predicted))
        y, x = (r - LinearRegression().fit(covariates, r).predict(covariates) for r in (y, x))
        assert found[g] == pytest.approx(pearsonr(y, x).statistic, abs=1e-4)


def test_strata_of_three_are_no_strata():
    y = np.random.default_rng(0).normal(size=(6, 2))
    assert np.isnan(within_strata(y, [y], np.zeros(6), np.array(list("aaabbb")))).all()


def null_cohort(seed, genes=400, permutations=30):
    """ρ of independent genes without signal, of differing means and spreads under permutation."""
    rng = np.random.default_rng(seed)
    mean, sd = rng.normal(0, 0.1, genes), rng.uniform(0.03, 0.2, genes)
    draw = np.tanh(mean + sd * rng.normal(size=(permutations + 1, genes)))
    return draw[0], draw[1:]


@pytest.mark.parametrize("permutations", [5, 30])
def test_p_values_of_null_genes_are_uniform(permutations):
    """40 cohorts of 400 genes: ± 4 Monte-Carlo SE of a share of .05 is ± .007."""
    p = np.concatenate([significance(*null_cohort(seed, permutations=permutations))[0] for seed in range(40)])
    tolerance = 0.007 if permutations == 30 else 0.012
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=tolerance)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.02)


def test_false_discoveries_stay_at_their_rate_and_true_ones_are_found():
    false = found = 0
    for seed in range(20):
        rho, permuted = null_cohort(seed)
        rho[:100] = np.tanh(np.arctanh(rho[:100]) + 1.2)
        _, q = significance(rho, permuted)
        false += (q[100:] < 0.05).sum() / max(1, (q < 0.05).sum()) / 20
        found += (q[:100] < 0.05).mean() / 20
    assert false < 0.06
    assert found > 0.9


def test_gene_predicted_constant_is_not_significant():
    rho, permuted = null_cohort(0)
    rho[0], permuted[:, 0] = 0, 0
    p, _ = significance(rho, permuted)
    assert 0.4 < p[0] < 0.6


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
    rows = association.adjusted_rows(predictions, plain(predictions), list(sets), pd.DataFrame())
    return pd.DataFrame(rows).set_index("adjustment")


def remaining(
    predictions: Predictions, sets: tuple[GeneSet, ...] = (), covariates: pd.DataFrame | None = None
) -> dict[str, dict[str, float]]:
    """Mean ρ after each adjustment, by kind of gene."""
    kinds = {"follower": slice(0, FOLLOWERS), "own": slice(FOLLOWERS, -SILENT), "silent": slice(-SILENT, None)}
    covariates = pd.DataFrame() if covariates is None else covariates
    adjustments = association.adjustments(predictions, plain(predictions), list(sets), covariates)
    rho = {each.name: np.where(each.genes, each.rho[0], np.nan) for each in adjustments}
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
    covariates = association.read_covariates(folder / "purity.csv", ["purity", "ploidy"], predictions.obs.index)
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
        association.read_covariates(folder / "purity.csv", ["purity"], ["P000", "P001"])
    if "patients" not in message:
        assert len(check(study)) == 1, "the same fault is found before the work"


def test_a_table_and_its_columns_are_given_together(folder):
    for ranking in ({"given": ["purity"]}, {"covariates": "purity.csv"}):
        with pytest.raises(StudyError, match="give both or neither"):
            trials.load(folder, ranking=ranking)
    with pytest.raises(StudyError, match="immune is given from the study's own data"):
        trials.load(folder, ranking={"covariates": "purity.csv", "given": ["immune"]})
