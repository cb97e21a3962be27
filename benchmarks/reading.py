"""CPU time of reading tiles: the file's own tiles against OpenSlide and PIL, on the same slides.

    python benchmarks/reading.py [--slide SLIDE] [--tiles 1600] [--folder FOLDER]

Builds two Aperio-style JPEG mosaics, at 0.5 and 0.25 µm/px, from a real slide (the one that
WSIBENCH_REAL_DATA holds, unless --slide names another) or, without one, from painted tissue.
Reads 256 px tiles of 128 µm, as the peers do by default, and prints CPU milliseconds a tile (getrusage, all
threads) and the peak memory of each reader, every reader in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openslide
import simplejpeg
import tifffile
from PIL import Image

from wsibench.tiling import open_slide, physical_grid

TILE_UM, WANTED_MPP, TILE_PX = 128.0, 0.5, 256


def build(path: Path, source: Path | None, mpp: float, n_tiles: int) -> None:
    """Write a mosaic of tissue large enough for `n_tiles` tiles, with the file tiles of an Aperio scanner."""
    patch = _tissue(source, mpp)
    side = int(np.ceil(np.sqrt(n_tiles))) * round(TILE_UM / mpp)
    px = 240

    def tiles() -> Iterator[bytes]:
        for top in range(0, side, px):
            rows = np.arange(top, top + px) % patch.shape[0]
            for left in range(0, side, px):
                columns = np.arange(left, left + px) % patch.shape[1]
                yield simplejpeg.encode_jpeg(np.ascontiguousarray(patch[np.ix_(rows, columns)]), 80, "RGB", "444")

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            tiles(),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(px, px),
            compression="jpeg",
            compressionargs={"outcolorspace": "ycbcr"},
            photometric="rgb",
            subsampling=(1, 1),
            description=f"Aperio Image Library v11\n{side}x{side}|AppMag = {round(10 / mpp)}|MPP = {mpp}",
            metadata=None,
        )
    print(f"built {path.name}: {side} × {side} px, {path.stat().st_size / 2**20:.0f} MiB", file=sys.stderr)


def _tissue(source: Path | None, mpp: float) -> np.ndarray:
    """A patch of tissue at about 0.5 µm/px, enlarged where the mosaic is finer."""
    if source is None:
        rng = np.random.default_rng(0)
        coarse = rng.normal(0, 1, (60, 60, 3)).astype(np.float32)
        grain = rng.normal(0, 1, (1200, 1200, 1)).astype(np.float32)
        smooth = cv2.resize(coarse, (1200, 1200), interpolation=cv2.INTER_CUBIC)
        patch = np.clip(np.array([190, 120, 170]) + 22 * smooth + 10 * grain, 0, 255).astype(np.uint8)
    else:
        with openslide.OpenSlide(source) as slide:
            patch = np.asarray(slide.read_region((800, 1700), 0, (900, 1200)).convert("RGB"))
    scale = round(0.5 / mpp)
    return cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else patch


def read(reader: str, path: Path, mpp: float, n_tiles: int) -> dict[str, float]:
    """Read the tiles in this process; CPU seconds, wall seconds, peak MiB and the mean grey level."""
    cpu, wall, total, n = _cpu(), time.perf_counter(), 0.0, 0
    for tile in READERS[reader](path, mpp, n_tiles):
        total += float(tile[::16, ::16].mean())
        n += 1
    return {
        "tiles": n,
        "cpu_ms": (_cpu() - cpu) / n * 1e3,
        "wall_ms": (time.perf_counter() - wall) / n * 1e3,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mean": total / n,
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _wsibench(path: Path, mpp: float, n_tiles: int) -> Iterator[np.ndarray]:
    with open_slide(path) as slide:
        xy = physical_grid(slide.size_px, mpp, TILE_UM)[["x", "y"]].to_numpy()[:n_tiles]
        for _, batch in slide.read_tiles(xy, tile_um=TILE_UM, wanted_mpp=WANTED_MPP):
            yield from batch


def _openslide(path: Path, mpp: float, n_tiles: int) -> Iterator[np.ndarray]:
    with openslide.OpenSlide(path) as slide:
        px = round(TILE_UM / mpp)
        for x, y in physical_grid(slide.dimensions, mpp, TILE_UM)[["x", "y"]].to_numpy()[:n_tiles].tolist():
            tile = slide.read_region((x, y), 0, (px, px)).convert("RGB")
            if px != TILE_PX:
                tile = tile.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
            yield np.asarray(tile)


READERS = {"wsibench": _wsibench, "openslide": _openslide}


def difference(path: Path, mpp: float, n_tiles: int = 100) -> tuple[float, int]:
    """Mean and largest difference of grey levels between our tiles and OpenSlide's, averaged over areas."""
    px, away = round(TILE_UM / mpp), []
    with openslide.OpenSlide(path) as slide:
        corners = physical_grid(slide.dimensions, mpp, TILE_UM)[["x", "y"]].to_numpy()[:n_tiles].tolist()
        for corner, ours in zip(corners, _wsibench(path, mpp, n_tiles), strict=True):
            theirs = np.asarray(slide.read_region(corner, 0, (px, px)).convert("RGB"))
            if px != TILE_PX:
                theirs = cv2.resize(theirs, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
            away.append(cv2.absdiff(ours, theirs))
    return float(np.mean(away)), int(np.max(away))


def main() -> None:
    """Build the mosaics, run every reader in its own process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    real = os.environ.get("WSIBENCH_REAL_DATA")
    default = Path(real, "slides/CMU-1-Small-Region.svs") if real else None
    parser.add_argument("--slide", type=Path, default=default)
    parser.add_argument("--tiles", type=int, default=1600)
    parser.add_argument("--folder", type=Path, help="where to build the mosaics; a temporary folder unless given")
    parser.add_argument("--read", nargs=3, metavar=("READER", "SLIDE", "MPP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        reader, path, mpp = arguments.read
        print(json.dumps(read(reader, Path(path), float(mpp), arguments.tiles)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print("slide (µm/px)  reader     tiles  CPU ms/tile  wall ms/tile  peak MiB  ratio  mean grey")
        for mpp in (0.5, 0.25):
            path = Path(folder, f"mosaic-{mpp}.svs")
            build(path, arguments.slide, mpp, arguments.tiles)
            found = {reader: _run(reader, path, mpp, arguments.tiles) for reader in READERS}
            for reader, row in found.items():
                ratio = found["openslide"]["cpu_ms"] / row["cpu_ms"]
                print(
                    f"{mpp:<14} {reader:<9} {row['tiles']:>6} {row['cpu_ms']:>12.2f} {row['wall_ms']:>13.2f}"
                    f" {row['peak_mib']:>9.0f} {ratio:>5.1f}× {row['mean']:>10.2f}"
                )
            mean, largest = difference(path, mpp)
            print(f"{mpp:<14} pixels: mean difference {mean:.2f}, largest {largest} grey levels")
            path.unlink()


def _run(reader: str, path: Path, mpp: float, n_tiles: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--tiles", str(n_tiles), "--read", reader, str(path), str(mpp)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
