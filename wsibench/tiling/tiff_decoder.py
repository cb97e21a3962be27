"""Decoder of the file's own tiles in TIFF and SVS, compressed by JPEG or JPEG 2000.

OpenSlide spends three quarters of its time on such a file in compositing. Here each file tile is decoded
once, if it is a JPEG directly to a half, a quarter or an eighth, and regions are cut from the decoded
tiles. At full scale the pixels equal those of OpenSlide.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg
import tifffile

# Size of the cache of decoded file tiles: about one row of a wide slide at full resolution.
CACHE_BYTES = 128 << 20
JPEG, APERIO_JP2_RGB = 7, 33005
RGB, YCBCR = 2, 6
# Factors by which a JPEG decoder can reduce an image while decoding.
JPEG_SCALES = (1, 2, 4, 8)
SOI, SOS, APP0, APP14, COM = 0xD8, 0xDA, 0xE0, 0xEE, 0xFE
EOC = 0xD9

# Function that decodes a file tile's bytes at 1 / scale.
Decode = Callable[[bytes, int], np.ndarray]
Area = tuple[slice, slice]
# Exceptions of simplejpeg and imagecodecs on damaged data.
UNDECODABLE = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Level:
    """One resolution of the file: the positions of its tiles, and their decoder."""

    width: int
    height: int
    # Width and height of a file tile.
    tile_px: tuple[int, int]
    n_across: int
    offsets: np.ndarray
    n_bytes: np.ndarray
    decode: Decode
    # Factors by which its tiles can be reduced while decoding.
    scales: tuple[int, ...]

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a file tile."""
        row, column = divmod(index, self.n_across)
        width, height = self.tile_px
        return column * width, row * height, (column + 1) * width, (row + 1) * height

    def pieces(self, left: int, top: int, width: int, height: int, scale: int) -> Iterator[tuple[int, Area, Area]]:
        """Yield the file tiles under a region, all reduced by `scale`; parts outside the level have none.

        Each as its index, the area of the region that it covers, and this area in the tile's own pixels.
        """
        (level_width, level_height) = (-(-side // scale) for side in (self.width, self.height))
        tile_width, tile_height = (side // scale for side in self.tile_px)
        columns = list(_spans(left, width, level_width, tile_width))
        for row, y_region, y_tile in _spans(top, height, level_height, tile_height):
            for column, x_region, x_tile in columns:
                yield row * self.n_across + column, (y_region, x_region), (y_tile, x_tile)


class FileTiles:
    """Tiles of a file, decoded on demand and cached for neighbouring regions."""

    def __init__(self, path: Path, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._file = os.open(path, os.O_RDONLY)
        # Level, left, top, right and bottom (pixels of the level) of the undecodable file tiles met so far.
        self.damaged: set[tuple[int, int, int, int, int]] = set()
        self._cache: OrderedDict[tuple[int, int, int], np.ndarray | None] = OrderedDict()

    def close(self) -> None:
        """Close the file and clear the cache."""
        os.close(self._file)
        self._cache.clear()

    def scales(self, level: int) -> tuple[int, ...]:
        """Factors by which a level can be reduced while decoding."""
        return self.levels[level].scales

    def regions(
        self, level: int, scale: int, corners: np.ndarray, size: tuple[int, int], pool: Executor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut regions from the file tiles of one level.

        Parameters
        ----------
        level, scale
            Pixels are those of `level`, reduced by `scale` (one of the level's `scales`).
        corners
            (n, 2) int; left and top of each region, in these pixels.
        size
            Width and height of every region.
        pool
            Threads to decode on; the codecs release the GIL.

        Returns
        -------
        regions
            uint8 (n, height, width, 3); white outside the level and where it cannot be decoded.
        whole
            bool (n,): True if every file tile under the region could be decoded.
        """
        at = self.levels[level]
        pieces = [list(at.pieces(left, top, *size, scale)) for left, top in np.asarray(corners).tolist()]
        tiles = self._tiles(level, scale, {index for under in pieces for index, _, _ in under}, pool)
        regions = np.full((len(pieces), size[1], size[0], 3), 255, np.uint8)
        whole = np.ones(len(pieces), bool)
        for n, under in enumerate(pieces):
            for index, in_region, in_tile in under:
                if (tile := tiles[index]) is None:
                    whole[n] = False
                else:
                    regions[n][in_region] = tile[in_tile]
        return regions, whole

    def _tiles(self, level: int, scale: int, indices: set[int], pool: Executor | None) -> dict[int, np.ndarray | None]:
        """Return decoded file tiles by index; None for one that cannot be decoded."""
        keys = {index: (level, scale, index) for index in sorted(indices)}
        missing = [key for key in keys.values() if key not in self._cache]
        decoded = zip(missing, (pool.map if pool else map)(self._decode, missing), strict=True)
        for key, tile in decoded:
            self._cache[key] = tile
            if tile is None:
                self.damaged.add((level, *self.levels[level].box(key[2])))
        for key in keys.values():
            self._cache.move_to_end(key)  # the least recently used tiles come first
        tiles = {index: self._cache[key] for index, key in keys.items()}
        held = sum(0 if tile is None else tile.nbytes for tile in self._cache.values())
        while held > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            held -= 0 if oldest is None else oldest.nbytes
        return tiles

    def _decode(self, key: tuple[int, int, int]) -> np.ndarray | None:
        level, scale, index = self.levels[key[0]], *key[1:]
        n_bytes = int(level.n_bytes[index])
        data = os.pread(self._file, n_bytes, int(level.offsets[index]))
        if len(data) < n_bytes:
            return None  # the file has been cut short
        try:
            tile = level.decode(data, scale)
        except UNDECODABLE:
            return None
        width, height = (side // scale for side in level.tile_px)
        return tile if tile.shape == (height, width, 3) and tile.dtype == np.uint8 else None


def _spans(start: int, length: int, end: int, cell: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the cells of the line ``0 … end`` that ``start … start + length`` covers.

    Each as its index, the covered part relative to `start`, and the covered part relative to the cell.
    """
    first, stop = max(start, 0), min(start + length, end)
    for index in range(first // cell, -(-stop // cell)):
        low, high = max(first, index * cell), min(stop, (index + 1) * cell)
        yield index, slice(low - start, high - start), slice(low - index * cell, high - index * cell)


def file_tiles(path: Path, level_sizes: Sequence[tuple[int, int]]) -> FileTiles | None:
    """Return a decoder of the file's own tiles, or None if the file is not plain enough for it.

    Parameters
    ----------
    path
        A TIFF file.
    level_sizes
        Width and height of each level, as OpenSlide states them; each must be one page of the file.

    Returns
    -------
    FileTiles or None
        None if regions have to be read through OpenSlide.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            levels = [level for size in level_sizes if (level := _level(pages, size))]
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError):
        return None
    return FileTiles(path, levels) if len(levels) == len(level_sizes) else None


def _level(pages: Sequence[tifffile.TiffPage], size: tuple[int, int]) -> Level | None:
    found = [page for page in pages if page.is_tiled and (page.imagewidth, page.imagelength) == tuple(size)]
    if len(found) != 1:
        return None
    page = found[0]
    plain = page.bitspersample == 8 and page.samplesperpixel == 3 and page.planarconfig == 1 and page.imagedepth == 1
    n_bytes = np.asarray(page.databytecounts, np.int64)
    n_across, n_down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    # For some scanners an empty tile stands for the next level, for others it is white.
    if not plain or len(n_bytes) != n_across * n_down or not n_bytes.all():
        return None
    decode, scales = _decoder(page)
    if decode is None:
        return None
    tile_px = (page.tilewidth, page.tilelength)
    offsets = np.asarray(page.dataoffsets, np.int64)
    return Level(page.imagewidth, page.imagelength, tile_px, n_across, offsets, n_bytes, decode, scales)


def _decoder(page: tifffile.TiffPage) -> tuple[Decode | None, tuple[int, ...]]:
    if page.compression == APERIO_JP2_RGB:
        return _decode_jpeg2000, (1,)
    if page.compression == JPEG and page.photometric in (RGB, YCBCR):
        page.parent.filehandle.seek(page.dataoffsets[0])
        if _has_plain_markers(page.parent.filehandle.read(page.databytecounts[0])):
            head = _jpeg_head(page.jpegtables or b"", int(page.photometric))
            return partial(_decode_jpeg, head, (page.tilewidth, page.tilelength)), JPEG_SCALES
    return None, ()


def _decode_jpeg2000(data: bytes, scale: int) -> np.ndarray:
    # The codec decodes a stream whose end was never downloaded (zeros) to a blurred tile.
    if not data.rstrip(b"\0").endswith(bytes([0xFF, EOC])):
        raise ValueError("no end of codestream")
    return imagecodecs.jpeg2k_decode(data, numthreads=1)


def _decode_jpeg(head: bytes, tile_px: tuple[int, int], data: bytes, scale: int) -> np.ndarray:
    # `strict` turns the decoder's warnings into errors: damaged data usually decodes, to garbage.
    return simplejpeg.decode_jpeg(
        head + data[_after_markers(data) :],
        "RGB",
        fastdct=False,
        fastupsample=False,
        min_width=tile_px[0] // scale,
        min_height=tile_px[1] // scale,
        strict=True,
    )


def _jpeg_head(tables: bytes, photometric: int) -> bytes:
    """Return the start of a complete JPEG stream: its colour coding by the TIFF tag, and the shared tables.

    Files such as CMU's hold RGB under component numbers 0, 1, 2 and without a marker, which libjpeg
    decodes as YCbCr; others carry a marker that contradicts the tag. OpenSlide follows the tag, and so
    does this decoder, by replacing the Adobe marker.
    """
    transform = 0 if photometric == RGB else 1
    adobe = bytes([0xFF, APP14, 0, 14]) + b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform])
    return bytes([0xFF, SOI]) + adobe + tables[2:-2]


def _after_markers(data: bytes) -> int:
    """Return the offset at which a tile's stream continues after its SOI and application markers."""
    at = 2
    while len(data) > at + 4 and data[at] == 0xFF and (APP0 <= data[at + 1] <= APP0 + 15 or data[at + 1] == COM):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def _has_plain_markers(data: bytes) -> bool:
    """Return True for a JPEG stream with no application marker beyond those that `_after_markers` skips."""
    if data[:2] != bytes([0xFF, SOI]):
        return False
    at = _after_markers(data)
    while len(data) > at + 4 and data[at] == 0xFF and data[at + 1] != SOS:
        if APP0 <= data[at + 1] <= APP0 + 15:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at : at + 2] == bytes([0xFF, SOS])
