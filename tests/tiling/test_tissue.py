"""Tissue detection, the physical grid of tiles, and their random choice."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from wsibench.core import SlideError
from wsibench.tiling import Thumbnail, thumbnails, tissue
from wsibench.tiling.slides import open_slide

GLASS, TISSUE = (243, 242, 245), (196, 120, 170)


def specimen(size: tuple[int, int] = (1600, 1600), box: tuple[int, int, int, int] = (400, 400, 1200, 1200)):
    """Glass with a rectangle (left, top, right, bottom) of textured tissue."""
    rng = np.random.default_rng(0)
    image = np.full((*size[::-1], 3), GLASS, np.int16)
    left, top, right, bottom = box
    image[top:bottom, left:right] = TISSUE + rng.integers(-15, 15, (bottom - top, right - left, 1))
    return image.astype(np.uint8)


# Grid


@given(
    mpp=st.floats(0.1, 2),
    tile_um=st.floats(20, 300),
    width=st.integers(1, 150_000),
    height=st.integers(1, 5_000),
)
def test_grid_is_physical_and_inside_the_slide(mpp, tile_um, width, height):
    grid = tissue.physical_grid((width, min(height, int(20 * tile_um / mpp))), mpp, tile_um)
    assert (abs(grid.x * mpp - grid.col * tile_um) <= mpp * 0.5 + 1e-6).all()
    assert (abs(grid.y * mpp - grid.row * tile_um) <= mpp * 0.5 + 1e-6).all()
    assert (grid.x + tile_um / mpp <= width + 1).all()
    n_cols = width * mpp / tile_um
    assert grid.empty or grid.col.max() + 1 == pytest.approx(n_cols, abs=1)


def test_same_field_at_any_resolution():
    places = [tissue.physical_grid((round(9000 / mpp), 1000), mpp, 112.0).x * mpp for mpp in (0.2465, 0.5015)]
    n = min(map(len, places))
    assert np.abs(places[0][:n] - places[1][:n]).max() < 0.5


# Mask


def test_blank_slides_have_no_tissue():
    rng = np.random.default_rng(0)
    for tint in [(255, 255, 255), GLASS, (238, 236, 228), (200, 200, 200)]:
        noise = np.clip(np.array(tint) + rng.normal(0, 3, (200, 200, 3)), 0, 255).astype(np.uint8)
        assert not tissue.tissue_mask(noise).any()


def test_full_slides_are_all_tissue():
    rng = np.random.default_rng(0)
    for stain in [TISSUE, (150, 90, 160), (226, 180, 205)]:
        full = np.clip(np.array(stain) + rng.normal(0, 8, (200, 200, 3)), 0, 255).astype(np.uint8)
        assert tissue.tissue_mask(full).mean() > 0.99


def test_grey_black_and_ink_are_not_tissue():
    image = np.full((100, 600, 3), GLASS, np.uint8)
    for index, colour in enumerate([TISSUE, (120, 120, 122), (10, 10, 12), (30, 60, 170), (40, 140, 70)]):
        image[20:80, 100 * index + 20 : 100 * index + 80] = colour
    mask = tissue.tissue_mask(image)
    inner = [mask[30:70, 100 * index + 30 : 100 * index + 70].mean() for index in range(6)]
    assert inner == [1, 0, 0, 0, 0, 0]
    assert mask[:, 600 - 100 :].mean() == 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 12), st.floats(0, 7), st.floats(0.5, 8))
def test_area_share_is_exact(seed, x, y, side):
    mask = np.random.default_rng(seed).random((15, 20)) < 0.5
    fine = np.kron(mask, np.ones((40, 40)))  # brute force on a fortieth of a pixel
    box = [round(value * 40) for value in (y, y + side, x, x + side)]
    share = fine[box[0] : box[1], box[2] : box[3]].sum() / 1600 / side**2
    assert tissue.area_share(mask, np.array([[x, y]]), side)[0] == pytest.approx(share, abs=0.12 / side)


# Tiles of a slide


def test_tiles_cover_the_tissue_and_nothing_else(write_svs):
    path = write_svs(specimen(), 0.5, downsamples=(1, 4))
    with open_slide(path) as slide:
        tiles = tissue.find_tiles(slide, tile_um=50.0, min_tissue=0.5)
    # Tissue is 200 to 600 µm on both axes: tiles 4 to 11 of 50 µm.
    assert set(tiles.col) == set(tiles.row) == set(range(4, 12))
    assert len(tiles) == 64
    assert tiles.tissue.min() > 0.8
    assert tiles.attrs["tissue_mm2"] == pytest.approx(0.16, rel=0.05)


def test_blank_small_and_nearly_blank_slides_are_refused_with_the_reason(write_svs):
    glass = np.full((800, 800, 3), GLASS, np.uint8)
    cases = [
        (glass, "No tissue was found"),
        (specimen((200, 800), (0, 0, 200, 800)), r"\(100 × 400 µm\) is smaller than a tile \(112 µm\)"),
        (specimen((800, 800), (300, 300, 380, 380)), r"No tile is 50% tissue; the best is \d+%"),
    ]
    for index, (image, message) in enumerate(cases):
        with open_slide(write_svs(image, 0.5, name=f"{index}.svs")) as slide, pytest.raises(SlideError, match=message):
            tissue.find_tiles(slide)


def test_a_slide_the_size_of_one_tile_has_one_tile(write_svs):
    with open_slide(write_svs(specimen((224, 224), (0, 0, 224, 224)), 0.5)) as slide:
        assert tissue.find_tiles(slide)[["x", "y"]].to_numpy().tolist() == [[0, 0]]


@pytest.fixture
def plain_slide(write_svs):
    """A slide full of sharp tissue, 20 × 20 tiles of 28 µm."""
    rng = np.random.default_rng(1)
    image = np.clip(np.array(TISSUE) + rng.normal(0, 40, (1120, 1120, 1)), 0, 255).astype(np.uint8)
    with open_slide(write_svs(image, 0.5)) as slide:
        yield slide


def test_sampling_is_deterministic_ordered_and_even(plain_slide):
    tiles = tissue.find_tiles(plain_slide, tile_um=28.0)
    assert len(tiles) == 400

    def draw(seed):
        return tissue.choose_tiles(plain_slide, tiles, max_tiles=100, rng=np.random.default_rng(seed), max_bad=0)

    drawn = draw(0)
    pd.testing.assert_frame_equal(drawn, draw(0))
    assert not drawn[["row", "col"]].equals(draw(1)[["row", "col"]])
    assert len(drawn[["row", "col"]].drop_duplicates()) == 100
    assert drawn.kept.all()
    pd.testing.assert_frame_equal(drawn, drawn.sort_values(["row", "col"]))
    assert drawn.row.mean() == pytest.approx(9.5, abs=2)


@pytest.mark.real
def test_real_slide_yields_tiles_on_tissue_only(real_data):
    with open_slide(real_data / "slides/CMU-1-Small-Region.svs") as slide:
        tiles = tissue.find_tiles(slide, tile_um=56.0)
        xy = tiles[["x", "y"]].to_numpy()
        pixels = np.concatenate([batch for _, batch in slide.read_tiles(xy, tile_um=56.0, wanted_mpp=0.5)])
    saturation = np.array([cv2.cvtColor(tile, cv2.COLOR_RGB2HSV)[..., 1].mean() for tile in pixels])
    assert 160 <= len(tiles) <= 190
    assert saturation.min() > 25


@pytest.mark.real
def test_real_jpeg2000_slide_is_mostly_tissue(real_data):
    with open_slide(real_data / "slides/TCGA-CR-7395-01A-01-TS1.svs", 0.5) as slide:
        tiles = tissue.find_tiles(slide)
    assert 150 <= len(tiles) <= 230


# Thumbnails


def test_an_unreadable_slide_is_an_error_in_place_of_its_picture(write_svs, tmp_path):
    image = np.full((800, 1200, 3), 243, np.uint8)
    image[200:600, 200:600] = (196, 120, 170)
    (tmp_path / "bad.svs").write_bytes(write_svs(image, 0.5).read_bytes()[:300])
    slides = pd.DataFrame(
        {"slide_id": ["bad", "good"], "path": [str(tmp_path / "bad.svs"), str(tmp_path / "slide.svs")], "mpp": ["", ""]}
    )
    made = thumbnails(slides)
    assert isinstance(made["bad"], SlideError)
    picture = made["good"]
    assert isinstance(picture, Thumbnail)
    assert picture.size_um == (600, 400)
    assert picture.image.shape == (400, 600, 3)
    assert picture.tissue_mm2 == pytest.approx(0.04, rel=0.1)
