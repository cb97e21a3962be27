"""Assembly of a study: means over all tiles, exclusions with their reasons, keys, and feature tables."""

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from wsibench import assembly, cohort, embedding, tiling
from wsibench.core import CohortError, Failure, NotReady, Study, read_meta, record_failures, writing
from wsibench.embedding import write_features

SLIDES = [  # slide, patient, site, number of tiles
    ("a1", "A", "X", 3),
    ("a2", "A", "X", 1),
    ("b1", "B", "X", 5),
    ("c1", "C", "Y", 2),
]
DIM = {"colour": 4, "texture": 6}


def reload(folder, **sections):
    content = {
        "title": "T",
        "cohort": {"source": "local", "slides": "slides.csv", "expression": "expression.csv"},
        "encoders": ["texture", "colour"],
        "controls": [],
        "limits": {"failed_slides": 1.0},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load(folder.name)


@pytest.fixture
def folder(data_root):
    """Tables of three patients; slides are text files that are never opened."""
    folder = data_root / "own"
    folder.mkdir()
    rows = [(slide, patient, f"{slide}.svs", site) for slide, patient, site, _ in SLIDES]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path", "site"]).to_csv(folder / "slides.csv", index=False)
    for slide, *_ in SLIDES:
        (folder / f"{slide}.svs").write_text(slide)
    (folder / "expression.csv").write_text("patient_id,G1,G2\nA,1,9\nB,2,7\nC,3,8\n")
    return folder


@pytest.fixture
def study(folder):
    """A study whose slides have tiles and features that no image was read for."""
    study = reload(folder)
    cohort.build(study)
    embed(study)
    return study


def features(encoder, slide):
    """(n_tiles, dim) of one slide: known numbers, one row a tile."""
    index = [row[0] for row in SLIDES].index(slide)
    n = SLIDES[index][3]
    return (100 * index + np.arange(n * DIM[encoder]).reshape(n, -1)).astype(np.float16)


def embed(study, failing=()):
    for artefact in tiling.expected(study):
        with writing(artefact) as path:
            path.write_text("tiles")
    failures = []
    for artefact in embedding.expected(study):
        encoder, slide = artefact.path.parent.name, artefact.path.stem
        if (encoder, slide) in failing:
            failures.append(Failure(slide, "embedding", "broken", "mend it", artefact.key))
            continue
        made = features(encoder, slide)
        xy = np.stack([np.arange(len(made)), 7 * np.arange(len(made))], axis=1)
        with writing(artefact) as path:
            write_features(path, made, xy)
    record_failures(study.failures_csv, "embedding", failures)


def table(folder, text, name="own", **settings):
    (folder / "features.csv").write_text(text)
    return {name: {"table": "features.csv", **settings}}


# Pooling


def test_mean_features_are_averaged_over_all_tiles_of_all_slides_of_a_patient(study):
    adata = assembly.assemble(study)
    assert list(adata.obsm) == ["texture", "colour"]
    assert adata.obs_names.tolist() == ["A", "B", "C"]
    for name in DIM:
        tiles = np.concatenate([features(name, "a1"), features(name, "a2")]).astype(np.float64)
        np.testing.assert_allclose(adata["A"].obsm[name][0], tiles.mean(axis=0), rtol=1e-6)
        assert adata.obsm[name].dtype == np.float32
    assert adata.obs["n_tiles"].tolist() == [4, 5, 2]
    assert adata.obs["n_slides"].tolist() == [2, 1, 1]
    assert adata.obs["slide_ids"].tolist() == ["a1;a2", "b1", "c1"]
    np.testing.assert_array_equal(adata.X, [[1, 9], [2, 7], [3, 8]])


def test_pooling_large_float16_features_does_not_overflow(study):
    (artefact,) = [a for a in embedding.expected(study) if a.path == study.features_h5("colour", "b1")]
    (other,) = [a for a in embedding.expected(study) if a.path == study.features_h5("texture", "b1")]
    many = np.full((5000, 4), 60000, np.float16)
    many[::2] = 0.1
    with writing(artefact) as path:
        write_features(path, many, np.zeros((5000, 2)))
    with writing(other) as path:
        write_features(path, np.ones((5000, 6)), np.zeros((5000, 2)))
    made = assembly.assemble(study)["B"].obsm["colour"][0]
    np.testing.assert_allclose(made, many.astype(np.float64).mean(axis=0), rtol=1e-6)


def test_bags_and_their_index_have_the_same_order(study):
    assembly.assemble(study)
    obs = assembly.read_benchmark(study.benchmark_h5ad).obs.loc[["C", "A"]]
    folders = assembly.feature_folders(study, "colour")
    bags, index = assembly.read_bags(obs, folders), assembly.bag_index(obs, folders)
    assert [bag.shape for bag in bags] == [(2, 4), (4, 4)]
    assert bags[0].dtype == np.float16
    np.testing.assert_array_equal(bags[1], np.concatenate([features("colour", "a1"), features("colour", "a2")]))
    assert index["slide_id"].tolist() == ["c1", "c1", "a1", "a1", "a1", "a2"]
    assert index["patient_id"].tolist() == ["C", "C", "A", "A", "A", "A"]
    assert index["y"].tolist() == [0, 7, 0, 7, 14, 0]


def test_the_benchmark_can_be_read_with_anndata_alone(study):
    assembly.assemble(study)
    adata = anndata.read_h5ad(study.benchmark_h5ad)
    assert adata.shape == (3, 2)
    assert adata.obs["site"].tolist() == ["X", "X", "Y"]
    assert adata.obs["subtype"].tolist() == ["", "", ""]
    assert adata.uns["wsibench"]["study"] == "own"
    assert adata.uns["wsibench"]["key"] == read_meta(study.benchmark_h5ad)["key"]


# Who is left out


def test_a_slide_without_features_of_one_encoder_is_excluded_for_all(folder):
    study = reload(folder)
    cohort.build(study)
    embed(study, failing={("colour", "a2"), ("texture", "b1")})
    adata = assembly.assemble(study)
    assert adata.obs_names.tolist() == ["A", "C"]
    assert adata.obs["slide_ids"].tolist() == ["a1", "c1"]
    np.testing.assert_allclose(adata.obsm["texture"][0], features("texture", "a1").astype(float).mean(axis=0))
    rows = pd.read_csv(study.benchmark_exclusions_csv)[["what", "id"]].values.tolist()
    assert rows == [["slide", "a2"], ["slide", "b1"], ["patient", "B"]]


def test_features_that_are_due_are_an_error(study):
    study.features_h5("colour", "b1").unlink()
    with pytest.raises(NotReady, match=r"1 files of features are due, .*b1\.h5"):
        assembly.assemble(study)


def test_features_that_are_not_finite_are_refused(study):
    (artefact,) = [a for a in embedding.expected(study) if a.path == study.features_h5("colour", "b1")]
    with writing(artefact) as path:
        write_features(path, np.full((5, 4), np.nan), np.zeros((5, 2)))
    with pytest.raises(CohortError, match=r"b1\.h5 holds features that are not finite"):
        assembly.assemble(study)


def test_encoders_with_different_numbers_of_tiles_are_refused(study):
    (artefact,) = [a for a in embedding.expected(study) if a.path == study.features_h5("colour", "b1")]
    with writing(artefact) as path:
        write_features(path, features("colour", "b1")[:-1], np.zeros((4, 2)))
    with pytest.raises(CohortError, match="different numbers of tiles of slide b1"):
        assembly.assemble(study)


# Keys


def test_a_current_benchmark_is_not_assembled_again(study):
    assembly.assemble(study)
    stamp = study.benchmark_h5ad.stat().st_mtime_ns
    assembly.assemble(study)
    assert study.benchmark_h5ad.stat().st_mtime_ns == stamp
    assert all(artefact.due() is None for artefact in assembly.expected(study))


def test_digests_change_only_for_the_parts_that_changed(study, folder):
    def contents(study):
        assembly.assemble(study)
        return read_meta(study.benchmark_h5ad)["facts"]["contents"]

    before = contents(study)
    one_less = contents(reload(folder, encoders=["texture"], controls=["site"]))
    assert one_less["features"]["texture"] == before["features"]["texture"]
    assert set(one_less["features"]) == {"texture", "site"}
    assert one_less["patients"] == before["patients"]
    (folder / "expression.csv").write_text("patient_id,G1,G2\nA,1,9\nB,2,7\nC,3,0\n")
    cohort.build(study)
    after = contents(study := reload(folder))
    assert after["features"] == before["features"]
    assert after["patients"] == before["patients"]
    assert after["expression"] != before["expression"]


# Tables of features


def test_a_feature_table_is_joined_with_encoders(study, folder):
    text = "patient_id,f1,f2,f3,f4\nC,1,5,2,\nB,2,5,3,1\nA,4,5,4,1\nD,9,9,9,9\n"
    adata = assembly.assemble(reload(folder, features=table(folder, text, width=4), controls=["site"]))
    assert list(adata.obsm) == ["texture", "colour", "own", "site"]
    np.testing.assert_array_equal(adata.obsm["own"], np.float32([[4, 4], [2, 3], [1, 2]]))
    np.testing.assert_array_equal(adata.obsm["site"], np.float32([[1, 0], [1, 0], [0, 1]]))
    assert adata.uns["wsibench"]["encoders"].tolist() == ["texture", "colour", "own"]
    assert adata.uns["wsibench"]["controls"].tolist() == ["site"]
    assert pd.read_csv(study.benchmark_exclusions_csv).values.tolist() == [
        ["feature", "own: f4", "missing values"],
        ["feature", "own: f2", "the same for every patient"],
    ]


def test_a_table_of_slides_is_averaged_over_the_slides_of_a_patient(study, folder):
    text = "slide_id,f1,f2\na1,1,2\na2,3,6\nb1,5,5\nc1,7,8\n"
    adata = assembly.assemble(reload(folder, encoders=[], features=table(folder, text, id="slide_id")))
    np.testing.assert_array_equal(adata.obsm["own"], np.float32([[2, 4], [5, 5], [7, 8]]))


@pytest.mark.parametrize("kind", ["parquet", "h5ad"])
def test_feature_tables_can_be_parquet_or_h5ad(study, folder, kind):
    frame = pd.DataFrame({"f1": [1.0, 2, 4], "f2": [3.0, 2, 1]}, index=pd.Index(["A", "B", "C"], name="patient_id"))
    path = folder / f"features.{kind}"
    frame.to_parquet(path) if kind == "parquet" else anndata.AnnData(frame).write_h5ad(path)
    adata = assembly.assemble(reload(folder, encoders=[], features={"own": {"table": path.name}}))
    np.testing.assert_array_equal(adata.obsm["own"], frame.to_numpy(np.float32))


def test_patients_missing_from_a_table_are_listed(study, folder):
    study = reload(folder, features=table(folder, "patient_id,f1\nA,1\nB,\nC,3\n"))
    assert assembly.assemble(study).obs_names.tolist() == ["A", "C"]
    assert pd.read_csv(study.benchmark_exclusions_csv).values.tolist() == [["patient", "B", "no features: own"]]


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("patient_id,f1,f2\nA,1,2\nB,2,1\nC,3,3\n", {"width": 3}, ["2 feature columns", "states 3"]),
        ("patient_id,f1\nP1,1\nP2,2\n", {}, ["the cohort has A, B, C", "has P1, P2"]),
        ("feature,A,B,C\nf1,1,2,3\n", {}, ["is transposed"]),
        ("patient_id,f1\nA,1\nB,1\nC,1\n", {}, ["none of 1 columns", "1 are constant"]),
        ("patient_id,f1\nA,1\nB,1\nC,high\n", {}, ["'f1'", "'high'", "row C"]),
        ("patient_id,f1\nA,1\nB,inf\nC,2\n", {}, ["'f1'", "infinite"]),
        ("patient_id,f1\nA,1\nA,2\nC,2\n", {}, ["more than one row called A"]),
        ("patient_id,f1\nA,1\nB,2\nC,2\n", {"id": "slide_id"}, ["first column", "'slide_id'"]),
    ],
)
def test_unusable_feature_tables_are_refused(study, folder, text, settings, words):
    assembly.assemble(study)
    before = study.benchmark_h5ad.read_bytes()
    with pytest.raises(CohortError) as info:
        assembly.assemble(reload(folder, features=table(folder, text, **settings)))
    for word in words:
        assert word in str(info.value)
    assert study.benchmark_h5ad.read_bytes() == before


def test_missing_tables_and_impossible_controls_are_refused(study, folder):
    with pytest.raises(CohortError, match="There is no table"):
        assembly.assemble(reload(folder, features={"own": {"table": "nowhere.csv"}}))
    with pytest.raises(CohortError, match="truth of a simulated cohort"):
        assembly.assemble(reload(folder, controls=["oracle"]))


def test_no_complete_patient_is_an_error(study, folder):
    text = "patient_id,f1\nA,\nB,\nC,3\n"
    study = reload(folder, features=table(folder, text) | {"other": {"table": "other.csv"}})
    (folder / "other.csv").write_text("patient_id,f1\nA,1\nB,2\n")
    with pytest.raises(CohortError, match=r"No patient has .*other has 2 patients; own has 1"):
        assembly.assemble(study)


# Where it does not apply


def test_assembly_is_not_applicable_without_expression_or_features(folder):
    assert "no expression" in assembly.not_applicable(
        reload(folder, cohort={"source": "local", "slides": "slides.csv"})
    )
    assert "neither encoders nor features" in assembly.not_applicable(reload(folder, encoders=[]))
    assert assembly.not_applicable(reload(folder)) is None


@pytest.mark.real
def test_the_real_features_of_884_patients_are_assembled(data_root, real_data):
    study = Study.load("tcga-brca-hif")
    cohort.build(study)
    adata = assembly.assemble(study)
    assert adata.shape == (884, 1558)
    assert adata.obsm["hif"].shape == (884, 607)
    assert adata.obsm["site"].shape == (884, 37)
    assert np.isfinite(adata.obsm["hif"]).all()
