"""Checks before the work: the machine, what the stages of a study will need, and the size of a download."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsibench import cohort, embedding, ranking, regression, tiling
from wsibench.cli.stages import STAGES, Stage, status
from wsibench.core import (
    CohortError,
    GdcCohort,
    NotReady,
    Study,
    WsibenchError,
    data_root,
    n_workers,
    parallel_map,
)

if TYPE_CHECKING:
    from wsibench.tiling import TilingTask

say = partial(print, flush=True)  # at once, also when the output is a pipe
WARNING = "warning: "
SAMPLED_SLIDES = 20
GB = 1e9
# Free disk space below which a run probably ends early.
NEEDED_GB = 5.0
BYTES_PER_FEATURE = 2  # float16
BYTES_PER_PATIENT = 60_000 * 4 * 2  # of expression: float32 values and counts of about as many genes


def machine() -> list[tuple[str, str, bool]]:
    """Check the interpreter, the libraries, the device and the disk: what is checked, what was found, if it is good."""
    free_gb = _free(data_root()) / GB
    return [
        ("python", sys.version.split()[0], True),
        _openslide(),
        _torch(),
        ("disk", f"{free_gb:.0f} GB free in {data_root()}", free_gb > NEEDED_GB),
        ("workers", f"{n_workers()} processes", True),
        ("real files", os.environ.get("WSIBENCH_REAL_DATA") or "WSIBENCH_REAL_DATA is not set", True),
    ]


def _openslide() -> tuple[str, str, bool]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return "openslide", f"{error}; install openslide-python and openslide-bin both by pip", False
    return "openslide", openslide.__library_version__, True


def _torch() -> tuple[str, str, bool]:
    try:
        import torch
        import torchvision  # noqa: F401  versions that do not match fail here
    except (ImportError, RuntimeError) as error:
        return "torch", f"{error}; install the pair that constraints.txt names", False
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, encoders run on the CPU"
    return "torch", f"{importlib.metadata.version('torch')}; {device}", True


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


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
    found: dict[str, list[str]] = {}
    for stage in stages:
        try:
            found[stage.name] = CHECKS[stage.name](study, download)
        except WsibenchError as error:
            found[stage.name] = [] if isinstance(error, NotReady) else [str(error)]
    return found


def check(study: Study, stages: Iterable[Stage] = STAGES) -> None:
    """Print the warnings about a study, and raise all its faults at once.

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


def _tiling(study: Study) -> list[str]:
    """Open a sample of the slides: some state no resolution, others cannot be read."""
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
    with tiling.open_slide(task.path, task.mpp, assumed_mpp=task.settings.slide_mpp):
        pass


def _embedding(study: Study, download: bool) -> list[str]:
    found = []
    for encoder in [] if study.parts else embedding.tile_encoders(study):
        try:
            if _due(study, 3):
                embedding.find_weights(study, encoder.name, download=download)
        except WsibenchError as error:
            found.append(str(error))
    return found


def _assembly(study: Study) -> list[str]:
    tables = [study.resolve(each.table) for each in study.features.values()]
    return [f"There is no table {path}. Correct its path in study.yaml." for path in tables if not path.exists()]


# Of a stage: faults of a study, which may download weights.
CHECKS: dict[str, Callable[[Study, bool], list[str]]] = {
    "01_cohort": lambda study, _: cohort.check(study) if not study.parts and (_due(study, 1) or _due(study, 4)) else [],
    "02_tiling": lambda study, _: _tiling(study),
    "03_embedding": _embedding,
    "04_assembly": lambda study, _: _assembly(study),
    "05_regression": lambda study, _: regression.check(study),
    "06_ranking": lambda study, _: ranking.check(study) if _due(study, 6) else [],
    "07_figures": lambda study, _: [],
}


def download_plan(study: Study, *, mb_per_s: float = 50.0) -> pd.DataFrame:
    """Estimate slides, RNA, features and disk space of a study with ``cohort: {source: gdc}``.

    The GDC is asked for its list of files (a few MB) unless the study has its snapshot.

    Parameters
    ----------
    study
        The study.
    mb_per_s
        Bandwidth in 10⁶ bytes a second.

    Returns
    -------
    DataFrame
        One row an item: item, files, GB, hours (of the download), note.

    Raises
    ------
    CohortError
        For a cohort of another source, for which nothing is downloaded.
    GdcError
        When the GDC does not answer.
    """
    if not isinstance(study.cohort, GdcCohort):
        source = f"`source: {study.cohort.source}`" if study.cohort else "of an external study"
        raise CohortError(
            f"The cohort of study {study.name} is {source}. Nothing is downloaded for it.",
            "Only `source: gdc` has a plan.",
        )
    files = cohort.remote_files(study)
    slides, rna, missing = files[files["kind"] == "slide"], files[files["kind"] == "rna"], files[files["to_fetch"]]
    patients = f"{slides['patient_id'].nunique()} patients of {slides['site'].nunique()} sites"
    encoders = embedding.tile_encoders(study)
    width = sum(encoder.dim or 0 for encoder in encoders)
    features = len(slides) * study.tiles.max_tiles * width * BYTES_PER_FEATURE
    size, tables = missing["size"].sum(), len(rna) * BYTES_PER_PATIENT
    largest = slides["size"].nlargest(n_workers() or 1).sum()  # slides that are on disk at a time
    names = ", ".join(encoder.name for encoder in encoders)
    kept, streamed = size + features + tables, largest + rna["size"].sum() + features + tables
    here = {study.streamed: "this study"}
    rows = [
        ("slides", len(slides), slides["size"].sum(), None, patients),
        ("RNA", len(rna), rna["size"].sum(), None, "one aliquot a patient"),
        ("to download", len(missing), size, size / (mb_per_s * 3.6e9), f"at {mb_per_s:g} MB/s"),
        ("features", len(slides), features, None, f"at most {study.tiles.max_tiles} tiles a slide: {names}"),
        ("disk needed, slides kept", None, kept, None, here.get(False, "stream: false")),
        ("disk needed, streamed", None, streamed, None, here.get(True, "stream: true")),
        ("disk free", None, _free(study.root), None, str(study.root)),
    ]
    frame = pd.DataFrame(rows, columns=["item", "files", "GB", "hours", "note"])
    frame["GB"] = (frame["GB"] / GB).round(1)
    return frame.round({"hours": 1}).astype({"files": "Int64"})
