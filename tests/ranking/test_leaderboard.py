"""The leaderboard and its companions, on studies whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import trials
import yaml

from wsibench import assembly, cohort, regression
from wsibench.core import CHECKOUT, CohortError, NotReady, Study
from wsibench.ranking import leaderboard as ranking, permutation as null
from wsibench.ranking.leaderboard import TABLES, rank, read
from wsibench.regression import fits


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    trials.write_tables(data_root / "trial")
    return data_root / "trial"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One study, ranked, for tests that only look."""
    root = tmp_path_factory.mktemp("ranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(root))
        patch.setenv("WSIBENCH_WORKERS", "0")
        trials.write_tables(root / "trial")
        yield ranked(root / "trial")


def ranked(folder, **sections):
    study = trials.assembled(folder, **sections)
    regression.regress(study)
    rank(study)
    return study


def test_the_better_encoder_leads_and_controls_carry_no_rank(study):
    board = read(study, "leaderboard")
    assert board.columns.tolist() == TABLES["leaderboard"]
    assert board["scheme"].tolist() == ["preserved-site"] * 3 + ["random-patient"] * 3
    assert board["encoder"].tolist() == ["good", "poor", "site"] * 2
    assert board["rank"].fillna(0).tolist() == [1, 2, 0] * 2
    assert board["p_best"].isna().tolist() == [False, False, True] * 2
    numbers = board[["mean_rho", "ci_low", "ci_high", "median_rho"]]
    assert np.isfinite(numbers).all(axis=None)
    assert (board["ci_low"] <= board["mean_rho"]).all()
    assert (board["mean_rho"] <= board["ci_high"]).all()
    assert (board["n_patients"] == 60).all()
    assert (board["study_key"] == study.key).all()
    assert board["tcga"].tolist() == ["unknown", "unknown", "no"] * 2


def test_leaderboard_is_the_mean_of_the_scores(study):
    scores = pd.read_parquet(study.scores_parquet)
    means = scores.groupby(["scheme", "encoder", "probe"])["rho"].agg(["mean", "median", "size"])
    board = read(study, "leaderboard").set_index(["scheme", "encoder", "probe"])
    found = means.loc[board.index]
    np.testing.assert_allclose(found["mean"], board["mean_rho"])
    np.testing.assert_allclose(found["median"], board["median_rho"])
    np.testing.assert_array_equal(found["size"], board["n_genes"])


def test_site_genes_are_read_only_where_sites_are_shared(study):
    groups = read(study, "groups").set_index(["scheme", "encoder", "group"])["mean_rho"]
    assert groups["random-patient", "site", "site"] > 0.5
    assert abs(groups["preserved-site", "site", "site"]) < 0.1
    assert groups["preserved-site", "good", "good"] > 0.4


def test_differences_and_rank_frequencies_agree_with_the_board(study):
    board = read(study, "leaderboard").set_index(["scheme", "encoder"])["mean_rho"]
    differences = read(study, "differences")
    assert differences[["encoder_a", "encoder_b"]].to_numpy().tolist() == [["good", "poor"]] * 2
    for row in differences.itertuples():
        assert row.delta == pytest.approx(board[row.scheme, "good"] - board[row.scheme, "poor"])
        assert 0 < row.ci_low < row.delta < row.ci_high
        assert row.p == row.p_holm < 0.05
        assert row.p_corrected_t < 0.2
        assert row.p_a_better > 0.9
        assert row.p_a_better + row.p_equal + row.p_b_better == pytest.approx(1)
    frequencies = read(study, "rank_frequencies")
    assert frequencies.groupby(["scheme", "encoder"])["frequency"].sum().tolist() == pytest.approx([1] * 4)
    assert "site" not in set(frequencies["encoder"])


def test_permuted_pairing_keeps_what_a_site_is_worth_and_nothing_else(study):
    table = read(study, "null")
    table = table[table["kind"] == "within-site"].set_index(["scheme", "encoder", "group"])
    assert (table["permutations"] == 12).all()
    assert (table["q025"] <= table["mean"]).all()
    assert (table["mean"] <= table["q975"]).all()
    assert abs(table.loc[("preserved-site", "good", "good"), "mean"]) < 0.15
    assert table.loc[("random-patient", "site", "site"), "mean"] > 0.5
    assert set(table.index.get_level_values("group")) == {"", "good", "site", "null"}


def test_shuffled_over_all_patients_not_even_the_site_is_left(study):
    table = read(study, "null").set_index(["kind", "scheme", "encoder", "group"])
    free = table.loc["free"]
    assert (free["permutations"] == 8).all()
    assert (free["mean"].abs() < 0.1).all()
    assert free.loc[("random-patient", "site", "site"), "q975"] < 0.2
    significant = read(study, "measures").set_index(["scheme", "encoder"])["permutations"]
    assert (significant == 12).all(), "significance stands on the shuffles within sites"


def test_without_free_permutations_there_is_no_such_null(folder):
    study = ranked(folder, ranking={"bootstrap": 100, "permutations": {"ridge": 4}})
    assert set(read(study, "null")["kind"]) == {"within-site"}


def test_the_null_is_that_of_the_same_shuffles_fitted_one_by_one(folder, monkeypatch):
    study = trials.assembled(folder)
    regression.regress(study)
    null.permute(study)
    together = null.read_null(study, fits(study)[0])
    null.artefact(study, fits(study)[0]).path.unlink()
    monkeypatch.setattr(null, "COLUMNS", 1)
    null.permute(study)
    np.testing.assert_allclose(null.read_null(study, fits(study)[0]), together, atol=0.02)


def test_nothing_is_due_after_a_run_and_the_ranking_alone_after_another_rope(folder):
    study = ranked(folder)
    assert not any(artefact.due() for artefact in ranking.expected(study))
    board = study.leaderboard_csv.read_bytes()
    rank(study)
    study.leaderboard_csv.unlink()
    rank(study)
    assert study.leaderboard_csv.read_bytes() == board
    study = trials.load(folder, ranking={**trials.RANKING, "rope": 0.05})
    due = {artefact.path.name for artefact in ranking.expected(study) if artefact.due()}
    assert due == {"scores.parquet", *(f"{table}.csv" for table in TABLES)}


def test_gene_constant_in_a_fold_is_left_out_for_all_and_listed(folder):
    import anndata

    adata = anndata.read_h5ad(folder / "rna.h5ad")
    adata.X[1:, 3] = 0
    adata.write_h5ad(folder / "rna.h5ad")
    study = ranked(folder, ranking={"bootstrap": 100, "permutations": {"ridge": 2}})
    assert read(study, "excluded_genes")["gene"].tolist() == ["G3"] * 2
    assert (read(study, "leaderboard")["n_genes"] == 35).all()
    assert "G3" not in set(pd.read_parquet(study.scores_parquet)["gene"])


def test_features_that_say_nothing_score_zero_and_are_counted(folder):
    rows = pd.read_csv(folder / "poor.csv")
    # Varies for one patient only: in the fold that holds this patient out, training sees a constant.
    rows[rows.columns[1:]] = 0.0
    rows.iloc[0, 1:] = 1.0
    rows.to_csv(folder / "poor.csv", index=False)
    board = read(ranked(folder), "leaderboard").set_index(["scheme", "encoder"])
    for scheme in ("preserved-site", "random-patient"):
        assert board.loc[(scheme, "poor"), "n_undefined"] == 36
        assert abs(board.loc[(scheme, "poor"), "mean_rho"]) < 0.05
        assert board.loc[(scheme, "good"), "n_undefined"] == 0


def test_one_gene_and_one_encoder(folder):
    study = ranked(
        folder,
        features={"good": {"table": "good.csv"}},
        controls=[],
        expression={"genes": ["G0"]},
        ranking={"bootstrap": 100},
    )
    board = read(study, "leaderboard")
    assert board["rank"].tolist() == [1, 1]
    assert board["p_best"].tolist() == [1, 1]
    assert (board["n_genes"] == 1).all()
    assert np.isfinite(board[["mean_rho", "ci_low", "ci_high", "median_rho"]]).all(axis=None)
    assert len(read(study, "differences")) == 0


def test_controls_alone_give_a_board_without_ranks(folder):
    board = read(ranked(folder, features={}, controls=["site"]), "leaderboard")
    assert board["rank"].isna().all()
    assert np.isfinite(board["mean_rho"]).all()


def test_thirteen_patients_still_give_numbers(data_root):
    trials.write_tables(data_root / "few", n=13, sites=4)
    board = read(ranked(data_root / "few", ranking={"bootstrap": 100, "permutations": {}}), "leaderboard")
    assert np.isfinite(board[["mean_rho", "ci_low", "ci_high", "median_rho"]]).all(axis=None)


def test_folds_of_three_patients_are_one_clear_error(data_root):
    trials.write_tables(data_root / "few", n=9, sites=3)
    with pytest.raises(CohortError, match="no fold has more than 3 of the 9 patients"):
        ranked(data_root / "few")


def test_without_targets_their_table_is_empty(study):
    assert read(study, "targets").columns.tolist() == TABLES["targets"]
    assert len(read(study, "targets")) == 0
    assert not (study.root / "targets").exists()


def test_group_named_null_is_text(study):
    assert set(read(study, "groups")["group"]) == {"good", "site", "null"}


def test_before_the_predictions_there_is_nothing_to_rank(folder):
    with pytest.raises(NotReady):
        rank(trials.assembled(folder))


def test_other_measures_stand_beside_and_agree_with_the_board(study):
    table = read(study, "measures")
    board = read(study, "leaderboard").set_index(["scheme", "encoder"])["mean_rho"]
    for row in table.itertuples():
        assert row.mean_rho == pytest.approx(board[row.scheme, row.encoder])
    by_encoder = table.set_index(["scheme", "encoder"])
    assert by_encoder.loc[("random-patient", "good"), "pearson"] > 0.1
    assert by_encoder["rmse"].gt(0).all()
    assert (table["permutations"] == 12).all()
    np.testing.assert_allclose(table["resolution"], 1 / (12 * 36 + 1))
    assert pd.read_parquet(study.scores_parquet)["p"].min() >= table["resolution"].min()


def test_planted_genes_are_significant_and_noise_is_not(study):
    scores = pd.read_parquet(study.scores_parquet)
    part = scores[(scores["encoder"] == "good") & (scores["scheme"] == "preserved-site")].groupby("group")["q"]
    share = part.apply(lambda q: (q < 0.05).mean())
    assert share["good"] > 0.6
    assert share["null"] < 0.2


def test_rank_without_exposed_encoders(folder):
    tables = {
        "good": {"table": "good.csv", "tcga": "yes"},
        "poor": {"table": "poor.csv"},
        "noise": {"table": "noise.csv"},
    }
    study = ranked(folder, features=tables, ranking={"bootstrap": 100, "permutations": {}})
    table = read(study, "exposure").set_index(["scheme", "encoder"]).loc["preserved-site"]
    assert table["rank"].to_dict() == {"good": 1, "poor": 2, "noise": 3}
    assert table["rank_unexposed"].fillna(0).to_dict() == {"good": 0, "poor": 1, "noise": 2}
    assert table["p_best_unexposed"].sum() == pytest.approx(1)


def test_adjusted_for_subtype_and_purity_where_they_are_known(folder):
    patients = pd.read_csv(folder / "patients.csv")
    patients["subtype"] = np.where(np.arange(60) % 2, "A", "B")
    patients.to_csv(folder / "patients.csv", index=False)
    purity = pd.DataFrame({"patient_id": patients["patient_id"], "purity": np.linspace(0.2, 0.9, 60)})
    purity.iloc[:40].to_csv(folder / "purity.csv", index=False)
    given = {"covariates": "purity.csv", "given": ["purity"]}
    table = read(ranked(folder, ranking={"bootstrap": 100, "permutations": {}, **given}), "adjusted")
    assert {"within subtype", "given subtype", "given purity", "without 1 PC"} <= set(table["adjustment"])
    assert (table.loc[table["adjustment"] == "given purity", "n_patients"] == 40).all()
    assert np.isfinite(table[["mean_rho", "median_rho", "unadjusted_rho"]]).all(axis=None)
    table = table.set_index(["adjustment", "encoder", "scheme"]).sort_index()
    assert table.loc[("given subtype", "good"), "mean_rho"].min() > 0.1
    # An alternation that means nothing takes nothing away.
    for name in ("within subtype", "given subtype"):
        row = table.loc[(name, "good", "preserved-site")]
        assert row["mean_rho"] == pytest.approx(row["unadjusted_rho"], abs=0.05)


def test_without_an_adjustment_adjusted_is_the_board(study):
    table = read(study, "adjusted")
    board = read(study, "leaderboard").set_index(["scheme", "encoder"])
    assert not table["adjustment"].str.contains("subtype").any(), "no subtypes are known"
    for row in table[table["adjustment"] == "none"].itertuples():
        assert row.mean_rho == row.unadjusted_rho == pytest.approx(board.loc[(row.scheme, row.encoder), "mean_rho"])


def test_another_cohort_and_other_features_need_another_study_yaml_and_no_code(data_root):
    """The tracked study of 884 patients, 1558 genes and 607 features, pointed at 80, 5 and 13."""
    folder, z = data_root / "own", trials.latent(80)
    folder.mkdir()
    rng, ids = np.random.default_rng(7), pd.Index([f"case {i}" for i in range(80)], name="patient_id")
    patients = {"site": [f"H{i % 9}" for i in range(80)], "grade": [f"G{i % 3 + 1}" for i in range(80)]}
    pd.DataFrame(patients, ids).to_csv(folder / "patients.csv")
    genes = pd.DataFrame(z @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(80, 5)), ids, list("ABCDE"))
    genes.assign(E=rng.normal(size=80)).to_csv(folder / "rna.csv")
    features = z @ rng.normal(size=(3, 13)) + 0.3 * rng.normal(size=(80, 13))
    pd.DataFrame(features, ids).to_csv(folder / "features.csv")
    content = yaml.safe_load((CHECKOUT / "data" / "tcga-brca-hif" / "study.yaml").read_text())
    content["cohort"] |= {"patients": "patients.csv", "expression": "rna.csv", "columns": {"subtype": "grade"}}
    content["features"] = {"mine": {"table": "features.csv"}}
    content["targets"] = {"grade": {"column": "subtype"}, "score": {"genes": ["A", "B"]}}
    content["ranking"] |= {"gene_sets": {"read": ["A", "B"]}, "bootstrap": 200, "permutations": {"ridge": 4}}
    content["probes"], content["folds"]["repeats"] = ["ridge", "pca-ridge"], 2
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    study = Study.load("own")
    cohort.build(study)
    assembly.assemble(study)
    regression.regress(study)
    board = rank(study)
    competing = board[board["encoder"] == "mine"]
    assert sorted(competing["probe"]) == ["pca-ridge"] * 2 + ["ridge"] * 2
    assert (competing[["n_patients", "n_genes"]] == [80, 5]).all(axis=None)
    assert (competing["mean_rho"] > 0.5).all()
    assert (board.loc[board["encoder"] != "mine", "mean_rho"].abs() < 0.2).all()
    scores = pd.read_parquet(study.scores_parquet).query("encoder == 'mine'")
    assert (scores.groupby("gene")["rho"].max() > 0.5).to_dict() == dict.fromkeys("ABCD", True) | {"E": False}
