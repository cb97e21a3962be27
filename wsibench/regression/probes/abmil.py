"""Gated attention multiple-instance learning for all genes at once, and a multilayer perceptron of the same network.

The network is that of Ilse, Tomczak & Welling 2018:

    embedding   h = dropout(relu(x E))                      each tile
    attention   a = softmax over a patient's tiles of w · (tanh(h V) ∘ sigmoid(h U))
    head        ŷ = (Σ a h) B + b                           each patient, all targets

Bags are not padded: the tiles of a batch of patients are concatenated into one matrix, and sums over a patient's
tiles are segment sums.  The products with E, V and U are most of the work, and are computed in the type of the tiles:
float32 or bfloat16.  Softmax, sums over tiles and the head are always float32, since a sum over a thousand tiles would
lose too many digits in bfloat16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wsibench.core import Abmil as AbmilSettings
from wsibench.regression.metrics import centred_midranks
from wsibench.regression.probes.base import Arrays, Patients, Projection, Scaler, hold_out_groups

HELD_OUT = 0.15
"""Share of the training patients that is held out to select the epoch."""


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


@dataclass(frozen=True)
class Abmil:
    """Gated attention MIL: the average of several seeds, each with its own validation split."""

    settings: AbmilSettings = field(default_factory=AbmilSettings)
    needs: ClassVar[Literal["mean", "bags"]] = "bags"
    columnwise: ClassVar[bool] = False

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedAbmil":
        """Fit one network a seed on the expression `y` (n, genes)."""
        bags = _bags(patients, self.needs)
        seeds = [(seed, i) for i in range(self.settings.seeds)]
        networks = [_fit_network(bags, patients.groups, y, self.settings, each) for each in seeds]
        return FittedAbmil(networks, self.settings, self.needs)

    @classmethod
    def restore(cls, arrays: Arrays, facts: dict[str, Any]) -> "FittedAbmil":
        """Rebuild the fitted probe from its `arrays()`, on the CUDA device where there is one."""
        settings = AbmilSettings(**facts["settings"])
        networks = []
        for i in range(settings.seeds):
            of_seed = {name.removeprefix(f"{i}."): array for name, array in arrays.items() if name.startswith(f"{i}.")}
            networks.append(Network.restore(of_seed, settings))
        return FittedAbmil(networks, settings, cls.needs)


@dataclass(frozen=True)
class Mlp(Abmil):
    """Multilayer perceptron on the mean feature: attention MIL with a bag of one tile, the patient's mean.

    Embedding, head, training and selection are the same, so that the difference from attention MIL is what
    attention gains.
    """

    needs: ClassVar[Literal["mean", "bags"]] = "mean"


@dataclass(frozen=True)
class FittedAbmil:
    """Fitted networks of several seeds; predictions and attention are their means."""

    networks: list["Network"]
    settings: AbmilSettings
    needs: Literal["mean", "bags"]

    @property
    def chosen(self) -> dict[str, Any]:
        """Epoch that each seed kept, and the type that products of tiles were computed in."""
        curves = self.curves
        epochs = curves.loc[curves["chosen"], "epoch"].tolist()
        precision = str(self.networks[0].dtype).removeprefix("torch.")
        return {"epoch": float(np.median(epochs)), "epochs": epochs, "precision": precision}

    @property
    def curves(self) -> pd.DataFrame:
        """Training curves: seed, epoch, loss (of standardised targets), validation_rho, chosen."""
        return pd.concat([network.curve.assign(seed=i) for i, network in enumerate(self.networks)], ignore_index=True)

    def predict(self, patients: Patients) -> np.ndarray:
        """Predict expression, float32 (n, genes)."""
        return self.predict_seeds(patients)[0].mean(axis=0)

    def predict_seeds(self, patients: Patients) -> tuple[np.ndarray, list[np.ndarray]]:
        """Predict with every seed, (seeds, n, genes), and average the attention of each patient's tiles.

        All tiles are used, however many were trained on, and every bag is read once.
        """
        expression, attention = [], []
        for bag in _bags(patients, self.needs):
            each = [network.apply(bag) for network in self.networks]
            expression.append(np.stack([y for y, _ in each]))
            attention.append(np.mean([a for _, a in each], axis=0))
        return np.stack(expression, axis=1), attention

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays of every seed's network under its number, and the settings."""
        each = [network.arrays() for network in self.networks]
        arrays = {f"{i}.{name}": array for i, of_seed in enumerate(each) for name, array in of_seed.items()}
        return arrays, {"settings": self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Network:
    """A trained network with the transformations of features and targets that were fitted with it."""

    model: GatedAttention
    projection: Projection
    targets: Scaler
    dtype: torch.dtype
    """Type that products of tiles are computed in."""
    curve: pd.DataFrame
    """Training curve; empty for a network that was read from a file."""

    def apply(self, bag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the expression (genes,) of one patient, and the attention of the tiles."""
        tiles = Tiles.pack([self.projection.transform(bag)], next(self.model.parameters()).device, self.dtype)
        with torch.inference_mode():
            predicted, attention = self.model(*tiles.batch(np.array([0])))
        return self.targets.invert(predicted.cpu().numpy()[0]), attention.cpu().numpy()

    def arrays(self) -> Arrays:
        """Weights, projection and statistics of the targets."""
        arrays = {f"model.{name}": value.cpu().numpy() for name, value in self.model.state_dict().items()}
        arrays |= self.projection.scaler.arrays("features") | self.targets.arrays("targets")
        components = self.projection.components
        return arrays if components is None else arrays | {"components": components}

    @classmethod
    def restore(cls, arrays: Arrays, settings: AbmilSettings) -> "Network":
        """Rebuild a network from its `arrays()`."""
        state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("model.")}
        model = GatedAttention(state["embed.weight"].shape[1], len(state["head.bias"]), settings)
        model.load_state_dict(state)
        device = _device()
        projection = Projection(Scaler.restore(arrays, "features"), arrays.get("components"))
        dtype, curve = product_type(settings.precision, device), pd.DataFrame(columns=["epoch", "chosen"])
        return cls(model.to(device).eval(), projection, Scaler.restore(arrays, "targets"), dtype, curve)


def _bags(patients: Patients, needs: Literal["mean", "bags"]) -> Sequence[np.ndarray]:
    return patients.bags if needs == "bags" else list(patients.mean[:, None, :])


def _fit_network(
    bags: Sequence[np.ndarray], groups: np.ndarray, y: np.ndarray, settings: AbmilSettings, seed: tuple[int, int]
) -> Network:
    rng = np.random.default_rng(seed)
    train, held_out = hold_out_groups(groups, HELD_OUT, int(rng.integers(2**31)))
    bags = [_sample(bag, settings.tiles_train, rng) for bag in bags]
    projection = Projection.fit(np.concatenate([bags[i] for i in train]), settings.pca)
    device = _device()
    dtype = product_type(settings.precision, device)
    tiles = Tiles.pack([projection.transform(bag) for bag in bags], device, dtype)
    targets = Scaler.fit(y[train])
    z = targets.transform(y)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        model = GatedAttention(tiles.x.shape[1], z.shape[1], settings).to(device)
        curve = _train(model, tiles, z, train, held_out, settings, rng)
    return Network(model.eval(), projection, targets, dtype, curve)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _sample(bag: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(bag) <= most:
        return np.asarray(bag, np.float32)
    return np.asarray(bag[np.sort(rng.choice(len(bag), most, replace=False))], np.float32)


def _train(
    model: GatedAttention,
    tiles: Tiles,
    z: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    settings: AbmilSettings,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Train `model` in place and restore its best epoch; returns the training curve."""
    wanted = torch.from_numpy(z).to(tiles.x.device)
    validation, ranks = tiles.batch(held_out), centred_midranks(z[held_out])
    steps = -(-len(train) // settings.batch)
    optimiser = make_optimiser(model, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    rows: list[tuple[int, float, float]] = []
    best, kept, state = -np.inf, 0, model.state_dict()
    for epoch in range(settings.epochs):
        batches = np.array_split(rng.permutation(train), steps)
        loss = train_epoch(model, tiles, wanted, batches, optimiser, schedule)
        with torch.inference_mode():
            rho = _mean_spearman(model.eval()(*validation)[0].cpu().numpy(), ranks)
        rows.append((epoch, loss, rho))
        if rho > best:
            best, kept, state = rho, epoch, {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    model.load_state_dict(state)
    curve = pd.DataFrame(rows, columns=["epoch", "loss", "validation_rho"])
    return curve.assign(chosen=curve["epoch"] == kept)


def _mean_spearman(predicted: np.ndarray, ranks: np.ndarray) -> float:
    """Mean gene-wise Spearman ρ with measured ranks; genes that do not vary among these patients count as 0."""
    x = centred_midranks(predicted)
    norm = np.sqrt((x * x).sum(axis=0) * (ranks * ranks).sum(axis=0))
    return float(np.divide((x * ranks).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0).mean())


def make_optimiser(model: nn.Module, settings: AbmilSettings) -> torch.optim.Optimizer:
    """Make a fused AdamW: with thousands of genes a step of the plain one is mostly its own overhead."""
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def train_epoch(
    model: GatedAttention,
    tiles: Tiles,
    wanted: Tensor,
    batches: list[np.ndarray],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Train for one epoch, a step for each batch.

    Parameters
    ----------
    model
        Network, trained in place.
    tiles
        Tiles of all patients.
    wanted
        Targets, (patients, targets).
    batches
        Positions of the patients of each batch.
    optimiser, schedule
        Optimiser of the model's parameters, and the schedule of its learning rate.

    Returns
    -------
    float
        Mean loss over patients.
    """
    model.train()
    loss = torch.zeros((), device=wanted.device)
    for patients in batches:
        optimiser.zero_grad()
        missed = nn.functional.mse_loss(model(*tiles.batch(patients))[0], wanted[patients])
        missed.backward()
        loss += missed.detach() * len(patients)
        optimiser.step()
        schedule.step()
    return loss.item() / sum(map(len, batches))
