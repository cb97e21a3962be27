"""Ridge regression on a patient's mean feature, with a penalty of its own for each gene.

himalaya's `KernelRidgeCV` solves the same problem, and the tests hold this room to its results.  It
takes one kernel for all inner folds, though, so that features would be standardised with the inner
validation patients among them, and it refits every gene at every penalty in use.  Here each inner
fold has its own standardised kernel, and only what is needed for a prediction is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.linalg import eigh

from wsibench.regression.probes.base import Arrays, Patients, Scaler, inner_folds

ALPHAS = np.logspace(-1, 4, 6)
"""Penalties on offer, in units of the mean diagonal of the kernel (1 for standardised features).

Steps of half a decade take nearly twice the time, and raise the median ρ of a real cohort by .0005.
"""
BATCH = 1 << 26
"""Most float32 values of inner predictions held at once (256 MB)."""


@dataclass(frozen=True)
class Ridge:
    """Kernel ridge with a linear kernel; α per gene by squared error over grouped inner folds."""

    components: int | None = None
    """Principal components of the training patients' features to keep; None keeps all."""
    inner: int = 5
    needs: ClassVar[Literal["mean"]] = "mean"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedRidge":
        """Fit; `seed` is not used, since nothing here is random."""
        x = patients.mean
        targets = Scaler.fit(y)
        z = targets.transform(y)
        error = np.zeros((len(ALPHAS), z.shape[1]))
        for train, held in inner_folds(patients.groups, self.inner):
            kernel = Kernel.fit(x[train], self.components)
            paths = kernel.paths(x[held])
            offset = z[train].mean(axis=0)
            for columns in _column_batches(z.shape[1], len(ALPHAS) * len(held)):
                predicted = paths @ kernel.reduce(z[train, columns] - offset[columns])
                missed = predicted.reshape(len(ALPHAS), len(held), -1) - (z[held, columns] - offset[columns])
                error[:, columns] += np.einsum("avg,avg->ag", missed, missed)
        return FittedRidge(Kernel.fit(x, self.components), targets, z, error.argmin(axis=0))


@dataclass(frozen=True)
class Kernel:
    """The eigendecomposition of the linear kernel of standardised training features."""

    scaler: Scaler
    x: np.ndarray
    values: np.ndarray
    """Eigenvalues above rounding, (rank,)."""
    vectors: np.ndarray
    """Their eigenvectors, float64 (n, rank)."""

    @classmethod
    def fit(cls, x: np.ndarray, components: int | None = None) -> "Kernel":
        """Of training features (n, d): the leading eigenvectors are the principal components of the patients."""
        scaler = Scaler.fit(x)
        x = scaler.transform(x)
        n, d = x.shape
        # The kernel of few features has the eigenvalues of their small Gram matrix, and no others.
        gram = x.T @ x if d < n else x @ x.T
        values, vectors = eigh((gram / d).astype(np.float64), driver="evd")
        real = values > n * np.finfo(np.float32).eps * values.max(initial=1e-12)
        if components is not None:
            real[:-components] = False  # eigenvalues come in ascending order
        values, vectors = values[real], vectors[:, real]
        return cls(scaler, x, values, x @ vectors / np.sqrt(values * d) if d < n else vectors)

    @property
    def narrow(self) -> bool:
        """Whether it pays to take targets into the eigenvectors' basis, as with few features it does."""
        return 2 * self.vectors.shape[1] < len(self.x)

    def reduce(self, z: np.ndarray) -> np.ndarray:
        """What `paths` is to be multiplied with, for centred training targets (n, genes)."""
        return self.vectors.T.astype(np.float32) @ z if self.narrow else z

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """New features in the eigenvectors' basis, float64 (new, rank)."""
        # In the order that costs least: through the training patients, or with few features past them.
        return np.linalg.multi_dot([self.scaler.transform(x), self.x.T, self.vectors]) / self.x.shape[1]

    def path(self, rotated: np.ndarray, alpha: float) -> np.ndarray:
        """What turns reduced targets into predictions for rotated new features, float32 (new, n or rank)."""
        shrunk = rotated / (self.values + alpha)
        return (shrunk if self.narrow else shrunk @ self.vectors.T).astype(np.float32)

    def paths(self, x: np.ndarray) -> np.ndarray:
        """The same for every penalty, stacked: (penalties · new, n or rank)."""
        rotated = self.rotate(x)
        return np.concatenate([self.path(rotated, alpha) for alpha in ALPHAS])

    def weights(self, z: np.ndarray, alpha: float) -> np.ndarray:
        """Weights of the standardised features, float32 (d, genes), for standardised targets (n, genes)."""
        dual = self.vectors @ ((self.vectors.T @ z) / (self.values + alpha)[:, None])
        return (self.x.T @ dual / self.x.shape[1]).astype(np.float32)


@dataclass(frozen=True)
class FittedRidge:
    """Ridge after its training patients; predictions are made from the dual."""

    kernel: Kernel
    targets: Scaler
    z: np.ndarray
    """Standardised training targets, float32 (n, genes)."""
    best: np.ndarray
    """Position in `ALPHAS` of each gene's penalty, (genes,)."""

    @property
    def chosen(self) -> dict[str, Any]:
        """The median gene's penalty, and how many genes took each."""
        return _chosen(self.best)

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        predicted = np.zeros((len(patients), self.z.shape[1]), np.float32)
        rotated = self.kernel.rotate(patients.mean)
        for position in np.unique(self.best):
            genes = self.best == position
            path = self.kernel.path(rotated, ALPHAS[position])
            predicted[:, genes] = path @ self.kernel.reduce(self.z[:, genes])
        return self.targets.invert(predicted)

    def primal(self) -> "PrimalRidge":
        """The same predictions from a weight a feature and gene, without the training patients."""
        weights = np.empty((self.kernel.x.shape[1], self.z.shape[1]), np.float32)
        for position in np.unique(self.best):
            genes = self.best == position
            weights[:, genes] = self.kernel.weights(self.z[:, genes], ALPHAS[position])
        return PrimalRidge(self.kernel.scaler, self.targets, weights, self.best)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Those of `primal`: the dual would carry the training patients' features and expression."""
        return self.primal().arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "PrimalRidge":
        """What `arrays` was asked of, in its primal form."""
        return PrimalRidge.from_arrays(arrays, facts)


@dataclass(frozen=True)
class PrimalRidge:
    """Ridge as a matrix of weights: what is kept of it in a file."""

    features: Scaler
    targets: Scaler
    weights: np.ndarray
    """From standardised features to standardised targets, float32 (d, genes)."""
    best: np.ndarray
    """Position in `ALPHAS` of each gene's penalty, (genes,)."""

    @property
    def chosen(self) -> dict[str, Any]:
        """As `FittedRidge`."""
        return _chosen(self.best)

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        return self.targets.invert(self.features.transform(patients.mean) @ self.weights)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Weights, penalties and the statistics of features and targets."""
        statistics = self.features.arrays("features") | self.targets.arrays("targets")
        return statistics | {"weights": self.weights, "best": self.best}, {}

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "PrimalRidge":
        """What `arrays` was asked of."""
        features, targets = Scaler.from_arrays(arrays, "features"), Scaler.from_arrays(arrays, "targets")
        return cls(features, targets, arrays["weights"], arrays["best"])


def _chosen(best: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(best, minlength=len(ALPHAS))
    genes = {f"{a:.3g}": int(c) for a, c in zip(ALPHAS, counts, strict=True) if c}
    return {"alpha": float(np.median(ALPHAS[best])), "genes": genes}


def _column_batches(n_columns: int, values_a_column: int) -> Iterator[slice]:
    step = max(1, BATCH // values_a_column)
    for start in range(0, n_columns, step):
        yield slice(start, min(start + step, n_columns))
