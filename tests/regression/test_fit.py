"""Out-of-fold predictions: who saw whom, what is made again, and what is left behind."""

import json

import numpy as np
import pandas as pd
import pytest
import trials
from threadpoolctl import threadpool_limits

from wsibench import assembly
from wsibench.core import CohortError, NotReady, StudyError
from wsibench.regression import fit as regression, folds
from wsibench.regression.fit import Job, jobs, out_of_fold, read_predictions, regress
from wsibench.regression.metrics import fold_spearman, scorable_genes
from wsibench.regression.probes.base import Patients
from wsibench.regression.probes.ridge import Ridge


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


class Memory:
    """A probe that predicts the mean of its training patients, and remembers whom it met."""

    name, needs, columnwise = "memory", "mean", True

    def __init__(self):
        self.met = []

    def fit(self, patients, y, *, seed):
        self.train, self.mean, self.chosen = set(patients.ids), y.mean(axis=0), {"n": len(patients)}
        return self

    def predict(self, patients):
        self.met.append((self.train, set(patients.ids)))
        return np.tile(self.mean, (len(patients), 1))


def test_nobody_is_predicted_by_a_fit_that_saw_them():
    ids = np.arange(20).astype(str)
    y = np.arange(40, dtype=np.float32).reshape(20, 2)
    fold, probe = np.arange(20) % 4, Memory()
    found = out_of_fold(probe, Patients(ids, ids, np.zeros((20, 1), np.float32)), y, fold)
    for train, held in probe.met:
        assert not train & held
        assert train | held == set(ids)
    for label in range(4):
        np.testing.assert_allclose(found.predicted[fold == label], y[fold != label].mean(axis=0)[None].repeat(5, 0))
    assert found.chosen == {str(label): {"n": 15} for label in range(4)}


def test_patients_who_look_the_same_are_predicted_the_same():
    """Sites never seen are all zeros to the site control: no gene may be ranked by rounding."""
    rng = np.random.default_rng(0)
    site = np.repeat(np.arange(12), 11)
    x, y = np.eye(12, dtype=np.float32)[site], rng.normal(size=(132, 740)).astype(np.float32)
    ids = np.arange(132).astype(str)
    found = out_of_fold(Ridge(), Patients(ids, site, x), y, site % 3)
    for label in range(3):
        assert (np.ptp(found.predicted[site % 3 == label], axis=0) == 0).all()
    assert fold_spearman(y, found.predicted, site % 3).undefined().all()


def test_small_true_differences_stay():
    predicted = np.array([[1.0, 8.0], [1.0001, 8.0]], np.float32)
    np.testing.assert_array_equal(regression.settled(predicted, np.array([1.0, 1.0])), predicted)


def test_predictions_are_the_probes_own(folder):
    study = trials.assembled(folder)
    table = regress(study)
    assert table[["encoder", "probe"]].drop_duplicates().to_numpy().tolist() == [
        ["good", "ridge"], ["poor", "ridge"], ["site", "ridge"],
    ]  # fmt: skip
    assert table["chosen"].str.match(r"alpha \d").all()
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    for scheme in study.folds.schemes:
        adata = read_predictions(Job(study, scheme, "good", "ridge"))
        fold = folds.read_folds(study, scheme)
        assert (adata.obs["fold"] == fold).all()
        assert (adata.var_names == benchmark.var_names).all()
        train, held = np.flatnonzero(fold != 1), np.flatnonzero(fold == 1)
        groups = folds.inner_groups(benchmark.obs, scheme)
        patients = Patients(benchmark.obs_names.to_numpy(), groups, benchmark.obsm["good"])
        expected = Ridge().fit(patients.take(train), benchmark.X[train]).predict(patients.take(held))
        np.testing.assert_allclose(adata.X[held], expected, rtol=1e-5)
        assert set(json.loads(adata.uns["wsibench"]["chosen"])) == {"0", "1", "2"}


def test_only_what_an_encoder_depends_on_makes_it_due(folder):
    study = trials.assembled(folder)
    regress(study)
    assert not any(artefact.due() for artefact in regression.expected(study))
    tables = {name: {"table": f"{name}.csv"} for name in ("good", "poor", "noise")}
    study = trials.assembled(folder, features=tables)
    assert {job.encoder for job in jobs(study) if job.artefact.due()} == {"noise"}
    regress(study)
    poor = pd.read_csv(folder / "poor.csv").assign(**{"0": 1.5})
    poor.to_csv(folder / "poor.csv", index=False)
    study = trials.assembled(folder, features=tables)
    assert {job.encoder for job in jobs(study) if job.artefact.due()} == {"poor"}
    study = trials.assembled(folder, folds={"n": 4})
    assert {job.encoder for job in jobs(study) if job.artefact.due()} == {"good", "poor", "site"}


def test_bag_probe_reads_tiles_and_leaves_attention_and_curves(folder):
    study = trials.with_tiles(folder, probes=["ridge", "abmil"], abmil={"seeds": 2, "epochs": 3, "embed": 8})
    regress(study)
    assert {job.encoder for job in jobs(study) if job.probe == "abmil"} == {"colour", "texture"}
    adata = read_predictions(Job(study, "random-patient", "colour", "abmil"))
    assert np.isfinite(adata.X).all()
    curves = adata.uns["wsibench"]["curves"]
    assert set(curves.columns) == {"fold", "seed", "epoch", "loss", "validation_rho", "chosen"}
    assert curves.groupby(["fold", "seed"])["chosen"].sum().tolist() == [1] * 6
    attention = pd.read_parquet(study.attention_parquet("random-patient", "colour", "abmil"))
    assert attention.columns.tolist() == ["patient_id", "slide_id", "x", "y", "attention"]
    assert attention["patient_id"].unique().tolist() == adata.obs_names.tolist()
    np.testing.assert_allclose(attention.groupby("patient_id")["attention"].sum(), 1, rtol=1e-5)
    assert (attention["y"] == attention["patient_id"].str[1:].astype(int)).all()


def test_before_the_benchmark_there_is_nothing_to_expect(folder):
    with pytest.raises(NotReady):
        regression.expected(trials.load(folder))


def test_unknown_probe_is_refused_by_name(folder):
    study = trials.assembled(folder, probes=["rigde"])
    with pytest.raises(StudyError, match=r"no probe 'rigde'.*Did you mean 'ridge'"):
        regression.expected(study)


def test_too_few_to_train_on_is_one_clear_error():
    ids = np.arange(4).astype(str)
    with pytest.raises(CohortError, match="leaves 2 patients to train on"):
        out_of_fold(Ridge(), Patients(ids, ids, np.eye(4)), np.eye(4), np.array([0, 0, 1, 1]))


@pytest.mark.real
def test_ridge_on_a_real_cohort_is_as_good_as_it_should_be(real_data):
    """884 TCGA-BRCA patients, 607 features: a plain ridge gives .207–.214 by preserved site, over fold seeds."""
    folder = real_data / "tcga_brca"
    patients = pd.read_csv(folder / "patients.csv", index_col="patient_id").assign(subtype=lambda table: table["pam50"])
    x = pd.read_csv(folder / "hif_features.csv.gz", index_col=0).loc[patients.index].to_numpy(np.float32)
    table = pd.read_csv(folder / "rna_zscores.csv.gz", index_col=0).loc[patients.index]
    y = table.to_numpy(np.float32).clip(-10, 10)
    median, by_gene = {"preserved-site": [], "random-patient": []}, []
    for scheme, seeds in (("preserved-site", 5), ("random-patient", 1)):
        groups = folds.inner_groups(patients, scheme)
        for seed in range(seeds):
            fold = folds.make_folds(patients, scheme=scheme, n=5, seed=seed).to_numpy()
            with threadpool_limits(1):
                found = out_of_fold(Ridge(), Patients(patients.index.to_numpy(), groups, x), y, fold)
            genes = scorable_genes(y, fold)
            rho = pd.Series(fold_spearman(y, found.predicted, fold).mean(), table.columns)[genes]
            median[scheme].append(rho.median())
            by_gene.append(rho)
    print({scheme: np.round(values, 4) for scheme, values in median.items()})
    assert np.mean(median["preserved-site"]) >= 0.205
    assert 0.215 <= median["random-patient"][0] <= 0.235
    best = pd.concat(by_gene[:5], axis=1).mean(axis=1).nlargest(20).index
    assert {"ICOS", "CD38", "CTLA4", "SIRPG", "CXCL9"} <= set(best)


def test_other_splits_are_scored_and_predictions_are_those_of_the_first(folder):
    once, thrice = (trials.assembled(folder, folds={"n": 3, "seed": 2, "repeats": repeats}) for repeats in (1, 3))
    found = []
    for study in (once, thrice):
        regress(study)
        found.append(read_predictions(jobs(study)[0]))
    np.testing.assert_array_equal(found[0].X, found[1].X)
    by_split = found[1].varm["rho_by_split"]
    assert found[0].varm["rho_by_split"].shape[1] == 1
    assert by_split.shape[1] == 3
    np.testing.assert_allclose(by_split[:, :1], found[0].varm["rho_by_split"])
    assert np.ptp(by_split[:12], axis=1).min() > 0  # other folds, other fits
    assert np.ptp(by_split[:12].mean(axis=0)) < 0.2


def test_noise_of_training_patients_is_larger_where_there_is_no_signal(folder):
    study = trials.assembled(folder)
    regress(study)
    found = read_predictions(jobs(study)[0])
    share = np.mean(
        [
            found[fold].layers["noise"].var(axis=0) / found[fold].X.var(axis=0)
            for fold in (found.obs["fold"].to_numpy() == label for label in range(3))
        ],
        axis=0,
    )
    assert share[:12].mean() < 0.5 < share[24:].mean()


def test_so_few_patients_that_halves_cannot_be_fitted_are_taken_for_noise():
    rng = np.random.default_rng(0)
    ids, fold = np.arange(8).astype(str), np.arange(8) % 2
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)
    found = out_of_fold(Ridge(), Patients(ids, ids, mean=x), y, fold, with_halves=True)
    for label in range(2):
        own = found.predicted[fold == label]
        np.testing.assert_allclose(found.noise[fold == label], own - own.mean(axis=0), atol=1e-6)
