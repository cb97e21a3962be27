"""Interface of the probes, and what they are made of: scaling, projection and grouped inner folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd

Arrays = dict[str, np.ndarray]
"""Arrays by name, as a safetensors file holds them."""


@dataclass(frozen=True)
class Patients:
    """Features of some patients: all that a probe is given of them besides the targets it is fitted on.

    Attributes
    ----------
    ids
        Patient identifiers, text (n,).
    groups
        Labels that inner folds never split, text (n,): sites in the preserved-site arm, else patients.
    mean
        Mean feature over all tiles of a patient, float32 (n, d); None for probes that need bags.
    bags
        Tile features of each patient, float16 or float32 (tiles, d); may read from disk when indexed.
    """

    ids: np.ndarray
    groups: np.ndarray
    # A probe reads the one that it needs, which is never None then.
    mean: np.ndarray = None  # type: ignore[assignment]
    bags: Sequence[np.ndarray] = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> "Patients":
        """Select the patients at the positions `index`, in that order."""
        chosen = replace(self, ids=self.ids[index], groups=self.groups[index])
        if self.mean is not None:
            chosen = replace(chosen, mean=self.mean[index])
        if self.bags is not None:
            chosen = replace(chosen, bags=Subset(self.bags, np.asarray(index)))
        return chosen


@dataclass(frozen=True)
class Subset(Sequence[np.ndarray]):
    """Some items of a sequence, fetched when indexed, since the bags of a cohort may exceed memory."""

    items: Sequence[np.ndarray]
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: Any) -> Any:
        return self.items[self.positions[position]]


class Fitted(Protocol):
    """A fitted probe."""

    @property
    def chosen(self) -> dict[str, Any]:
        """Hyperparameters that were selected within the training patients; JSON-able."""
        ...

    def predict(self, patients: Patients) -> np.ndarray:
        """Predict expression, float32 (n, genes), in the unit of the training targets."""
        ...

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Return all that a prediction needs, and no patient's data: arrays, and JSON-able facts beside them."""
        ...


@runtime_checkable
class FittedNetworks(Fitted, Protocol):
    """A fitted probe that averages networks of several seeds, each trained by epochs."""

    @property
    def curves(self) -> pd.DataFrame:
        """Training curves: seed, epoch, loss, validation_rho, chosen."""
        ...

    def predict_seeds(self, patients: Patients) -> tuple[np.ndarray, list[np.ndarray]]:
        """Predict with every seed, and return the attention of every tile; each bag is read once.

        Returns
        -------
        expression
            float32 (seeds, n, genes); the mean over seeds is the prediction.
        attention
            Mean over seeds, float32 (tiles,) for each patient; its sum is 1.
        """
        ...


class Probe(Protocol):
    """A regression from features to all genes at once, with its hyperparameters selected on training patients alone.

    The class of a probe in `wsibench.regression.probes.PROBES` also has a class method ``restore(arrays, facts)`` that
    rebuilds a fitted probe from its `Fitted.arrays`.
    """

    columnwise: ClassVar[bool]
    """True if each gene is fitted independently of the others, so that permuted targets can be further columns."""

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> Fitted:
        """Fit on the expression `y` (n, genes) of the training patients."""
        ...


@dataclass(frozen=True)
class Scaler:
    """Standardisation with training statistics; columns that are constant in training become 0, never NaN."""

    mean: np.ndarray
    scale: np.ndarray
    """Training SD; 0 for constant columns, so that inverting gives the training mean back exactly."""

    @classmethod
    def fit(cls, values: np.ndarray) -> "Scaler":
        """Compute the column statistics of `values`, (n, columns), in float64."""
        mean, sd = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        # Below the resolution of float32 an SD is rounding noise, and dividing by it would make it a signal.
        return cls(mean, np.where(sd > 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float32).tiny), sd, 0))

    @property
    def inverse(self) -> np.ndarray:
        """Factor of each centred column: 1 / SD, and 0 for constant columns."""
        return np.divide(1, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Standardise `values`; float32."""
        return ((values - self.mean) * self.inverse).astype(np.float32)

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Return to the unit of the training values, float32; the training mean where nothing varied."""
        return (values * self.scale + self.mean).astype(np.float32)

    def arrays(self, name: str) -> Arrays:
        """Return the statistics as ``<name>.mean`` and ``<name>.scale``."""
        return {f"{name}.mean": self.mean, f"{name}.scale": self.scale}

    @classmethod
    def restore(cls, arrays: Arrays, name: str) -> "Scaler":
        """Rebuild the scaler whose `arrays` were called `name`."""
        return cls(arrays[f"{name}.mean"], arrays[f"{name}.scale"])


@dataclass(frozen=True)
class Projection:
    """Standardisation and, for wide features, PCA; fitted on training tiles."""

    scaler: Scaler
    components: np.ndarray | None

    @classmethod
    def fit(cls, tiles: np.ndarray, n_components: int | None) -> "Projection":
        """Fit on `tiles` (tiles, width); no PCA where it would not make the features narrower."""
        from sklearn.decomposition import PCA

        scaler = Scaler.fit(tiles)
        if n_components is None or n_components >= min(tiles.shape):
            return cls(scaler, None)
        pca = PCA(n_components, svd_solver="covariance_eigh").fit(scaler.transform(tiles))
        # Not whitened: that would scale the many components of little variance, mostly noise, up to the
        # size of the few that differ between patients, and costs a third of the correlation.
        return cls(scaler, (pca.components_.T / np.sqrt(pca.explained_variance_.mean())).astype(np.float32))

    def transform(self, tiles: np.ndarray) -> np.ndarray:
        """Standardise and project `tiles`; float32."""
        if self.scaled is None:
            return self.scaler.transform(tiles)
        return (np.asarray(tiles, np.float32) - self.scaler.mean.astype(np.float32)) @ self.scaled

    @cached_property
    def scaled(self) -> np.ndarray | None:
        """Components divided by the scale of the features, so that a bag is centred and multiplied once."""
        return None if self.components is None else self.components * self.scaler.inverse[:, None].astype(np.float32)


def inner_folds(groups: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split into inner (train, validation) positions that keep groups whole, in folds of about equal size.

    With fewer than two groups (a training fold from a single site) patients are split instead, since there
    is no other site to leave out.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    n = min(n, len(np.unique(groups)))
    return list(GroupKFold(n).split(np.zeros(len(groups)), groups=groups))


def hold_out_groups(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold random whole groups out for validation, about a given share of the patients.

    A group that would take validation past twice its share is skipped, so that one large site does not
    become the whole of it; where every group is that large, the smallest is held out.

    Parameters
    ----------
    groups
        Labels that are never split, (n,); with fewer than three of them, patients are held out instead.
    share
        Share of the patients to hold out.
    seed
        Seed of the order in which groups are considered.

    Returns
    -------
    train, validation
        Positions.
    """
    if len(np.unique(groups)) < 3:
        groups = np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    wanted = max(1, round(share * len(groups)))
    validation: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(names)):
        total = sizes[validation].sum()
        if total < wanted and total + sizes[index] <= 2 * wanted:
            validation.append(int(index))
    held_out = np.isin(groups, names[validation or [int(sizes.argmin())]])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
