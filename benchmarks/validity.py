"""The benchmark of the benchmark: how often its intervals and its verdicts are right, in cohorts of known truth.

    python benchmarks/validity.py [--quick] [--cohorts 1000] [--patients 300 …] [--sites 20 …] [--r 0 0.5 …]
                                  [--gene-correlation 0 0.3 …] [--workers 2] [--csv FILE]

Simulates features of two encoders that are equal in law, and expression, patient by patient:

    gene      r · (unit combination of 5 latents) + √(1 − r²) · noise, correlated between genes; + a shift by site
    feature   a projection of the latents + noise, half of it shared by both encoders; + a shift by site

`--slope` lets r differ between sites.  In every cohort folds are made, ridge is refitted in every fold, and
scores, samples and intervals are taken as 06_ranking takes them.  The estimand is the expected gene-wise ρ
of the fitted pipeline on new patients: of new sites in the preserved-site arm, of the cohort's own sites in the
random-patient arm.  It is told from a large fresh sample of such patients, which every fit predicts.

Prints one row a cell of the grid: the truth, bias of the mean and median ρ, share of 95 % intervals that
hold the truth, and how often two equal encoders are told apart, with a test over genes beside it, each ± its
Monte-Carlo standard error.
"fits": the truth is how this cohort's own fits do; "law": how fits do on average over cohorts, where two equal
encoders differ by exactly 0.
`--quick`: a sanity table of a few small cells in under a minute.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon
from threadpoolctl import threadpool_limits

from wsibench import bootstrap, scores
from wsibench.folds import inner_groups, make_folds
from wsibench.probes.base import Fitted, Patients
from wsibench.probes.ridge import Ridge
from wsibench.regression import out_of_fold, settled
from wsibench.sections import Scheme

LATENTS, WIDTH = 5, 32
SITE_EXPRESSION, SITE_FEATURES = 0.2, 0.3
"""SD of what a site adds to a gene and to a feature; patients' own SD is 1 in a gene."""
FEATURE_NOISE = 1.5
LAW = 20260
"""Seed of all that is the same in every cohort: what genes and features are made of."""
PER_SITE = 20
"""Patients of each new site in the fresh sample."""


@dataclass(frozen=True)
class Cell:
    """One kind of cohort."""

    scheme: Scheme
    patients: int
    sites: int
    r: float
    gene_correlation: float
    slope: float
    genes: int
    fresh: int
    draws: int
    folds: int = 5


@dataclass(frozen=True)
class Sites:
    """What sites do: r (sites,), shifts of expression (sites, genes), of each encoder's features (sites, width)."""

    r: np.ndarray
    expression: np.ndarray
    features: list[np.ndarray]

    @classmethod
    def draw(cls, cell: Cell, n: int, rng: np.random.Generator) -> "Sites":
        """New sites."""
        r = np.clip(cell.r + cell.slope * rng.normal(size=n), -0.99, 0.99)
        expression = SITE_EXPRESSION * rng.normal(size=(n, cell.genes))
        return cls(r, expression, [SITE_FEATURES * rng.normal(size=(n, WIDTH)) for _ in range(2)])


@dataclass(frozen=True)
class Sample:
    """Some patients: expression (n, genes), features of both encoders (n, width), and sites (n,)."""

    y: np.ndarray
    x: list[np.ndarray]
    site: np.ndarray

    @classmethod
    def draw(cls, cell: Cell, sites: Sites, n: int, rng: np.random.Generator) -> "Sample":
        """New patients, as many of each site."""
        law = np.random.default_rng(LAW)
        loadings = law.normal(size=(LATENTS, cell.genes))
        loadings /= np.linalg.norm(loadings, axis=0)
        projection = law.normal(size=(LATENTS, WIDTH)) / np.sqrt(LATENTS)
        site = rng.permutation(np.arange(n) % len(sites.r))
        z = rng.normal(size=(n, LATENTS))
        c = cell.gene_correlation
        noise = np.sqrt(c) * rng.normal(size=(n, 1)) + np.sqrt(1 - c) * rng.normal(size=(n, cell.genes))
        r = sites.r[site][:, None]
        y = r * (z @ loadings) + np.sqrt(1 - r**2) * noise + sites.expression[site]
        shared = rng.normal(size=(n, WIDTH))
        x = []
        for batch in sites.features:
            blur = np.sqrt(0.5) * (shared + rng.normal(size=(n, WIDTH)))
            x.append((z @ projection + FEATURE_NOISE * blur + batch[site]).astype(np.float32))
        return cls(y.astype(np.float32), x, site)


@dataclass(frozen=True)
class Remembering:
    """A probe that keeps its fits, in the order of the folds."""

    probe: Ridge
    fits: list[tuple[Fitted, np.ndarray]] = field(default_factory=list)
    needs: ClassVar[Literal["mean"]] = "mean"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> Fitted:
        """Fit, and keep the fit beside its training targets' SD."""
        fitted = self.probe.fit(patients, y, seed=seed)
        self.fits.append((fitted, y.std(axis=0, dtype=np.float64)))
        return fitted

    def truth(self, fresh: Sample, x: np.ndarray, n: np.ndarray) -> np.ndarray:
        """ρ of the fits in the fresh sample, averaged over folds of `n` patients as scores are, (genes,)."""
        everyone = Patients(np.arange(len(x)), np.arange(len(x)), mean=x)
        predicted = [settled(fitted.predict(everyone), sd) for fitted, sd in self.fits]
        together = np.zeros(len(x), int)
        rho = np.concatenate([scores.fold_spearman(fresh.y, each, together).rho for each in predicted])
        return scores.fisher_mean(rho, n)


def trial(cell: Cell, seed: int) -> dict[str, float]:
    """One cohort from simulation to verdict, in one thread; values of encoder a, and of the difference a − b."""
    with threadpool_limits(1):
        return verdict(cell, seed)


def verdict(cell: Cell, seed: int) -> dict[str, float]:
    """As `trial`."""
    rng = np.random.default_rng((LAW, seed))
    hospitals = Sites.draw(cell, cell.sites, rng)
    cohort = Sample.draw(cell, hospitals, cell.patients, rng)
    ids = np.array([f"P{i:05d}" for i in range(cell.patients)])
    obs = pd.DataFrame({"site": np.char.add("S", cohort.site.astype(str)), "subtype": ""}, index=ids)
    fold = make_folds(obs, scheme=cell.scheme, n=cell.folds, seed=seed).to_numpy()
    sites = obs["site"].to_numpy(str)
    groups = inner_groups(obs, cell.scheme)
    probes = [Remembering(Ridge()) for _ in cohort.x]
    predicted = [
        out_of_fold(probe, Patients(ids, groups, mean=x), cohort.y, fold).predicted
        for probe, x in zip(probes, cohort.x, strict=True)
    ]
    found = [scores.fold_spearman(cohort.y, each, fold) for each in predicted]
    preserved = cell.scheme == "preserved-site"
    others = Sites.draw(cell, cell.fresh // PER_SITE, rng) if preserved else hospitals
    fresh = Sample.draw(cell, others, cell.fresh, rng)
    truth = np.stack([p.truth(fresh, x, found[0].n) for p, x in zip(probes, fresh.x, strict=True)])
    rho = np.stack([each.mean() for each in found])

    resampled = sites if preserved else None
    weights = bootstrap.sample_weights(fold, draws=cell.draws, seed=seed, sites=resampled)
    sampled = bootstrap.sampled_means(cohort.y, predicted, fold, weights, method="reranked")[:, 0]
    widening = 1.0 if resampled is None else bootstrap.widening_for_sites(fold, sites)
    draws = bootstrap.confidence_draws(rho.mean(axis=1), sampled, widening=widening)
    low, high = bootstrap.central_interval(draws[0])
    delta = draws[0] - draws[1]
    delta_low, delta_high = bootstrap.central_interval(delta)
    return {
        "mean": rho[0].mean(), "median": np.median(rho[0]), "truth": truth[0].mean(),
        "truth_median": np.median(truth[0]), "low": low, "high": high, "delta": rho[0].mean() - rho[1].mean(),
        "truth_delta": truth[0].mean() - truth[1].mean(), "delta_low": delta_low, "delta_high": delta_high,
        "p": bootstrap.two_sided_p(delta), "p_wilcoxon": wilcoxon(rho[0] - rho[1]).pvalue,
    }  # fmt: skip


def summary(cell: Cell, trials: pd.DataFrame) -> dict[str, Any]:
    """A row of the table, each measure beside its Monte-Carlo standard error."""
    law = trials["truth"].mean()
    shares = {
        "covers_fits": trials["truth"].between(trials["low"], trials["high"]),
        "covers_law": (trials["low"] <= law) & (law <= trials["high"]),
        "delta_covers_fits": trials["truth_delta"].between(trials["delta_low"], trials["delta_high"]),
        "delta_covers_law": (trials["delta_low"] <= 0) & (trials["delta_high"] >= 0),
        "false_verdicts": trials["p"] < 0.05,
        "false_wilcoxon": trials["p_wilcoxon"] < 0.05,
    }
    row = asdict(cell) | {"cohorts": len(trials), "truth": law, "truth_se": trials["truth"].sem()}
    for name, truth in (("mean", "truth"), ("median", "truth_median")):
        error = trials[name] - trials[truth]
        row |= {f"bias_{name}": error.mean(), f"bias_{name}_se": error.sem()}
    for name, holds in shares.items():
        n, k = len(holds), int(holds.sum())
        # Agresti & Coull's share: a share of 0 or 1 in few cohorts is not free of error.
        fair = (k + 2) / (n + 4)
        row |= {name: k / n, f"{name}_se": np.sqrt(fair * (1 - fair) / (n + 4))}
    return row


COLUMNS = {
    "truth": "true ρ", "bias_mean": "bias mean", "bias_median": "bias median", "covers_fits": "fits",
    "covers_law": "law", "delta_covers_fits": "Δ fits", "delta_covers_law": "Δ law", "false_verdicts": "false A≠B",
    "false_wilcoxon": "Wilcoxon",
}  # fmt: skip
"""Measures of the printed table, and what they are called."""


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    settings = f"{row['scheme']:<14} {row['patients']:>5} {row['sites']:>5} {row['r']:>4} {row['gene_correlation']:>5}"
    signed = ("bias_mean", "bias_median")
    shown = [f"{row[name]:{'+' if name in signed else ''}.3f} ±{row[f'{name}_se']:.3f}" for name in COLUMNS]
    print(f"{settings} {row['cohorts']:>7} " + " ".join(f"{each:>14}" for each in shown), flush=True)


def grid(asked: argparse.Namespace) -> list[Cell]:
    """The cells that are asked for."""
    if asked.quick:
        common = {"patients": 150, "sites": 15, "slope": 0.0, "genes": 24, "fresh": 4000, "draws": 400}
        kinds = [("random-patient", 0.5, 0.0), *product(get_args(Scheme), (0.0, 0.5, 0.8), (0.3,))]
        return [Cell(scheme, r=r, gene_correlation=c, **common) for scheme, r, c in kinds]
    axes = product(asked.schemes, asked.patients, asked.sites, asked.r, asked.gene_correlation)
    return [Cell(*axis, asked.slope, asked.genes, asked.fresh, asked.draws) for axis in axes]


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small cells; other settings of cells are ignored")
    parser.add_argument("--cohorts", type=int, help="cohorts a cell; 20 with --quick, else 1000")
    parser.add_argument("--schemes", nargs="+", choices=get_args(Scheme), default=get_args(Scheme))
    parser.add_argument("--patients", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--sites", nargs="+", type=int, default=[5, 10, 20, 40])
    parser.add_argument("--r", nargs="+", type=float, default=[0.0, 0.3, 0.5, 0.8])
    parser.add_argument("--gene-correlation", nargs="+", type=float, default=[0.0, 0.3, 0.5])
    parser.add_argument("--slope", type=float, default=0.0, help="SD of r between sites")
    parser.add_argument("--genes", type=int, default=40)
    parser.add_argument("--fresh", type=int, default=20000, help="patients that the truth is told from")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=0, help="of the first cohort")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="also write the table here, with all settings")
    return parser.parse_args()


def main() -> None:
    """Run the grid, print a row as soon as its cell is done."""
    asked = options()
    cohorts = asked.cohorts or (20 if asked.quick else 1000)
    print(" " * 14 + "  n     sites    r  corr. cohorts " + " ".join(f"{name:>14}" for name in COLUMNS.values()))
    started, rows = time.perf_counter(), []
    seeds = range(asked.seed, asked.seed + cohorts)
    with ProcessPoolExecutor(asked.workers) as pool:
        for cell in grid(asked):
            run = map if asked.workers == 1 else pool.map
            trials = pd.DataFrame(list(run(trial, [cell] * cohorts, seeds)))
            rows.append(summary(cell, trials))
            show(rows[-1])
            if asked.csv:
                pd.DataFrame(rows).to_csv(asked.csv, index=False)
    print(f"{time.perf_counter() - started:.0f} s, {asked.workers} worker(s)", file=sys.stderr)


if __name__ == "__main__":
    main()
