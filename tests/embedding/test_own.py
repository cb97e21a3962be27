"""A study's own encoder: refused until trusted, then run as any other, and made anew when its code changes."""

import numpy as np
import pytest
import torch
import yaml

from wsibench.core import Study, StudyError
from wsibench.embedding import encoders, models, weights

CODE = """
import torch

def mean_colour(device):
    scale = torch.tensor({scale}, device=device)
    return lambda tiles: tiles.float().mean((2, 3)) * scale
"""


@pytest.fixture
def study(data_root):
    folder = data_root / "owned"
    folder.mkdir()
    (folder / "owncode.py").write_text(CODE.format(scale=1.0))
    mine = {"name": "mine", "callable": "owncode:mean_colour", "px": 32}
    content = {"title": "T", "cohort": {"source": "simulate"}, "encoders": ["colour", mine], "controls": []}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return Study.load("owned")


def test_untrusted_code_is_named_and_not_run(study, monkeypatch):
    monkeypatch.delenv("WSIBENCH_TRUST", raising=False)
    (study.study_yaml.parent / "owncode.py").write_text("raise SystemExit('ran')")
    with pytest.raises(StudyError, match=r"mine is owncode:mean_colour.*--trust"):
        encoders.tile_encoders(study)


def test_trusted_code_embeds_the_whole_tile(study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    _, mine = encoders.tile_encoders(study)
    tiles = torch.from_numpy(np.full((3, 64, 64, 3), (10, 20, 30), np.uint8))
    made = models.load(mine)(tiles)
    assert made.tolist() == [[10.0, 20.0, 30.0]] * 3
    assert encoders.tcga(study, "mine") == "unknown"


def test_other_code_makes_other_features(study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    before = weights.weights_hash(encoders.encoder("mine", study), None)
    (study.study_yaml.parent / "owncode.py").write_text(CODE.format(scale=2.0))
    assert weights.weights_hash(encoders.encoder("mine", study), None) != before


def test_a_module_that_is_not_there_is_named(study, monkeypatch):
    monkeypatch.setenv("WSIBENCH_TRUST", "1")
    (study.study_yaml.parent / "owncode.py").unlink()
    with pytest.raises(StudyError, match="module owncode of the encoder mine is not found"):
        encoders.encoder("mine", study)


@pytest.mark.parametrize("callable", ["owncode", "os.system('x'):y", "a b:c", ":f"])
def test_what_names_no_function_is_refused(data_root, callable):
    (data_root / "bad").mkdir()
    content = {"title": "T", "cohort": {"source": "simulate"}, "encoders": [{"name": "mine", "callable": callable}]}
    (data_root / "bad" / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match="callable"):
        Study.load("bad")
