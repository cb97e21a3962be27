"""What spoils a tile: pen, folds, tissue edges, bubbles and blur, by cheap measures with stated limits.

All but blur are read off the thumbnail on which tissue is found; blur needs pixels of 1 µm.  Optical
density is −log10(intensity / 255), proportional to the amount of stain (Beer and Lambert).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

SHARPNESS_MPP = 1.0
"""µm/px at which sharpness is measured, whatever the slide's own."""
RED_BLOCKED = 0.7
"""Optical density in red that no H&E stain reaches over 8 µm, but black, blue and green markers do."""
GREEN_OVER_RED = 5
"""Grey levels by which green exceeds red in blue and green ink; H&E absorbs green most."""
BLUE_BLOCKED, BLUE_TO_GREEN = 0.75, 0.75
"""Optical density in blue, and its ratio to green's, of red ink; eosin hardly absorbs blue."""
FOLD_DENSITY = 1.6
"""Optical density relative to the slide's median tissue: a fold is tissue twice.

The coarsest of these measures: thick keratin or crowded nuclei in pale tissue pass for folds as well.
"""
GREY_SATURATION, GREY_BELOW_GLASS = 25, 30
"""Saturation under which, and levels below the glass from which, a pixel is a bubble's rim or dust."""
INKED = 15
"""Least saturation (of 255) of coloured ink."""


@dataclass(frozen=True)
class Flag:
    """When a measure makes a tile an artefact."""

    column: str
    limit: float
    above: bool
    """Whether values above the limit are bad, or those below."""

    def of(self, tiles: pd.DataFrame) -> np.ndarray:
        """bool (n,); a tile that was not measured (NaN) is not flagged."""
        values = tiles[self.column].to_numpy()
        return values > self.limit if self.above else values < self.limit


FLAGS: dict[str, Flag] = {
    "pen": Flag("pen", 0.05, above=True),  # share under ink
    "blur": Flag("sharpness", 90.0, above=False),  # variance of the Laplacian of grey, at 1 µm/px
    "fold": Flag("fold", 0.15, above=True),  # share that is about twice as dense as the slide's tissue
    "edge": Flag("edge", 0.10, above=True),  # share of glass that lies outside the tissue, lumens not counted
    "bubble": Flag("bubble", 0.10, above=True),  # share that is darker than glass and colourless
}


def ink(thumbnail: np.ndarray) -> np.ndarray:
    """Black, blue, green and red marker.

    Parameters
    ----------
    thumbnail
        uint8 (height, width, 3), RGB, at 4 to 8 µm/px: finer, single nuclei are as dense as ink.

    Returns
    -------
    ndarray
        bool (height, width).
    """
    smooth = _smooth(thumbnail)
    red, green, blue = cv2.split(_density(smooth))
    saturation = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
    greenish = smooth[..., 1].astype(np.int16) - smooth[..., 0] >= GREEN_OVER_RED
    reddish = (blue > BLUE_BLOCKED) & (blue > BLUE_TO_GREEN * green) & (red < 0.4 * green)
    return (red > RED_BLOCKED) | (greenish & (saturation > INKED)) | reddish


def masks(thumbnail: np.ndarray, tissue: np.ndarray, tile_px: float) -> dict[str, np.ndarray]:
    """Where a slide has pen, folds, glass outside the tissue, and bubbles.

    Parameters
    ----------
    thumbnail
        uint8 (height, width, 3), RGB, at 4 to 8 µm/px.
    tissue
        bool (height, width).
    tile_px
        Side of a tile on the thumbnail: smaller pieces of glass are lumens, not the outside.

    Returns
    -------
    dict
        bool (height, width) for the columns ``pen``, ``fold``, ``edge`` and ``bubble``.
    """
    smooth = _smooth(thumbnail)
    pen = ink(thumbnail)
    density = _density(smooth).mean(2)
    usual = np.median(density[tissue]) if tissue.any() else np.inf
    saturation, value = cv2.split(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))[1:]
    glass = np.median(value[~tissue & ~pen]) if (~tissue & ~pen).any() else 255
    return {
        "pen": pen,
        "fold": tissue & (density > FOLD_DENSITY * usual),
        "edge": _large(~tissue & ~pen, tile_px**2),
        "bubble": ~pen & (saturation < GREY_SATURATION) & (value < glass - GREY_BELOW_GLASS),
    }


def sharpness(tiles: np.ndarray, tile_um: float) -> np.ndarray:
    """Variance of the Laplacian of grey, at 1 µm/px.

    A defocus of σ = 2 µm brings H&E from several hundred to under 70 grey levels².

    Parameters
    ----------
    tiles
        uint8 (n, px, px, 3), RGB.
    tile_um
        Their side in µm.

    Returns
    -------
    ndarray
        float32 (n,); NaN for tiles whose pixels are too coarse to tell.
    """
    px = round(tile_um / SHARPNESS_MPP)
    if tiles.shape[1] < 0.9 * px:
        return np.full(len(tiles), np.nan, np.float32)
    found = []
    for tile in tiles:
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (px, px), interpolation=cv2.INTER_AREA)
        found.append(cv2.Laplacian(grey, cv2.CV_32F).var())
    return np.array(found, np.float32)


def flags(tiles: pd.DataFrame) -> pd.DataFrame:
    """Which artefacts each tile shows: a bool column for each of `FLAGS`."""
    return pd.DataFrame({name: flag.of(tiles) for name, flag in FLAGS.items()}, index=tiles.index)


def _smooth(thumbnail: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(thumbnail, (0, 0), 1.0)


def _density(image: np.ndarray) -> np.ndarray:
    """Optical density, float32, by channel."""
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    return table[image]


def _large(mask: np.ndarray, area: float) -> np.ndarray:
    """The connected parts of a mask that have at least `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False  # label 0 is what lies outside the mask
    return keep[labels]
