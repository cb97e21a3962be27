"""Thumbnails of slides, each made in a process of its own, so that a bad file costs its own picture alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.core import parallel_map
from wsibench.tiling.slides import Slide, open_slide
from wsibench.tiling.tissue import MASK_MPP, tissue_mask

LONGEST_PX = 450
"""Pixels on the longer side of a thumbnail."""


@dataclass(frozen=True)
class Thumbnail:
    """Small picture of a slide."""

    image: np.ndarray
    """uint8 (height, width, 3)."""
    slide_mpp: float
    """µm per level-0 pixel."""
    size_um: tuple[float, float]
    """Width and height of the slide (µm)."""
    tissue: np.ndarray
    """bool (height, width) at `tissue_mpp` µm/px."""
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
    """Thumbnails of slides, made in parallel.

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
    rows = zip(slides["path"], slides["mpp"], strict=True)
    tasks = [(Path(path), float(mpp) if mpp else None, assumed_mpp, tile_um) for path, mpp in rows]
    made = parallel_map(_make, tasks, label="thumbnails", errors="return")
    return dict(zip(slides["slide_id"], made, strict=True))


def _make(task: tuple[Path, float | None, float | None, float]) -> Thumbnail:
    path, mpp, assumed_mpp, tile_um = task
    with open_slide(path, mpp, assumed_mpp=assumed_mpp) as slide:
        return thumbnail(slide, tile_um=tile_um)
