"""The benchmark of the benchmark: how often its intervals and its verdicts are right, in cohorts of known truth.

    python benchmarks/validity.py [coverage power null confounded external] [--quick] [--cohorts 1000] [--workers 2]
                                  [--schemes …] [--patients 300 …] [--sites 20 …] [--r 0 0.5 …]
                                  [--gene-correlation 0 0.3 …] [--csv FOLDER]

Simulates features of two encoders and expression (cohorts.py says how), makes folds, refits ridge in every fold of
every cohort, and takes scores, samples and intervals as 06_ranking takes them.  The truth is what the fits of the
very cohort reach on new patients, known in closed form: of new sites in the preserved-site arm, of the cohort's own
sites in the random-patient arm.

coverage    two encoders that are equal in law: share of 95 % intervals of mean ρ, and of the difference, that hold
            the truth; bias of mean and median ρ; how often the two are told apart, with Wilcoxon's test over genes
            beside it.  Four intervals compete, from the same samples.
power       the second encoder's features are noisier: how often the order is right, how often the difference is
            significant, against the number of patients and the gap.
null        half of the genes follow nothing: how their p and q under refitted within-site permutations behave.
confounded  the second encoder sees nothing but the site, which genes depend on: which arm is fooled.
external    one cohort is trained on, and another of as many patients and sites tested on: coverage as above.

Each measure stands beside its Monte-Carlo standard error.  `--csv` keeps a table an experiment, in which the rows of
cells that are run again are replaced.  `--quick`: a few small cells of all in under a minute, and the closed form
of the truth against a large fresh sample.  `--publish --csv FOLDER`: let warnings beside leaderboards cite FOLDER.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from cohorts import Cell, Cohort, Sites, coefficients, true_rho
from fixed_ranks import fixed_rank_means
from scipy.stats import wilcoxon
from threadpoolctl import threadpool_limits

from wsibench import ranking
from wsibench.core import Scheme
from wsibench.regression import metrics as scores, out_of_fold
from wsibench.regression.probes.base import Fitted, Patients
from wsibench.regression.probes.ridge import Ridge

DRAWS = 500
METHODS = ("fixed", "fixed + halves", "re-ranked", "re-ranked + halves")
"""Percentiles of weighted fixed ranks; re-ranked samples reflected at the estimate; and both with split halves."""
DEFAULT = METHODS[3]
"""What 06_ranking does."""
GAPS = (1.0, 1.03, 1.1, 1.25, 1.5)
"""Factors on the second encoder's noise."""
PERMUTATIONS = 20
COVERAGE = Path(ranking.__file__).with_name("coverage.csv")
"""Coverage that warnings cite."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Remembering:
    """Ridge that keeps the coefficients of its fits: of each fold the fit on all, then those on two halves."""

    fits: list[np.ndarray] = field(default_factory=list)
    needs: ClassVar[Literal["mean"]] = "mean"
    columnwise: ClassVar[bool] = True

    def fit(self, patients: Patients, y: np.ndarray, *, seed: int = 0) -> Fitted:
        """Fit, and keep what features are multiplied with."""
        fitted = Ridge().fit(patients, y, seed=seed)
        self.fits.append(coefficients(fitted))
        return fitted


@dataclass(frozen=True)
class Scored:
    """A cohort's predictions, scores and truth, by encoder."""

    predicted: list[np.ndarray]
    noise: list[np.ndarray]
    rho: np.ndarray
    """(encoders, genes)."""
    truth: np.ndarray
    """(encoders, genes)."""

    @classmethod
    def of(cls, cohort: Cohort) -> "Scored":
        """Fit both encoders out of fold."""
        n = np.bincount(cohort.fold)
        found, truth = [], []
        for encoder in range(len(cohort.x)):
            probe = Remembering()
            patients = cohort.patients(encoder)
            found.append(out_of_fold(probe, patients, cohort.y, cohort.fold, split_half=True))
            rho = [true_rho(cohort.cell, cohort.sites, encoder, weights) for weights in probe.fits[::3]]
            truth.append(scores.fisher_mean(np.stack(rho), n))
        rho = [scores.fold_spearman(cohort.y, each.predicted, cohort.fold).mean() for each in found]
        return cls([each.predicted for each in found], [each.noise for each in found], np.stack(rho), np.stack(truth))


def drawn(cohort: Cohort, scored: Scored, seed: int, methods: tuple[str, ...] = METHODS) -> dict[str, np.ndarray]:
    """Draws of where the truth of mean ρ lies, (encoders, draws), a method each."""
    sites = cohort.site if cohort.cell.scheme == "preserved-site" else None
    clusters = np.arange(len(cohort.y)) if sites is None else sites
    data = (cohort.y, scored.predicted)
    weights = ranking.sample_weights(cohort.fold, draws=DRAWS, seed=seed, sites=sites)
    noise = ranking.training_draws(*data, scored.noise, cohort.fold, clusters, draws=DRAWS, seed=seed)[:, 0]
    widening = 1.0 if sites is None else ranking.widening_for_sites(cohort.fold, sites)
    estimate, found = scored.rho.mean(axis=1), {}
    for method in methods:
        reranked = method.startswith("re-ranked")
        means = ranking.sampled_means if reranked else fixed_rank_means
        sampled = means(*data, cohort.fold, weights).reshape(len(scored.predicted), -1)
        sampled = sampled + noise if method.endswith("halves") else sampled
        middle = sampled.mean(axis=1, keepdims=True)
        found[method] = (
            ranking.confidence_draws(estimate, sampled, widening=widening)
            if reranked
            else middle + widening * (sampled - middle)
        )
    return found


def coverage_trial(cell: Cell, seed: int) -> list[Row]:
    """One cohort of two equal encoders: a row a method."""
    cohort = Cohort.draw(cell, seed)
    scored = Scored.of(cohort)
    rho, truth = scored.rho.mean(axis=1), scored.truth.mean(axis=1)
    of_genes = {
        "bias_median": np.median(scored.rho[0]) - np.median(scored.truth[0]), "delta": rho[0] - rho[1],
        "false_wilcoxon": wilcoxon(scored.rho[0] - scored.rho[1]).pvalue < 0.05,
    }  # fmt: skip
    found = drawn(cohort, scored, seed)
    return [{"method": method, **_holds(draws, rho, truth), **of_genes} for method, draws in found.items()]


def _holds(draws: np.ndarray, rho: np.ndarray, truth: np.ndarray) -> Row:
    """Whether draws (2, draws) hold the truth (2,) about mean ρ (2,) of the first encoder and of the difference."""
    low, high = ranking.central_interval(draws[0])
    delta = draws[0] - draws[1]
    delta_low, delta_high = ranking.central_interval(delta)
    return {
        "truth": truth[0], "bias_mean": rho[0] - truth[0], "width": high - low, "covers": low <= truth[0] <= high,
        "delta_covers": delta_low <= truth[0] - truth[1] <= delta_high,
        "false_verdicts": ranking.two_sided_p(delta) < 0.05,
    }  # fmt: skip


def power_trial(cell: Cell, seed: int) -> list[Row]:
    """One cohort with a better first encoder."""
    cohort = Cohort.draw(cell, seed)
    scored = Scored.of(cohort)
    draws = drawn(cohort, scored, seed, (DEFAULT,))[DEFAULT]
    first, second = scored.rho.mean(axis=1)
    better = first > second
    p, genes = ranking.two_sided_p(draws[0] - draws[1]), wilcoxon(scored.rho[0] - scored.rho[1]).pvalue
    return [{
        "gap": np.subtract(*scored.truth.mean(axis=1)), "right_order": better, "power": better and p < 0.05,
        "wrong": not better and p < 0.05, "wilcoxon": better and genes < 0.05,
        "wilcoxon_wrong": not better and genes < 0.05,
    }]  # fmt: skip


def null_trial(cell: Cell, seed: int) -> list[Row]:
    """p and q of genes that follow something and of genes that follow nothing."""
    cohort = Cohort.draw(cell, seed)
    rng = np.random.default_rng((seed, 1))
    shuffled = [cohort.y[scores.permutation_within(cohort.site, rng)] for _ in range(PERMUTATIONS)]
    together = np.concatenate([cohort.y, *shuffled], axis=1)  # ridge fits each column by itself
    predicted = out_of_fold(Ridge(), cohort.patients(0), together, cohort.fold).predicted
    rho = scores.fold_spearman(together, predicted, cohort.fold).mean().reshape(PERMUTATIONS + 1, -1)
    p, q = ranking.significance(rho[0], rho[1:])
    null = np.arange(cell.genes) >= cell.genes - cell.null_genes
    found = q < 0.05
    return [{
        "null_p": (p[null] < 0.05).mean(), "false_discoveries": (found & null).sum() / max(1, found.sum()),
        "found": found[~null].mean() if (~null).any() else np.nan,
    }]  # fmt: skip


def confounded_trial(cell: Cell, seed: int) -> list[Row]:
    """Who is put first, of an encoder that sees tissue and one that sees the site."""
    cohort = Cohort.draw(cell, seed)
    first, second = Scored.of(cohort).rho.mean(axis=1)
    return [{"sees_tissue": first, "sees_site": second, "right_order": first > second}]


def external_trial(cell: Cell, seed: int) -> list[Row]:
    """Two equal encoders fitted on one cohort, and scored on one of other sites; nothing of halves, as in a study."""
    train, rng = Cohort.draw(cell, seed), np.random.default_rng((seed, 2))
    test = Cohort.of_sites(cell, Sites.draw(cell, cell.sites, rng), cell.patients, rng)
    fitted = [Ridge().fit(train.patients(encoder), train.y) for encoder in range(2)]
    predicted = [each.predict(test.patients(encoder)) for encoder, each in enumerate(fitted)]
    truth = [true_rho(cell, train.sites, encoder, coefficients(each)).mean() for encoder, each in enumerate(fitted)]
    fold = np.zeros(cell.patients, int)
    rho = np.array([scores.fold_spearman(test.y, each, fold).mean().mean() for each in predicted])
    weights = ranking.sample_weights(fold, draws=DRAWS, seed=seed, sites=test.site)
    sampled = ranking.sampled_means(test.y, predicted, fold, weights)[:, 0]
    widening = ranking.widening_for_sites(fold, test.site)
    draws = ranking.confidence_draws(rho, sampled, widening=widening)
    return [_holds(draws, rho, np.array(truth))]


@dataclass(frozen=True)
class Experiment:
    """What is done in every cohort, and in which cells."""

    trial: Callable[[Cell, int], list[Row]]
    kind: str
    """Column that tells rows of one trial apart, or empty."""


EXPERIMENTS = {
    "coverage": Experiment(coverage_trial, "method"),
    "power": Experiment(power_trial, ""),
    "null": Experiment(null_trial, ""),
    "confounded": Experiment(confounded_trial, ""),
    "external": Experiment(external_trial, ""),
}
SETTINGS = ["scheme", "patients", "sites", "r", "gene_correlation"]


def run_trial(trial: Callable[[Cell, int], list[Row]], cell: Cell, seed: int) -> list[Row]:
    """In one thread: other trials have the other cores."""
    with threadpool_limits(1):
        return trial(cell, seed)


def summaries(cell: Cell, experiment: Experiment, rows: pd.DataFrame) -> list[Row]:
    """Means over cohorts, each beside its Monte-Carlo standard error; a row a kind."""
    found = []
    for kind, part in rows.groupby(experiment.kind, sort=False) if experiment.kind else [("", rows)]:
        row: Row = {name: getattr(cell, name) for name in SETTINGS}
        row |= {"noise_ratio": cell.blur[1] / cell.blur[0], "cohorts": len(part)}
        if experiment.kind:
            row[experiment.kind] = kind
        for name in part.columns.drop([experiment.kind], errors="ignore"):
            values = part[name].astype(float)
            row |= {name: values.mean(), f"{name}_se": _standard_error(part[name])}
        found.append(row)
    return found


def _standard_error(values: pd.Series) -> float:
    if values.dtype != bool:
        return float(values.sem())
    # Agresti & Coull's share: a share of 0 or 1 in few cohorts is not free of error.
    fair = (values.sum() + 2) / (len(values) + 4)
    return float(np.sqrt(fair * (1 - fair) / (len(values) + 4)))


def cells(name: str, asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells of an experiment that are asked for."""
    for scheme, n, sites, r, c in product(asked.schemes, asked.patients, asked.sites, asked.r, asked.gene_correlation):
        cell = Cell(scheme, n, sites, r, c)
        if name == "external" and scheme == "random-patient":
            continue  # its patients are of new sites
        if name == "power":
            yield from (replace(cell, blur=(cell.blur[0], cell.blur[0] * ratio)) for ratio in asked.noise_ratios)
        elif name == "null":
            yield replace(cell, null_genes=cell.genes // 2)
        elif name == "confounded":
            yield replace(cell, sees=(1.0, 0.0), site_features=(0.3, 4.0), site_expression=1.0)
        else:
            yield cell


def keep(rows: list[Row], path: Path) -> None:
    """Write rows to a table, in place of rows of the same settings."""
    frame = pd.DataFrame(rows)
    if path.exists():
        same = [*SETTINGS, "noise_ratio"]
        before = pd.read_csv(path)
        again = pd.MultiIndex.from_frame(frame[same])
        frame = pd.concat([before[~pd.MultiIndex.from_frame(before[same]).isin(again)], frame], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.round(5).to_csv(path, index=False)


def publish(folder: Path) -> None:
    """Write what the package cites beside a leaderboard: the range of coverage by patients and sites."""
    table = pd.read_csv(folder / "coverage.csv")
    external = pd.read_csv(folder / "external.csv").assign(scheme="external")
    kinds = pd.concat([table[table["method"] == DEFAULT], external]).groupby(
        ["scheme", "patients", "sites"], sort=False
    )
    cited = kinds.agg(coverage_low=("covers", "min"), coverage_high=("covers", "max"), cohorts=("cohorts", "min"))
    cited.to_csv(COVERAGE)
    print(f"{len(cited)} kinds of cohorts: {COVERAGE}")


def show(rows: list[Row], header: bool) -> None:
    """Print rows, each measure beside its standard error."""
    shown = {}
    for name in rows[0]:
        if name.endswith("_se") or name == "noise_ratio":
            continue
        se = f"{name}_se"
        shown[name] = [f"{row[name]:.3f} ±{row[se]:.3f}" if se in row else str(row[name]) for row in rows]
    widths = {name: max(13, len(name), *(len(text) for text in texts)) for name, texts in shown.items()}
    if header:
        print(" ".join(name.rjust(width) for name, width in widths.items()))
    for texts in zip(*shown.values(), strict=True):
        print(" ".join(text.rjust(width) for text, width in zip(texts, widths.values(), strict=True)), flush=True)


def check_closed_form(scheme: Scheme, n: int = 100_000) -> None:
    """Print the truth of one cohort's first fit beside its ρ in a large fresh sample."""
    cell = Cell(scheme, 200, 10, site_expression=0.5)
    cohort, rng = Cohort.draw(cell, 0), np.random.default_rng(1)
    train = cohort.fold != 0
    fitted = Ridge().fit(cohort.patients(0).take(np.flatnonzero(train)), cohort.y[train])
    others = Sites.draw(cell, n // 20, rng) if scheme == "preserved-site" else cohort.sites
    fresh = Cohort.of_sites(cell, others, n, rng)
    names = np.arange(n).astype(str)
    sampled = scores.fold_spearman(fresh.y, fitted.predict(Patients(names, names, mean=fresh.x[0])), np.zeros(n))
    truth = true_rho(cell, cohort.sites, 0, coefficients(fitted))
    print(f"closed form of mean ρ, {scheme}: {truth.mean():.4f}; of {n:,} fresh patients: {sampled.mean().mean():.4f}")


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help=f"{', '.join(EXPERIMENTS)}; all of them unless named")
    parser.add_argument("--quick", action="store_true", help="a few small cells; settings of cells are ignored")
    parser.add_argument("--cohorts", type=int, default=1000, help="a cell")
    parser.add_argument("--schemes", nargs="+", choices=get_args(Scheme), default=["preserved-site", "random-patient"])
    parser.add_argument("--patients", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--sites", nargs="+", type=int, default=[5, 10, 20, 40])
    parser.add_argument("--r", nargs="+", type=float, default=[0.0, 0.3, 0.5, 0.8])
    parser.add_argument("--gene-correlation", nargs="+", type=float, default=[0.0, 0.3, 0.5])
    parser.add_argument("--noise-ratios", nargs="+", type=float, default=GAPS, help="of the second encoder, in `power`")
    parser.add_argument("--seed", type=int, default=0, help="of the first cohort")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="folder to keep the tables in, one an experiment")
    parser.add_argument("--publish", action="store_true", help="only let the package cite the coverage kept in --csv")
    asked = parser.parse_args()
    if asked.publish and not asked.csv:
        parser.error("--publish reads the tables that --csv names")
    if unknown := [name for name in asked.experiments if name not in EXPERIMENTS]:
        parser.error(f"there is no experiment {unknown[0]!r}")
    if asked.quick:
        asked.cohorts = min(asked.cohorts, 8)
        asked.patients, asked.sites, asked.r, asked.gene_correlation = [150], [15], [0.0, 0.5], [0.3]
        asked.noise_ratios = (1.0, 1.5)
    return asked


def main() -> None:
    """Run the experiments cell by cell; print a cell's rows as soon as they are there."""
    asked = options()
    if asked.publish:
        publish(asked.csv)
        return
    started = time.perf_counter()
    if asked.quick:
        for scheme in asked.schemes:
            check_closed_form(scheme)
    seeds = range(asked.seed, asked.seed + asked.cohorts)
    with ProcessPoolExecutor(asked.workers) as pool:
        for name in asked.experiments or EXPERIMENTS:
            experiment = EXPERIMENTS[name]
            print(f"\n{name}")
            for position, cell in enumerate(cells(name, asked)):
                trial = partial(run_trial, experiment.trial, cell)
                found = map(trial, seeds) if asked.workers == 1 else pool.map(trial, seeds, chunksize=4)
                rows = summaries(cell, experiment, pd.DataFrame([row for each in found for row in each]))
                show(rows, header=position == 0)
                if asked.csv:
                    keep(rows, asked.csv / f"{name}.csv")
    print(f"{time.perf_counter() - started:.0f} s, {asked.workers} worker(s)", file=sys.stderr)


if __name__ == "__main__":
    main()
