"""Joining and concatenating benchmarks without a study."""

import anndata
import numpy as np
import pandas as pd
import pytest

from wsibench.assembly import concatenate, join
from wsibench.core import CohortError


def expression(patients, genes=("G1", "G2")):
    values = np.arange(len(patients) * len(genes), dtype=np.float32).reshape(len(patients), -1)
    return anndata.AnnData(values, pd.DataFrame(index=list(patients)), pd.DataFrame(index=list(genes)))


def slides(patients):
    rows = {"slide_id": [f"s{each}" for each in patients], "patient_id": list(patients), "site": "X", "subtype": ""}
    return pd.DataFrame(rows).assign(used=True, n_tiles=4)


def benchmark(patients, genes=("G1", "G2"), columns=("f1", "f2"), settings="k"):
    """Features of an encoder and of a table, for some patients."""
    rng = np.random.default_rng(len(patients))
    features = {
        "tiles": pd.DataFrame(rng.normal(size=(len(patients), 3)), list(patients)),
        "table": pd.DataFrame(rng.normal(size=(len(patients), len(columns))), list(patients), list(columns)),
    }
    adata, _ = join(expression(patients, genes), slides(patients), features, tables=["table"])
    adata.uns["wsibench"]["settings"] = {"tiles": settings, "table": ""}
    return adata


def test_patients_without_a_feature_are_excluded_with_the_reason():
    features = {"a": pd.DataFrame([[1.0], [2.0]], ["A", "B"]), "b": pd.DataFrame([[1.0], [2.0]], ["B", "C"])}
    adata, exclusions = join(expression("ABC"), slides("ABC"), features)
    assert adata.obs_names.tolist() == ["B"]
    assert exclusions == [("patient", "A", "no features: b"), ("patient", "C", "no features: a")]
    assert adata.obsm["a"].tolist() == [[2.0]]


def test_unusable_columns_of_tables_alone_are_excluded():
    values = pd.DataFrame({"dead": [1.0, 1.0], "gap": [1.0, np.nan], "good": [1.0, 2.0]}, ["A", "B"])
    adata, exclusions = join(expression("AB"), slides("AB"), {"t": values, "e": values[["dead"]]}, tables=["t"])
    assert adata.obsm["t"].tolist() == [[1.0], [2.0]]
    assert adata.obsm["e"].tolist() == [[1.0], [1.0]]
    assert adata.uns["wsibench"]["columns"]["t"].tolist() == ["good"]
    reasons = [("feature", "t: gap", "missing values"), ("feature", "t: dead", "the same for every patient")]
    assert exclusions == reasons


def test_concatenated_benchmarks_keep_shared_genes_and_columns():
    train, test = benchmark("AB", ["G1", "G2", "G3"], ["f1", "f2"]), benchmark("CDE", ["G3", "G1"], ["f2", "f1", "f3"])
    both, exclusions = concatenate({"one": train, "two": test}, ["tiles", "table", "site"])
    assert both.obs["external"].tolist() == [-1, -1, 0, 0, 0]
    assert both.var_names.tolist() == ["G3", "G1"]
    np.testing.assert_array_equal(both.X, np.concatenate([train[:, ["G3", "G1"]].X, test.X]))
    np.testing.assert_array_equal(both.obsm["table"][2:], test.obsm["table"][:, [1, 0]])
    assert both.obsm["site"].tolist() == [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]]
    reasons = [("gene", "G2", "only in one (train)"), ("feature", "table: f3", "only in two (test)")]
    assert exclusions == reasons


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"patients": "BC"}, "1 patients are in study one and in study two: B"),
        ({"genes": ["H1"]}, "share no gene: one has G1, G2; two has H1"),
        ({"columns": ["h1"]}, "share no column of table"),
        ({"settings": "other"}, "features of tiles were made with different settings in study one and in study two"),
    ],
)
def test_benchmarks_that_cannot_be_concatenated_are_refused(other, message):
    with pytest.raises(CohortError, match=message):
        concatenate({"one": benchmark("AB"), "two": benchmark(**{"patients": "CD"} | other)}, ["tiles", "table"])


def test_features_of_different_widths_are_refused():
    test = benchmark("CD")
    test.obsm["tiles"] = test.obsm["tiles"][:, :2]
    with pytest.raises(CohortError, match="different settings"):
        concatenate({"one": benchmark("AB"), "two": test}, ["tiles"])
