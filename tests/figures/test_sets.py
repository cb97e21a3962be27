"""Figures of gene sets, of targets other than genes, of planted gene groups, and of adjustments."""

import boards
import prints
import pytest
from boards import BOARD, MANY, MANY_SCORES, NINE, SCORES, TWO

from wsibench import figures

MANY_SETS = tuple(f"HALLMARK_{name}_RESPONSE_TO_NOTHING_MUCH" for name in "ABCDEFGHIJKLMNOPQRST")
MANY_TARGETS = boards.TARGETS | {f"a_pathway_of_a_rather_long_name_{i}": "continuous" for i in range(8)}
PLOTS = {
    "sets": (lambda: figures.gene_sets(boards.sets(TWO), TWO), ["immune (54 of 56)", "uni", "Preserved-site folds"]),
    "sets, many": (
        lambda: figures.gene_sets(boards.sets(NINE, MANY_SETS), NINE),
        ["virchow2-class-token", "Preserved-site folds; 16 of 20 sets, all of them in the CSV"],
    ),
    "targets": (lambda: figures.targets(boards.targets(TWO), TWO), ["subtype (198)", "AUROC (95 % interval)"]),
    "targets, many": (
        lambda: figures.targets(boards.targets(NINE, MANY_TARGETS), NINE),
        ["prov-gigapath-slide", "purity (198)"],
    ),
    "reached": (
        lambda: figures.planted_signals(boards.groups(SCORES), BOARD),
        ["size 0.3 (12)"],
    ),
    "reached, many": (lambda: figures.planted_signals(boards.groups(MANY_SCORES), MANY), ["null (12)"]),
    "adjusted": (lambda: figures.adjusted(boards.adjusted(TWO), TWO), ["given purity\n(n = 212)", "uni · MLP"]),
    "adjusted, many": (lambda: figures.adjusted(boards.adjusted(NINE), NINE), ["site · ridge"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_printed_figure(name):
    draw, labels = PLOTS[name]
    prints.assert_printable(draw(), labels)


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
    assert dashed == [[], [0.5]]  # chance of a correlation is the solid line at 0


def test_probes_that_the_leaderboard_does_not_hold_are_drawn():
    table = boards.targets(BOARD[BOARD["probe"] == "ridge"]).replace({"probe": {"ridge": "logistic"}})
    fig = figures.targets(table, BOARD)
    assert set(fig.data["probe"]) == {"logistic"}
    assert {text.get_text() for text in fig.legends[0].get_texts()} >= {*boards.ENCODERS, "site (control)"}


def test_crowded_groups_show_the_best_probe_of_each_encoder():
    fig = figures.planted_signals(boards.groups(MANY_SCORES), MANY)
    drawn = [line for line in fig.axes[0].lines if line.get_marker() not in ("None", None)]
    assert len(drawn) == (len(boards.ENCODERS) + len(boards.CONTROLS)) * len(boards.GROUPS)
    part = MANY[MANY["scheme"] == "preserved-site"].sort_values("mean_rho", ascending=False)
    best = part[part["rank"].notna()].drop_duplicates("encoder").iloc[0]
    group = boards.groups(MANY_SCORES).set_index(["scheme", "encoder", "probe", "group"])["mean_rho"]
    assert drawn[0].get_xdata()[0] == group["preserved-site", best["encoder"], best["probe"], "size_0.3"]


def test_attainable_scores_are_drawn_where_there_are_any():
    fig = figures.planted_signals(boards.groups(SCORES), BOARD)
    ticks = [line.get_xdata() for line in fig.axes[0].lines if line.get_linewidth() == 1]
    assert [x[0] for x in ticks] == [x[1] for x in ticks] == [0.3, 0.8, 0.5]


def test_adjustments_show_the_change_and_the_interval_where_there_is_one():
    board = BOARD[BOARD["probe"] == "ridge"]
    table = boards.adjusted(board)
    fig = figures.adjusted(table, board)
    texts = {float(text.replace("−", "-")) for text in prints.texts(fig.axes[0]) if text != "a"}
    own = table[(table["scheme"] == "preserved-site") & (table["adjustment"] == "within subtype")]
    assert texts == {round(value, 3) + 0.0 for value in own["mean_rho"] - own["unadjusted_rho"]}
    with_ends = table.assign(ci_low=table["mean_rho"] - 0.05, ci_high=table["mean_rho"] + 0.05)
    ends = [tuple(line.get_xdata()) for line in figures.adjusted(with_ends, board).axes[0].lines]
    assert {(rho - 0.05, rho + 0.05) for rho in own["mean_rho"]} <= set(ends)
