"""Figures of the cohort: sites and subtypes, maps of the mean features, and site predictability."""

import anndata
import boards
import numpy as np
import pandas as pd
import prints
import pytest
from boards import BOARD, NINE, TWO

from wsibench import figures


def patients():
    """A cohort of 39 sites of very different size, as TCGA-BRCA's."""
    site = [f"S{i:02}" for i in range(39) for _ in range(1 + (i * 7) % 23)]
    frame = pd.DataFrame({"slide_id": [f"P{i}-1" for i in range(len(site))], "site": site})
    frame["patient_id"] = frame["slide_id"].str[:-2]
    frame["subtype"] = [["LumA", "LumB", "Her2", "Basal", ""][i % 5] for i in range(len(site))]
    return pd.concat([frame, frame.head(30).assign(slide_id=[f"P{i}-2" for i in range(30)])])


def benchmark():
    rng = np.random.default_rng(0)
    table = patients().drop_duplicates("patient_id").set_index("patient_id")
    table["external"] = np.where(np.arange(len(table)) % 3 == 0, 0, -1).astype(np.int8)
    features = {name: rng.normal(size=(len(table), 20)).astype(np.float32) for name in ("uni", "phikon", "colour")}
    features["uni"][:, 3] = 1.0  # a column that never varies
    obs, uns = table[["site", "subtype", "external"]], {"wsibench": {"encoders": ["uni", "phikon"]}}
    return anndata.AnnData(np.zeros((len(table), 1), np.float32), obs=obs, obsm=features, uns=uns)


def test_overview():
    fig = figures.cohort_overview(patients())
    prints.assert_printable(fig, ["S38", "LumA"])
    assert fig.data["n_slides"].value_counts().to_dict() == {1: len(fig.data) - 30, 2: 30}


def test_feature_map():
    fig = figures.feature_map(benchmark(), ["uni", "phikon", "colour"])
    prints.assert_printable(fig, ["uni", "others"])


def test_feature_map_of_competitors_by_external_cohort():
    fig = figures.feature_map(benchmark(), colour="external")
    assert set(fig.data["encoder"]) == {"uni", "phikon"}
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["test", "train"]


@pytest.mark.parametrize(("board", "label"), [(TWO, "Difference between fold schemes"), (NINE, "prov-gigapath-slide")])
def test_site_predictability(board, label):
    prints.assert_printable(figures.site_predictability(boards.sites(board), board), [label])


def test_one_scheme_has_no_loss_on_new_sites():
    one = BOARD[BOARD["scheme"] == "random-patient"]
    assert len(figures.site_predictability(boards.sites(one), one).axes) == 1
    lost = figures.site_predictability(boards.sites(BOARD), BOARD).data.set_index(["encoder", "probe"])["rho_lost"]
    by = BOARD.set_index(["scheme", "encoder", "probe"])["mean_rho"]
    assert lost["uni", "ridge"] == by["random-patient", "uni", "ridge"] - by["preserved-site", "uni", "ridge"]
