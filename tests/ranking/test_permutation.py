"""False discovery rate of the whole pipeline against the permutation null."""

import numpy as np

from wsibench.ranking import significance
from wsibench.ranking.permutation import permuted_orders
from wsibench.ranking.plan import Null
from wsibench.regression import Patients, fold_spearman, make_probe, out_of_fold
from wsibench.regression.metrics import permutation_within

PLANTED, NULL, PERMUTATIONS = 40, 160, 10


def found(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ρ and q of one cohort of 120 patients at 8 sites, ridge refitted in every permutation.

    Genes are dependent, and sites shift features and expression: in random-patient folds the ρ of a null gene is
    well above 0, and only permutation within sites accounts for that.
    """
    rng = np.random.default_rng(seed)
    n, genes, site = 120, PLANTED + NULL, np.arange(120) % 8
    latent = rng.normal(size=(n, 4))
    x = latent @ rng.normal(size=(4, 16)) + rng.normal(size=(n, 16)) + rng.normal(size=(8, 16))[site]
    y = rng.normal(size=(n, genes)) + 0.5 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, genes))
    y += 0.7 * rng.normal(size=(8, genes))[site]
    y[:, :PLANTED] += 0.5 * latent @ rng.normal(size=(4, PLANTED))
    orders = [np.arange(n), *(permutation_within(site, rng) for _ in range(PERMUTATIONS))]
    together = np.concatenate([y[order] for order in orders], axis=1).astype(np.float32)
    patients = Patients(np.arange(n), np.arange(n), mean=x.astype(np.float32))
    fold = rng.permutation(n) % 3
    predicted = out_of_fold(make_probe("ridge"), patients, together, fold).predicted
    rho = fold_spearman(together, predicted, fold).mean().reshape(len(orders), genes)
    return rho[0], significance(rho[0], rho[1:])[1]


def test_the_false_discovery_rate_of_the_pipeline_is_controlled():
    """Mean false discovery proportion at .05, over cohorts: at most .05 and twice its Monte-Carlo error."""
    cohorts = [found(seed) for seed in range(10)]
    called = np.stack([q < 0.05 for _, q in cohorts])
    proportion = called[:, PLANTED:].sum(axis=1) / np.maximum(1, called.sum(axis=1))
    error = proportion.std(ddof=1) / np.sqrt(len(proportion))
    null = np.mean([rho[PLANTED:].mean() for rho, _ in cohorts])
    assert null > 0.05, "sites alone give a score, so that a null centred on zero would call null genes"
    assert proportion.mean() <= 0.05 + 2 * error
    assert called[:, :PLANTED].mean() > 0.5


def test_test_patients_of_external_validation_are_not_permuted():
    site, fold = np.array(list("aabbaabb")), np.array([-1, -1, -1, -1, 0, 0, 0, 0])
    for kind in ("within-site", "free"):
        (order,) = permuted_orders(site, fold, Null(None, kind, 1, 3, None))
        assert order[4:].tolist() == [4, 5, 6, 7]
        assert sorted(order[:4]) == [0, 1, 2, 3]
        if kind == "within-site":
            assert (site[order] == site).all()
