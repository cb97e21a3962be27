"""Encoders: records, a study's own encoders, controls, exposure to TCGA and weights."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from wsibench.core import CHECKOUT, Encoder, Study, StudyError, WeightsError
from wsibench.embedding import encoders, models
from wsibench.embedding.encoders import ENCODERS, encoder


@pytest.fixture
def study(data_root):
    def make(**sections):
        folder = data_root / "tiny"
        folder.mkdir(exist_ok=True)
        content = {"title": "tiny", "cohort": {"source": "simulate"}, **sections}
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
        return Study.load("tiny")

    return make


def test_listing_encoders_and_artefacts_loads_no_library_of_slides_or_networks():
    code = (
        "import sys; from wsibench import embedding, tiling; embedding.encoders_table();"
        "tiling.expected, embedding.expected;"
        "print({'torch', 'timm', 'transformers', 'openslide', 'cv2', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(StudyError, match=r"no encoder 'h-optimus'.*h-optimus-0.*phikon.*subtype-oracle"):
        encoder("h-optimus")


def test_names_are_unique():
    assert len(ENCODERS) == len(encoders._RECORDS)


@pytest.mark.parametrize("record", ENCODERS.values(), ids=lambda record: record.name)
def test_every_record_can_be_built(record):
    assert record.dim > 0
    assert record.needs_weights == (record.repo is not None or record.package is not None)
    assert all(0 < value < 1 for value in record.mean + record.std)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loader": "keras"},
        {"tcga": False},
        {"px": 0},
        {"mean": [0.5, 0.5]},
        {"width": 3},
        {"pool": "max"},
        {"dim": "3"},
    ],
    ids=str,
)
def test_a_record_with_a_mistake_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Encoder(**{"name": "mine", "loader": "timm", "arch": "resnet50", "dim": 3} | wrong)


# What an independent source states of each record that an audit corrected.
CORRECTED = {
    "phikon": {"interpolation": "bilinear", "precision": "fp32"},
    "midnight-12k": {"interpolation": "bilinear", "gate": "open", "precision": "fp32"},
    "kaiko-b8": {"interpolation": "bilinear", "gate": "open"},
    "dinov3-large": {"interpolation": "bilinear", "parameters": 303_129_600},
    "virchow": {"precision": "fp16", "commercial": "yes", "prefix_tokens": 1},
    "virchow2": {"precision": "fp16", "prefix_tokens": 5},
    "gigapath": {"precision": "fp16", "file": "pytorch_model.bin", "parameters": 1_134_953_984},
    "h0-mini": {"precision": "fp16", "prefix_tokens": 5, "parameters": 85_739_520, "tcga": "yes"},
    "h-optimus-0": {"gate": "gated", "precision": "fp16"},
    "lunit-s8": {
        "mean": (0.70322989, 0.53606487, 0.66096631),
        "std": (0.21716536, 0.26081574, 0.20723464),
        "gate": "open",
    },
    "siglip-so400m": {"card_px": (248, 224), "prefix_tokens": 0},
    "gpfm": {"interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "file": "GPFM.pth"},
    "dinov2-giant": {"parameters": 1_136_480_768},
    "phikon-v2": {"parameters": 303_351_808, "interpolation": "bicubic"},
    "uni": {"revision": "b55a5ec6cade1a39edfe6534189a9b8ca7a022f0", "precision": "fp16", "interpolation": "bilinear"},
    "medsiglip": {"precision": "tf32", "interpolation": "bilinear", "px": 448},
    "mstar": {"mean": (0.485, 0.456, 0.406), "gate": "gated"},
}


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_records_keep_what_their_source_states(name):
    record = encoder(name)
    assert {field: getattr(record, field) for field in CORRECTED[name]} == CORRECTED[name]


def test_where_sources_conflict_both_are_stated():
    assert encoder("gigapath").licence == "Apache-2.0 (LICENSE, since 2025-03-22); research use (README)"
    assert encoder("gpfm").licence == "MIT (hub); CC-BY-NC-ND-4.0 (GitHub)"
    assert "says ImageNet" in encoder("lunit-s8").sources["mean"]


@pytest.mark.parametrize("record", ENCODERS.values(), ids=lambda record: record.name)
def test_what_is_stated_has_a_source(record):
    assert set(record.sources) <= set(Encoder.model_fields)
    assert (record.sha256 is None) or len(record.sha256) == 64
    assert (record.revision is None) == (record.sha256 is None) or record.package
    assert record.tcga == "unknown" or record.tcga_source != "unknown" or record.name.startswith("kaiko")
    assert record.gate != "unknown"
    assert record.parameters is not None
    assert record.gflops is not None


def test_tile_encoders_are_the_encoders_and_the_controls_of_tiles(study):
    made = study(encoders=["texture", "colour"], controls=["site", "random-vit", "oracle"])
    assert [record.name for record in encoders.tile_encoders(made)] == ["texture", "colour", "random-vit"]


def test_weights_for_an_unknown_encoder_are_refused(study):
    with pytest.raises(StudyError, match="no encoder 'unii'"):
        encoders.tile_encoders(study(encoders=["colour"], weights={"unii": "folder"}))


def test_exposure_comes_from_the_record_or_the_feature_table(study):
    made = study(encoders=["phikon"], features={"own": {"table": "x.csv", "tcga": "yes"}})
    assert encoders.tcga(made, "phikon") == "yes"
    assert encoders.tcga(made, "own") == "yes"
    assert encoders.tcga(made, "oracle") == "no"
    assert encoders.tcga(made, "h-optimus-0") == "unknown"


def test_absent_weights_of_a_gated_encoder_are_an_error_with_its_page(study, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError) as caught:
        encoders.find_weights(study(encoders=["uni"]), "uni")
    assert str(caught.value) == (
        "The weights of uni are not on this machine. 1. request access: https://huggingface.co/MahmoodLab/UNI "
        "(licence CC-BY-NC-ND-4.0) 2. hf auth login, or set HF_TOKEN; "
        "or give a local folder: weights: {uni: /path/to/dir}"
    )


def test_a_study_sets_the_precision_of_an_encoder(study):
    made = study(encoders=["medsiglip", "colour"], controls=[], embedding={"precision": {"medsiglip": "bf16"}})
    [record, other] = encoders.tile_encoders(made)
    assert record.decides() == encoder("medsiglip").decides() | {"precision": "bf16"}
    assert other == encoder("colour")
    with pytest.raises(StudyError, match="no encoder 'medsig'"):
        encoders.tile_encoders(study(encoders=["colour"], embedding={"precision": {"medsig": "bf16"}}))


def test_the_table_of_encoders_comes_in_three_forms():
    text = encoders.encoders_table()
    assert "303,350,784" in text
    assert "MahmoodLab/UNI" in text
    rows = pd.read_csv(io.StringIO(encoders.encoders_table("csv"))).set_index("name")
    assert rows.loc["medsiglip", ["gflops", "repo"]].tolist() == [979.2, "google/medsiglip-448"]
    assert {row["name"]: row["tcga"] for row in json.loads(encoders.encoders_table("json"))}["phikon"] == "yes"


def test_the_docs_show_the_table_of_the_records():
    command, table = (
        "<!-- encoders: .venv/bin/wsibench encoders --format markdown -->",
        encoders.encoders_table("markdown"),
    )
    text = (CHECKOUT / "docs" / "encoders.md").read_text()
    assert f"{command}\n{table}\n<!-- /encoders -->" in text, f"write what {command[14:-4]} prints"


def test_an_encoder_without_weights_needs_none(study):
    assert encoders.find_weights(study(), "texture") is None


# Controls

SLIDES = {"source": "local", "slides": "slides.csv"}
PATIENTS = {"source": "local", "patients": "patients.csv"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"encoders": ["uni"]}, ["colour", "texture", "random-vit"]),
        ({"encoders": ["uni", "texture"]}, ["colour", "random-vit"]),
        ({"encoders": ["uni"], "controls": []}, []),
        ({"encoders": ["uni"], "controls": ["resnet50", "site"]}, ["resnet50"]),
        ({"features": {"uni": {"folder": "theirs"}}}, []),
        ({"features": {"uni": {"folder": "theirs"}}, "encoders": ["phikon"]}, ["colour", "texture", "random-vit"]),
        ({"features": {"good": {"table": "good.csv"}}}, []),
        ({"features": {"good": {"table": "good.csv"}}, "cohort": PATIENTS}, []),
        ({"cohort": {"source": "simulate"}, "encoders": ["uni"]}, ["colour", "texture", "random-vit"]),
    ],
)
def test_controls_of_tiles_run_where_slides_are_read(study, sections, expected):
    made = study(**{"cohort": SLIDES} | sections)
    assert encoders.tile_controls(made) == expected
    assert [each.name for each in encoders.tile_encoders(made)] == [*made.encoders, *expected]


# A study's own encoders


CODE = """
import torch

def mean_colour(device):
    scale = torch.tensor({scale}, device=device)
    return lambda tiles: tiles.float().mean((2, 3)) * scale
"""


@pytest.fixture
def own_study(data_root):
    folder = data_root / "owned"
    folder.mkdir()
    (folder / "owncode.py").write_text(CODE.format(scale=1.0))
    mine = {"name": "mine", "loader": "callable", "arch": "owncode:mean_colour", "px": 32}
    content = {"title": "T", "cohort": {"source": "simulate"}, "encoders": ["colour", mine], "controls": []}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return Study.load("owned")


def test_untrusted_code_is_named_and_not_run(own_study, monkeypatch):
    monkeypatch.delenv("WSIBENCH_TRUST", raising=False)
    (own_study.study_yaml.parent / "owncode.py").write_text("raise SystemExit('ran')")
    with pytest.raises(StudyError, match=r"mine is owncode:mean_colour.*--trust"):
        encoders.tile_encoders(own_study)


def test_trusted_code_embeds_whole_tiles(own_study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    _, mine = encoders.tile_encoders(own_study)
    tiles = torch.from_numpy(np.full((3, 64, 64, 3), (10, 20, 30), np.uint8))
    made = models.load(mine)(tiles)
    assert made.tolist() == [[10.0, 20.0, 30.0]] * 3
    assert encoders.tcga(own_study, "mine") == "unknown"


def test_changed_code_changes_the_hash(own_study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    before = encoders.weights_hash(encoders.encoder("mine", own_study), None)
    (own_study.study_yaml.parent / "owncode.py").write_text(CODE.format(scale=2.0))
    assert encoders.weights_hash(encoders.encoder("mine", own_study), None) != before


def test_a_missing_module_is_an_error(own_study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    (own_study.study_yaml.parent / "owncode.py").unlink()
    with pytest.raises(StudyError, match="module owncode of the encoder mine is not found"):
        encoders.encoder("mine", own_study)


@pytest.mark.parametrize("arch", ["owncode", "os.system('x'):y", "a b:c", ":f"])
def test_an_arch_that_names_no_function_is_refused(data_root, arch):
    (data_root / "bad").mkdir()
    mine = {"name": "mine", "loader": "callable", "arch": arch}
    content = {"title": "T", "cohort": {"source": "simulate"}, "encoders": [mine]}
    (data_root / "bad" / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match="arch of a callable is module:function"):
        Study.load("bad")


def test_a_study_brings_a_record_of_its_own(study, tmp_path):
    mine = {"name": "mine", "loader": "timm", "arch": "resnet10t", "dim": 512, "px": 64, "mean": [0.5, 0.5, 0.5]}
    [record] = encoders.tile_encoders(study(encoders=[mine], controls=[]))
    assert (record.name, record.px, record.mean, record.std) == ("mine", 64, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
    with pytest.raises(WeightsError, match=r"mine names no repository.*weights: {mine: /path/to/dir}"):
        encoders.fetch(record)
    module = timm.create_model("resnet10t", num_classes=0)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert models.load(record, tmp_path)(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 512)
