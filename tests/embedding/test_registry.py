"""The registry: what may be asked for, and what it costs to ask."""

import subprocess
import sys

import pytest

from wsibench.core import Study, StudyError, WeightsError
from wsibench.embedding import encoders, registry
from wsibench.embedding.encoders import ENCODERS, encoder


@pytest.fixture
def study(data_root):
    def make(**sections):
        import yaml

        folder = data_root / "tiny"
        folder.mkdir(exist_ok=True)
        content = {"title": "tiny", "cohort": {"source": "simulate"}, **sections}
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
        return Study.load("tiny")

    return make


def test_listing_the_encoders_loads_no_torch():
    code = (
        "import sys; from wsibench.embedding.encoders import encoders_table; encoders_table();"
        "print([name for name in ('torch', 'timm', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_encoder_is_refused_with_what_was_meant():
    with pytest.raises(StudyError, match=r"no encoder 'h-optimus'.*Did you mean .*h-optimus-0.*phikon"):
        encoder("h-optimus")


def test_names_are_unique():
    assert len(ENCODERS) == len(registry._TABLE)


def test_tile_encoders_are_the_studys_then_its_controls_without_the_patient_level_ones(study):
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


def test_absent_weights_of_a_gated_encoder_say_where_to_ask(study, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError) as caught:
        encoders.find_weights(study(encoders=["uni"]), "uni")
    assert str(caught.value) == (
        "The weights of uni are not on this machine. 1. request access: https://huggingface.co/MahmoodLab/UNI "
        "(licence CC-BY-NC-ND-4.0) 2. hf auth login, or set HF_TOKEN; "
        "or give a local folder: weights: {uni: /path/to/dir}"
    )


def test_an_encoder_without_weights_needs_none(study):
    assert encoders.find_weights(study(), "texture") is None
