"""CPU time of bootstrapping the mean ρ: every sample ranked anew, fixed ranks, and scipy in a loop.

    python benchmarks/resampling.py [--full] [--draws 1000] [--genes 2000] [--patients 1000] [--encoders 5]

All encoders share the samples, in five folds.  The loop repeats each patient as often as drawn and calls
scipy's spearmanr, fold by fold and gene by gene; it is run for a few samples and genes and extrapolated.
What it finds there is what the samples ranked anew must give, to rounding.
`--full`: 20,000 genes.  Prints CPU seconds (getrusage, one thread) and peak memory, every way in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

import numpy as np
from fixed_ranks import fixed_rank_means
from scipy.stats import spearmanr

from wsibench.ranking import sample_weights, sampled_means
from wsibench.regression.metrics import fisher_mean

FOLDS = 5
LOOP_DRAWS, LOOP_GENES = 2, 20
"""What the loop is run for."""
GOAL_S = 90
"""Of 1,000 samples × 20,000 genes × 5 encoders, ranked anew."""


def data(patients: int, genes: int, encoders: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Expression (patients, genes), one prediction an encoder with a latent correlation of .5, and folds."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((patients, genes), np.float32)
    noise = np.sqrt(0.75)
    predicted = [0.5 * y + noise * rng.standard_normal(y.shape, np.float32) for _ in range(encoders)]
    return y, predicted, np.arange(patients) % FOLDS


def loop(y: np.ndarray, predicted: list[np.ndarray], fold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ρ of every sample as a script would take it, (encoders, draws)."""
    means = np.empty((len(predicted), len(weights)))
    for draw, drawn in enumerate(weights.astype(int)):
        for row, x in enumerate(predicted):
            rho, n = np.empty((FOLDS, y.shape[1])), np.empty(FOLDS)
            for label in range(FOLDS):
                members = np.flatnonzero(fold == label)
                sample = np.repeat(members, drawn[members])
                n[label] = len(sample)
                rho[label] = [spearmanr(y[sample, gene], x[sample, gene]).statistic for gene in range(y.shape[1])]
            means[row, draw] = fisher_mean(rho, n).mean()
    return means


def measure(way: str, draws: int, genes: int, patients: int, encoders: int) -> dict:
    """CPU seconds of one way in this process, after a small call that compiles."""
    y, predicted, fold = data(patients, genes, encoders)
    weights = sample_weights(fold, draws=draws, seed=0)
    few = slice(0, LOOP_GENES)
    part = (y[:, few], [x[:, few] for x in predicted], fold, weights[:LOOP_DRAWS])
    if way == "loop":
        started = _cpu()
        means = loop(*part)
        scale = draws / LOOP_DRAWS * genes / part[0].shape[1]
        return {"cpu_s": (_cpu() - started) * scale, "peak_mib": _peak(), "means": means.tolist()}
    resample = sampled_means if way == "reranked" else fixed_rank_means
    means = resample(*part).reshape(encoders, -1)
    started = _cpu()
    resample(y, predicted, fold, weights)
    return {"cpu_s": _cpu() - started, "peak_mib": _peak(), "means": means.tolist()}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="20,000 genes")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--encoders", type=int, default=5)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = (asked.draws, 20_000 if asked.full else asked.genes, asked.patients, asked.encoders)
    if asked.way:
        print(json.dumps(measure(asked.way, *size)))
        return
    print("{:,} samples × {:,} genes × {:,} patients × {} encoders".format(*size))
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    found = {}
    for way, called in (("reranked", "ranked anew"), ("fixed", "fixed ranks"), ("loop", "scipy, extrapolated")):
        command = [sys.executable, __file__, "--way", way, *(["--full"] if asked.full else [])]
        command += [f"--{name}={getattr(asked, name)}" for name in ("draws", "genes", "patients", "encoders")]
        done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{called:<20} {found[way]['cpu_s']:>10,.1f} CPU s {found[way]['peak_mib']:>7,.0f} MiB", flush=True)
    seconds = {way: each["cpu_s"] for way, each in found.items()}
    print(f"scipy / ranked anew: {seconds['loop'] / seconds['reranked']:,.0f} ×")
    print(f"ranked anew / fixed ranks: {seconds['reranked'] / seconds['fixed']:.1f} ×")
    means = {way: np.array(each["means"]) for way, each in found.items()}
    for way in ("reranked", "fixed"):
        print(f"largest difference from scipy, {way}: {np.abs(means[way] - means['loop']).max():.1e}")
    if asked.full:
        print(f"goal: at most {GOAL_S} CPU s for 1,000 samples of five encoders")


if __name__ == "__main__":
    main()
