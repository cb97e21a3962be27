"""Attention MIL: what the network computes, what it must not see, and that it finds needles in haystacks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from wsibench.core import Abmil as Settings
from wsibench.regression.metrics import fold_spearman
from wsibench.regression.probes.abmil import Abmil, GatedAttention, Tiles, dropout, product_type
from wsibench.regression.probes.base import Patients, Projection
from wsibench.regression.probes.ridge import Ridge

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
        h = torch.relu(model.embed(torch.from_numpy(bags[bag])))
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


def test_tiles_in_bfloat16_give_nearly_what_float32_gives(bags):
    torch.manual_seed(0)
    model = GatedAttention(5, 7, SMALL).eval()
    torch.nn.init.normal_(model.head.weight)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        predicted, attention = model(*Tiles.pack(bags, torch.device("cpu"), dtype).batch(np.arange(4)))
        assert predicted.dtype == attention.dtype == torch.float32
        torch.testing.assert_close(torch.stack([a.sum() for a in attention.split([3, 1, 17, 6])]), torch.ones(4))
        model.zero_grad()
        predicted.square().sum().backward()
        rows.append([predicted.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*rows, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.02 * one.norm()


def test_a_thousand_tiles_are_summed_in_float32():
    """Of a sum kept in bfloat16 the last tiles would be lost: what they add is below its last digit."""
    model = GatedAttention(1, 1, SMALL).eval()
    with torch.no_grad():
        for layer in (model.embed, model.tanh, model.gate, model.head):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    bag = np.ones((3000, 1), np.float32)
    predicted, attention = model(*Tiles.pack([bag], torch.device("cpu"), torch.bfloat16).batch(np.array([0])))
    assert attention.sum().item() == pytest.approx(1, rel=1e-5)
    assert predicted.item() == pytest.approx(SMALL.embed, rel=1e-3)


@pytest.mark.parametrize(
    ("device", "can", "expected"),
    [
        ("cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("cpu", {"bf16": True, "architecture": "arm64"}, torch.float32),
        ("cuda", {}, torch.bfloat16),
    ],
)
def test_precision_is_what_the_device_multiplies_fast(monkeypatch, device, can, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    device = SimpleNamespace(type=device)
    assert product_type("auto", device) == expected
    assert product_type("float32", device) == torch.float32
    assert product_type("bfloat16", device) == torch.bfloat16


def test_training_in_bfloat16_follows_float32_and_is_said(make_demo_like):
    cohort = make_demo_like(n=32, tiles=6, dim=12)
    fitted = {}
    for precision in ("float32", "bfloat16"):
        settings = SMALL.model_copy(update={"precision": precision, "dropout": 0.0})
        fitted[precision] = Abmil(settings).fit(cohort.patients, cohort.y)
        assert fitted[precision].chosen["precision"] == precision
    loss = {precision: each.curves["loss"].to_numpy() for precision, each in fitted.items()}
    np.testing.assert_allclose(loss["bfloat16"], loss["float32"], rtol=0.01)
    for attention in fitted["bfloat16"].predict_seeds(cohort.patients)[1]:
        assert attention.sum() == pytest.approx(1, rel=1e-5)


def test_dropout_drops_the_share_and_keeps_the_mean():
    torch.manual_seed(0)
    h = torch.ones(1001, 333, requires_grad=True)
    dropped = dropout(h, 0.3)
    dropped.sum().backward()
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(dropped[dropped > 0].unique(), torch.tensor([1 / 0.7]))
    torch.testing.assert_close(h.grad, dropped.detach())
    # Neighbours drop independently: bits of one word are not one decision.
    kept = (dropped > 0).float().flatten()
    assert np.corrcoef(kept[:-1], kept[1:])[0, 1] == pytest.approx(0, abs=0.01)


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
    attention = fitted.predict_seeds(cohort.patients)[1]
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


def test_projection_is_standardisation_times_components():
    rng = np.random.default_rng(0)
    tiles = (100 + rng.normal(size=(200, 8)) * rng.uniform(0.1, 9, 8)).astype(np.float16)
    tiles[:, 3] = 7
    projection = Projection.fit(tiles, 4)
    expected = projection.scaler.transform(tiles) @ projection.components
    np.testing.assert_allclose(projection.transform(tiles), expected, atol=1e-4)


def test_patients_who_select_the_epoch_train_nothing(make_demo_like):
    """With one epoch there is nothing to select: then the expression of those held out inside changes nothing."""
    cohort = make_demo_like(n=12, tiles=4, dim=6)
    patients, y = cohort.patients, cohort.y[:, ::20]
    patients = Patients(patients.ids, patients.ids, None, patients.bags)
    probe = Abmil(SMALL.model_copy(update={"epochs": 1}))
    plain, unchanged = probe.fit(patients, y).predict(patients), 0
    for i in range(12):
        other = y.copy()
        other[i] = 5 - 3 * other[i]
        unchanged += np.array_equal(probe.fit(patients, other).predict(patients), plain)
    assert unchanged == 2


def score(cohort, probe, fold):
    """Mean ρ of each gene group, and AUROC of attention for the tiles with signal, out of fold."""
    predicted, aurocs = np.zeros_like(cohort.y), []
    for label in np.unique(fold):
        train, held = np.flatnonzero(fold != label), np.flatnonzero(fold == label)
        fitted = probe.fit(cohort.patients.take(train), cohort.y[train], seed=int(label))
        predicted[held] = fitted.predict(cohort.patients.take(held))
        if isinstance(probe, Abmil):
            attention = fitted.predict_seeds(cohort.patients.take(held))[1]
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
    attention = fitted.predict_seeds(cohort.patients.take(held))[1]
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
