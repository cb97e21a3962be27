"""What is fitted on features: one interface, `wsibench.probes.base.Probe`, and a room a probe."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsibench.errors import StudyError

if TYPE_CHECKING:
    from wsibench.probes.base import Probe
    from wsibench.study import Study


@dataclass(frozen=True)
class Offer:
    """A probe that a study can name; says what it takes without importing what it runs on."""

    needs: Literal["mean", "bags"]
    format: int
    """Raised only when the same input gives other results."""
    settings: "Callable[[Study], dict[str, Any]]"
    """The section of the study that decides its results."""
    make: "Callable[[Study], Probe]"


def _ridge(study: "Study") -> "Probe":
    from wsibench.probes.ridge import Ridge

    return Ridge()


def _abmil(study: "Study") -> "Probe":
    from wsibench.probes.abmil import Abmil

    return Abmil(study.abmil)


PROBES: dict[str, Offer] = {
    "ridge": Offer("mean", 1, lambda study: {}, _ridge),
    "abmil": Offer("bags", 1, lambda study: study.abmil.model_dump(mode="json"), _abmil),
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
