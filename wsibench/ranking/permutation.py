"""Permutation null: scores of the whole pipeline refitted to permuted expression.

Whole expression profiles are permuted among patients, so that genes keep their correlations, and every probe is fitted
and scored again. There are two kinds:

``within-site``
    Permuted among the patients of the same site, so that the association of site and expression is kept. Under
    random-patient folds the null of a gene that differs between sites is therefore above zero, by the score that
    knowledge of the site gives. Significance is measured against this null.
``free``
    Permuted among all patients: nothing is left to predict, and the null is centred on zero unless the pipeline
    leaks. The difference between the two nulls is the contribution of the sites.

In external validation the training patients are permuted; the test patients keep their measured expression.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.core import writing
from wsibench.ranking.plan import Null
from wsibench.regression import fold_spearman, load, metrics, out_of_fold

MAX_COLUMNS = 100_000
"""Most permuted targets fitted at once, side by side, by a probe that fits each target by itself."""


def permute(null: Null) -> None:
    """Refit to permuted expression, and write ρ of every permutation and gene."""
    patients, benchmark, splits = load(null.fit)
    fold, y = splits.iloc[:, 0].to_numpy(), np.asarray(benchmark.X)
    orders = permuted_orders(benchmark.obs["site"].to_numpy(str), fold, null)
    probe = null.fit.make_probe()
    together = max(1, MAX_COLUMNS // y.shape[1]) if probe.columnwise else 1
    evaluated = fold >= 0
    rho = []
    for start in range(0, len(orders), together):
        permuted = np.concatenate([y[order] for order in orders[start : start + together]], axis=1)
        with threadpool_limits(1):  # other fits use the other cores
            predicted = out_of_fold(probe, patients, permuted, fold, seed=null.fit.seed).predicted
        scores = fold_spearman(permuted[evaluated], predicted[evaluated], fold[evaluated])
        rho.append(scores.mean().astype(np.float32))
    table = pd.DataFrame({
        "permutation": np.repeat(np.arange(len(orders), dtype=np.int32), y.shape[1]),
        "gene": np.tile(benchmark.var_names.to_numpy(str), len(orders)),
        "rho": np.concatenate(rho),
    })  # fmt: skip
    with writing(null.artefact, permutations=len(orders)) as path:
        table.to_parquet(path, index=False)


def permuted_orders(site: np.ndarray, fold: np.ndarray, null: Null) -> Sequence[np.ndarray]:
    """Permuted positions of the patients, the same for every encoder and probe.

    Parameters
    ----------
    site, fold
        Site and fold of each patient, (patients,); fold below 0 for the training patients of external validation.
    null
        Kind and number of permutations, and their seed.

    Returns
    -------
    sequence of np.ndarray
        One order of the patients for each permutation, (patients,).
    """
    groups = site if null.kind == "within-site" else np.full(len(site), "all")
    if (fold < 0).any():  # test patients are groups of one
        groups = np.where(fold < 0, groups, [f"test patient {i}" for i in range(len(fold))])
    rng = np.random.default_rng(null.seed)
    return [metrics.permutation_within(groups, rng) for _ in range(null.permutations)]


def read_permuted(path: Path) -> pd.DataFrame:
    """ρ under permuted expression, (permutations, genes); NaN where a permuted gene is constant in a fold."""
    table = pd.read_parquet(path)
    genes = table["gene"].to_numpy(str)[: int((table["permutation"] == 0).sum())]
    return pd.DataFrame(table["rho"].to_numpy().reshape(-1, len(genes)), columns=genes)
