"""Fixtures shared by the tests of all folders."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder for the studies of one test."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("WSIBENCH_DATA", str(root))
    return root


@pytest.fixture
def real_data() -> Path:
    """The folder of real files; skips, naming the variable, where there is none."""
    folder = os.environ.get("WSIBENCH_REAL_DATA")
    if not folder:
        pytest.skip("WSIBENCH_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture
def write_svs(tmp_path: Path) -> Callable[..., Path]:
    """Write an RGB image as an Aperio-style SVS of JPEG tiles; returns its path.

    ``write_svs(image, mpp, tile_px=256, downsamples=(1,), subsampling="444", rgb=False, quality=95)``;
    `mpp` None states no resolution; `rgb` codes RGB rather than YCbCr samples.
    """

    def write(
        image: np.ndarray,
        mpp: float | None,
        *,
        name: str = "slide.svs",
        tile_px: int = 256,
        downsamples: tuple[int, ...] = (1,),
        subsampling: str = "444",
        rgb: bool = False,
        quality: int = 95,
    ) -> Path:
        path = tmp_path / name
        stated = "" if mpp is None else f"|MPP = {mpp}"
        with tifffile.TiffWriter(path) as tiff:
            for downsample in downsamples:
                height, width = (side // downsample for side in image.shape[:2])
                level = cv2.resize(
                    image[: height * downsample, : width * downsample], (width, height), interpolation=cv2.INTER_AREA
                )
                tiff.write(
                    _jpeg_tiles(level, tile_px, subsampling, rgb, quality),
                    shape=level.shape,
                    dtype=np.uint8,
                    tile=(tile_px, tile_px),
                    compression="jpeg",
                    compressionargs={"outcolorspace": "rgb" if rgb else "ycbcr"},
                    photometric="rgb",
                    subsampling=(2, 2) if subsampling == "420" else (1, 1),
                    description=f"Aperio Image Library v11\n{width}x{height}|AppMag = 20{stated}",
                    metadata=None,
                )
        return path

    return write


def _jpeg_tiles(level: np.ndarray, px: int, subsampling: str, rgb: bool, quality: int) -> Iterator[bytes]:
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, -height % px), (0, -width % px), (0, 0)), mode="edge")
    for top in range(0, padded.shape[0], px):
        for left in range(0, padded.shape[1], px):
            tile = np.ascontiguousarray(padded[top : top + px, left : left + px])
            if rgb:
                yield imagecodecs.jpeg8_encode(tile, quality, colorspace="RGB", outcolorspace="RGB")
            else:
                yield simplejpeg.encode_jpeg(tile, quality, colorspace="RGB", colorsubsampling=subsampling)


@pytest.fixture
def flip_bytes() -> Callable[[Path, Iterable[int]], None]:
    """Invert the middle half of some of a TIFF's file tiles: ``flip_bytes(path, indices)``."""

    def flip(path: Path, indices: Iterable[int]) -> None:
        with tifffile.TiffFile(path) as tiff:
            places = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
        content = bytearray(path.read_bytes())
        for offset, length in (places[index] for index in indices):
            for at in range(offset + length // 4, offset + 3 * length // 4):
                content[at] ^= 0xFF
        path.write_bytes(content)

    return flip
