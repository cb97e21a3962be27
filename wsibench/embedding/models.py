"""Load encoders: from a record and its weights to a function of tiles, with one transform for all of them."""

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, resize

from wsibench.core import Encoder, Precision, StudyError, WeightsError
from wsibench.embedding import statistics
from wsibench.embedding.encoders import encoder as find_encoder, fetch, local_folder, weight_files

Function = Callable[[torch.Tensor], torch.Tensor]
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Share of a device's free memory that one batch may take.
MEMORY_SHARE = 0.5
# Number of tiles in the batch that measures the memory of one tile.
PROBE = 8
# Number of tiles of which a convolutional network's maps fit a processor's cache: half the time of 64.
CONVOLVED = 4
# Compute capability of the first CUDA devices that multiply in TensorFloat-32 and bfloat16.
AMPERE = (8, 0)
# Number of models that torch may compile: all of timm's vision transformers share one forward function.
MAX_COMPILED = 64


@dataclass(frozen=True)
class Embedder:
    """A loaded encoder: a function from uint8 tiles (b, px, px, 3) to float32 embeddings (b, dim)."""

    function: Function
    # Side in pixels that a tile is decoded at for it.
    decoded_px: int
    # Arithmetic that it computes in.
    precision: Precision = "fp32"
    # True if its tiles are to lie on its device.
    needs_device: bool = False

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles."""
        return self.function(tiles)


def load(
    encoder: Encoder | str,
    weights: Path | None = None,
    device: str = "cpu",
    *,
    geometry: str = "tile",
    precision: Precision | None = None,
    compiled: bool = False,
) -> Embedder:
    """Load an encoder.

    Parameters
    ----------
    encoder
        Record of the encoder, or its name in encoders.yaml.
    weights
        Local folder of its weights; by default ``WSIBENCH_WEIGHTS``/<encoder>, the Hugging Face cache, or the hub.
    device
        torch's name of the device.
    geometry
        ``tile`` for the whole tile; ``card`` to resize and crop where the card does.
    precision
        Arithmetic; by default the record's on a CUDA device that has it, and fp32 otherwise.
    compiled
        Use torch.compile, which takes minutes for a large encoder.

    Returns
    -------
    Embedder
        Function from uint8 tiles (b, px, px, 3) on any device to float32 embeddings (b, dim) on `device`.

    Raises
    ------
    WeightsError
        If the weights are absent, or are not those of the record.
    """
    if isinstance(encoder, str):
        encoder = find_encoder(encoder)
    decoded_px = encoder.decoded_px(geometry)
    if encoder.loader == "statistics":
        return Embedder(_statistics(encoder), decoded_px)
    if encoder.loader == "callable":
        return Embedder(_own(encoder, device), decoded_px, needs_device=True)
    if encoder.needs_weights and weights is None:
        weights = fetch(encoder, local_folder(encoder.name))
    module = _BUILD[encoder.loader](encoder, weights).eval().requires_grad_(False)
    _check_size(encoder, module)
    precision = precision or possible_precision(encoder.precision, torch.device(device))
    model = Model(encoder, module, torch.device(device), geometry, precision, compiled)
    return Embedder(model, decoded_px, precision, needs_device=True)


def possible_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return the arithmetic that a device computes in where a record wants `wanted`: float32 where it lacks it."""
    if device.type != "cuda":
        return "fp32"
    return "fp32" if wanted in ("tf32", "bf16") and torch.cuda.get_device_capability(device) < AMPERE else wanted


def square(tiles: torch.Tensor, encoder: Encoder, geometry: str = "tile") -> torch.Tensor:
    """Resample whole tiles at most once to an encoder's input size, without cropping.

    Only under ``geometry: card`` are tiles cropped, for an encoder whose card crops.

    Parameters
    ----------
    tiles
        uint8 (b, px, px, 3).
    encoder
        Record of the encoder.
    geometry
        ``tile`` or ``card``.

    Returns
    -------
    Tensor
        uint8 (b, 3, encoder.px, encoder.px), rounded as image libraries do.
    """
    pixels = tiles.permute(0, 3, 1, 2)
    px = encoder.input_px(geometry)
    if pixels.shape[-1] != px:
        pixels = resize(pixels, [px, px], InterpolationMode(encoder.interpolation), antialias=True)
    return pixels if px == encoder.px else center_crop(pixels, [encoder.px, encoder.px])


def _statistics(encoder: Encoder) -> Function:
    function = getattr(statistics, encoder.arch)

    def embed(tiles: torch.Tensor) -> torch.Tensor:
        pixels = square(tiles.cpu(), encoder).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(function(pixels))

    return embed


def _own(encoder: Encoder, device: str) -> Function:
    function = _import_function(encoder)(device)

    @torch.inference_mode()
    def embed(tiles: torch.Tensor) -> torch.Tensor:
        made = function(square(tiles.to(device), encoder))
        if made.ndim != 2 or len(made) != len(tiles):
            shape = tuple(made.shape)
            raise StudyError(f"The encoder {encoder.name} made {shape} of {len(tiles)} tiles, not (tiles, width).")
        return made.float()

    return embed


def _import_function(encoder: Encoder) -> Callable[[str], Function]:
    """Import the user's function of a record whose loader is ``callable``."""
    name, _, function = encoder.arch.partition(":")
    if encoder.repo is None:
        return getattr(importlib.import_module(name), function)
    # By its path, because another study may have a module of the same name.
    spec = importlib.util.spec_from_file_location(f"{name}_{encoder.kwargs['source'][:12]}", encoder.repo)
    if spec is None or spec.loader is None:
        raise StudyError(f"{encoder.repo} of the encoder {encoder.name} is not a Python module.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


class Model:
    """A torch module that embeds tiles, resized and normalised on its device, in batches that fit its memory.

    Parameters
    ----------
    encoder
        Record of the encoder.
    module
        The network.
    device
        Device to compute on.
    geometry
        ``tile`` or ``card``.
    precision
        Arithmetic on the device.
    compiled
        Use torch.compile.
    """

    def __init__(
        self,
        encoder: Encoder,
        module: torch.nn.Module,
        device: torch.device,
        geometry: str = "tile",
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        self.encoder, self.device, self.geometry, self.precision = encoder, device, geometry, precision
        self.dtype = HALF.get(precision)
        self.module = _halved(module, self.dtype).to(device)
        self.convolves = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())
        if self.convolves:  # tiles come with their channels last
            self.module.to(memory_format=torch.channels_last)
        self.compiled = compiled
        self.run = _compiled(self.module) if compiled else self.module
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (encoder.mean, encoder.std))
        self.scale, self.shift = 1 / std, -mean / std
        # Maximum batch, chosen in the first call and halved when the memory does not suffice.
        self.batch = 0

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed uint8 tiles (b, px, px, 3) as float32 (b, dim)."""
        self.batch = self.batch or self._fitting_batch(tiles)
        parts: list[torch.Tensor] = []
        start = 0
        while start < len(tiles):
            part = self._attempt(tiles[start : start + self.batch])
            if part is None:
                self.batch = min(self.batch, len(tiles) - start) // 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                parts.append(part)
                start += len(part)
        return torch.cat(parts)

    def _attempt(self, tiles: torch.Tensor) -> torch.Tensor | None:
        """Embed one batch; None if the memory does not suffice, once what the attempt held has been let go."""
        try:
            return self._forward(tiles)
        except torch.OutOfMemoryError:
            if len(tiles) == 1:
                raise
            return None

    def _forward(self, tiles: torch.Tensor) -> torch.Tensor:
        n = len(tiles)
        if self.compiled and n < self.batch:  # every shape would be compiled anew
            tiles = torch.cat([tiles, tiles.new_zeros(self.batch - n, *tiles.shape[1:])])
        pixels = square(tiles.to(self.device, non_blocking=True), self.encoder, self.geometry)
        pixels = pixels.float().mul_(self.scale).add_(self.shift)  # in place: half the time on a CPU
        if self.device.type == "cuda":
            _set_tf32(self.precision)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return pooled(self.run(pixels), self.encoder).float()[:n]

    def _fitting_batch(self, tiles: torch.Tensor) -> int:
        """Divide the first batch into as few equal parts as fit the device's memory."""
        if self.device.type != "cuda":
            return CONVOLVED if self.convolves else len(tiles)
        self._forward(tiles[:PROBE])
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._forward(tiles[:PROBE])
        bytes_per_tile = (torch.cuda.max_memory_allocated(self.device) - before) / len(tiles[:PROBE])
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        fitting = max(1, int(MEMORY_SHARE * free / max(bytes_per_tile, 1)))
        return math.ceil(len(tiles) / math.ceil(len(tiles) / fitting))


def _halved(module: torch.nn.Module, dtype: torch.dtype | None) -> torch.nn.Module:
    """Store in half precision the weights that autocast would cast for every batch: the values are the same."""
    for layer in module.modules() if dtype else ():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.to(dtype)
    return module


def _compiled(module: torch.nn.Module) -> Callable[..., Any]:
    torch._dynamo.config.cache_size_limit = MAX_COMPILED
    return torch.compile(module, dynamic=False)


def _set_tf32(precision: Precision) -> None:
    """Set the arithmetic of float32 products on CUDA devices; torch's defaults differ for matrices and convolutions."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def pooled(output: Any, encoder: Encoder) -> torch.Tensor:
    """Return the (b, dim) embedding in a model's output: a tensor of timm or an output object of transformers."""
    if encoder.pool == "pooler":
        return output.pooler_output
    if encoder.pool == "projection":
        return output.image_embeds
    tokens = output if isinstance(output, torch.Tensor) else output.last_hidden_state
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
    from timm.models import load_state_dict

    arch, kwargs = encoder.arch, layer_kwargs(encoder)
    if arch == "config.json":
        config = json.loads((folder / "config.json").read_text())
        arch, kwargs = config["architecture"], config.get("model_args", {}) | kwargs
    module = timm.create_model(arch, pretrained=False, **(kwargs | {"num_classes": 0}))
    try:
        # weights_only: a pickle that holds anything but tensors is refused.
        states = [load_state_dict(str(file), weights_only=True) for file in weight_files(encoder, folder)]
        if sum(map(len, states)) > len(set().union(*states)):
            raise ValueError("several files hold the same weights; name one of them as `file` in the record")
        state = {k: v for state in states for k, v in state.items() if not k.startswith(encoder.ignored)}
        if encoder.ordered:
            state = dict(zip(module.state_dict(), state.values(), strict=True))
        wrong = module.load_state_dict(state, strict=False)
    except Exception as error:
        raise _unreadable(encoder, folder, error) from error
    _check_keys(encoder, folder, wrong.missing_keys, wrong.unexpected_keys)
    return module


def _transformers(encoder: Encoder, folder: Path) -> torch.nn.Module:
    import transformers
    from transformers.utils import logging

    model_class = getattr(transformers, encoder.arch)
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its warnings become errors below
    logging.disable_progress_bar()
    try:
        module, info = model_class.from_pretrained(
            folder,
            local_files_only=True,
            weights_only=True,
            use_safetensors=encoder.file.endswith(".safetensors") if encoder.file else None,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **encoder.kwargs,
        )
    except Exception as error:
        raise _unreadable(encoder, folder, error) from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    unexpected = [key for key in info["unexpected_keys"] if not key.startswith(encoder.ignored)]
    _check_keys(encoder, folder, [*info["missing_keys"], *map(str, info["mismatched_keys"])], unexpected)
    return module


_BUILD: dict[str, Callable[[Encoder, Any], torch.nn.Module]] = {
    "random": _random,
    "timm": _timm,
    "transformers": _transformers,
}


def layer_kwargs(encoder: Encoder) -> dict[str, Any]:
    """Return the record's arguments of the model, with layer classes in place of their names."""
    from timm import layers

    modules = {"mlp_layer": layers, "act_layer": torch.nn}
    return {key: getattr(modules[key], value) if key in modules else value for key, value in encoder.kwargs.items()}


def _unreadable(encoder: Encoder, path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"The weights of {encoder.name} in {path} cannot be loaded: {type(error).__name__}: {error}.",
        "Fetch the file again: it may be cut off, or of another model.",
    )


def _check_keys(encoder: Encoder, folder: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    problems = [
        f"{len(keys)} {what} (such as {keys[0]})"
        for what, keys in (("weights are missing", sorted(missing)), ("are unexpected", sorted(unexpected)))
        if keys
    ]
    if problems:
        raise WeightsError(f"{folder} does not hold {encoder.name}: {'; '.join(problems)}.", "Fetch the right weights.")


def _check_size(encoder: Encoder, module: torch.nn.Module) -> None:
    count = sum(parameter.numel() for parameter in module.parameters())
    if encoder.parameters is not None and count != encoder.parameters:
        raise WeightsError(f"{encoder.name} has {count:,} parameters; its record says {encoder.parameters:,}.")
