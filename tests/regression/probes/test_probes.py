"""Behaviour that every probe in the table has."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wsibench.core import Abmil, StudyError
from wsibench.regression.metrics import fold_spearman
from wsibench.regression.probes import PROBES, make_probe, probe_spec
from wsibench.regression.probes.base import FittedNetworks, Patients
from wsibench.regression.probes.ridge import Kernel, Ridge

SETTINGS = Abmil(seeds=1, epochs=12, embed=32, attention=16, lr=0.01)


@pytest.fixture(params=PROBES)
def probe(request):
    return make_probe(request.param, SETTINGS)


@pytest.fixture
def cohort(make_demo_like):
    return make_demo_like(n=96, tiles=12, dim=32)


@pytest.mark.parametrize("name", PROBES)
def test_probe_reads_the_features_that_the_table_says(name):
    ids = np.arange(8).astype(str)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    features = {"mean": x} if PROBES[name].needs == "mean" else {"bags": list(x[:, None])}
    patients = Patients(ids, ids, **features)
    assert make_probe(name, SETTINGS).fit(patients, x).predict(patients).shape == (8, 3)


def test_reads_what_can_be_read_and_says_what_it_chose(probe, cohort):
    train, held = np.arange(64), np.arange(64, 96)
    fitted = probe.fit(cohort.patients.take(train), cohort.y[train], seed=0)
    predicted = fitted.predict(cohort.patients.take(held))
    assert predicted.dtype == np.float32
    rho = fold_spearman(cohort.y[held], predicted, np.zeros(32)).mean()
    assert rho[cohort.group == "0_0.8"].mean() > 0.35
    assert abs(rho[cohort.group == "null"].mean()) < 0.06
    json.dumps(fitted.chosen, allow_nan=False)
    assert any(isinstance(value, float) for value in fitted.chosen.values())


class Counted(list):
    """Bags that count how often they are read."""

    reads = 0

    def __getitem__(self, position):
        self.reads += 1
        return super().__getitem__(position)


@pytest.mark.parametrize("name", ["abmil", "mlp"])
def test_seeds_differ_and_average_to_the_prediction(name, cohort):
    settings = SETTINGS.model_copy(update={"seeds": 3, "epochs": 2})
    fitted = make_probe(name, settings).fit(cohort.patients.take(np.arange(40)), cohort.y[:40, ::20], seed=0)
    assert isinstance(fitted, FittedNetworks)
    bags = Counted(cohort.patients.bags)
    test = replace(cohort.patients, bags=bags).take(np.arange(40, 50))
    each, attention = fitted.predict_seeds(test)
    assert each.shape == (3, 10, cohort.y[:, ::20].shape[1])
    assert each.dtype == np.float32
    assert bags.reads == (10 if name == "abmil" else 0)
    assert [len(weights) for weights in attention] == [len(bag) if name == "abmil" else 1 for bag in test.bags]
    np.testing.assert_array_equal(each.mean(axis=0), fitted.predict(test))
    assert all(np.abs(each[one] - each[other]).max() > 0.01 for one, other in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("name", PROBES)
def test_restored_probe_predicts_the_same(name, cohort, tmp_path):
    patients, test = cohort.patients.take(np.arange(40)), cohort.patients.take(np.arange(64, 96))
    y = cohort.y[:40, ::20].copy()
    y[:, 0] = 3.0  # a gene that does not vary in training
    fitted = make_probe(name, SETTINGS.model_copy(update={"seeds": 2})).fit(patients, y, seed=0)
    arrays, facts = fitted.arrays()
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, tmp_path / "f.safetensors")
    restored = PROBES[name].probe_class.restore(load_file(tmp_path / "f.safetensors"), json.loads(json.dumps(facts)))
    np.testing.assert_allclose(restored.predict(test), fitted.predict(test), rtol=0, atol=1e-5)


def test_arrays_hold_no_patient(probe, cohort):
    n = 41  # a number that is no other dimension's
    arrays, _ = probe.fit(cohort.patients.take(np.arange(n)), cohort.y[:n, :30], seed=0).arrays()
    assert not any(n in array.shape for array in arrays.values())


def test_same_input_same_output(probe, cohort):
    train = cohort.patients.take(np.arange(40))
    first, second = (probe.fit(train, cohort.y[:40, ::20], seed=1).predict(train) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_patients_prediction_does_not_depend_on_who_else_is_asked(probe, cohort):
    fitted = probe.fit(cohort.patients.take(np.arange(60)), cohort.y[:60, ::20], seed=0)
    together = fitted.predict(cohort.patients.take(np.arange(60, 96)))
    alone = fitted.predict(cohort.patients.take(np.array([70])))
    np.testing.assert_allclose(alone[0], together[10], rtol=1e-4, atol=1e-5)


def test_constants_extremes_and_few_patients_give_numbers(probe):
    rng = np.random.default_rng(0)
    bags = [np.column_stack([rng.normal(size=(4, 2)), np.ones(4)]).astype(np.float16) for _ in range(6)]
    y = np.column_stack([rng.normal(size=6), np.full(6, 7.5), [0, 0, 0, 0, 0, 1e6]]).astype(np.float32)
    ids = np.arange(6).astype(str)
    patients = Patients(ids, ids, np.stack([bag.mean(axis=0) for bag in bags]).astype(np.float32), bags)
    predicted = probe.fit(patients, y, seed=0).predict(patients)
    assert np.isfinite(predicted).all()
    assert (predicted[:, 1] == 7.5).all()


def test_unknown_probe_names_the_known_ones():
    with pytest.raises(StudyError, match=r"no probe 'abmill'. Choose from ridge, pca-ridge, mlp, abmil."):
        probe_spec("abmill")


def test_pca_ridge_is_ridge_on_principal_components():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 20)) @ rng.normal(size=(20, 20))).astype(np.float32)
    components = PCA(5).fit_transform(StandardScaler().fit_transform(x))
    kernel = Kernel.fit(x, 5)
    rebuilt = kernel.vectors * np.sqrt(kernel.values * 20)
    np.testing.assert_allclose(np.abs(rebuilt[:, ::-1]), np.abs(components), rtol=1e-2, atol=1e-2)
    ids = np.arange(50).astype(str)
    fitted = Ridge(components=5).fit(Patients(ids, ids, x), x[:, :2])
    assert fitted.kernel.vectors.shape == (50, 5)
