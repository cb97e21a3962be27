"""Ridge regression on a patient's mean feature, with a penalty selected for each gene.

himalaya's `KernelRidgeCV` solves the same problem, and the tests compare with it.  It takes one kernel for all
inner folds, though, so that features would be standardised with the inner validation patients included, and
it refits every gene at every penalty in use.  Here each inner fold has its own standardised kernel, and only
what a prediction needs is computed.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import eigh

from wsibench.regression.probes.base import Arrays, Patients, Scaler, inner_folds

ALPHAS = np.logspace(-1, 4, 6)
"""Candidate penalties, in units of the mean diagonal of the kernel (1 for standardised features).

Steps of half a decade take nearly twice the time, and raise the median ρ of a real cohort by .0005.
"""
INNER_FOLDS = 5


@dataclass(frozen=True)
class Ridge:
    """Kernel ridge with a linear kernel; α of each gene by squared error over grouped inner folds."""

    components: int | None = None
    """Principal components of the training patients' features to keep; None keeps all."""
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedRidge":
        """Fit on the expression `y` (n, genes); `seed` is not used, since nothing is random."""
        x, targets = patients.mean, Scaler.fit(y)
        z = targets.transform(y)
        error = np.zeros((len(ALPHAS), z.shape[1]))
        for train, validation in inner_folds(patients.groups, INNER_FOLDS):
            kernel, offset = Kernel.fit(x[train], self.components), z[train].mean(axis=0)
            rotated, projected = kernel.rotate(x[validation]), kernel.project(z[train] - offset)
            wanted = z[validation] - offset
            for position, alpha in enumerate(ALPHAS):
                residual = kernel.prediction_map(rotated, alpha) @ projected - wanted
                error[position] += np.einsum("vg,vg->g", residual, residual)
        return FittedRidge(Kernel.fit(x, self.components), targets, z, error.argmin(axis=0))

    @classmethod
    def restore(cls, arrays: Arrays, facts: dict[str, Any]) -> "PrimalRidge":
        """Rebuild the fitted probe, in its primal form, from its `arrays()`."""
        return PrimalRidge(Scaler.restore(arrays, "features"), Scaler.restore(arrays, "targets"), arrays["weights"])


@dataclass(frozen=True)
class PcaRidge(Ridge):
    """Ridge on the leading principal components of the training patients' features."""

    components: int | None = 256


@dataclass(frozen=True)
class Kernel:
    """Eigendecomposition of the linear kernel of standardised training features."""

    scaler: Scaler
    x: np.ndarray
    values: np.ndarray
    """Eigenvalues above rounding, (rank,)."""
    vectors: np.ndarray
    """Their eigenvectors, float64 (n, rank)."""

    @classmethod
    def fit(cls, x: np.ndarray, components: int | None = None) -> "Kernel":
        """Decompose the kernel of training features (n, d).

        The leading eigenvectors are the principal components of the patients; `components` of them are kept.
        """
        scaler = Scaler.fit(x)
        x = scaler.transform(x)
        n, d = x.shape
        # The kernel of few features has the eigenvalues of their small Gram matrix, and no others.
        gram = x.T @ x if d < n else x @ x.T
        values, vectors = eigh((gram / d).astype(np.float64), driver="evd")
        kept = values > n * np.finfo(np.float32).eps * values.max(initial=1e-12)
        if components is not None:
            kept[:-components] = False  # eigenvalues come in ascending order
        values, vectors = values[kept], vectors[:, kept]
        return cls(scaler, x, values, x @ vectors / np.sqrt(values * d) if d < n else vectors)

    @property
    def low_rank(self) -> bool:
        """True if targets are cheaper to multiply in the eigenvectors' basis, as with few features."""
        return 2 * self.vectors.shape[1] < len(self.x)

    def project(self, z: np.ndarray) -> np.ndarray:
        """Project centred training targets (n, genes) on the eigenvectors if that is cheaper."""
        return self.vectors.T.astype(np.float32) @ z if self.low_rank else z

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """Express new features in the eigenvectors' basis, float64 (new, rank)."""
        # `multi_dot` finds the cheapest order, which depends on the numbers of features and patients.
        return np.linalg.multi_dot([self.scaler.transform(x), self.x.T, self.vectors]) / self.x.shape[1]

    def prediction_map(self, rotated: np.ndarray, alpha: float) -> np.ndarray:
        """Matrix that maps projected targets to predictions, for one penalty; float32 (new, n or rank)."""
        shrunk = rotated / (self.values + alpha)
        return (shrunk if self.low_rank else shrunk @ self.vectors.T).astype(np.float32)

    def weights(self, z: np.ndarray, alpha: float) -> np.ndarray:
        """Primal weights of the standardised features, float32 (d, genes), for standardised targets (n, genes)."""
        dual = self.vectors @ ((self.vectors.T @ z) / (self.values + alpha)[:, None])
        return (self.x.T @ dual / self.x.shape[1]).astype(np.float32)


@dataclass(frozen=True)
class FittedRidge:
    """Fitted ridge; predicts from the dual coefficients."""

    kernel: Kernel
    targets: Scaler
    z: np.ndarray
    """Standardised training targets, float32 (n, genes)."""
    best: np.ndarray
    """Position in `ALPHAS` of each gene's penalty, (genes,)."""

    @property
    def chosen(self) -> dict[str, Any]:
        """Penalty of the median gene, and the number of genes by penalty."""
        counts = np.bincount(self.best, minlength=len(ALPHAS))
        genes = {f"{alpha:.3g}": int(count) for alpha, count in zip(ALPHAS, counts, strict=True) if count}
        return {"alpha": float(np.median(ALPHAS[self.best])), "genes": genes}

    def predict(self, patients: Patients) -> np.ndarray:
        """Predict expression, float32 (n, genes)."""
        predicted = np.zeros((len(patients), self.z.shape[1]), np.float32)
        rotated = self.kernel.rotate(patients.mean)
        for alpha, genes in self._by_penalty():
            predicted[:, genes] = self.kernel.prediction_map(rotated, alpha) @ self.kernel.project(self.z[:, genes])
        return self.targets.invert(predicted)

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """Return primal weights and scalers: the dual would hold the training patients' features and expression."""
        weights = np.empty((self.kernel.x.shape[1], self.z.shape[1]), np.float32)
        for alpha, genes in self._by_penalty():
            weights[:, genes] = self.kernel.weights(self.z[:, genes], alpha)
        return self.kernel.scaler.arrays("features") | self.targets.arrays("targets") | {"weights": weights}, {}

    def _by_penalty(self) -> list[tuple[float, np.ndarray]]:
        """Penalties in use, each with its genes, boolean (genes,)."""
        return [(ALPHAS[position], self.best == position) for position in np.unique(self.best)]


@dataclass(frozen=True)
class PrimalRidge:
    """Fitted ridge as a matrix of weights, the form that is saved to a file."""

    features: Scaler
    targets: Scaler
    weights: np.ndarray
    """From standardised features to standardised targets, float32 (d, genes)."""

    def predict(self, patients: Patients) -> np.ndarray:
        """Predict expression, float32 (n, genes)."""
        return self.targets.invert(self.features.transform(patients.mean) @ self.weights)
