"""Scores and intervals of 60 simulated patients, two encoders and two probes, held to frozen values.

Inputs are frozen (folds and bags too), so that nothing depends on the processor but rounding.
"""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from wsibench.core import Abmil as AbmilSettings
from wsibench.ranking import central_interval, mean_draws
from wsibench.regression import Patients, fold_spearman, make_probe, out_of_fold

FOLDER = Path(__file__).parent / "golden"
SCHEMES = ("preserved-site", "random-patient")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "inputs.npz"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "golden.npz"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_and_intervals_are_the_golden_ones(inputs, golden, scheme):
    found = made(inputs, scheme)
    wanted = {name: value for name, value in golden.items() if name.split("/")[1] == scheme}
    assert found.keys() == wanted.keys()
    assert len(wanted) == 4 + 4 + 6
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)


def made(inputs: dict[str, np.ndarray], scheme: str) -> dict[str, np.ndarray]:
    settings = json.loads(str(inputs["settings"]))
    y, ids, sites, fold = inputs["expression"], inputs["patient_id"], inputs["site"], inputs[f"fold/{scheme}"]
    drawn = sites if scheme == "preserved-site" else None
    results = {}
    for encoder in ("texture", "colour"):
        bags = inputs[f"bags/{encoder}"]
        mean = bags.astype(np.float64).mean(axis=1).astype(np.float32)
        patients = Patients(ids, ids if drawn is None else sites, mean=mean, bags=list(bags))
        for name in ("ridge", "abmil"):
            probe = make_probe(name, AbmilSettings(**settings["abmil"]))
            with threadpool_limits(1):
                results[encoder, name] = out_of_fold(probe, patients, y, fold, seed=settings["seed"], split_half=True)
    predicted = [each.predicted for each in results.values()]
    rho = np.stack([fold_spearman(y, each, fold).mean() for each in predicted])
    noise, every = [each.noise for each in results.values()], np.ones((1, y.shape[1]), bool)
    draws = mean_draws(
        y, predicted, noise, fold, rho.mean(axis=1)[:, None], every, sites=drawn, **settings["bootstrap"]
    )[:, 0]
    names = [f"{scheme}/{encoder}/{probe}" for encoder, probe in results]
    found = {f"rho/{name}": each for name, each in zip(names, rho, strict=True)}
    for name, each, values in zip(names, rho, draws, strict=True):
        found[f"mean/{name}"] = np.array([each.mean(), *central_interval(values)])
    for a, b in combinations(range(len(names)), 2):
        delta = np.array([rho[a].mean() - rho[b].mean(), *central_interval(draws[a] - draws[b])])
        found[f"difference/{names[a]} - {names[b].partition('/')[2]}"] = delta
    return found
