"""Paint a synthetic H&E slide: glands, stroma, nuclei and lymphocyte hot spots on white glass.

A slide is painted as two maps, the amounts of haematoxylin and eosin at each pixel, and
converted to colours by the Beer–Lambert law with the stain of its laboratory.  Everything is laid out
in µm, so that one seed shows the same tissue at any resolution.  The constants in the drawing are
µm or amounts of stain, chosen by eye against real breast and skin slides.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

# Side of the square of glass that is scanned.
GLASS_UM = 1400.0
# Mean radius of the piece of tissue.
TISSUE_UM = 560.0
# Least width of bare glass around it.
MARGIN_UM = 24.0
# µm/px of the layout fields; they are smooth, so this is fine enough.
LAYOUT_UM = 2.0
# µm/px of fibres and cytoplasm; only nuclei are drawn at the slide's own resolution.
TEXTURE_UM = 1.0
# Spacing of possible glands.
GLAND_UM = 95.0
# Amount of each stain (optical density along its vector) that a map's 255 stands for.
FULL_H, FULL_E = 2.0, 1.6
# A painting's side is a multiple of this, so that coarser levels of a pyramid hold whole pixels.
WHOLE_PX = 16
# Orientations of the nuclei in a bank, and different nuclei in each.
ANGLES, VARIANTS = 16, 8


@dataclass(frozen=True)
class Morphology:
    """Physical quantities of a piece of tissue."""

    nuclei_per_mm2: float  # epithelial nuclei per mm² of epithelium; stromal nuclei follow in proportion
    nucleus_um: float  # mean radius of an epithelial nucleus (µm); stromal nuclei follow in proportion
    hot_spots: float  # share of the tissue's area that lies in lymphocyte hot spots
    stroma: float  # share of the other tissue's area that is stroma, the rest being glands


@dataclass(frozen=True)
class Stain:
    """A laboratory's stain and scanner."""

    haematoxylin: tuple[float, float, float]  # optical density (R, G, B; log10) of one unit of haematoxylin
    eosin: tuple[float, float, float]  # optical density (R, G, B; log10) of one unit of eosin
    white: tuple[float, float, float]  # grey levels (R, G, B) of bare glass

    def colours(self) -> np.ndarray:
        """Compute the colour of each pair of map values by the Beer–Lambert law.

        Returns
        -------
        ndarray
            uint8 (256, 256, 3), haematoxylin first.
        """
        amounts = np.arange(256)[:, None] / 255
        haematoxylin = amounts * FULL_H * np.array(self.haematoxylin)
        eosin = amounts * FULL_E * np.array(self.eosin)
        return (np.array(self.white) * 10 ** -(haematoxylin[:, None] + eosin[None])).round().astype(np.uint8)


@dataclass(frozen=True)
class Painting:
    """Amounts of stain at each pixel: two uint8 (side, side) maps, zero on glass."""

    haematoxylin: np.ndarray
    eosin: np.ndarray


def paint(morphology: Morphology, slide_mpp: float, seed: np.random.SeedSequence) -> Painting:
    """Paint a slide.

    Parameters
    ----------
    morphology
        Quantities of the tissue.
    slide_mpp
        µm/px of the painting.
    seed
        Determines everything else; the same seed gives the same tissue at any resolution.

    Returns
    -------
    Painting
        Amounts of both stains.
    """
    # A stream for each part, since how much the nuclei's bank draws depends on the resolution.
    parts = [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, part)) for part in range(5)]
    layout_rng, background_rng, *cell_rngs = map(np.random.default_rng, parts)
    layout = _lay_out(morphology, layout_rng)
    side = round(GLASS_UM / slide_mpp)
    haematoxylin, eosin = (
        cv2.resize(stain, (side, side), interpolation=cv2.INTER_LINEAR) for stain in _background(layout, background_rng)
    )
    for nuclei, rng in zip((_fibroblasts, _epithelium, _lymphocytes), cell_rngs, strict=True):
        _stamp(haematoxylin, slide_mpp, nuclei(layout, morphology, rng), rng)
    whole = side // WHOLE_PX * WHOLE_PX
    return Painting(haematoxylin[:whole, :whole], eosin[:whole, :whole])


# Layout


@dataclass(frozen=True)
class _Layout:
    """Fields of the tissue's layout, float32 (n, n) at `LAYOUT_UM`."""

    tissue: np.ndarray  # 0 on glass, 1 in tissue, soft at the border
    depth: np.ndarray  # µm into a gland from its basement membrane; negative in stroma
    lumen: np.ndarray  # positive inside the lumen of a gland
    hot_spot: np.ndarray  # positive inside a lymphocyte hot spot
    across: np.ndarray  # coordinate (µm) that grows across the collagen fibres
    along: np.ndarray  # coordinate (µm) that grows roughly along them

    def area_mm2(self, where: np.ndarray) -> float:
        """Area (mm²) of a mask of the layout."""
        return np.count_nonzero(where) * (LAYOUT_UM / 1000) ** 2


def _lay_out(morphology: Morphology, rng: np.random.Generator) -> _Layout:
    n = round(GLASS_UM / LAYOUT_UM)
    y, x = np.mgrid[:n, :n].astype(np.float32) * LAYOUT_UM - GLASS_UM / 2
    tissue = _piece(x, y, rng)
    inside = tissue > 0.5
    border, centre, crowding = _cells(n, rng)
    gland = border + 9 * crowding + 7 * _noise(rng, n, 160) + 2 * _noise(rng, n, 24)

    # Thresholds at quantiles give the wanted shares exactly, whatever the noise.
    hot_spot = _noise(rng, n, 65) + 0.3 * _noise(rng, n, 22) - 0.02 * gland
    hot_spot -= np.quantile(hot_spot[inside], 1 - morphology.hot_spots)
    depth = gland - np.quantile(gland[inside & (hot_spot <= 0)], morphology.stroma)
    lumen = 0.33 + 0.09 * _noise(rng, n, 60) - centre / (centre + border + 1)
    lumen = np.minimum(lumen, np.minimum((depth - 13) / 30, -hot_spot))

    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    # Fibres wander, and bend around glands.
    across = x * cos + y * sin + 45 * _noise(rng, n, 240) + 0.8 * cv2.GaussianBlur(gland, (0, 0), 6)
    along = y * cos - x * sin + 45 * _noise(rng, n, 240)
    return _Layout(tissue, depth, lumen, hot_spot, across, along)


def _piece(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a piece of tissue with an organic outline."""
    n = len(x)
    stretch = rng.uniform(0.94, 1.06)
    inward = TISSUE_UM - np.hypot(x * stretch, y / stretch)
    inward += 42 * _noise(rng, n, 260) + 10 * _noise(rng, n, 60) + 3 * _noise(rng, n, 14)
    inward = np.minimum(inward, GLASS_UM / 2 - MARGIN_UM - np.maximum(np.abs(x), np.abs(y)))
    return np.clip(inward / 3 + 0.5, 0, 1)


def _cells(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a distorted Voronoi tessellation: µm to the cell's border, µm to its centre, a normal draw a cell."""
    step = round(GLAND_UM / LAYOUT_UM)
    at = np.stack(list(np.mgrid[0 : n + step : step, 0 : n + step : step]), -1).astype(float)
    at[::2, :, 1] += step / 2
    at = (at + rng.uniform(-0.4, 0.4, at.shape) * step).reshape(-1, 2).round().astype(int)
    # Some stay empty, so that neighbours grow into them and glands differ in size.
    at = at[((at >= 0) & (at < n)).all(1) & (rng.random(len(at)) < 0.8)]
    no_seed = np.ones((n, n), np.uint8)
    no_seed[at[:, 0], at[:, 1]] = 0
    centre, cell = cv2.distanceTransformWithLabels(no_seed, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    no_edge = np.ones((n, n), np.uint8)
    no_edge[:-1][cell[:-1] != cell[1:]] = 0
    no_edge[:, :-1][cell[:, :-1] != cell[:, 1:]] = 0
    border = cv2.distanceTransform(no_edge, cv2.DIST_L2, 5)
    crowding = cv2.GaussianBlur(rng.standard_normal(cell.max() + 1, np.float32)[cell], (0, 0), 8)

    x, y = (
        axis + (9 * _noise(rng, n, 90) + 2.5 * _noise(rng, n, 30)) / LAYOUT_UM
        for axis in np.meshgrid(np.arange(n, dtype=np.float32), np.arange(n, dtype=np.float32))
    )
    border, centre, crowding = (
        cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for field in (border, centre, crowding)
    )
    return border * LAYOUT_UM, centre * LAYOUT_UM, crowding


def _noise(rng: np.random.Generator, n: int, scale_um: float) -> np.ndarray:
    """Draw smooth standardised noise, float32 (n, n) at `LAYOUT_UM`, with features of about `scale_um`."""
    coarse = round(n * LAYOUT_UM / scale_um) + 3
    noise = cv2.resize(rng.standard_normal((coarse, coarse), np.float32), (n, n), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / noise.std()


# Stroma, cytoplasm and lumen


def _background(layout: _Layout, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paint haematoxylin and eosin without nuclei, uint8 maps at `TEXTURE_UM`."""
    n = round(GLASS_UM / TEXTURE_UM)

    def up(field: np.ndarray) -> np.ndarray:
        return cv2.resize(field, (n, n), interpolation=cv2.INTER_LINEAR)

    grain = rng.standard_normal((n, n), np.float32)
    granules, foam = cv2.GaussianBlur(grain, (0, 0), 0.9), cv2.GaussianBlur(grain[::-1].copy(), (0, 0), 3)
    clouds = up(_noise(rng, len(layout.depth), 40))
    fibres = _fibres(up(layout.across), up(layout.along), rng)
    gland = np.clip(up(layout.depth) / 2 + 0.5, 0, 1)
    infiltrate = np.clip(up(layout.hot_spot) * 4, 0, 1) * 0.8
    solid = up(layout.tissue) * (1 - 0.97 * np.clip(up(layout.lumen) * 25 + 0.5, 0, 1))

    # Thin places between fibres tear open and show the glass.
    collagen = np.maximum(0.40 + 0.11 * fibres + 0.05 * clouds + 0.06 * granules, 0.04)
    cytoplasm = 0.34 + 0.03 * clouds + 0.09 * granules + 0.18 * foam
    eosin = collagen + gland * (cytoplasm - collagen)
    eosin += infiltrate * (0.30 + 0.06 * fibres - eosin)
    haematoxylin = 0.05 + gland * (0.13 + 0.02 * clouds + 0.05 * granules) + infiltrate * 0.06 + 0.012 * grain
    return _as_map(haematoxylin * solid, FULL_H), _as_map(eosin * solid, FULL_E)


def _as_map(amount: np.ndarray, full: float) -> np.ndarray:
    return np.clip(amount * (255 / full), 0, 255).astype(np.uint8)


def _fibres(across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw wavy collagen: a standardised texture of streaks along the distorted coordinates."""
    side, pad = 512, 64
    texture = np.zeros((side, side), np.float32)
    for thick_um, long_um, weight in ((0.8, 7, 1.0), (2.2, 14, 0.8), (6, 30, 0.5)):
        noise = rng.standard_normal((side, side), np.float32)
        wrapped = cv2.copyMakeBorder(noise, pad, pad, pad, pad, cv2.BORDER_WRAP)
        streaks = cv2.GaussianBlur(wrapped, (0, 0), sigmaX=thick_um, sigmaY=long_um)[pad:-pad, pad:-pad]
        texture += weight * streaks / streaks.std()
    wave = 2.2 * np.sin(along / 11 + across / 37)
    return cv2.remap(texture / texture.std(), across + wave, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


# Nuclei


@dataclass(frozen=True)
class _Nuclei:
    """Positions, directions and appearance of nuclei of one kind."""

    xy_um: np.ndarray  # centres (x, y)
    angles: np.ndarray  # directions of the long axes (rad)
    radius_um: float  # radius of a disc of the mean area
    spread: float  # standard deviation of the log radius
    aspect: float  # long axis by short axis
    haematoxylin: float  # amount of stain in the chromatin
    pallor: float  # share of it that the interior lacks compared with the rim


def _epithelium(layout: _Layout, morphology: Morphology, rng: np.random.Generator) -> _Nuclei:
    """Place rings of oval vesicular nuclei near the basement membrane, pointing into the gland."""
    where = (layout.depth > 1) & (layout.lumen < -0.02) & (layout.hot_spot <= 0) & (layout.tissue > 0.9)
    weight = where * (np.exp(-(((layout.depth - 7) / 4.5) ** 2)) + 0.15)
    count = morphology.nuclei_per_mm2 * layout.area_mm2(where)
    xy_um = _scatter(weight, count, 1.5 * morphology.nucleus_um, rng)
    angles = _direction(layout.depth, xy_um)
    return _Nuclei(xy_um, angles, morphology.nucleus_um, spread=0.14, aspect=1.35, haematoxylin=0.95, pallor=0.45)


def _fibroblasts(layout: _Layout, morphology: Morphology, rng: np.random.Generator) -> _Nuclei:
    """Place spindle-shaped nuclei along the collagen."""
    where = (layout.depth < -2) & (layout.tissue > 0.9)
    xy_um = _scatter(where, 0.22 * morphology.nuclei_per_mm2 * layout.area_mm2(where), 5.0, rng)
    angles, radius_um = _direction(layout.across, xy_um) + math.pi / 2, 0.78 * morphology.nucleus_um
    return _Nuclei(xy_um, angles, radius_um, spread=0.15, aspect=2.9, haematoxylin=1.0, pallor=0.15)


def _lymphocytes(layout: _Layout, morphology: Morphology, rng: np.random.Generator) -> _Nuclei:
    """Place small dark round nuclei, packed in the hot spots; alike in all patients."""
    where = (layout.hot_spot > 0) & (layout.tissue > 0.9)
    xy_um = _scatter(where, 15_000 * layout.area_mm2(where), 5.2, rng)
    angles = rng.uniform(0, math.pi, len(xy_um))
    return _Nuclei(xy_um, angles, 2.7, spread=0.07, aspect=1.1, haematoxylin=1.45, pallor=0.1)


def _scatter(weight: np.ndarray, count: float, spacing_um: float, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` positions (x, y; µm) by `weight` from a jittered hexagonal grid, which keeps a distance."""
    xy = np.stack(np.meshgrid(*(np.arange(0, GLASS_UM, s) for s in (spacing_um, spacing_um * math.sqrt(0.75)))), -1)
    xy[::2, :, 0] += spacing_um / 2
    xy = (xy + rng.uniform(-0.28, 0.28, xy.shape) * spacing_um).reshape(-1, 2)
    chance = _at(weight, xy).astype(float)
    xy, chance = xy[chance > 0], chance[chance > 0]
    # The largest of log-weight plus Gumbel noise are a weighted draw without replacement.
    order = np.argsort(-(np.log(chance) + rng.gumbel(size=len(chance))), kind="stable")
    return xy[order[: round(count)]]


def _at(field: np.ndarray, xy_um: np.ndarray) -> np.ndarray:
    """Look up a layout field at positions (x, y; µm)."""
    column, row = (xy_um.T / LAYOUT_UM).astype(int).clip(0, len(field) - 1)
    return field[row, column]


def _direction(field: np.ndarray, xy_um: np.ndarray) -> np.ndarray:
    """Compute the direction (rad) of steepest ascent of a layout field at each position."""
    smooth = cv2.GaussianBlur(field, (0, 0), 3)
    dx, dy = (_at(cv2.Sobel(smooth, cv2.CV_32F, *order), xy_um) for order in ((1, 0), (0, 1)))
    return np.arctan2(dy, dx)


def _bank(kind: _Nuclei, slide_mpp: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a bank of nuclei, uint8 (ANGLES, VARIANTS, px, px): dented ovals with a rim, clumps and nucleoli."""
    each = (ANGLES, VARIANTS, 1, 1)
    radius = kind.radius_um * np.exp(kind.spread * rng.standard_normal(each, np.float32))
    stretch = np.sqrt(kind.aspect * np.exp(0.12 * rng.standard_normal(each, np.float32)))
    angle = np.arange(ANGLES, dtype=np.float32).reshape(-1, 1, 1, 1) * (math.pi / ANGLES)
    tone = kind.haematoxylin * np.exp(0.16 * rng.standard_normal(each, np.float32))
    nucleolus = rng.uniform(-1, 1, (2, *each)).astype(np.float32), rng.random(each) < 0.6
    dents = rng.uniform(0, 0.1, (3, *each)).astype(np.float32), rng.uniform(0, 7, (3, *each)).astype(np.float32)
    # What depends on the resolution is drawn last, so that all else is the same at any.

    reach = math.ceil((radius * stretch).max() * 1.2 / slide_mpp)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32) * slide_mpp
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / stretch, (y * np.cos(angle) - x * np.sin(angle)) * stretch
    turn = np.arctan2(v, u)
    dented = sum(size / k * np.cos(k * turn + phase) for k, size, phase in zip((2, 3, 4), *dents, strict=True))
    inward = radius * (1 + dented) - np.hypot(u, v)  # µm from the membrane, positive inside

    rim = np.exp(-(((inward - 0.5) / 0.6) ** 2))
    clumps = rng.standard_normal((ANGLES * VARIANTS, *x.shape), np.float32)
    clumps = np.stack([cv2.GaussianBlur(one, (0, 0), 0.55 / slide_mpp) for one in clumps]).reshape(inward.shape)
    chromatin = 1 - kind.pallor * (1 - rim) + 0.16 * clumps / clumps.std()
    (u0, v0), present = nucleolus
    chromatin += kind.pallor * present * np.exp(-((u - u0) ** 2 + (v - v0) ** 2) / 0.8)
    return _as_map(np.clip(inward / 0.7 + 0.5, 0, 1) * chromatin * tone, FULL_H)


def _stamp(canvas: np.ndarray, slide_mpp: float, nuclei: _Nuclei, rng: np.random.Generator) -> None:
    """Stamp a nucleus of about the wanted angle at each position, where it is darker than the canvas."""
    variants = rng.integers(VARIANTS, size=len(nuclei.xy_um))
    bank = _bank(nuclei, slide_mpp, rng)
    px = bank.shape[-1]
    corners = np.rint(nuclei.xy_um / slide_mpp).astype(int) - px // 2
    turns = np.rint(nuclei.angles * (ANGLES / math.pi)).astype(int) % ANGLES
    for (x, y), turn, variant in zip(corners.tolist(), turns.tolist(), variants.tolist(), strict=True):
        patch = canvas[y : y + px, x : x + px]
        np.maximum(patch, bank[turn, variant], out=patch)
