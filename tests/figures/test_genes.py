"""Figures of genes, gene sets and other targets."""

import anndata
import boards
import numpy as np
import pandas as pd
import prints
import pytest
from boards import BOARD, MANY, MANY_SCORES, NINE, NINE_SCORES, SCORES, TWO, TWO_SCORES
from matplotlib.patches import StepPatch

from wsibench import figures

MANY_SETS = tuple(f"HALLMARK_{name}_RESPONSE_TO_NOTHING_MUCH" for name in "ABCDEFGHIJKLMNOPQRST")
MANY_TARGETS = boards.TARGETS | {f"a_pathway_of_a_rather_long_name_{i}": "continuous" for i in range(8)}


def predicted(n=8):
    rng = np.random.default_rng(0)
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(10)])
    x = rng.normal(size=(80, 10)).astype(np.float32)
    benchmark = anndata.AnnData(x, pd.DataFrame(index=[f"P{i}" for i in range(80)]), var)
    predictions = benchmark[10:70].copy()  # patients of the test cohort
    predictions.X = predictions.X * 0.5
    rho = pd.Series(np.linspace(0.1, 0.55, 10), var.index)
    rho["GENE9"] = np.nan
    return figures.predicted_measured(predictions, benchmark, rho, unit="z-score", label="uni, ridge", n=n)


PLOTS = {
    "sets": (lambda: figures.gene_sets(boards.sets(TWO), TWO), ["immune (54 of 56)", "uni", "Preserved-site folds"]),
    "sets, many": (
        lambda: figures.gene_sets(boards.sets(NINE, MANY_SETS), NINE),
        ["virchow2-class-token", "Preserved-site folds; 12 of 20 sets, all of them in the CSV"],
    ),
    "targets": (lambda: figures.targets(boards.targets(TWO), TWO), ["subtype (198)", "AUROC (95 % interval)"]),
    "targets, many": (
        lambda: figures.targets(boards.targets(NINE, MANY_TARGETS), NINE),
        ["prov-gigapath-slide", "purity (198)"],
    ),
    "significant": (
        lambda: figures.significant(boards.tested(TWO_SCORES), boards.permuted(TWO_SCORES), TWO),
        ["permutation null, all genes", "gene-wise Spearman ρ"],
    ),
    "significant, many": (
        lambda: figures.significant(boards.tested(NINE_SCORES), boards.permuted(NINE_SCORES), NINE),
        ["Preserved-site folds, 60 genes", "permutation null, all genes"],
    ),
    "reached": (lambda: figures.truth_against_reached(boards.groups(SCORES), BOARD), ["size genes", "null genes"]),
    "reached, many": (lambda: figures.truth_against_reached(boards.groups(MANY_SCORES), MANY), ["null genes"]),
    "predicted": (predicted, ["GENE8, ρ = 0.50", "measured expression (z-score)"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_printed_figure(name):
    draw, labels = PLOTS[name]
    prints.assert_printable(draw(), labels)


def test_predictions_are_of_the_best_genes_and_of_the_patients_predicted():
    data = predicted(n=3).data
    assert list(dict.fromkeys(data["gene"])) == ["GENE8", "GENE7", "GENE6"]
    assert data["patient_id"].nunique() == 60
    assert data["predicted"].to_numpy() == pytest.approx(data["measured"].to_numpy() * 0.5)


def test_sets_lie_on_their_random_bands_and_the_best_come_first():
    table = boards.sets(TWO)
    fig = figures.gene_sets(table, TWO)
    own = table[(table["scheme"] == "preserved-site")]
    means = own.groupby("set")["mean_rho"].mean().sort_values(ascending=False)
    labels = [label.get_text().replace("\n", " ") for label in fig.axes[0].get_yticklabels()]
    assert labels[0].startswith(means.index[0].replace("_", " "))
    bands = [path.vertices[:, 0] for band in fig.axes[0].collections for path in band.get_paths() if len(path.vertices)]
    found = {(band.min().round(6), band.max().round(6)) for band in bands}
    random = own.dropna(subset="random_low")
    assert set(zip(random["random_low"].round(6), random["random_high"].round(6), strict=True)) <= found


def test_targets_are_drawn_by_measure_beside_chance():
    fig = figures.targets(boards.targets(BOARD), BOARD)
    assert [ax.get_xlabel() for ax in fig.axes] == ["Spearman ρ (95 % interval)", "AUROC (95 % interval)"]
    dashed = [[line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] for ax in fig.axes]
    assert dashed == [[0], [0.5]]


def test_probes_that_the_leaderboard_does_not_hold_are_drawn():
    table = boards.targets(BOARD[BOARD["probe"] == "ridge"]).replace({"probe": {"ridge": "logistic"}})
    fig = figures.targets(table, BOARD)
    assert set(fig.data["probe"]) == {"logistic"}
    assert {text.get_text() for text in fig.legends[0].get_texts()} >= {*boards.ENCODERS, "site (control)"}


def test_crowded_groups_show_the_best_probe_of_each_encoder():
    fig = figures.truth_against_reached(boards.groups(MANY_SCORES), MANY)
    drawn = [line for line in fig.axes[0].lines if line.get_marker() not in ("None", None)]
    assert len(drawn) == len(boards.ENCODERS) + len(boards.CONTROLS)
    part = MANY[MANY["scheme"] == "preserved-site"].sort_values("mean_rho", ascending=False)
    best = part[part["rank"].notna()].drop_duplicates("encoder").iloc[0]
    group = boards.groups(MANY_SCORES).set_index(["scheme", "encoder", "probe", "group"])["mean_rho"]
    assert drawn[0].get_ydata()[0] == group["preserved-site", best["encoder"], best["probe"], "size_0.3"]


def test_share_of_significant_genes_is_that_of_the_table():
    some = SCORES[SCORES["encoder"].isin(["uni", "phikon", "site"])]
    tested = boards.tested(some)
    fig = figures.significant(tested, boards.permuted(some), BOARD)
    own = tested[(tested["scheme"] == "preserved-site") & (tested["probe"] == "ridge")]
    share = (own["q"] < 0.05).groupby(own["encoder"]).mean()
    titles = [ax.get_title(loc="left").replace(" (control)", "") for ax in fig.axes]
    assert set(titles) == {f"{name}\nridge, {value:.0%}".replace("%", " %") for name, value in share.items()}
    assert set(fig.data["probe"]) == {"ridge"}  # attention MIL was not permuted
    assert fig.data.groupby("encoder")[["genes", "permuted"]].sum().to_numpy() == pytest.approx(1)
    steps = next(patch for patch in fig.axes[0].patches if isinstance(patch, StepPatch))
    assert steps.get_data().values.sum() == pytest.approx(1)


def test_undefined_permutations_are_no_part_of_the_null():
    some = boards.tested(SCORES[SCORES["encoder"] == "uni"])
    permuted = {("uni", "ridge"): np.array([[0.011, np.nan], [0.012, -1.0]])}
    data = figures.significant(some, permuted, BOARD).data
    assert data.loc[data["permuted"] > 0, "permuted"].tolist() == pytest.approx([1 / 3, 2 / 3])
