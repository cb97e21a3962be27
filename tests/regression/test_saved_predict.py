"""Predictions of saved fits for new patients: equal to those in memory, or a clear refusal."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from trials import GENES, assembled, with_tiles, write_tables

from wsibench import assembly, cohort, embedding, ranking, regression, tiling
from wsibench.cli.main import main
from wsibench.core import FitError, Study, writing
from wsibench.embedding import read_features, stage, write_features
from wsibench.regression import PROBES, folds, make_probe, saved
from wsibench.regression.probes.base import Patients

QUICK = {"seeds": 2, "epochs": 2, "embed": 8, "attention": 4, "pca": 4}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Sixty patients with tile features, assembled."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(root))
        patch.setenv("WSIBENCH_WORKERS", "0")
        write_tables(root / "train")
        yield with_tiles(root / "train", abmil=QUICK)


def write_new(folder, **sections) -> Study:
    """Six patients without expression or site, the first of two slides."""
    folder.mkdir(exist_ok=True)
    rows = [(f"n{i}", f"N{max(i, 1)}", f"n{i}.svs") for i in range(7)]
    for slide, _, path in rows:
        (folder / path).write_text(slide)
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"]).to_csv(folder / "slides.csv", index=False)
    content = {"title": "New", "cohort": {"source": "local", "slides": "slides.csv"}, "encoders": ["colour"]}
    content["controls"] = []
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load(folder.name)


def embedded(folder, *, width=6, **sections) -> Study:
    """The same with random features in place of those of slides."""
    study = write_new(folder, **sections)
    cohort.build(study)
    for artefact in tiling.expected(study):
        with writing(artefact) as path:
            path.write_text("not looked at")
    rng = np.random.default_rng(7)
    for i, artefact in enumerate(embedding.expected(study)):
        with writing(artefact, weights="w") as path:
            write_features(path, rng.normal(size=(3 + i, width)), np.zeros((3 + i, 2)))
    return study


@pytest.fixture(scope="module")
def new(tiled):
    return embedded(tiled.root.parent / "new")


@pytest.mark.parametrize("probe", PROBES)
def test_predictions_equal_those_of_the_probe_in_memory(tiled, new, probe, tmp_path):
    saved.save(saved.fit(tiled, "colour", probe), tmp_path / "f.safetensors")
    predicted = saved.predict(saved.load(tmp_path / "f.safetensors"), new)
    tiles = [read_features(new.features_h5("colour", f"n{i}"))[0].astype(np.float32) for i in range(7)]
    bags = [np.concatenate(tiles[:2]), *tiles[2:]]
    ids = np.array([f"N{i}" for i in range(1, 7)])
    patients = Patients(
        ids, ids, np.stack([bag.mean(axis=0, dtype=np.float64) for bag in bags]).astype(np.float32), bags
    )
    benchmark = assembly.read_benchmark(tiled.benchmark_h5ad)
    train = Patients(
        benchmark.obs_names.to_numpy(str),
        folds.inner_groups(benchmark.obs, "preserved-site"),
        benchmark.obsm["colour"],
        assembly.read_bags(benchmark.obs, assembly.feature_folders(tiled, "colour")),
    )
    fitted = make_probe(probe, tiled.abmil).fit(train, benchmark.X, seed=0)
    assert list(predicted.obs_names) == list(ids)
    assert list(predicted.var_names) == list(benchmark.var_names)
    np.testing.assert_allclose(predicted.X, fitted.predict(patients), rtol=0, atol=1e-5)
    assert predicted.obs["n_slides"].tolist() == [2, 1, 1, 1, 1, 1]
    assert predicted.obs["n_tiles"].tolist() == [len(bag) for bag in bags]


@pytest.mark.parametrize("tiles", [{"tile_um": 56}, {"min_tissue": 0.9}, {"drop": []}])
def test_features_made_with_other_settings_are_refused_before_they_are_made(tiled, tiles):
    study = write_new(tiled.root.parent / "other", tiles=tiles)
    with pytest.raises(FitError, match=r"colour in study other are made with other settings.*of study train"):
        saved.predict(saved.fit(tiled, "colour", "ridge"), study)
    assert not study.cohort_csv.exists()


def test_another_number_of_tiles_is_accepted(tiled):
    study = embedded(tiled.root.parent / "fewer", tiles={"max_tiles": 50, "seed": 3})
    assert saved.predict(saved.fit(tiled, "colour", "ridge"), study).n_obs == 6


def test_predicting_the_training_patients_warns(tiled, new):
    fit = saved.fit(tiled, "colour", "ridge")
    assert "WARNING" in saved.summary(saved.predict(fit, tiled))
    assert "WARNING" not in saved.summary(saved.predict(fit, new))


def test_features_of_another_width_are_refused(tiled):
    study = embedded(tiled.root.parent / "wide", width=7)
    with pytest.raises(FitError, match="has 7 features of 6 patients in study wide; the fit reads 6"):
        saved.predict(saved.fit(tiled, "colour", "ridge"), study)


def test_imported_features_are_refused_for_a_fit_on_embedded_tiles(tiled):
    folder = {"features": {"colour": {"folder": ".", "layout": "trident"}}}
    with pytest.raises(FitError, match="made with other settings"):
        saved.predict(saved.fit(tiled, "colour", "ridge"), write_new(tiled.root.parent / "else", **folder))


def test_a_study_without_the_encoder_is_refused(tiled):
    study = write_new(tiled.root.parent / "lacking", encoders=["texture"])
    with pytest.raises(FitError, match=r"no features of 'colour' that ridge can read; it has: texture.*Add it"):
        saved.predict(saved.fit(tiled, "colour", "ridge"), study)


def test_features_of_other_weights_are_refused(tiled, monkeypatch):
    study = embedded(tiled.root.parent / "weighty")
    fitted = saved.fit(tiled, "colour", "ridge")
    known = ["unavailable"]
    monkeypatch.setattr(stage, "_known_hash", lambda study, encoder: known[0])
    assert assembly.settings_key(study, "colour") is None
    saved._check_features(study, "colour", "ridge", fitted)
    known[0] = "other"
    with pytest.raises(FitError, match="made with other settings"):
        saved._check_features(study, "colour", "ridge", fitted)


# Tables


@pytest.fixture
def fit_of_table(data_root):
    write_tables(data_root / "train")
    return saved.fit(assembled(data_root / "train"), "good", "ridge")


def write_table(data_root, change=lambda table: table) -> Study:
    folder = data_root / "new"
    folder.mkdir()
    ids = [f"N{i}" for i in range(5)]
    pd.DataFrame({"patient_id": [*ids, "N9"]}).to_csv(folder / "patients.csv", index=False)
    values = np.random.default_rng(3).normal(size=(5, 6))
    table = change(pd.DataFrame(values, pd.Index(ids, name="patient_id"), list("012345")))
    table.to_csv(folder / "good.csv")
    content = {"title": "N", "cohort": {"source": "local", "patients": "patients.csv"}}
    (folder / "study.yaml").write_text(yaml.safe_dump(content | {"features": {"good": {"table": "good.csv"}}}))
    return Study.load("new")


def test_columns_of_a_table_are_matched_by_name(data_root, fit_of_table):
    study = write_table(data_root, lambda table: table.assign(more=1.0)[["more", *"543210"]])
    predicted = saved.predict(fit_of_table, study)
    values = pd.read_csv(study.root / "good.csv", index_col=0)[list("012345")].to_numpy(np.float32)
    expected = fit_of_table.fitted.predict(Patients(np.arange(5), np.arange(5), values))
    np.testing.assert_allclose(predicted.X, expected, atol=1e-6)
    assert predicted.uns["wsibench"]["left_out"].tolist() == ["N9"]
    assert "N9" in saved.summary(predicted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="3"), "lacks columns or values that the fit needs: 3"),
        (lambda table: table.assign(**{"4": [1, 2, np.nan, 4, 5]}), "lacks columns or values that the fit needs: 4"),
    ],
)
def test_incomplete_tables_are_refused(data_root, fit_of_table, change, message):
    with pytest.raises(FitError, match=message):
        saved.predict(fit_of_table, write_table(data_root, change))


def test_patients_without_values_are_left_out(data_root, fit_of_table):
    study = write_table(data_root, lambda table: table.where(table.index.to_series() != "N2"))
    predicted = saved.predict(fit_of_table, study)
    assert list(predicted.obs_names) == ["N0", "N1", "N3", "N4"]
    assert predicted.uns["wsibench"]["left_out"].tolist() == ["N2", "N9"]


def test_predictions_are_written_as_h5ad_and_csv(data_root, fit_of_table, tmp_path):
    predicted = saved.predict(fit_of_table, write_table(data_root))
    assert saved.write_predictions(predicted, tmp_path / "p.h5ad") == [tmp_path / "p.h5ad"]
    back = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(back.X, predicted.X)
    assert list(back.var.columns) == ["rho", "p", "q"]
    assert back.uns["wsibench"]["fit"] == fit_of_table.key
    assert back.uns["wsibench"]["trained_on"]["n_patients"] == 60
    table, genes = saved.write_predictions(predicted, tmp_path / "p.csv")
    values = pd.read_csv(table, index_col="patient_id")
    np.testing.assert_allclose(values.to_numpy(), predicted.X, rtol=1e-6)
    assert list(pd.read_csv(genes)["gene"]) == list(values.columns) == [f"G{i}" for i in range(3 * GENES)]
    with pytest.raises(FitError, match=r"p\.xlsx does not end in \.h5ad or \.csv"):
        saved.write_predictions(predicted, tmp_path / "p.xlsx")


# From pixels


def write_slide(path, seed):
    """A small slide of pink and purple tissue, of another colour for each seed."""
    rng = np.random.default_rng(seed)
    stain = np.array([180, 90, 150]) + rng.integers(-30, 30, 3)
    pixels = np.repeat(np.repeat(rng.integers(0, 60, (32, 32, 3)), 16, 0), 16, 1) + stain
    tifffile.imwrite(
        path,
        pixels.astype(np.uint8),
        tile=(256, 256),
        compression="jpeg",
        photometric="rgb",
        description="Aperio Image Library v11\n512x512 |AppMag = 20|MPP = 0.5",
        metadata=None,
    )


def test_fit_and_predict_from_slides_by_the_command(data_root, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    train, new = data_root / "train", data_root / "new"
    for folder, seeds in ((train, range(10)), (new, (3, 20))):
        folder.mkdir()
        for seed in seeds:
            write_slide(folder / f"s{seed}.svs", seed)
        rows = [(f"s{seed}", f"P{seed}", f"s{seed}.svs") for seed in seeds]
        frame = pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"])
        if folder == new:
            (new / "torn.svs").write_bytes(b"no slide")
            frame.loc[len(frame)] = ["torn", "PT", "torn.svs"]
        frame.to_csv(folder / "slides.csv", index=False)
    values = np.random.default_rng(0).normal(size=(10, 4))
    ids = pd.Index([f"P{i}" for i in range(10)], name="patient_id")
    pd.DataFrame(values, ids, list("ABCD")).to_csv(train / "rna.csv")
    local = {"source": "local", "slides": "slides.csv"}
    content = {"title": "T", "encoders": ["colour"], "controls": [], "folds": {"schemes": ["random-patient"]}}
    text = yaml.safe_dump(content | {"cohort": local | {"expression": "rna.csv"}})
    (train / "study.yaml").write_text(text)
    content = {"title": "N", "encoders": ["colour"], "cohort": local, "limits": {"failed_slides": 0.5}}
    (new / "study.yaml").write_text(yaml.safe_dump(content))
    study = Study.load("train")
    for run in (cohort.build, tiling.tile_slides, embedding.embed_slides, assembly.assemble):
        run(study)
    file = tmp_path / "f.safetensors"
    assert main(["fit", "train", "--encoder", "colour", "--probe", "ridge", "-o", str(file)]) == 0
    assert "10 patients" in capsys.readouterr().out
    assert main(["predict", str(file), "new"]) == 0
    output = capsys.readouterr().out
    assert "not measured" in output
    assert "PT" in output
    predicted = anndata.read_h5ad(data_root / "new" / "predicted" / "f.h5ad")
    assert sorted(predicted.obs_names) == ["P20", "P3"]
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    before = saved.load(file).fitted.predict(Patients(ids, ids, benchmark.obsm["colour"]))
    np.testing.assert_allclose(predicted["P3"].X[0], before[3], atol=1e-5)  # a slide that it was fitted on
    assert abs(predicted["P20"].X[0] - before[3]).max() > 1e-3
    assert main(["predict", str(file), "new", "-o", str(tmp_path / "p.csv")]) == 0
    assert (tmp_path / "p.genes.csv").exists()


def test_the_command_reports_wrong_files(data_root, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "none.safetensors"), "demo"]) == 1
    assert "none.safetensors" in capsys.readouterr().err
    assert main(["fit", "demo", "--encoder", "colour", "--probe", "ridge", "-o", "f.pt"]) == 1
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(("n_folds", "interval"), [(3, r"\[0\.\d+, 0\.\d+\]"), (4, "too few sites for an interval")])
def test_the_command_stores_the_measured_accuracy(data_root, monkeypatch, tmp_path, capsys, n_folds, interval):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    write_tables(data_root / "trial")
    study = assembled(
        data_root / "trial", folds={"n": n_folds}, ranking={"bootstrap": 100, "permutations": {"ridge": 4}}
    )
    command = ["fit", "trial", "--encoder", "good", "--probe", "ridge", "-o", str(tmp_path / "f.safetensors")]
    assert main(command) == 0
    assert "accuracy  not measured" in capsys.readouterr().out
    regression.regress(study)
    ranking.rank(study)
    assert main(command) == 0
    assert re.search(rf"accuracy  out-of-fold mean ρ 0\.\d+, {interval} \(preserved-site\)", capsys.readouterr().out)
    scores = ranking.read(study, "scores").query("encoder == 'good' and scheme == 'preserved-site'").set_index("gene")
    genes = saved.load(tmp_path / "f.safetensors").genes
    pd.testing.assert_frame_equal(genes, scores.loc[genes.index, ["rho", "p", "q"]].astype(float), check_names=False)
