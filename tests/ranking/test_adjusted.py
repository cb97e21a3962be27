"""What is left of ρ without subtype, purity, immune score and dominating axes, where the truth is planted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import trials
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from wsibench.core import CohortError, StudyError
from wsibench.ranking import adjusted
from wsibench.ranking.fusion import Fusion
from wsibench.ranking.gene_sets import GeneSet
from wsibench.ranking.predictions import Arm
from wsibench.regression import fold_spearman

N, FOLDS = 300, 5
FOLLOWERS, OWN, SILENT = 150, 20, 20
"""Genes that follow the cohort's axis, genes with a signal of their own, and genes that are not predicted."""


@pytest.fixture
def folder(data_root):
    folder = data_root / "trial"
    folder.mkdir()
    return folder


def planted(folder, axis: np.ndarray, *, subtypes: np.ndarray | None = None, **ranking) -> Arm:
    """An arm of one encoder that reads the axis and the own genes' own signals, each with noise."""
    rng = np.random.default_rng(1)
    study = trials.load(folder, ranking=ranking)
    genes = FOLLOWERS + OWN + SILENT
    measured, predicted = rng.normal(size=(2, N, genes)).astype(np.float32)
    follows = slice(0, FOLLOWERS)
    measured[:, follows] += axis[:, None]
    # What a picture tells of the axis is the same for every gene that follows it.
    predicted[:, follows] = (axis + 0.5 * rng.normal(size=N))[:, None] + 0.3 * predicted[:, follows]
    own = slice(FOLLOWERS, FOLLOWERS + OWN)
    predicted[:, own] += measured[:, own]
    return Arm(
        study=study,
        scheme="random-patient",
        jobs=[Fusion(study, "random-patient", "ridge", (), "good")],
        ranked=np.array([True]),
        patients=np.array([f"P{i:03d}" for i in range(N)]),
        measured=measured,
        predicted=[predicted],
        noise=[np.zeros_like(predicted)],
        by_split=[np.zeros((genes, 1))],
        by_seed=[None],
        fold=np.arange(N) % FOLDS,
        sites=np.full(N, "S"),
        subtypes=np.full(N, "") if subtypes is None else subtypes,
        genes=pd.DataFrame(index=[f"G{i}" for i in range(genes)]),
        excluded=pd.Series(dtype=str),
    )


def plain(arm: Arm) -> np.ndarray:
    """ρ without an adjustment, (encoders, genes)."""
    return np.stack([fold_spearman(arm.measured, each, arm.fold).mean() for each in arm.predicted])


def left(arm: Arm, sets: list[GeneSet] | None = None) -> dict[str, dict[str, float]]:
    """Mean ρ after each adjustment, by kind of gene."""
    kinds = {"follower": slice(0, FOLLOWERS), "own": slice(FOLLOWERS, -SILENT), "silent": slice(-SILENT, None)}
    adjustments = adjusted.adjustments(arm, sets or [])
    rho = {"none": plain(arm)[0]} | {each.name: np.where(each.genes, each.rho[0], np.nan) for each in adjustments}
    return {name: {kind: np.nanmean(each[part]) for kind, part in kinds.items()} for name, each in rho.items()}


def test_a_gene_that_follows_the_first_component_loses_and_one_of_its_own_keeps(folder):
    rho = left(planted(folder, np.random.default_rng(0).normal(size=N)))
    assert set(rho) == {"none", "without 1 PC", "without 3 PCs", "without 5 PCs", "without 10 PCs"}
    assert rho["none"]["follower"] > 0.5
    for name in ("without 1 PC", "without 3 PCs"):
        assert abs(rho[name]["follower"]) < 0.03
        assert rho[name]["own"] > 0.9 * rho["none"]["own"] > 0.5
    assert all(abs(each["silent"]) < 0.05 for each in rho.values())


def test_misreading_the_axis_is_not_misreading_what_a_gene_has_of_its_own(folder):
    rng = np.random.default_rng(3)
    axis = rng.normal(size=N)
    arm = planted(folder, axis)
    own = rng.normal(size=(N, 190))
    measured = (axis[:, None] + own).astype(np.float32)
    reads = own + rng.normal(size=own.shape)
    errors = rng.normal(size=N)[:, None]
    sharp, blunt = (((axis[:, None] + error * errors) + reads).astype(np.float32) for error in (0.2, 2.0))
    arm = replace(arm, measured=measured, predicted=[sharp, blunt], jobs=arm.jobs * 2)
    none, found = plain(arm).mean(axis=1), {each.name: each.rho.mean(axis=1) for each in adjusted.adjustments(arm, [])}
    assert none[0] > none[1] + 0.2
    assert found["without 1 PC"] == pytest.approx(np.full(2, 0.69), abs=0.02)  # r = 1 / √2 of normal values


def test_a_gene_driven_by_subtype_alone_is_gone_given_subtype(folder):
    subtype = np.random.default_rng(0).integers(3, size=N)
    names = np.array(["Basal", "LumA", "Her2"])[subtype]
    names[::10] = ""
    arm = planted(folder, np.array([-1.5, 0.0, 1.5])[subtype], subtypes=names)
    rho = left(arm)
    assert rho["none"]["follower"] > 0.5
    for name in ("within subtype", "given subtype"):
        assert abs(rho[name]["follower"]) < 0.05
        assert rho[name]["own"] > 0.5
    table = adjusted.table(arm, plain(arm), []).set_index("adjustment")
    assert table.loc["given subtype", "n_patients"] == 270
    assert table.loc["none", "n_patients"] == 300
    assert table.loc["given subtype", "unadjusted_rho"] != table.loc["none", "mean_rho"]
    assert table.loc["given subtype", "unadjusted_rho"] == pytest.approx(table.loc["none", "mean_rho"], abs=0.02)
    assert table.loc["given subtype", "mean_rho"] < 0.3 * table.loc["given subtype", "unadjusted_rho"]


def test_given_the_immune_score_its_followers_lose_and_its_own_genes_are_not_counted(folder):
    arm = planted(folder, np.random.default_rng(0).normal(size=N))
    members = np.arange(len(arm.genes)) < 30
    immune = GeneSet("immune", members, 0)
    rho = left(arm, [GeneSet("other", members, 0), immune])
    assert abs(rho["given immune"]["follower"]) < 0.1
    assert rho["given immune"]["own"] > 0.5
    table = adjusted.table(arm, plain(arm), [immune]).set_index("adjustment")
    assert table.loc["given immune", "n_genes"] == 160
    assert table.loc["none", "n_genes"] == 190
    assert "given immune" not in left(arm, [GeneSet("immune", np.arange(190) < 4, 0)]), "four genes are no score"


def test_columns_of_a_table_are_taken_out_one_at_a_time(folder):
    axis = np.random.default_rng(0).normal(size=N)
    # Purity falls with the axis, though not linearly; ploidy has nothing to do with it.
    table = pd.DataFrame({"patient_id": [f"P{i:03d}" for i in range(N)][::-1]})
    table["purity"] = (1 / (1 + np.exp(2 * axis)))[::-1].round(6).astype(str)
    table["ploidy"] = np.random.default_rng(2).uniform(2, 4, N)
    table.loc[:29, "purity"] = "NA"
    table.to_csv(folder / "purity.csv", index=False)
    rho = left(planted(folder, axis, covariates="purity.csv", given=["purity", "ploidy"]))
    assert abs(rho["given purity"]["follower"]) < 0.05
    assert rho["given purity"]["own"] > 0.5
    assert rho["given ploidy"]["follower"] == pytest.approx(rho["none"]["follower"], abs=0.02)


def test_no_held_out_patient_turns_the_components_of_its_own_fold(folder):
    arm = planted(folder, np.random.default_rng(0).normal(size=N))
    disturbed = arm.measured.copy()
    disturbed[0] += 50 * np.random.default_rng(5).normal(size=190)
    own, *others = adjusted.components(arm.measured, arm.fold, 3)
    own_disturbed, *others_disturbed = adjusted.components(disturbed, arm.fold, 3)
    np.testing.assert_allclose(own_disturbed.directions, own.directions)
    np.testing.assert_allclose(own_disturbed.scores[1:], own.scores[1:], rtol=1e-5, atol=1e-5)
    for one, other in zip(others, others_disturbed, strict=True):
        assert not np.allclose(np.abs(one.directions), np.abs(other.directions), atol=0.05)


def test_scores_are_those_of_a_pca_of_the_other_folds(folder, monkeypatch):
    arm = planted(folder, np.random.default_rng(0).normal(size=N))
    monkeypatch.setattr(adjusted, "GENE_BATCH", 64)
    for axes in adjusted.components(arm.measured, arm.fold, 3):
        train, held = arm.measured[~axes.held], arm.measured[axes.held]
        scaler = StandardScaler().fit(train)
        pca = PCA(3, svd_solver="full").fit(scaler.transform(train))
        expected = pca.transform(scaler.transform(held))
        np.testing.assert_allclose(np.abs(axes.scores), np.abs(expected), rtol=0.01, atol=0.01)
        np.testing.assert_allclose(np.abs(axes.directions), np.abs(pca.components_.T), rtol=0.01, atol=0.01)


def test_genes_that_are_copies_have_no_more_axes_than_there_are(folder):
    measured = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)[:, np.arange(12) % 2]
    for axes in adjusted.components(measured, np.arange(N) % FOLDS, 4):
        norm = np.linalg.norm(axes.directions, axis=0)
        np.testing.assert_allclose(norm, [1, 1, 0, 0], atol=1e-4)
        assert np.isfinite(axes.scores).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no table .*purity.csv"),
        ("patient_id,ploidy\nP000,2\n", r"no column 'purity': it has patient_id, ploidy"),
        ("patient_id,purity\nP000,.5\nP000,.6\n", "more than one row of patient P000"),
        ("patient_id,purity\nP000,high\n", r"'purity' is not numeric: 'high' for patient P000"),
        ("patient_id,purity\nP000,inf\n", r"'purity' is not numeric: 'inf'"),
        ("patient_id,purity\nQ1,.5\nP000,NA\n", "no number for any of the study's patients"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_error(folder, text, message):
    if text is not None:
        (folder / "purity.csv").write_text(text)
    study = trials.load(folder, ranking={"covariates": "purity.csv", "given": ["purity"]})
    with pytest.raises(CohortError, match=message):
        adjusted.read_covariates(study, np.array(["P000", "P001"]))


def test_a_table_and_its_columns_are_given_together_and_the_tables_content_counts(folder):
    for ranking in ({"given": ["purity"]}, {"covariates": "purity.csv"}):
        with pytest.raises(StudyError, match="give both or neither"):
            trials.load(folder, ranking=ranking)
    with pytest.raises(StudyError, match="immune is given from the study's own data"):
        trials.load(folder, ranking={"covariates": "purity.csv", "given": ["immune"]})
    study = trials.load(folder, ranking={"covariates": "purity.csv", "given": ["purity"]})
    (folder / "purity.csv").write_text("patient_id,purity\nP000,.5\n")
    before = adjusted.identities(study)
    (folder / "purity.csv").write_text("patient_id,purity\nP000,.6\n")
    assert adjusted.identities(study) != before
