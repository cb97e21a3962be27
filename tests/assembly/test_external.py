"""External validation: signal that transfers between cohorts, matching of patients, genes and features."""

import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import trials
import yaml

from wsibench import assembly, cohort, ranking, regression
from wsibench.assembly import pooling
from wsibench.cli import stages
from wsibench.core import CohortError, NotReady, Study
from wsibench.figures import report
from wsibench.figures.catalogue import Inputs, catalogue
from wsibench.regression import Patients, fits, folds, out_of_fold, read_predictions
from wsibench.regression.probes.ridge import Ridge

N, SITES, GENES = 60, 12, trials.GENES
COHORTS = (("a", "P", 10), ("b", "Q", 20))
EXTERNAL = {
    "title": "From a to b",
    "train": "a",
    "test": "b",
    "features": ["good", "poor"],
    "controls": ["site"],
    "probes": ["ridge"],
    "ranking": {"bootstrap": 200, "permutations": {"ridge": 8}},
}


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Run in this process: starting workers takes longer than the test."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


def write_cohort(folder: Path, *, prefix: str, seed: int, n: int = N) -> None:
    """Write patients whose images and good genes share a signal, with sites that change images and site genes.

    What ties the signal to features and genes is the same in all cohorts; patients, noise and sites are not.
    """
    folder.mkdir(parents=True)
    nature, rng = np.random.default_rng(1), np.random.default_rng(seed)
    z, site = trials.latent(n, seed), np.arange(n) % SITES
    ids = [f"{prefix}{i:03d}" for i in range(n)]
    patients = pd.DataFrame({"patient_id": ids, "site": [f"S{s}" for s in site], "subtype": ""})
    patients.to_csv(folder / "patients.csv", index=False)
    # Slides are called alike in all cohorts.
    slides = patients.assign(slide_id=[f"X{i:03d}-1" for i in range(n)], path=[f"{prefix}{i}.svs" for i in range(n)])
    slides.to_csv(folder / "slides.csv", index=False)
    of_site, stain = rng.normal(size=(SITES, GENES))[site], rng.normal(size=(SITES, 8))[site]
    good = z @ nature.normal(size=(3, GENES)) + rng.normal(size=(n, GENES))
    y = [good, of_site + 0.3 * rng.normal(size=(n, GENES)), rng.normal(size=(n, GENES)), good[:, :1]]
    var = pd.DataFrame(
        {"group": [*np.repeat(["good", "site", "null"], GENES), "good"]},
        [*(f"G{i}" for i in range(3 * GENES)), f"only-{folder.name}"],
    )
    y = np.concatenate(y, axis=1).astype(np.float32)
    anndata.AnnData(y, pd.DataFrame(index=ids), var).write_h5ad(folder / "rna.h5ad")
    for name, noise in (("good", 0.5), ("poor", 2.0)):
        x = z @ nature.normal(size=(3, 6)) + noise * rng.normal(size=(n, 6))
        x = np.concatenate([x, stain], axis=1)
        pd.DataFrame(x, ids).add_prefix("f").rename_axis("patient_id").to_csv(folder / f"{name}.csv")


def write_external(root: Path, **sections) -> Study:
    (root / "ab").mkdir(exist_ok=True)
    (root / "ab" / "study.yaml").write_text(yaml.safe_dump(EXTERNAL | sections))
    return Study.load("ab")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A data folder with the studies a and b, assembled, and ab, ranked."""
    root = tmp_path_factory.mktemp("external") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(root))
        patch.setenv("WSIBENCH_WORKERS", "0")
        for name, prefix, seed in COHORTS:
            write_cohort(root / name, prefix=prefix, seed=seed)
            trials.assembled(root / name, folds={"schemes": ["random-patient"]})
        study = write_external(root)
        assembly.assemble(study)
        regression.regress(study)
        ranking.rank(study)
    return root


@pytest.fixture
def study(finished, monkeypatch) -> Study:
    monkeypatch.setenv("WSIBENCH_DATA", str(finished))
    return Study.load("ab")


@pytest.fixture
def copy(finished, data_root) -> Path:
    """The same under a data folder of this test's own."""
    shutil.copytree(finished, data_root, dirs_exist_ok=True)
    return data_root


def again(root: Path, *names: str, **sections) -> Study:
    """The external study after `names` were assembled anew."""
    for name in names:
        trials.assembled(root / name, **{"folds": {"schemes": ["random-patient"]}, **sections})
    return Study.load("ab")


def by_group(study: Study) -> pd.Series:
    return ranking.read(study, "groups").set_index(["encoder", "group"])["mean_rho"]


def test_shared_signal_transfers_and_site_effects_do_not(study):
    board = ranking.read(study, "leaderboard").set_index("encoder")
    assert board["scheme"].eq("external").all()
    assert board["n_patients"].eq(N).all()
    assert board["n_genes"].eq(3 * GENES).all()
    assert board.loc[["good", "poor"], "rank"].tolist() == [1, 2]
    assert board.loc["site", "n_undefined"] == 3 * GENES, "sites of the test cohort are new"
    rho = by_group(study)
    assert rho["good", "good"] > 0.5 > rho["poor", "good"] > 0.2
    assert abs(rho["good", "site"]) < 0.2
    assert abs(rho["good", "null"]) < 0.15
    inside = study.parts["train"]
    regression.regress(inside)
    ranking.rank(inside)
    assert by_group(inside)["good", "site"] > 0.5, "within a cohort the same features predict the site"


def test_test_patients_are_predicted_by_a_fit_on_all_training_patients(study):
    patients = assembly.read_benchmark(study.benchmark_h5ad).obs
    assert patients["external"].tolist() == [-1] * N + [0] * N
    assert patients["site"].iloc[[0, N]].tolist() == ["train:S0", "test:S0"]
    train, test = (assembly.read_benchmark(part.benchmark_h5ad) for part in study.parts.values())
    for fit in fits(study):
        predictions = read_predictions(fit.predictions.path)
        assert predictions.obs_names.tolist() == test.obs_names.tolist()
        assert predictions.obs["fold"].eq(0).all()
        assert not predictions.layers["noise"].any(), "nobody who is predicted has trained a fit"
    trained, tested = (
        Patients(each.obs_names.to_numpy(), each.obs["site"].to_numpy(str), each.obsm["good"]) for each in (train, test)
    )
    genes = test.var_names[:-1]
    expected = Ridge().fit(trained, train[:, genes].X).predict(tested)
    np.testing.assert_allclose(
        read_predictions(fits(study)[0].predictions.path)[:, genes].X, expected, rtol=1e-4, atol=1e-5
    )


def test_patients_below_zero_are_trained_on_and_never_predicted():
    rng = np.random.default_rng(0)
    ids, fold = np.arange(20).astype(str), np.repeat([-1, 0], 10)
    x, y = rng.normal(size=(20, 2)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    found = out_of_fold(Ridge(), Patients(ids, ids, x), y, fold).predicted
    assert np.isnan(found[:10]).all()
    assert np.isfinite(found[10:]).all()
    unmeasured = out_of_fold(Ridge(), Patients(ids, ids, x), np.where(fold[:, None] < 0, y, 9), fold).predicted
    np.testing.assert_array_equal(unmeasured, found)


def test_genes_of_one_study_are_left_out_and_counted(study):
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    assert benchmark.var_names.tolist() == [f"G{i}" for i in range(3 * GENES)]
    assert pd.read_csv(study.benchmark_exclusions_csv).to_numpy().tolist() == [
        ["gene", "only-a", "only in a (train)"],
        ["gene", "only-b", "only in b (test)"],
    ]


def test_the_permutation_null_is_below_the_score(study):
    rho = ranking.read_null(study, fits(study)[0])
    assert rho.shape == (8, 3 * GENES)
    assert rho.iloc[:, :GENES].to_numpy().mean() < by_group(study)["good", "good"] - 0.2


def test_inner_folds_keep_training_sites_together(study):
    patients = assembly.read_benchmark(study.benchmark_h5ad).obs
    assert folds.inner_groups(patients, "external")[:N].tolist() == patients["site"][:N].tolist()
    unknown = patients.assign(site=["", "", *patients["site"][2:]])
    assert folds.inner_groups(unknown, "external")[:3].tolist() == ["P000", "P001", "train:S2"]


def test_stages_01_to_03_are_not_applicable(study):
    for stage in stages.STAGES[:3]:
        assert str(stages.status(study, stage)).endswith(f"not applicable  {study.no_cohort}")
    with pytest.raises(CohortError, match="The patients come from the studies a"):
        cohort.build(study)
    applying = {entry.name for entry in catalogue() if entry.artefacts(Inputs(study))}
    assert {"forest", "rank_frequencies", "violins", "predicted_measured", "feature_map"} <= applying
    assert "tile_gallery" not in applying
    board = ranking.read(study, "leaderboard")
    assert ranking.headline(study).startswith("good predicts gene expression best")
    assert report.boards(board)[0]["meaning"] == "patients of another cohort than the training cohort"


def test_a_study_that_is_due_is_named_and_a_new_benchmark_makes_another_key(copy):
    study = again(copy, "b", ranking={"bootstrap": 300}, folds={"n": 4})
    assert not any(artefact.due() for artefact in ranking.expected(study)), "what comes after a benchmark has no say"
    table = pd.read_csv(copy / "b" / "good.csv").assign(f0=lambda frame: frame["f0"] ** 2)
    table.to_csv(copy / "b" / "good.csv", index=False)
    due = r"Study b \(test\): .* is due \(made from other input or settings\). Run `wsibench run b --to 04`"
    with pytest.raises(NotReady, match=due):
        assembly.expected(study)
    assert "Study b (test)" in stages.status(study, stages.STAGES[3]).why
    study = again(copy, "b")
    assert all(artefact.due() for artefact in assembly.expected(study))
    assembly.assemble(study)
    assert {fit.encoder for fit in fits(study) if fit.due()} == {"good"}


def test_swapping_training_and_test_study_changes_the_keys(copy):
    """The same patients with the roles of the two studies exchanged."""
    assembly.assemble(write_external(copy, train="b", test="a"))
    study = Study.load("ab")
    assert all(artefact.due() for artefact in regression.expected(study))


def test_studies_that_have_not_run_are_named(data_root):
    for name, prefix, seed in COHORTS:
        write_cohort(data_root / name, prefix=prefix, seed=seed, n=12)
        trials.load(data_root / name)
    with pytest.raises(NotReady, match=r"Study a \(train\): .* Run `wsibench run a --to 04`"):
        assembly.expected(write_external(data_root))


def test_no_gene_in_both_is_an_error_with_examples(copy):
    adata = anndata.read_h5ad(copy / "b" / "rna.h5ad")
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(copy / "b" / "rna.h5ad")
    with pytest.raises(CohortError, match=r"share no gene: a has G0, G1, G2 and .*; b has ENSG0"):
        assembly.assemble(again(copy, "b"))


def test_a_patient_of_both_is_refused_by_name(copy):
    for table in ("patients", "good", "poor"):
        path = copy / "b" / f"{table}.csv"
        path.write_text(path.read_text().replace("Q007", "P007"))
    adata = anndata.read_h5ad(copy / "b" / "rna.h5ad")
    adata.obs_names = adata.obs_names.str.replace("Q007", "P007")
    adata.write_h5ad(copy / "b" / "rna.h5ad")
    with pytest.raises(CohortError, match="1 patients are in study a and in study b: P007"):
        assembly.assemble(again(copy, "b"))


def test_columns_of_tables_are_matched_by_name(copy):
    first = assembly.read_benchmark(Study.load("ab").benchmark_h5ad).obsm["good"]
    path = copy / "b" / "good.csv"
    table = pd.read_csv(path, index_col=0)
    table[table.columns[::-1]].to_csv(path)
    study = again(copy, "b")
    assert all(artefact.due() for artefact in assembly.expected(study))
    np.testing.assert_array_equal(assembly.assemble(study).obsm["good"], first)
    table.drop(columns="f1").to_csv(path)
    fewer = assembly.assemble(again(copy, "b"))
    np.testing.assert_array_equal(fewer.obsm["good"], np.delete(first, 1, axis=1))
    excluded = pd.read_csv(study.benchmark_exclusions_csv).to_numpy().tolist()
    assert ["feature", "good: f1", "only in a (train)"] in excluded


def test_errors_are_empty_when_units_differ(copy):
    again(copy, "a", expression={"unit": "log2_tpm"})
    study = again(copy, "b", expression={"unit": "zscore"})
    assembly.assemble(study)
    ranking.rank(study)
    measures = ranking.read(study, "measures")
    assert measures[["r2", "rmse"]].isna().all().all()
    assert measures[["pearson", "mean_rho"]].notna().all().all()


# With tiles


def tiled(root: Path, **sections) -> Study:
    """Both cohorts with tiles, and with `sections` for b."""
    own = {"controls": [], "encoders": ["colour"]}
    for name, prefix, seed in COHORTS:
        if not (root / name).exists():
            write_cohort(root / name, prefix=prefix, seed=seed, n=18)
        trials.with_tiles(root / name, seed=seed, **{**own, **(sections if name == "b" else {})})
    settings = {"probes": ["ridge", "abmil"], "abmil": {"seeds": 1, "epochs": 1, "embed": 8}}
    return write_external(root, features=[], encoders=["colour"], controls=[], **settings)


def test_bags_come_from_the_study_that_has_the_patient(data_root, monkeypatch):
    study = tiled(data_root)
    benchmark = assembly.assemble(study)
    ids = benchmark.obs_names.to_numpy(str)
    folders = assembly.feature_folders(study, "colour")
    bags = assembly.read_bags(benchmark.obs, folders)
    means = np.stack([bag.mean(axis=0, dtype=np.float64) for bag in bags])
    np.testing.assert_allclose(means, benchmark.obsm["colour"], rtol=1e-3, atol=1e-3)
    assert benchmark.obs["slide_ids"].iloc[0] == benchmark.obs["slide_ids"].iloc[18]
    assert np.abs(means[0] - means[18]).max() > 0.1
    regression.regress(study)
    fit = next(fit for fit in fits(study) if fit.probe == "abmil")
    assert np.isfinite(read_predictions(fit.predictions.path).X).all()
    attention = pd.read_parquet(study.attention_parquet("external", "colour", "abmil"))
    assert attention["patient_id"].unique().tolist() == ids[18:].tolist()
    np.testing.assert_allclose(attention.groupby("patient_id")["attention"].sum(), 1, rtol=1e-5)
    monkeypatch.setattr(pooling, "IN_MEMORY", 0)
    stored = assembly.read_bags(benchmark.obs, folders)
    assert not isinstance(stored, list)
    np.testing.assert_array_equal(stored[18 + 3], bags[18 + 3])


@pytest.mark.parametrize("tiles", [{"tile_um": 128}, {"min_tissue": 0.9}, {"drop": []}])
def test_features_made_with_other_settings_are_refused(data_root, tiles):
    with pytest.raises(CohortError, match="colour were made with different settings in study a and in study b"):
        assembly.assemble(tiled(data_root, tiles=tiles))


def test_the_number_of_tiles_drawn_may_differ(data_root):
    assert assembly.assemble(tiled(data_root, tiles={"max_tiles": 50, "seed": 3})).n_obs == 36


def test_a_slide_file_in_both_studies_is_refused(data_root):
    write_cohort(data_root / "b", prefix="Q", seed=20, n=18)
    slides = (data_root / "b" / "slides.csv").read_text().replace("Q5.svs", "P5.svs")  # trials fill it with its name
    (data_root / "b" / "slides.csv").write_text(slides)
    with pytest.raises(CohortError, match=r"1 slides are in both studies.*X005-1 of a and X005-1 of b"):
        assembly.assemble(tiled(data_root))


@pytest.mark.slow
def test_the_notebooks_run_on_an_external_study(copy):
    command = [sys.executable, "-m", "wsibench.cli.main", "run", "ab"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("not applicable") == 3
    page = (copy.parent / "figures" / "ab" / "index.html").read_text()
    assert "good predicts gene expression best" in page
    predicted = pd.read_csv(copy.parent / "figures" / "ab" / "predicted_measured.csv")
    assert predicted["patient_id"].str.startswith("Q").all()
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "running" not in again.stdout
