"""Pictures of slides: tiles in their true places, attention relative to uniform, and slides that cannot be read."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from wsibench import figures
from wsibench.tiling import choose_tiles, find_tiles, open_slide, thumbnails


@pytest.fixture
def slides(write_svs, tmp_path, monkeypatch):
    """Two slides of tissue at different resolutions and a file that is no slide: slide_id, path, mpp."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    rng = np.random.default_rng(0)
    image = np.full((1600, 2000, 3), 245, np.uint8)
    image[300:1200, 400:1600] = np.array([196, 120, 170]) + rng.integers(-15, 15, (900, 1200, 1))
    paths = [write_svs(image, mpp, name=f"{name}.svs", downsamples=(1, 4)) for name, mpp in (("a", 0.5), ("b", 0.25))]
    (tmp_path / "c.svs").write_text("not a slide")
    return pd.DataFrame({"slide_id": list("abc"), "path": [*paths, tmp_path / "c.svs"], "mpp": ""})


def tiles_of(path):
    with open_slide(path) as slide:
        return choose_tiles(slide, find_tiles(slide), rng=np.random.default_rng(0), max_tiles=20)


def test_tiles_are_drawn_in_their_places(slides):
    path = slides["path"][1]
    tiles = tiles_of(path)
    fig = figures.tissue_and_tiles(path, tiles)
    collections = [c for c in fig.axes[1].collections if isinstance(c, PolyCollection)]
    kept = tiles[tiles["kept"]]
    squares = next(c for c in collections if len(c.get_paths()) == len(kept))
    corners = np.array([path.vertices[0] for path in squares.get_paths()])
    assert corners == pytest.approx(kept[["x", "y"]].to_numpy() * 0.25)
    side = np.ptp(squares.get_paths()[0].vertices, axis=0)
    assert side == pytest.approx([112, 112])
    assert "0.07 mm² tissue" in fig.axes[1].get_title(loc="left")


def test_attention_is_relative_to_uniform(slides):
    path = slides["path"][0]
    tiles = tiles_of(path).query("kept").reset_index(drop=True)
    attention = tiles[["x", "y"]].assign(slide_id="a", patient_id="Pa", attention=1.0)
    attention.loc[3, "attention"] = 21.0
    attention["attention"] /= attention["attention"].sum()
    fig = figures.slide_attention(path, tiles, attention, label="colour, attention MIL")
    assert fig.data["relative_attention"].mean() == pytest.approx(1)
    top = fig.data.iloc[0]
    assert (top["x"], top["y"]) == tuple(tiles.loc[3, ["x", "y"]])
    assert top["relative_attention"] == pytest.approx(21 * len(tiles) / (20 + len(tiles)))


def test_galleries_and_thumbnails_name_their_slides(slides):
    tiles = {path: tiles_of(path) for path in slides["path"][:2]}
    one = figures.tile_gallery({slides["path"][0]: tiles[slides["path"][0]]}, n=8)
    assert set(one.data["slide_id"]) == {"a"}
    assert figures.tile_gallery(tiles, n=8).data["slide_id"].value_counts().to_dict() == {"a": 4, "b": 4}
    shown = figures.slide_thumbnails(thumbnails(slides[:2])).data
    assert shown["width_um"].tolist() == pytest.approx([1000, 500])
    assert shown["tissue_mm2"].tolist() == pytest.approx([0.27, 0.0675], rel=0.1)  # the mask is smooth at the rim


def test_slide_that_cannot_be_read_is_an_empty_panel_with_the_reason(slides):
    fig = figures.slide_thumbnails(thumbnails(slides))
    assert "c.svs is not a slide" in " ".join(fig.axes[2].texts[0].get_text().split())
    assert "c (cannot be shown)" in fig.alt
    assert fig.data["slide_mpp"].notna().tolist() == [True, True, False]
