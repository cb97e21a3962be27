"""Open a slide, know its true resolution, read physical fields of view from it."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import openslide
from openslide.lowlevel import OpenSlideError, OpenSlideUnsupportedFormatError

from wsibench.errors import SlideError

MPP_TOLERANCE = 0.02
"""A level this much coarser than wanted still serves; pixels this much off square are still square."""
MPP_RANGE = (0.05, 5.0)
"""µm/px of level 0 outside of which a stated resolution is taken for a mistake (72 dpi, mm for µm)."""
BAD_SHARE = 0.05
"""Share of a slide's wanted tiles that may be undecodable before the slide counts as failed."""
GIVE_MPP = "Add an `mpp` column to slides.csv (or tiles.slide_mpp in study.yaml), in µm/px of the full resolution."
BLOCK_PX = 2048
"""Side of the blocks a thumbnail is made from, so that no level is ever held whole."""


def open_slide(path: Path | str, *, slide_mpp: float | None = None, assumed_mpp: float | None = None) -> "Slide":
    """Open a whole-slide image.

    Parameters
    ----------
    path
        Any format that OpenSlide reads.
    slide_mpp
        µm per level-0 pixel; when given it holds, whatever the file says.
    assumed_mpp
        µm per level-0 pixel for a file that states none.

    Raises
    ------
    SlideError
        When the file cannot be read or its resolution is unknown, implausible or anisotropic.
    """
    path = Path(path)
    if not path.exists():
        raise SlideError(f"{path} does not exist.", "Correct its path in slides.csv.")
    try:
        image = openslide.OpenSlide(path)
    except OpenSlideUnsupportedFormatError:
        raise SlideError(
            f"{path.name} is not a slide that OpenSlide can read.",
            "Check that the file is whole; convert other formats to pyramidal TIFF, for instance with libvips.",
        ) from None
    except OpenSlideError as error:
        raise SlideError(f"{path.name} cannot be opened: {error}.", "Fetch or export the file again.") from None
    try:
        return Slide(path, image, _settle_mpp(path, image, slide_mpp, assumed_mpp))
    except BaseException:
        image.close()
        raise


def _settle_mpp(path: Path, image: openslide.OpenSlide, given: float | None, assumed: float | None) -> float:
    if given is None:
        given = _stated_mpp(path, image)
    if given is None:
        given = assumed
    if given is None:
        raise SlideError(f"{path.name} does not say its resolution.", GIVE_MPP)
    if not MPP_RANGE[0] <= given <= MPP_RANGE[1]:
        raise SlideError(
            f"{path.name}: {given:g} µm/px is implausible (expected {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}).", GIVE_MPP
        )
    return given


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


class Slide:
    """An open slide; a context manager.  Made by `open_slide`.

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
    """

    def __init__(self, path: Path, image: openslide.OpenSlide, slide_mpp: float) -> None:
        self.path = path
        self.slide_mpp = slide_mpp
        self.size_px: tuple[int, int] = image.dimensions
        self.level_downsample = tuple(_downsample(self.size_px, size) for size in image.level_dimensions)
        self.level_mpp = tuple(slide_mpp * downsample for downsample in self.level_downsample)
        self._image = image

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def level_for(self, wanted_mpp: float) -> int:
        """The coarsest level at least as fine as `wanted_mpp` (within 2 %), else the finest."""
        fine = [level for level, mpp in enumerate(self.level_mpp) if mpp <= wanted_mpp * (1 + MPP_TOLERANCE)]
        return max(fine, key=self.level_mpp.__getitem__, default=0)

    def tile_px(self, tile_um: float, wanted_mpp: float) -> int:
        """Side in pixels of the tiles that `read_tiles` yields for the same arguments."""
        return max(1, round(tile_um / self.level_mpp[self.level_for(wanted_mpp)]))

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        """The whole slide at about `mpp` µm/px, averaged over areas.

        Returns
        -------
        image
            uint8 (height, width, 3); white where the slide has nothing.
        actual_mpp
            Its true µm/px: a whole multiple of a level's, at most `mpp` when the slide is as fine.
        """
        level = self.level_for(mpp)
        step = max(1, int(mpp * (1 + MPP_TOLERANCE) / self.level_mpp[level]))
        width, height = (-(-round(side / self.level_downsample[level]) // step) for side in self.size_px)
        block = max(1, BLOCK_PX // step)
        image = np.full((height, width, 3), 255, np.uint8)
        for top in range(0, height, block):
            for left in range(0, width, block):
                h, w = min(block, height - top), min(block, width - left)
                region = self._read(level, left * step, top * step, w * step, h * step)
                image[top : top + h, left : left + w] = cv2.resize(region, (w, h), interpolation=cv2.INTER_AREA)
        return image, self.level_mpp[level] * step

    def read_tiles(
        self, xy_px: np.ndarray, *, tile_um: float, wanted_mpp: float, batch: int = 64
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read physical squares, decoded at the coarsest level that is as fine as wanted.

        Every tile starts at the whole pixel nearest to its true place and has the same whole number
        of pixels, so that its edges are true to half a pixel.

        Parameters
        ----------
        xy_px
            (n, 2) int; level-0 pixels of the tiles' top-left corners.
        tile_um
            Side of a tile in µm.
        wanted_mpp
            Finest µm/px that anybody needs.
        batch
            Most tiles in one yielded array.

        Yields
        ------
        indices
            int64 (b,): which rows of `xy_px` these are, in increasing order.
            Tiles that cannot be decoded are left out.
        tiles
            uint8 (b, px, px, 3); white outside the slide.

        Raises
        ------
        SlideError
            When more than the share `BAD_SHARE` of the tiles cannot be decoded.
        """
        level = self.level_for(wanted_mpp)
        px = self.tile_px(tile_um, wanted_mpp)
        corners = np.rint(np.asarray(xy_px) / self.level_downsample[level]).astype(np.int64)
        n_bad = 0
        for start in range(0, len(corners), batch):
            good, tiles = [], []
            for index in range(start, min(start + batch, len(corners))):
                try:
                    tiles.append(self._read(level, *corners[index].tolist(), px, px))
                    good.append(index)
                except OpenSlideError:
                    self._reopen()
                    n_bad += 1
            if n_bad > BAD_SHARE * len(corners):
                raise SlideError(
                    f"{self.path.name}: at least {n_bad} of {len(corners)} tiles cannot be decoded.",
                    "Fetch or export the file again.",
                )
            if good:
                yield np.array(good, np.int64), np.stack(tiles)

    def _read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A region in whole pixels of `level`; uint8 (height, width, 3), white outside."""
        # OpenSlide divides by its own idea of the downsample (4.0003 for a trimmed 4): undo exactly that.
        theirs = self._image.level_downsamples[level]
        region = self._image.read_region((round(x * theirs), round(y * theirs)), level, (width, height))
        if region.getextrema()[3][0] == 255:
            return np.asarray(region)[..., :3]
        pixels = np.asarray(region).astype(np.uint16)
        alpha = pixels[..., 3:]
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)

    def _reopen(self) -> None:
        # After one failed read OpenSlide refuses every other one on the same handle.
        self._image.close()
        self._image = openslide.OpenSlide(self.path)


def _downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Level-0 pixels per pixel of a level: a whole number where its trimmed size allows one."""
    ratio = (full[0] / size[0] + full[1] / size[1]) / 2
    whole = round(ratio)
    # A scanner that drops the last, incomplete row makes 4443 / 2221 = 2.0005 of what is 2.
    trimmed = all(abs(side / whole - part) <= 1 for side, part in zip(full, size, strict=True))
    return float(whole) if trimmed else ratio
