"""What every probe on offer has to do, whatever it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wsibench.core import Study, StudyError
from wsibench.regression.metrics import fold_spearman
from wsibench.regression.probes import PROBES, offer
from wsibench.regression.probes.base import Attends, Patients, Seeded
from wsibench.regression.probes.moments import pooled
from wsibench.regression.probes.neighbours import Neighbours
from wsibench.regression.probes.ridge import Kernel, Ridge

STUDY = Study.model_validate({
    "title": "T",
    "cohort": {"source": "simulate"},
    "abmil": {"seeds": 1, "epochs": 12, "embed": 32, "attention": 16, "lr": 0.01},
})  # fmt: skip


@pytest.fixture(params=PROBES)
def probe(request):
    return PROBES[request.param].make(STUDY)


@pytest.fixture
def cohort(make_demo_like):
    return make_demo_like(n=96, tiles=12, dim=32)


def test_offers_say_what_the_probes_are(probe, request):
    said = PROBES[request.node.callspec.params["probe"]]
    assert said.needs == probe.needs
    ids = np.arange(8).astype(str)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    patients = Patients(ids, ids, x, list(x[:, None]))
    assert said.attends == isinstance(probe.fit(patients, x, seed=0), Attends)


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
def test_seeds_are_told_apart_and_average_to_the_prediction(name, cohort):
    settings = STUDY.abmil.model_copy(update={"seeds": 3, "epochs": 2})
    study = STUDY.model_copy(update={"abmil": settings})
    fitted = PROBES[name].make(study).fit(cohort.patients.take(np.arange(40)), cohort.y[:40, ::20], seed=0)
    assert isinstance(fitted, Seeded)
    bags = Counted(cohort.patients.bags)
    held = replace(cohort.patients, bags=bags).take(np.arange(40, 50))
    each = fitted.predict_seeds(held)
    assert each.shape == (3, 10, cohort.y[:, ::20].shape[1])
    assert each.dtype == np.float32
    assert bags.reads == (10 if name == "abmil" else 0)
    np.testing.assert_array_equal(each.mean(axis=0), fitted.predict(held))
    assert all(np.abs(each[one] - each[other]).max() > 0.01 for one, other in ((0, 1), (0, 2), (1, 2)))
    if name == "abmil":
        np.testing.assert_array_equal(fitted.predict_with_attention(held)[0], each)


def test_comes_back_from_arrays_and_json_predicting_the_same(probe, request, cohort, tmp_path):
    patients, held = cohort.patients.take(np.arange(40)), cohort.patients.take(np.arange(64, 96))
    y = cohort.y[:40, ::20].copy()
    y[:, 0] = 3.0  # a gene that does not vary in training
    fitted = probe.fit(patients, y, seed=0)
    arrays, facts = fitted.arrays()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "f.safetensors")
    said = PROBES[request.node.callspec.params["probe"]]
    back = said.restore(load_file(tmp_path / "f.safetensors"), json.loads(json.dumps(facts)))
    np.testing.assert_allclose(back.predict(held), fitted.predict(held), rtol=0, atol=1e-5)
    assert back.chosen == fitted.chosen
    again, facts_again = back.arrays()
    assert facts_again == facts
    assert again.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(again[name], arrays[name])


def test_arrays_hold_no_patient_unless_the_offer_says_so(probe, request, cohort):
    n = 41  # a number that is no other dimension's
    arrays, _ = probe.fit(cohort.patients.take(np.arange(n)), cohort.y[:n, :30], seed=0).arrays()
    said = PROBES[request.node.callspec.params["probe"]]
    assert any(n in array.shape for array in arrays.values()) == said.keeps_patients


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


def test_unknown_probe_names_the_close_one():
    with pytest.raises(StudyError, match=r"no probe 'abmill'.*Did you mean 'abmil'"):
        offer("abmill")


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


def test_neighbours_average_the_nearest():
    x = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 3], [-1, -1]], np.float32)
    y = np.array([[1], [3], [10], [20], [99]], np.float32)
    ids = np.arange(5).astype(str)
    fitted = Neighbours().fit(Patients(ids, ids, x), y)
    assert fitted.chosen["k"] == 4
    space = fitted.space
    assert set(space.nearest(np.array([[5, 0.2]], np.float32), 2)[0]) == {0, 1}
    assert set(space.nearest(np.array([[0.2, 9]], np.float32), 2)[0]) == {2, 3}


def test_moments_are_the_mean_and_sd_of_all_tiles():
    bags = [np.array([[1, 2], [3, 6]], np.float16), np.array([[5, 7]], np.float16)]
    ids = np.array(["a", "b"])
    np.testing.assert_allclose(pooled(Patients(ids, ids, bags=bags)).mean, [[2, 4, 1, 2], [5, 7, 0, 0]])


def test_mean_and_sd_read_what_the_mean_does_not_hold():
    """Genes that follow the spread of tiles, not their average."""
    rng = np.random.default_rng(0)
    spread = np.exp(0.5 * rng.normal(size=120))
    bags = [(s * rng.normal(size=(40, 4))).astype(np.float16) for s in spread]
    mean = np.stack([bag.mean(axis=0, dtype=np.float32) for bag in bags])
    ids = np.arange(120).astype(str)
    patients, y = Patients(ids, ids, mean, bags), np.log(spread)[:, None].astype(np.float32)
    fold = (np.arange(120) >= 80).astype(int)
    rho = {}
    for name in ("ridge", "mean-sd-ridge"):
        fitted = PROBES[name].make(STUDY).fit(patients.take(np.arange(80)), y[:80], seed=0)
        predicted = fitted.predict(patients.take(np.arange(80, 120)))
        rho[name] = fold_spearman(y[fold == 1], predicted, fold[fold == 1]).mean()[0]
    assert rho["mean-sd-ridge"] > 0.9
    assert abs(rho["ridge"]) < 0.5
