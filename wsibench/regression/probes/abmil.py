"""Gated attention multiple-instance learning for all genes at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wsibench.core import Abmil as AbmilSettings
from wsibench.regression.metrics import centred_midranks
from wsibench.regression.probes.base import Arrays, Patients, Scaler, hold_out_groups
from wsibench.regression.probes.network import GatedAttention, Tiles, product_type

HELD_OUT = 0.15
"""Share of the training patients that selects the epoch."""
TILES_AT_ONCE = 512
"""Tiles that are predicted in one call, of as many patients as it takes."""


@dataclass(frozen=True)
class Abmil:
    """Gated attention MIL; several seeds, each with a validation split of its own, averaged."""

    settings: AbmilSettings
    needs: ClassVar[Literal["bags"]] = "bags"
    columnwise: ClassVar[bool] = False

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedAbmil":
        """Fit one network a seed."""
        return FittedAbmil([_fit_network(patients, y, self.settings, (seed, i)) for i in range(self.settings.seeds)])


@dataclass(frozen=True)
class FittedAbmil:
    """Networks of several seeds; predictions and attention are their means."""

    networks: list["Network"]

    @property
    def chosen(self) -> dict[str, Any]:
        """The epoch that each seed kept, and the type that products of tiles were computed in."""
        curves = self.curves
        epochs = curves.loc[curves["chosen"], "epoch"].tolist()
        precision = str(self.networks[0].dtype).removeprefix("torch.")
        return {"epoch": float(np.median(epochs)), "epochs": epochs, "precision": precision}

    @property
    def curves(self) -> pd.DataFrame:
        """Training of every seed: seed, epoch, loss (of standardised targets), validation_rho, chosen."""
        return pd.concat([network.curve.assign(seed=i) for i, network in enumerate(self.networks)], ignore_index=True)

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        return self.predict_seeds(patients).mean(axis=0)

    def predict_seeds(self, patients: Patients) -> np.ndarray:
        """Predicted expression of every seed, float32 (seeds, n, genes)."""
        return self.predict_with_attention(patients)[0]

    def attention(self, patients: Patients) -> list[np.ndarray]:
        """Attention of every tile, float32 (tiles,) a patient; sums to 1 over a patient's tiles."""
        return self.predict_with_attention(patients)[1]

    def predict_with_attention(self, patients: Patients) -> tuple[np.ndarray, list[np.ndarray]]:
        """What every seed predicts, (seeds, n, genes), and the mean attention, reading every bag once.

        All tiles count, however many were trained on.
        """
        expression, attention = [], []
        for bags in _together(patients.bags):
            each = [network.apply(bags) for network in self.networks]
            expression.append(np.stack([y for y, _ in each]))
            ends = np.cumsum([len(bag) for bag in bags])
            attention += np.split(np.mean([a for _, a in each], axis=0), ends[:-1])
        return np.concatenate(expression, axis=1), attention

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Those of every seed's network under its number, and what the networks were built by."""
        each = [network.arrays() for network in self.networks]
        arrays = {f"{i}.{name}": array for i, (found, _) in enumerate(each) for name, array in found.items()}
        return arrays, {"networks": [facts for _, facts in each]}

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "FittedAbmil":
        """What `arrays` was asked of, on the CUDA device where there is one."""
        networks = []
        for i, of_one in enumerate(facts["networks"]):
            mine = {name.removeprefix(f"{i}."): array for name, array in arrays.items() if name.startswith(f"{i}.")}
            networks.append(Network.from_arrays(mine, of_one))
        return cls(networks)


@dataclass(frozen=True)
class Network:
    """One trained network with all that was fitted around it."""

    model: GatedAttention
    projection: "Projection"
    targets: "Targets"
    dtype: torch.dtype
    """That products of tiles are computed in."""
    curve: pd.DataFrame

    def apply(self, bags: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Expression of some patients, (n, genes), and attention of their tiles one patient after the other."""
        device = next(self.model.parameters()).device
        projected = torch.from_numpy(self.projection.transform(np.concatenate(bags)))
        tiles = Tiles(projected.to(device, self.dtype), np.cumsum([0, *map(len, bags)]))
        with torch.inference_mode():
            predicted, attention = self.model(*tiles.batch(np.arange(len(bags))))
        return self.targets.invert(predicted.cpu().numpy()), attention.cpu().numpy()

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Weights, projection, statistics of the targets and curve; what the network was built by beside them."""
        arrays = {f"model.{name}": value.cpu().numpy() for name, value in self.model.state_dict().items()}
        arrays |= self.projection.scaler.arrays("features") | self.targets.scaler.arrays("targets")
        arrays |= {f"curve.{column}": self.curve[column].to_numpy() for column in self.curve}
        if self.projection.components is not None:
            arrays["components"] = self.projection.components
        if self.targets.components is not None:
            arrays["head_components"] = self.targets.components
        built_by = self.model.built_by
        return arrays, built_by | {"settings": built_by["settings"].model_dump(mode="json")}

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "Network":
        """What `arrays` was asked of."""
        state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("model.")}
        settings, device = AbmilSettings(**facts["settings"]), _device()
        model = GatedAttention(**facts | {"settings": settings})
        model.load_state_dict(state)
        projection = Projection(Scaler.from_arrays(arrays, "features"), arrays.get("components"))
        curve = pd.DataFrame({name[6:]: value for name, value in arrays.items() if name.startswith("curve.")})
        targets = Targets(Scaler.from_arrays(arrays, "targets"), arrays.get("head_components"))
        return cls(model.to(device).eval(), projection, targets, product_type(settings.precision, device), curve)


@dataclass(frozen=True)
class Projection:
    """Standardisation and, for wide features, PCA; fitted on training tiles."""

    scaler: Scaler
    components: np.ndarray | None

    @classmethod
    def fit(cls, tiles: np.ndarray, n_components: int | None) -> "Projection":
        """Fit on `tiles` (tiles, width); no PCA where it would not make the features narrower."""
        scaler = Scaler.fit(tiles)
        if n_components is None or n_components >= min(tiles.shape):
            return cls(scaler, None)
        from sklearn.decomposition import PCA

        pca = PCA(n_components, svd_solver="covariance_eigh").fit(scaler.transform(tiles))
        # Not whitened: that would blow the many components of little variance, noise for the most part,
        # up to the size of the few that tell patients apart, and it costs a third of the correlation.
        return cls(scaler, (pca.components_.T / np.sqrt(pca.explained_variance_.mean())).astype(np.float32))

    def transform(self, tiles: np.ndarray) -> np.ndarray:
        """What the network sees of `tiles`, float32."""
        if self.components is None:
            return self.scaler.transform(tiles)
        return (np.asarray(tiles, np.float32) - self.scaler.mean.astype(np.float32)) @ self.scaled

    @cached_property
    def scaled(self) -> np.ndarray:
        """The components with the scale gone into them: a bag is centred and multiplied, and nothing else."""
        return self.components * (self.scaler.varies / self.scaler.scale)[:, None].astype(np.float32)


@dataclass(frozen=True)
class Targets:
    """What a network is trained to predict: standardised expression or, where asked for, principal components of it.

    Fitted on the patients that the network trains on.
    """

    scaler: Scaler
    components: np.ndarray | None
    """(components, genes), orthogonal and of equal length; None for the genes themselves."""

    @classmethod
    def fit(cls, y: np.ndarray, n_components: int | None) -> "Targets":
        """Fit on expression `y` (n, genes); no PCA where it would not make the targets fewer."""
        scaler = Scaler.fit(y)
        if n_components is None or n_components >= min(y.shape) or not scaler.varies.any():
            return cls(scaler, None)
        from sklearn.decomposition import PCA

        pca = PCA(n_components, svd_solver="covariance_eigh" if y.shape[1] < len(y) else "full")
        pca.fit(scaler.transform(y))
        # One length for all: a component weighs in the loss as much as it does in the genes.
        length = np.sqrt(pca.explained_variance_.mean())
        return cls(scaler, (pca.components_ * length).astype(np.float32))

    def transform(self, y: np.ndarray) -> np.ndarray:
        """Targets of expression `y`, float32 (n, targets)."""
        z = self.scaler.transform(y)
        if self.components is None:
            return z
        return z @ (self.components / np.square(self.components).sum(axis=1, keepdims=True)).T

    def standardised(self, predicted: np.ndarray) -> np.ndarray:
        """Standardised expression (n, genes) that predicted targets stand for."""
        return predicted if self.components is None else predicted @ self.components

    def invert(self, predicted: np.ndarray) -> np.ndarray:
        """Expression that predicted targets stand for, in the unit of the training patients', float32 (n, genes)."""
        return self.scaler.invert(self.standardised(predicted))


def _fit_network(patients: Patients, y: np.ndarray, settings: AbmilSettings, seed: tuple[int, int]) -> Network:
    rng = np.random.default_rng(seed)
    train, held = hold_out_groups(patients.groups, HELD_OUT, int(rng.integers(2**31)))
    bags = [_sample(bag, settings.tiles_train, rng) for bag in patients.bags]
    projection = Projection.fit(np.concatenate([bags[i] for i in train]), settings.pca)
    device = _device()
    dtype = product_type(settings.precision, device)
    tiles = Tiles.pack([projection.transform(bag) for bag in bags], device, dtype)
    targets = Targets.fit(y[train], settings.head_components)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        wanted = torch.from_numpy(targets.transform(y)).to(device)
        model = GatedAttention(tiles.x.shape[1], wanted.shape[1], settings).to(device)
        validation = Validation.of(tiles, targets, y, held)
        curve = _train(model, tiles, wanted, train, validation, settings, rng)
    return Network(model.eval(), projection, targets, dtype, curve)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _together(bags: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The bags in their order, as many at once as there are tiles for a product to be worth its call."""
    waiting: list[np.ndarray] = []
    tiles = 0
    for bag in bags:
        waiting.append(bag)
        tiles += len(bag)
        if tiles >= TILES_AT_ONCE:
            yield waiting
            waiting, tiles = [], 0
    if waiting:
        yield waiting


def _sample(bag: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(bag) <= most:
        return np.asarray(bag, np.float32)
    return np.asarray(bag[np.sort(rng.choice(len(bag), most, replace=False))], np.float32)


def _train(
    model: GatedAttention,
    tiles: Tiles,
    wanted: Tensor,
    train: np.ndarray,
    validation: "Validation",
    settings: AbmilSettings,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Train `model` in place and leave it as it was at its best epoch; returns the curve."""
    steps = -(-len(train) // settings.batch)
    optimiser = optimiser_of(model, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    rows: list[tuple[int, float, float]] = []
    best, state = -np.inf, model.state_dict()
    for epoch in range(settings.epochs):
        batches = np.array_split(rng.permutation(train), steps)
        loss = train_epoch(model, tiles, wanted, batches, optimiser, schedule)
        rho = validation.rho(model)
        rows.append((epoch, loss, rho))
        if rho > best:
            best, kept, state = rho, epoch, {k: v.clone() for k, v in model.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    model.load_state_dict(state)
    curve = pd.DataFrame(rows, columns=["epoch", "loss", "validation_rho"])
    return curve.assign(chosen=curve["epoch"] == kept)


def optimiser_of(model: nn.Module, settings: AbmilSettings) -> torch.optim.Optimizer:
    """AdamW, a step of all parameters in one pass: with thousands of genes a step is otherwise mostly AdamW."""
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def train_epoch(
    model: GatedAttention,
    tiles: Tiles,
    wanted: Tensor,
    batches: list[np.ndarray],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """A step for each batch of patients; returns the loss, averaged over them."""
    model.train()
    loss = torch.zeros((), device=wanted.device)
    for patients in batches:
        optimiser.zero_grad()
        for part in tiles.parts(patients):
            predicted = model(*tiles.batch(part))[0]
            missed = nn.functional.mse_loss(predicted, wanted[part]) * len(part)
            (missed / len(patients)).backward()
            loss += missed.detach()
        optimiser.step()
        schedule.step()
    return loss.item() / sum(map(len, batches))


@dataclass(frozen=True)
class Validation:
    """The patients held out of training, who select the epoch."""

    batch: tuple[Tensor, Tensor, int]
    targets: Targets
    ranks: np.ndarray
    """Of their standardised expression, (n, genes)."""

    @classmethod
    def of(cls, tiles: Tiles, targets: Targets, y: np.ndarray, held: np.ndarray) -> "Validation":
        """The patients at the positions `held`, with expression `y` (all patients, genes)."""
        return cls(tiles.batch(held), targets, centred_midranks(targets.scaler.transform(y[held])))

    def rho(self, model: GatedAttention) -> float:
        """Mean gene-wise Spearman ρ; genes that do not vary among these patients count as 0."""
        with torch.inference_mode():
            predicted = model.eval()(*self.batch)[0].cpu().numpy()
        x, y = centred_midranks(self.targets.standardised(predicted)), self.ranks
        norm = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
        return float(np.divide((x * y).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0).mean())
