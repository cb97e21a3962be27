"""Write a painted slide as a pyramidal, tiled JPEG file of Aperio's kind, which OpenSlide opens."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tifffile

from wsibench.histology import Painting, Stain

TILE_PX = 240
"""Side of the file's tiles; that of Aperio's scanners."""
REDUCTION = 4
"""Each level of the pyramid is this much coarser than the one before."""
SMALLEST_PX = 256
"""No level is made smaller than this."""
QUALITY = 85
"""JPEG quality."""


def write_svs(path: Path, painting: Painting, stain: Stain, *, slide_mpp: float, magnification: int) -> None:
    """Write a painting as an Aperio SVS with its pyramid and a thumbnail.

    Parameters
    ----------
    slide_mpp
        µm/px of the painting, which the file states.
    magnification
        Apparent magnification that the file states, 20 or 40.
    """
    side = len(painting.haematoxylin)
    facts = f"AppMag = {magnification}|MPP = {slide_mpp:.4f}"

    def describe(pixels: int) -> str:
        size = f"{side}x{side}" if pixels == side else f"{side}x{side} -> {pixels}x{pixels}"
        return f"Aperio Image Library (wsibench)\r\n{size} ({TILE_PX}x{TILE_PX}) JPEG/YCC Q={QUALITY}|{facts}"

    with tifffile.TiffWriter(path) as file:

        def page(jpegs: Iterator[bytes], pixels: int, **options) -> None:
            file.write(
                jpegs,
                shape=(pixels, pixels, 3),
                dtype=np.uint8,
                photometric="ycbcr",  # what the JPEG streams hold; tifffile passes them on as they are
                subsampling=(2, 2),
                compression="jpeg",
                description=describe(pixels),
                metadata=None,
                software=False,
                **options,
            )

        reduced = np.empty((_tiles(side) * TILE_PX // REDUCTION,) * 2 + (4,), np.uint8)
        page(_paint_tiles(painting, stain, reduced), side, tile=(TILE_PX, TILE_PX))
        levels = [reduced[: round(side / REDUCTION), : round(side / REDUCTION)]]
        while len(levels[-1]) // REDUCTION >= SMALLEST_PX:
            pixels = round(len(levels[-1]) / REDUCTION)
            levels.append(cv2.resize(levels[-1], (pixels, pixels), interpolation=cv2.INTER_AREA))
        # Aperio's order: the thumbnail, in one strip, stands between the full image and the pyramid.
        thumbnail = levels[-1]
        page(iter([_jpeg(thumbnail)]), len(thumbnail), rowsperstrip=len(thumbnail))
        for level in levels:
            page(_cut_tiles(level), len(level), tile=(TILE_PX, TILE_PX))


def _tiles(side: int) -> int:
    return -(-side // TILE_PX)


def _paint_tiles(painting: Painting, stain: Stain, reduced: np.ndarray) -> Iterator[bytes]:
    """JPEG tiles of the full image, row by row; fills `reduced` with the next level on the way."""
    lut = stain.lut().view(np.uint32).ravel()
    glass = np.full((TILE_PX, TILE_PX), lut[0])
    glass_jpeg = _jpeg(_as_rgbx(glass))
    small = TILE_PX // REDUCTION
    n = _tiles(len(painting.haematoxylin))
    for row, column in np.ndindex(n, n):
        part = np.s_[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]
        haematoxylin, eosin = painting.haematoxylin[part], painting.eosin[part]
        target = reduced[row * small : (row + 1) * small, column * small : (column + 1) * small]
        if not (haematoxylin.any() or eosin.any()):
            target[:] = _as_rgbx(glass)[0, 0]
            yield glass_jpeg
            continue
        tile = glass.copy()
        tile[: haematoxylin.shape[0], : haematoxylin.shape[1]] = lut[haematoxylin * np.uint16(256) + eosin]
        rgbx = _as_rgbx(tile)
        target[:] = cv2.resize(rgbx, (small, small), interpolation=cv2.INTER_AREA)
        yield _jpeg(rgbx)


def _cut_tiles(level: np.ndarray) -> Iterator[bytes]:
    n = _tiles(len(level))
    pad = n * TILE_PX - len(level)
    level = np.pad(level, ((0, pad), (0, pad), (0, 0)), mode="edge")
    for row, column in np.ndindex(n, n):
        yield _jpeg(level[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX])


def _as_rgbx(packed: np.ndarray) -> np.ndarray:
    return packed.view(np.uint8).reshape(*packed.shape, 4)


def _jpeg(rgbx: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgbx), quality=QUALITY, colorspace="RGBX", colorsubsampling="420"
    )
