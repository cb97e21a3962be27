"""The mean expression of the patients who look most alike."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.spatial.distance import cdist

from wsibench.regression.probes.base import Arrays, Patients, Scaler, inner_folds

NEIGHBOURS = (5, 10, 20, 40, 80)
"""Numbers of neighbours on offer; those above the number of training patients fall away."""


@dataclass(frozen=True)
class Neighbours:
    """k nearest neighbours by cosine distance of standardised features; k per gene over grouped inner folds."""

    inner: int = 5
    needs: ClassVar[Literal["mean"]] = "mean"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedNeighbours":
        """Fit; `seed` is not used, since nothing here is random."""
        folds = inner_folds(patients.groups, self.inner)
        fewest = min(len(train) for train, _ in folds)
        offered = np.array([k for k in NEIGHBOURS if k <= fewest] or [fewest])
        targets = Scaler.fit(y)
        z = targets.transform(y)
        error = np.zeros((len(offered), z.shape[1]))
        for train, held in folds:
            nearest = Space.fit(patients.mean[train]).nearest(patients.mean[held], offered.max())
            for row, k in enumerate(offered):
                error[row] += np.square(z[train][nearest[:, :k]].mean(axis=1) - z[held]).sum(axis=0)
        return FittedNeighbours(Space.fit(patients.mean), targets, z, offered[error.argmin(axis=0)])


@dataclass(frozen=True)
class Space:
    """Standardised features of the training patients."""

    scaler: Scaler
    x: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> "Space":
        """Of training features (n, d)."""
        scaler = Scaler.fit(x)
        return cls(scaler, _unit(scaler.transform(x)))

    def nearest(self, x: np.ndarray, k: int) -> np.ndarray:
        """Positions of the `k` training patients nearest to each new one, nearest first, (new, k)."""
        # Of unit vectors the squared Euclidean distance is twice the cosine distance, and defined for zero vectors too.
        distance = cdist(_unit(self.scaler.transform(x)), self.x, "sqeuclidean")
        return np.argsort(distance, axis=1, kind="stable")[:, :k]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class FittedNeighbours:
    """The training patients and each gene's k."""

    space: Space
    targets: Scaler
    z: np.ndarray
    k: np.ndarray

    @property
    def chosen(self) -> dict[str, Any]:
        """The median gene's number of neighbours, and how many genes took each."""
        offered, genes = np.unique(self.k, return_counts=True)
        return {"k": float(np.median(self.k)), "genes": dict(zip(map(str, offered), genes.tolist(), strict=True))}

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        nearest = self.space.nearest(patients.mean, self.k.max())
        predicted = np.zeros((len(patients), self.z.shape[1]), np.float32)
        for k in np.unique(self.k):
            genes = self.k == k
            predicted[:, genes] = self.z[:, genes][nearest[:, :k]].mean(axis=1)
        return self.targets.invert(predicted)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """The training patients' features and expression, standardised, and each gene's k."""
        statistics = self.space.scaler.arrays("features") | self.targets.arrays("targets")
        return statistics | {"x": self.space.x, "z": self.z, "k": self.k}, {}

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "FittedNeighbours":
        """What `arrays` was asked of."""
        space = Space(Scaler.from_arrays(arrays, "features"), arrays["x"])
        return cls(space, Scaler.from_arrays(arrays, "targets"), arrays["z"], arrays["k"])
