"""Checks before the work: the machine, and what the stages of a study will need."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsibench.cli.stages import STAGES, Stage, status
from wsibench.core import NotReady, Study, WsibenchError, data_root, n_workers, parallel_map

if TYPE_CHECKING:
    from wsibench.tiling import TilingTask

WARNING = "warning: "
SAMPLED_SLIDES = 20
# Free disk space below which a run probably ends early.
NEEDED_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    good: bool
    what: str
    found: str

    def __str__(self) -> str:
        """Format as a line for a terminal."""
        return f"{'ok   ' if self.good else 'FAULT'} {self.what:<14} {self.found}"


def machine() -> list[Finding]:
    """Check the interpreter, the libraries, the device and the disk."""
    return [
        Finding(sys.version_info >= (3, 11), "python", sys.version.split()[0]),
        _openslide(),
        _torch(),
        _disk(),
        Finding(True, "workers", f"{n_workers()} processes"),
        Finding(True, "real files", os.environ.get("WSIBENCH_REAL_DATA") or "WSIBENCH_REAL_DATA is not set"),
    ]


def faults(study: Study, stages: Iterable[Stage] = STAGES, *, download: bool = False) -> dict[str, list[str]]:
    """Check a study for faults that would stop a stage, as far as they can be seen before the work.

    Parameters
    ----------
    study
        The study. Where its cohort is known, its tables and folds are checked against it.
    stages
        Stages to check.
    download
        Download weights that are not on this machine, instead of naming them.

    Returns
    -------
    dict
        Messages by stage; those that begin with ``warning: `` do not stop the stage.
    """
    found = {}
    for stage in stages:
        try:
            found[stage.name] = CHECKS[stage.name](study, download) if stage.name in CHECKS else []
        except NotReady:
            found[stage.name] = []
        except WsibenchError as error:
            found[stage.name] = [str(error)]
    return found


def check(study: Study, stages: Iterable[Stage] = STAGES, say: Callable[[str], None] = print) -> None:
    """Raise all faults of a study at once, and print its warnings.

    Parameters
    ----------
    study
        The study.
    stages
        Stages to check.
    say
        Function that is called with every warning.

    Raises
    ------
    WsibenchError
        With one line a fault.
    """
    lines = []
    for name, found in faults(study, stages, download=True).items():
        for message in found:
            if message.startswith(WARNING):
                say(f"{name:<14} {message}")
            else:
                lines.append(f"{name}: {message}")
    if lines:
        raise WsibenchError("\n  ".join([f"Study {study.name} cannot run as it is:", *dict.fromkeys(lines)]))


def _due(study: Study, number: int) -> bool:
    return status(study, STAGES[number - 1]).state == "due"


def _cohort(study: Study, _: bool) -> list[str]:
    """Check the tables of the cohort, and the columns that targets and controls name."""
    from wsibench import cohort

    return cohort.check(study) if not study.parts and (_due(study, 1) or _due(study, 4)) else []


def _tiling(study: Study, _: bool) -> list[str]:
    """Open a sample of the slides: some state no resolution, others cannot be read."""
    from wsibench import tiling

    if not study.cohort_csv.exists() or not _due(study, 2):
        return []
    tasks = tiling.tasks(study)
    sample = tasks[:: len(tasks) // SAMPLED_SLIDES + 1]
    results = parallel_map(_open, sample, label="02 opening slides", errors="return")
    errors = [result for result in results if isinstance(result, BaseException)]
    if len(errors) <= study.limits.failed_slides * len(sample):
        return []
    return [f"{len(errors)} of the {len(sample)} slides that were tried cannot be opened: {errors[0]}"]


def _open(task: "TilingTask") -> None:
    from wsibench import tiling

    with tiling.open_slide(task.path, task.mpp, assumed_mpp=task.settings.slide_mpp):
        pass


def _embedding(study: Study, download: bool) -> list[str]:
    from wsibench.embedding import find_weights, tile_encoders

    found = []
    for encoder in [] if study.parts else tile_encoders(study):
        try:
            if _due(study, 3):
                find_weights(study, encoder.name, download=download)
        except WsibenchError as error:
            found.append(str(error))
    return found


def _assembly(study: Study, _: bool) -> list[str]:
    tables = [study.resolve(each.table) for each in study.features.values()]
    return [f"There is no table {path}. Correct its path in study.yaml." for path in tables if not path.exists()]


def _regression(study: Study, _: bool) -> list[str]:
    from wsibench import regression

    return regression.check(study)


def _ranking(study: Study, _: bool) -> list[str]:
    from wsibench import ranking

    return ranking.check(study) if _due(study, 6) else []


CHECKS = {
    "01_cohort": _cohort,
    "02_tiling": _tiling,
    "03_embedding": _embedding,
    "04_assembly": _assembly,
    "05_regression": _regression,
    "06_ranking": _ranking,
}


def _openslide() -> Finding:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Finding(False, "openslide", f"{error}; install openslide-python and openslide-bin both by pip")
    return Finding(True, "openslide", f"{openslide.__library_version__}")


def _torch() -> Finding:
    try:
        import torch
        import torchvision  # noqa: F401  versions that do not match fail here
    except (ImportError, RuntimeError) as error:
        return Finding(False, "torch", f"{error}; install the pair that constraints.txt names")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, encoders run on the CPU"
    return Finding(True, "torch", f"{importlib.metadata.version('torch')}; {device}")


def _disk() -> Finding:
    folder = next(path for path in (data_root(), *data_root().parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    return Finding(free_gb > NEEDED_GB, "disk", f"{free_gb:.0f} GB free in {data_root()}")
