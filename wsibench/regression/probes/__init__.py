"""Probes: regressions from a patient's features to all genes at once.

To add a probe, write a class with the interface of `wsibench.regression.probes.base.Probe` in a module of
this folder, and add a line to `PROBES`.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsibench.core import StudyError

if TYPE_CHECKING:
    from wsibench.core import Abmil
    from wsibench.regression.probes.base import Probe


@dataclass(frozen=True)
class ProbeSpec:
    """Properties of a probe that are known without importing the module it is in."""

    path: str
    """``module:class`` within this folder."""
    needs: Literal["mean", "bags"]
    """Features that it reads: one mean vector a patient, or all tiles."""
    network: bool = False
    """True for probes with the settings ``abmil`` of study.yaml."""
    attends: bool = False
    """True for probes that weigh the tiles of a patient."""
    format: int = 1
    """Raised only when the same input gives other results."""

    @property
    def probe_class(self) -> Any:
        """Class of the probe."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(f"wsibench.regression.probes.{module}"), name)


PROBES: dict[str, ProbeSpec] = {
    "ridge": ProbeSpec("ridge:Ridge", needs="mean"),
    "pca-ridge": ProbeSpec("ridge:PcaRidge", needs="mean"),
    "mlp": ProbeSpec("abmil:Mlp", needs="mean", network=True),
    "abmil": ProbeSpec("abmil:Abmil", needs="bags", network=True, attends=True),
}


def probe_spec(name: str) -> ProbeSpec:
    """Entry of a probe in `PROBES`.

    Raises
    ------
    StudyError
        For an unknown name; lists the known ones.
    """
    if name not in PROBES:
        raise StudyError(f"probes: there is no probe {name!r}.", f"Choose from {', '.join(PROBES)}.")
    return PROBES[name]


def make_probe(name: str, settings: "Abmil | None" = None) -> "Probe":
    """Make an unfitted probe.

    Parameters
    ----------
    name
        A name in `PROBES`.
    settings
        Settings of attention MIL and MLP; their defaults unless given. Other probes have none.
    """
    spec = probe_spec(name)
    if not spec.network:
        return spec.probe_class()
    return spec.probe_class(settings) if settings else spec.probe_class()
