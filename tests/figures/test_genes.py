"""Figures of single genes: scores beside the permutation null, and predicted against measured expression."""

import anndata
import boards
import numpy as np
import pandas as pd
import prints
import pytest
from boards import BOARD, NINE, NINE_SCORES, SCORES, TWO, TWO_SCORES

from wsibench import figures
from wsibench.figures import genes


def expression():
    """Measured expression of 80 patients, and predictions of 60 of them, each fold with an offset of its own."""
    rng = np.random.default_rng(0)
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(10)])
    x = rng.normal(size=(80, 10)).astype(np.float32)
    benchmark = anndata.AnnData(x, pd.DataFrame(index=[f"P{i}" for i in range(80)]), var)
    predictions = benchmark[10:70].copy()  # patients of the test cohort
    fold, site = np.arange(60) % 5, [f"S{i % 15}" for i in range(60)]
    predictions.obs = predictions.obs.assign(fold=fold, site=site)
    predictions.X = predictions.X * 0.5 + 10 * fold[:, None]
    predictions.layers["noise"] = rng.normal(0, 0.1, predictions.shape)
    return predictions, benchmark


def predicted(n=8):
    rho = pd.Series(np.linspace(0.1, 0.55, 10), [f"GENE{i}" for i in range(10)])
    rho["GENE9"] = np.nan
    return figures.predicted_measured(*expression(), rho, unit="z-score", label="uni, ridge", n=n)


def lookup(scheme="preserved-site"):
    predictions, benchmark = expression()
    noisy = predictions.copy()
    noisy.X = noisy.X + np.random.default_rng(1).normal(size=noisy.shape)
    some = {("phikon", "ridge"): noisy, ("uni", "ridge"): predictions}
    return figures.gene_lookup("GENE3", some, benchmark, BOARD, scheme=scheme, unit="z-score", draws=200)


def level():
    benchmark = anndata.AnnData(np.random.default_rng(0).normal(size=(40, 60)))
    benchmark.var_names = SCORES["gene"].unique()
    return figures.rho_by_expression(SCORES, benchmark, BOARD, unit="z-score")


PLOTS = {
    "significant": (
        lambda: figures.significant(boards.tested(TWO_SCORES), boards.permuted(TWO_SCORES), TWO),
        ["permutation null", "gene-wise Spearman ρ"],
    ),
    "significant, many": (
        lambda: figures.significant(boards.tested(NINE_SCORES), boards.permuted(NINE_SCORES), NINE),
        ["Preserved-site folds, 60 genes", "permutation null"],
    ),
    "predicted": (predicted, ["GENE8, ρ = 0.50", "measured expression less the fold's mean (z-score)"]),
    "lookup": (lookup, ["GENE3, preserved-site folds", "uni · ridge"]),
    "level": (level, ["mean of the measured expression (z-score)"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_printed_figure(name):
    draw, labels = PLOTS[name]
    prints.assert_printable(draw(), labels)


def test_predictions_are_of_the_best_genes_and_of_the_patients_predicted():
    fig = predicted(n=3)
    data = fig.data
    assert list(dict.fromkeys(data["gene"])) == ["GENE8", "GENE7", "GENE6"]
    assert data["patient_id"].nunique() == 60
    assert np.allclose(data["predicted"], data["measured"] * 0.5 + 10 * data["fold"], atol=1e-5)
    # Less the mean of the fold, all lie on one line.
    x, y = fig.axes[0].collections[0].get_offsets().T
    assert np.allclose(y, x * 0.5, atol=1e-5)


def test_lookup_has_the_scores_of_the_leaderboard_and_wider_intervals_for_few_sites():
    table = lookup().data.set_index("encoder")
    assert table.loc["uni", "rho"] == pytest.approx(0.999, abs=1e-3)  # |ρ| is clipped there
    assert table.loc["phikon", "rho"] < 0.9
    assert (table["ci_low"] <= table["rho"]).all()
    assert table["ci_high"].max() <= 1
    width = (table["ci_high"] - table["ci_low"])["phikon"]
    patients = lookup("random-patient").data.set_index("encoder")
    assert (patients["ci_high"] - patients["ci_low"])["phikon"] < width


def test_lines_are_the_distributions_over_genes_and_labels_the_shares_of_the_table():
    some = SCORES[SCORES["encoder"].isin(["uni", "phikon", "site"])]
    tested = boards.tested(some)
    (ax,) = figures.significant(tested, boards.permuted(some), BOARD).axes  # attention MIL was not permuted
    own = tested[(tested["scheme"] == "preserved-site") & (tested["probe"] == "ridge")]
    share = (own["q"] < 0.05).groupby(own["encoder"]).mean()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {*labels} == {f"{name}, {value:.0%}".replace("%", " %") for name, value in share.items()} | {genes.NULL}
    line = next(line for line in ax.lines if line.get_label().startswith("uni,"))
    rho = own.loc[own["encoder"] == "uni", "rho"]
    above = [(rho > x).mean() for x in line.get_xdata()[1:]]
    assert line.get_ydata()[1:] == pytest.approx(above)
    assert [line.get_linestyle() for line in ax.lines if line.get_label().startswith("site")] == ["--"]


def test_undefined_permutations_are_no_part_of_the_null():
    some = boards.tested(SCORES[SCORES["encoder"] == "uni"])
    permuted = {("uni", "ridge"): np.array([[0.011, np.nan], [0.013, -1.0]])}
    data = figures.significant(some, permuted, BOARD).data
    assert data.loc[data["encoder"] == genes.NULL, "rho"].iloc[[0, 250, 500]].tolist() == pytest.approx(
        [-1, 0.011, 0.013]
    )


def test_training_curves():
    fig = figures.training_curves(boards.curves(["uni", "phikon"]))
    prints.assert_printable(fig, ["uni", "epoch"])
    assert "10 fits an encoder" in fig.alt
