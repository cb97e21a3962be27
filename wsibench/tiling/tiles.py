"""Stage 02: the tiles of every slide of a study, the same for every encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from wsibench.cohort.build import read_cohort
from wsibench.core import (
    Artefact,
    LocalCohort,
    NotReady,
    Study,
    Tiles,
    check_failures,
    digest,
    failure,
    make_key,
    parallel_map,
    record_failures,
    writing,
)
from wsibench.tiling import quality
from wsibench.tiling.slides import open_slide
from wsibench.tiling.tissue import choose_tiles, find_tiles

FORMAT = 2
STAGE = "tiling"


@dataclass(frozen=True)
class _Task:
    slide_id: str
    path: Path
    identity: str
    mpp: float | None
    tiles: Tiles
    max_bad: float
    artefact: Artefact


def not_applicable(study: Study) -> str | None:
    """Why the study has nothing to tile, or None."""
    if study.no_cohort:
        return study.no_cohort
    if isinstance(study.cohort, LocalCohort) and study.cohort.slides is None:
        return "The cohort is a table of patients without slides: there is nothing to tile."
    if study.streamed and not (study.cohort_csv.exists() and tiled_slides(study)):
        return (
            "Slides are streamed: 03_embedding fetches, tiles and embeds one after another. "
            "Run this stage again after it, to look at what was tiled."
        )
    return None


def expected(study: Study) -> list[Artefact]:
    """The parquet file of every slide of the cohort; of a streamed one, those that there are."""
    artefacts = [task.artefact for task in _tasks(study)]
    return [artefact for artefact in artefacts if artefact.due() is None] if study.streamed else artefacts


def keys(study: Study) -> dict[str, str]:
    """The key that each slide's tiles have, or will have when it is streamed, by slide_id."""
    return {task.slide_id: task.artefact.key for task in _tasks(study)}


def _tasks(study: Study) -> list[_Task]:
    max_bad = study.limits.bad_tiles
    section = {"tiles": study.tiles.model_dump(mode="json"), "bad_tiles": max_bad}
    tasks = []
    for row in read_cohort(study).itertuples():
        mpp = _given_mpp(row.mpp)
        key = make_key(STAGE, FORMAT, section, made_from=[row.identity, str(mpp)])
        artefact = Artefact(study.tiles_parquet(row.slide_id), key)
        tasks.append(
            _Task(row.slide_id, Path(row.path), row.identity, mpp, study.tiles, study.limits.bad_tiles, artefact)
        )
    return tasks


def _given_mpp(text: str | float) -> float | None:
    return None if text == "" or pd.isna(text) else float(text)


def tile_slides(study: Study) -> pd.DataFrame:
    """Find and sample the tiles of every slide that is due; of a streamed cohort, only say what there is.

    Returns
    -------
    DataFrame
        One row a slide that has tiles: slide_id, slide_mpp, width_um, height_um, tissue_mm2,
        n_tissue_tiles (that are tissue enough), n_tiles (that were kept), n_measured (those of which
        the quality was looked at: all, or as many as it took to keep tiles.max_tiles), n_pen, n_blur,
        n_fold, n_edge, n_bubble (of the measured) and n_damaged (that cannot be decoded).

    Raises
    ------
    TooManyFailures
        When more slides fail than the study's limits allow; each is a row of failures.csv.
    """
    tasks = _tasks(study)
    due = [task for task in tasks if task.artefact.due()]
    if study.streamed:
        return _summaries([task for task in tasks if task not in due])
    results = parallel_map(_tile_slide, due, label="02 tiling", errors="return")
    failures = [
        failure(task.slide_id, STAGE, task.artefact.key, result)
        for task, result in zip(due, results, strict=True)
        if isinstance(result, BaseException)
    ]
    record_failures(study.failures_csv, STAGE, failures)
    check_failures(failures, len(tasks), study.limits.failed_slides)
    failed = {row.slide_id for row in failures}
    return _summaries([task for task in tasks if task.slide_id not in failed])


def tile_slide(study: Study, slide_id: str) -> None:
    """Find and sample the tiles of one slide, whose file has to be there, when they are due.

    Raises
    ------
    SlideError
        When the slide cannot be tiled.
    """
    for task in _tasks(study):
        if task.slide_id == slide_id and task.artefact.due():
            _tile_slide(task)


COUNTS = ["n_tissue_tiles", "n_tiles", "n_measured", *(f"n_{name}" for name in quality.FLAGS), "n_damaged"]
SUMMARY = ["slide_id", "slide_mpp", "width_um", "height_um", "tissue_mm2", *COUNTS]


def _summaries(tasks: list[_Task]) -> pd.DataFrame:
    return pd.DataFrame([_summary(task) for task in tasks], columns=SUMMARY)


def _summary(task: _Task) -> list[Any]:
    attrs = pq.read_schema(task.artefact.path).pandas_metadata["attributes"]
    width_um, height_um = (attrs[side] * attrs["slide_mpp"] for side in ("width_px", "height_px"))
    return [task.slide_id, attrs["slide_mpp"], width_um, height_um, attrs["tissue_mm2"], *(attrs[n] for n in COUNTS)]


def tiled_slides(study: Study) -> list[str]:
    """Ids of the slides whose tiles are at hand and current, in the order of the cohort."""
    return [task.slide_id for task in _tasks(study) if task.artefact.due() is None]


def read_tiles(study: Study, slide_id: str, *, dropped: bool = False) -> pd.DataFrame:
    """The tiles of one slide.

    Parameters
    ----------
    dropped
        Give the tiles that were left out for an artefact as well; `kept` tells them apart.

    Returns
    -------
    DataFrame
        x, y (int64, level-0 pixels of the top-left corner), row, col (int64, of the grid), tissue,
        pen, fold, edge, bubble (float32, shares of the tile), sharpness (float32, grey levels² at
        1 µm/px), artefacts (str, joined by ``+``), kept (bool); sorted by row and column.
        ``attrs``: slide_id, slide_mpp (µm/px, already settled: hand it to `open_slide`), tile_um,
        width_px, height_px, tissue_mm2, and the counts of `tile_slides`.

    Raises
    ------
    NotReady
        When the slide has not been tiled.
    """
    path = study.tiles_parquet(slide_id)
    if not path.exists():
        raise NotReady(f"Slide {slide_id} has no tiles.", "Run 02_tiling; failures.csv may say why it has none.")
    tiles = pd.read_parquet(path)
    return tiles if dropped else tiles[tiles.kept].reset_index(drop=True)


def _tile_slide(task: _Task) -> None:
    cv2.setNumThreads(1)  # slides are already one to a process
    with open_slide(task.path, slide_mpp=task.mpp, assumed_mpp=task.tiles.slide_mpp) as slide:
        tiles = find_tiles(slide, task.tiles)
        rng = np.random.default_rng(int(digest([task.tiles.seed, task.identity]), 16))
        tiles = choose_tiles(slide, tiles, task.tiles, rng=rng, max_bad=task.max_bad)
    tiles.attrs["slide_id"] = task.slide_id
    with writing(task.artefact, slide_id=task.slide_id, n_tiles=tiles.attrs["n_tiles"]) as temporary:
        tiles.to_parquet(temporary, index=False)
