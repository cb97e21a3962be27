"""The TIFF decoder: pixels equal OpenSlide's, reduced pixels stay in place, damage is never read as tissue."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from wsibench.core import SlideError
from wsibench.tiling import tiff_decoder as decoding
from wsibench.tiling.slides import open_slide


@cache
def scene(height: int = 900, width: int = 1100) -> np.ndarray:
    """Smooth colours with grain and sharp dark discs, so that every step of a JPEG decoder matters."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(60, 250, (9, 11, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for x, y, radius in rng.integers((0, 0, 3), (width, height, 12), (300, 3)).tolist():
        cv2.circle(image, (x, y), radius, rng.integers(0, 200, 3).tolist(), -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


CODINGS = pytest.mark.parametrize(
    ("tile_px", "coding"),
    [
        (tile_px, coding)
        for tile_px in (240, 256)
        for coding in ({"subsampling": "420"}, {"subsampling": "444"}, {"rgb": True})
    ],
    ids=str,
)


def whole_level(path, level: int) -> np.ndarray:
    """A level as OpenSlide reads it."""
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


def file_tiles(path) -> decoding.FileTiles:
    with openslide.OpenSlide(path) as slide:
        tiles = decoding.file_tiles(path, slide.level_dimensions)
    assert tiles is not None
    return tiles


@CODINGS
def test_pixels_equal_openslides_at_every_level(write_svs, tile_px, coding):
    path = write_svs(scene(), 0.25, tile_px=tile_px, downsamples=(1, 4), **coding)
    tiles = file_tiles(path)
    for level in (0, 1):
        expected = whole_level(path, level)
        height, width = expected.shape[:2]
        (region,), _ = tiles.regions(level, 1, np.array([[0, 0]]), (width, height))
        np.testing.assert_array_equal(region, expected)


@CODINGS
def test_reduced_pixels_are_close_to_averages_and_in_place(write_svs, tile_px, coding):
    path = write_svs(scene(960, 1280), 0.25, tile_px=tile_px, **coding)
    expected, tiles = whole_level(path, 0), file_tiles(path)
    for scale in (2, 4, 8):
        size = (1280 // scale, 960 // scale)
        (region,), _ = tiles.regions(0, scale, np.array([[0, 0]]), size)
        averaged = cv2.resize(expected, size, interpolation=cv2.INTER_AREA).astype(float)
        away = np.abs(region - averaged).mean()
        assert away < 3.0
        moved = [np.abs(np.roll(region, 1, axis).astype(float) - averaged).mean() for axis in (0, 1)]
        assert min(moved) > 2.5 * away  # one pixel off would be far worse


def test_regions_are_in_place_and_white_outside(write_svs):
    path = write_svs(scene(), 0.25, tile_px=240)
    expected = np.pad(whole_level(path, 0), ((300, 300), (300, 300), (0, 0)), constant_values=255)
    corners = np.array([[-300, -299], [-7, 5], [0, 0], [239, 241], [1000, 850], [1200, 950]])
    regions, whole = file_tiles(path).regions(0, 1, corners, (130, 77))
    assert whole.all()
    for region, (x, y) in zip(regions, corners + 300, strict=True):
        np.testing.assert_array_equal(region, expected[y : y + 77, x : x + 130])


def test_threads_and_a_tiny_cache_change_nothing(write_svs, monkeypatch):
    path = write_svs(scene(), 0.25, tile_px=240)
    corners = np.array([[x, y] for y in range(0, 800, 100) for x in range(0, 1000, 100)])
    expected, _ = file_tiles(path).regions(0, 1, corners, (150, 150))
    monkeypatch.setattr(decoding, "CACHE_BYTES", 400_000)
    tiles = file_tiles(path)
    with ThreadPoolExecutor(4) as pool:
        batches = [tiles.regions(0, 1, corners[n : n + 7], (150, 150), pool) for n in range(0, 80, 7)]
    np.testing.assert_array_equal(np.concatenate([regions for regions, _ in batches]), expected)


def test_each_file_tile_is_decoded_once(write_svs, monkeypatch):
    path = write_svs(scene(), 0.25, tile_px=240)
    decoded = []
    decode = decoding.FileTiles._decode
    monkeypatch.setattr(decoding.FileTiles, "_decode", lambda self, key: decoded.append(key) or decode(self, key))
    xy = np.array([[x, y] for y in range(0, 800, 100) for x in range(0, 1000, 100)])
    with open_slide(path) as slide:
        for _ in slide.read_tiles(xy, tile_um=25, wanted_mpp=0.25, batch=8):
            pass
    assert len(decoded) == len(set(decoded)) == 20


def test_unusual_files_are_read_through_openslide(write_svs, tmp_path):
    image = scene(600, 700)
    usual = write_svs(image, 0.5)
    deflate, sparse = tmp_path / "deflate.svs", tmp_path / "sparse.svs"
    tifffile.imwrite(
        deflate,
        image,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        description="Aperio\n|MPP = 0.5",
        metadata=None,
    )
    sparse.write_bytes(usual.read_bytes())
    with tifffile.TiffFile(sparse, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["TileByteCounts"].overwrite([*counts[:-1], 0])
    for path, direct in ((usual, True), (deflate, False), (sparse, False)):
        with open_slide(path) as slide:
            assert slide.direct is direct
            (_, (tile,)), *_ = slide.read_tiles(np.array([[100, 50]]), tile_um=100, wanted_mpp=0.5)
        np.testing.assert_array_equal(tile, whole_level(path, 0)[50:250, 100:300])


def test_the_tiff_tag_decides_the_colour_coding_as_in_openslide(write_svs):
    """Streams that carry an RGB marker under a tag that says YCbCr, or none under a tag that says RGB."""
    path = write_svs(scene(), 0.5, rgb=True)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    (region,), _ = file_tiles(path).regions(0, 1, np.array([[0, 0]]), (1100, 900))
    np.testing.assert_array_equal(region, whole_level(path, 0))


# Damage


@CODINGS
def test_damaged_tiles_are_left_out(write_svs, flip_bytes, tile_px, coding):
    path = write_svs(scene(1024, 1024), 0.5, tile_px=tile_px, **coding)
    xy = np.array([[x, y] for y in range(0, 960, 64) for x in range(0, 960, 64)])
    with open_slide(path) as slide:
        intact = np.concatenate([tiles for _, tiles in slide.read_tiles(xy, tile_um=32, wanted_mpp=0.5)])
    flip_bytes(path, [7])
    row, column = divmod(7, -(-1024 // tile_px))
    left, top = column * tile_px, row * tile_px
    x, y = xy.T
    touched = (x + 64 > left) & (x < left + tile_px) & (y + 64 > top) & (y < top + tile_px)
    with open_slide(path) as slide:
        found = list(slide.read_tiles(xy, tile_um=32, wanted_mpp=0.5, max_bad=0.2))
        assert slide.damaged().tolist() == [[left, top, left + tile_px, top + tile_px]]
    indices = np.concatenate([indices for indices, _ in found])
    np.testing.assert_array_equal(indices, np.flatnonzero(~touched))
    np.testing.assert_array_equal(np.concatenate([tiles for _, tiles in found]), intact[~touched])


@pytest.fixture
def jpeg2000(tmp_path):
    """An Aperio-style SVS in JPEG 2000 (RGB), 4 × 4 tiles."""
    path, image = tmp_path / "slide.svs", scene(1000, 1000)
    padded = np.pad(image, ((0, 24), (0, 24), (0, 0)), mode="edge")
    tiles = (
        imagecodecs.jpeg2k_encode(padded[y : y + 256, x : x + 256], level=40, codecformat="j2k", mct=True)
        for y in range(0, 1024, 256)
        for x in range(0, 1024, 256)
    )
    tifffile.imwrite(
        path,
        tiles,
        shape=(1000, 1000, 3),
        dtype=np.uint8,
        tile=(256, 256),
        photometric="rgb",
        compression=33005,
        description="Aperio\n|MPP = 0.5",
        metadata=None,
    )
    return path


def test_jpeg2000_pixels_equal_openslides(jpeg2000):
    (region,), _ = file_tiles(jpeg2000).regions(0, 1, np.array([[0, 0]]), (1000, 1000))
    np.testing.assert_array_equal(region, whole_level(jpeg2000, 0))


def test_a_truncated_jpeg2000_tile_is_left_out(jpeg2000):
    with tifffile.TiffFile(jpeg2000) as tiff:
        start, length = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    content = bytearray(jpeg2000.read_bytes())
    content[start + length // 2 : start + length] = bytes(length - length // 2)
    jpeg2000.write_bytes(content)
    corners = np.array([[x, y] for y in (0, 256, 512) for x in (0, 256, 512)])
    _, whole = file_tiles(jpeg2000).regions(0, 1, corners, (200, 200))
    assert np.flatnonzero(~whole).tolist() == [4]


def test_openslide_reads_on_after_a_damaged_tile(tmp_path, flip_bytes):
    path, image = tmp_path / "slide.svs", scene(1024, 1024)
    tifffile.imwrite(
        path,
        image,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        description="Aperio\n|MPP = 0.5",
        metadata=None,
    )
    flip_bytes(path, [5])
    xy = np.array([[x, y] for y in range(0, 1024, 128) for x in range(0, 1024, 128)])
    hit = (xy[:, 0] // 256 == 1) & (xy[:, 1] // 256 == 1)
    with open_slide(path) as slide:
        assert not slide.direct
        found = list(slide.read_tiles(xy, tile_um=64, wanted_mpp=0.5, max_bad=0.1))
    np.testing.assert_array_equal(np.concatenate([indices for indices, _ in found]), np.flatnonzero(~hit))
    for at, tile in zip(xy[~hit], np.concatenate([tiles for _, tiles in found]), strict=True):
        np.testing.assert_array_equal(tile, image[at[1] : at[1] + 128, at[0] : at[0] + 128])


def test_too_much_damage_is_an_error(write_svs, flip_bytes):
    path = write_svs(scene(1024, 1024), 0.5)
    flip_bytes(path, range(4, 8))
    xy = np.array([[x, y] for y in range(0, 1024, 64) for x in range(0, 1024, 64)])
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"slide\.svs is damaged: .* of 256 tiles"):
        list(slide.read_tiles(xy, tile_um=32, wanted_mpp=0.5))


def test_a_truncated_file_is_refused_or_partly_read(write_svs):
    path = write_svs(scene(1024, 1024), 0.5)
    expected, tiles = whole_level(path, 0), file_tiles(path)
    os.truncate(path, int(tiles.levels[0].offsets[-1]) + 100)
    regions, whole = tiles.regions(0, 1, np.array([[0, 0], [900, 900]]), (100, 100))
    assert whole.tolist() == [True, False]
    np.testing.assert_array_equal(regions[0], expected[:100, :100])
    with pytest.raises(SlideError, match="cannot be opened"):
        open_slide(path)


@pytest.mark.slow
def test_random_damage_raises_nothing_but_slide_errors(write_svs):
    """Overwrite random bytes, most of them in the tags: tiles are read, or a SlideError is raised."""
    path = write_svs(scene(600, 700), 0.5, downsamples=(1, 2))
    with tifffile.TiffFile(path) as tiff:
        tags = [range(page.offset, page.offset + 1200) for page in tiff.pages]
    original, rng = path.read_bytes(), np.random.default_rng(0)
    places = [range(16), *tags, range(len(original))]
    xy = np.array([[x, y] for x in range(0, 600, 150) for y in range(0, 500, 150)])
    outcomes = {"tiles": 0, "error": 0}
    for _ in range(400):
        content = bytearray(original)
        for _ in range(rng.choice([1, 2, 5, 50])):
            place = places[rng.integers(len(places))]
            content[min(place[rng.integers(len(place))], len(content) - 1)] = rng.integers(256)
        if rng.random() < 0.1:
            del content[rng.integers(len(content)) :]
        path.write_bytes(content)
        try:
            with open_slide(path, assumed_mpp=0.5) as slide:
                if max(slide.size_px) < 10_000:
                    slide.thumbnail(8)
                    list(slide.read_tiles(xy, tile_um=56, wanted_mpp=0.5))
            outcomes["tiles"] += 1
        except SlideError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_pixels_of_real_slides_equal_openslides(real_data, name):
    path = real_data / "slides" / name
    tiles = file_tiles(path)
    for level, at in enumerate(tiles.levels):
        # To the padded corner; other levels from 0, since elsewhere OpenSlide interpolates (a downsample of 2.0005).
        left, top = (max(0, at.width - 1700), max(0, at.height - 1500)) if level == 0 else (0, 0)
        size = (at.width - left, at.height - top)
        with openslide.OpenSlide(path) as slide:
            expected = np.asarray(slide.read_region((left, top), level, size).convert("RGB"))
        (region,), _ = tiles.regions(level, 1, np.array([[left, top]]), size)
        np.testing.assert_array_equal(region, expected)
    assert not tiles.damaged


@pytest.mark.real
def test_reduced_real_tissue_is_close_to_averages(real_data):
    path = real_data / "slides/CMU-1-Small-Region.svs"
    expected = whole_level(path, 0)[1600:2880, 800:1760]
    for scale, bound in ((2, 0.5), (4, 1.0), (8, 1.5)):
        (region,), _ = file_tiles(path).regions(
            0, scale, np.array([[800, 1600]]) // scale, (960 // scale, 1280 // scale)
        )
        averaged = cv2.resize(expected, region.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert cv2.absdiff(region, averaged).mean() < bound
