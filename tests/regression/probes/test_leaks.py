"""Nothing that is fitted may see the patients held out: a check that every probe passes, and every planted leak fails.

Whoever is held out can change, picture and expression, without changing what is predicted for another
patient who is held out with them.
"""

from dataclasses import replace

import numpy as np
import pytest

from wsibench.core import Abmil as Settings
from wsibench.regression import PROBES, Patients, make_probe, out_of_fold
from wsibench.regression.probes.abmil import Abmil
from wsibench.regression.probes.ridge import Ridge

SETTINGS = Settings(seeds=1, epochs=3)
FOLD = np.repeat([0, 1, 2], 12)
ASKED = np.arange(6)
"""Held out in fold 0, and left as they are."""
CHANGED = np.arange(6, 12)
"""Held out with them, and changed."""


def leaks(run) -> bool:
    """Whether predictions of `ASKED` change with the features or the expression of `CHANGED`.

    `run` takes patients, expression and folds, and returns (patients, genes).
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(36, 8)).astype(np.float32)
    y = (x @ rng.normal(size=(8, 10)) + rng.normal(size=(36, 10))).astype(np.float32)
    other_x, other_y = x.copy(), y.copy()
    other_x[CHANGED] = 40 + 30 * rng.normal(size=(6, 8))
    other_y[CHANGED] = rng.permutation(y[CHANGED])[:, rng.permutation(10)] * 5 - 3
    plain = run(patients_of(x), y, FOLD)[ASKED]
    return any(
        changed.shape != plain.shape or not np.allclose(changed, plain, atol=1e-5)
        for changed in (run(patients_of(other_x), y, FOLD)[ASKED], run(patients_of(x), other_y, FOLD)[ASKED])
    )


def patients_of(x: np.ndarray) -> Patients:
    ids = np.arange(len(x)).astype(str)
    return Patients(ids, ids, x, [np.stack([row, row + 0.5]) for row in x])


def run_of(probe):
    return lambda patients, y, fold: out_of_fold(probe, patients, y, fold).predicted


@pytest.mark.parametrize("name", PROBES)
def test_no_probe_sees_who_is_held_out(name):
    assert not leaks(run_of(make_probe(name, SETTINGS)))


# Each of these plants a leak in one place; the check has to find it.


def scaled_over_all(patients, y, fold):
    x = (patients.mean - patients.mean.mean(axis=0)) / patients.mean.std(axis=0)
    # A probe that scales by itself would undo a leaked scale: ridge of a fixed penalty does not.
    predicted = np.empty_like(y)
    for label in np.unique(fold):
        a, b = x[fold != label], x[fold == label]
        predicted[fold == label] = b @ np.linalg.solve(a.T @ a + 10 * np.eye(8), a.T @ y[fold != label])
    return predicted


def pca_over_all(patients, y, fold):
    x = patients.mean - patients.mean.mean(axis=0)
    components = np.linalg.svd(x, full_matrices=False)[2][:3]
    return out_of_fold(Ridge(), replace(patients, mean=x @ components.T), y, fold).predicted


def targets_scaled_over_all(patients, y, fold):
    z = (y - y.mean(axis=0)) / y.std(axis=0)
    return out_of_fold(Ridge(), patients, z, fold).predicted


def components_of_expression_over_all(patients, y, fold):
    mean = y.mean(axis=0)
    components = np.linalg.svd(y - mean, full_matrices=False)[2][:2]
    return out_of_fold(Ridge(), patients, (y - mean) @ components.T, fold).predicted @ components + mean


def genes_filtered_over_all(patients, y, fold):
    kept = y.std(axis=0) >= np.median(y.std(axis=0))
    return out_of_fold(Ridge(), patients, y, fold).predicted * kept


def penalty_by_the_held_out(patients, y, fold):
    return _best(patients, y, fold, [_FixedPenalty(position) for position in range(6)])


def epochs_by_the_held_out(patients, y, fold):
    settings = [Settings(seeds=1, epochs=epochs, patience=epochs, dropout=0) for epochs in (1, 4, 8)]
    return _best(patients, y, fold, [Abmil(one) for one in settings])


def _best(patients, y, fold, probes):
    """Predictions of the probe that does best on the patients held out, gene by gene and fold by fold."""
    each = np.stack([out_of_fold(probe, patients, y, fold).predicted for probe in probes])
    predicted = np.empty_like(y)
    for label in np.unique(fold):
        held = fold == label
        best = ((each[:, held] - y[held]) ** 2).sum(axis=1).argmin(axis=0)
        predicted[held] = np.take_along_axis(each[:, held], best[None, None], axis=0)[0]
    return predicted


class _FixedPenalty(Ridge):
    def __init__(self, position):
        super().__init__()
        object.__setattr__(self, "position", position)

    def fit(self, patients, y, *, seed=0):
        fitted = super().fit(patients, y, seed=seed)
        return replace(fitted, best=np.full(y.shape[1], self.position))


@pytest.mark.parametrize(
    "leaking",
    [
        scaled_over_all,
        pca_over_all,
        targets_scaled_over_all,
        components_of_expression_over_all,
        genes_filtered_over_all,
        penalty_by_the_held_out,
        epochs_by_the_held_out,
    ],
)
def test_planted_leak_is_found(leaking):
    assert leaks(leaking)
