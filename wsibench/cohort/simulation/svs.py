"""Write a painted slide as an Aperio SVS: a pyramidal, tiled JPEG file that OpenSlide opens."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tifffile

from wsibench.cohort.simulation.slides import Painting, Stain

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
    path
        The file to write.
    painting
        Amounts of stain at each pixel.
    stain
        Converts them to colours.
    slide_mpp
        µm/px of the painting, which the file states.
    magnification
        Apparent magnification that the file states, 20 or 40.
    """
    side = len(painting.haematoxylin)
    sides, levels = [side], [_develop(painting, stain)]
    while sides[-1] // REDUCTION >= SMALLEST_PX:
        sides.append(round(sides[-1] / REDUCTION))
        levels.append(_reduce(levels[-1]))

    with tifffile.TiffWriter(path) as file:

        def page(jpegs: Iterator[bytes], pixels: int, **layout) -> None:
            size = f"{side}x{side}" if pixels == side else f"{side}x{side} -> {pixels}x{pixels}"
            file.write(
                jpegs,
                shape=(pixels, pixels, 3),
                dtype=np.uint8,
                photometric="ycbcr",  # what the JPEG streams hold; tifffile passes them on as they are
                subsampling=(2, 2),
                compression="jpeg",
                description=f"Aperio Image Library (wsibench)\r\n{size} ({TILE_PX}x{TILE_PX}) JPEG/YCC Q={QUALITY}"
                f"|AppMag = {magnification}|MPP = {slide_mpp:.4f}",
                metadata=None,
                software=False,
                **layout,
            )

        page(_tiles(levels[0]), side, tile=(TILE_PX, TILE_PX))
        # Aperio's order: the thumbnail, in one strip, stands between the full image and the pyramid.
        page(iter([_jpeg(levels[-1][: sides[-1], : sides[-1]])]), sides[-1], rowsperstrip=sides[-1])
        for level, pixels in zip(levels[1:], sides[1:], strict=True):
            page(_tiles(level), pixels, tile=(TILE_PX, TILE_PX))


def _develop(painting: Painting, stain: Stain) -> np.ndarray:
    """Convert a painting to colours, uint8 (h, w, 4) RGBX, padded with glass to whole tiles."""
    colours = np.dstack([stain.colours(), np.zeros((256, 256, 1), np.uint8)])
    packed = colours.view(np.uint32).ravel()  # one look-up a pixel instead of three
    side = len(painting.haematoxylin)
    image = np.full((_whole_tiles(side),) * 2, packed[0])
    for rows in (slice(start, start + TILE_PX) for start in range(0, side, TILE_PX)):
        index = painting.haematoxylin[rows] * np.uint16(256) + painting.eosin[rows]
        image[rows][: len(index), :side] = packed[index]
    return image.view(np.uint8).reshape(*image.shape, 4)


def _reduce(level: np.ndarray) -> np.ndarray:
    """Reduce a level to the next one of the pyramid, again padded to whole tiles."""
    pixels = len(level) // REDUCTION
    small = cv2.resize(level, (pixels, pixels), interpolation=cv2.INTER_AREA)
    pad = _whole_tiles(pixels) - pixels
    return cv2.copyMakeBorder(small, 0, pad, 0, pad, cv2.BORDER_REPLICATE)


def _whole_tiles(pixels: int) -> int:
    return -(-pixels // TILE_PX) * TILE_PX


def _tiles(level: np.ndarray) -> Iterator[bytes]:
    """Encode the level's tiles as JPEG, row by row."""
    glass = np.full_like(level[:TILE_PX, :TILE_PX], level[0, 0])
    glass_jpeg = _jpeg(glass)
    for y, x in np.ndindex(len(level) // TILE_PX, len(level) // TILE_PX):
        tile = np.ascontiguousarray(level[y * TILE_PX : (y + 1) * TILE_PX, x * TILE_PX : (x + 1) * TILE_PX])
        yield glass_jpeg if np.array_equal(tile, glass) else _jpeg(tile)


def _jpeg(rgbx: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgbx), quality=QUALITY, colorspace="RGBX", colorsubsampling="420"
    )
