"""Size, download time and disk space of a GDC cohort, before anything is downloaded."""

import shutil

import pandas as pd

from wsibench import cohort
from wsibench.core import CohortError, GdcCohort, Study, n_workers
from wsibench.embedding import tile_encoders

GB = 1e9
BYTES_PER_FEATURE = 2  # float16
BYTES_PER_PATIENT = 60_000 * 4 * 2  # of expression: float32 values and counts of about as many genes


def cohort_plan(study: Study, *, mb_per_s: float = 50.0) -> pd.DataFrame:
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
    slides, rna, missing = (files[files["kind"] == "slide"], files[files["kind"] == "rna"], files[files["to_fetch"]])
    patients = f"{slides['patient_id'].nunique()} patients of {slides['site'].nunique()} sites"
    encoders = tile_encoders(study)
    width = sum(encoder.dim or 0 for encoder in encoders)
    features = len(slides) * study.tiles.max_tiles * width * BYTES_PER_FEATURE
    size, tables = missing["size"].sum(), len(rna) * BYTES_PER_PATIENT
    largest = slides["size"].nlargest(n_workers() or 1).sum()  # slides that are on disk at a time
    names = ", ".join(encoder.name for encoder in encoders)
    kept, streamed = size + features + tables, largest + rna["size"].sum() + features + tables
    free = shutil.disk_usage(next(path for path in (study.root, *study.root.parents) if path.exists())).free
    here = {study.streamed: "this study"}
    rows = [
        ("slides", len(slides), slides["size"].sum(), None, patients),
        ("RNA", len(rna), rna["size"].sum(), None, "one aliquot a patient"),
        ("to download", len(missing), size, size / (mb_per_s * 3.6e9), f"at {mb_per_s:g} MB/s"),
        ("features", len(slides), features, None, f"at most {study.tiles.max_tiles} tiles a slide: {names}"),
        ("disk needed, slides kept", None, kept, None, here.get(False, "stream: false")),
        ("disk needed, streamed", None, streamed, None, here.get(True, "stream: true")),
        ("disk free", None, free, None, str(study.root)),
    ]
    frame = pd.DataFrame(rows, columns=["item", "files", "GB", "hours", "note"])
    frame["GB"] = (frame["GB"] / GB).round(1)
    return frame.round({"hours": 1}).astype({"files": "Int64"})
