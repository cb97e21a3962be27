"""Stain normalisation, fitted once a slide: an arm of a study, off unless study.yaml asks for it.

Libraries such as torchstain estimate the stains of every tile anew, so that a tile without nuclei gets
some; here a slide's stains are estimated from tissue all over it, and every tile is changed alike.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from wsibench.core import SlideError
from wsibench.tiling.slides import Slide

Method = Literal["macenko", "reinhard"]
Recolour = Callable[[np.ndarray], np.ndarray]
"""Takes and gives uint8 (…, 3) RGB."""

FIT_TILES, FIT_MPP = 64, 2.0
"""Tiles, spread over the slide, and µm/px that the stains are estimated from."""
LEAST_PIXELS = 1000
"""Fewer stained pixels tell no stain."""

GLASS = 240.0
"""Macenko's intensity of bare glass."""
FAINT = 0.15
"""Optical density (natural logarithm) under which a pixel is not stained."""
STAINS = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
"""Reference haematoxylin and eosin (columns) in optical density of R, G, B: Macenko's published target."""
AMOUNTS = np.array([1.9705, 1.0308])
"""99th percentile of each stain's amount in that target."""

RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Reinhard, Ashikhmin, Gooch & Shirley 2001, equation 4."""
LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
"""Their equation 6, on logarithms."""
LAB_MEAN, LAB_SD = np.array([8.74108109, -0.12440419, 0.0444982]), np.array([0.6135447, 0.10989545, 0.0286032])
"""Of tissue in TCGA-A2-A3XS-DX1: the target that HistomicsTK documents for breast cancer (Amgad et al. 2019)."""


def normaliser(slide: Slide, xy_px: np.ndarray, *, tile_um: float, method: Method) -> Recolour:
    """What makes a slide's tiles look like the reference's stain.

    Parameters
    ----------
    slide
        The slide, open.
    xy_px
        (n, 2) int; its tissue tiles, in level-0 pixels.
    tile_um
        Their side in µm.
    method
        ``macenko``: unmix haematoxylin and eosin, scale each, mix again.
        ``reinhard``: match mean and spread of lαβ.

    Raises
    ------
    SlideError
        When the slide shows too little stain to tell.
    """
    spread = np.linspace(0, len(xy_px) - 1, min(FIT_TILES, len(xy_px))).round().astype(int)
    batches = slide.read_tiles(xy_px[spread], tile_um=tile_um, wanted_mpp=FIT_MPP)
    pixels = np.concatenate([tiles.reshape(-1, 3) for _, tiles in batches])
    return fit(pixels, method)


def fit(pixels: np.ndarray, method: Method) -> Recolour:
    """The normaliser of a slide that these pixels, uint8 (n, 3), are a sample of.

    Raises
    ------
    SlideError
        When they show too little stain to tell.
    """
    density = _density(pixels)
    # Macenko wants pixels that absorb every colour; the whole tissue, pale eosin too, sets Reinhard's mean.
    stained = pixels[(density.min(axis=1) if method == "macenko" else density.mean(axis=1)) >= FAINT]
    if len(stained) < LEAST_PIXELS:
        raise SlideError("The slide shows too little stain to normalise it.", "Drop it, or unset embedding.stain.")
    return _macenko(stained) if method == "macenko" else _reinhard(stained)


def stain_vectors(stained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin of stained pixels (Macenko et al. 2009).

    The two stains span a plane in optical density; they are its extreme directions among the pixels.

    Returns
    -------
    stains
        float (3, 2): unit vectors of optical density, haematoxylin first.
    amounts
        float (2,): 99th percentile of each stain's amount.

    Raises
    ------
    SlideError
        When all pixels have one colour.
    """
    density = _density(stained)
    plane = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*(density @ plane).T)
    stains = np.stack([plane @ [np.sin(phi), np.cos(phi)] for phi in np.percentile(angle, [1, 99])], axis=1)
    if stains[0, 0] < stains[0, 1]:  # haematoxylin absorbs more red
        stains = stains[:, ::-1]
    if np.linalg.cond(stains) > 100:
        raise SlideError("The slide shows one stain only.", "Drop it, or unset embedding.stain.")
    return stains, np.percentile(density @ np.linalg.pinv(stains).T, 99, axis=0)


def _macenko(stained: np.ndarray) -> Recolour:
    stains, amounts = stain_vectors(stained)
    mix = STAINS @ np.diag(AMOUNTS / amounts) @ np.linalg.pinv(stains)
    # A linear map of logarithms is a product of one factor a channel: nine tables instead of exponentials.
    factors = np.exp(-mix[:, :, None] * _density(np.arange(256))).astype(np.float32)

    def recolour(tiles: np.ndarray) -> np.ndarray:
        changed = np.empty_like(tiles)
        for channel, (red, green, blue) in enumerate(factors):
            mixed = red[tiles[..., 0]] * green[tiles[..., 1]] * blue[tiles[..., 2]]
            changed[..., channel] = np.minimum(GLASS * mixed + 0.5, 255)
        return changed

    return recolour


def _reinhard(stained: np.ndarray) -> Recolour:
    lab = _to_lab(stained)
    scale = LAB_SD / np.maximum(lab.std(axis=0), 1e-3)
    shift = LAB_MEAN - lab.mean(axis=0) * scale
    back, to_rgb = np.linalg.inv(LMS_TO_LAB), np.linalg.inv(RGB_TO_LMS)

    def recolour(tiles: np.ndarray) -> np.ndarray:
        rgb = np.exp((_to_lab(tiles) * scale + shift) @ back.T) @ to_rgb.T
        return np.clip(rgb - 0.5, 0, 255).astype(np.uint8)  # + 0.5 to round, − 1 that `_to_lab` added

    return recolour


def _to_lab(pixels: np.ndarray) -> np.ndarray:
    return np.log((pixels + 1.0) @ RGB_TO_LMS.T) @ LMS_TO_LAB.T


def _density(values: np.ndarray) -> np.ndarray:
    """Optical density (natural logarithm) as Macenko's program has it, which keeps black finite."""
    return -np.log((values + 1.0) / GLASS)
