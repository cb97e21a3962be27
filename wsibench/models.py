"""From an encoder's record to a function of tiles: one transform, one way to load, for all of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from wsibench import statistics
from wsibench.encoders import Encoder
from wsibench.errors import WeightsError
from wsibench.weights import weight_files

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def load(encoder: Encoder, folder: Path | None = None, device: str = "cpu") -> Callable[[torch.Tensor], torch.Tensor]:
    """Load an encoder.

    Parameters
    ----------
    encoder
        Its record.
    folder
        Its weights, from `wsibench.weights`; None for one that has none.
    device
        torch's name of the device.

    Returns
    -------
    callable
        From uint8 tiles (b, px, px, 3) on any device to float32 embeddings (b, dim) on `device`.

    Raises
    ------
    WeightsError
        When the weights are not those of the record.
    """
    if encoder.loader == "statistics":
        return _Statistics(encoder)
    module = _BUILD[encoder.loader](encoder, folder).eval().requires_grad_(False)
    _check_size(encoder, module)
    return _Model(encoder, module, torch.device(device))


def square(tiles: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """The whole tile at the encoder's input size, resampled at most once and never cropped.

    Parameters
    ----------
    tiles
        uint8 (b, px, px, 3).

    Returns
    -------
    Tensor
        uint8 (b, 3, encoder.px, encoder.px), rounded as an image library would.
    """
    pixels = tiles.permute(0, 3, 1, 2)
    if pixels.shape[-1] == encoder.px:
        return pixels
    return resize(pixels, [encoder.px, encoder.px], InterpolationMode(encoder.interpolation), antialias=True)


class _Statistics:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.function = getattr(statistics, encoder.arch)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        pixels = square(tiles.cpu(), self.encoder).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(np.stack([self.function(tile) for tile in pixels]))


class _Model:
    def __init__(self, encoder: Encoder, module: torch.nn.Module, device: torch.device) -> None:
        self.encoder, self.device = encoder, device
        self.module = module.to(device)
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in encoder.stats)
        self.autocast = device.type == "cuda" and encoder.precision in DTYPES

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        pixels = square(tiles.to(self.device, non_blocking=True), self.encoder)
        pixels = (pixels.float() - self.mean) / self.std
        with torch.autocast(self.device.type, DTYPES.get(self.encoder.precision), enabled=self.autocast):
            return pooled(self.module(pixels), self.encoder).float()


def pooled(output: "torch.Tensor | object", encoder: Encoder) -> torch.Tensor:
    """The (b, dim) embedding in what a model returns."""
    if encoder.pool == "pooler":
        return output.pooler_output
    tokens = getattr(output, "last_hidden_state", output)
    if encoder.pool == "vector":
        return tokens
    if encoder.pool == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, encoder.prefix_tokens :].mean(1)], 1)


def _random(encoder: Encoder, folder: None) -> torch.nn.Module:
    import timm

    kwargs = dict(encoder.kwargs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(kwargs.pop("seed"))
        return timm.create_model(encoder.arch, pretrained=False, num_classes=0, **kwargs)


def _timm(encoder: Encoder, folder: Path) -> torch.nn.Module:
    import timm
    from timm.models import load_checkpoint

    module = timm.create_model(encoder.arch, pretrained=False, num_classes=0, **_resolved(encoder))
    files = weight_files(folder)
    if len(files) != 1:
        raise WeightsError(f"{folder} holds {len(files)} files of weights for {encoder.name}; one is expected.")
    load_checkpoint(module, str(files[0]), weights_only=True)
    return module


def _transformers(encoder: Encoder, folder: Path) -> torch.nn.Module:
    import transformers

    model_class = getattr(transformers, encoder.arch)
    return model_class.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa", **encoder.kwargs
    )


_BUILD = {"random": _random, "timm": _timm, "transformers": _transformers}


def _resolved(encoder: Encoder) -> dict:
    """Arguments with layers looked up by their names."""
    from timm import layers

    named = {"mlp_layer": layers, "act_layer": torch.nn}
    return {key: getattr(named[key], value) if key in named else value for key, value in encoder.kwargs.items()}


def _check_size(encoder: Encoder, module: torch.nn.Module) -> None:
    count = sum(parameter.numel() for parameter in module.parameters())
    if encoder.parameters is not None and count != encoder.parameters:
        raise WeightsError(f"{encoder.name} has {count:,} parameters; its record says {encoder.parameters:,}.")
