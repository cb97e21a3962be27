"""Targets other than genes: gene-set scores by training patients alone, unknown patients, and separation of folds."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from wsibench.regression import Patients, make_probe, out_of_fold
from wsibench.regression.cross_validation import GeneSetProbe, measured_targets, predict_targets

N = 90
FOLD = np.arange(N) % 3
GENES = ["A", "B", "C", "D"]
COLUMNS = {"size": [], "grade=high": [], "grade=low": [], "set": ["C", "A"]}


def benchmark():
    """Four genes, a gene set, a continuous target, and a category that is unknown of nine patients."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(N, 4))
    expression = (latents + 0.5 * rng.normal(size=(N, 4))) * [1, 5, 0.1, 2] + 3
    targets = pd.DataFrame({"size": latents[:, 0], "grade=high": latents[:, 1] > 0}, dtype=np.float32)
    targets["grade=low"] = 1 - targets["grade=high"]
    targets.loc[rng.permutation(N)[:9], ["grade=high", "grade=low"]] = np.nan
    targets["set"] = 0.0
    ids = [f"P{i:02d}" for i in range(N)]
    description = {name: {"target": name.split("=")[0], "genes": genes} for name, genes in COLUMNS.items()}
    adata = anndata.AnnData(expression.astype(np.float32), pd.DataFrame(index=ids), pd.DataFrame(index=GENES))
    adata.obsm["targets"] = targets.set_axis(adata.obs_names)
    adata.uns["wsibench"] = {"targets": json.dumps(description)}
    return adata, Patients(np.array(ids), np.array(ids), latents.astype(np.float32))


def score(training, expression):
    """Mean z-score by the mean and SD of the training patients."""
    return ((expression - training.mean(axis=0)) / training.std(axis=0)).mean(axis=1)


def test_gene_sets_are_scored_with_the_training_patients_of_each_fold():
    adata, _ = benchmark()
    measured, x = measured_targets(adata, FOLD), adata[:, ["C", "A"]].X
    for fold in range(3):
        expected = score(x[fold != FOLD], x[fold == FOLD])
        np.testing.assert_allclose(measured["set"][fold == FOLD], expected, atol=1e-5)
    others = measured.columns.drop("set")
    pd.testing.assert_frame_equal(measured[others], adata.obsm["targets"][others])


def test_gene_sets_are_scored_anew_by_the_patients_that_a_probe_is_fitted_on():
    class Spy:
        def fit(self, patients, y, *, seed=0):
            self.y = y

    adata, patients = benchmark()
    x, train, probe = adata[:, ["C", "A"]].to_df(), np.flatnonzero(FOLD != 0), Spy()
    GeneSetProbe(probe, {1: x}).fit(patients.take(train), np.zeros((len(train), 2)))
    training = x.to_numpy()[train]
    np.testing.assert_allclose(probe.y[:, 1], score(training, training), atol=1e-5)
    assert not probe.y[:, 0].any()


def test_columns_are_predicted_as_genes_are_and_unknown_patients_are_left_out():
    adata, patients = benchmark()
    found = predict_targets(make_probe("ridge"), patients, adata, FOLD)
    assert list(found) == ["targets", "targets_measured", "targets_noise"]
    measured = found["targets_measured"]
    for name, columns in {"size": ["size"], "grade": ["grade=high", "grade=low"]}.items():
        known = np.flatnonzero(measured[columns[0]].notna())
        y = measured[columns].to_numpy()[known]
        alone = out_of_fold(make_probe("ridge"), patients.take(known), y, FOLD[known], split_half=True)
        np.testing.assert_allclose(found["targets"][columns].to_numpy()[known], alone.predicted, atol=1e-5)
        np.testing.assert_allclose(found["targets_noise"][columns].to_numpy()[known], alone.noise, atol=1e-5)
        assert len(known) == (81 if name == "grade" else N)
        assert found["targets"][columns].isna().any(axis=1).sum() == N - len(known)
    assert np.corrcoef(found["targets"]["size"], measured["size"])[0, 1] > 0.9
    assert np.corrcoef(found["targets"]["set"], measured["set"])[0, 1] > 0.6


@pytest.mark.parametrize("changed", ["expression", "targets"])
def test_test_patients_have_no_influence_on_their_own_predictions(changed):
    adata, patients = benchmark()
    before = predict_targets(make_probe("ridge"), patients, adata, FOLD)["targets"]
    test = FOLD == 1
    if changed == "expression":
        adata.X[test] = 100 - 3 * adata.X[test]
    else:
        adata.obsm["targets"].loc[test, "size"] = 7 - 5 * adata.obsm["targets"]["size"][test]
        adata.obsm["targets"].loc[test, "grade=high"] *= 0
    after = predict_targets(make_probe("ridge"), patients, adata, FOLD)["targets"]
    columns = {"expression": {"set"}, "targets": {"size", "grade=high"}}[changed]
    pd.testing.assert_frame_equal(after[test], before[test])
    moved = {name for name in COLUMNS if not np.allclose(after[name][~test], before[name][~test], equal_nan=True)}
    assert moved == columns, "patients who were trained with them are predicted differently"


def test_in_external_validation_only_test_patients_are_predicted():
    adata, patients = benchmark()
    external = np.where(FOLD == 0, 0, -1)
    found = predict_targets(make_probe("ridge"), patients, adata, external)
    assert found["targets"][external < 0].isna().all(axis=None)
    x = adata[:, ["C", "A"]].X
    expected = score(x[external < 0], x[external == 0])
    np.testing.assert_allclose(found["targets_measured"]["set"][external == 0], expected, atol=1e-5)
    assert not found["targets_noise"][external == 0].fillna(0).any(axis=None)
