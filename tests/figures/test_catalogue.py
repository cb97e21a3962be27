"""Stage 07: figures that apply to a study are drawn once, and deleted when they no longer apply."""

import boards
import numpy as np
import pandas as pd
import pytest
import yaml

from wsibench import cohort, figures, tiling
from wsibench.core import Study, TooManyFailures, WsibenchError
from wsibench.figures.catalogue import MODULES, catalogue


@pytest.fixture
def study(data_root, write_svs, monkeypatch):
    """Two slides of tissue at different resolutions and a file that is no slide, without expression."""
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


def test_study_without_expression_has_figures_of_its_slides(study):
    drawn = figures.draw(study)
    assert set(drawn["figure"]) == {"tissue_and_tiles", "tile_gallery", "slide_thumbnails", "cohort_overview"}
    assert not any(artefact.due() for artefact in figures.expected(study))
    assert not (study.figures / "leaderboard.csv").exists()
    for shown in figures.saved(study):
        assert 'alt="' in shown.data
        assert "data:image/" in shown.data


def test_current_figures_are_not_drawn_again(study):
    figures.draw(study)
    before = {path: path.stat().st_mtime_ns for path in study.figures.iterdir()}
    figures.draw(study)
    assert before == {path: path.stat().st_mtime_ns for path in study.figures.iterdir()}


def test_figures_that_no_longer_apply_are_deleted(study):
    figures.draw(study)
    own = study.figures / "my_own.png"
    own.write_text("kept")
    old = figures.save(figures.forest(boards.BOARD), study.figures / "forest", study_key="of-an-earlier-study")
    figures.draw(study)
    assert not any(path.exists() for path in old)
    assert own.exists()


def test_no_slide_left_means_no_figures_of_slides(study, data_root):
    (data_root / "own" / "slides.csv").write_text("slide_id,patient_id,path\nc,Pc,../../c.svs\n")
    study = Study.load("own")
    cohort.build(study)
    with pytest.raises(TooManyFailures):
        tiling.tile_slides(study)
    assert list(figures.draw(study)["figure"]) == ["cohort_overview"]


def test_some_figures_alone(study):
    figures.draw(study, only=["cohort_overview"])
    assert sorted(path.name for path in study.figures.glob("*.png")) == ["cohort_overview.png"]
    with pytest.raises(WsibenchError, match="no figure forrest"):
        figures.draw(study, only=["forrest"])


def test_catalogue_exports_every_figure():
    assert {entry.name for entry in catalogue()} <= set(figures.__all__)
    assert {entry.function.__module__.rsplit(".", 1)[1] for entry in catalogue()} == set(MODULES)
    assert all(entry.title and entry.caption.endswith(".") for entry in catalogue())
