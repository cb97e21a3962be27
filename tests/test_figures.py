"""Figures: printed size, readable labels, stable colours, the same bytes each time, numbers that are the input's."""

import subprocess
import sys
from itertools import combinations

import anndata
import boards
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from PIL import Image

from wsibench import cohort, figures, tiling
from wsibench.errors import TooManyFailures
from wsibench.study import Study

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


def visible(fig):
    """Every text that can be seen, with its extent in px."""
    renderer = FigureCanvasAgg(fig).get_renderer()
    # Ticks beyond an axis' limits exist, but are not drawn.
    hidden = set()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9]
        hidden |= {label for tick in beyond for label in (tick.label1, tick.label2)}
    texts = [text for text in fig.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in texts if text not in hidden]


def test_says_what_it_shows(plot):
    fig, labels = plot
    texts = {text.get_text() for text in fig.findobj(Text)}
    assert set(labels) <= texts
    assert len(figures.alt_text(fig)) > 60
    assert len(fig.data)


def test_has_a_printed_size(plot):
    fig, _ = plot
    width, height = fig.get_size_inches() * 25.4
    assert width == pytest.approx(89) or width == pytest.approx(183)
    assert height <= 170.1
    assert all(5 <= text.get_fontsize() <= 7 for text, _ in visible(fig))


def test_labels_neither_overlap_nor_leave_the_page(plot):
    fig, _ = plot
    found = visible(fig)
    page = fig.bbox.padded(1)
    for text, box in found:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
    for (one, a), (other, b) in combinations(found, 2):
        shared = [min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)]
        assert min(shared) <= 1.5, f"{one.get_text()!r} over {other.get_text()!r}"


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


# On slides


@pytest.fixture
def study(data_root, write_svs, monkeypatch):
    """Two slides of tissue at different resolutions and a file that is no slide; no expression."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "1")
    rng = np.random.default_rng(0)
    image = np.full((1600, 2000, 3), 245, np.uint8)
    tissue = np.array([196, 120, 170]) + rng.integers(-15, 15, (900, 1200, 1))
    image[300:1200, 400:1600] = tissue
    for name, mpp in (("a", 0.5), ("b", 0.25)):
        write_svs(image, mpp, name=f"{name}.svs", downsamples=(1, 4))
    folder = data_root / "own"
    folder.mkdir()
    (folder.parents[1] / "c.svs").write_text("not a slide")
    rows = [(name, f"P{name}", f"../../{name}.svs", "S1") for name in "abc"]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path", "site"]).to_csv(folder / "slides.csv", index=False)
    content = {
        "title": "Own slides",
        "cohort": {"source": "local", "slides": "slides.csv"},
        "encoders": ["colour"],
        "controls": [],
        "limits": {"failed_slides": 0.5},
        "tiles": {"max_tiles": 20},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    study = Study.load("own")
    cohort.build(study)
    tiling.tile_slides(study)
    return study


def test_tiles_are_drawn_where_they_are(study):
    fig = figures.tissue_and_tiles(study, "b")
    tiles = tiling.read_tiles(study, "b")
    collections = [c for c in fig.axes[1].collections if isinstance(c, PolyCollection)]
    squares = next(c for c in collections if len(c.get_paths()) == len(tiles))
    corners = np.array([path.vertices[0] for path in squares.get_paths()])
    assert corners == pytest.approx(tiles[["x", "y"]].to_numpy() * 0.25)
    side = np.ptp(squares.get_paths()[0].vertices, axis=0)
    assert side == pytest.approx([112, 112])
    assert "0.07 mm² tissue" in fig.axes[1].get_title(loc="left")


def test_attention_is_relative_to_uniform(study):
    tiles = tiling.read_tiles(study, "a")
    attention = tiles[["x", "y"]].assign(slide_id="a", patient_id="Pa", attention=1.0)
    attention.loc[3, "attention"] = 21.0
    attention["attention"] /= attention["attention"].sum()
    fig = figures.slide_attention(study, attention, "a", label="colour, attention MIL")
    assert fig.data["relative_attention"].mean() == pytest.approx(1)
    top = fig.data.iloc[0]
    assert (top["x"], top["y"]) == tuple(tiles.loc[3, ["x", "y"]])
    assert top["relative_attention"] == pytest.approx(21 * len(tiles) / (20 + len(tiles)))


def test_galleries_and_thumbnails_name_their_slides(study):
    assert set(figures.tile_gallery(study, "a", n=8).data["slide_id"]) == {"a"}
    assert figures.tile_gallery(study, ["a", "b"], n=8).data["slide_id"].value_counts().to_dict() == {"a": 4, "b": 4}
    thumbnails = figures.slide_thumbnails(study, ["a", "b"], tissue=True)
    assert thumbnails.data["width_um"].tolist() == pytest.approx([1000, 500])
    assert thumbnails.data["tissue_mm2"].tolist() == pytest.approx(
        [0.27, 0.0675], rel=0.1
    )  # the mask is smooth at the rim


def test_a_slide_that_cannot_be_read_says_so_in_its_place(study):
    fig = figures.slide_thumbnails(study, ["a", "c"])
    assert "c.svs is not a slide" in " ".join(fig.axes[1].texts[0].get_text().split())
    assert "c (cannot be shown)" in fig.alt


# The stage


def test_a_study_without_expression_gets_its_slides_only(study):
    drawn = figures.draw(study)
    assert set(drawn["figure"]) == {"tissue_and_tiles", "tile_gallery", "slide_thumbnails", "cohort_overview"}
    assert not any(artefact.due() for artefact in figures.expected(study))
    assert not (study.figures / "leaderboard.csv").exists()
    for shown in figures.saved(study):
        assert 'alt="' in shown.data
        assert "data:image/" in shown.data


def test_nothing_is_drawn_twice(study):
    figures.draw(study)
    before = {path: path.stat().st_mtime_ns for path in study.figures.iterdir()}
    figures.draw(study)
    assert before == {path: path.stat().st_mtime_ns for path in study.figures.iterdir()}


def test_what_no_longer_applies_is_taken_away(study):
    figures.draw(study)
    own = study.figures / "my_own.png"
    own.write_text("kept")
    old = figures.save(figures.forest(BOARD), study.figures / "forest", study_key="of-an-earlier-study")
    figures.draw(study)
    assert not any(path.exists() for path in old)
    assert own.exists()


def test_no_slide_left_means_no_slide_figures(study, data_root):
    (data_root / "own" / "slides.csv").write_text("slide_id,patient_id,path\nc,Pc,../../c.svs\n")
    study = Study.load("own")
    cohort.build(study)
    with pytest.raises(TooManyFailures):
        tiling.tile_slides(study)
    assert list(figures.draw(study)["figure"]) == ["cohort_overview"]
