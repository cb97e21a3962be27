"""The mean of several encoders' predictions as a further competitor."""

import numpy as np
import pandas as pd
import pytest
import trials

from wsibench.core import StudyError
from wsibench.ranking import expected, read


def test_encoders_of_complementary_features_are_better_together(folder):
    z, rng = trials.latent(60), np.random.default_rng(5)
    ids = pd.Index([f"P{i:03d}" for i in range(60)], name="patient_id")
    for name, columns in (("first", [0]), ("others", [1, 2])):
        x = z[:, columns] @ rng.normal(size=(len(columns), 6)) + 0.5 * rng.normal(size=(60, 6))
        pd.DataFrame(x, ids).to_csv(folder / f"{name}.csv")
    tables = {"first": {"table": "first.csv", "tcga": "no"}, "others": {"table": "others.csv"}}
    permuted = {"bootstrap": 100, "permutations": {"ridge": 4}}
    study = trials.ranked(folder, features=tables, fusion=["first", "others"], ranking=permuted)
    groups = read(study, "groups").query("group == 'good'").set_index(["scheme", "encoder"])["mean_rho"]
    board = read(study, "leaderboard").set_index(["scheme", "encoder"])
    for scheme in study.folds.schemes:
        assert groups[scheme, "fusion"] > max(groups[scheme, "first"], groups[scheme, "others"]) + 0.05
        assert board.loc[(scheme, "fusion"), "rank"] == 1
        assert board.loc[(scheme, "fusion"), "tcga"] == "unknown"
    permutations = read(study, "measures").set_index("encoder")["permutations"]
    assert (permutations["fusion"] == 0).all()
    assert (permutations["first"] == 4).all()
    fused = [study.predictions_h5ad(scheme, "fusion", "ridge") for scheme in study.folds.schemes]
    study = trials.assembled(folder, features=tables | {"good": {"table": "good.csv"}}, fusion=["first", "others"])
    assert not any(artefact.due() for artefact in expected(study) if artefact.path in fused)
    study = trials.assembled(folder, features=tables | {"good": {"table": "good.csv"}}, fusion=["first", "good"])
    assert all(artefact.due() for artefact in expected(study) if artefact.path in fused)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        (["good"], "at least two"),
        (["good", "good"], "at least two"),
        (["good", "pooor"], "pooor"),
        (["good", "site"], "site"),
    ],
)
def test_a_fusion_that_cannot_be_made_is_refused_by_name(folder, fusion, message):
    with pytest.raises(StudyError, match=f"fusion.*{message}"):
        trials.load(folder, fusion=fusion)


def test_the_name_of_the_fusion_is_reserved(folder):
    with pytest.raises(StudyError, match="fusion"):
        trials.load(folder, features={"fusion": {"table": "good.csv"}})
