"""Ridge: its numbers against himalaya's, what it selects, and what it must not see."""

import numpy as np
import pytest

from wsibench.regression.probes import base, ridge
from wsibench.regression.probes.base import Patients
from wsibench.regression.probes.ridge import ALPHAS, Ridge


def patients(x, groups=None):
    ids = np.arange(len(x)).astype(str)
    return Patients(ids, ids if groups is None else groups, np.asarray(x, np.float32))


@pytest.fixture
def data():
    """Features (90 + 30, 40), targets (90 + 30, 60) from noiseless to pure noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(2, 3, (120, 40))
    noise = np.repeat([0.01, 1, 10, 1e6], 15)
    y = (x - 2) @ rng.normal(size=(40, 60)) / 20 + noise * rng.normal(size=(120, 60)) + 50
    return x.astype(np.float32), y.astype(np.float32)


def test_agrees_with_himalaya_on_penalties_and_predictions(data, monkeypatch):
    from himalaya.kernel_ridge import KernelRidgeCV
    from sklearn.model_selection import PredefinedSplit

    x, y = data
    z = (x - x[:90].mean(0)) / x[:90].std(0)
    # himalaya standardises nothing inside its inner folds; for the comparison neither do we.
    monkeypatch.setattr(ridge.Scaler, "fit", lambda v: base.Scaler(v.mean(0), np.ones(v.shape[1])))
    fitted = Ridge().fit(patients(z[:90]), y[:90])
    fold = np.empty(90)
    for label, (_, held) in enumerate(base.inner_folds(np.arange(90).astype(str), 5)):
        fold[held] = label
    theirs = KernelRidgeCV(alphas=ALPHAS, kernel="precomputed", fit_intercept=True, cv=PredefinedSplit(fold))
    theirs.fit((z[:90] @ z[:90].T / 40).astype(np.float64), y[:90].astype(np.float64))
    same = np.isclose(ALPHAS[fitted.best], theirs.best_alphas_)
    assert same.mean() >= 0.95
    expected = theirs.predict((z[90:] @ z[:90].T / 40).astype(np.float64))
    error = (fitted.predict(patients(z[90:])) - expected) / y[:90].std(0)
    assert np.abs(error[:, same]).max() < 1e-3


def test_penalty_grows_with_noise(data):
    x, y = data
    fitted = Ridge().fit(patients(x[:90]), y[:90])
    alphas = np.median(ALPHAS[fitted.best].reshape(4, 15), axis=1)
    assert alphas[0] < alphas[1] < alphas[3]
    assert sum(fitted.chosen["genes"].values()) == 60


def test_scale_and_offset_of_features_and_targets_do_not_matter(data):
    x, y = data
    plain = Ridge().fit(patients(x[:90]), y[:90]).predict(patients(x[90:]))
    scale = np.logspace(-4, 4, 40).astype(np.float32)
    scaled = Ridge().fit(patients(x[:90] * scale), y[:90] * 1000).predict(patients(x[90:] * scale)) / 1000
    assert np.abs(scaled - plain).max() < 1e-2 * y.std(0).min() + 1e-3 * y.std(0).max()


def test_constant_gene_and_constant_features_give_numbers(data):
    x, y = data
    x[:, 5], y[:, 9], y[:, 10] = 4.2, 3.3, 1246 * (np.arange(120) == 2)
    predicted = Ridge().fit(patients(x[:90]), y[:90]).predict(patients(x[90:]))
    assert np.isfinite(predicted).all()
    assert (predicted[:, 9] == np.float32(3.3)).all()
    only = Ridge().fit(patients(np.ones((90, 3))), y[:90]).predict(patients(np.ones((30, 3))))
    assert (only == only[0]).all()


def test_few_patients_one_gene():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 8)), rng.normal(size=(4, 1)).astype(np.float32)
    assert np.isfinite(Ridge().fit(patients(x), y).predict(patients(x))).all()


def test_each_gene_is_fitted_by_itself(data):
    x, y = data
    together = Ridge().fit(patients(x[:90]), y[:90]).predict(patients(x[90:]))
    alone = Ridge().fit(patients(x[:90]), y[:90, 20:21]).predict(patients(x[90:]))
    np.testing.assert_allclose(alone[:, 0], together[:, 20], rtol=1e-4)


def test_inner_folds_by_site_do_not_reward_knowing_the_site():
    """Genes that follow the site, features that name it: only folds by site find that this does not carry over."""
    rng = np.random.default_rng(0)
    site = np.repeat(np.arange(12), 10)
    x = np.eye(12)[site] + 0.1 * rng.normal(size=(120, 12))
    y = (rng.normal(size=(12, 200))[site] + 0.1 * rng.normal(size=(120, 200))).astype(np.float32)
    by_site = Ridge().fit(patients(x, site), y)
    by_patient = Ridge().fit(patients(x), y)
    assert np.median(ALPHAS[by_site.best]) > 100 * np.median(ALPHAS[by_patient.best])
