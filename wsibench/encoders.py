"""The encoders that are compared: one frozen record each, with everything that decides an embedding.

The records say what the authors' cards say.  What a card does not say is `None` or ``unknown``.
Listing them needs no torch: layers and classes are named, and resolved when a model is built.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wsibench import weights
from wsibench.errors import StudyError, WeightsError
from wsibench.study import Study

PATIENT_LEVEL = ("site", "oracle")
"""Controls that are one vector a patient, made at assembly: no tile is encoded for them."""

Stats = tuple[float, float, float]
Known = Literal["yes", "no", "unknown"]

IMAGENET: tuple[Stats, Stats] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Stats, Stats] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BIOPTIMUS: tuple[Stats, Stats] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What an encoder is and how a tile becomes its embedding."""

    name: str
    loader: Literal["statistics", "random", "timm", "transformers"]
    """Who builds it: our own statistics, timm with seeded random weights, timm, or transformers."""
    arch: str
    """Function of `wsibench.statistics`, timm model name, or transformers class."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the construction, a layer class by its name; of statistics their format, raised when they change."""
    pool: Literal["vector", "cls", "cls+mean", "pooler"] = "vector"
    """What of the model's output is the embedding."""
    prefix_tokens: int = 1
    """Class and register tokens that stand before the patch tokens."""
    dim: int
    """Width of the embedding."""
    px: int = 224
    """Side of the input in px."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How decoded pixels are resampled to `px`."""
    stats: tuple[Stats, Stats] = IMAGENET
    """Mean and standard deviation of the channels, of values in [0, 1]."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Arithmetic on a CUDA device; a CPU always computes in float32."""
    repo: str | None = None
    """Repository on the Hugging Face hub."""
    revision: str | None = None
    """Commit of the repository; None is the newest one, told apart by the hash of the weights."""
    ignored: tuple[str, ...] = ()
    """Beginnings of the names of weights in the checkpoint that the embedding does not need."""
    parameters: int | None = None
    licence: str = "unknown"
    commercial: Known = "unknown"
    """Whether the licence allows commercial use."""
    gate: Literal["open", "gated", "unknown"] = "unknown"
    """Whether the hub asks for a login and the authors' consent."""
    data: str = "unknown"
    """What it was trained on."""
    tcga: Known = "unknown"
    """Whether TCGA, whose slides are a common test set, was among that."""
    tcga_source: str = "unknown"
    """Who says so."""
    citation: str = "unknown"

    def decides(self) -> dict[str, Any]:
        """The fields that decide an embedding's values: what a features key is made from."""
        names = ("loader", "arch", "pool", "prefix_tokens", "dim", "px", "interpolation", "stats", "precision")
        values = asdict(self)
        return {name: values[name] for name in names} | {"kwargs": dict(self.kwargs)}

    @property
    def needs_weights(self) -> bool:
        """Whether there are weights to fetch."""
        return self.loader in ("timm", "transformers")


_CONTROL = {
    "parameters": 0,
    "licence": "MIT",
    "commercial": "yes",
    "gate": "open",
    "data": "none",
    "tcga": "no",
    "tcga_source": "nothing is trained",
    "citation": "this package",
}
_DINOV2 = {
    "loader": "transformers",
    "arch": "Dinov2Model",
    "pool": "cls",
    "precision": "fp16",
    "licence": "Apache-2.0",
    "commercial": "yes",
    "gate": "open",
    "data": "LVD-142M natural images",
    "tcga": "no",
    "tcga_source": "natural images",
    "citation": "arXiv:2304.07193",
}

_TABLE = (
    Encoder(name="colour", loader="statistics", arch="colour", kwargs={"format": 1}, dim=58, **_CONTROL),
    Encoder(name="texture", loader="statistics", arch="texture", kwargs={"format": 1}, dim=69, **_CONTROL),
    Encoder(
        name="random-vit",
        loader="random",
        arch="vit_tiny_patch16_224",
        kwargs={"img_size": 112, "seed": 0},
        px=112,
        dim=192,
        **(_CONTROL | {"parameters": 5_496_192, "citation": "timm; untrained"}),
    ),
    Encoder(
        name="resnet50",
        loader="timm",
        arch="resnet50",
        dim=2048,
        interpolation="bilinear",
        repo="timm/resnet50.tv_in1k",
        ignored=("fc.",),
        parameters=23_508_032,
        licence="BSD-3-Clause",
        commercial="yes",
        gate="open",
        data="ImageNet-1k natural images",
        tcga="no",
        tcga_source="natural images",
        citation="arXiv:1512.03385",
    ),
    Encoder(name="dinov2-small", repo="facebook/dinov2-small", dim=384, parameters=22_056_576, **_DINOV2),
    Encoder(name="dinov2-base", repo="facebook/dinov2-base", dim=768, parameters=86_580_480, **_DINOV2),
    Encoder(name="dinov2-large", repo="facebook/dinov2-large", dim=1024, parameters=304_368_640, **_DINOV2),
    Encoder(name="dinov2-giant", repo="facebook/dinov2-giant", dim=1536, **_DINOV2),
    Encoder(
        name="medsiglip",
        loader="transformers",
        arch="SiglipVisionModel",
        pool="pooler",
        dim=1152,
        px=448,
        interpolation="bilinear",
        stats=HALF,
        repo="google/medsiglip-448",
        ignored=("text_model.", "logit_scale", "logit_bias"),
        parameters=428_565_440,
        licence="HAI-DEF terms of use",
        gate="gated",
        data="33M image-text pairs and licensed pathology sets",
        tcga="yes",
        tcga_source="model card: TCGA and CAMELYON",
        citation="arXiv:2507.05201",
    ),
    Encoder(
        name="uni",
        loader="timm",
        arch="vit_large_patch16_224",
        kwargs={"img_size": 224, "patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True},
        dim=1024,
        interpolation="bilinear",
        precision="fp16",
        repo="MahmoodLab/UNI",
        parameters=303_350_784,
        licence="CC-BY-NC-ND-4.0",
        commercial="no",
        gate="gated",
        data="Mass-100K and GTEx",
        tcga="no",
        tcga_source="model card: explicitly excluded",
        citation="doi:10.1038/s41591-024-02857-3",
    ),
    Encoder(
        name="h-optimus-0",
        loader="timm",
        arch="vit_giant_patch14_reg4_dinov2",
        kwargs={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
        prefix_tokens=5,
        dim=1536,
        stats=BIOPTIMUS,
        precision="fp16",
        repo="bioptimus/H-optimus-0",
        parameters=1_134_774_272,
        licence="Apache-2.0",
        commercial="yes",
        data="more than 500k proprietary slides",
        tcga_source="undisclosed",
        citation="Saillard et al. 2024 (software)",
    ),
    Encoder(
        name="phikon",
        loader="transformers",
        arch="ViTModel",
        kwargs={"add_pooling_layer": False},
        pool="cls",
        dim=768,
        repo="owkin/phikon",
        parameters=85_798_656,
        licence="Owkin non-commercial",
        commercial="no",
        gate="open",
        data="40M tiles of TCGA",
        tcga="yes",
        tcga_source="model card",
        citation="doi:10.1101/2023.07.21.23292757",
    ),
)

ENCODERS: dict[str, Encoder] = {record.name: record for record in _TABLE}
"""All encoders by name."""


def encoder(name: str) -> Encoder:
    """The record of an encoder.

    Raises
    ------
    StudyError
        For an unknown name; says which ones there are.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    allowed = [*ENCODERS, *PATIENT_LEVEL]
    close = difflib.get_close_matches(name, allowed, n=3)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise StudyError(f"There is no encoder {name!r}.", f"{hint}Encoders: {', '.join(allowed)}.")


def tile_encoders(study: Study) -> list[Encoder]:
    """Encoders that tiles are embedded with: the study's, then its controls that look at tiles."""
    return [encoder(name) for name in dict.fromkeys(study.encoders + study.controls) if name not in PATIENT_LEVEL]


def tcga(study: Study, name: str) -> Known:
    """Whether TCGA was in the training data of an encoder, a control or a feature table of `study`."""
    if name in study.features:
        return study.features[name].tcga
    return "no" if name in PATIENT_LEVEL else encoder(name).tcga


def find_weights(study: Study, name: str) -> Path | None:
    """The folder of an encoder's weights on this machine, or None when it needs none; asks no network.

    Raises
    ------
    WeightsError
        When they are not here; says how to get them.
    """
    record = encoder(name)
    return weights.find(record, weights.local_folder(name, study)) if record.needs_weights else None


def table(encoders: Iterable[Encoder], study: Study | None = None) -> pd.DataFrame:
    """What is known of encoders, one a row, and whether their weights are on this machine."""
    columns = ("name", "dim", "px", "parameters", "licence", "commercial", "gate", "tcga", "data")
    frame = pd.DataFrame([[getattr(record, name) for name in columns] for record in encoders], columns=columns)
    frame["parameters"] = ["unknown" if pd.isna(count) else f"{int(count):,}" for count in frame["parameters"]]
    frame["weights"] = [_presence(record, study) for record in encoders]
    return frame


def _presence(encoder: Encoder, study: Study | None) -> str:
    if not encoder.needs_weights:
        return "not needed"
    try:
        weights.find(encoder, weights.local_folder(encoder.name, study))
    except WeightsError:
        return "absent"
    return "present"


def encoders_table() -> str:
    """All encoders as a table for a terminal."""
    frame = table(ENCODERS.values()).drop(columns=["commercial", "data"]).rename(columns={"dim": "width"})
    return frame.to_string(index=False)
