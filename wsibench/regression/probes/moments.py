"""Ridge on the mean and the standard deviation of a patient's tiles."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from wsibench.regression.probes.base import Arrays, Patients
from wsibench.regression.probes.ridge import FittedRidge, PrimalRidge, Ridge


@dataclass(frozen=True)
class MeanSd:
    """How tiles vary within a patient beside what they are on average: the cheapest step beyond the mean."""

    needs: ClassVar[Literal["bags"]] = "bags"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedMeanSd":
        """Fit; as with ridge, nothing is random."""
        return FittedMeanSd(Ridge().fit(pooled(patients), y, seed=seed))


@dataclass(frozen=True)
class FittedMeanSd:
    """Ridge on pooled moments."""

    ridge: FittedRidge | PrimalRidge

    @property
    def chosen(self) -> dict[str, Any]:
        """As ridge."""
        return self.ridge.chosen

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        return self.ridge.predict(pooled(patients))

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """As ridge."""
        return self.ridge.arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "FittedMeanSd":
        """What `arrays` was asked of."""
        return cls(PrimalRidge.from_arrays(arrays, facts))


def pooled(patients: Patients) -> Patients:
    """The same patients with the mean and SD of their tiles, (n, 2 d), in place of bags; one tile has an SD of 0."""
    moments = []
    for bag in patients.bags:
        tiles = np.asarray(bag, np.float32)
        moments.append(np.concatenate([tiles.mean(axis=0), tiles.std(axis=0)]))
    return replace(patients, mean=np.stack(moments), bags=None)
