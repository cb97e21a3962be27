"""Figures of slides, and the stage that draws what applies to a study."""

import boards
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.collections import PolyCollection

from wsibench import figures, tiling
from wsibench.cohort import build as cohort
from wsibench.core import Study, TooManyFailures

BOARD = boards.leaderboard(boards.scores())


@pytest.fixture
def study(data_root, write_svs, monkeypatch):
    """Two slides of tissue at different resolutions and a file that is no slide; no expression."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
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
    tiles = tiling.read_tiles(study.tiles_parquet("b"))
    collections = [c for c in fig.axes[1].collections if isinstance(c, PolyCollection)]
    squares = next(c for c in collections if len(c.get_paths()) == len(tiles))
    corners = np.array([path.vertices[0] for path in squares.get_paths()])
    assert corners == pytest.approx(tiles[["x", "y"]].to_numpy() * 0.25)
    side = np.ptp(squares.get_paths()[0].vertices, axis=0)
    assert side == pytest.approx([112, 112])
    assert "0.07 mm² tissue" in fig.axes[1].get_title(loc="left")


def test_attention_is_relative_to_uniform(study):
    tiles = tiling.read_tiles(study.tiles_parquet("a"))
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
