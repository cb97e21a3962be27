"""Tissue detection on a thumbnail, the grid of tiles over it, the random choice of tiles to embed, and pictures."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates

from wsibench.core import SlideError, parallel_map
from wsibench.tiling import quality
from wsibench.tiling.slides import MAX_BAD, Slide, check_damage, open_slide

# µm/px of the thumbnail on which tissue is found.
MASK_MPP = 8.0
# Bounds (of 255) on Otsu's threshold of saturation, which splits even a blank or a full slide in two. Bare glass of any
# tint lies below the lower bound, faint stroma above the upper one.
SATURATION_RANGE = (15, 30)
# Maximum value (of 255) of a slide's black border or label.
DARK = 40
# Pixels on the longer side of a thumbnail.
LONGEST_PX = 450
SMALLER = "Correct its mpp in slides.csv, lower tiles.tile_um in study.yaml, or drop the slide."


def physical_grid(size_px: tuple[int, int], slide_mpp: float, tile_um: float) -> pd.DataFrame:
    """Return the top-left corners of all whole tiles of a slide.

    Each corner is rounded from its own physical position, so that errors do not accumulate along the slide.

    Parameters
    ----------
    size_px
        Width and height of level 0.
    slide_mpp
        µm per level-0 pixel.
    tile_um
        Side of a tile in µm.

    Returns
    -------
    DataFrame
        int64 columns x, y (level-0 pixels), row, col (of the grid).
    """
    side_px = tile_um / slide_mpp
    # Half a pixel of tolerance: a slide of exactly n tiles keeps its n-th despite rounding.
    n_cols, n_rows = (int((size + 0.5) // side_px) for size in size_px)
    row, col = (index.ravel() for index in np.mgrid[:n_rows, :n_cols])
    corners = {"x": np.rint(col * side_px), "y": np.rint(row * side_px), "row": row, "col": col}
    return pd.DataFrame({name: values.astype(np.int64) for name, values in corners.items()})


def tissue_mask(thumbnail: np.ndarray) -> np.ndarray:
    """Segment stained tissue on a thumbnail of about 4 to 8 µm/px.

    Tissue is more saturated than Otsu's threshold, which is clipped to bounds that suit blank and full
    slides; grey dust, black borders and ink are not tissue.

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
    """Share of each square that `mask` covers, exact also for squares that cut through pixels.

    Parameters
    ----------
    mask
        bool (height, width).
    xy
        float (n, 2), top-left corners in pixels of the mask.
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


def find_tiles(slide: Slide, *, tile_um: float = 112.0, min_tissue: float = 0.5) -> pd.DataFrame:
    """Find the tiles of a slide that contain enough tissue, and measure artefacts on the thumbnail.

    Parameters
    ----------
    slide
        An open slide.
    tile_um
        Side of a tile in µm.
    min_tissue
        Minimum share of a tile that is tissue.

    Returns
    -------
    DataFrame
        Columns x, y, row, col, tissue, pen, fold, edge and bubble as in `read_tiles`.

    Raises
    ------
    SlideError
        If the slide is smaller than a tile, or no tile contains enough tissue.
    """
    grid = physical_grid(slide.size_px, slide.slide_mpp, tile_um)
    if grid.empty:
        size = " × ".join(f"{side * slide.slide_mpp:.0f}" for side in slide.size_px)
        raise SlideError(f"The slide ({size} µm) is smaller than a tile ({tile_um:g} µm).", SMALLER)
    thumbnail, mpp = slide.thumbnail(min(MASK_MPP, tile_um / 8))
    tissue = tissue_mask(thumbnail)
    if not tissue.any():
        raise SlideError("No tissue was found on the slide.", "Look at it; drop it from slides.csv if it is blank.")
    side = tile_um / mpp
    corners = grid[["x", "y"]].to_numpy() * slide.slide_mpp / mpp
    for column, mask in {"tissue": tissue, **quality.masks(thumbnail, tissue, side)}.items():
        grid[column] = area_share(mask, corners, side)
    damaged = area_share(_damaged_mask(slide, tissue.shape, mpp), corners, side) > 0
    tiles = grid[(grid.tissue >= min_tissue) & ~damaged].reset_index(drop=True)
    if tiles.empty:
        which = "No tile that can be decoded" if damaged.any() else "No tile"
        raise SlideError(
            f"{which} is {min_tissue:.0%} tissue; the best is {grid.tissue[~damaged].max():.0%}.",
            "Lower tiles.min_tissue or tiles.tile_um in study.yaml, or drop the slide.",
        )
    tiles.attrs = {
        "slide_mpp": slide.slide_mpp,
        "tile_um": tile_um,
        "width_px": slide.size_px[0],
        "height_px": slide.size_px[1],
        "tissue_mm2": float(tissue.sum() * (mpp / 1000) ** 2),
        "n_tissue_tiles": len(tiles),
        "n_damaged": int(damaged.sum()),
    }
    return tiles


def _damaged_mask(slide: Slide, shape: tuple[int, int], mpp: float) -> np.ndarray:
    """Pixels of the thumbnail that are white only because the file could not be decoded there."""
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in np.rint(slide.damaged() * slide.slide_mpp / mpp).astype(int).tolist():
        mask[top:bottom, left:right] = True
    return mask


def choose_tiles(
    slide: Slide,
    tiles: pd.DataFrame,
    *,
    rng: np.random.Generator,
    max_tiles: int = 4000,
    drop: Collection[str] = ("pen", "blur"),
    max_bad: float = MAX_BAD,
) -> pd.DataFrame:
    """Draw tiles at random, without replacement, until `max_tiles` of them are free of artefacts.

    Sharpness is measured on the drawn tiles alone, because it needs pixels at 1 µm.

    Parameters
    ----------
    slide
        The open slide.
    tiles
        Its tiles from `find_tiles`.
    rng
        Random number generator of the draw.
    max_tiles
        Maximum number of tiles to keep.
    drop
        Artefacts whose tiles are not kept: keys of `quality.FLAGS`.
    max_bad
        Share of the tiles that may be undecodable.

    Returns
    -------
    DataFrame
        The drawn tiles in the order of the grid, with the columns of `read_tiles`.

    Raises
    ------
    SlideError
        If too much of the slide cannot be decoded, or every tile shows an artefact.
    """
    n_damaged, n_all = tiles.attrs["n_damaged"], len(tiles)
    check_damage(slide.path, n_damaged, n_all + n_damaged, max_bad)
    remaining = rng.permutation(n_all)
    drawn, n_kept = [], 0
    while n_kept < max_tiles and len(remaining):
        rows, remaining = np.split(remaining, [max_tiles - n_kept])
        measured = _measure(slide, tiles.iloc[np.sort(rows)], tiles.attrs["tile_um"], drop)
        n_kept += int(measured.kept.sum())
        drawn.append(measured)
    n_undecodable = n_all - len(remaining) - sum(map(len, drawn))
    check_damage(slide.path, n_undecodable, n_all - len(remaining), max_bad)
    chosen = pd.concat(drawn).sort_index().reset_index(drop=True)
    flagged = quality.flags(chosen).sum()
    if n_kept == 0:
        reasons = ", ".join(f"{flagged[name]} {name}" for name in drop if flagged[name])
        raise SlideError(
            f"None of {len(chosen)} tissue tiles is clean: {reasons}.", "Look at it, or change tiles.drop."
        )
    counts = {"n_tiles": n_kept, "n_measured": len(chosen), "n_damaged": n_damaged + n_undecodable}
    chosen.attrs = tiles.attrs | counts | {f"n_{name}": int(n) for name, n in flagged.items()}
    return chosen


def _measure(slide: Slide, tiles: pd.DataFrame, tile_um: float, drop: Collection[str]) -> pd.DataFrame:
    """Add sharpness, artefacts and `kept` to the tiles, leaving out those that cannot be decoded."""
    sharpness = np.full(len(tiles), np.nan, np.float32)
    decoded = np.zeros(len(tiles), bool)
    xy = tiles[["x", "y"]].to_numpy()
    for rows, pixels in slide.read_tiles(xy, tile_um=tile_um, wanted_mpp=quality.SHARPNESS_MPP, max_bad=1.0):
        sharpness[rows] = quality.sharpness(pixels, tile_um)
        decoded[rows] = True
    tiles = tiles.assign(sharpness=sharpness)[decoded]
    flags = quality.flags(tiles)
    names = flags.columns.to_numpy()
    return tiles.assign(
        artefacts=["+".join(names[row]) for row in flags.to_numpy()], kept=~flags[list(drop)].any(axis=1).to_numpy()
    )


@dataclass(frozen=True)
class Thumbnail:
    """Small picture of a slide."""

    # uint8 (height, width, 3).
    image: np.ndarray
    # µm per level-0 pixel.
    slide_mpp: float
    # Width and height of the slide (µm).
    size_um: tuple[float, float]
    # bool (height, width) at `tissue_mpp` µm/px.
    tissue: np.ndarray
    tissue_mpp: float

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue (mm²)."""
        return float(self.tissue.sum() * (self.tissue_mpp / 1000) ** 2)


def thumbnail(slide: Slide, *, longest_px: int = LONGEST_PX, tile_um: float = 112.0) -> Thumbnail:
    """Picture of a slide with the mask of its tissue.

    Parameters
    ----------
    slide
        Open slide.
    longest_px
        Pixels on the longer side of the picture.
    tile_um
        Side of the tiles (µm), which bounds the resolution of the mask as in tiling.
    """
    width, height = (side * slide.slide_mpp for side in slide.size_px)
    image, _ = slide.thumbnail(max(width, height) / longest_px)
    fine, mpp = slide.thumbnail(min(MASK_MPP, tile_um / 8))
    return Thumbnail(image, slide.slide_mpp, (width, height), tissue_mask(fine), mpp)


def thumbnails(
    slides: pd.DataFrame, assumed_mpp: float | None = None, tile_um: float = 112.0
) -> dict[str, Thumbnail | Exception]:
    """Thumbnails of slides, each made in a process of its own, so that a bad file costs its own picture alone.

    Parameters
    ----------
    slides
        Columns slide_id, path and mpp (µm per level-0 pixel; empty where the file states it).
    assumed_mpp
        µm per level-0 pixel for a file that states none.
    tile_um
        Side of the tiles (µm), which bounds the resolution of the tissue mask.

    Returns
    -------
    dict
        The thumbnail of each slide, or the exception that reading it raised, in the order of `slides`.
    """
    make = partial(_thumbnail, assumed_mpp=assumed_mpp, tile_um=tile_um)
    made = parallel_map(
        make, list(zip(slides["path"], slides["mpp"], strict=True)), label="thumbnails", errors="return"
    )
    return dict(zip(slides["slide_id"], made, strict=True))


def _thumbnail(path_mpp: tuple[str, str], assumed_mpp: float | None, tile_um: float) -> Thumbnail:
    path, mpp = path_mpp
    with open_slide(path, float(mpp) if mpp else None, assumed_mpp=assumed_mpp) as slide:
        return thumbnail(slide, tile_um=tile_um)
