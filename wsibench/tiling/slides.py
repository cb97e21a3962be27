"""Open a whole-slide image at its true resolution and read squares of a physical size from it."""

import math
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile

from wsibench.core import SlideError
from wsibench.tiling.tiff_decoder import file_tiles

# Relative tolerance: a level may be this much coarser than wanted, and pixels this much off square.
MPP_TOLERANCE = 0.02
# Plausible µm/px of level 0; anything else is a mistake in the file (72 dpi, mm for µm).
MPP_RANGE = (0.05, 5.0)
# Default share of a slide's tiles that may be undecodable before the slide fails.
MAX_BAD = 0.05
# OpenSlide's names of formats in which a level is one TIFF page, without overlaps or gaps.
PLAIN_TIFF = ("aperio", "generic-tiff")
GIVE_MPP = "Add an `mpp` column to slides.csv (or tiles.slide_mpp in study.yaml), in µm/px of the full resolution."
# Side of the blocks that a thumbnail is read in, to bound memory.
BLOCK_PX = 2048


def open_slide(path: Path | str, mpp: float | None = None, *, assumed_mpp: float | None = None) -> "Slide":
    """Open a whole-slide image.

    Parameters
    ----------
    path
        File in any format that OpenSlide reads.
    mpp
        µm per level-0 pixel; overrides the resolution that the file states.
    assumed_mpp
        µm per level-0 pixel of a file that states none.

    Returns
    -------
    Slide
        The open slide, a context manager.

    Raises
    ------
    SlideError
        If the file cannot be read, or its resolution is unknown, implausible or anisotropic.
    """
    path = Path(path)
    if not path.exists():
        raise SlideError(f"{path} does not exist.", "Correct its path in slides.csv.")
    with ExitStack() as on_error:
        try:
            image = on_error.enter_context(openslide.OpenSlide(path))
            _check_samples(path, image)
            slide = Slide(path, image, _settle_mpp(path, image, mpp, assumed_mpp))
        except SlideError:
            raise
        except Exception as error:  # of damaged headers: TypeError, ZeroDivisionError, struct.error, MemoryError, …
            raise _unreadable(path, error) from error
        on_error.pop_all()
    return slide


def _unreadable(path: Path, error: Exception) -> SlideError:
    if isinstance(error, openslide.OpenSlideUnsupportedFormatError):
        return SlideError(
            f"{path.name} is not a slide that OpenSlide can read.",
            "Check that the file is whole; convert other formats to pyramidal TIFF, for instance with libvips.",
        )
    cause = error if isinstance(error, openslide.OpenSlideError) else f"{type(error).__name__}: {error}"
    return SlideError(f"{path.name} cannot be opened: {cause}.", "Fetch or export the file again.")


def _check_samples(path: Path, image: openslide.OpenSlide) -> None:
    """Refuse what OpenSlide would silently turn into 8-bit RGB, or read as pixels that the file does not hold."""
    if image.properties[openslide.PROPERTY_NAME_VENDOR] not in PLAIN_TIFF:
        return
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        samples, bits = page.samplesperpixel, page.bitspersample
        n_stated, n_held = math.prod(page.chunked), len(page.databytecounts)
    if (samples, bits) != (3, 8):
        kind = {1: "grey", 3: "RGB", 4: "RGBA"}.get(samples, f"{samples}-channel")
        raise SlideError(
            f"{path.name} is a {bits}-bit {kind} image; stained tissue is read from 8-bit RGB.",
            "Export it as 8-bit RGB, or drop it from slides.csv.",
        )
    if n_held < n_stated:
        size = " × ".join(map(str, image.dimensions))
        raise SlideError(
            f"{path.name} is damaged: it states {size} px and holds {n_held} of {n_stated} file tiles.",
            "Fetch or export the file again.",
        )


def _settle_mpp(path: Path, image: openslide.OpenSlide, given: float | None, assumed: float | None) -> float:
    stated = _stated_mpp(path, image) if given is None else given
    mpp = assumed if stated is None else stated
    if mpp is None:
        raise SlideError(f"{path.name} does not say its resolution.", GIVE_MPP)
    least, most = MPP_RANGE
    if not least <= mpp <= most:
        raise SlideError(f"{path.name}: {mpp:g} µm/px is implausible (expected {least:g} to {most:g}).", GIVE_MPP)
    return mpp


def _stated_mpp(path: Path, image: openslide.OpenSlide) -> float | None:
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    try:
        x, y = (float(image.properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
    if not (x > 0 and y > 0):
        return None
    if abs(x - y) > MPP_TOLERANCE * min(x, y):
        raise SlideError(f"{path.name} has pixels that are not square ({x:g} × {y:g} µm).", "Resample it, or drop it.")
    return (x + y) / 2


@dataclass(frozen=True)
class Resolution:
    """A resolution to decode a slide at: a level of the file, or a level reduced by its decoder."""

    level: int
    scale: int
    # Level-0 pixels per pixel.
    downsample: float
    # µm per pixel.
    mpp: float


class Slide(AbstractContextManager["Slide"]):
    """An open slide and context manager, made by `open_slide`.

    Attributes
    ----------
    slide_mpp
        µm per level-0 pixel.
    size_px
        Width and height of level 0.
    level_downsample
        Level-0 pixels per pixel, by level.
    level_mpp
        µm per pixel, by level.
    direct
        True if the file's own tiles are decoded, False if regions are read through OpenSlide.
    """

    def __init__(self, path: Path, image: openslide.OpenSlide, slide_mpp: float) -> None:
        self.path = path
        self.slide_mpp = slide_mpp
        self.size_px: tuple[int, int] = image.dimensions
        self.level_downsample = tuple(_downsample(self.size_px, size) for size in image.level_dimensions)
        self.level_mpp = tuple(slide_mpp * downsample for downsample in self.level_downsample)
        plain = image.properties[openslide.PROPERTY_NAME_VENDOR] in PLAIN_TIFF
        tiles = file_tiles(path, image.level_dimensions) if plain else None
        self.direct = tiles is not None
        if self.direct:
            image.close()
        self._reader = tiles or _OpenSlideRegions(path, image)

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def resolution_for(self, wanted_mpp: float) -> Resolution:
        """Return the coarsest resolution at least as fine as `wanted_mpp` (within 2 %), else the finest.

        A level of the file is preferred to a finer level that the decoder reduces to the same resolution.
        """
        within = 1 + MPP_TOLERANCE
        available = [
            Resolution(level, scale, downsample * scale, self.level_mpp[level] * scale)
            for level, downsample in enumerate(self.level_downsample)
            for scale in self._reader.scales(level)
        ]
        available.sort(key=lambda one: one.mpp)
        fine = [one for one in available if one.mpp <= wanted_mpp * within] or available[:1]
        return min((one for one in fine if one.mpp * within >= fine[-1].mpp), key=lambda one: one.scale)

    def tile_px(self, tile_um: float, wanted_mpp: float) -> int:
        """Return the side in pixels of the tiles that `read_tiles` yields for the same arguments."""
        return max(1, round(tile_um / self.resolution_for(wanted_mpp).mpp))

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        """Read the whole slide at about `mpp` µm/px, averaged over areas.

        Returns
        -------
        image
            uint8 (height, width, 3); white outside the slide and where it cannot be decoded.
        actual_mpp
            True µm/px of `image`: a whole multiple of a level's, at most `mpp` if the slide is as fine.
        """
        at = self.resolution_for(mpp)
        step = max(1, int(mpp * (1 + MPP_TOLERANCE) / at.mpp))
        width, height = (-(-math.ceil(side / at.downsample) // step) for side in self.size_px)
        block = max(1, BLOCK_PX // step)
        image = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, block):
            for left in range(0, width, block):
                h, w = min(block, height - top), min(block, width - left)
                corner, size = np.array([[left, top]]) * step, (w * step, h * step)
                (region,), _ = self._reader.regions(at.level, at.scale, corner, size)
                image[top : top + h, left : left + w] = cv2.resize(region, (w, h), interpolation=cv2.INTER_AREA)
        return image, at.mpp * step

    def damaged(self) -> np.ndarray:
        """Return the undecodable boxes met so far: float (n, 4), left, top, right, bottom in level-0 pixels."""
        boxes = [np.array(box) * self.level_downsample[level] for level, *box in sorted(self._reader.damaged)]
        return np.array(boxes, float).reshape(-1, 4)

    def read_tiles(
        self,
        xy_px: np.ndarray,
        *,
        tile_um: float,
        wanted_mpp: float,
        batch: int = 64,
        threads: int = 1,
        max_bad: float = MAX_BAD,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read squares of `tile_um`, decoded at the coarsest resolution that is as fine as `wanted_mpp`.

        Every tile starts at the whole pixel nearest to its true position and has the same whole number
        of pixels, so that its edges are exact to half a pixel. Neighbouring tiles in one batch share the
        decoding of the file tiles under them.

        Parameters
        ----------
        xy_px
            int (n, 2), top-left corners of the tiles in level-0 pixels.
        tile_um
            Side of a tile in µm.
        wanted_mpp
            Finest µm/px that is needed.
        batch
            Maximum number of tiles in one yielded array.
        threads
            Number of decoding threads.
        max_bad
            Share of the tiles that may be undecodable.

        Yields
        ------
        indices
            int64 (b,), rows of `xy_px` in increasing order; tiles that cannot be decoded are left out.
        tiles
            uint8 (b, px, px, 3); white outside the slide.

        Raises
        ------
        SlideError
            If more than `max_bad` of the tiles cannot be decoded.
        """
        at, px = self.resolution_for(wanted_mpp), self.tile_px(tile_um, wanted_mpp)
        corners = np.rint(np.asarray(xy_px) / at.downsample).astype(np.int64)
        n_bad = 0
        with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
            for start in range(0, len(corners), batch):
                tiles, whole = self._reader.regions(at.level, at.scale, corners[start : start + batch], (px, px), pool)
                n_bad += int((~whole).sum())
                check_damage(self.path, n_bad, len(corners), max_bad)
                if whole.any():
                    yield start + np.flatnonzero(whole), tiles if whole.all() else tiles[whole]


def check_damage(path: Path, n_bad: int, n: int, max_bad: float) -> None:
    """Raise if more than a share of a slide's tiles cannot be decoded.

    Parameters
    ----------
    path
        File of the slide.
    n_bad
        Number of undecodable tiles.
    n
        Number of tiles in all.
    max_bad
        Allowed share of undecodable tiles.

    Raises
    ------
    SlideError
        If `n_bad` exceeds `max_bad` times `n`.
    """
    if n_bad > max_bad * n:
        raise SlideError(
            f"{path.name} is damaged: at least {n_bad} of {n} tiles cannot be decoded (allowed: {max_bad:.0%}).",
            "Fetch or export the file again, or raise limits.bad_tiles in study.yaml.",
        )


class _OpenSlideRegions:
    """Regions of any format through OpenSlide, with the interface of `wsibench.tiling.tiff_decoder.FileTiles`."""

    def __init__(self, path: Path, image: openslide.OpenSlide) -> None:
        self.damaged: set[tuple[int, int, int, int, int]] = set()
        self._path, self._image = path, image

    def close(self) -> None:
        self._image.close()

    def scales(self, level: int) -> tuple[int, ...]:
        return (1,)

    def regions(
        self, level: int, scale: int, corners: np.ndarray, size: tuple[int, int], pool: Executor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        regions = np.full((len(corners), size[1], size[0], 3), 255, np.uint8)
        whole = np.ones(len(corners), bool)
        for n, (left, top) in enumerate(np.asarray(corners).tolist()):
            try:
                regions[n] = self._read(level, left, top, size)
            except openslide.OpenSlideError:
                # After one failed read OpenSlide refuses every other one on the same handle.
                self._image.close()
                self._image = openslide.OpenSlide(self._path)
                self.damaged.add((level, left, top, left + size[0], top + size[1]))
                whole[n] = False
        return regions, whole

    def _read(self, level: int, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
        # OpenSlide divides by its own idea of the downsample (4.0003 for a trimmed 4): undo exactly that.
        theirs = self._image.level_downsamples[level]
        pixels = np.asarray(self._image.read_region((round(left * theirs), round(top * theirs)), level, size))
        alpha = pixels[..., 3:].astype(np.uint16)
        if alpha.min() == 255:
            return pixels[..., :3]
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Level-0 pixels per pixel of a level: a whole number if its trimmed size allows one."""
    ratio = (full[0] / size[0] + full[1] / size[1]) / 2
    whole = round(ratio)
    # A scanner that drops the last, incomplete row makes 4443 / 2221 = 2.0005 of what is 2.
    trimmed = all(abs(side / whole - part) <= 1 for side, part in zip(full, size, strict=True))
    return float(whole) if trimmed else ratio
