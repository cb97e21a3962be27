"""Gated attention multiple-instance learning for all genes at once, and a multilayer perceptron of the same network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from wsibench.core import Abmil as AbmilSettings
from wsibench.regression.metrics import centred_midranks
from wsibench.regression.probes.base import Arrays, Patients, Scaler, hold_out_groups
from wsibench.regression.probes.network import GatedAttention, Tiles, product_type

HELD_OUT = 0.15
"""Share of the training patients that is held out to select the epoch."""
TILES_PER_CALL = 512
"""Tiles that are predicted in one call, of as many patients as that takes."""


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
        for bags in _batches(_bags(patients, self.needs)):
            each = [network.apply(bags) for network in self.networks]
            expression.append(np.stack([y for y, _ in each]))
            ends = np.cumsum([len(bag) for bag in bags])
            attention += np.split(np.mean([a for _, a in each], axis=0), ends[:-1])
        return np.concatenate(expression, axis=1), attention

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays of every seed's network under its number, and the settings."""
        each = [network.arrays() for network in self.networks]
        arrays = {f"{i}.{name}": array for i, of_seed in enumerate(each) for name, array in of_seed.items()}
        return arrays, {"settings": self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Network:
    """A trained network with the transformations of features and targets that were fitted with it."""

    model: GatedAttention
    projection: "Projection"
    targets: "Targets"
    dtype: torch.dtype
    """Type that products of tiles are computed in."""
    curve: pd.DataFrame
    """Training curve; empty for a network that was read from a file."""

    def apply(self, bags: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Predict expression, (n, genes), and the attention of the tiles, one patient after the other."""
        device = next(self.model.parameters()).device
        projected = torch.from_numpy(self.projection.transform(np.concatenate(bags)))
        tiles = Tiles(projected.to(device, self.dtype), np.cumsum([0, *map(len, bags)]))
        with torch.inference_mode():
            predicted, attention = self.model(*tiles.batch(np.arange(len(bags))))
        return self.targets.invert(predicted.cpu().numpy()), attention.cpu().numpy()

    def arrays(self) -> Arrays:
        """Weights, projection and statistics of the targets."""
        arrays = {f"model.{name}": value.cpu().numpy() for name, value in self.model.state_dict().items()}
        arrays |= self.projection.scaler.arrays("features") | self.targets.scaler.arrays("targets")
        components = {"components": self.projection.components, "head_components": self.targets.components}
        return arrays | {name: array for name, array in components.items() if array is not None}

    @classmethod
    def restore(cls, arrays: Arrays, settings: AbmilSettings) -> "Network":
        """Rebuild a network from its `arrays()`."""
        state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("model.")}
        model = GatedAttention(state["embed.weight"].shape[1], len(state["head.bias"]), settings)
        model.load_state_dict(state)
        device = _device()
        projection = Projection(Scaler.restore(arrays, "features"), arrays.get("components"))
        targets = Targets(Scaler.restore(arrays, "targets"), arrays.get("head_components"))
        dtype = product_type(settings.precision, device)
        return cls(model.to(device).eval(), projection, targets, dtype, pd.DataFrame(columns=["epoch", "chosen"]))


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
        pca = PCA(n_components, svd_solver="covariance_eigh").fit(scaler.transform(tiles))
        # Not whitened: that would scale the many components of little variance, mostly noise, up to the
        # size of the few that differ between patients, and costs a third of the correlation.
        return cls(scaler, (pca.components_.T / np.sqrt(pca.explained_variance_.mean())).astype(np.float32))

    def transform(self, tiles: np.ndarray) -> np.ndarray:
        """Standardise and project `tiles`; float32."""
        if self.components is None:
            return self.scaler.transform(tiles)
        return (np.asarray(tiles, np.float32) - self.scaler.mean.astype(np.float32)) @ self.scaled

    @cached_property
    def scaled(self) -> np.ndarray:
        """Components divided by the scale of the features, so that a bag is centred and multiplied once."""
        return self.components * (self.scaler.varies / self.scaler.scale)[:, None].astype(np.float32)


@dataclass(frozen=True)
class Targets:
    """Standardised expression or, with ``head_components``, its principal components; fitted on training patients."""

    scaler: Scaler
    components: np.ndarray | None
    """(components, genes), orthogonal and of equal length; None for the genes themselves."""

    @classmethod
    def fit(cls, y: np.ndarray, n_components: int | None) -> "Targets":
        """Fit on expression `y` (n, genes); no PCA where it would not make the targets fewer."""
        scaler = Scaler.fit(y)
        if n_components is None or n_components >= min(y.shape) or not scaler.varies.any():
            return cls(scaler, None)
        pca = PCA(n_components, svd_solver="covariance_eigh" if y.shape[1] < len(y) else "full")
        pca.fit(scaler.transform(y))
        # One length for all, so that the loss weighs a component by its share of the genes' variance.
        length = np.sqrt(pca.explained_variance_.mean())
        return cls(scaler, (pca.components_ * length).astype(np.float32))

    def transform(self, y: np.ndarray) -> np.ndarray:
        """Transform expression `y` to targets, float32 (n, targets)."""
        z = self.scaler.transform(y)
        if self.components is None:
            return z
        return z @ (self.components / np.square(self.components).sum(axis=1, keepdims=True)).T

    def standardised(self, predicted: np.ndarray) -> np.ndarray:
        """Transform predicted targets to standardised expression (n, genes)."""
        return predicted if self.components is None else predicted @ self.components

    def invert(self, predicted: np.ndarray) -> np.ndarray:
        """Transform predicted targets to expression in the unit of the training patients', float32 (n, genes)."""
        return self.scaler.invert(self.standardised(predicted))


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
    targets = Targets.fit(y[train], settings.head_components)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        wanted = torch.from_numpy(targets.transform(y)).to(device)
        model = GatedAttention(tiles.x.shape[1], wanted.shape[1], settings).to(device)
        validation = Validation.of(tiles, targets, y, held_out)
        curve = _train(model, tiles, wanted, train, validation, settings, rng)
    return Network(model.eval(), projection, targets, dtype, curve)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _batches(bags: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Group bags, in their order, until a group has enough tiles for one call."""
    batch: list[np.ndarray] = []
    tiles = 0
    for bag in bags:
        batch.append(bag)
        tiles += len(bag)
        if tiles >= TILES_PER_CALL:
            yield batch
            batch, tiles = [], 0
    if batch:
        yield batch


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
    """Train `model` in place and restore its best epoch; returns the training curve."""
    steps = -(-len(train) // settings.batch)
    optimiser = make_optimiser(model, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    rows: list[tuple[int, float, float]] = []
    best, kept, state = -np.inf, 0, model.state_dict()
    for epoch in range(settings.epochs):
        batches = np.array_split(rng.permutation(train), steps)
        loss = train_epoch(model, tiles, wanted, batches, optimiser, schedule)
        rho = validation.rho(model)
        rows.append((epoch, loss, rho))
        if rho > best:
            best, kept, state = rho, epoch, {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    model.load_state_dict(state)
    curve = pd.DataFrame(rows, columns=["epoch", "loss", "validation_rho"])
    return curve.assign(chosen=curve["epoch"] == kept)


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
        for part in tiles.parts(patients):
            predicted = model(*tiles.batch(part))[0]
            part_loss = nn.functional.mse_loss(predicted, wanted[part]) * len(part)
            (part_loss / len(patients)).backward()
            loss += part_loss.detach()
        optimiser.step()
        schedule.step()
    return loss.item() / sum(map(len, batches))


@dataclass(frozen=True)
class Validation:
    """Patients held out of training, on whom the epoch is selected."""

    batch: tuple[Tensor, Tensor, int]
    targets: Targets
    ranks: np.ndarray
    """Ranks of their standardised expression, (n, genes)."""

    @classmethod
    def of(cls, tiles: Tiles, targets: Targets, y: np.ndarray, held_out: np.ndarray) -> "Validation":
        """Take the patients at the positions `held_out`.

        Parameters
        ----------
        tiles
            Tiles of all patients.
        targets
            Transformation of the targets.
        y
            Expression of all patients, (patients, genes).
        held_out
            Positions of the validation patients.
        """
        return cls(tiles.batch(held_out), targets, centred_midranks(targets.scaler.transform(y[held_out])))

    def rho(self, model: GatedAttention) -> float:
        """Mean gene-wise Spearman ρ; genes that do not vary among these patients count as 0."""
        with torch.inference_mode():
            predicted = model.eval()(*self.batch)[0].cpu().numpy()
        x, y = centred_midranks(self.targets.standardised(predicted)), self.ranks
        norm = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
        return float(np.divide((x * y).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0).mean())
