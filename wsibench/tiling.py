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

from wsibench.artefacts import Artefact, Failure, check_failures, digest, failure, make_key, record_failures, writing
from wsibench.cohort import read_cohort
from wsibench.compute import map_slides
from wsibench.errors import NotReady, SlideError
from wsibench.slides import GIVE_MPP, Slide, open_slide
from wsibench.study import LocalCohort, Study, Tiles

FORMAT = 1
STAGE = "tiling"
MASK_MPP = 8.0
"""µm/px of the thumbnail on which tissue is found: coarse enough to be fast, several pixels a tile."""
SATURATION_RANGE = (15, 30)
"""Bounds (of 255) on Otsu's threshold, which splits even a blank or a full slide in two.

Bare glass stays under the lower one, whatever its tint; faint stroma lies over the upper one.
"""
DARK = 40
"""Value (of 255) under which a pixel is a slide's black border, a label or a marker."""
INK_MARGIN = 10
"""Green exceeding red by this much (of 255) is no stain but blue or green ink: H&E absorbs green most."""


@dataclass(frozen=True)
class _Task:
    slide_id: str
    path: Path
    identity: str
    mpp: float | None
    tiles: Tiles
    artefact: Artefact


def not_applicable(study: Study) -> str | None:
    """Why the study has nothing to tile, or None."""
    if isinstance(study.cohort, LocalCohort) and study.cohort.slides is None:
        return "The cohort is a table of patients without slides: there is nothing to tile."
    return None


def expected(study: Study) -> list[Artefact]:
    """The parquet file of every slide of the cohort."""
    return [task.artefact for task in _tasks(study)]


def _tasks(study: Study) -> list[_Task]:
    section = study.tiles.model_dump(mode="json")
    tasks = []
    for row in read_cohort(study).itertuples():
        mpp = _given_mpp(row.mpp)
        key = make_key(STAGE, FORMAT, section, made_from=[row.identity, str(mpp)])
        artefact = Artefact(study.tiles_parquet(row.slide_id), key)
        tasks.append(_Task(row.slide_id, Path(row.path), row.identity, mpp, study.tiles, artefact))
    return tasks


def _given_mpp(text: str | float) -> float | None:
    return None if text == "" or pd.isna(text) else float(text)


def tile_slides(study: Study) -> pd.DataFrame:
    """Find and sample the tiles of every slide that is due.

    Returns
    -------
    DataFrame
        One row a slide that has tiles: slide_id, slide_mpp, width_um, height_um, tissue_mm2,
        n_tissue_tiles (that qualify) and n_tiles (that were kept).

    Raises
    ------
    TooManyFailures
        When more slides fail than the study's limits allow; each is a row of failures.csv.
    """
    tasks = _tasks(study)
    failures: list[Failure] = []
    due = [task for task in tasks if task.artefact.due()]
    for task, result in map_slides(_tile_slide, due, label="02 tiling"):
        if isinstance(result, BaseException):
            failures.append(failure(task.slide_id, STAGE, task.artefact.key, result))
    record_failures(study.failures_csv, STAGE, failures)
    check_failures(failures, len(tasks), study.limits.failed_slides)
    failed = {row.slide_id for row in failures}
    return pd.DataFrame([_summary(task) for task in tasks if task.slide_id not in failed], columns=SUMMARY)


SUMMARY = ["slide_id", "slide_mpp", "width_um", "height_um", "tissue_mm2", "n_tissue_tiles", "n_tiles"]


def _summary(task: _Task) -> list[Any]:
    file = pq.ParquetFile(task.artefact.path)
    attrs = file.schema_arrow.pandas_metadata["attributes"]
    side_um = [attrs[side] * attrs["slide_mpp"] for side in ("width_px", "height_px")]
    known = [attrs[name] for name in ("tissue_mm2", "n_tissue_tiles")]
    return [task.slide_id, attrs["slide_mpp"], *side_um, *known, file.metadata.num_rows]


def tiled_slides(study: Study) -> list[str]:
    """Ids of the slides whose tiles are at hand and current, in the order of the cohort."""
    return [task.slide_id for task in _tasks(study) if task.artefact.due() is None]


def read_tiles(study: Study, slide_id: str) -> pd.DataFrame:
    """The tiles of one slide.

    Returns
    -------
    DataFrame
        x, y (int64, level-0 pixels of the top-left corner), row, col (int64, of the grid), tissue
        (float32, share of the tile), sorted by row and column.
        ``attrs``: slide_id, slide_mpp (µm/px, already settled: hand it to `open_slide`), tile_um,
        width_px, height_px, tissue_mm2, n_tissue_tiles.

    Raises
    ------
    NotReady
        When the slide has not been tiled.
    """
    path = study.tiles_parquet(slide_id)
    if not path.exists():
        raise NotReady(f"Slide {slide_id} has no tiles.", "Run 02_tiling; failures.csv may say why it has none.")
    return pd.read_parquet(path)


def _tile_slide(task: _Task) -> None:
    cv2.setNumThreads(1)  # slides are already one to a process
    with open_slide(task.path, slide_mpp=task.mpp, assumed_mpp=task.tiles.slide_mpp) as slide:
        tiles = find_tiles(slide, task.tiles)
    kept = sample(tiles, task.tiles.max_tiles, seed=digest([task.tiles.seed, task.identity]))
    kept.attrs["slide_id"] = task.slide_id
    with writing(task.artefact, slide_id=task.slide_id, n_tiles=len(kept)) as temporary:
        kept.to_parquet(temporary, index=False)


def find_tiles(slide: Slide, settings: Tiles) -> pd.DataFrame:
    """All tiles of a slide that are tissue enough, as `read_tiles` describes them.

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
    mask = tissue_mask(thumbnail)
    if not mask.any():
        raise SlideError("No tissue was found on the slide.", "Look at it; drop it from slides.csv if it is blank.")
    to_mask = slide.slide_mpp / mpp
    grid["tissue"] = area_share(mask, grid[["x", "y"]].to_numpy() * to_mask, settings.tile_um / mpp)
    tiles = grid[grid.tissue >= settings.min_tissue].reset_index(drop=True)
    if tiles.empty:
        raise SlideError(
            f"No tile is {settings.min_tissue:.0%} tissue; the best is {grid.tissue.max():.0%}.",
            "Lower tiles.min_tissue or tiles.tile_um in study.yaml, or drop the slide.",
        )
    tiles.attrs = {
        "slide_mpp": slide.slide_mpp,
        "tile_um": settings.tile_um,
        "width_px": slide.size_px[0],
        "height_px": slide.size_px[1],
        "tissue_mm2": float(mask.sum() * (mpp / 1000) ** 2),
        "n_tissue_tiles": len(tiles),
    }
    return tiles


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
    grey dust, black borders and blue or green ink are not tissue.

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
    red, green = smooth[..., 0].astype(np.int16), smooth[..., 1].astype(np.int16)
    return (saturation > np.clip(otsu, *SATURATION_RANGE)) & (value > DARK) & (green - red < INK_MARGIN)


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


def sample(tiles: pd.DataFrame, n: int, *, seed: str) -> pd.DataFrame:
    """At most `n` of the tiles, drawn at random, in their old order."""
    if len(tiles) <= n:
        return tiles
    rng = np.random.default_rng(int(seed, 16))
    return tiles.iloc[np.sort(rng.choice(len(tiles), n, replace=False))].reset_index(drop=True)
