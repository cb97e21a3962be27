"""Gated attention network of attention MIL (Ilse, Tomczak & Welling 2018), and the tiles it is trained on.

    embedding   h = dropout(relu(x E))                      each tile
    attention   a = softmax over a patient's tiles of w · (tanh(h V) ∘ sigmoid(h U))
    head        ŷ = (Σ a h) B + b                           each patient, all targets

Bags are not padded: the tiles of a batch of patients are concatenated into one matrix, and sums over
a patient's tiles are segment sums.

The products with E, V and U are most of the work, and are computed in the type of the tiles: float32, or
bfloat16 where the device multiplies it faster.  Softmax, sums over tiles and the head are always float32,
since a sum over a thousand tiles would lose too many digits in bfloat16.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsibench.core import Abmil as AbmilSettings

TILES_IN_CACHE = 4096
"""Tiles that a CPU multiplies at once; with ten times as many, the layers' outputs no longer fit the cache."""


class GatedAttention(nn.Module):
    """Network from the concatenated tiles of some patients to one prediction a patient.

    Parameters
    ----------
    width
        Number of features of a tile.
    targets
        Number of targets.
    settings
        Sizes of the layers and dropout.
    """

    def __init__(self, width: int, targets: int, settings: AbmilSettings) -> None:
        super().__init__()
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
        """Predict some patients.

        Parameters
        ----------
        tiles
            (tiles, width), one patient after the other, in the type to multiply in.
        bag
            Position in 0 … n − 1 of each tile's patient, (tiles,).
        n
            Number of patients.

        Returns
        -------
        predictions, attention
            float32 (n, targets) and (tiles,).
        """
        h = torch.relu(_linear(self.embed, tiles))
        if self.training and self.dropout:
            h = dropout(h, self.dropout)
        gated = torch.tanh(_linear(self.tanh, h).float()) * torch.sigmoid(_linear(self.gate, h).float())
        attention = segment_softmax(self.score(gated).squeeze(1), bag, n)
        weighted = h.float() * attention[:, None]
        return self.head(weighted.new_zeros(n, h.shape[1]).index_add(0, bag, weighted)), attention


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer in the type of `x`; its own weights stay float32."""
    return nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def dropout(h: Tensor, share: float) -> Tensor:
    """Inverted dropout from 16 random bits an element.

    torch's own draws one element at a time, which on a CPU takes longer than the products of a narrow network.
    """
    words = torch.empty(-(-h.numel() // 4), dtype=torch.int64, device=h.device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: h.numel()].view_as(h)
    return h * (bits >= round(share * 2**16) - 2**15).to(h.dtype).div_(1 - share)


def segment_softmax(score: Tensor, bag: Tensor, n: int) -> Tensor:
    """Softmax within each bag.

    Parameters
    ----------
    score
        (tiles,).
    bag
        Position in 0 … n − 1 of each tile's bag, (tiles,).
    n
        Number of bags.
    """
    largest = score.new_full((n,), -torch.inf).scatter_reduce(0, bag, score.detach(), "amax")
    weight = torch.exp(score - largest[bag])
    return weight / score.new_zeros(n).index_add(0, bag, weight)[bag]


@dataclass(frozen=True)
class Tiles:
    """Concatenated tiles of some patients."""

    x: Tensor
    """(tiles, width), in the order of the patients."""
    start: np.ndarray
    """Position of each patient's first tile and, last, the number of tiles, (n + 1,)."""

    @classmethod
    def pack(cls, bags: list[np.ndarray], device: torch.device, dtype: torch.dtype = torch.float32) -> "Tiles":
        """Concatenate bags.

        Parameters
        ----------
        bags
            (tiles, width) of each patient.
        device, dtype
            Device and type of the tensor.
        """
        x = torch.from_numpy(np.concatenate(bags)).to(device, dtype)
        return cls(x, np.cumsum([0, *map(len, bags)]))

    def parts(self, patients: np.ndarray) -> list[np.ndarray]:
        """Divide the patients at these positions into groups of about as many tiles as the device is fastest with.

        On a CPU those that fit its cache; a GPU takes them all.
        """
        tiles = int(np.diff(self.start)[patients].sum())
        wanted = -(-tiles // TILES_IN_CACHE) if self.x.device.type == "cpu" else 1
        return np.array_split(patients, min(wanted, len(patients)))

    def batch(self, patients: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """Arguments of `GatedAttention` for the patients at these positions."""
        ranges = [np.arange(self.start[i], self.start[i + 1]) for i in patients]
        bag = np.repeat(np.arange(len(patients)), [len(tiles) for tiles in ranges])
        index = torch.from_numpy(np.concatenate(ranges)).to(self.x.device)
        return self.x.index_select(0, index), torch.from_numpy(bag).to(self.x.device), len(patients)


def product_type(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """Choose the type that products of tiles are computed in.

    ``auto`` is bfloat16 where the device has instructions that multiply it, and float32 elsewhere: without
    them a CPU takes thirty times as long for the same product.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch releases that cannot report the CPU's instructions stay with float32.
        has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = torch.backends.mkldnn.is_available() and (has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32
