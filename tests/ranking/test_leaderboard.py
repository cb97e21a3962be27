"""The leaderboard and the tables beside it, on studies whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import trials
import yaml

from wsibench.core import CHECKOUT, CohortError, NotReady, Study
from wsibench.ranking import expected, headline, predictions, rank, read, read_null
from wsibench.ranking.caveats import describe_best
from wsibench.ranking.tables import TABLES
from wsibench.regression import fits, regress

COLUMNS = [
    "rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best", "n_patients",
    "n_genes", "n_undefined", "tcga", "study_key", "n_sites", "control",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One study, ranked, for tests that only look."""
    root = tmp_path_factory.mktemp("ranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(root))
        patch.setenv("WSIBENCH_WORKERS", "0")
        trials.write_tables(root / "trial")
        yield trials.ranked(root / "trial")


def test_the_better_encoder_leads_and_controls_carry_no_rank(study):
    board = read(study, "leaderboard")
    assert board.columns.tolist() == COLUMNS
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


def test_site_genes_are_predicted_only_where_sites_are_shared(study):
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
    frequencies = read(study, "rank_frequencies")
    assert frequencies.groupby(["scheme", "encoder"])["frequency"].sum().tolist() == pytest.approx([1] * 4)
    assert "site" not in set(frequencies["encoder"])


def test_permutation_within_sites_keeps_the_score_of_the_site_and_nothing_else(study):
    table = read(study, "null")
    table = table[table["kind"] == "within-site"].set_index(["scheme", "encoder", "group"])
    assert (table["permutations"] == 12).all()
    assert (table["q025"] <= table["mean"]).all()
    assert (table["mean"] <= table["q975"]).all()
    assert abs(table.loc[("preserved-site", "good", "good"), "mean"]) < 0.15
    assert table.loc[("random-patient", "site", "site"), "mean"] > 0.5
    assert set(table.index.get_level_values("group")) == {"", "good", "site", "null"}


def test_free_permutation_leaves_no_score_to_the_site(study):
    table = read(study, "null").set_index(["kind", "scheme", "encoder", "group"])
    free = table.loc["free"]
    assert (free["permutations"] == 8).all()
    assert (free["mean"].abs() < 0.1).all()
    assert free.loc[("random-patient", "site", "site"), "q975"] < 0.2
    significant = read(study, "measures").set_index(["scheme", "encoder"])["permutations"]
    assert (significant == 12).all(), "significance is measured against permutation within sites"


def test_without_free_permutations_there_is_no_such_null(folder):
    study = trials.ranked(folder, ranking={"bootstrap": 100, "permutations": {"ridge": 4}})
    assert set(read(study, "null")["kind"]) == {"within-site"}


def test_permutations_fitted_together_are_those_fitted_one_by_one(folder, monkeypatch):
    study = trials.ranked(folder)
    fit = fits(study)[0]
    together = read_null(study, fit)
    study.null_parquet(fit.scheme, fit.encoder, fit.probe).unlink()
    monkeypatch.setattr(predictions, "MAX_COLUMNS", 1)
    rank(study)
    np.testing.assert_allclose(read_null(study, fit), together, atol=0.02)


def test_nothing_is_due_after_a_run_and_the_ranking_alone_after_another_rope(folder):
    study = trials.ranked(folder)
    assert not any(artefact.due() for artefact in expected(study))
    board = study.leaderboard_csv.read_bytes()
    rank(study)
    study.leaderboard_csv.unlink()
    rank(study)
    assert study.leaderboard_csv.read_bytes() == board
    study = trials.load(folder, ranking={**trials.RANKING, "rope": 0.05})
    due = {artefact.path.name for artefact in expected(study) if artefact.due()}
    assert due == {"scores.parquet", "sites.csv", "warnings.csv", *(f"{table}.csv" for table in TABLES)}


def test_gene_constant_in_a_fold_is_left_out_for_all_and_listed(folder):
    import anndata

    adata = anndata.read_h5ad(folder / "rna.h5ad")
    adata.X[1:, 3] = 0
    adata.write_h5ad(folder / "rna.h5ad")
    study = trials.ranked(folder, ranking={"bootstrap": 100, "permutations": {"ridge": 2}})
    assert read(study, "excluded_genes")["gene"].tolist() == ["G3"] * 2
    assert (read(study, "leaderboard")["n_genes"] == 35).all()
    assert "G3" not in set(pd.read_parquet(study.scores_parquet)["gene"])


def test_constant_predictions_score_zero_and_are_counted(folder):
    rows = pd.read_csv(folder / "poor.csv")
    # Varies for one patient only: in the fold that holds this patient out, training sees a constant.
    rows[rows.columns[1:]] = 0.0
    rows.iloc[0, 1:] = 1.0
    rows.to_csv(folder / "poor.csv", index=False)
    board = read(trials.ranked(folder), "leaderboard").set_index(["scheme", "encoder"])
    for scheme in ("preserved-site", "random-patient"):
        assert board.loc[(scheme, "poor"), "n_undefined"] == 36
        assert abs(board.loc[(scheme, "poor"), "mean_rho"]) < 0.05
        assert board.loc[(scheme, "good"), "n_undefined"] == 0


def test_one_gene_and_one_encoder(folder):
    study = trials.ranked(
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
    board = read(trials.ranked(folder, features={}, controls=["site"]), "leaderboard")
    assert board["rank"].isna().all()
    assert np.isfinite(board["mean_rho"]).all()


def test_few_sites_give_scores_but_no_ranking(data_root):
    trials.write_tables(data_root / "few", n=30, sites=5)
    study = trials.ranked(data_root / "few", ranking={"bootstrap": 100, "permutations": {}})
    board = read(study, "leaderboard")
    assert np.isfinite(board[["mean_rho", "ci_low", "ci_high", "median_rho"]]).all(axis=None)
    by_site = board["scheme"] == "preserved-site"
    assert board.loc[by_site, ["rank", "p_best"]].isna().all(axis=None)
    assert board.loc[~by_site & ~board["control"], ["rank", "p_best"]].notna().all(axis=None)
    assert headline(study) == "5 sites cannot support a ranking."
    assert read(study, "encoders").set_index("scheme").loc["preserved-site", "p_best"].isna().all()
    assert read(study, "exposure").set_index("scheme").loc["preserved-site", "rank"].isna().all()
    assert set(read(study, "rank_frequencies")["scheme"]) == {"random-patient"}
    warnings = read(study, "warnings").set_index(["scheme", "what"])["message"]
    assert warnings["preserved-site", "cohort size"].startswith("5 sites in 3 folds cannot support a ranking")


def test_folds_of_three_patients_are_one_clear_error(data_root):
    trials.write_tables(data_root / "few", n=9, sites=3)
    with pytest.raises(CohortError, match="no fold has more than 3 of the 9 patients"):
        trials.ranked(data_root / "few")


def test_without_targets_their_table_is_empty(study):
    assert len(read(study, "targets")) == 0
    assert "n_genes_absent" in read(study, "targets")


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
    study = trials.ranked(folder, features=tables, ranking={"bootstrap": 100, "permutations": {}})
    table = read(study, "exposure").set_index(["scheme", "encoder"]).loc["preserved-site"]
    assert table["rank"].to_dict() == {"good": 1, "poor": 2, "noise": 3}
    assert table["rank_unexposed"].fillna(0).to_dict() == {"good": 0, "poor": 1, "noise": 2}
    assert table["p_best_unexposed"].sum() == pytest.approx(1)


def test_an_encoder_is_ranked_by_its_mean_over_shared_probes(folder):
    study = trials.ranked(folder, probes=["ridge", "pca-ridge"], ranking={"bootstrap": 100, "permutations": {}})
    board, encoders = read(study, "leaderboard"), read(study, "encoders")
    assert encoders["encoder"].tolist() == ["good", "poor"] * 2
    assert (encoders["n_probes"] == 2).all()
    assert encoders.groupby("scheme")["p_best"].sum().tolist() == pytest.approx([1, 1])
    means = board.groupby(["scheme", "encoder"])["mean_rho"].mean()
    for row in encoders.itertuples():
        assert row.mean_rho == pytest.approx(means[row.scheme, row.encoder])
        assert row.ci_low < row.mean_rho < row.ci_high
    # Ridge and PCA + ridge share the draws of one encoder, which each of them gets a part of.
    own = board[(board["scheme"] == "preserved-site") & (board["encoder"] == "good")]["p_best"]
    assert encoders["p_best"][0] >= own.max()
    assert headline(study).startswith(
        "good predicts gene expression best of 2 encoders in preserved-site folds: mean ρ"
    )
    assert "over 2 probes" in headline(study)


def test_the_headline_names_one_encoder_and_no_encoder(study):
    board, encoders = read(study, "leaderboard"), read(study, "encoders")
    alone = describe_best(board, encoders[encoders["encoder"] == "good"])
    assert alone.endswith("in preserved-site folds; no other encoder was run.")
    assert describe_best(board, encoders[:0]) == "Only controls were run: there is nothing to rank."


def test_sites_and_warnings_stand_beside_the_leaderboard(study):
    sites = read(study, "sites")
    assert sites["encoder"].tolist() == ["good", "poor", "site"]
    assert sites.set_index("encoder").loc["site", "balanced_accuracy"] == 1
    warnings = read(study, "warnings")
    assert warnings[["scheme", "what"]].to_numpy().tolist() == [
        ["preserved-site", "cohort size"],
        ["random-patient", "cohort size"],
    ]
    assert warnings["message"].str.startswith("60 patients of 6 sites: in simulated cohorts of ").all()


def test_adjusted_for_subtype_and_purity_where_they_are_known(folder):
    patients = pd.read_csv(folder / "patients.csv")
    patients["subtype"] = np.where(np.arange(60) % 2, "A", "B")
    patients.to_csv(folder / "patients.csv", index=False)
    purity = pd.DataFrame({"patient_id": patients["patient_id"], "purity": np.linspace(0.2, 0.9, 60)})
    purity.iloc[:40].to_csv(folder / "purity.csv", index=False)
    given = {"covariates": "purity.csv", "given": ["purity"]}
    table = read(trials.ranked(folder, ranking={"bootstrap": 100, "permutations": {}, **given}), "adjusted")
    assert {"within subtype", "given subtype", "given purity"} <= set(table["adjustment"])
    assert (table.loc[table["adjustment"] == "given purity", "n_patients"] == 40).all()
    assert np.isfinite(table[["mean_rho", "median_rho", "unadjusted_rho"]]).all(axis=None)
    table = table.set_index(["adjustment", "encoder", "scheme"]).sort_index()
    assert table.loc[("given subtype", "good"), "mean_rho"].min() > 0.1
    # Random subtypes change nothing.
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
    trials.cohort.build(study)
    trials.assembly.assemble(study)
    regress(study)
    board = rank(study)
    competing = board[board["encoder"] == "mine"]
    assert sorted(competing["probe"]) == ["pca-ridge"] * 2 + ["ridge"] * 2
    assert (competing[["n_patients", "n_genes"]] == [80, 5]).all(axis=None)
    assert (competing["mean_rho"] > 0.5).all()
    assert (board.loc[board["encoder"] != "mine", "mean_rho"].abs() < 0.2).all()
    scores = pd.read_parquet(study.scores_parquet).query("encoder == 'mine'")
    assert (scores.groupby("gene")["rho"].max() > 0.5).to_dict() == dict.fromkeys("ABCD", True) | {"E": False}


def test_another_content_of_the_covariates_is_another_ranking(folder):
    (folder / "purity.csv").write_text("patient_id,purity\nP000,.5\n")
    study = trials.assembled(folder, ranking={"covariates": "purity.csv", "given": ["purity"]})
    before = {artefact.path: artefact.key for artefact in expected(study)}
    (folder / "purity.csv").write_text("patient_id,purity\nP000,.6\n")
    changed = [artefact.path.name for artefact in expected(study) if before[artefact.path] != artefact.key]
    assert {"leaderboard.csv", "adjusted.csv"} <= set(changed)
    assert "good.ridge.parquet" not in changed
