"""What every probe offers, and what several of them need: scaling and grouped inner folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Patients:
    """What a probe may see of some patients: never their expression, never other patients.

    Attributes
    ----------
    ids
        Patient identifiers, (n,).
    groups
        Labels that inner folds never split, (n,): sites in the preserved-site arm, else patients.
    mean
        Mean feature over all tiles of a patient, float32 (n, d); None for probes that need bags.
    bags
        Tile features of each patient, float16 or float32 (tiles, d); may read from disk when indexed.
    """

    ids: np.ndarray
    groups: np.ndarray
    mean: np.ndarray | None = None
    bags: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> "Patients":
        """The patients at the positions `index`, in that order."""
        mean = None if self.mean is None else self.mean[index]
        bags = None if self.bags is None else Taken(self.bags, np.asarray(index))
        return replace(self, ids=self.ids[index], groups=self.groups[index], mean=mean, bags=bags)


@dataclass(frozen=True)
class Taken(Sequence):
    """Some items of a sequence, fetched when they are asked for: bags of a cohort may exceed memory."""

    items: Sequence[np.ndarray]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.items[self.index[position]]


Arrays = dict[str, np.ndarray]
"""Arrays by name, as a safetensors file holds them."""


class Fitted(Protocol):
    """A probe after its training patients."""

    chosen: dict[str, Any]
    """What was selected inside the training fold; JSON-able."""

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes), in the unit of the training targets."""
        ...

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """All that a prediction needs: arrays, and JSON-able facts beside them.

        They hold no patient's features or expression, unless the probe's `Offer` says that it keeps them.
        """
        ...

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "Fitted":
        """The fitted probe that `arrays` was asked of; predicts the same to rounding."""
        ...


@runtime_checkable
class Seeded(Fitted, Protocol):
    """A fitted probe that averages networks of several seeds, and can tell them apart."""

    def predict_seeds(self, patients: Patients) -> np.ndarray:
        """Predicted expression of every seed, float32 (seeds, n, genes); their mean is the prediction."""
        ...


@runtime_checkable
class Attends(Seeded, Protocol):
    """A fitted probe that weighs a patient's tiles, and that trained by epochs."""

    curves: pd.DataFrame
    """seed, epoch, loss, validation_rho, chosen."""

    def predict_with_attention(self, patients: Patients) -> tuple[np.ndarray, list[np.ndarray]]:
        """What every seed predicts, and the weight of every tile, from one reading of the bags.

        Returns
        -------
        expression
            As of `predict_seeds`, float32 (seeds, n, genes).
        attention
            Mean over seeds, float32 (tiles,) a patient, of sum 1.
        """
        ...


class Probe(Protocol):
    """A regression from features to all genes at once; all it selects, it selects inside its training patients."""

    needs: ClassVar[Literal["mean", "bags"]]
    columnwise: ClassVar[bool]
    """Whether each gene is fitted by itself, so that permuted targets can ride along as further columns."""

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int) -> Fitted:
        """Fit on the expression `y` (n, genes) of the training patients."""
        ...


@dataclass(frozen=True)
class Scaler:
    """Standardisation with training statistics; what does not vary in training becomes 0, never NaN."""

    mean: np.ndarray
    scale: np.ndarray
    """Training SD; 1 where it is 0, so that inverting gives the training mean back exactly."""
    varies: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> "Scaler":
        """Column statistics of `values`, (n, columns), accumulated in float64."""
        mean = values.mean(axis=0, dtype=np.float64)
        sd = values.std(axis=0, dtype=np.float64)
        # Below the resolution of float32 an SD is rounding noise, and dividing by it would make it a signal.
        varies = sd > 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
        return cls(mean, np.where(varies, sd, 1.0), varies)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Standardised `values`, float32."""
        return (((values - self.mean) / self.scale) * self.varies).astype(np.float32)

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Back to the unit of the training values, float32; the training mean where nothing varied."""
        return (values * (self.scale * self.varies) + self.mean).astype(np.float32)

    def arrays(self, name: str) -> Arrays:
        """Its statistics, as ``<name>.mean``, ``.scale`` and ``.varies``."""
        return {f"{name}.mean": self.mean, f"{name}.scale": self.scale, f"{name}.varies": self.varies}

    @classmethod
    def from_arrays(cls, arrays: Arrays, name: str) -> "Scaler":
        """The scaler whose statistics were named `name`."""
        return cls(*(arrays[f"{name}.{part}"] for part in ("mean", "scale", "varies")))


def inner_folds(groups: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inner (train, validation) positions that keep groups whole, in folds of about equal size.

    With fewer than two groups (a training fold from a single site) the patients themselves are divided:
    then there is no site left to preserve.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    n = min(n, len(np.unique(groups)))
    return list(GroupKFold(n).split(np.zeros(len(groups)), groups=groups))


def hold_out_groups(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner (train, validation) positions: random whole groups until about `share` of the patients is held out.

    A group that would take validation past twice its share is passed over, so that one large site does
    not become the whole of it; where every group is that large, the smallest is held out.
    """
    if len(np.unique(groups)) < 3:
        groups = np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    wanted = max(1, round(share * len(groups)))
    held: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(names)):
        total = sizes[held].sum()
        if total < wanted and total + sizes[index] <= 2 * wanted:
            held.append(index)
    validation = np.isin(groups, names[held or [sizes.argmin()]])
    return np.flatnonzero(~validation), np.flatnonzero(validation)
