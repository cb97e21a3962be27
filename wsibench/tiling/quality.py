"""Tile artefacts: pen, folds, tissue edges, bubbles and blur, by cheap measures with fixed limits.

All but blur are measured on the thumbnail on which tissue is found; blur needs pixels of 1 µm. Optical
density is −log10(intensity / 255), proportional to the amount of stain (Beer and Lambert).
"""

import operator
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd

# µm/px at which sharpness is measured on every slide.
SHARPNESS_MPP = 1.0
# Optical density in red above which a pixel at 8 µm/px is ink: no H&E stain reaches it, markers do.
RED_BLOCKED = 0.7
# Grey levels by which green exceeds red in blue and green ink; H&E absorbs green most.
GREEN_OVER_RED = 5
# Minimum optical density in blue, and its ratio to green's, of red ink; eosin hardly absorbs blue.
BLUE_BLOCKED, BLUE_TO_GREEN = 0.75, 0.75
# Minimum optical density of a fold, relative to the slide's median tissue; a fold is two layers. The least specific of
# these measures: thick keratin or crowded nuclei in pale tissue exceed it as well.
FOLD_DENSITY = 1.6
# Maximum saturation, and minimum grey levels below glass, of a bubble's rim or dust.
GREY_SATURATION, GREY_BELOW_GLASS = 25, 30
# Minimum saturation (of 255) of coloured ink.
INKED = 15


# Artefacts: the column measured, and the comparison with a limit that flags a tile; NaN is never flagged.
FLAGS: dict[str, tuple[str, Callable[..., np.ndarray], float]] = {
    "pen": ("pen", operator.gt, 0.05),  # share under ink
    "blur": ("sharpness", operator.lt, 90.0),  # variance of the Laplacian of grey, at 1 µm/px
    "fold": ("fold", operator.gt, 0.15),  # share that is about twice as dense as the slide's tissue
    "edge": ("edge", operator.gt, 0.10),  # share of glass that lies outside the tissue, lumens not counted
    "bubble": ("bubble", operator.gt, 0.10),  # share that is darker than glass and colourless
}


def ink(thumbnail: np.ndarray) -> np.ndarray:
    """Detect black, blue, green and red marker.

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
    """Segment pen, folds, glass outside the tissue, and bubbles.

    Parameters
    ----------
    thumbnail
        uint8 (height, width, 3), RGB, at 4 to 8 µm/px.
    tissue
        bool (height, width).
    tile_px
        Side of a tile on the thumbnail, in px: smaller pieces of glass are lumens, not background.

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
    """Variance of the Laplacian of the grey image at 1 µm/px.

    A defocus of σ = 2 µm lowers it on H&E from several hundred to under 70 grey levels².

    Parameters
    ----------
    tiles
        uint8 (n, px, px, 3), RGB.
    tile_um
        Side of a tile in µm.

    Returns
    -------
    ndarray
        float32 (n,); NaN for tiles decoded too coarsely to measure it.
    """
    px = round(tile_um / SHARPNESS_MPP)
    if tiles.shape[1] < 0.9 * px:
        return np.full(len(tiles), np.nan, np.float32)
    variances = []
    for tile in tiles:
        grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (px, px), interpolation=cv2.INTER_AREA)
        variances.append(cv2.Laplacian(grey, cv2.CV_32F).var())
    return np.array(variances, np.float32)


def flags(tiles: pd.DataFrame) -> pd.DataFrame:
    """Return one bool column for each of `FLAGS`: the tiles that show the artefact."""
    found = {name: compare(tiles[column].to_numpy(), limit) for name, (column, compare, limit) in FLAGS.items()}
    return pd.DataFrame(found, index=tiles.index)


def _smooth(thumbnail: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(thumbnail, (0, 0), 1.0)


def _density(image: np.ndarray) -> np.ndarray:
    """Optical density of each channel, float32."""
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    return table[image]


def _large(mask: np.ndarray, area: float) -> np.ndarray:
    """Keep the connected components of a mask that have at least `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False  # label 0 is the background
    return keep[labels]
