"""Tiles a second on a device: each of the paper's encoders as wsibench feeds it, against its bare forward.

    python benchmarks/device.py [--device cuda] [--encoders NAME …] [--batch 256] [--seconds 5]

The real architectures with random weights.  For each encoder, from batches that already lie on the device:
- bare: the module's forward of normalised float tiles, in the record's precision (autocast, TensorFloat-32);
- fed: uint8 tiles through wsibench, resizing and normalisation included;
- the share of the device's own bf16 matrix product that the fed encoder reaches (MFU).
The goal is fed ≥ 95 % of bare.  benchmarks/embedding.py measures reading and the whole pass.
"""

import argparse
import time
from collections.abc import Callable

import timm
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from wsibench.core import Encoder
from wsibench.embedding import encoder
from wsibench.embedding.models import HALF, Model, layer_kwargs, possible_precision

FIVE = ["dinov2-large", "medsiglip", "uni", "h-optimus-0", "phikon"]
CONFIGS = {
    "dinov2-large": lambda: transformers.Dinov2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14
    ),
    "medsiglip": lambda: transformers.SiglipVisionConfig(
        hidden_size=1152,
        num_hidden_layers=27,
        num_attention_heads=16,
        intermediate_size=4304,
        image_size=448,
        patch_size=14,
    ),
    "phikon": lambda: transformers.ViTConfig(),
}


def build(record: Encoder) -> torch.nn.Module:
    """The encoder's module with random weights."""
    if record.name in CONFIGS:
        return getattr(transformers, record.arch)(CONFIGS[record.name](), **record.kwargs)
    return timm.create_model(record.arch, **(layer_kwargs(record) | {"num_classes": 0}))


def rate(function: Callable[[torch.Tensor], object], batch: torch.Tensor, seconds: float) -> float:
    """Items of the batch a second."""
    synchronise = torch.cuda.synchronize if batch.is_cuda else lambda: None
    for _ in range(3):
        function(batch)
    synchronise()
    started, n = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        function(batch)
        synchronise()
        n += len(batch)
    return n / (time.perf_counter() - started)


def matrix_product(device: torch.device, seconds: float) -> float:
    """FLOP/s of a bf16 product of large square matrices."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(1, side, side, device=device, dtype=torch.bfloat16)
    return rate(lambda x: x @ x, a, seconds) * 2 * side**3


@torch.inference_mode()
def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encoders", nargs="+", default=FIVE, choices=FIVE)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    peak = matrix_product(device, arguments.seconds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, bf16 matrix product {peak / 1e12:.1f} TFLOP/s")
    print("encoder         precision  GFLOP/tile  bare tiles/s  fed tiles/s  fed/bare  MFU")
    for record in map(encoder, arguments.encoders):
        module = build(record).eval().requires_grad_(False)
        precision = possible_precision(record.precision, device)
        dtype = HALF.get(precision)
        model = Model(record, module, device, precision=precision)
        tiles = torch.randint(0, 256, (arguments.batch, record.px, record.px, 3), dtype=torch.uint8, device=device)
        pixels = torch.randn(arguments.batch, 3, record.px, record.px, device=device)

        def forward(x: torch.Tensor, module: torch.nn.Module = module, dtype: torch.dtype | None = dtype) -> object:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                return module(x)

        with FlopCounterMode(display=False) as counter:
            forward(pixels[:1])
        flop = counter.get_total_flops()
        # The one that is fed first: it sets TensorFloat-32 for both.
        fed, bare = (rate(each, batch, arguments.seconds) for each, batch in ((model, tiles), (forward, pixels)))
        numbers = f"{flop / 1e9:>10.1f}  {bare:>12.1f}  {fed:>11.1f}  {fed / bare:>8.1%}  {fed * flop / peak:.0%}"
        print(f"{record.name:<15} {precision:<9} {numbers}", flush=True)


if __name__ == "__main__":
    main()
