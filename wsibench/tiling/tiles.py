"""Stage 02: find and choose the tiles of every slide of a study, the same for all encoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from wsibench.cohort import read_cohort
from wsibench.core import (
    Artefact,
    NotReady,
    Study,
    TileArtefact,
    Tiles,
    check_failures,
    digest,
    failure,
    make_key,
    parallel_map,
    record_failures,
    writing,
)

FORMAT = 2
STAGE = "tiling"
COUNTS = ["n_tissue_tiles", "n_tiles", "n_measured", *(f"n_{name}" for name in get_args(TileArtefact)), "n_damaged"]
SUMMARY = ["slide_id", "slide_mpp", "width_um", "height_um", "tissue_mm2", *COUNTS]


@dataclass(frozen=True)
class TilingTask:
    """One slide to tile, the settings to do it with, and the parquet file to write."""

    slide_id: str
    path: Path
    # µm per level-0 pixel that the sample table states.
    mpp: float | None
    settings: Tiles
    # Seed of the random choice of tiles, of this slide alone.
    seed: int
    max_bad: float
    artefact: Artefact


def not_applicable(study: Study) -> str | None:
    """Return the reason why the study has nothing to tile, or None."""
    if study.no_cohort:
        return study.no_cohort
    if study.without_slides:
        return "The cohort is a table of patients without slides: there is nothing to tile."
    if study.streamed and not (study.cohort_csv.exists() and tiled_slides(study)):
        return (
            "Slides are streamed: 03_embedding fetches, tiles and embeds one after another. "
            "Run this stage again after it, to look at the tiles."
        )
    return None


def expected(study: Study) -> list[Artefact]:
    """Return the parquet file of every slide of the cohort; of a streamed cohort, those that exist."""
    artefacts = [task.artefact for task in tasks(study)]
    return [artefact for artefact in artefacts if artefact.due() is None] if study.streamed else artefacts


def tasks(study: Study) -> list[TilingTask]:
    """Return one task a slide of the cohort, in its order."""
    tiles, max_bad = study.tiles, study.limits.bad_tiles
    section = {"tiles": tiles.model_dump(mode="json"), "bad_tiles": max_bad}
    made = []
    for row in read_cohort(study).itertuples():
        mpp = None if row.mpp == "" or pd.isna(row.mpp) else float(row.mpp)
        key = make_key(STAGE, FORMAT, section, made_from=[row.identity, str(mpp)])
        seed = int(digest([tiles.seed, row.identity]), 16)
        artefact = Artefact(study.tiles_parquet(row.slide_id), key)
        made.append(TilingTask(row.slide_id, Path(row.path), mpp, tiles, seed, max_bad, artefact))
    return made


def tile_slides(study: Study) -> pd.DataFrame:
    """Find and choose the tiles of every slide that is due; summarise those of a streamed cohort.

    Returns
    -------
    DataFrame
        One row for each slide that has tiles: slide_id, slide_mpp, width_um, height_um, tissue_mm2,
        n_tissue_tiles (with enough tissue), n_tiles (kept), n_measured (drawn until tiles.max_tiles
        were kept), n_pen, n_blur, n_fold, n_edge, n_bubble (of the measured) and n_damaged
        (undecodable).

    Raises
    ------
    TooManyFailures
        If more slides fail than the study's limits allow; each is a row of failures.csv.
    """
    every = tasks(study)
    due = [task for task in every if task.artefact.due()]
    if study.streamed:
        return _summaries([task for task in every if task not in due])
    results = parallel_map(tile_slide, due, label="02 tiling", errors="return")
    failures = [
        failure(task.slide_id, STAGE, task.artefact.key, result)
        for task, result in zip(due, results, strict=True)
        if isinstance(result, BaseException)
    ]
    record_failures(study.failures_csv, STAGE, failures)
    check_failures(failures, len(every), study.limits.failed_slides)
    failed = {row.slide_id for row in failures}
    return _summaries([task for task in every if task.slide_id not in failed])


def tile_slide(task: TilingTask) -> None:
    """Find and choose the tiles of one slide, and write them.

    Raises
    ------
    SlideError
        If the slide cannot be tiled.
    """
    import cv2

    from wsibench.tiling import choose_tiles, find_tiles, open_slide  # whose libraries `expected` does not need

    cv2.setNumThreads(1)  # slides are already processed in parallel
    settings, rng = task.settings, np.random.default_rng(task.seed)
    with open_slide(task.path, task.mpp, assumed_mpp=settings.slide_mpp) as slide:
        tiles = find_tiles(slide, tile_um=settings.tile_um, min_tissue=settings.min_tissue)
        tiles = choose_tiles(
            slide, tiles, rng=rng, max_tiles=settings.max_tiles, drop=settings.drop, max_bad=task.max_bad
        )
    tiles.attrs["slide_id"] = task.slide_id
    with writing(task.artefact, slide_id=task.slide_id, n_tiles=tiles.attrs["n_tiles"]) as temporary:
        tiles.to_parquet(temporary, index=False)


def _summaries(done: list[TilingTask]) -> pd.DataFrame:
    attrs = [pq.read_schema(task.artefact.path).pandas_metadata["attributes"] for task in done]
    made = pd.DataFrame(attrs, columns=["slide_id", "slide_mpp", "width_px", "height_px", "tissue_mm2", *COUNTS])
    for side in ("width", "height"):
        made[f"{side}_um"] = made[f"{side}_px"] * made["slide_mpp"]
    return made[SUMMARY]


def tiled_slides(study: Study) -> list[str]:
    """Return the ids of the slides whose tiles are current, in the order of the cohort."""
    return [task.slide_id for task in tasks(study) if task.artefact.due() is None]


def read_tiles(path: Path, *, dropped: bool = False) -> pd.DataFrame:
    """Read the tiles of one slide.

    Parameters
    ----------
    path
        The slide's parquet file, ``study.tiles_parquet(slide_id)``.
    dropped
        Include the tiles that were left out for an artefact, for which `kept` is False.

    Returns
    -------
    DataFrame
        x, y (int64, level-0 pixels of the top-left corner), row, col (int64, of the grid), tissue,
        pen, fold, edge, bubble (float32, shares of the tile), sharpness (float32, grey levels² at
        1 µm/px), artefacts (str, joined by ``+``), kept (bool); sorted by row and column.
        ``attrs``: slide_id, slide_mpp (µm/px, to open the slide with), tile_um, width_px, height_px,
        tissue_mm2, and the counts of `tile_slides`.

    Raises
    ------
    NotReady
        If the slide has not been tiled.
    """
    if not path.exists():
        raise NotReady(f"Slide {path.stem} has no tiles.", "Run 02_tiling; failures.csv may give the reason.")
    tiles = pd.read_parquet(path)
    return tiles if dropped else tiles[tiles.kept].reset_index(drop=True)
