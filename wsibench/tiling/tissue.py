"""Where tissue is on a slide: a physical grid of tiles, and which of them are worth looking at."""

from functools import partial

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates

from wsibench.core import SlideError, Tiles
from wsibench.tiling import quality
from wsibench.tiling.slides import Slide, check_damage

MASK_MPP = 8.0
"""µm/px of the thumbnail on which tissue is found: coarse enough to be fast, several pixels a tile."""
SATURATION_RANGE = (15, 30)
"""Bounds (of 255) on Otsu's threshold, which splits even a blank or a full slide in two.

Bare glass stays under the lower one, whatever its tint; faint stroma lies over the upper one.
"""
DARK = 40
"""Value (of 255) under which a pixel is a slide's black border or a label."""
SMALLER = "Correct its mpp in slides.csv, lower tiles.tile_um in study.yaml, or drop the slide."


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


def find_tiles(slide: Slide, settings: Tiles) -> pd.DataFrame:
    """All tiles of a slide that are tissue enough, with what the thumbnail tells of their quality.

    Returns
    -------
    DataFrame
        x, y, row, col, tissue, pen, fold, edge and bubble as `wsibench.tiling.tiles.read_tiles` describes them.

    Raises
    ------
    SlideError
        When the slide is smaller than a tile, or nothing on it is tissue enough.
    """
    grid = physical_grid(slide.size_px, slide.slide_mpp, settings.tile_um)
    if grid.empty:
        size = " × ".join(f"{side * slide.slide_mpp:.0f}" for side in slide.size_px)
        raise SlideError(f"The slide ({size} µm) is smaller than a tile ({settings.tile_um:g} µm).", SMALLER)
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
        The drawn tiles in the order of the grid, as `wsibench.tiling.tiles.read_tiles` describes them.

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
