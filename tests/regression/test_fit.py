"""The regression stage: its fits, what makes them due, and the files it writes."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench import assembly, cohort, regression
from wsibench.core import NotReady, Study, StudyError
from wsibench.regression import Patients, fits, folds, make_probe, read_predictions, regress


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


def due(study):
    """Encoders with a fit that is due."""
    return {fit.encoder for fit in fits(study) if fit.due()}


def test_predictions_are_those_of_the_probe(folder):
    study = trials.assembled(folder)
    table = regress(study)
    assert table[["encoder", "probe"]].drop_duplicates().to_numpy().tolist() == [
        ["good", "ridge"], ["poor", "ridge"], ["site", "ridge"],
    ]  # fmt: skip
    assert table["chosen"].str.match(r"alpha \d").all()
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    for scheme in study.folds.schemes:
        adata = read_predictions(study.predictions_h5ad(scheme, "good", "ridge"))
        fold = folds.read(study.folds_csv(scheme), benchmark.obs_names)["fold"]
        assert (adata.obs["fold"] == fold).all()
        assert (adata.var_names == benchmark.var_names).all()
        train, held = np.flatnonzero(fold != 1), np.flatnonzero(fold == 1)
        groups = folds.inner_groups(benchmark.obs, scheme)
        patients = Patients(benchmark.obs_names.to_numpy(), groups, benchmark.obsm["good"])
        expected = make_probe("ridge").fit(patients.take(train), benchmark.X[train]).predict(patients.take(held))
        np.testing.assert_allclose(adata.X[held], expected, rtol=1e-5)
        assert set(json.loads(adata.uns["wsibench"]["chosen"])) == {"0", "1", "2"}


def test_only_changed_inputs_of_an_encoder_make_its_fits_due(folder):
    study = trials.assembled(folder)
    regress(study)
    assert not any(artefact.due() for artefact in regression.expected(study))
    tables = {name: {"table": f"{name}.csv"} for name in ("good", "poor", "noise")}
    study = trials.assembled(folder, features=tables)
    assert due(study) == {"noise"}
    regress(study)
    poor = pd.read_csv(folder / "poor.csv").assign(**{"0": 1.5})
    poor.to_csv(folder / "poor.csv", index=False)
    study = trials.assembled(folder, features=tables)
    assert due(study) == {"poor"}
    study = trials.assembled(folder, folds={"n": 4})
    assert due(study) == {"good", "poor", "site"}


def test_attention_mil_reads_tiles_and_writes_attention_and_curves(folder):
    study = trials.with_tiles(folder, probes=["ridge", "abmil"], abmil={"seeds": 2, "epochs": 3, "embed": 8})
    regress(study)
    assert {fit.encoder for fit in fits(study) if fit.probe == "abmil"} == {"colour", "texture"}
    adata = read_predictions(study.predictions_h5ad("random-patient", "colour", "abmil"))
    assert np.isfinite(adata.X).all()
    curves = adata.uns["wsibench"]["curves"]
    assert set(curves.columns) == {"fold", "seed", "epoch", "loss", "validation_rho", "chosen"}
    assert curves.groupby(["fold", "seed"])["chosen"].sum().tolist() == [1] * 6
    attention = pd.read_parquet(study.attention_parquet("random-patient", "colour", "abmil"))
    assert attention.columns.tolist() == ["patient_id", "slide_id", "x", "y", "attention"]
    assert attention["patient_id"].unique().tolist() == adata.obs_names.tolist()
    np.testing.assert_allclose(attention.groupby("patient_id")["attention"].sum(), 1, rtol=1e-5)
    assert (attention["y"] == attention["patient_id"].str[1:].astype(int)).all()


def test_bags_read_one_by_one_give_the_same_predictions(folder, monkeypatch):
    study = trials.with_tiles(folder, probes=["abmil"], encoders=["colour"], abmil={"seeds": 1, "epochs": 2})
    regress(study)
    path = fits(study)[0].predictions.path
    in_memory = read_predictions(path).X
    path.unlink()
    monkeypatch.setattr("wsibench.assembly.pooling.IN_MEMORY", 0)
    regress(study)
    np.testing.assert_array_equal(read_predictions(path).X, in_memory)


def test_fits_are_picklable_and_hold_no_study(folder):
    study = trials.with_tiles(folder, probes=["ridge", "abmil"])
    for fit in fits(study):
        assert pickle.loads(pickle.dumps(fit)) == fit
        assert not any(isinstance(value, Study) for value in vars(fit).values())


def test_encoder_added_to_a_finished_study_is_due_and_not_an_error(folder):
    study = trials.assembled(folder)
    regress(study)
    tables = {name: {"table": f"{name}.csv"} for name in ("good", "poor", "noise")}
    study = trials.load(folder, features=tables)  # not yet assembled again
    assert due(study) == {"noise"}
    assert any(artefact.due() for artefact in regression.expected(study))


def test_without_a_benchmark_the_stage_is_not_ready(folder):
    with pytest.raises(NotReady):
        regression.expected(trials.load(folder))


def test_unknown_probe_is_refused_by_name(folder):
    study = trials.assembled(folder, probes=["rigde"])
    with pytest.raises(StudyError, match=r"no probe 'rigde'. Choose from ridge"):
        regression.expected(study)


def test_all_splits_are_scored_and_predictions_are_those_of_the_first(folder):
    once, thrice = (trials.assembled(folder, folds={"n": 3, "seed": 5, "repeats": repeats}) for repeats in (1, 3))
    found = []
    for study in (once, thrice):
        regress(study)
        found.append(read_predictions(fits(study)[0].predictions.path))
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
    found = read_predictions(fits(study)[0].predictions.path)
    share = np.mean(
        [
            found[fold].layers["noise"].var(axis=0) / found[fold].X.var(axis=0)
            for fold in (found.obs["fold"].to_numpy() == label for label in range(3))
        ],
        axis=0,
    )
    assert share[:12].mean() < 0.5 < share[24:].mean()


def test_added_target_changes_no_gene(folder):
    plain = trials.assembled(folder)
    regress(plain)
    before = read_predictions(fits(plain)[0].predictions.path)
    study = trials.assembled(folder, targets={"set": {"genes": ["G0", "G1", "absent"]}})
    assert all(fit.due() for fit in fits(study))
    regress(study)
    after = read_predictions(fits(study)[0].predictions.path)
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after.layers["noise"], before.layers["noise"])
    assert "targets" not in before.obsm
    assert after.obsm["targets"].columns.tolist() == after.obsm["targets_measured"].columns.tolist() == ["set"]
    assert np.corrcoef(after.obsm["targets"]["set"], after.obsm["targets_measured"]["set"])[0, 1] > 0.3


def test_faults_of_probes_and_folds_are_listed_before_the_work(folder):
    study = trials.load(folder, probes=["rigde", "ridge"], folds={"n": 7})
    assert [fault[:35] for fault in regression.check(study)] == ["probes: there is no probe 'rigde'. C"[:35]]
    cohort.build(study)
    faults = regression.check(study)
    assert len(faults) == 2
    assert "6 sites cannot be divided into 7 preserved-site folds" in faults[1]
    assert "folds.n to 6 or fewer" in faults[1]
