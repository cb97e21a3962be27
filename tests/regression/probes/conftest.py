"""Cohorts simulated at the level of tile features, for probes on bags."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from wsibench.regression.probes.base import Patients


@dataclass(frozen=True)
class Cohort:
    """Patients with bags and mean features, their expression, and what only the simulation knows."""

    patients: Patients
    y: np.ndarray
    group: np.ndarray
    """Name of each gene's group, (genes,)."""
    signal: list[np.ndarray]
    """Which tiles of each patient carry the signal, bool (tiles,)."""


def expression(rng: np.random.Generator, latents: np.ndarray, ceilings: tuple[float, ...], genes: int) -> tuple:
    """Genes that follow one latent each at a correlation of `ceilings`: values (n, ·) and the groups' names."""
    columns, names = [], []
    for latent in range(latents.shape[1]):
        for ceiling in ceilings:
            noise = rng.normal(size=(len(latents), genes))
            columns.append(ceiling * latents[:, [latent]] + np.sqrt(1 - ceiling**2) * noise)
            names += [f"{latent}_{ceiling}"] * genes
    return np.concatenate(columns, axis=1), names


def demo_like(seed: int = 0, *, n: int = 132, tiles: int = 64, dim: int = 96) -> Cohort:
    """A cohort of the demo's size: four latents spread over the tiles, stain by site, mostly noise genes.

    Latent 2 shows only in one tile in twelve, like lymphocyte hot spots.
    """
    rng = np.random.default_rng(seed)
    site = np.arange(n) % 12
    latents = rng.normal(size=(n, 4))
    y, names = expression(rng, latents, (0.3, 0.5, 0.8), 25)
    by_site = rng.normal(size=(12, 50))[site] + 0.5 * rng.normal(size=(n, 50))
    y = np.concatenate([y, by_site, rng.normal(size=(n, 400))], axis=1)
    loading = rng.normal(size=(4, dim)) * [[1], [0.5], [1], [0.7]]
    nuisance, stain = rng.normal(size=(6, dim)), rng.normal(size=(12, dim))
    bags, signal = [], []
    for i in range(n):
        t = tiles * (2 if i % 8 == 0 else 1)
        local = latents[i] + 1.5 * rng.normal(size=(t, 4))
        hot = rng.random(t) < np.clip(0.08 * (1 + 0.5 * latents[i, 2]), 0.01, 1)
        local[:, 2] = 4.0 * hot
        x = local @ loading + rng.normal(size=(t, 6)) @ nuisance + 0.7 * stain[site[i]] + rng.normal(size=(t, dim))
        bags.append(x.astype(np.float16))
        signal.append(hot)
    return _cohort(bags, site.astype(str), y, [*names, *["site"] * 50, *["null"] * 400], signal)


def needle(seed: int = 0, *, n: int = 500, tiles: int = 150, dim: int = 64, share: float = 0.02) -> Cohort:
    """A cohort whose expression shows in `share` of the tiles only.

    Those tiles are marked by one direction of the features; how a patient's latents are is written in
    three others, of them alone.  In all other tiles these directions hold noise.
    """
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, 3))
    y, names = expression(rng, latents, (0.5, 0.8), 20)
    y = np.concatenate([y, rng.normal(size=(n, 60))], axis=1)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    bags, signal = [], []
    for i in range(n):
        marked = np.zeros(tiles, bool)
        marked[rng.choice(tiles, round(share * tiles), replace=False)] = True
        x = rng.normal(size=(tiles, dim))
        x[marked, :3] = latents[i] * 2 + 0.5 * rng.normal(size=(marked.sum(), 3))
        x[marked, 3] += 5
        bags.append((x @ basis).astype(np.float16))
        signal.append(marked)
    return _cohort(bags, np.arange(n).astype(str), y, [*names, *["null"] * 60], signal)


def _cohort(bags: list, groups: np.ndarray, y: np.ndarray, names: list, signal: list) -> Cohort:
    mean = np.stack([bag.mean(axis=0, dtype=np.float32) for bag in bags])
    ids = np.array([f"P{i:04d}" for i in range(len(bags))])
    return Cohort(Patients(ids, groups, mean, bags), y.astype(np.float32), np.array(names), signal)


@pytest.fixture
def make_demo_like() -> Callable[..., Cohort]:
    """The function that makes a cohort of the demo's size."""
    return demo_like


@pytest.fixture
def make_needle() -> Callable[..., Cohort]:
    """The function that makes a cohort with its signal in few tiles."""
    return needle
