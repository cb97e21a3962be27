"""What is fitted on features: one interface, `wsibench.regression.probes.base.Probe`, and a room a probe."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsibench.core import StudyError

if TYPE_CHECKING:
    from wsibench.core import Study
    from wsibench.regression.probes.base import Arrays, Fitted, Probe


@dataclass(frozen=True)
class Offer:
    """A probe that a study can name; says what it takes without importing what it runs on."""

    needs: Literal["mean", "bags"]
    attends: bool
    """Whether it leaves the attention of every tile."""
    format: int
    """Raised only when the same input gives other results."""
    settings: "Callable[[Study], dict[str, Any]]"
    """The section of the study that decides its results."""
    make: "Callable[[Study], Probe]"
    fitted: str
    """``room:class`` of what it becomes, which reads itself from arrays."""
    keeps_patients: bool = False
    """Whether that holds the training patients' own features and expression, in a file too."""

    def restore(self, arrays: "Arrays", facts: dict[str, Any]) -> "Fitted":
        """The fitted probe that gave these `arrays` and `facts`."""
        room, _, name = self.fitted.partition(":")
        return getattr(importlib.import_module(f"wsibench.regression.probes.{room}"), name).from_arrays(arrays, facts)


def _ridge(study: "Study") -> "Probe":
    from wsibench.regression.probes.ridge import Ridge

    return Ridge()


def _pca_ridge(study: "Study") -> "Probe":
    from wsibench.regression.probes.ridge import Ridge

    return Ridge(components=256)


def _mean_sd(study: "Study") -> "Probe":
    from wsibench.regression.probes.moments import MeanSd

    return MeanSd()


def _neighbours(study: "Study") -> "Probe":
    from wsibench.regression.probes.neighbours import Neighbours

    return Neighbours()


def _mlp(study: "Study") -> "Probe":
    from wsibench.regression.probes.mlp import Mlp

    return Mlp(study.abmil)


def _abmil(study: "Study") -> "Probe":
    from wsibench.regression.probes.abmil import Abmil

    return Abmil(study.abmil)


def _nothing(study: "Study") -> dict[str, Any]:
    return {}


def _network(study: "Study") -> dict[str, Any]:
    return study.abmil.model_dump(mode="json")


PROBES: dict[str, Offer] = {
    "ridge": Offer("mean", False, 1, _nothing, _ridge, "ridge:FittedRidge"),
    "pca-ridge": Offer("mean", False, 1, _nothing, _pca_ridge, "ridge:FittedRidge"),
    "mean-sd-ridge": Offer("bags", False, 1, _nothing, _mean_sd, "moments:FittedMeanSd"),
    "knn": Offer("mean", False, 1, _nothing, _neighbours, "neighbours:FittedNeighbours", keeps_patients=True),
    "mlp": Offer("mean", False, 1, _network, _mlp, "mlp:FittedMlp"),
    "abmil": Offer("bags", True, 1, _network, _abmil, "abmil:FittedAbmil"),
}


def offer(name: str) -> Offer:
    """The probe that a study calls `name`.

    Raises
    ------
    StudyError
        For an unknown name; names what there is.
    """
    if name not in PROBES:
        close = difflib.get_close_matches(name, PROBES, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise StudyError(f"probes: there is no probe {name!r}.", f"{hint}Probes: {', '.join(PROBES)}.")
    return PROBES[name]
