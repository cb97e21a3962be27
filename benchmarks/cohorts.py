"""Simulated cohorts at feature level whose truth is known in closed form; used by validity.py.

Patient i of site s, gene g, encoder e with d features:

    expression  y = r_s · (z · l_g) + √(1 − r_s²) · noise, correlated between genes; + a shift by site
    feature     x = z · P + b_e · blur, half of it shared by the encoders; + a shift by site

with z five standard normal latents, l_g a unit vector, r_s = r + slope · a normal deviate.  All is normal, so the
Pearson correlation of a linear prediction and a gene follows from the prediction's coefficients, and Spearman's
from Pearson's: ρ = 6/π · asin(r/2).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from wsibench.core import Scheme
from wsibench.regression.folds import assign, inner_groups
from wsibench.regression.probes.base import Fitted, Patients

LATENTS, WIDTH = 5, 32
LAW = 20260
SITE_SIZES = (122, 84, 76, 73, 63, 60, 56, 45, 44, 40, 35, 35, 31, 30, 16, 16, 10, 9, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2,
              *[1] * 9)  # fmt: skip
"""Patients of each of 37 TCGA sites: 884 with breast cancer, slides and expression."""
"""Seed of all that is the same in every cohort: what genes and features are made of."""


@dataclass(frozen=True)
class Cell:
    """One kind of cohort, of two encoders."""

    scheme: Scheme
    patients: int
    sites: int
    r: float = 0.5
    gene_correlation: float = 0.3
    slope: float = 0.1
    """SD of r between sites."""
    blur: tuple[float, float] = (1.5, 1.5)
    """Noise of each encoder's features, in units of a latent."""
    sees: tuple[float, float] = (1.0, 1.0)
    """Share of the latents that reaches each encoder."""
    site_features: tuple[float, float] = (0.3, 0.3)
    """SD of what a site adds to each encoder's features."""
    site_expression: float = 0.2
    """SD of what a site adds to a gene; patients' own SD is 1."""
    null_genes: int = 0
    """Of the genes, how many follow no latent."""
    uneven: bool = False
    """Sites have sizes as in TCGA-BRCA instead of equal ones."""
    zeros: float = 0.0
    """Share of the patients in whom a gene is 0; above 0, the others' values are skewed to the right."""
    genes: int = 40
    folds: int = 5


def site_sizes(n: int, sites: int, *, uneven: bool) -> np.ndarray:
    """Number of patients of each site, at least one, (sites,): about equal, or in proportion to `SITE_SIZES`."""
    at = np.linspace(0, len(SITE_SIZES) - 1, sites)
    share = np.interp(at, np.arange(len(SITE_SIZES)), SITE_SIZES) if uneven else np.ones(sites)
    sizes = np.maximum(1, np.diff(np.round(n * np.cumsum(share) / share.sum()), prepend=0)).astype(int)
    sizes[0] += n - sizes.sum()
    return sizes


@dataclass(frozen=True)
class Law:
    """What genes and features are made of."""

    loadings: np.ndarray
    """(latents, genes), columns of length 1; 0 for null genes."""
    projection: np.ndarray
    """(latents, width)."""

    @classmethod
    def of(cls, cell: Cell) -> "Law":
        """The same for all cohorts of a cell."""
        rng = np.random.default_rng(LAW)
        loadings = rng.normal(size=(LATENTS, cell.genes))
        loadings /= np.linalg.norm(loadings, axis=0)
        loadings[:, cell.genes - cell.null_genes :] = 0
        return cls(loadings, rng.normal(size=(LATENTS, WIDTH)) / np.sqrt(LATENTS))


@dataclass(frozen=True)
class Sites:
    """What sites do: r (sites,), shifts of expression (sites, genes), of each encoder's features (sites, width)."""

    r: np.ndarray
    expression: np.ndarray
    features: list[np.ndarray]

    @classmethod
    def draw(cls, cell: Cell, n: int, rng: np.random.Generator) -> "Sites":
        """`n` new sites."""
        r = np.clip(cell.r + cell.slope * rng.normal(size=n), -0.99, 0.99)
        expression = cell.site_expression * rng.normal(size=(n, cell.genes))
        return cls(r, expression, [sd * rng.normal(size=(n, WIDTH)) for sd in cell.site_features])


@dataclass(frozen=True)
class Cohort:
    """Patients: expression (n, genes), features of both encoders (n, width), site, fold and inner group (n,)."""

    cell: Cell
    sites: Sites
    y: np.ndarray
    x: list[np.ndarray]
    site: np.ndarray
    fold: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, str))

    @classmethod
    def draw(cls, cell: Cell, seed: int) -> "Cohort":
        """Sites, patients and folds."""
        rng = np.random.default_rng((LAW, seed))
        drawn = cls.of_sites(cell, Sites.draw(cell, cell.sites, rng), cell.patients, rng)
        obs = pd.DataFrame({"site": drawn.site, "subtype": ""}, index=[f"P{i:06d}" for i in range(cell.patients)])
        fold = assign(obs, cell.scheme, cell.folds, seed).to_numpy()
        return replace(drawn, fold=fold, groups=inner_groups(obs, cell.scheme))

    @classmethod
    def of_sites(cls, cell: Cell, sites: Sites, n: int, rng: np.random.Generator) -> "Cohort":
        """Patients of given sites, about as many of each; without folds."""
        law, c = Law.of(cell), cell.gene_correlation
        k = len(sites.r)
        site = rng.permutation(np.arange(k).repeat(site_sizes(n, k, uneven=cell.uneven)))
        z, r = rng.normal(size=(n, LATENTS)), sites.r[site][:, None]
        noise = np.sqrt(c) * rng.normal(size=(n, 1)) + np.sqrt(1 - c) * rng.normal(size=(n, cell.genes))
        r = np.where(law.loadings.any(axis=0), r, 0)
        y = r * (z @ law.loadings) + np.sqrt(1 - r**2) * noise + sites.expression[site]
        y = _with_zeros(y, cell) if cell.zeros else y
        shared = rng.normal(size=(n, WIDTH))
        x = []
        for sees, blur, shift in zip(cell.sees, cell.blur, sites.features, strict=True):
            own = np.sqrt(0.5) * (shared + rng.normal(size=(n, WIDTH)))
            x.append((sees * (z @ law.projection) + blur * own + shift[site]).astype(np.float32))
        return cls(cell, sites, y.astype(np.float32), x, np.char.add("S", site.astype(str)))

    def patients(self, encoder: int) -> Patients:
        """What a probe sees."""
        return Patients(np.arange(len(self.y)).astype(str), self.groups, mean=self.x[encoder])


def _with_zeros(y: np.ndarray, cell: Cell) -> np.ndarray:
    """Set the lowest share `zeros` of normal values to 0, and skew the others (skewness of about 6 without zeros)."""
    standard = y / np.sqrt(1 + cell.site_expression**2)
    return np.where(standard > norm.ppf(cell.zeros), np.exp(standard) - np.exp(norm.ppf(cell.zeros)), 0)


def coefficients(fitted: Fitted) -> np.ndarray:
    """What a linear fit multiplies features with, float64 (width, genes)."""
    basis = np.concatenate([np.zeros((1, WIDTH)), np.eye(WIDTH)]).astype(np.float32)
    names = np.arange(len(basis)).astype(str)
    predicted = fitted.predict(Patients(names, names, mean=basis)).astype(np.float64)
    return predicted[1:] - predicted[:1]


def true_rho(cell: Cell, sites: Sites, encoder: int, weights: np.ndarray) -> np.ndarray:
    """Spearman's ρ of a linear prediction on new patients, (genes,).

    Of new sites in the preserved-site arm, of the cohort's own sites in the random-patient arm.
    There, patients of a few sites are a mixture that is only nearly normal.
    """
    law = Law.of(cell)
    seen = cell.sees[encoder] * law.projection
    within = seen.T @ seen + cell.blur[encoder] ** 2 * np.eye(WIDTH)
    through = np.einsum("dg,dg->g", weights, seen.T @ law.loadings)
    if cell.scheme == "preserved-site":
        shared, shift_y = 0.0, cell.site_expression**2
        shift_x = cell.site_features[encoder] ** 2 * np.square(weights).sum(axis=0)
        r = cell.r
    else:
        share = site_sizes(cell.patients, cell.sites, uneven=cell.uneven) / cell.patients
        x = (sites.features[encoder] - share @ sites.features[encoder]) @ weights
        y = sites.expression - share @ sites.expression
        shared, shift_x, shift_y = share @ (x * y), share @ x**2, share @ y**2
        r = share @ sites.r
    variance = np.einsum("dg,de,eg->g", weights, within, weights) + shift_x
    pearson = (r * through + shared) / np.sqrt(np.maximum(variance, 1e-300) * (1 + shift_y))
    return spearman(pearson, cell.zeros)


def spearman(pearson: np.ndarray, zeros: float = 0.0) -> np.ndarray:
    """Spearman's ρ of two normal variables, of which the lowest share `zeros` of the second is tied.

    The rank Φ(x) of the first has the mean Φ(r y / √(2 − r²)) given the second, which is integrated over the ranks
    of the second; their variance is that of midranks, (1 − zeros³) / 12.
    """
    if not zeros:
        return 6 / np.pi * np.arcsin(pearson / 2)
    rank = (np.arange(2000) + 0.5) / 2000
    midrank, y = np.where(rank < zeros, zeros / 2, rank), norm.ppf(rank)
    grid = np.linspace(-0.999, 0.999, 401)
    mean = norm.cdf(grid[:, None] * y / np.sqrt(2 - grid[:, None] ** 2))
    rho = (mean - 0.5) @ (midrank - 0.5) / len(rank) / np.sqrt((1 - zeros**3) / 144)
    return np.interp(pearson, grid, rho)
