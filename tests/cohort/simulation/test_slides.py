"""Painted slides, measured by colour deconvolution of their pixels."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu

from wsibench.cohort.simulation.slides import GLASS_UM, Morphology, Painting, Stain, paint

AVERAGE = Morphology(nuclei_per_mm2=6500, nucleus_um=3.3, hot_spots=0.035, stroma=0.45)
STAIN = Stain((0.56, 0.72, 0.41), (0.22, 0.80, 0.56), (244, 243, 245))
MPP = 0.5


def picture(morphology: Morphology, seed: int = 0, slide_mpp: float = MPP) -> np.ndarray:
    """A painted slide as uint8 (side, side, 3)."""
    painting = paint(morphology, slide_mpp, np.random.SeedSequence(seed))
    return STAIN.colours()[painting.haematoxylin, painting.eosin]


def nuclei(image: np.ndarray) -> np.ndarray:
    """Inscribed radius (µm) of every nucleus in the middle of a slide; touching ones are separated."""
    third = len(image) // 3
    haematoxylin = ndimage.gaussian_filter(rgb2hed(image[third:-third, third:-third])[..., 0], 1)
    mask = ndimage.binary_fill_holes(haematoxylin > threshold_otsu(haematoxylin))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1)
    return distance[tuple(peak_local_max(distance, min_distance=3, threshold_abs=2).T)] * MPP


@pytest.fixture(scope="module")
def average() -> np.ndarray:
    return picture(AVERAGE)


def test_tissue_is_surrounded_by_glass(average):
    tissue = (average < 225).any(-1)
    border = np.concatenate(
        [tissue[:20].ravel(), tissue[-20:].ravel(), tissue[:, :20].ravel(), tissue[:, -20:].ravel()]
    )
    assert not border.any()
    assert 0.75 < tissue.sum() * MPP**2 / 1e6 < 1.15  # mm²
    assert (average[:20] == STAIN.white).all()


def test_tissue_is_pink_and_nuclei_are_blue(average):
    hed = rgb2hed(average[::2, ::2])
    nucleus = hed[..., 0] > np.quantile(hed[..., 0], 0.98)
    red, green, blue = average[::2, ::2][nucleus].mean(0)
    assert blue > red > green
    stroma = (hed[..., 2] > np.quantile(hed[..., 2], 0.9)) & ~nucleus
    red, green, blue = average[::2, ::2][stroma].mean(0)
    assert red > blue > green


def test_the_same_seed_paints_the_same_slide_and_another_seed_another():
    first, again, other = (picture(AVERAGE, seed, slide_mpp=1.0) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.3


def test_a_seed_shows_the_same_tissue_at_any_resolution(average):
    fine = picture(AVERAGE, slide_mpp=MPP / 2)
    assert len(fine) == pytest.approx(GLASS_UM / MPP * 2, abs=16)

    def coarse(image: np.ndarray, px: int) -> np.ndarray:
        n = len(image) // px
        return image[: n * px, : n * px].reshape(n, px, n, px, 3).mean((1, 3))

    difference = np.abs(coarse(average, 8) - coarse(fine, 16)).mean(-1)
    assert np.quantile(difference, 0.99) < 12  # grey levels, per 4 µm


def test_more_nuclei_are_counted_where_density_is_higher(average):
    fewer, more = (len(nuclei(picture(replace(AVERAGE, nuclei_per_mm2=density)))) for density in (4500, 9000))
    assert fewer * 1.15 < len(nuclei(average))
    assert len(nuclei(average)) * 1.15 < more


def test_nuclei_are_larger_where_size_is_larger_and_nearly_as_many(average):
    small, large = (nuclei(picture(replace(AVERAGE, nucleus_um=radius))) for radius in (2.8, 3.9))
    assert np.median(small) * 1.1 < np.median(nuclei(average))
    assert np.median(nuclei(average)) * 1.1 < np.median(large)
    assert 0.8 < len(large) / len(small) < 1.2


def test_hot_spots_are_dark():
    shares = []
    for hot_spots in (0.01, 0.035, 0.12):
        dark = rgb2hed(picture(replace(AVERAGE, hot_spots=hot_spots), slide_mpp=1.0))[..., 0] > 0.17
        shares.append(dark.mean())
    assert shares[0] * 1.6 < shares[1]
    assert shares[1] * 1.6 < shares[2]


def test_more_stroma_is_pinker():
    pinkness = []
    for stroma in (0.25, 0.45, 0.65):
        image = picture(replace(AVERAGE, stroma=stroma), slide_mpp=1.0).astype(float)
        tissue = (image < 225).any(-1)
        pinkness.append((image[..., 0] - image[..., 2])[tissue].mean())
    assert np.diff(pinkness).min() > 2  # grey levels


def test_colours_follow_beer_lambert():
    colours = STAIN.colours()
    assert (colours[0, 0] == STAIN.white).all()
    # Optical densities add: transmitted shares multiply.
    share = colours.astype(float) / np.array(STAIN.white)
    np.testing.assert_allclose(share[60, 80], share[60, 0] * share[0, 80], atol=0.01)
    assert (np.diff(colours[:, 0].astype(int), axis=0) <= 0).all()


def test_another_stain_shows_the_same_tissue_in_other_colours():
    painting = paint(AVERAGE, 1.0, np.random.SeedSequence(0))
    assert isinstance(painting, Painting)
    strong = replace(STAIN, eosin=tuple(1.3 * v for v in STAIN.eosin))
    ours, theirs = (stain.colours()[painting.haematoxylin, painting.eosin].mean((0, 1)) for stain in (STAIN, strong))
    assert theirs[1] < ours[1] - 3
