"""The tiling stage: every slide of a study is tiled once, and failures are listed with their remedies."""

import numpy as np
import pandas as pd
import pytest

from wsibench import cohort, tiling
from wsibench.core import NotReady, Study, TooManyFailures, read_failures

GLASS, TISSUE = (243, 242, 245), (196, 120, 170)


def specimen(size: tuple[int, int] = (1600, 1600), box: tuple[int, int, int, int] = (400, 400, 1200, 1200)):
    """Glass with a rectangle (left, top, right, bottom) of textured tissue."""
    rng = np.random.default_rng(0)
    image = np.full((*size[::-1], 3), GLASS, np.int16)
    left, top, right, bottom = box
    image[top:bottom, left:right] = TISSUE + rng.integers(-15, 15, (bottom - top, right - left, 1))
    return image.astype(np.uint8)


@pytest.fixture
def study(data_root, write_svs, monkeypatch):
    """Make a study of the given images: ``study({slide_id: (image, mpp)}, **sections)``."""

    monkeypatch.setenv("WSIBENCH_WORKERS", "0")

    def make(slides, mpp_column=None, **sections):
        folder = data_root / "own"
        folder.mkdir(exist_ok=True)
        rows = []
        for slide_id, content in slides.items():
            path = folder / f"{slide_id}.svs"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                write_svs(*content, name=path.name).replace(path)
            rows.append({"slide_id": slide_id, "patient_id": f"P-{slide_id}", "path": str(path)})
            rows[-1] |= {"mpp": (mpp_column or {}).get(slide_id, "")}
        pd.DataFrame(rows).to_csv(folder / "slides.csv", index=False)
        text = {"title": "own", "cohort": {"source": "local", "slides": "slides.csv"}, **sections}
        (folder / "study.yaml").write_text(pd.io.json.ujson_dumps(text))
        made = Study.load("own")
        cohort.build(made)
        return made

    return make


def test_tile_slides_end_to_end(study):
    made = study(
        {"A": (specimen(), 0.5), "B": (specimen(), None), "C": b"not a slide"},
        tiles={"tile_um": 50, "max_tiles": 20},
        limits={"failed_slides": 1.0},
    )
    table = tiling.tile_slides(made).set_index("slide_id")
    assert table.index.tolist() == ["A"]
    assert table.loc["A", ["n_tissue_tiles", "n_tiles"]].tolist() == [64, 20]
    assert table.loc["A", ["slide_mpp", "width_um", "height_um"]].tolist() == [0.5, 800, 800]
    assert tiling.tiled_slides(made) == ["A"]
    tiles = tiling.read_tiles(made.tiles_parquet("A"))
    floats = dict.fromkeys(["tissue", "pen", "fold", "edge", "bubble", "sharpness"], "float32")
    numbers = dict.fromkeys(["x", "y", "row", "col"], "int64")
    assert tiles.dtypes.astype(str).to_dict() == {**numbers, **floats, "artefacts": "object", "kept": "bool"}
    assert tiles.attrs["slide_id"] == "A"
    assert (tiles.attrs["slide_mpp"], tiles.attrs["tile_um"]) == (0.5, 50)
    rows = {row.slide_id: row for row in read_failures(made.failures_csv) if row.stage == "tiling"}
    assert sorted(rows) == ["B", "C"]
    assert "mpp" in rows["B"].remedy
    with pytest.raises(NotReady, match="B has no tiles"):
        tiling.read_tiles(made.tiles_parquet("B"))


def test_mpp_of_the_sample_table_is_used(study):
    made = study({"B": (specimen(), None)}, mpp_column={"B": "0.25"}, tiles={"tile_um": 50})
    assert tiling.tile_slides(made).slide_mpp.tolist() == [0.25]


def test_tiles_are_made_once_and_again_after_a_setting_changes(study):
    slides = {"A": (specimen(), 0.5)}
    made = study(slides, tiles={"tile_um": 50})
    assert [artefact.due() for artefact in tiling.expected(made)] == ["missing"]
    tiling.tile_slides(made)
    first = made.tiles_parquet("A").stat().st_mtime_ns
    assert [artefact.due() for artefact in tiling.expected(made)] == [None]
    tiling.tile_slides(made)
    assert made.tiles_parquet("A").stat().st_mtime_ns == first
    other = study(slides, tiles={"tile_um": 60})
    assert "settings" in tiling.expected(other)[0].due()


def test_too_many_failures_stop_the_stage(study):
    made = study({"A": (specimen(), 0.5), "C": b"not a slide"})
    with pytest.raises(TooManyFailures, match="1 of 2 slides"):
        tiling.tile_slides(made)
    assert made.tiles_parquet("A").exists()


def test_damaged_tissue_is_counted_and_not_mistaken_for_glass(study, flip_bytes):
    made = study({"A": (specimen(), 0.5)}, tiles={"tile_um": 32}, limits={"bad_tiles": 0.3})
    flip_bytes(made.root / "A.svs", [16, 17])  # of 7 × 7 file tiles: x 512 to 1024, y 512 to 768
    cohort.build(made)
    table = tiling.tile_slides(made)
    tiles = tiling.read_tiles(made.tiles_parquet("A"))
    hit = (tiles.x + 64 > 512) & (tiles.x < 1024) & (tiles.y + 64 > 512) & (tiles.y < 768)
    assert not hit.any()
    assert table.n_damaged.tolist() == [8 * 4]
    assert table.n_tiles.tolist() == [13 * 13 - 8 * 4]

    made = study({"A": (specimen(), 0.5)}, tiles={"tile_um": 32}, limits={"failed_slides": 1.0})
    flip_bytes(made.root / "A.svs", [16, 17])
    cohort.build(made)
    assert tiling.tile_slides(made).empty
    (row,) = read_failures(made.failures_csv)
    assert "A.svs is damaged: at least 32 of 1" in row.error
    assert "limits.bad_tiles" in row.remedy
