"""Figures of variation, site predictability and adjustment."""

import boards
import prints
import pytest
from boards import BOARD, NINE, TWO

from wsibench import figures

PLOTS = {
    "adjusted": (lambda: figures.adjusted(boards.adjusted(TWO), TWO), ["given purity\n(n = 212)", "uni · MLP"]),
    "adjusted, many": (lambda: figures.adjusted(boards.adjusted(NINE), NINE), ["site · ridge"]),
    "spread": (lambda: figures.spread(boards.spread(TWO), TWO), ["Splits (5)", "phikon · ridge"]),
    "spread, many": (lambda: figures.spread(boards.spread(NINE), NINE), ["Seeds (3)"]),
    "sites": (lambda: figures.site_predictability(boards.sites(TWO), TWO), ["uni", "Loss of mean ρ on new sites"]),
    "sites, many": (lambda: figures.site_predictability(boards.sites(NINE), NINE), ["prov-gigapath-slide", "control"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_printed_figure(name):
    draw, labels = PLOTS[name]
    prints.assert_printable(draw(), labels)


def test_adjustments_show_the_share_that_remains():
    board = BOARD[BOARD["probe"] == "ridge"]
    fig = figures.adjusted(boards.adjusted(board), board)
    shares = [set(prints.texts(ax)) for ax in fig.axes[:6]]
    # Each takes a tenth; of the site's own mean ρ, which is about 0, there is no share.
    assert shares == [{f"{left} %", "–"} for left in (90, 80, 70, 60, 50, 40)]


def test_spread_without_seeds_has_no_panel_for_them():
    assert len(figures.spread(boards.spread(TWO), TWO).axes) == 2
    table = boards.spread(BOARD)
    fig = figures.spread(table, BOARD)
    dashes = prints.texts(fig.axes[2]).count("–")
    assert dashes == table.loc[table["scheme"] == "preserved-site", "sd_seeds"].isna().sum()


def test_one_scheme_has_no_loss_on_new_sites():
    one = BOARD[BOARD["scheme"] == "random-patient"]
    assert len(figures.site_predictability(boards.sites(one), one).axes) == 1
    lost = figures.site_predictability(boards.sites(BOARD), BOARD).data.set_index(["encoder", "probe"])["rho_lost"]
    by = BOARD.set_index(["scheme", "encoder", "probe"])["mean_rho"]
    assert lost["uni", "ridge"] == by["random-patient", "uni", "ridge"] - by["preserved-site", "uni", "ridge"]
