"""What moves a score, told apart: patients, splits and seeds."""

import numpy as np
import pytest
import trials

from wsibench import regression
from wsibench.ranking import leaderboard as ranking


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


def ranked(folder, load, **sections):
    study = load(folder, ranking={"bootstrap": 100, "permutations": {}}, **sections)
    regression.regress(study)
    return ranking.rank(study), ranking.read(study, "spread")


def test_splits_vary_and_ridge_has_no_seeds(data_root):
    trials.write_tables(data_root / "trial")
    board, spread = ranked(data_root / "trial", trials.assembled, folds={"n": 3, "seed": 2, "repeats": 3})
    keys = ["scheme", "encoder", "probe"]
    both = spread.merge(board, on=keys, suffixes=("", "_board"))
    assert len(both) == len(board)
    encoders = both[both["encoder"] != "site"]
    assert (encoders["n_splits"] == 3).all()
    controls = both[both["encoder"] == "site"]
    assert (controls["n_splits"] == 1).all()
    np.testing.assert_allclose(controls["mean_rho"], controls["mean_rho_board"], atol=1e-6)
    assert encoders["sd_splits"].between(1e-4, 0.1).all()
    assert encoders["sd_patients"].gt(0).all()
    assert (encoders["mean_rho"] - encoders["mean_rho_board"]).abs().max() < 0.1
    assert (spread["n_seeds"] == 1).all()
    assert spread["sd_seeds"].isna().all()


def test_seeds_of_a_network_are_scored_one_by_one(data_root):
    trials.write_tables(data_root / "trial")
    sections = {
        "encoders": ["colour"],
        "controls": [],
        "probes": ["abmil"],
        "folds": {"n": 2, "schemes": ["random-patient"]},
    }
    _, spread = ranked(data_root / "trial", trials.with_tiles, abmil={"seeds": 2, "epochs": 4}, **sections)
    assert spread["n_seeds"].tolist() == [2]
    assert np.isfinite(spread["sd_seeds"]).all()
    assert spread["sd_splits"].isna().all()
