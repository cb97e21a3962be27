"""Variation of the score over splits into folds and over seeds of a network."""

import numpy as np
import trials

from wsibench.ranking import rank, read
from wsibench.regression import regress


def test_splits_vary_and_ridge_has_no_seeds(folder):
    folds, settings = {"n": 3, "seed": 5, "repeats": 3}, {"bootstrap": 100, "permutations": {}}
    study = trials.ranked(folder, folds=folds, ranking=settings)
    board, spread = read(study, "leaderboard"), read(study, "spread")
    both = spread.merge(board, on=["scheme", "encoder", "probe"], suffixes=("", "_board"))
    assert len(both) == len(board)
    encoders, controls = both[~both["control"]], both[both["control"]]
    assert (encoders["n_splits"] == 3).all()
    assert (controls["n_splits"] == 1).all()
    np.testing.assert_allclose(controls["mean_rho"], controls["mean_rho_board"], atol=1e-6)
    assert encoders["sd_splits"].between(1e-4, 0.1).all()
    assert encoders["sd_patients"].gt(0).all()
    assert (encoders["mean_rho"] - encoders["mean_rho_board"]).abs().max() < 0.1
    assert (spread["n_seeds"] == 1).all()
    assert spread["sd_seeds"].isna().all()


def test_seeds_of_a_network_are_scored_one_by_one(folder):
    study = trials.with_tiles(
        folder,
        encoders=["colour"],
        controls=[],
        probes=["abmil"],
        folds={"n": 2, "schemes": ["random-patient"]},
        abmil={"seeds": 2, "epochs": 4},
        ranking={"bootstrap": 100, "permutations": {}},
    )
    regress(study)
    rank(study)
    spread = read(study, "spread")
    assert spread["n_seeds"].tolist() == [2]
    assert np.isfinite(spread["sd_seeds"]).all()
    assert spread["sd_splits"].isna().all()
