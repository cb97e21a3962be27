"""A multilayer perceptron on the mean feature: attention MIL's network with nothing to attend to."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from wsibench.core import Abmil as AbmilSettings
from wsibench.regression.probes.abmil import Abmil, FittedAbmil
from wsibench.regression.probes.base import Arrays, Patients


@dataclass(frozen=True)
class Mlp:
    """Each patient is a bag of one tile, their mean, so that embedding, head, training and selection are the same.

    What attention MIL gains over this probe is what attention gains.
    """

    settings: AbmilSettings
    needs: ClassVar[Literal["mean"]] = "mean"
    columnwise: ClassVar[bool] = False

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> "FittedMlp":
        """Fit one network a seed."""
        return FittedMlp(Abmil(self.settings).fit(of_one_tile(patients), y, seed=seed))


@dataclass(frozen=True)
class FittedMlp:
    """Networks of several seeds; predictions are their means."""

    networks: FittedAbmil

    @property
    def chosen(self) -> dict[str, Any]:
        """The epoch that each seed kept."""
        return self.networks.chosen

    def predict(self, patients: Patients) -> np.ndarray:
        """Predicted expression, float32 (n, genes)."""
        return self.networks.predict(of_one_tile(patients))

    def predict_seeds(self, patients: Patients) -> np.ndarray:
        """Predicted expression of every seed, float32 (seeds, n, genes)."""
        return self.networks.predict_seeds(of_one_tile(patients))

    def arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """As attention MIL."""
        return self.networks.arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays, facts: dict[str, Any]) -> "FittedMlp":
        """What `arrays` was asked of."""
        return cls(FittedAbmil.from_arrays(arrays, facts))


def of_one_tile(patients: Patients) -> Patients:
    """The same patients, each with a bag that holds their mean feature alone."""
    return replace(patients, mean=None, bags=list(patients.mean[:, None, :]))
