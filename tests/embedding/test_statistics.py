"""The download-free statistics see what they are named after."""

import cv2
import numpy as np
import pytest
from skimage.color import hed2rgb

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
    vector = getattr(statistics, name)(np.full((PX, PX, 3), value, np.uint8))
    assert vector.shape == (encoder(name).dim,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()


@pytest.mark.parametrize("name", ["colour", "texture"])
def test_noise_has_finite_statistics(name):
    tile = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), np.uint8)
    assert np.isfinite(getattr(statistics, name)(tile)).all()


@pytest.mark.parametrize("stain", [0.7, 1.0, 1.3])
def test_nuclei_are_counted_at_every_stain_intensity(stain):
    nuclei = grid(25)
    assert statistics.texture(tissue(nuclei, 5, stain=stain))[0] == len(nuclei)


def test_touching_nuclei_are_separated():
    pairs = [(x + offset, y) for x, y in grid(50) for offset in (0, 11)]
    vector = statistics.texture(tissue(pairs, 6))
    assert vector[0] == len(pairs) / 2  # connected components
    assert vector[20] == len(pairs)  # peaks of the distance transform


def test_larger_nuclei_are_larger():
    small, large = (statistics.texture(tissue(grid(30), radius))[2] for radius in (4, 8))
    assert large / small == pytest.approx(2, rel=0.2)  # root of the area


def test_the_mean_colour_is_the_mean_colour():
    tile = tissue(grid(30), 5)
    np.testing.assert_allclose(statistics.colour(tile)[:3], tile.mean((0, 1)) / 255, rtol=1e-5)
