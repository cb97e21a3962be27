"""Attention MIL: what the network computes, what it must not see, and that it finds needles in haystacks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from wsibench.probes.abmil import Abmil, GatedAttention, Projection, Tiles
from wsibench.probes.base import Patients
from wsibench.probes.ridge import Ridge
from wsibench.scores import fold_spearman
from wsibench.sections import Abmil as Settings

SMALL = Settings(seeds=1, epochs=4, embed=16, attention=8)


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bags():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(t, 5)).astype(np.float32) for t in (3, 1, 17, 6)]


def test_packed_bags_give_what_each_bag_gives_alone(bags):
    torch.manual_seed(0)
    model = GatedAttention(5, 7, SMALL).eval()
    torch.nn.init.normal_(model.head.weight)
    tiles = Tiles.pack(bags, torch.device("cpu"))
    together, attention = model(*tiles.batch(np.array([2, 0, 3, 1])))
    for row, (bag, part) in enumerate(zip((2, 0, 3, 1), attention.split([17, 3, 6, 1]), strict=True)):
        h = model.embed(torch.from_numpy(bags[bag]))
        expected = torch.softmax(model.score(torch.tanh(model.tanh(h)) * torch.sigmoid(model.gate(h))), dim=0)
        torch.testing.assert_close(part, expected.squeeze(1))
        torch.testing.assert_close(together[row], model.head((expected * h).sum(dim=0)))


def test_gradients_of_packed_bags_are_those_of_a_loop(bags):
    torch.manual_seed(0)
    model = GatedAttention(5, 7, SMALL).eval()
    torch.nn.init.normal_(model.head.weight)
    tiles, target = Tiles.pack(bags, torch.device("cpu")), torch.randn(4, 7)
    gradients = []
    for batches in ([np.arange(4)], [np.array([i]) for i in range(4)]):
        model.zero_grad()
        sum(((model(*tiles.batch(b))[0] - target[b]) ** 2).sum() for b in batches).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for packed, looped in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, looped, rtol=1e-4, atol=1e-5)


def test_same_seed_same_prediction_and_torch_state_untouched(make_demo_like):
    cohort = make_demo_like(n=24, tiles=6)
    state = torch.get_rng_state()
    first, second = (Abmil(SMALL).fit(cohort.patients, cohort.y, seed=3).predict(cohort.patients) for _ in range(2))
    other = Abmil(SMALL).fit(cohort.patients, cohort.y, seed=4).predict(cohort.patients)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_predictions_are_in_the_unit_of_the_targets(make_demo_like):
    cohort = make_demo_like(n=40, tiles=8)
    plain = Abmil(SMALL).fit(cohort.patients, cohort.y).predict(cohort.patients)
    moved = Abmil(SMALL).fit(cohort.patients, cohort.y * 50 + 1000).predict(cohort.patients)
    np.testing.assert_allclose((moved - 1000) / 50, plain, atol=1e-3)


def test_attention_sums_to_one_and_what_was_chosen_is_said(make_demo_like):
    cohort = make_demo_like(n=24, tiles=6)
    fitted = Abmil(SMALL.model_copy(update={"seeds": 2, "tiles_train": 4})).fit(cohort.patients, cohort.y)
    attention = fitted.attention(cohort.patients)
    assert [len(a) for a in attention] == [len(bag) for bag in cohort.patients.bags]
    np.testing.assert_allclose([a.sum() for a in attention], 1, rtol=1e-5)
    assert fitted.curves.groupby("seed")["chosen"].sum().tolist() == [1, 1]
    for seed, epoch in enumerate(fitted.chosen["epochs"]):
        curve = fitted.curves[fitted.curves["seed"] == seed]
        assert curve.set_index("epoch")["validation_rho"].idxmax() == epoch


def test_constant_genes_and_features_and_few_patients_give_numbers():
    rng = np.random.default_rng(0)
    bags = [np.column_stack([rng.normal(size=(3, 2)), np.ones(3)]).astype(np.float16) for _ in range(5)]
    y = np.column_stack([rng.normal(size=5), np.full(5, 7.5)]).astype(np.float32)
    ids = np.array(list("abcde"))
    predicted = Abmil(SMALL).fit(Patients(ids, ids, None, bags), y).predict(Patients(ids, ids, None, bags))
    assert np.isfinite(predicted).all()
    assert (predicted[:, 1] == 7.5).all()


def test_wide_features_are_projected_by_what_varies_most():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 3))
    tiles = (common @ rng.normal(size=(3, 20)) + 0.05 * rng.normal(size=(300, 20))).astype(np.float32)
    projected = Projection.fit(tiles, 3).transform(tiles)
    assert projected.shape == (300, 3)
    explained = np.linalg.lstsq(projected, common - common.mean(0), rcond=None)[1] / common.var(0) / 300
    assert (explained < 0.01).all()
    assert Projection.fit(tiles, 20).components is None


def score(cohort, probe, fold):
    """Mean ρ of each gene group, and AUROC of attention for the tiles with signal, out of fold."""
    predicted, aurocs = np.zeros_like(cohort.y), []
    for label in np.unique(fold):
        train, held = np.flatnonzero(fold != label), np.flatnonzero(fold == label)
        fitted = probe.fit(cohort.patients.take(train), cohort.y[train], seed=int(label))
        predicted[held] = fitted.predict(cohort.patients.take(held))
        if probe.needs == "bags":
            attention = fitted.attention(cohort.patients.take(held))
            # A patient all of whose tiles carry signal, or none, has no tile to find.
            pairs = zip([cohort.signal[i] for i in held], attention, strict=True)
            told = [(signal, a) for signal, a in pairs if 0 < signal.sum() < len(signal)]
            aurocs += [roc_auc_score(signal, a) for signal, a in told]
    rho = fold_spearman(cohort.y, predicted, fold).mean()
    return {group: rho[cohort.group == group].mean() for group in np.unique(cohort.group)}, np.mean(aurocs or [np.nan])


def test_attention_finds_signal_in_few_tiles_of_a_small_cohort(make_needle):
    cohort = make_needle(n=200, tiles=50, dim=16, share=0.04)
    fold = (np.arange(200) >= 150).astype(int)
    train, held = np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)
    fitted = Abmil(Settings(seeds=1, tiles_train=50)).fit(cohort.patients.take(train), cohort.y[train])
    attention = fitted.attention(cohort.patients.take(held))
    assert np.mean([roc_auc_score(cohort.signal[i], a) for i, a in zip(held, attention, strict=True)]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_signal_in_two_percent_of_tiles_is_found_and_beats_the_mean(make_needle, seed):
    cohort = make_needle(seed, n=500)
    fold = np.arange(500) % 5
    abmil, auroc = score(cohort, Abmil(Settings(seeds=1)), fold)
    ridge, _ = score(cohort, Ridge(), fold)
    print({group: (round(float(abmil[group]), 3), round(float(ridge[group]), 3)) for group in abmil}, round(auroc, 3))
    assert auroc >= 0.9
    for group in abmil:
        if group != "null":
            assert abmil[group] >= ridge[group] + 0.1
    assert abs(abmil["null"]) <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reaches_ridge_on_a_cohort_of_the_demos_size(make_demo_like, seed):
    cohort = make_demo_like(seed)
    fold = cohort.patients.groups.astype(int) % 5
    abmil, _ = score(cohort, Abmil(Settings(seeds=2, tiles_train=64)), fold)
    ridge, _ = score(cohort, Ridge(), fold)
    for group in ridge:
        if group.endswith(("0.5", "0.8")):
            assert abmil[group] >= 0.7 * ridge[group]
