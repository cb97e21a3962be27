"""What a GDC cohort will cost in gigabytes, hours and disk, before anything of it is fetched."""

import shutil
from pathlib import Path

import pandas as pd

from wsibench import cohort
from wsibench.core import CohortError, GdcCohort, Study, n_workers
from wsibench.embedding import tile_encoders

MB_PER_S = 50.0
"""Bandwidth to reckon with unless another is given."""
GB = 1e9
FEATURE_BYTES = 2
"""Features are stored as float16."""


def cohort_plan(study: Study, *, mb_per_s: float = MB_PER_S) -> pd.DataFrame:
    """Slides, RNA, features and disk of a `source: gdc` study.

    Asks the GDC for its file list (a few MB, kept as the study's snapshot) when that has not been done.

    Parameters
    ----------
    study
        With ``cohort: {source: gdc}``.
    mb_per_s
        Bandwidth, 10⁶ bytes a second.

    Returns
    -------
    DataFrame
        One row an item: item, files, GB, hours (to fetch, at this bandwidth), says.

    Raises
    ------
    CohortError
        For a cohort from elsewhere: nothing is fetched for it.
    GdcError
        When the GDC does not answer.
    """
    if study.no_cohort:
        raise CohortError(study.no_cohort, "Ask these studies for their plans.")
    if not isinstance(study.cohort, GdcCohort):
        raise CohortError(
            f"The cohort of study {study.name} is `source: {study.cohort.source}`: nothing is fetched for it.",
            "Only `source: gdc` has a plan.",
        )
    files = cohort.remote_files(study)
    slides, rna = files[files["kind"] == "slide"], files[files["kind"] == "rna"]
    to_fetch = files[files["to_fetch"]]
    features = _feature_bytes(study, len(slides))
    tables = 2 * 4 * len(rna) * 60_000  # X and counts of about as many genes
    largest = slides["size"].nlargest(n_workers() or 1).sum()
    patients = f"{slides['patient_id'].nunique()} patients of {slides['site'].nunique()} sites"
    encoders = ", ".join(encoder.name for encoder in tile_encoders(study))
    size, hours = to_fetch["size"].sum(), to_fetch["size"].sum() / (mb_per_s * 3.6e9)
    keeps, streams = size + features + tables, largest + rna["size"].sum() + features + tables
    rows = [
        ("slides", len(slides), slides["size"].sum(), None, patients),
        ("RNA", len(rna), rna["size"].sum(), None, "one aliquot a patient"),
        ("to fetch", len(to_fetch), size, hours, f"at {mb_per_s:g} MB/s"),
        ("features", len(slides), features, None, f"at most {study.tiles.max_tiles} tiles a slide: {encoders}"),
        ("disk needed, slides kept", None, keeps, None, "this study" if not study.cohort.stream else "stream: false"),
        ("disk needed, streamed", None, streams, None, "this study" if study.cohort.stream else "stream: true"),
        ("disk free", None, _free(study.root), None, str(study.root)),
    ]
    frame = pd.DataFrame(rows, columns=["item", "files", "GB", "hours", "says"])
    frame["GB"] = (frame["GB"] / GB).round(1)
    frame["hours"] = frame["hours"].round(1)
    return frame.astype({"files": "Int64"})


def plan_text(plan: pd.DataFrame) -> str:
    """A plan for a terminal."""
    shown = plan.assign(
        files=[f"{n:,}" if pd.notna(n) else "" for n in plan["files"]],
        GB=[f"{gb:,.1f}" for gb in plan["GB"]],
        hours=[f"{hours:.1f}" if pd.notna(hours) else "" for hours in plan["hours"]],
    )
    return shown.to_string(index=False)


def _feature_bytes(study: Study, n_slides: int) -> int:
    dims = sum(encoder.dim for encoder in tile_encoders(study))
    return n_slides * study.tiles.max_tiles * dims * FEATURE_BYTES


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
