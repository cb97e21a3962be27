"""Where tissue is: a physical grid of tiles over each slide, the same for every encoder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.ndimage import map_coordinates

from wsibench import quality
from wsibench.artefacts import Artefact, Failure, check_failures, digest, failure, make_key, record_failures, writing
from wsibench.cohort import read_cohort
from wsibench.compute import map_slides
from wsibench.errors import NotReady, SlideError
from wsibench.slides import GIVE_MPP, Slide, check_damage, open_slide
from wsibench.study import LocalCohort, Study, Tiles

FORMAT = 2
STAGE = "tiling"
MASK_MPP = 8.0
"""µm/px of the thumbnail on which tissue is found: coarse enough to be fast, several pixels a tile."""
SATURATION_RANGE = (15, 30)
"""Bounds (of 255) on Otsu's threshold, which splits even a blank or a full slide in two.

Bare glass stays under the lower one, whatever its tint; faint stroma lies over the upper one.
"""
DARK = 40
"""Value (of 255) under which a pixel is a slide's black border or a label."""


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
    failures: list[Failure] = []
    due = [task for task in tasks if task.artefact.due()]
    if study.streamed:
        return _summaries([task for task in tasks if task not in due])
    for task, result in map_slides(_tile_slide, due, label="02 tiling"):
        if isinstance(result, BaseException):
            failures.append(failure(task.slide_id, STAGE, task.artefact.key, result))
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


def find_tiles(slide: Slide, settings: Tiles) -> pd.DataFrame:
    """All tiles of a slide that are tissue enough, with what the thumbnail tells of their quality.

    Returns
    -------
    DataFrame
        x, y, row, col, tissue, pen, fold, edge and bubble as `read_tiles` describes them.

    Raises
    ------
    SlideError
        When the slide is smaller than a tile, or nothing on it is tissue enough.
    """
    grid = physical_grid(slide.size_px, slide.slide_mpp, settings.tile_um)
    if grid.empty:
        size = " × ".join(f"{side * slide.slide_mpp:.0f}" for side in slide.size_px)
        raise SlideError(f"The slide ({size} µm) is smaller than a tile ({settings.tile_um:g} µm).", GIVE_MPP)
    thumbnail, mpp = slide.thumbnail(min(MASK_MPP, settings.tile_um / 8))
    tissue = tissue_mask(thumbnail)
    if not tissue.any():
        raise SlideError("No tissue was found on the slide.", "Look at it; drop it from slides.csv if it is blank.")
    side = settings.tile_um / mpp
    corners = grid[["x", "y"]].to_numpy() * slide.slide_mpp / mpp
    for column, mask in {"tissue": tissue, **quality.masks(thumbnail, tissue, side)}.items():
        grid[column] = area_share(mask, corners, side)
    lost = area_share(_damaged(slide, tissue.shape, mpp), corners, side) > 0
    tiles = grid[(grid.tissue >= settings.min_tissue) & ~lost].reset_index(drop=True)
    if tiles.empty:
        which = "No tile that can be decoded" if lost.any() else "No tile"
        raise SlideError(
            f"{which} is {settings.min_tissue:.0%} tissue; the best is {grid.tissue[~lost].max():.0%}.",
            "Lower tiles.min_tissue or tiles.tile_um in study.yaml, or drop the slide.",
        )
    tiles.attrs = {
        "slide_mpp": slide.slide_mpp,
        "tile_um": settings.tile_um,
        "width_px": slide.size_px[0],
        "height_px": slide.size_px[1],
        "tissue_mm2": float(tissue.sum() * (mpp / 1000) ** 2),
        "n_tissue_tiles": len(tiles),
        "n_damaged": int(lost.sum()),
    }
    return tiles


def _damaged(slide: Slide, shape: tuple[int, int], mpp: float) -> np.ndarray:
    """Where the thumbnail is white only because the file could not be decoded there."""
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in np.rint(slide.damaged() * slide.slide_mpp / mpp).astype(int).tolist():
        mask[top:bottom, left:right] = True
    return mask


def choose_tiles(
    slide: Slide, tiles: pd.DataFrame, settings: Tiles, *, rng: np.random.Generator, max_bad: float
) -> pd.DataFrame:
    """Draw up to `settings.max_tiles` tiles at random, passing over those with an artefact to be dropped.

    Sharpness has to be read from the slide, so that only the tiles drawn are measured.

    Returns
    -------
    DataFrame
        The drawn tiles in the order of the grid, as `read_tiles` describes them.

    Raises
    ------
    SlideError
        When too much of the slide cannot be decoded, or no tile is left.
    """
    check_damage(slide.path, tiles.attrs["n_damaged"], len(tiles) + tiles.attrs["n_damaged"], max_bad)
    order = rng.permutation(len(tiles))
    drawn, n_kept = [], 0
    while n_kept < settings.max_tiles and len(order):
        at, order = np.split(order, [settings.max_tiles - n_kept])
        chosen = tiles.iloc[np.sort(at)]
        measured = _measure(slide, chosen, settings)
        n_kept += int(measured.kept.sum())
        drawn.append(measured)
    n_lost = len(tiles) - len(order) - sum(map(len, drawn))
    check_damage(slide.path, n_lost, len(tiles) - len(order), max_bad)
    found = pd.concat(drawn).sort_index().reset_index(drop=True)
    flagged = quality.flags(found).sum()
    if n_kept == 0:
        counts = ", ".join(f"{flagged[name]} {name}" for name in settings.drop if flagged[name])
        raise SlideError(f"None of {len(found)} tissue tiles is clean: {counts}.", "Look at it, or change tiles.drop.")
    counts = {"n_tiles": n_kept, "n_measured": len(found), "n_damaged": tiles.attrs["n_damaged"] + n_lost}
    found.attrs = tiles.attrs | counts | {f"n_{name}": int(n) for name, n in flagged.items()}
    return found


def _measure(slide: Slide, tiles: pd.DataFrame, settings: Tiles) -> pd.DataFrame:
    """Those of the tiles that can be decoded, with sharpness, flags and whether they are kept."""
    sharpness = np.full(len(tiles), np.nan, np.float32)
    decoded = np.zeros(len(tiles), bool)
    reading = {"tile_um": settings.tile_um, "wanted_mpp": quality.SHARPNESS_MPP, "max_bad": 1.0}
    for indices, pixels in slide.read_tiles(tiles[["x", "y"]].to_numpy(), **reading):
        sharpness[indices] = quality.sharpness(pixels, settings.tile_um)
        decoded[indices] = True
    tiles = tiles.assign(sharpness=sharpness)[decoded]
    shown = quality.flags(tiles)
    names = shown.columns.to_numpy()
    return tiles.assign(
        artefacts=["+".join(names[row]) for row in shown.to_numpy()], kept=~shown[settings.drop].any(axis=1).to_numpy()
    )


def physical_grid(size_px: tuple[int, int], slide_mpp: float, tile_um: float) -> pd.DataFrame:
    """Top-left corners of every whole tile: x, y (level-0 pixels), row, col.

    Each corner is rounded from its own physical place, so that no error adds up along the slide.
    """
    side_px = tile_um / slide_mpp
    # Half a pixel of grace: a slide of exactly n tiles keeps its n-th whatever the float says.
    n_cols, n_rows = (int((size + 0.5) // side_px) for size in size_px)
    row, col = (index.ravel() for index in np.mgrid[:n_rows, :n_cols])
    corners = {"x": np.rint(col * side_px), "y": np.rint(row * side_px), "row": row, "col": col}
    return pd.DataFrame({name: values.astype(np.int64) for name, values in corners.items()})


def tissue_mask(thumbnail: np.ndarray) -> np.ndarray:
    """Stained tissue on a thumbnail of about 4 to 8 µm/px.

    Saturation over Otsu's threshold, kept within bounds that hold for blank and for full slides;
    grey dust, black borders and ink are not tissue.

    Parameters
    ----------
    thumbnail
        uint8 (height, width, 3), RGB.

    Returns
    -------
    ndarray
        bool (height, width).
    """
    smooth = cv2.GaussianBlur(thumbnail, (0, 0), 1.5)
    saturation, value = cv2.split(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))[1:]
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)
    return (saturation > np.clip(otsu, *SATURATION_RANGE)) & (value > DARK) & ~quality.ink(thumbnail)


def area_share(mask: np.ndarray, xy: np.ndarray, side: float) -> np.ndarray:
    """Share of each square that `mask` covers, exact for squares that cut through pixels.

    Parameters
    ----------
    mask
        bool (height, width).
    xy
        (n, 2) top-left corners in pixels of the mask.
    side
        Side of the squares in pixels of the mask.

    Returns
    -------
    ndarray
        float32 (n,).
    """
    # Within a pixel the integral image is bilinear, so interpolating it is exact.
    integral = cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_64F)
    at = partial(map_coordinates, integral, order=1, mode="nearest")
    left, top = np.asarray(xy, float).T
    right, bottom = left + side, top + side
    covered = at([bottom, right]) - at([top, right]) - at([bottom, left]) + at([top, left])
    return np.clip(covered / side**2, 0, 1).astype(np.float32)
