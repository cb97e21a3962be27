"""The check of a record on its weights."""

import json

import pytest

from wsibench.cli.main import main
from wsibench.core import WeightsError
from wsibench.embedding import ENCODERS, check_record, check_text, encoder


def test_a_record_is_confirmed_on_its_weights(data_root, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["encoders", "--check", "efficientnet-lite0", "--record"]) == 0
    found = json.loads((tmp_path / "efficientnet-lite0.json").read_text())
    assert found["confirms"] == ["arch", "parameters", "dim", "sha256"]
    assert found["cosine"] == pytest.approx(1)  # a CPU computes tf32 as float32
    assert found["record"] == encoder("efficientnet-lite0").decides()
    assert found["digest"] == check_record("efficientnet-lite0")["digest"]
    assert found["digest"][:16] in capsys.readouterr().out


def test_half_precision_and_other_weights_are_told(data_root, monkeypatch):
    other = encoder("efficientnet-lite0").model_copy(update={"precision": "bf16", "sha256": "0" * 64})
    monkeypatch.setitem(ENCODERS, "efficientnet-lite0", other)
    found = check_record("efficientnet-lite0")
    assert 0.99 < found["cosine"] < 1
    assert "sha256" not in found["confirms"]
    assert "between float32 and bf16" in check_text(found)


def test_absent_weights_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="The weights of phikon are not"):
        check_record("phikon")
