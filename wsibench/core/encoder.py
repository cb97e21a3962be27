"""The record of an encoder, in encoders.yaml of `wsibench.embedding` and under `encoders` in study.yaml."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from wsibench.core.settings import Known, Name, Section

Channels = tuple[float, float, float]
# Fields that decide the values of an embedding.
DECIDES = {
    "loader", "arch", "kwargs", "pool", "prefix_tokens", "dim", "px", "interpolation", "mean", "std", "precision"
}  # fmt: skip


class Encoder(Section):
    """An encoder: how its model is built, how a tile becomes its embedding, and its terms of use."""

    name: Name
    # Builder of the model: our statistics, timm with random weights, timm, transformers, or the user's function.
    # ``import`` stands for features that were computed elsewhere.
    loader: Literal["statistics", "random", "timm", "transformers", "callable", "import"]
    # Function of `wsibench.embedding.statistics`, timm's model name, transformers' class, the user's
    # ``module:function``, or the layout of imported features. ``config.json``: timm's model that the repository's
    # file of that name states. A user's function takes torch's name of a device and returns a function from uint8
    # tiles (b, 3, px, px) on that device to embeddings (b, dim); its module may lie beside study.yaml.
    arch: str
    # Arguments of the model, a layer class by its name; of statistics their format, raised when they change.
    kwargs: dict[str, Any] = Field(default={})
    pool: Literal["vector", "cls", "cls+mean", "pooler"] = "vector"  # part of the model's output that is the embedding
    prefix_tokens: int = 1  # class and register tokens before the patch tokens
    dim: int | None = None  # width of the embedding, if known
    px: int = Field(default=224, ge=1)  # side of the input in pixels
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"  # interpolation of decoded tiles to this size
    # Side that the card resizes to, and the side that it then crops; used with ``geometry: card`` only.
    card_px: tuple[int, int] | None = Field(default=None, strict=False)
    mean: Channels = Field(default=(0.485, 0.456, 0.406), strict=False)  # of the channels, of values in [0, 1]
    std: Channels = Field(default=(0.229, 0.224, 0.225), strict=False)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"  # arithmetic on a CUDA device; a CPU computes in float32
    repo: str | None = None  # repository on the Hugging Face hub; of a user's function, its file
    revision: str | None = None  # commit of the repository; unset, the newest
    ignored: tuple[str, ...] = Field(default=(), strict=False)  # prefixes of the checkpoint's weights not needed
    parameters: int | None = None  # number of parameters
    licence: str = "unknown"
    commercial: Known = "unknown"  # whether the licence allows commercial use
    gate: Literal["open", "gated", "unknown"] = "unknown"  # whether the hub asks for a login and the authors' consent
    data: str = "unknown"  # training data
    tcga: Known = "unknown"  # whether the training data included TCGA, a common test set
    tcga_source: str = "unknown"  # source of that statement
    citation: str = "unknown"

    @model_validator(mode="after")
    def _check_function(self) -> "Encoder":
        if self.loader == "callable" and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.arch):
            raise ValueError(f"arch of a callable is module:function, not {self.arch!r}")
        return self

    def decides(self) -> dict[str, Any]:
        """Return the fields that decide the values of an embedding."""
        return self.model_dump(mode="json", include=DECIDES)

    def decoded_px(self, geometry: str) -> int:
        """Return the side of a whole tile in pixels under a study's geometry, before any crop."""
        return self.card_px[0] if geometry == "card" and self.card_px else self.px

    @property
    def needs_device(self) -> bool:
        """True if it computes on a CUDA device where there is one."""
        return self.loader not in ("statistics", "import")

    @property
    def needs_weights(self) -> bool:
        """True if there are weights to fetch."""
        return self.loader in ("timm", "transformers")
