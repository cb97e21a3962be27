"""The download-free statistics see what they are named after."""

import cv2
import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2hed
from skimage.feature import graycomatrix, graycoprops

from wsibench.embedding import encoder, statistics

PX = 224


def tissue(nuclei: list[tuple[int, int]], radius: int, *, stain: float = 1.0) -> np.ndarray:
    """A pink tile with round blue nuclei of one size."""
    hed = np.zeros((PX, PX, 3), np.float32)
    hed[..., 2] = 0.08 * stain
    spots = np.zeros((PX, PX), np.float32)
    for x, y in nuclei:
        cv2.circle(spots, (x, y), radius, 1.0, -1)
    hed[..., 0] = 0.02 * stain + 0.15 * stain * spots
    return np.round(hed2rgb(hed) * 255).astype(np.uint8)


def grid(step: int) -> list[tuple[int, int]]:
    return [(x, y) for x in range(12, PX - 8, step) for y in range(12, PX - 8, step)]


@pytest.mark.parametrize("name", ["colour", "texture"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_tile_of_one_colour_has_finite_statistics_of_the_declared_width(name, value):
    [vector] = getattr(statistics, name)(np.full((1, PX, PX, 3), value, np.uint8))
    assert vector.shape == (encoder(name).dim,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()


@pytest.mark.parametrize("name", ["colour", "texture"])
def test_noise_has_finite_statistics(name):
    tiles = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3), np.uint8)
    assert np.isfinite(getattr(statistics, name)(tiles)).all()


@pytest.mark.parametrize("stain", [0.7, 1.0, 1.3])
def test_nuclei_are_counted_at_every_stain_intensity(stain):
    nuclei = grid(25)
    assert texture(tissue(nuclei, 5, stain=stain))[0] == len(nuclei)


def test_touching_nuclei_are_separated():
    pairs = [(x + offset, y) for x, y in grid(50) for offset in (0, 11)]
    vector = texture(tissue(pairs, 6))
    assert vector[0] == len(pairs) / 2  # connected components
    assert vector[20] == len(pairs)  # peaks of the distance transform


def test_larger_nuclei_are_larger():
    small, large = (texture(tissue(grid(30), radius))[2] for radius in (4, 8))
    assert large / small == pytest.approx(2, rel=0.2)  # root of the area


def texture(tile: np.ndarray) -> np.ndarray:
    return statistics.texture(tile[None])[0]


def test_the_mean_colour_is_the_mean_colour():
    tile = tissue(grid(31), 5)
    np.testing.assert_allclose(statistics.colour(tile[None])[0, :3], tile.mean((0, 1)) / 255, rtol=0.01)


def test_stains_and_co_occurrence_are_those_of_skimage():
    tile = np.random.default_rng(0).integers(1, 256, (60, 60, 3), np.uint8)
    np.testing.assert_allclose(statistics._stains(tile, statistics.HED), rgb2hed(tile), atol=1e-6)
    grey = np.random.default_rng(1).integers(0, statistics.GREYS, (60, 60), np.uint8)
    matrix = graycomatrix(grey, [1], [0], statistics.GREYS, symmetric=True, normed=True)
    expected = [graycoprops(matrix, name).item() for name in ("contrast", "homogeneity", "correlation", "energy")]
    np.testing.assert_allclose(statistics._co_occurrence(grey[:, 1:], grey[:, :-1]), expected)


def test_parallel_fibres_are_coherent_and_speckle_is_not():
    x = np.arange(PX)
    hed = np.zeros((PX, PX, 3), np.float32)
    rng = np.random.default_rng(0)
    found = []
    for eosin in (0.05 + 0.03 * np.sin(x / 3), cv2.GaussianBlur(rng.uniform(0, 0.3, (PX, PX)), (0, 0), 2)):
        hed[..., 1] = eosin
        found.append(texture(np.round(hed2rgb(hed) * 255).astype(np.uint8))[55])  # mean coherence
    assert found[0] > 0.9
    assert found[1] < 0.6
