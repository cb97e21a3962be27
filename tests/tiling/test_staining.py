"""Stain normalisation: known stains are recovered, laboratories look alike afterwards, tissue keeps its structure."""

from functools import cache

import numpy as np
import pytest

from wsibench.cohort.simulation import histology, simulate
from wsibench.core import SlideError
from wsibench.tiling import staining
from wsibench.tiling.slides import open_slide

METHODS = pytest.mark.parametrize("method", ["macenko", "reinhard"])


@cache
def painting() -> histology.Painting:
    morphology = histology.Morphology(nuclei_per_mm2=6500, nucleus_um=3.3, hot_spots=0.04, stroma=0.5)
    return histology.paint(morphology, 1.0, np.random.SeedSequence(0))


@cache
def slide(laboratory: int) -> np.ndarray:
    """The same tissue as each laboratory stains it, at 1 µm/px."""
    stain = simulate.site_stain(np.random.default_rng(laboratory))
    return stain.colours()[painting().haematoxylin, painting().eosin]


def tissue(image: np.ndarray) -> np.ndarray:
    inside = (painting().eosin > 20) & (painting().haematoxylin > 0)
    return image[inside].astype(float)


def test_macenko_recovers_the_stains_that_were_mixed():
    rng = np.random.default_rng(0)
    true = staining.STAINS / np.linalg.norm(staining.STAINS, axis=0)
    amounts = rng.gamma(1.0, 0.4, (20_000, 2)) + 0.02
    pixels = np.clip(staining.GLASS * np.exp(-amounts @ true.T) - 1, 0, 255).round().astype(np.uint8)
    stained = pixels[(staining._density(pixels) >= staining.FAINT).all(axis=1)]
    found, _ = staining.stain_vectors(stained)
    cosines = (found * true).sum(axis=0) / np.linalg.norm(found, axis=0)
    assert (cosines > np.cos(np.radians(4))).all()


def test_macenko_is_the_published_formula():
    pixels = slide(1).reshape(-1, 3)[::7]
    recolour = staining.fit(pixels, "macenko")
    stained = pixels[(staining._density(pixels) >= staining.FAINT).all(axis=1)]
    stains, amounts = staining.stain_vectors(stained)
    some = slide(1)[700:720, 700:730].reshape(-1, 3)
    found = np.linalg.lstsq(stains, -np.log((some + 1) / 240).T, rcond=None)[0]
    expected = 240 * np.exp(-staining.STAINS @ (found * (staining.AMOUNTS / amounts)[:, None]))
    np.testing.assert_allclose(recolour(some), np.clip(expected.T, 0, 255), atol=0.51)


@METHODS
def test_laboratories_look_alike_afterwards(method):
    before = [slide(laboratory) for laboratory in range(4)]
    after = [staining.fit(image[::3, ::3].reshape(-1, 3), method)(image) for image in before]
    spread = [np.std([tissue(image).mean(axis=0) for image in images], axis=0).mean() for images in (before, after)]
    assert spread[1] < 0.4 * spread[0]


@METHODS
def test_structure_stays_and_only_colour_changes(method):
    image = slide(2)
    changed = staining.fit(image[::3, ::3].reshape(-1, 3), method)(image)
    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    for channel in range(3):
        rho = np.corrcoef(tissue(image)[:, channel], tissue(changed)[:, channel])[0, 1]
        assert rho > 0.9


def test_reinhard_meets_its_target():
    image = slide(3)
    stained = image[staining._density(image).mean(axis=-1) >= staining.FAINT]
    lab = staining._to_lab(staining.fit(stained, "reinhard")(stained))
    np.testing.assert_allclose(lab.mean(axis=0), staining.LAB_MEAN, atol=0.05)
    np.testing.assert_allclose(lab.std(axis=0), staining.LAB_SD, atol=0.1)


@METHODS
def test_a_slide_s_tiles_are_all_changed_alike(write_svs, method):
    image = np.repeat(np.repeat(slide(0)[100:800, 100:800], 2, axis=0), 2, axis=1)
    xy = np.array([[x, y] for y in range(0, 1300, 224) for x in range(0, 1300, 224)])
    with open_slide(write_svs(image, 0.5)) as opened:
        recolour = staining.normaliser(opened, xy, tile_um=112, method=method)
        again = staining.normaliser(opened, xy, tile_um=112, method=method)
        (_, tiles), *_ = opened.read_tiles(xy, tile_um=112, wanted_mpp=0.5)
    np.testing.assert_array_equal(recolour(tiles)[3], recolour(tiles[3]))
    np.testing.assert_array_equal(recolour(tiles), again(tiles))


@METHODS
def test_glass_and_a_single_colour_say_so(method):
    glass = np.full((5000, 3), 244, np.uint8)
    with pytest.raises(SlideError, match="too little stain"):
        staining.fit(glass, method)


def test_a_single_colour_has_no_two_stains():
    with pytest.raises(SlideError, match="one stain only"):
        staining.fit(np.full((5000, 3), (180, 90, 150), np.uint8), "macenko")
