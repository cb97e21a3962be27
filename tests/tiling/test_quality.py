"""Tile quality: artefacts painted onto clean slides are found, and clean tissue is kept."""

from functools import cache
from typing import get_args

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest

from wsibench.cohort.simulation import cohort as simulated_cohort, slides as simulated_slides
from wsibench.core import TileArtefact
from wsibench.tiling import quality, tissue
from wsibench.tiling.slides import open_slide

TILE_UM, MPP = 112.0, 0.5
INKS = {  # transmission of a marker's line (R, G, B)
    "black": (0.06, 0.06, 0.07),
    "blue": (0.10, 0.22, 0.65),
    "green": (0.12, 0.50, 0.25),
    "red": (0.85, 0.11, 0.13),
}


@cache
def simulated(seed: int) -> np.ndarray:
    """A simulated slide's pixels at 0.5 µm/px, of another morphology and stain for each seed."""
    rng = np.random.default_rng(seed)
    latents = ["nuclear_density", "nuclear_size", "lymphocytes", "stroma"]
    morphology = simulated_cohort.morphology(pd.Series(rng.normal(0, 1, 4), latents))
    painting = simulated_slides.paint(morphology, MPP, np.random.SeedSequence(seed))
    return simulated_cohort.site_stain(rng).colours()[painting.haematoxylin, painting.eosin]


def real(folder, name: str) -> np.ndarray:
    with openslide.OpenSlide(folder / "slides" / name) as slide:
        width, height = slide.dimensions
        return np.asarray(slide.read_region((0, 0), 0, (min(width, 2500), min(height, 3000))).convert("RGB"))


def draw_pen(image: np.ndarray, ink: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Wavy lines of a marker 300 µm wide; the image and where it is inked."""
    height, width = image.shape[:2]
    painted = np.zeros((height, width), np.uint8)
    for _ in range(2):
        along = np.linspace(0, width, 12)
        across = rng.uniform(0.25, 0.75) * height + np.cumsum(rng.normal(0, 80, 12))
        line = np.stack([along, across], 1).round().astype(np.int32)
        cv2.polylines(painted, [line], isClosed=False, color=1, thickness=round(300 / MPP))
    inked = painted.astype(bool)
    marked = image.copy()
    marked[inked] = image[inked] * np.array(INKS[ink]) + rng.normal(0, 2, (inked.sum(), 1)).clip(0)
    return marked, inked


def blur(image: np.ndarray, sigma_um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two regions out of focus, with the camera's noise; the image and where it is blurred."""
    height, width = image.shape[:2]
    painted = np.zeros((height, width), np.uint8)
    for x, y in rng.uniform(0.3, 0.7, (2, 2)) * (width, height):
        cv2.circle(painted, (round(x), round(y)), round(0.2 * width), 1, -1)
    soft = cv2.GaussianBlur(image, (0, 0), sigma_um / MPP)
    soft = np.clip(soft + rng.normal(0, 1.5, soft.shape), 0, 255).astype(np.uint8)
    return np.where(painted[..., None] > 0, soft, image), painted.astype(bool)


def tiles_of(path, drop=("pen", "blur")) -> pd.DataFrame:
    """All tissue tiles of a slide, indexed by row and column."""
    with open_slide(path, MPP) as slide:
        found = tissue.find_tiles(slide, tile_um=TILE_UM)
        found = tissue.choose_tiles(slide, found, max_tiles=10_000, drop=drop, rng=np.random.default_rng(0), max_bad=0)
    return found.set_index(["row", "col"])


def rates(write_svs, image, marked, painted, least: float) -> tuple[int, float, float]:
    """Number of painted tiles, share of them that is dropped, and share of unpainted tiles that is dropped."""
    before = tiles_of(write_svs(image, MPP, name="clean.svs", subsampling="420", quality=85), drop=())
    after = tiles_of(write_svs(marked, MPP, name="marked.svs", subsampling="420", quality=85))
    side = TILE_UM / MPP
    share = tissue.area_share(painted, before[["x", "y"]].to_numpy(), side)
    kept = after.kept.reindex(before.index, fill_value=False).to_numpy()
    hit, clean = share >= least, share == 0
    return int(hit.sum()), float((~kept[hit]).mean()), float((~kept[clean]).mean())


@pytest.mark.parametrize("ink", INKS)
def test_pen_on_simulated_tissue_is_found(write_svs, ink):
    image = simulated(list(INKS).index(ink) % 2)
    n, hit, clean = rates(write_svs, image, *draw_pen(image, ink, np.random.default_rng(0)), least=0.1)
    assert n >= 20
    assert hit >= 0.9
    assert clean <= 0.02


@pytest.mark.parametrize("sigma_um", [2.0, 3.0, 6.0])
def test_blur_on_simulated_tissue_is_found(write_svs, sigma_um):
    image = simulated(0)
    n, hit, clean = rates(write_svs, image, *blur(image, sigma_um, np.random.default_rng(0)), least=0.999)
    assert n >= 20
    assert hit >= 0.9
    assert clean <= 0.02


@pytest.mark.real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_pen_and_blur_on_real_tissue_are_found(write_svs, real_data, name):
    image = real(real_data, name)
    for ink in INKS:
        n, hit, clean = rates(write_svs, image, *draw_pen(image, ink, np.random.default_rng(0)), least=0.1)
        assert n >= 10
        assert hit >= 0.9, ink
        assert clean <= 0.02, ink
    for sigma_um in (2.0, 4.0):
        n, hit, clean = rates(write_svs, image, *blur(image, sigma_um, np.random.default_rng(1)), least=0.999)
        assert n >= 5
        assert hit >= 0.9, sigma_um
        assert clean <= 0.02, sigma_um


@pytest.mark.real
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_real_slides_keep_their_tissue(real_data, name):
    assert tiles_of(real_data / "slides" / name).kept.mean() >= 0.98


def test_folds_edges_and_bubbles_are_distinguished(write_svs):
    image = simulated(1)
    height, width = image.shape[:2]
    clean = tiles_of(write_svs(image, MPP), drop=())
    middle = clean[(clean.edge == 0)]
    assert (middle.fold <= 0.15).mean() >= 0.98
    assert clean[clean.artefacts.str.contains("edge")].tissue.max() < 0.9

    folded = image.copy()
    band = slice(round(0.45 * height), round(0.45 * height) + 160)
    folded[band] = (image[band].astype(float) ** 2 / 245).astype(np.uint8)  # tissue twice: densities add
    after = tiles_of(write_svs(folded, MPP), drop=("fold",))
    overlap = (after.y + 224).clip(upper=band.stop) - after.y.clip(lower=band.start)
    assert (~after.kept[(overlap > 80) & (after.tissue > 0.9)]).mean() >= 0.8
    assert after.kept[overlap <= 0].mean() >= 0.98

    bubbled = image.copy()
    cv2.circle(bubbled, (width // 2, height // 2), 300, (150, 150, 152), 90)
    assert tiles_of(write_svs(bubbled, MPP), drop=()).artefacts.str.contains("bubble").sum() >= 4
    assert not clean.artefacts.str.contains("bubble").any()


def test_only_the_named_artefacts_are_dropped(write_svs):
    image = simulated(0)
    path = write_svs(draw_pen(image, "green", np.random.default_rng(0))[0], MPP)
    kept, dropped = tiles_of(path, drop=()), tiles_of(path, drop=("pen",))
    assert kept.kept.all()
    assert kept.attrs["n_pen"] == dropped.attrs["n_pen"] == dropped.artefacts.str.contains("pen").sum() > 0
    assert dropped.attrs["n_tiles"] == dropped.kept.sum() == len(dropped) - dropped.attrs["n_pen"]


def test_sharpness_does_not_depend_on_the_slide_s_resolution(write_svs):
    image = simulated(1)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    values = []
    for pixels, px in ((image, 224), (half, 112)):
        corners = [(y, x) for y in range(0, 12 * px, px) for x in range(0, 12 * px, px)]
        values.append(quality.sharpness(np.stack([pixels[y : y + px, x : x + px] for y, x in corners]), 112))
    np.testing.assert_allclose(values[0], values[1], rtol=0.05, atol=2)
    assert np.isnan(quality.sharpness(np.zeros((2, 50, 50, 3), np.uint8), 112)).all()


def test_every_artefact_of_the_settings_has_a_flag():
    assert set(quality.FLAGS) == set(get_args(TileArtefact))
