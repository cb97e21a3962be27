"""Hand-crafted tile statistics: encoders without weights, used as controls.

Each takes one tile, uint8 (224, 224, 3) at about 0.5 µm/px, and returns one float32 vector.
"""

import cv2
import numpy as np
from scipy.spatial import cKDTree
from skimage.color import rgb2hed
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import threshold_otsu

QUANTILES = (5, 25, 50, 75, 95)
GLASS = 0.06
"""Mean optical density (log10) below which a pixel is glass."""
MIN_AREA = 12
"""Minimum area of a nucleus in pixels (3 µm²)."""
SMALL_RADIUS = (2.0, 4.5)
"""Range of the inscribed radius of a lymphocyte's nucleus in pixels (2 to 4.5 µm across)."""
NEIGHBOURHOOD = 61
"""Side of the window in which crowding is measured, in pixels (30 µm)."""
GREYS = 16
GLCM_STEPS = (1, 4)
GLCM = ("contrast", "homogeneity", "correlation", "energy")


def colour(tile: np.ndarray) -> np.ndarray:
    """Describe the distributions and correlations of the RGB and HED channels, by a float32 vector of 58.

    For each of the six channels mean, standard deviation, skewness and five quantiles; then the
    correlations between channels of one colour space, and the shares of glass and of dense stain.
    """
    # Channels first: each is then contiguous in memory, and everything below several times faster.
    rgb = np.ascontiguousarray(tile.reshape(-1, 3).T).astype(np.float32) / 255
    hed = np.ascontiguousarray(rgb2hed(tile).astype(np.float32).reshape(-1, 3).T)
    parts = []
    for channels in (rgb, hed):
        mean, sd = channels.mean(1), channels.std(1) + 1e-6
        scaled = (channels - mean[:, None]) / sd[:, None]
        correlation = scaled @ scaled.T / scaled.shape[1]
        # A quarter of the pixels: quantiles are most of the cost, and 12,000 pixels estimate them well.
        quantiles = np.percentile(channels[:, ::4], QUANTILES, axis=1)
        parts += [mean, sd, (scaled * scaled * scaled).mean(1), quantiles.ravel(), correlation[np.triu_indices(3, 1)]]
    density = _optical_density(tile)
    parts.append([(density < GLASS).mean(), (density > 0.5).mean(), density.mean(), density.std()])
    return np.concatenate(parts).astype(np.float32)


def texture(tile: np.ndarray) -> np.ndarray:
    """Describe nuclei and the tissue around them, by a float32 vector of 69.

    Nuclei are segmented by Otsu's threshold on the smoothed haematoxylin channel of the tile's own
    tissue, so that a site's staining shifts the threshold and the nuclei alike.
    """
    hed = rgb2hed(tile).astype(np.float32)
    tissue = _optical_density(tile) > GLASS
    haematoxylin = cv2.GaussianBlur(np.ascontiguousarray(hed[..., 0]), (0, 0), 1)
    mask: np.ndarray = np.zeros(tissue.shape, np.uint8)
    inside = haematoxylin[tissue]
    if len(inside) >= MIN_AREA and np.ptp(inside) > 0:
        mask = (tissue & (haematoxylin > threshold_otsu(inside))).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    parts = [_nuclei(mask, haematoxylin), _cores(mask, haematoxylin), _surroundings(mask, tissue, hed), _greys(tile)]
    return np.concatenate(parts).astype(np.float32)


def _optical_density(tile: np.ndarray) -> np.ndarray:
    # A table instead of 150,000 logarithms.
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    return sum(table[tile[..., channel]] for channel in range(3)) / 3


def _nuclei(mask: np.ndarray, haematoxylin: np.ndarray) -> np.ndarray:
    """Count, size, shape and stain of the connected components of `mask`; 20 values."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    large = boxes[:, cv2.CC_STAT_AREA] >= MIN_AREA
    large[0] = False
    y, x = np.nonzero(labels)
    label = labels[y, x]

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(label, values, len(boxes))
        return total[large] / boxes[large, cv2.CC_STAT_AREA]

    area = boxes[large, cv2.CC_STAT_AREA]
    stain = haematoxylin[y, x]
    mx, my, intensity = mean(x), mean(y), mean(stain)
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
    dark = stain > (np.median(haematoxylin[mask > 0]) if mask.any() else 0)
    centres = np.column_stack([x, y])
    distances = cKDTree(centres).query(centres, k=2)[0][:, 1] if len(centres) > 1 else np.zeros(0)
    crowd = cv2.blur(mask.astype(np.float32), (NEIGHBOURHOOD, NEIGHBOURHOOD))
    lymphocytes = np.zeros_like(crowd)
    lymphocytes[y[small & dark], x[small & dark]] = 1
    crowded = cv2.blur(lymphocytes, (NEIGHBOURHOOD, NEIGHBOURHOOD)) * NEIGHBOURHOOD**2
    counts = [len(radius), small.sum(), (small & dark).sum(), (radius >= SMALL_RADIUS[1]).sum()]
    crowding = [crowd.max(), crowd.std(), crowded.max(), crowded.std()]
    return np.concatenate([counts, _spread(radius), _spread(stain), _spread(distances), crowding])


def _surroundings(mask: np.ndarray, tissue: np.ndarray, hed: np.ndarray) -> np.ndarray:
    """Stain and fibre coherence of the tissue between the nuclei, and shares of tissue; 18 values."""
    around = tissue & (cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0)
    eosin = np.ascontiguousarray(hed[..., 2])
    # Eigenvalues of the structure tensor: one large and one small where fibres are parallel.
    eigen = cv2.cornerEigenValsAndVecs(cv2.GaussianBlur(eosin, (0, 0), 1), 15, 3)[..., :2]
    larger, smaller = eigen.max(-1)[around], eigen.min(-1)[around]
    coherence = (larger - smaller) / (larger + smaller + 1e-12)
    shares = [tissue.mean(), around.mean()]
    stains = [_spread(values[around]) for values in (hed[..., 0], eosin)]
    edges = np.sqrt(larger).mean() if len(larger) else 0
    return np.concatenate([shares, *stains, _spread(coherence), [edges]])


def _greys(tile: np.ndarray) -> np.ndarray:
    """Properties of the grey-level co-occurrence matrix, averaged over directions; 8 values."""
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY) // (256 // GREYS)
    matrix = graycomatrix(grey, GLCM_STEPS, (0, np.pi / 2), GREYS, symmetric=True, normed=True)
    return np.concatenate([graycoprops(matrix, name).mean(1) for name in GLCM])


def _spread(values: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, and the 10th, 50th and 90th percentile; zeros without values."""
    if len(values) == 0:
        return np.zeros(5)
    return np.array([values.mean(), values.std(), *np.percentile(values, (10, 50, 90))])
