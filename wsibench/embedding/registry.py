"""The records of the encoders: everything that decides an embedding, and what one must know to judge it.

They say what the authors' cards say.  What a card does not say is `None` or ``unknown``.
Listing them needs no torch: layers and classes are named, and resolved when a model is built.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stats = tuple[float, float, float]
Known = Literal["yes", "no", "unknown"]

IMAGENET: tuple[Stats, Stats] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Stats, Stats] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BIOPTIMUS: tuple[Stats, Stats] = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What an encoder is and how a tile becomes its embedding."""

    name: str
    loader: Literal["statistics", "random", "timm", "transformers", "callable", "import"]
    """Who builds it: our own statistics, timm with seeded random weights, timm, transformers, or the user.

    ``import`` stands for features that were computed elsewhere.
    """
    arch: str
    """Function of `statistics`, timm model name, transformers class, user's ``module:function``, or layout.

    timm's ``config.json`` is the architecture that the repository's own file of that name states.
    """
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the construction, a layer class by its name; of statistics their format, raised when they change."""
    pool: Literal["vector", "cls", "cls+mean", "pooler"] = "vector"
    """What of the model's output is the embedding."""
    prefix_tokens: int = 1
    """Class and register tokens that stand before the patch tokens."""
    dim: int | None
    """Width of the embedding; None where only the user's code or files know."""
    px: int = 224
    """Side of the input in px."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How decoded pixels are resampled to `px`."""
    card_px: tuple[int, int] | None = None
    """What the card resizes to and then crops to, where it crops; followed under ``geometry: card`` alone."""
    stats: tuple[Stats, Stats] = IMAGENET
    """Mean and standard deviation of the channels, of values in [0, 1]."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Arithmetic on a CUDA device; a CPU always computes in float32."""
    repo: str | None = None
    """Repository on the Hugging Face hub; of a user's own encoder, the file beside study.yaml."""
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

    def decoded_px(self, geometry: str) -> int:
        """Pixels along a whole tile under a study's geometry: `px`, or what the card resizes to before it crops."""
        return self.card_px[0] if geometry == "card" and self.card_px else self.px

    @property
    def needs_device(self) -> bool:
        """Whether it computes on a CUDA device where there is one."""
        return self.loader not in ("statistics", "import")

    @property
    def needs_weights(self) -> bool:
        """Whether there are weights to fetch."""
        return self.loader in ("timm", "transformers")


_CONTROL: dict[str, Any] = {
    "parameters": 0,
    "licence": "MIT",
    "commercial": "yes",
    "gate": "open",
    "data": "none",
    "tcga": "no",
    "tcga_source": "nothing is trained",
    "citation": "this package",
}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0", "commercial": "yes"}
_NC_ND: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "commercial": "no", "gate": "gated"}
_NATURAL: dict[str, Any] = {"tcga": "no", "tcga_source": "trained on natural images", "gate": "open"}
_DINOV2: dict[str, Any] = {
    "loader": "transformers",
    "arch": "Dinov2Model",
    "pool": "cls",
    "card_px": (256, 224),
    "precision": "fp16",
    "data": "LVD-142M",
    "citation": "arXiv:2304.07193",
    **_APACHE,
    **_NATURAL,
}
_BIOPTIMUS: dict[str, Any] = {
    "loader": "timm",
    "arch": "vit_giant_patch14_reg4_dinov2",
    "kwargs": {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
    "prefix_tokens": 5,
    "dim": 1536,
    "stats": BIOPTIMUS,
    "precision": "fp16",
    "parameters": 1_134_774_272,
}
_VIRCHOW: dict[str, Any] = {
    "loader": "timm",
    "arch": "vit_huge_patch14_224",
    "pool": "cls+mean",
    "dim": 2560,
    "gate": "gated",
    "data": "slides of MSKCC",
}
_VIRCHOW_KWARGS = {
    "img_size": 224,
    "mlp_ratio": 5.3375,
    "init_values": 1e-5,
    "global_pool": "",
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
}

_TABLE = (
    Encoder(name="colour", loader="statistics", arch="colour", kwargs={"format": 1}, dim=58, **_CONTROL),
    Encoder(name="texture", loader="statistics", arch="texture", kwargs={"format": 1}, dim=69, **_CONTROL),
    Encoder(
        name="random-vit",
        loader="random",
        arch="vit_tiny_patch16_224",
        kwargs={"img_size": 112, "seed": 0},
        dim=192,
        px=112,
        **(_CONTROL | {"parameters": 5_496_192, "citation": "timm"}),
    ),
    Encoder(
        name="resnet50",
        loader="timm",
        arch="resnet50",
        dim=2048,
        interpolation="bilinear",
        card_px=(256, 224),
        repo="timm/resnet50.tv_in1k",
        ignored=("fc.",),
        parameters=23_508_032,
        licence="BSD-3-Clause",
        commercial="yes",
        data="ImageNet-1k",
        citation="arXiv:1512.03385",
        **_NATURAL,
    ),
    Encoder(name="dinov2-small", repo="facebook/dinov2-small", dim=384, parameters=22_056_576, **_DINOV2),
    Encoder(name="dinov2-base", repo="facebook/dinov2-base", dim=768, parameters=86_580_480, **_DINOV2),
    Encoder(name="dinov2-large", repo="facebook/dinov2-large", dim=1024, parameters=304_368_640, **_DINOV2),
    Encoder(name="dinov2-giant", repo="facebook/dinov2-giant", dim=1536, **_DINOV2),
    Encoder(
        name="dinov3-large",
        loader="transformers",
        arch="DINOv3ViTModel",
        pool="cls",
        prefix_tokens=5,
        dim=1024,
        repo="facebook/dinov3-vitl16-pretrain-lvd1689m",
        licence="DINOv3 licence",
        **(_NATURAL | {"gate": "gated"}),
    ),
    Encoder(
        name="siglip-so400m",
        loader="timm",
        arch="vit_so400m_patch14_siglip_224",
        dim=1152,
        stats=HALF,
        repo="timm/vit_so400m_patch14_siglip_224.webli",
        parameters=427_680_704,
        data="image-text pairs from the web",
        **_APACHE,
        **_NATURAL,
    ),
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
        tcga_source="model card, which names TCGA and CAMELYON",
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
        data="Mass-100K and GTEx",
        tcga="no",
        tcga_source="model card, explicitly",
        citation="doi:10.1038/s41591-024-02857-3",
        **_NC_ND,
    ),
    Encoder(
        name="uni2-h",
        loader="timm",
        arch="vit_giant_patch14_224",
        kwargs={
            "img_size": 224,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            "reg_tokens": 8,
        },
        prefix_tokens=9,
        dim=1536,
        interpolation="bilinear",
        repo="MahmoodLab/UNI2-h",
        parameters=681_394_176,
        data="350k slides of Mass General Brigham",
        **_NC_ND,
    ),
    Encoder(
        name="virchow",
        repo="paige-ai/Virchow",
        kwargs=_VIRCHOW_KWARGS,
        parameters=631_229_184,
        licence="Apache-2.0 with conditions",
        **_VIRCHOW,
    ),
    Encoder(
        name="virchow2",
        repo="paige-ai/Virchow2",
        kwargs=_VIRCHOW_KWARGS | {"reg_tokens": 4},
        prefix_tokens=5,
        parameters=631_239_424,
        **(_NC_ND | _VIRCHOW),
    ),
    Encoder(
        name="gigapath",
        loader="timm",
        arch="config.json",
        dim=1536,
        card_px=(256, 224),
        repo="prov-gigapath/prov-gigapath",
        licence="research use",
        gate="gated",
        data="slides of Providence",
    ),
    Encoder(
        name="h-optimus-0",
        repo="bioptimus/H-optimus-0",
        data="more than 500k proprietary slides",
        citation="Saillard et al. 2024 (software)",
        **_APACHE,
        **_BIOPTIMUS,
    ),
    Encoder(name="h-optimus-1", repo="bioptimus/H-optimus-1", **_NC_ND, **_BIOPTIMUS),
    Encoder(
        name="h0-mini",
        loader="timm",
        arch="config.json",
        kwargs={"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "global_pool": ""},
        pool="cls",
        dim=768,
        stats=BIOPTIMUS,
        repo="bioptimus/H0-mini",
        tcga="yes",
        **_NC_ND,
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
    Encoder(
        name="phikon-v2",
        loader="transformers",
        arch="Dinov2Model",
        pool="cls",
        dim=1024,
        repo="owkin/phikon-v2",
        licence="Owkin non-commercial",
        commercial="no",
        gate="open",
        tcga="yes",
    ),
    Encoder(
        name="midnight-12k",
        loader="transformers",
        arch="Dinov2Model",
        pool="cls+mean",
        dim=3072,
        stats=HALF,
        repo="kaiko-ai/midnight",
        licence="MIT",
        commercial="yes",
        data="TCGA alone",
        tcga="yes",
    ),
    Encoder(
        name="kaiko-b8",
        loader="timm",
        arch="config.json",
        dim=768,
        stats=HALF,
        repo="1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms",
        licence="Kaiko non-commercial",
        commercial="no",
        tcga="yes",
    ),
    Encoder(
        name="gpfm",
        loader="timm",
        arch="vit_large_patch14_dinov2",
        kwargs={"img_size": 224, "init_values": 1e-5},
        dim=1024,
        repo="majiabo/GPFM",
        parameters=303_227_904,
        **(_NC_ND | {"gate": "open"}),
        tcga="yes",
    ),
    Encoder(
        name="lunit-s8",
        loader="timm",
        arch="config.json",
        dim=384,
        stats=((0.703, 0.536, 0.661), (0.217, 0.261, 0.207)),
        repo="1aurent/vit_small_patch8_224.lunit_dino",
        licence="Lunit non-commercial",
        commercial="no",
        tcga="yes",
    ),
)

ENCODERS: dict[str, Encoder] = {record.name: record for record in _TABLE}
"""All encoders by name."""
