"""Figures of the tables beside the leaderboard: two encoders and nine, one probe and three, with controls."""

import boards
import numpy as np
import pandas as pd
import prints
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.patches import StepPatch

from wsibench import figures
from wsibench.figures.significance import EDGES, null_histogram

SCORES = boards.scores()
BOARD = boards.leaderboard(SCORES)
TWO_SCORES = boards.scores(("ridge", "knn"), encoders={"uni": 0.85, "phikon": 0.8})
TWO = boards.leaderboard(TWO_SCORES)
NINE_SCORES = boards.scores(("ridge", "knn", "abmil"), encoders=boards.LONG | boards.CONTROLS)
NINE = boards.leaderboard(NINE_SCORES)
MANY_SETS = tuple(f"HALLMARK_{name}_RESPONSE_TO_NOTHING_MUCH" for name in "ABCDEFGHIJKLMNOPQRST")
MANY_TARGETS = boards.TARGETS | {f"a_pathway_of_a_rather_long_name_{i}": "continuous" for i in range(8)}
PLOTS = {
    "differences": (lambda: figures.differences(boards.differences(TWO)), ["uni · ridge", "phikon · kNN"]),
    "by probe": (lambda: figures.encoder_by_probe(TWO), ["uni", "ridge", "kNN"]),
    "sets": (lambda: figures.gene_sets(boards.sets(TWO), TWO), ["immune (54)", "uni", "Preserved-site folds"]),
    "adjusted": (lambda: figures.adjusted(boards.adjusted(TWO), TWO), ["given purity\n(n = 212)", "uni · kNN"]),
    "spread": (lambda: figures.spread(boards.spread(TWO), TWO), ["Other splits (5)", "phikon · ridge"]),
    "sites": (lambda: figures.site_meter(boards.sites(TWO), TWO), ["uni", "chance", "What new sites cost"]),
    "targets": (lambda: figures.targets(boards.targets(TWO), TWO), ["subtype\n(n = 198, 3 classes)", "AUROC"]),
    "significant": (
        lambda: figures.significant(boards.tested(TWO_SCORES), boards.permuted(TWO_SCORES), TWO),
        ["uni\nridge", "permuted pairing, all genes"],
    ),
    "differences, many": (lambda: figures.differences(boards.differences(NINE)), ["Δ mean ρ"]),
    "by probe, many": (lambda: figures.encoder_by_probe(NINE), ["site (control)", "conch-v1.5-titan"]),
    "sets, many": (
        lambda: figures.gene_sets(boards.sets(NINE, MANY_SETS), NINE),
        ["virchow2-class-token", "Preserved-site folds; 12 of 20 sets, all of them in the CSV"],
    ),
    "adjusted, many": (lambda: figures.adjusted(boards.adjusted(NINE), NINE), ["site · ridge"]),
    "spread, many": (lambda: figures.spread(boards.spread(NINE), NINE), ["Other seeds (3)"]),
    "sites, many": (lambda: figures.site_meter(boards.sites(NINE), NINE), ["prov-gigapath-slide", "control"]),
    "targets, many": (
        lambda: figures.targets(boards.targets(NINE, MANY_TARGETS), NINE),
        ["Preserved-site folds; 8 of 12 targets, all of them in the CSV"],
    ),
    "significant, many": (
        lambda: figures.significant(boards.tested(NINE_SCORES), boards.permuted(NINE_SCORES), NINE),
        ["dinov2-large\nkNN", "site\nridge, control"],
    ),
}


@pytest.fixture(scope="module", params=PLOTS)
def plot(request):
    draw, labels = PLOTS[request.param]
    return draw(), labels


def test_says_what_it_shows(plot):
    prints.assert_says(*plot)


def test_has_a_printed_size(plot):
    prints.assert_printed_size(plot[0])


def test_labels_neither_overlap_nor_leave_the_page(plot):
    prints.assert_labels_apart(plot[0])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_differences_stand_above_the_diagonal_whatever_the_order_of_the_pairs():
    table = boards.differences(BOARD)
    table = table[table["scheme"] == "preserved-site"]
    turned = table.rename(columns={f"{k}_{x}": f"{k}_{y}" for k in ("encoder", "probe") for x, y in ("ab", "ba")})
    turned = turned.assign(delta=-turned["delta"])
    mixed = pd.concat([table[::2], turned[1::2]]).sample(frac=1, random_state=0)
    one, other = figures.differences(table).axes[0], figures.differences(mixed).axes[0]
    assert texts(one) == texts(other)
    mesh = next(child for child in one.collections if isinstance(child, QuadMesh))
    drawn = np.ma.filled(mesh.get_array().reshape(9, 9), np.nan)
    ranked = BOARD[(BOARD["scheme"] == "preserved-site") & BOARD["rank"].notna()].sort_values("rank")["mean_rho"]
    expected = ranked.to_numpy()[:-1, None] - ranked.to_numpy()[None, 1:]
    assert np.isnan(drawn[np.tril_indices(9, -1)]).all()
    assert drawn[np.triu_indices(9)] == pytest.approx(expected[np.triu_indices(9)])


def test_differences_mark_what_is_told_apart_and_what_is_equal():
    table = boards.differences(TWO)
    table = table[table["scheme"] == "preserved-site"].assign(p_holm=0.5, p_rope=0.5)
    table.iloc[0, list(table.columns).index("p_holm")] = 0.049
    table.iloc[1, list(table.columns).index("p_rope")] = 0.95
    fig = figures.differences(table, rope=0.02)
    ends = [text[-1] for text in texts(fig.axes[0]) if text]
    assert (ends.count("*"), ends.count("≈")) == (1, 1)
    assert "within ±0.02" in fig.alt
    assert "|Δ| < .02 in 95 % of the draws" in fig.legends[0].get_texts()[1].get_text()


def test_ranks_are_among_the_competitors_of_one_probe():
    board = pd.DataFrame({"encoder": ["uni", "phikon", "medsiglip", "colour"] * 2})
    board["probe"] = ["ridge"] * 4 + ["knn"] * 4
    board["mean_rho"] = [0.3, 0.2, 0.1, 0.9, 0.1, 0.2, 0.3, 0.9]
    board = board.assign(scheme="preserved-site", rank=[1.0, 3, 5, np.nan] * 2, ci_low=0.0, ci_high=0.0)
    fig = figures.encoder_by_probe(board)
    found = texts(fig.axes[0])
    assert found[:2] in ([".300 (1)", ".100 (3)"], [".100 (3)", ".300 (1)"])
    assert found[-2:] == [".900", ".900"]  # controls come last, without a rank
    assert "τ between probes: −1.00" in fig.axes[0].get_xlabel()
    assert "uni with ridge (0.300), medsiglip with kNN (0.300)" in fig.alt


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


def test_adjustments_say_what_share_is_left():
    board = BOARD[BOARD["probe"] == "ridge"]
    fig = figures.adjusted(boards.adjusted(board), board)
    shares = [set(texts(ax)) for ax in fig.axes[:6]]
    # Each takes a tenth; of the site's own mean ρ, which is about 0, there is no share.
    assert shares == [{f"{left} %", "–"} for left in (90, 80, 70, 60, 50, 40)]


def test_spread_without_seeds_has_no_panel_for_them():
    assert len(figures.spread(boards.spread(TWO), TWO).axes) == 2
    table = boards.spread(BOARD)
    fig = figures.spread(table, BOARD)
    assert texts(fig.axes[2]).count("–") == sum(table.loc[table["scheme"] == "preserved-site", "sd_seeds"].isna())


def test_one_scheme_has_no_loss_to_show():
    one = BOARD[BOARD["scheme"] == "random-patient"]
    assert len(figures.site_meter(boards.sites(one), one).axes) == 1
    lost = figures.site_meter(boards.sites(BOARD), BOARD).data.set_index(["encoder", "probe"])["rho_lost"]
    by = BOARD.set_index(["scheme", "encoder", "probe"])["mean_rho"]
    assert lost["uni", "ridge"] == by["random-patient", "uni", "ridge"] - by["preserved-site", "uni", "ridge"]


def test_a_target_is_drawn_by_one_measure_beside_its_chance():
    fig = figures.targets(boards.targets(BOARD), BOARD)
    assert [ax.get_xlabel() for ax in fig.axes] == ["Spearman ρ", "Spearman ρ", "AUROC", "AUROC"]
    vertical = [[line.get_xdata() for line in ax.lines if line.get_linestyle() == "--"] for ax in fig.axes]
    chance = [[x[0] for x in lines if len(x) == 2 and x[0] == x[1]] for lines in vertical]
    assert [found[-1] for found in chance] == [0, 0, 0.5, 0.5]


def test_probes_that_the_leaderboard_does_not_know_are_drawn():
    table = boards.targets(BOARD[BOARD["probe"] == "ridge"]).replace({"probe": {"ridge": "logistic"}})
    fig = figures.targets(table, BOARD)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    first = BOARD[(BOARD["scheme"] == "preserved-site") & (BOARD["rank"] == 1)]["encoder"].item()
    assert labels[0] == f"{first} · logistic"
    assert labels[-1] == "site · logistic"


def test_the_share_of_significant_genes_is_that_of_the_table():
    some = SCORES[SCORES["encoder"].isin(["uni", "phikon", "site"])]
    tested = boards.tested(some)
    fig = figures.significant(tested, boards.permuted(some), BOARD)
    own = tested[(tested["scheme"] == "preserved-site") & (tested["probe"] == "ridge")]
    share = (own["q"] < 0.05).groupby(own["encoder"]).mean()
    assert {ax.get_title(loc="left").split("\n")[0]: texts(ax) for ax in fig.axes} == {
        name: [f"{value:.0%}".replace("%", " %")] for name, value in share.items()
    }
    assert set(fig.data["probe"]) == {"ridge"}  # attention MIL was not permuted
    assert fig.data.groupby("encoder")[["genes", "permuted"]].sum().to_numpy() == pytest.approx(1)
    steps = next(patch for patch in fig.axes[0].patches if isinstance(patch, StepPatch))
    assert steps.get_data().values.sum() == pytest.approx(1)


def test_null_histogram_leaves_out_what_is_not_defined():
    found = null_histogram(np.array([[0.011, np.nan], [0.012, -1.0]]))
    assert found["share"].sum() == pytest.approx(1)
    assert found.loc[found["share"] > 0, "share"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert (found["rho_high"] - found["rho_low"]).to_numpy() == pytest.approx(EDGES[1] - EDGES[0])
