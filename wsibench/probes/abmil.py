"""Gated attention multiple-instance learning (Ilse, Tomczak & Welling 2018) for all genes at once.

    embedding   h = dropout(relu(x E))                      a tile
    attention   a = softmax over a patient's tiles of w · (tanh(h V) ∘ sigmoid(h U))
    head        ŷ = (Σ a h) B + b                           a patient, all genes

Bags are not padded: the tiles of a batch of patients are concatenated into one matrix, and sums over
a patient's tiles are segment sums.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wsibench.probes.base import Arrays, Patients, Scaler, hold_out_groups
from wsibench.scores import centred_midranks
from wsibench.sections import Abmil as AbmilSettings

HELD_OUT = 0.15
"""Share of the training patients that selects the epoch."""


class GatedAttention(nn.Module):
    """The network: tiles of some patients, concatenated, to one prediction a patient."""

    def __init__(self, width: int, genes: int, settings: AbmilSettings) -> None:
        super().__init__()
        self.built_by = {"width": width, "genes": genes, "settings": settings}
        self.embed = nn.Sequential(nn.Linear(width, settings.embed), nn.ReLU(), nn.Dropout(settings.dropout))
        self.tanh = nn.Linear(settings.embed, settings.attention)
        self.gate = nn.Linear(settings.embed, settings.attention)
        self.score = nn.Linear(settings.attention, 1, bias=False)
        self.head = nn.Linear(settings.embed, genes)
        # Targets are standardised: zero is the mean of every gene, and a head of zeros predicts it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tiles: Tensor, bag: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Predictions (n, genes) and attention (tiles,).

        Parameters
        ----------
        tiles
            (tiles, width), those of all patients one after the other.
        bag
            Position in 0 … n − 1 of each tile's patient, (tiles,).
        n
            Number of patients.
        """
        h = self.embed(tiles)
        score = self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h))).squeeze(1)
        attention = segment_softmax(score, bag, n)
        pooled = h.new_zeros(n, h.shape[1]).index_add(0, bag, h * attention[:, None])
        return self.head(pooled), attention


def segment_softmax(score: Tensor, bag: Tensor, n: int) -> Tensor:
    """Softmax of `score` (tiles,) within each of `n` bags."""
    top = score.new_full((n,), -torch.inf).scatter_reduce(0, bag, score.detach(), "amax")
    weight = torch.exp(score - top[bag])
    return weight / score.new_zeros(n).index_add(0, bag, weight)[bag]


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
        """The epoch that each seed kept."""
        curves = self.curves
        epochs = curves.loc[curves["chosen"], "epoch"].tolist()
        return {"epoch": float(np.median(epochs)), "epochs": epochs}

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
        for bag in patients.bags:
            each = [network.apply(bag) for network in self.networks]
            expression.append(np.stack([y for y, _ in each]))
            attention.append(np.mean([a for _, a in each], axis=0))
        return np.stack(expression, axis=1), attention

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
    targets: Scaler
    curve: pd.DataFrame

    def apply(self, bag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expression (genes,) and attention (tiles,) of one patient."""
        tiles = Tiles.pack([self.projection.transform(bag)], next(self.model.parameters()).device)
        with torch.inference_mode():
            predicted, attention = self.model(*tiles.batch(np.array([0])))
        return self.targets.invert(predicted.cpu().numpy()[0]), attention.cpu().numpy()

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Weights, projection, statistics of the targets and curve; what the network was built by beside them."""
        arrays = {f"model.{name}": value.cpu().numpy() for name, value in self.model.state_dict().items()}
        arrays |= self.projection.scaler.arrays("features") | self.targets.arrays("targets")
        arrays |= {f"curve.{column}": self.curve[column].to_numpy() for column in self.curve}
        if self.projection.components is not None:
            arrays["components"] = self.projection.components
        built_by = self.model.built_by
        return arrays, built_by | {"settings": built_by["settings"].model_dump(mode="json")}

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "Network":
        """What `arrays` was asked of."""
        state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("model.")}
        model = GatedAttention(**facts | {"settings": AbmilSettings(**facts["settings"])})
        model.load_state_dict(state)
        projection = Projection(Scaler.from_arrays(arrays, "features"), arrays.get("components"))
        curve = pd.DataFrame({name[6:]: value for name, value in arrays.items() if name.startswith("curve.")})
        return cls(model.to(_device()).eval(), projection, Scaler.from_arrays(arrays, "targets"), curve)


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
        z = self.scaler.transform(tiles)
        return z if self.components is None else z @ self.components


@dataclass(frozen=True)
class Tiles:
    """Tiles of some patients, packed."""

    x: Tensor
    """(tiles, width), in the order of the patients."""
    start: np.ndarray
    """First tile of each patient and, last, the number of tiles, (n + 1,)."""

    @classmethod
    def pack(cls, bags: list[np.ndarray], device: torch.device) -> "Tiles":
        """Concatenate bags."""
        return cls(torch.from_numpy(np.concatenate(bags)).to(device), np.cumsum([0, *map(len, bags)]))

    def batch(self, patients: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """What `GatedAttention` takes, for the patients at these positions."""
        ranges = [np.arange(self.start[i], self.start[i + 1]) for i in patients]
        bag = np.repeat(np.arange(len(patients)), [len(tiles) for tiles in ranges])
        index = torch.from_numpy(np.concatenate(ranges)).to(self.x.device)
        return self.x[index], torch.from_numpy(bag).to(self.x.device), len(patients)


def _fit_network(patients: Patients, y: np.ndarray, settings: AbmilSettings, seed: tuple[int, int]) -> Network:
    rng = np.random.default_rng(seed)
    train, held = hold_out_groups(patients.groups, HELD_OUT, int(rng.integers(2**31)))
    bags = [_sample(bag, settings.tiles_train, rng) for bag in patients.bags]
    projection = Projection.fit(np.concatenate([bags[i] for i in train]), settings.pca)
    device = _device()
    tiles = Tiles.pack([projection.transform(bag) for bag in bags], device)
    targets = Scaler.fit(y[train])
    z = torch.from_numpy(targets.transform(y)).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        model = GatedAttention(tiles.x.shape[1], y.shape[1], settings).to(device)
        curve = _train(model, tiles, z, train, held, settings, rng)
    return Network(model.eval(), projection, targets, curve)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _sample(bag: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(bag) <= most:
        return np.asarray(bag, np.float32)
    return np.asarray(bag[np.sort(rng.choice(len(bag), most, replace=False))], np.float32)


def _train(
    model: GatedAttention,
    tiles: Tiles,
    z: Tensor,
    train: np.ndarray,
    held: np.ndarray,
    settings: AbmilSettings,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Train `model` in place and leave it as it was at its best epoch; returns the curve."""
    steps = -(-len(train) // settings.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    rows: list[tuple[int, float, float]] = []
    best, state = -np.inf, model.state_dict()
    for epoch in range(settings.epochs):
        loss = 0.0
        model.train()
        for patients in np.array_split(rng.permutation(train), steps):
            missed = nn.functional.mse_loss(model(*tiles.batch(patients))[0], z[patients])
            optimiser.zero_grad()
            missed.backward()
            optimiser.step()
            schedule.step()
            loss += missed.item() * len(patients) / len(train)
        rho = _validation_rho(model.eval(), tiles, z, held)
        rows.append((epoch, loss, rho))
        if rho > best:
            best, kept, state = rho, epoch, {k: v.clone() for k, v in model.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    model.load_state_dict(state)
    curve = pd.DataFrame(rows, columns=["epoch", "loss", "validation_rho"])
    return curve.assign(chosen=curve["epoch"] == kept)


def _validation_rho(model: GatedAttention, tiles: Tiles, z: Tensor, held: np.ndarray) -> float:
    """Mean gene-wise Spearman ρ of the patients held out; genes that do not vary among them count as 0."""
    with torch.inference_mode():
        predicted = model(*tiles.batch(held))[0]
    x, y = centred_midranks(predicted.cpu().numpy()), centred_midranks(z[held].cpu().numpy())
    norm = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return float(np.divide((x * y).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0).mean())
