"""Figures: printed size, readable labels, stable colours, the same bytes each time, numbers that are the input's."""

import subprocess
import sys

import anndata
import boards
import matplotlib as mpl
import numpy as np
import pandas as pd
import prints
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

from wsibench import figures

SCORES = boards.scores()
BOARD = boards.leaderboard(SCORES)
MANY_SCORES = boards.scores(("ridge", "pca-ridge", "mean-sd-ridge", "knn", "mlp", "abmil"))
MANY = boards.leaderboard(MANY_SCORES)


def predicted():
    rng = np.random.default_rng(0)
    measured = pd.DataFrame(rng.normal(size=(60, 6)), [f"P{i}" for i in range(60)], [f"GENE{i}" for i in range(6)])
    rho = pd.Series(0.5, measured.columns)
    return figures.predicted_measured(measured * 0.5, measured, rho, unit="z-score", label="uni, ridge")


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
    features = {name: rng.normal(size=(len(table), 20)).astype(np.float32) for name in ("uni", "phikon", "colour")}
    features["uni"][:, 3] = 1.0  # a dead dimension
    return anndata.AnnData(np.zeros((len(table), 1), np.float32), obs=table[["site", "subtype"]], obsm=features)


PLOTS = {
    "forest": (lambda: figures.forest(BOARD, boards.null(BOARD)), ["h-optimus-0 · ridge", "phikon † · attention MIL"]),
    "violins": (lambda: figures.violins(SCORES, BOARD), ["uni", "site\n(control)", "gene-wise Spearman ρ"]),
    "rank_frequencies": (lambda: figures.rank_frequencies(boards.rank_frequencies(BOARD)), ["uni · ridge"]),
    "site_gap": (lambda: figures.site_gap(BOARD), ["dinov2-large", "preserved-site\nfolds"]),
    "reached": (lambda: figures.truth_against_reached(boards.groups(SCORES), BOARD), ["size genes", "null genes"]),
    "predicted": (predicted, ["GENE0, ρ = 0.50", "measured expression (z-score)"]),
    "curves": (lambda: figures.curves(boards.curves(["uni", "phikon"]), scheme="preserved-site"), ["uni", "epoch"]),
    "cohort": (lambda: figures.cohort_overview(patients()), ["S38", "LumA"]),
    "forest, many": (lambda: figures.forest(MANY, boards.null(MANY)), ["uni · mean-SD ridge"]),
    "violins, many": (lambda: figures.violins(MANY_SCORES, MANY), ["PCA ridge, preserved-site folds"]),
    "ranks, many": (lambda: figures.rank_frequencies(boards.rank_frequencies(MANY)), ["uni · kNN"]),
    "site_gap, many": (lambda: figures.site_gap(MANY), ["kNN", "MLP", "dinov2-large"]),
    "reached, many": (lambda: figures.truth_against_reached(boards.groups(MANY_SCORES), MANY), ["null genes"]),
    "feature_map": (lambda: figures.feature_map(benchmark(), ["uni", "phikon", "colour"]), ["uni", "others"]),
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


def test_forest_numbers_and_null():
    fig = figures.forest(BOARD, boards.null(BOARD))
    best = BOARD[(BOARD["scheme"] == "preserved-site") & (BOARD["rank"] == 1)].iloc[0]
    left = fig.axes[0]
    assert left.get_title(loc="left") == "Preserved-site folds"
    assert f"{best['mean_rho']:.3f}".lstrip("0") in " ".join(text.get_text() for text in left.texts)
    bands = [band.get_paths()[0].vertices[:, 0] for band in left.collections if isinstance(band, PolyCollection)]
    # The band of all genes under shuffling within sites, not the wide ones of a group and of free shuffling.
    assert {(band.min(), band.max()) for band in bands} == {(-0.012, 0.011)}


def test_forest_sets_controls_apart():
    names = [label.get_text() for label in figures.forest(BOARD).axes[0].get_yticklabels()]
    ranked = 2 * len(boards.ENCODERS)
    assert all(name.split()[0] in boards.ENCODERS for name in names[:ranked])
    assert all(name.split()[0] in boards.CONTROLS for name in names[ranked:])


def test_crowded_groups_show_the_best_probe_of_each_encoder():
    fig = figures.truth_against_reached(boards.groups(MANY_SCORES), MANY)
    drawn = [line for line in fig.axes[0].lines if line.get_marker() not in ("None", None)]
    assert len(drawn) == len(boards.ENCODERS) + len(boards.CONTROLS)
    part = MANY[MANY["scheme"] == "preserved-site"].sort_values("mean_rho", ascending=False)
    best = part[part["rank"].notna()].drop_duplicates("encoder").iloc[0]
    group = boards.groups(MANY_SCORES).set_index(["scheme", "encoder", "probe", "group"])["mean_rho"]
    assert drawn[0].get_ydata()[0] == group["preserved-site", best["encoder"], best["probe"], "size_0.3"]


def test_one_scheme_and_one_probe_are_enough():
    part = SCORES[(SCORES["scheme"] == "random-patient") & (SCORES["probe"] == "ridge")]
    board = BOARD[(BOARD["scheme"] == "random-patient") & (BOARD["probe"] == "ridge")]
    reached = figures.truth_against_reached(boards.groups(part), board)
    for fig in (figures.forest(board), figures.violins(part, board), reached):
        assert "random-patient folds" in fig.alt


def test_undefined_scores_are_left_out():
    holes = SCORES.copy()
    holes.loc[holes["gene"] == "null-0", "rho"] = np.nan
    assert figures.violins(holes, BOARD).data["gene"].nunique() == SCORES["gene"].nunique() - 1


def test_colours_are_kept_by_encoder():
    everyone = [*boards.ENCODERS, *boards.CONTROLS, "mine", "yours", "theirs"]
    full = figures.palette(everyone)
    assert len(set(full.values())) == len(everyone)
    assert figures.palette(["uni"])["uni"] == full["uni"]
    assert figures.palette(reversed(everyone)) == full
    many = figures.palette([f"own-{i}" for i in range(30)])
    assert len(many) == 30


def test_saved_bytes_are_the_same_whatever_the_settings(tmp_path):
    names, board = [], BOARD[BOARD["probe"] == "ridge"]
    for i, size in enumerate((10, 14)):
        with mpl.rc_context({"font.size": size, "savefig.dpi": 72, "axes.grid": True}):
            fig = figures.forest(board, boards.null(board))
            names.append(figures.save(fig, tmp_path / str(i) / "forest", study_key=boards.STUDY_KEY))
    for one, other in zip(*names, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


def test_saved_files_carry_key_text_and_numbers(tmp_path):
    fig = figures.forest(BOARD)
    pdf, png, csv = figures.save(fig, tmp_path / "forest", study_key=boards.STUDY_KEY)
    with Image.open(png) as picture:
        assert boards.STUDY_KEY in picture.info["Source"]
        assert picture.info["Description"] == fig.alt
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert boards.STUDY_KEY.encode() in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    data = pd.read_csv(csv, dtype={"study_key": str})
    assert (data["study_key"] == boards.STUDY_KEY).all()
    assert np.allclose(data["mean_rho"], BOARD["mean_rho"], rtol=1e-12)


def test_importing_costs_nothing():
    code = "import sys, wsibench.figures; print([m for m in ('matplotlib', 'pandas', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
