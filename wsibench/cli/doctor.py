"""What this machine has, and what a study lacks before it can run."""

import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass

from wsibench.core import PATIENT_CONTROLS, Study, WsibenchError, data_root, n_workers

NEEDED_GB = 5.0
"""Free disk under which a run is likely to end early."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    good: bool
    what: str
    found: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'MEND'} {self.what:<14} {self.found}"


def check(study: Study | None = None) -> list[Finding]:
    """Look at the interpreter, the libraries, the device, the disk, and what a study reads."""
    findings = [
        Finding(sys.version_info >= (3, 11), "python", sys.version.split()[0]),
        _openslide(),
        _torch(),
        _disk(),
        Finding(True, "workers", f"{n_workers()} processes for per-slide work"),
        Finding(True, "real files", os.environ.get("WSIBENCH_REAL_DATA") or "WSIBENCH_REAL_DATA is not set"),
    ]
    if study is not None and not study.parts:  # whose encoders have run in two other studies
        from wsibench.embedding import tile_controls

        findings += [_encoder(study, name) for name in [*study.encoders, *tile_controls(study)]]
    return findings


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Finding(False, "openslide", f"{error}; install openslide-python and openslide-bin both by pip")
    return Finding(True, "openslide", f"{openslide.__library_version__}")


def _torch() -> Finding:
    try:
        import torch
        import torchvision  # noqa: F401  an unmatched pair fails here, on torchvision::nms
    except (ImportError, RuntimeError) as error:
        return Finding(False, "torch", f"{error}; install the pair that constraints.txt names")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, encoders run on the CPU"
    return Finding(True, "torch", f"{importlib.metadata.version('torch')}; {device}")


def _disk() -> Finding:
    folder = data_root()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    return Finding(free_gb > NEEDED_GB, "disk", f"{free_gb:.0f} GB free in {data_root()}")


def _encoder(study: Study, name: str) -> Finding:
    from wsibench import embedding

    try:
        if name not in PATIENT_CONTROLS:
            embedding.find_weights(study, name)
    except WsibenchError as error:
        return Finding(False, name, str(error))
    return Finding(True, name, "at hand")
