"""Selection of highly variable genes, and fusion of predictions."""

import anndata
import numpy as np
import pandas as pd
import pytest

from wsibench.core import Study, StudyError
from wsibench.ranking.plan import Entry
from wsibench.ranking.predictions import fuse, highly_variable_genes, load_predictions


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
