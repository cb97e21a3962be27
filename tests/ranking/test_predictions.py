"""Selection of highly variable genes, fusion of predictions, and the permutation null of the whole pipeline."""

import anndata
import numpy as np
import pandas as pd
import pytest

from wsibench.core import Study, StudyError
from wsibench.ranking import significance
from wsibench.ranking.predictions import Entry, fuse, highly_variable_genes, load_predictions, permuted_orders
from wsibench.regression import Patients, fold_spearman, make_probe, out_of_fold
from wsibench.regression.metrics import permutation_within


def cohort(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """90 patients in three folds; of 400 genes over a range of means every 20th varies most for its mean."""
    genes = np.arange(400)
    values = 2 + genes / 60 + rng.normal(size=(90, 400)) * np.where(genes % 20 == 10, 1.0, 0.25)
    return np.maximum(values, 0).astype(np.float32), np.repeat([0, 1, 2], 30)


def test_genes_that_vary_most_for_their_mean_are_kept():
    values, fold = cohort(np.random.default_rng(0))
    kept = np.flatnonzero(highly_variable_genes(values, fold, 24))
    planted = np.arange(10, 400, 20)
    assert len(np.intersect1d(kept, planted)) >= 18
    assert len(np.setdiff1d(kept, planted)) <= 4


def test_held_out_patients_do_not_influence_the_selection():
    values, fold = cohort(np.random.default_rng(1))
    values[:, 150] = np.where(fold == 0, 4.5 + 2 * (np.arange(90) % 2), 4.5 + 0.01 * (np.arange(90) % 2))
    assert highly_variable_genes(values, np.zeros(90) + (np.arange(90) % 3), 24)[150], "divided otherwise, it is chosen"
    # It varies in the patients of one fold only; that fold's training patients see it flat.
    assert not highly_variable_genes(values, fold, 24)[150]


def test_more_than_there_are_keeps_all():
    values, fold = cohort(np.random.default_rng(3))
    assert highly_variable_genes(values, fold, 1000).all()


def test_it_is_asked_for_on_a_log_scale_only(data_root):
    (data_root / "mine").mkdir()
    text = "title: T\ncohort: {source: simulate}\nexpression: {unit: zscore, highly_variable: 10}\n"
    (data_root / "mine" / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match="unit is zscore"):
        Study.load("mine")


def predictions(values: np.ndarray) -> anndata.AnnData:
    obs = pd.DataFrame({"fold": np.arange(20) % 2, "site": "S"}, [f"P{i}" for i in range(20)])
    return anndata.AnnData(values.astype(np.float32), obs, layers={"noise": 0.1 * values})


def test_a_fusion_is_the_mean_of_predictions_and_of_noise():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(20, 4))
    members = [predictions(measured + rng.normal(size=(20, 4))) for _ in range(3)]
    fused = fuse(members, measured)
    np.testing.assert_allclose(fused.X, np.mean([each.X for each in members], axis=0), rtol=1e-5)
    np.testing.assert_allclose(fused.layers["noise"], 0.1 * fused.X, atol=1e-6)
    assert (fused.obs["fold"] == members[0].obs["fold"]).all()
    assert fused.varm["rho_by_split"].shape == (4, 1)


@pytest.mark.parametrize(
    ("scheme", "sites", "sampled"),
    [
        ("random-patient", ["a", "b"] * 10, False),
        ("preserved-site", ["a", "b"] * 10, True),
        ("external", ["a", "b"] * 10, True),
        ("external", ["a"] * 20, False),
        ("external", ["a", ""] * 10, False),
    ],
)
def test_sites_are_drawn_where_new_patients_come_from_new_sites(tmp_path, scheme, sites, sampled):
    adata = predictions(np.random.default_rng(0).normal(size=(20, 4)))
    adata.varm["rho_by_split"] = np.zeros((4, 1))
    adata.write_h5ad(tmp_path / "p.h5ad")
    benchmark = anndata.AnnData(adata.X, adata.obs[[]].assign(site=sites, subtype=""))
    found = load_predictions(scheme, [Entry("good", "ridge", tmp_path / "p.h5ad")], benchmark)
    assert (found.sampled_sites is not None) == sampled


PLANTED, NULL, PERMUTATIONS = 40, 160, 10


def found(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ρ and q of one cohort of 120 patients at 8 sites, ridge refitted in every permutation.

    Genes are dependent, and sites shift features and expression: in random-patient folds the ρ of a null gene is
    well above 0, and only permutation within sites accounts for that.
    """
    rng = np.random.default_rng(seed)
    n, genes, site = 120, PLANTED + NULL, np.arange(120) % 8
    latent = rng.normal(size=(n, 4))
    x = latent @ rng.normal(size=(4, 16)) + rng.normal(size=(n, 16)) + rng.normal(size=(8, 16))[site]
    y = rng.normal(size=(n, genes)) + 0.5 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, genes))
    y += 0.7 * rng.normal(size=(8, genes))[site]
    y[:, :PLANTED] += 0.5 * latent @ rng.normal(size=(4, PLANTED))
    orders = [np.arange(n), *(permutation_within(site, rng) for _ in range(PERMUTATIONS))]
    together = np.concatenate([y[order] for order in orders], axis=1).astype(np.float32)
    patients = Patients(np.arange(n), np.arange(n), mean=x.astype(np.float32))
    fold = rng.permutation(n) % 3
    predicted = out_of_fold(make_probe("ridge"), patients, together, fold).predicted
    rho = fold_spearman(together, predicted, fold).mean().reshape(len(orders), genes)
    return rho[0], significance(rho[0], rho[1:])[1]


def test_the_false_discovery_rate_of_the_pipeline_is_controlled():
    """Mean false discovery proportion at .05, over cohorts: at most .05 and twice its Monte-Carlo error."""
    cohorts = [found(seed) for seed in range(10)]
    called = np.stack([q < 0.05 for _, q in cohorts])
    proportion = called[:, PLANTED:].sum(axis=1) / np.maximum(1, called.sum(axis=1))
    error = proportion.std(ddof=1) / np.sqrt(len(proportion))
    null = np.mean([rho[PLANTED:].mean() for rho, _ in cohorts])
    assert null > 0.05, "sites alone give a score, so that a null centred on zero would call null genes"
    assert proportion.mean() <= 0.05 + 2 * error
    assert called[:, :PLANTED].mean() > 0.5


def test_test_patients_of_external_validation_are_not_permuted():
    site, fold = np.array(list("aabbaabb")), np.array([-1, -1, -1, -1, 0, 0, 0, 0])
    for kind in ("within-site", "free"):
        (order,) = permuted_orders(site, fold, kind=kind, permutations=1, seed=3)
        assert order[4:].tolist() == [4, 5, 6, 7]
        assert sorted(order[:4]) == [0, 1, 2, 3]
        if kind == "within-site":
            assert (site[order] == site).all()
