"""The network of attention MIL (Ilse, Tomczak & Welling 2018), and the tiles it is fed.

    embedding   h = dropout(relu(x E))                      a tile
    attention   a = softmax over a patient's tiles of w · (tanh(h V) ∘ sigmoid(h U))
    head        ŷ = (Σ a h) B + b                           a patient, all targets

Bags are not padded: the tiles of a batch of patients are concatenated into one matrix, and sums over
a patient's tiles are segment sums.

The products with E, V and U are most of the work, and are computed in the type of the tiles: float32, or
bfloat16 where the device multiplies it faster.  Softmax, sums over tiles and the head are float32 always:
of a thousand tiles, bfloat16 would keep too little.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsibench.core import Abmil as AbmilSettings

TILES_IN_CACHE = 4096
"""Tiles that a CPU multiplies at once: of ten times as many, no layer's output is in the cache when it is needed."""


class GatedAttention(nn.Module):
    """The network: tiles of some patients, concatenated, to one prediction a patient."""

    def __init__(self, width: int, targets: int, settings: AbmilSettings) -> None:
        super().__init__()
        self.built_by = {"width": width, "targets": targets, "settings": settings}
        self.dropout = settings.dropout
        self.embed = nn.Linear(width, settings.embed)
        self.tanh = nn.Linear(settings.embed, settings.attention)
        self.gate = nn.Linear(settings.embed, settings.attention)
        self.score = nn.Linear(settings.attention, 1, bias=False)
        self.head = nn.Linear(settings.embed, targets)
        # Targets are standardised: zero is the mean of every gene, and a head of zeros predicts it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tiles: Tensor, bag: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Predictions (n, targets) and attention (tiles,), both float32.

        Parameters
        ----------
        tiles
            (tiles, width), those of all patients one after the other, in the type to multiply in.
        bag
            Position in 0 … n − 1 of each tile's patient, (tiles,).
        n
            Number of patients.
        """
        h = torch.relu(_product(self.embed, tiles))
        if self.training and self.dropout:
            h = dropout(h, self.dropout)
        gated = torch.tanh(_product(self.tanh, h).float()) * torch.sigmoid(_product(self.gate, h).float())
        attention = segment_softmax(self.score(gated).squeeze(1), bag, n)
        weighted = h.float() * attention[:, None]
        return self.head(weighted.new_zeros(n, h.shape[1]).index_add(0, bag, weighted)), attention


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer makes of `x`, multiplied in the type of `x`; its own weights stay float32."""
    return nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def dropout(h: Tensor, share: float) -> Tensor:
    """Inverted dropout, from 16 random bits an element.

    torch's own draws elements one by one, which on a CPU takes longer than the products of a narrow network.
    """
    words = torch.empty(-(-h.numel() // 4), dtype=torch.int64, device=h.device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: h.numel()].view_as(h)
    return h * (bits >= round(share * 2**16) - 2**15).to(h.dtype).div_(1 - share)


def segment_softmax(score: Tensor, bag: Tensor, n: int) -> Tensor:
    """Softmax of `score` (tiles,) within each of `n` bags."""
    top = score.new_full((n,), -torch.inf).scatter_reduce(0, bag, score.detach(), "amax")
    weight = torch.exp(score - top[bag])
    return weight / score.new_zeros(n).index_add(0, bag, weight)[bag]


@dataclass(frozen=True)
class Tiles:
    """Tiles of some patients, packed."""

    x: Tensor
    """(tiles, width), in the order of the patients."""
    start: np.ndarray
    """First tile of each patient and, last, the number of tiles, (n + 1,)."""

    @classmethod
    def pack(cls, bags: list[np.ndarray], device: torch.device, dtype: torch.dtype = torch.float32) -> "Tiles":
        """Concatenate bags."""
        x = torch.from_numpy(np.concatenate(bags)).to(device, dtype)
        return cls(x, np.cumsum([0, *map(len, bags)]))

    def parts(self, patients: np.ndarray) -> list[np.ndarray]:
        """The patients at these positions, in groups of about as many tiles as are best multiplied at once.

        On a CPU that is what its cache holds; a GPU takes them all.
        """
        tiles = int(np.diff(self.start)[patients].sum())
        wanted = -(-tiles // TILES_IN_CACHE) if self.x.device.type == "cpu" else 1
        return np.array_split(patients, min(wanted, len(patients)))

    def batch(self, patients: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """What `GatedAttention` takes, for the patients at these positions."""
        ranges = [np.arange(self.start[i], self.start[i + 1]) for i in patients]
        bag = np.repeat(np.arange(len(patients)), [len(tiles) for tiles in ranges])
        index = torch.from_numpy(np.concatenate(ranges)).to(self.x.device)
        return self.x.index_select(0, index), torch.from_numpy(bag).to(self.x.device), len(patients)


def product_type(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The type that products of tiles are computed in.

    ``auto`` is bfloat16 where the device has instructions that multiply it, and float32 elsewhere: without
    them a CPU takes thirty times as long for the same product.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch releases that cannot say what the CPU can do stay with float32.
        can = getattr(torch.cpu, "get_capabilities", dict)()
        native = torch.backends.mkldnn.is_available() and (can.get("avx512_bf16") or can.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32
