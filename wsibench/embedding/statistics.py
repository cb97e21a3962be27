"""Hand-crafted tile statistics: encoders without weights, used as controls.

Each takes tiles, uint8 (n, 224, 224, 3) at about 0.5 µm/px, and returns one float32 vector a tile.
"""

import cv2
import numpy as np
from scipy.spatial import cKDTree
from skimage.color import hed_from_rgb

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Mean optical density (log10) below which a pixel is glass.
GLASS = 0.06
# Optical density (log10) of each intensity.
DENSITY = -np.log10(np.maximum(np.arange(256, dtype=np.float32) / 255, 1e-6))
# Maps optical densities of RGB to haematoxylin, eosin and DAB, as skimage's rgb2hed has them.
HED = (hed_from_rgb.T / 6).astype(np.float32)
# Maps optical densities of RGB to haematoxylin, eosin and the mean density.
HED_MEAN = np.vstack([HED[:2], np.full((1, 3), 1 / 3, np.float32)])
# Minimum area of a nucleus in pixels (3 µm²).
MIN_AREA = 12
# Range of the inscribed radius of a lymphocyte's nucleus in pixels (2 to 4.5 µm across).
SMALL_RADIUS = (2.0, 4.5)
# Side of the window in which crowding is measured, in pixels of half the resolution (31 µm).
NEIGHBOURHOOD = 31
GREYS = 16
GLCM_STEPS = (1, 4)
LEVELS = np.arange(GREYS)
DIFFERENCE = np.subtract.outer(LEVELS, LEVELS) ** 2


def colour(tiles: np.ndarray) -> np.ndarray:
    """Describe the distributions and correlations of the RGB and HED channels, by a float32 (n, 58).

    For each of the six channels mean, standard deviation, skewness and five quantiles; then the
    correlations between channels of one colour space, and the shares of glass and of dense stain.
    All are of every third pixel of every third row.
    """
    return np.stack([_colour(tile) for tile in tiles[:, ::3, ::3]])


def texture(tiles: np.ndarray) -> np.ndarray:
    """Describe nuclei and the tissue around them, by a float32 (n, 69).

    Nuclei are segmented by Otsu's threshold on the smoothed haematoxylin channel of the tile's own
    tissue, so that a site's staining shifts the threshold and the nuclei alike.
    """
    return np.stack([_texture(np.ascontiguousarray(tile)) for tile in tiles])


def _colour(tile: np.ndarray) -> np.ndarray:
    tile = np.ascontiguousarray(tile)
    parts = []
    for pixels in (tile.astype(np.float32) / 255, _stains(tile, HED)):
        channels = np.ascontiguousarray(pixels.reshape(-1, 3).T)  # first: each is then contiguous in memory
        mean, sd = channels.mean(1), channels.std(1) + 1e-6
        scaled = (channels - mean[:, None]) / sd[:, None]
        correlation = scaled @ scaled.T / scaled.shape[1]
        skewness = (scaled * scaled * scaled).mean(1)
        parts += [mean, sd, skewness, _quantiles(channels, QUANTILES).T.ravel(), correlation[np.triu_indices(3, 1)]]
    density = cv2.LUT(tile, DENSITY).mean(2)
    parts.append([(density < GLASS).mean(), (density > 0.5).mean(), density.mean(), density.std()])
    return np.concatenate(parts).astype(np.float32)


def _texture(tile: np.ndarray) -> np.ndarray:
    haematoxylin, eosin, density = cv2.split(_stains(tile, HED_MEAN))
    tissue, haematoxylin = density > GLASS, cv2.GaussianBlur(haematoxylin, (0, 0), 1)
    mask: np.ndarray = np.zeros(tissue.shape, np.uint8)
    inside = haematoxylin[tissue]
    if len(inside) >= MIN_AREA and np.ptp(inside) > 0:
        mask = (tissue & (haematoxylin > _otsu(inside))).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    parts = [
        _nuclei(mask, haematoxylin),
        _cores(mask, haematoxylin),
        _surroundings(mask, tissue, haematoxylin, eosin),
        _greys(tile),
    ]
    return np.concatenate(parts).astype(np.float32)


def _stains(tile: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Amounts of the stains that a matrix unmixes, float32 (height, width, stains)."""
    stains = cv2.transform(cv2.LUT(tile, DENSITY), matrix)
    return np.maximum(stains, 0, out=stains)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold, to a part in 255 of the range."""
    low, width = values.min(), np.ptp(values)
    level, _ = cv2.threshold(((values - low) * (255 / width)).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    return low + (level + 1) * width / 255


def _nuclei(mask: np.ndarray, haematoxylin: np.ndarray) -> np.ndarray:
    """Count, size, shape and stain of the connected components of `mask`; 20 values."""
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(mask)
    large = boxes[:, cv2.CC_STAT_AREA] >= MIN_AREA
    large[0] = False
    inside = np.flatnonzero(labels)
    y, x = np.divmod(inside, mask.shape[1])
    label = labels.ravel()[inside]

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(label, values, len(boxes))
        return total[large] / boxes[large, cv2.CC_STAT_AREA]

    area = boxes[large, cv2.CC_STAT_AREA]
    stain = haematoxylin.ravel()[inside]
    (mx, my), intensity = centres[large].T, mean(stain)
    # Eccentricity of the ellipse with the same second moments, as skimage's regionprops has it.
    xx, yy, xy = mean(x * x) - mx**2 + 1 / 12, mean(y * y) - my**2 + 1 / 12, mean(x * y) - mx * my
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    eccentricity = np.sqrt(2 * spread / (xx + yy + spread))
    within = np.sqrt(np.maximum(mean(stain.astype(np.float64) ** 2) - intensity**2, 0))
    counts = [large.sum(), mask.mean()]
    return np.concatenate(
        [counts, _spread(np.sqrt(area)), _spread(eccentricity), _spread(intensity), _spread(within)[:3]]
    )


def _cores(mask: np.ndarray, haematoxylin: np.ndarray) -> np.ndarray:
    """Count, radius, stain and crowding of nuclei, separated by peaks of the distance transform; 23 values."""
    distance = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (0, 0), 1)
    peaks = (distance == cv2.dilate(distance, np.ones((7, 7), np.uint8))) & (distance > 1)
    y, x = np.nonzero(peaks)
    radius, stain = distance[y, x], haematoxylin[y, x]
    small = (radius >= SMALL_RADIUS[0]) & (radius < SMALL_RADIUS[1])
    dark = stain > cv2.mean(haematoxylin, mask)[0]
    centres = np.column_stack([x, y])
    distances = cKDTree(centres).query(centres, k=2)[0][:, 1] if len(centres) > 1 else np.zeros(0)
    window = (NEIGHBOURHOOD, NEIGHBOURHOOD)
    crowd = cv2.blur(cv2.resize(mask.astype(np.float32), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), window)
    lymphocytes = np.zeros_like(crowd)
    np.add.at(lymphocytes, (y[small & dark] // 2, x[small & dark] // 2), 1)
    crowded = cv2.blur(lymphocytes, window) * NEIGHBOURHOOD**2
    counts = [len(radius), small.sum(), (small & dark).sum(), (radius >= SMALL_RADIUS[1]).sum()]
    crowding = [crowd.max(), crowd.std(), crowded.max(), crowded.std()]
    return np.concatenate([counts, _spread(radius), _spread(stain), _spread(distances), crowding])


def _surroundings(mask: np.ndarray, tissue: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Stain and fibre coherence of the tissue between the nuclei, at half the resolution, and shares; 18 values."""
    around = tissue & (cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0)
    shares = [tissue.mean(), around.mean()]
    eosin = cv2.resize(eosin, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    around = around[::2, ::2]
    # Eigenvalues of the structure tensor: one large and one small where fibres are parallel.
    dx, dy = (cv2.Sobel(eosin, cv2.CV_32F, order, 1 - order, scale=1 / 8) for order in (1, 0))
    xx, xy, yy = (cv2.blur(product, (7, 7))[around] for product in (dx * dx, dx * dy, dy * dy))
    trace, gap = xx + yy, np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    edges = np.sqrt((trace + gap) / 2).mean() if len(trace) else 0
    amounts = [_spread(values[around]) for values in (haematoxylin[::2, ::2], eosin)]
    return np.concatenate([shares, *amounts, _spread(gap / (trace + 1e-12)), [edges]])


def _greys(tile: np.ndarray) -> np.ndarray:
    """Properties of the grey-level co-occurrence matrix, averaged over two directions; 8 values."""
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY) // (256 // GREYS)
    found = []
    for step in GLCM_STEPS:
        pairs = [(grey[::4, step:], grey[::4, :-step]), (grey[step::4], grey[:-step:4])]  # a quarter suffices
        found.append(np.mean([_co_occurrence(*pair) for pair in pairs], axis=0))
    return np.stack(found, axis=1).ravel()


def _co_occurrence(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Contrast, homogeneity, correlation and energy of the grey levels of pairs of pixels, as skimage has them."""
    counts = np.bincount((a * np.uint8(GREYS) + b).ravel(), minlength=GREYS**2).reshape(GREYS, GREYS)
    p = (counts + counts.T) / (2 * a.size)
    share = p.sum(0)
    deviation = LEVELS - share @ LEVELS
    variance = share @ deviation**2
    correlation = deviation @ p @ deviation / variance if variance > 0 else 1.0
    return [(p * DIFFERENCE).sum(), (p / (1 + DIFFERENCE)).sum(), correlation, np.sqrt((p * p).sum())]


def _spread(values: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, and the 10th, 50th and 90th percentile; zeros without values."""
    if len(values) == 0:
        return np.zeros(5)
    mean = values.mean()
    deviation = values - mean
    return np.array([mean, np.sqrt(deviation @ deviation / len(values)), *_quantiles(values, (0.1, 0.5, 0.9))])


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Quantiles along the last axis, each the nearest value: a sort is faster than numpy's percentile."""
    places = np.rint(np.array(shares) * (values.shape[-1] - 1)).astype(int)
    return np.sort(values, axis=-1)[..., places]
