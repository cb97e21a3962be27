"""Fusion of encoders: the mean of predictions, what it is worth, and how it is ranked."""

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.core import StudyError
from wsibench.ranking import fusion, leaderboard as ranking
from wsibench.regression import read_predictions, regress


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    """The trial, with features that each hold one of two latents, and with a third that hold neither."""
    folder = data_root / "trial"
    trials.write_tables(folder)
    z, rng = trials.latent(60), np.random.default_rng(5)
    ids = pd.Index([f"P{i:03d}" for i in range(60)], name="patient_id")
    for name, columns in (("first", [0]), ("others", [1, 2]), ("neither", [])):
        x = z[:, columns] @ rng.normal(size=(len(columns), 6)) + 0.5 * rng.normal(size=(60, 6))
        pd.DataFrame(x, ids).to_csv(folder / f"{name}.csv")
    return folder


def tables(*names, **exposure):
    return {name: {"table": f"{name}.csv", "tcga": exposure.get(name, "no")} for name in names}


def fused(folder, **sections):
    study = trials.assembled(folder, ranking={"bootstrap": 100, "permutations": {"ridge": 4}}, **sections)
    regress(study)
    ranking.rank(study)
    return study


def test_encoders_that_see_different_things_are_better_together(folder):
    study = fused(folder, features=tables("first", "others", others="unknown"), fusion=["first", "others"])
    groups = ranking.read(study, "groups")
    good = groups[groups["group"] == "good"].set_index(["scheme", "encoder"])["mean_rho"]
    board = ranking.read(study, "leaderboard").set_index(["scheme", "encoder"])
    for scheme in study.folds.schemes:
        parts = [read_predictions(study.predictions_h5ad(scheme, name, "ridge")) for name in ("first", "others")]
        adata = read_predictions(fusion.fusions(study)[study.folds.schemes.index(scheme)].predictions.path)
        np.testing.assert_allclose(adata.X, (parts[0].X + parts[1].X) / 2, rtol=1e-5)
        assert (adata.obs["fold"] == parts[0].obs["fold"]).all()
        assert good[scheme, "fusion"] > max(good[scheme, "first"], good[scheme, "others"]) + 0.05
        assert board.loc[(scheme, "fusion"), "rank"] == 1
        assert board.loc[(scheme, "fusion"), "tcga"] == "unknown"
    measured = ranking.read(study, "measures").set_index("encoder")["permutations"]
    assert (measured["fusion"] == 0).all()
    assert (measured["first"] == 4).all()


def test_an_encoder_of_noise_does_not_spoil_it(folder):
    study = fused(folder, features=tables("good", "neither", neither="yes"), fusion="all")
    groups = ranking.read(study, "groups")
    good = groups[groups["group"] == "good"].set_index(["scheme", "encoder"])["mean_rho"]
    for scheme in study.folds.schemes:
        assert good[scheme, "good"] > 0.4
        assert good[scheme, "fusion"] > 0.8 * good[scheme, "good"]
    board = ranking.read(study, "leaderboard").set_index("encoder")
    assert (board.loc["fusion", "tcga"] == "yes").all()


def test_only_a_change_of_its_members_makes_it_due(folder):
    study = fused(folder, features=tables("good", "poor"), fusion=["good", "poor"])
    assert not any(artefact.due() for artefact in ranking.expected(study))
    study = trials.assembled(folder, features=tables("good", "poor", "first"), fusion=["good", "poor"])
    assert not any(artefact.due() for artefact in fusion.expected(study))
    study = trials.assembled(folder, features=tables("good", "poor", "first"), fusion=["good", "first"])
    assert all(artefact.due() for artefact in fusion.expected(study))


def test_nothing_is_fused_unless_asked(folder):
    assert fusion.fusions(trials.assembled(folder)) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["good"], "at least two"),
        (["good", "good"], "at least two"),
        (["good", "pooor"], "pooor"),
        (["good", "site"], "site"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name(folder, asked, said):
    with pytest.raises(StudyError, match=f"fusion.*{said}"):
        trials.load(folder, fusion=asked)


def test_the_name_is_taken(folder):
    with pytest.raises(StudyError, match="fusion"):
        trials.load(folder, features={"fusion": {"table": "good.csv"}})
