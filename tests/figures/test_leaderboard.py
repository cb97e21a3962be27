"""Forest plot, ranks, differences and violins: readable at printed size, and with the numbers of their tables."""

import boards
import numpy as np
import pandas as pd
import prints
import pytest
from boards import BOARD, MANY, MANY_SCORES, NINE, NINE_SCORES, SCORES, TWO, TWO_SCORES
from matplotlib.collections import PolyCollection, QuadMesh

from wsibench import figures

PLOTS = {
    "forest": (lambda: figures.forest(BOARD, boards.null(BOARD)), ["h-optimus-0 · ridge", "phikon † · attention MIL"]),
    "forest, many": (lambda: figures.forest(MANY, boards.null(MANY)), ["uni · PCA ridge"]),
    "violins": (lambda: figures.violins(SCORES, BOARD), ["uni", "site\n(control)", "gene-wise Spearman ρ"]),
    "violins, many": (lambda: figures.violins(MANY_SCORES, MANY), ["PCA ridge, preserved-site folds"]),
    "ranks": (lambda: figures.rank_frequencies(boards.rank_frequencies(BOARD)), ["uni · ridge"]),
    "ranks, many": (lambda: figures.rank_frequencies(boards.rank_frequencies(MANY)), ["uni · MLP"]),
    "differences": (lambda: figures.differences(boards.differences(TWO)), ["uni · ridge", "phikon · MLP"]),
    "differences, many": (lambda: figures.differences(boards.differences(NINE)), ["Δ mean ρ"]),
    "genes": (lambda: figures.gene_heatmap(SCORES, BOARD), ["uni · ridge", "size_0.8-0"]),
    "genes, many": (lambda: figures.gene_heatmap(NINE_SCORES, NINE), ["prov-gigapath-slide · ridge"]),
    "encoders": (lambda: figures.encoder_against_encoder(SCORES, BOARD), ["ρ, phikon · ridge"]),
    "encoders, two": (lambda: figures.encoder_against_encoder(TWO_SCORES, TWO), ["ρ, phikon · MLP"]),
    "spread": (lambda: figures.spread(boards.spread(TWO), TWO), ["Splits (5)", "phikon · ridge"]),
    "spread, many": (lambda: figures.spread(boards.spread(NINE), NINE), ["Seeds (3)"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_printed_figure(name):
    draw, labels = PLOTS[name]
    prints.assert_printable(draw(), labels)


def test_forest_shows_the_numbers_and_the_null_of_all_genes():
    fig = figures.forest(BOARD, boards.null(BOARD))
    best = BOARD[(BOARD["scheme"] == "preserved-site") & (BOARD["rank"] == 1)].iloc[0]
    left = fig.axes[0]
    assert left.get_title(loc="left") == "Preserved-site folds"
    assert f"{best['mean_rho']:.3f}".lstrip("0") in " ".join(prints.texts(left))
    bands = [band.get_paths()[0].vertices[:, 0] for band in left.collections if isinstance(band, PolyCollection)]
    # The band of all genes permuted within sites, not the wide ones of a group and of free permutation.
    assert {(band.min(), band.max()) for band in bands} == {(-0.012, 0.011)}


def test_forest_separates_controls():
    names = [label.get_text() for label in figures.forest(BOARD).axes[0].get_yticklabels()]
    ranked = 2 * len(boards.ENCODERS)
    assert all(name.split()[0] in boards.ENCODERS for name in names[:ranked])
    assert all(name.split()[0] in boards.CONTROLS for name in names[ranked:])


def test_one_scheme_and_one_probe_are_enough():
    part = SCORES[(SCORES["scheme"] == "random-patient") & (SCORES["probe"] == "ridge")]
    board = BOARD[(BOARD["scheme"] == "random-patient") & (BOARD["probe"] == "ridge")]
    for fig in (figures.forest(board), figures.violins(part, board)):
        assert "random-patient folds" in fig.alt


def test_undefined_scores_are_no_part_of_a_violin():
    holes = SCORES.copy()
    holes.loc[holes["gene"] == "null-0", "rho"] = np.nan
    assert figures.violins(holes, BOARD).data["gene"].nunique() == SCORES["gene"].nunique() - 1


def test_differences_do_not_depend_on_the_order_of_the_pairs():
    table = boards.differences(BOARD)
    table = table[table["scheme"] == "preserved-site"]
    turned = table.rename(columns={f"{k}_{x}": f"{k}_{y}" for k in ("encoder", "probe") for x, y in ("ab", "ba")})
    turned = turned.assign(delta=-turned["delta"])
    mixed = pd.concat([table[::2], turned[1::2]]).sample(frac=1, random_state=0)
    one, other = figures.differences(table).axes[0], figures.differences(mixed).axes[0]
    assert prints.texts(one) == prints.texts(other)
    mesh = next(child for child in one.collections if isinstance(child, QuadMesh))
    drawn = np.ma.filled(mesh.get_array().reshape(9, 9), np.nan)
    ranked = BOARD[(BOARD["scheme"] == "preserved-site") & BOARD["rank"].notna()].sort_values("rank")["mean_rho"]
    expected = ranked.to_numpy()[:-1, None] - ranked.to_numpy()[None, 1:]
    assert np.isnan(drawn[np.tril_indices(9, -1)]).all()
    assert drawn[np.triu_indices(9)] == pytest.approx(expected[np.triu_indices(9)])


def test_differences_mark_pairs_that_differ_and_pairs_that_are_equal():
    table = boards.differences(TWO)
    table = table[table["scheme"] == "preserved-site"].assign(p_holm=0.5, p_rope=0.5)
    places = [list(table.columns).index(column) for column in ("p_holm", "p_rope")]
    table.iloc[0, places[0]] = 0.049
    table.iloc[1, places] = (0.001, 0.95)  # significant, but too small to matter
    fig = figures.differences(table, rope=0.02)
    ends = [text[-1] for text in prints.texts(fig.axes[0])]
    assert (ends.count("*"), ends.count("≈")) == (1, 1)
    assert "within ±0.02" in fig.alt
    assert "|Δ| < .02 in 95 % of the draws" in fig.legends[0].get_texts()[1].get_text()


def test_differences_have_the_same_colours_in_every_study():
    table = boards.differences(TWO)
    for factor in (1.0, 0.1):
        mesh = figures.differences(table.assign(delta=table["delta"] * factor)).axes[0].collections[0]
        assert mesh.get_clim() == (0, 0.1)


def test_heat_map_has_the_best_genes_of_the_competitors():
    data = figures.gene_heatmap(SCORES, BOARD, n=5).data
    own = SCORES[(SCORES["scheme"] == "preserved-site") & SCORES["encoder"].isin(list(boards.ENCODERS))]
    best = own.groupby("gene")["rho"].mean().nlargest(5)
    assert set(data.columns) == {"encoder", "probe", "scheme", *best.index}
    assert len(data) == len(BOARD[BOARD["scheme"] == "preserved-site"])


def test_encoders_are_compared_with_the_first_one_by_their_best_probes():
    fig = figures.encoder_against_encoder(SCORES, BOARD)
    ranked = BOARD[(BOARD["scheme"] == "preserved-site") & BOARD["rank"].notna()].sort_values("rank")
    first, *others = ranked.drop_duplicates("encoder").itertuples()
    assert [ax.get_ylabel().split(" ")[1] for ax in fig.axes] == [row.encoder for row in others]
    rho = SCORES[SCORES["scheme"] == "preserved-site"].pivot_table(
        index="gene", columns=["encoder", "probe"], values="rho"
    )
    for row, ax in zip(others, fig.axes, strict=True):
        below = (rho[first.encoder, first.probe] > rho[row.encoder, row.probe]).mean()
        assert ax.get_title(loc="left") == f"{below:.0%} below the line".replace("%", " %")


def test_spread_without_seeds_has_no_panel_for_them():
    assert len(figures.spread(boards.spread(TWO), TWO).axes) == 2
    table = boards.spread(BOARD)
    fig = figures.spread(table, BOARD)
    dashes = prints.texts(fig.axes[2]).count("–")
    assert dashes == table.loc[table["scheme"] == "preserved-site", "sd_seeds"].isna().sum()
