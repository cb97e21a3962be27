"""Paint one synthetic H&E slide: glands, stroma, nuclei and lymphocyte hot spots on white glass.

A slide is painted as two maps, how much haematoxylin and how much eosin lies at each pixel, and
turned into light by the Beer–Lambert law with the stain of its laboratory.  Everything is laid out
in µm, so that a slide shows the same tissue whatever its resolution.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

GLASS_UM = 1344.0
"""Side of the square of glass that is scanned."""
TISSUE_UM = 570.0
"""Mean radius of the piece of tissue."""
LAYOUT_UM = 2.0
"""µm/px of the fields that say what is where; they are smooth, so this is fine enough."""
TEXTURE_UM = 1.0
"""µm/px of fibres and cytoplasm; only nuclei are drawn at the slide's own resolution."""
FULL_H, FULL_E = 2.0, 1.6
"""Stain amounts (optical density along the stain's vector) that a map's 255 stands for."""


@dataclass(frozen=True)
class Morphology:
    """What a piece of tissue is like, in physical units."""

    nuclei_per_mm2: float
    """Epithelial nuclei per mm² of epithelium; stromal nuclei follow in proportion."""
    nucleus_um: float
    """Mean radius of an epithelial nucleus (µm)."""
    hot_spots: float
    """Share of the tissue's area in lymphocyte hot spots."""
    stroma: float
    """Share of the tissue's area that is stroma."""


@dataclass(frozen=True)
class Stain:
    """A laboratory's stain and scanner: optical density per unit of each stain, and the light."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]

    def lut(self) -> np.ndarray:
        """uint8 (65536, 4): the RGBX colour of ``haematoxylin * 256 + eosin``, by Beer–Lambert."""
        amounts = np.arange(256) / 255
        optical_density = (amounts * FULL_H)[:, None, None] * np.array(self.haematoxylin) + (amounts * FULL_E)[
            None, :, None
        ] * np.array(self.eosin)  # (256, 256, 3)
        rgb = np.array(self.white) * 10**-optical_density
        return np.dstack([rgb.round().astype(np.uint8), np.full((256, 256), 255, np.uint8)]).reshape(-1, 4)


@dataclass(frozen=True)
class Painting:
    """Stain maps of a slide, uint8 (side, side), zero on glass."""

    haematoxylin: np.ndarray
    eosin: np.ndarray


def paint(morphology: Morphology, slide_mpp: float, rng: np.random.Generator) -> Painting:
    """Paint a slide.

    Parameters
    ----------
    morphology
        What the tissue is like.
    slide_mpp
        µm/px of the painting.
    rng
        Decides everything else: a same generator gives a same slide.
    """
    layout = _layout(morphology, rng)
    side = round(GLASS_UM / slide_mpp)
    haematoxylin, eosin = (
        cv2.resize(field, (side, side), interpolation=cv2.INTER_LINEAR) for field in _background(layout, rng)
    )
    for cells in (_fibroblasts, _epithelium, _lymphocytes):
        cells(haematoxylin, layout, morphology, slide_mpp, rng)
    return Painting(haematoxylin, eosin)


# Layout: what is where


@dataclass(frozen=True)
class _Layout:
    """Fields at `LAYOUT_UM`, float32 (n, n)."""

    tissue: np.ndarray
    """0 on glass, 1 in tissue, soft at the border."""
    depth: np.ndarray
    """µm into the gland from its basement membrane; negative in stroma."""
    lumen: np.ndarray
    """> 0 inside the lumen of a gland."""
    hot_spot: np.ndarray
    """> 0 inside a lymphocyte hot spot."""
    across: np.ndarray
    """Coordinate (µm) that grows across the collagen fibres."""
    along: np.ndarray
    """Coordinate (µm) that grows roughly along them."""


def _layout(morphology: Morphology, rng: np.random.Generator) -> _Layout:
    n = round(GLASS_UM / LAYOUT_UM)
    y, x = np.mgrid[:n, :n].astype(np.float32) * LAYOUT_UM - np.float32(GLASS_UM / 2)
    tissue = _piece(x, y, rng)
    inside = tissue > 0.5

    border, centre, crowding = _cells(n, rng)
    gland = border + 9 * crowding + 7 * _noise(rng, n, 160) + 2 * _noise(rng, n, 24)
    hot = _noise(rng, n, 90) + 0.35 * _noise(rng, n, 25) - 0.02 * gland
    hot_spot = hot - np.quantile(hot[inside], 1 - morphology.hot_spots)
    free = inside & (hot_spot <= 0)
    depth = gland - np.quantile(gland[free], morphology.stroma)
    lumen = np.minimum(0.42 + 0.08 * _noise(rng, n, 60) - centre / (centre + border + 1), (depth - 13) / 30)
    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    bend_x, bend_y = 70 * _noise(rng, n, 200), 70 * _noise(rng, n, 200)
    across = x * cos + y * sin + bend_x + 1.3 * gland
    along = y * cos - x * sin + bend_y
    return _Layout(tissue, depth, lumen, hot_spot, across, along)


def _piece(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of tissue with an organic outline."""
    n = len(x)
    stretch = rng.uniform(0.9, 1.1)
    radius = np.hypot(x * stretch, y / stretch)
    outline = TISSUE_UM + 45 * _noise(rng, n, 260) + 10 * _noise(rng, n, 60) + 3 * _noise(rng, n, 14)
    # A margin of glass all round, whatever the outline does.
    outline = np.minimum(outline, GLASS_UM / 2 - 24 - np.maximum(np.abs(x), np.abs(y)) + radius)
    return np.clip((outline - radius) / 3 + 0.5, 0, 1).astype(np.float32)


def _cells(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A warped Voronoi tessellation: µm to the border, µm to the centre, a normal draw a cell."""
    step = round(105 / LAYOUT_UM)
    seeds = np.ones((n, n), np.uint8)
    grid = np.stack(np.mgrid[0 : n + step : step, 0 : n + step : step], -1).astype(float)
    grid[::2, :, 1] += step / 2
    at = (grid + rng.uniform(-0.34, 0.34, grid.shape) * step).reshape(-1, 2).round().astype(int)
    at = at[((at >= 0) & (at < n)).all(1)]
    seeds[at[:, 0], at[:, 1]] = 0
    centre, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    edge = np.ones((n, n), np.uint8)
    edge[:-1][label[:-1] != label[1:]] = 0
    edge[:, :-1][label[:, :-1] != label[:, 1:]] = 0
    border = cv2.distanceTransform(edge, cv2.DIST_L2, 5)
    crowding = rng.standard_normal(label.max() + 1).astype(np.float32)[label]
    crowding = cv2.GaussianBlur(crowding, None, 8)

    y, x = np.mgrid[:n, :n].astype(np.float32)
    map_x = x + (9 * _noise(rng, n, 90) + 2.5 * _noise(rng, n, 30)) / LAYOUT_UM
    map_y = y + (9 * _noise(rng, n, 90) + 2.5 * _noise(rng, n, 30)) / LAYOUT_UM
    border, centre, crowding = (
        cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for field in (border, centre, crowding)
    )
    return border * LAYOUT_UM, centre * LAYOUT_UM, crowding


def _noise(rng: np.random.Generator, n: int, scale_um: float, pixel_um: float = LAYOUT_UM) -> np.ndarray:
    """Smooth standardised noise, float32 (n, n), with features of about `scale_um`."""
    coarse = max(4, round(n * pixel_um / scale_um) + 3)
    noise = cv2.resize(rng.standard_normal((coarse, coarse), np.float32), (n, n), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / noise.std()


# Background: stroma, cytoplasm, lumen


def _background(layout: _Layout, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin without nuclei, uint8, at `TEXTURE_UM`."""
    n = round(GLASS_UM / TEXTURE_UM)

    def up(field: np.ndarray) -> np.ndarray:
        return cv2.resize(field, (n, n), interpolation=cv2.INTER_LINEAR)

    fibres = _fibres(up(layout.across), up(layout.along), rng)
    grain = rng.standard_normal((n, n), np.float32)
    cloud = up(_noise(rng, len(layout.depth), 40))
    depth = up(layout.depth)
    gland = np.clip(depth / 2 + 0.5, 0, 1)
    lumen = np.clip(up(layout.lumen) * 25 + 0.5, 0, 1)
    infiltrate = np.clip(up(layout.hot_spot) * 4, 0, 1) * 0.8

    collagen = np.clip(0.46 + 0.17 * fibres + 0.05 * cloud, 0.03, 1)
    cytoplasm = 0.36 + 0.03 * cloud + 0.035 * cv2.GaussianBlur(grain, None, 0.8)
    eosin = collagen + gland * (cytoplasm - collagen)
    eosin += infiltrate * (0.30 + 0.06 * fibres - eosin)
    haematoxylin = 0.05 + gland * (0.17 + 0.03 * cloud) + infiltrate * 0.06 + 0.012 * grain
    solid = up(layout.tissue) * (1 - 0.97 * lumen)
    scale = ((haematoxylin, 255 / FULL_H), (eosin, 255 / FULL_E))
    maps = [np.clip(amount * solid * unit, 0, 255).astype(np.uint8) for amount, unit in scale]
    return maps[0], maps[1]


def _fibres(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wavy collagen: a streaky texture laid along the bent coordinates."""
    streaks = rng.standard_normal((512, 512), np.float32)
    fine = cv2.GaussianBlur(streaks, None, sigmaX=1.1, sigmaY=9)
    broad = cv2.GaussianBlur(streaks[::-1].copy(), None, sigmaX=3.0, sigmaY=14)
    texture = fine / fine.std() + 0.8 * broad / broad.std()
    texture /= texture.std()
    return cv2.remap(
        texture, np.mod(across, 511).astype(np.float32), np.mod(along / 2, 511).astype(np.float32), cv2.INTER_LINEAR
    )


# Nuclei


def _epithelium(canvas: np.ndarray, layout: _Layout, morphology: Morphology, mpp: float, rng: np.random.Generator):
    """Rings of oval nuclei near the basement membrane, their long axis across it."""
    where = (layout.depth > 1) & (layout.lumen < -0.02) & (layout.hot_spot <= 0) & (layout.tissue > 0.9)
    weight = np.where(where, np.exp(-(((layout.depth - 8) / 6) ** 2)) + 0.3, 0)
    count = morphology.nuclei_per_mm2 * where.sum() * LAYOUT_UM**2 / 1e6
    xy = _scatter(weight, count, 1.5 * morphology.nucleus_um, rng)
    bank = _nuclei(rng, mpp, radius_um=morphology.nucleus_um, spread=0.14, aspect=1.35, level=0.95, open_=0.45)
    _stamp(canvas, bank, xy / mpp, _direction(layout.depth, xy), rng)


def _fibroblasts(canvas: np.ndarray, layout: _Layout, morphology: Morphology, mpp: float, rng: np.random.Generator):
    """Spindle nuclei along the collagen."""
    where = (layout.depth < -2) & (layout.tissue > 0.9)
    count = 0.22 * morphology.nuclei_per_mm2 * where.sum() * LAYOUT_UM**2 / 1e6
    xy = _scatter(where, count, 5.0, rng)
    radius = 0.78 * morphology.nucleus_um
    bank = _nuclei(rng, mpp, radius_um=radius, spread=0.15, aspect=2.9, level=1.0, open_=0.15)
    _stamp(canvas, bank, xy / mpp, _direction(layout.across, xy) + np.pi / 2, rng)


def _lymphocytes(canvas: np.ndarray, layout: _Layout, morphology: Morphology, mpp: float, rng: np.random.Generator):
    """Small dark round nuclei, packed in the hot spots."""
    where = (layout.hot_spot > 0) & (layout.tissue > 0.9)
    xy = _scatter(where, 15_000 * where.sum() * LAYOUT_UM**2 / 1e6, 5.2, rng)
    bank = _nuclei(rng, mpp, radius_um=2.7, spread=0.07, aspect=1.1, level=1.45, open_=0.1)
    _stamp(canvas, bank, xy / mpp, rng.uniform(0, np.pi, len(xy)), rng)


def _scatter(weight: np.ndarray, count: float, spacing_um: float, rng: np.random.Generator) -> np.ndarray:
    """About `count` places (x, y; µm) drawn by `weight`, kept apart by a jittered hexagonal grid."""
    steps = np.arange(0, GLASS_UM, spacing_um)
    xy = np.stack(np.meshgrid(steps, steps * np.sqrt(0.75)), -1)
    xy[::2, :, 0] += spacing_um / 2
    xy = (xy + rng.uniform(-0.28, 0.28, xy.shape) * spacing_um).reshape(-1, 2)
    row, column = (xy[:, ::-1].T / LAYOUT_UM).astype(int).clip(0, len(weight) - 1)
    chance = weight[row, column].astype(float)
    xy, chance = xy[chance > 0], chance[chance > 0]
    # The largest log-weights plus Gumbel noise are a weighted draw without replacement.
    order = np.argsort(-(np.log(chance) + rng.gumbel(size=len(chance))), kind="stable")
    return xy[order[: round(count)]]


def _direction(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Angle (rad) in which `field` rises fastest at each place."""
    smooth = cv2.GaussianBlur(field, None, 3)
    row, column = (xy[:, ::-1].T / LAYOUT_UM).astype(int).clip(1, len(field) - 2)
    return np.arctan2(
        smooth[row + 1, column] - smooth[row - 1, column], smooth[row, column + 1] - smooth[row, column - 1]
    )


ANGLES, VARIANTS = 16, 8


def _nuclei(
    rng: np.random.Generator, mpp: float, *, radius_um: float, spread: float, aspect: float, level: float, open_: float
) -> np.ndarray:
    """A bank of nuclei to stamp, uint8 (ANGLES, VARIANTS, px, px).

    `radius_um` is the radius of a disc of the mean area, `spread` the SD of log radius, `level` the
    haematoxylin of the chromatin, and `open_` how much paler than its rim the inside is.
    """
    shape = (ANGLES, VARIANTS, 1, 1)
    radius = radius_um * np.exp(spread * rng.standard_normal(shape))
    reach = int(np.ceil(radius.max() * np.sqrt(aspect) * 1.35 / mpp))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * mpp
    angle = np.arange(ANGLES).reshape(-1, 1, 1, 1) * np.pi / ANGLES + rng.uniform(-0.1, 0.1, shape)
    stretch = np.sqrt(aspect * np.exp(0.12 * rng.standard_normal(shape)))
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / stretch, (y * np.cos(angle) - x * np.sin(angle)) * stretch
    turn = np.arctan2(v, u)
    dents = sum(rng.uniform(0, 0.1 / k, shape) * np.cos(k * turn + rng.uniform(0, 2 * np.pi, shape)) for k in (2, 3, 4))
    inward = radius * (1 + dents) - np.hypot(u, v)  # µm from the membrane, positive inside
    body = np.clip(inward / 0.7 + 0.5, 0, 1)
    rim = np.exp(-(((inward - 0.5) / 0.6) ** 2))
    clumps = rng.standard_normal((ANGLES, VARIANTS, *x.shape), np.float32)
    clumps = np.stack([cv2.GaussianBlur(c, None, 0.55 / mpp) for c in clumps.reshape(-1, *x.shape)]).reshape(
        clumps.shape
    )
    chromatin = 1 - open_ * (1 - rim) + 0.16 * clumps / clumps.std()
    nucleolus = np.exp(-((u - rng.uniform(-1, 1, shape)) ** 2 + (v - rng.uniform(-1, 1, shape)) ** 2) / 0.8)
    chromatin += open_ * nucleolus * (rng.uniform(size=shape) < 0.6)
    tone = level * np.exp(0.16 * rng.standard_normal(shape))
    return np.clip(body * chromatin * tone * 255 / FULL_H, 0, 255).astype(np.uint8)


def _stamp(canvas: np.ndarray, bank: np.ndarray, xy_px: np.ndarray, angles: np.ndarray, rng: np.random.Generator):
    """Stamp a nucleus at each place, where it is darker than what lies there."""
    px = bank.shape[-1]
    corners = np.round(xy_px).astype(int) - px // 2
    keep = ((corners >= 0) & (corners + px <= len(canvas))).all(1)
    turns = np.round(angles / (np.pi / ANGLES)).astype(int) % ANGLES
    variants = rng.integers(VARIANTS, size=len(turns))
    for (x, y), turn, variant in zip(
        corners[keep].tolist(), turns[keep].tolist(), variants[keep].tolist(), strict=True
    ):
        patch = canvas[y : y + px, x : x + px]
        np.maximum(patch, bank[turn, variant], out=patch)
