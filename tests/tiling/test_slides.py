"""Opening slides: true resolution, physical size of what is read, and errors with remedies."""

import numpy as np
import pytest
import tifffile
from damage import patch_tag

from wsibench.core import SlideError
from wsibench.tiling.slides import open_slide

GLASS = 245


def bars(length_um: float, mpp: float, *, size: int = 700) -> np.ndarray:
    """Glass with two one-micrometre-wide vertical lines `length_um` apart, the first at 30 µm."""
    edges = np.arange(size + 1) * mpp
    dark = np.zeros(size)
    for start in (30.0, 30.0 + length_um):
        dark += np.clip(np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start), 0, None) / mpp
    row = np.rint(GLASS - 200 * dark).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (size, size, 3)).copy()


def line_centres(tile: np.ndarray) -> list[float]:
    """Centres of mass of the two dark lines, in pixels."""
    dark = np.clip(GLASS - 20 - tile[..., 1].mean(0), 0, None)
    middle = len(dark) // 2
    places = np.arange(len(dark)) + 0.5
    halves = (slice(None, middle), slice(middle, None))
    return [float((dark[half] * places[half]).sum() / dark[half].sum()) for half in halves]


@pytest.mark.parametrize("mpp", [0.2465, 0.2508, 0.4990, 0.5015])
@pytest.mark.parametrize("wanted_mpp", [0.25, 0.5])
def test_a_ruler_has_the_same_length_at_every_resolution(write_svs, mpp, wanted_mpp):
    ruler_um, tile_um = 56.0, 112.0
    path = write_svs(bars(ruler_um, mpp), mpp)
    with open_slide(path) as slide:
        assert slide.slide_mpp == pytest.approx(mpp)
        (_, (tile,)), *_ = slide.read_tiles(np.array([[0, 0]]), tile_um=tile_um, wanted_mpp=wanted_mpp)
    px = len(tile)
    left, right = line_centres(tile)
    assert abs((right - left) - ruler_um / tile_um * px) <= 0.5
    assert abs(left - 30.5 / tile_um * px) <= 0.5


def test_positions_are_exact_far_along_the_slide(write_svs):
    mpp, tile_um, index = 0.2465, 20.0, 70
    image = np.full((300, 6000, 3), GLASS, np.uint8)
    start = index * tile_um / mpp
    image[:, round(start) :] = 60
    path = write_svs(image, mpp, downsamples=(1, 4))
    xy = np.array([[round(start), 0]])
    with open_slide(path) as slide:
        (_, (fine,)), *_ = slide.read_tiles(xy, tile_um=tile_um, wanted_mpp=mpp)
        (_, (coarse,)), *_ = slide.read_tiles(xy, tile_um=tile_um, wanted_mpp=4 * mpp)
    assert fine.max() < 100
    assert (coarse[:, 1:] < 100).all()  # its first pixel may straddle the step, no other


def test_pixels_outside_the_slide_are_white(write_svs):
    path = write_svs(np.full((300, 300, 3), 100, np.uint8), 0.5)
    with open_slide(path) as slide:
        (_, (tile,)), *_ = slide.read_tiles(np.array([[200, 200]]), tile_um=100, wanted_mpp=0.5)
    assert tile.shape == (200, 200, 3)
    assert abs(int(tile[:100, :100].mean()) - 100) <= 1
    assert (tile[100:] == 255).all()
    assert (tile[:, 100:] == 255).all()


def test_levels_have_their_true_downsample(write_svs):
    path = write_svs(np.full((1003, 2007, 3), 200, np.uint8), 0.25, downsamples=(1, 4))
    with open_slide(path) as slide:
        assert slide.level_downsample == (1, 4)
        assert slide.level_mpp == pytest.approx((0.25, 1.0))
        wanted = (0.1, 0.25, 0.5, 0.98, 0.985, 2.0, 8.1)
        found = [slide.resolution_for(mpp) for mpp in wanted]
    assert [(at.level, at.scale) for at in found] == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 1), (1, 2), (1, 8)]
    assert [at.mpp for at in found] == pytest.approx([0.25, 0.25, 0.5, 0.5, 1, 2, 8])


def test_thumbnail_averages_areas_and_returns_its_resolution(write_svs):
    image = np.full((1000, 1500, 3), 250, np.uint8)
    image[400:600, 300:900] = (120, 40, 160)
    path = write_svs(image, 0.25)
    with open_slide(path) as slide:
        thumbnail, mpp = slide.thumbnail(2.1)
    assert mpp == pytest.approx(2.0)
    assert thumbnail.shape == (125, 188, 3)
    dark_mm2 = (thumbnail[..., 1] < 145).sum() * mpp**2
    assert dark_mm2 == pytest.approx(200 * 600 * 0.25**2, rel=0.02)


def test_batches_cover_all_tiles_in_order(write_svs):
    rng = np.random.default_rng(0)
    path = write_svs(np.kron(rng.integers(0, 255, (8, 8, 3), np.uint8), np.ones((64, 64, 1), np.uint8)), 0.5)
    xy = np.array([[x, y] for y in range(0, 512, 64) for x in range(0, 512, 64)])
    with open_slide(path) as slide:
        batches = list(slide.read_tiles(xy, tile_um=32, wanted_mpp=0.5, batch=10))
        one = {tuple(at): next(slide.read_tiles(at[None], tile_um=32, wanted_mpp=0.5))[1][0] for at in xy}
    assert np.concatenate([indices for indices, _ in batches]).tolist() == list(range(64))
    assert max(len(tiles) for _, tiles in batches) <= 10
    for indices, tiles in batches:
        for index, tile in zip(indices, tiles, strict=True):
            np.testing.assert_array_equal(tile, one[tuple(xy[index])])


def test_given_mpp_overrides_the_file_and_assumed_mpp_does_not(write_svs):
    image = np.full((300, 300, 3), 100, np.uint8)
    stated, silent = write_svs(image, 0.25, name="stated.svs"), write_svs(image, None, name="silent.svs")
    assert open_slide(stated, 0.5, assumed_mpp=1).slide_mpp == 0.5
    assert open_slide(stated, assumed_mpp=1).slide_mpp == 0.25
    assert open_slide(silent, assumed_mpp=1).slide_mpp == 1
    with pytest.raises(SlideError, match=r"does not say its resolution.*`mpp` column to slides\.csv"):
        open_slide(silent)


@pytest.mark.parametrize("mpp", [0.0005, 0.04, 5.5, 353.0])
def test_implausible_mpp_is_refused(write_svs, mpp):
    image = np.full((300, 300, 3), 100, np.uint8)
    with pytest.raises(SlideError, match="implausible"):
        open_slide(write_svs(image, mpp))
    with pytest.raises(SlideError, match="implausible"):
        open_slide(write_svs(image, 0.5), mpp)


def test_pixels_that_are_not_square_are_refused(tmp_path):
    path = tmp_path / "slide.tif"
    per_cm = (1e4 / 0.25, 1e4 / 0.27)
    image = np.full((512, 512, 3), 100, np.uint8)
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", resolution=per_cm, resolutionunit="CENTIMETER")
    with pytest.raises(SlideError, match="not square"):
        open_slide(path)
    assert open_slide(path, 0.26).slide_mpp == 0.26


def test_files_that_are_no_slides_are_refused(tmp_path):
    with pytest.raises(SlideError, match=r"does not exist.*slides\.csv"):
        open_slide(tmp_path / "nowhere.svs")
    (tmp_path / "text.svs").write_text("not a slide")
    with pytest.raises(SlideError, match=r"text\.svs is not a slide"):
        open_slide(tmp_path / "text.svs")


@pytest.mark.parametrize(
    ("shape", "dtype", "photometric", "kind"),
    [
        ((600, 600), np.uint16, "minisblack", "16-bit grey"),
        ((600, 600, 3), np.uint16, "rgb", "16-bit RGB"),
        ((600, 600), np.uint8, "minisblack", "8-bit grey"),
        ((600, 600, 4), np.uint8, "rgb", "8-bit RGBA"),
    ],
)
def test_images_other_than_8_bit_rgb_are_refused(tmp_path, shape, dtype, photometric, kind):
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path,
        np.full(shape, 100, dtype),
        tile=(256, 256),
        photometric=photometric,
        extrasamples=["unassalpha"] if shape[2:] == (4,) else None,
        description="Aperio\n|MPP = 0.5",
        metadata=None,
    )
    with pytest.raises(SlideError, match=f"slide.svs is a {kind} image; .*Export it as 8-bit RGB"):
        open_slide(path)


@pytest.mark.parametrize(("tag", "dtype"), [("SamplesPerPixel", 1), ("TileByteCounts", 16)])
def test_a_damaged_header_is_a_slide_error(write_svs, tag, dtype):
    path = write_svs(np.full((600, 600, 3), 200, np.uint8), 0.5)
    patch_tag(path, tag, 2, dtype)  # its readers raise TypeError and MemoryError
    with pytest.raises(SlideError, match=r"slide\.svs cannot be opened.*Fetch or export the file again"):
        open_slide(path)


def test_a_header_that_states_more_pixels_than_the_file_holds_is_refused(write_svs):
    path = write_svs(np.full((600, 600, 3), 200, np.uint8), 0.5)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(1_000_000)
        tiff.pages[0].tags["ImageLength"].overwrite(2800)
    with pytest.raises(SlideError, match=r"states 1000000 × 2800 px and holds 9 of 42977 file tiles"):
        open_slide(path)


@pytest.mark.real
def test_real_slides(real_data):
    with open_slide(real_data / "slides/CMU-1-Small-Region.svs") as slide:
        assert slide.slide_mpp == pytest.approx(0.499)
        assert slide.tile_px(112, 0.5) == 224
    with open_slide(real_data / "slides/TCGA-CR-7395-01A-01-TS1.svs", 0.5) as slide:
        assert slide.level_downsample == (1, 2)
        (_, (tile,)), *_ = slide.read_tiles(np.array([[2000, 1600]]), tile_um=112, wanted_mpp=1.0)
        assert tile.shape == (112, 112, 3)
    with pytest.raises(SlideError, match="resolution"):
        open_slide(real_data / "slides/TCGA-CR-7395-01A-01-TS1.svs")
    with pytest.raises(SlideError, match="not a slide"):
        open_slide(real_data / "slides/broken.svs")
