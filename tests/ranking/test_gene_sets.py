"""Gene sets: read as they are declared, and compared with matched random sets."""

import numpy as np
import pytest
import trials

from wsibench.core import CohortError, StudyError
from wsibench.ranking import check_gene_sets, expected, gene_sets, rank, read, read_gene_sets
from wsibench.regression import regress

GOOD, NULL = [f"G{i}" for i in range(trials.GENES)], [f"G{i}" for i in range(2 * trials.GENES, 3 * trials.GENES)]


def declared(folder, sets):
    """Gene sets of a study that declares `sets`."""
    study = trials.load(folder, ranking={"bootstrap": 100, "gene_sets": sets})
    return read_gene_sets(gene_sets.declared_sets(study.ranking.gene_sets, study.resolve))


def test_a_planted_set_beats_random_sets_and_a_null_set_does_not(folder):
    sets = {"planted": GOOD, "nothing": [*NULL, "X1", "X2"], "strangers": ["X3"]}
    study = trials.assembled(folder, ranking={"bootstrap": 200, "gene_sets": sets})
    regress(study)
    rank(study)
    table = read(study, "sets")
    assert len(table) == 2 * 3 * 3
    table = table.set_index(["scheme", "encoder", "set"]).loc["preserved-site"]
    planted, nothing, strangers = (table.loc["good", name] for name in sets)
    assert planted["p_random"] < 0.01
    assert planted["random_low"] < planted["random_mean"] < planted["random_high"] < planted["mean_rho"]
    assert nothing["p_random"] > 0.5
    assert nothing["mean_rho"] < nothing["random_mean"]
    assert (nothing["n_genes"], nothing["n_missing"]) == (trials.GENES, 2)
    assert (strangers["n_genes"], strangers["n_missing"]) == (0, 1)
    assert np.isnan(strangers["mean_rho"])
    # The set and the group consist of the same genes: the same mean from the same draws.
    group = read(study, "groups").set_index(["scheme", "encoder", "group"]).loc["preserved-site", "good", "good"]
    for column in ("n_genes", "mean_rho", "ci_low", "ci_high"):
        assert planted[column] == pytest.approx(group[column])


def test_sets_are_read_from_lists_files_and_gmts(folder, monkeypatch):
    (folder / "mine.txt").write_text("# mine\nG1\nG2  # the second\n\nX9\n")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "h.gmt").write_text("HALLMARK_A\thttp://a\tG3\tG4\tG4\nHALLMARK_B\t\tG5\tX1\n")
    monkeypatch.setenv("SETS", str(folder / "elsewhere"))
    sets = declared(folder, {"h": "${SETS}/h.gmt", "mine": "mine.txt", "here": ["G7"]})
    found = {each.name: each for each in gene_sets.on_genes(sets, [f"G{i}" for i in range(8)])}
    assert {name: np.flatnonzero(each.members).tolist() for name, each in found.items()} == {
        "HALLMARK_A": [3, 4],
        "HALLMARK_B": [5],
        "mine": [1, 2],
        "here": [7],
    }
    missing = {name: each.n_missing for name, each in found.items()}
    assert missing == {"HALLMARK_A": 0, "HALLMARK_B": 1, "mine": 1, "here": 0}


def test_a_study_without_gene_sets_has_the_lists_that_come_with_the_package(folder):
    assert list(declared(folder, None)) == ["proliferation", "immune", "pam50"]
    assert declared(folder, {}) == {}


def test_incomplete_sets_are_named_with_their_counts():
    sets = {"pam50": [f"G{i}" for i in range(50)], "none": ["X"], "half": ["G1", "X"]}
    assert check_gene_sets(sets, [f"G{i}" for i in range(7)]) == [
        "gene set pam50: 7 of 50 genes",
        "gene set none: 0 of 1 genes",
    ]


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        (None, {"mine": "mine.txt"}, r"gene_sets.mine names .*mine.txt, which is no file.*given as a list"),
        ("# none\n", {"mine": "mine.txt"}, "mine.txt names no genes"),
        ("A B C\n", {"mine": "mine.gmt"}, r"line 1 is no gene set.*between tabs"),
        ("A\t\tG1\nA\t\tG2\n", {"mine": "mine.gmt"}, "two sets called 'A'"),
        ("A\t\tG1\n", {"mine": "mine.gmt", "A": ["G1"]}, "two sets called 'A'"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_clear_error(folder, text, sets, message):
    if text is not None:
        (folder / sets["mine"]).write_text(text)
    with pytest.raises(CohortError, match=message):
        declared(folder, sets)


def test_an_empty_list_is_refused(folder):
    with pytest.raises(StudyError, match=r"gene_sets\.mine"):
        declared(folder, {"mine": []})


def test_another_list_in_the_same_file_is_another_ranking(folder):
    (folder / "mine.txt").write_text("G1\n")
    study = trials.assembled(folder, ranking={"bootstrap": 100, "gene_sets": {"mine": "mine.txt"}})
    before = {artefact.path.name: artefact.key for artefact in expected(study)}
    (folder / "mine.txt").write_text("G2\n")
    after = {artefact.path.name: artefact.key for artefact in expected(study)}
    assert after["sets.csv"] != before["sets.csv"]
    assert after["good.ridge.parquet"] == before["good.ridge.parquet"], "no permuted refit depends on it"


def test_random_sets_are_matched_in_the_level_of_expression():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=400)
    bins = gene_sets.expression_levels(mean)
    assert np.bincount(bins).tolist() == [40] * 10
    assert (np.diff([mean[bins == each].mean() for each in range(10)]) > 0).all()
    members = np.zeros((2, 400), bool)
    members[0, np.flatnonzero(bins == 9)[:20]] = True  # 20 genes of the highest tenth
    members[1, ::10] = True
    by_level = np.stack([bins.astype(float), rng.normal(size=400)])
    means = gene_sets.random_means(by_level, members, bins, rng, n=50)
    np.testing.assert_allclose(means[0].T, [by_level[0, each].mean() for each in members] * np.ones((50, 2)))
    free = gene_sets.random_means(by_level, members, np.zeros(400, int), rng, n=500)
    assert free[0, 0].mean() == pytest.approx(4.5, abs=0.2)
    # Of a mean of 20 out of 400, drawn without replacement.
    assert free[1, 0].std() == pytest.approx(by_level[1].std() * np.sqrt((1 - 20 / 400) / 20), rel=0.15)


def test_p_of_sets_of_any_genes_is_uniform():
    """400 sets of 25 any genes: ± 3 Monte-Carlo SE of a share of .05 is ± .033."""
    rng = np.random.default_rng(1)
    rho, bins = rng.normal(size=(1, 1000)), np.arange(1000) % 10
    members = np.zeros((400, 1000), bool)
    for each in members:
        each[rng.choice(1000, 25, replace=False)] = True
    random = gene_sets.random_means(rho, members, bins, rng, n=400)[0]
    observed = np.array([rho[0, each].mean() for each in members])
    p = (1 + (random >= observed[:, None]).sum(axis=1)) / 401
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.033)
    assert p.mean() == pytest.approx(0.5, abs=0.05)


def test_intervals_of_gene_sets_stay_within_the_range_of_a_correlation(data_root):
    trials.write_tables(data_root / "few", n=30, sites=5)
    sets = {"planted": GOOD, "two": GOOD[:2]}
    study = trials.assembled(data_root / "few", ranking={"bootstrap": 100, "permutations": {}, "gene_sets": sets})
    regress(study)
    rank(study)
    table = read(study, "sets")
    assert (table["ci_low"] >= -1).all()
    assert (table["ci_high"] <= 1).all()
    assert (table["ci_high"] == 1).any(), "with five sites the draws leave the range"
