"""Means and bags of tile features, without a study."""

import numpy as np
import pandas as pd
import pytest

from wsibench.assembly import bag_index, mean_features, patient_table, pooling, read_bags
from wsibench.core import CohortError
from wsibench.embedding import write_features

SLIDES = pd.DataFrame(
    {"slide_id": ["a1", "a2", "b1"], "patient_id": ["A", "A", "B"], "site": ["X", "X", ""], "subtype": ""}
)


@pytest.fixture
def folder(tmp_path):
    """Features of three slides with 1, 3 and 2 tiles: the number of the tile, in every dimension."""
    for slide, tiles in zip(SLIDES["slide_id"], ([0], [1, 2, 6], [4, 5]), strict=True):
        x = np.repeat(np.array(tiles, np.float16)[:, None], 3, axis=1)
        write_features(tmp_path / f"{slide}.h5", x, np.stack([tiles, np.zeros(len(tiles))], axis=1))
    return tmp_path


def test_every_tile_has_the_same_weight(folder):
    slides = SLIDES.assign(path=[folder / f"{slide}.h5" for slide in SLIDES["slide_id"]])
    features, n_tiles = mean_features(slides)
    assert features.loc["A"].tolist() == [9 / 4] * 3
    assert features.loc["B"].tolist() == [9 / 2] * 3
    assert n_tiles.to_dict() == {"a1": 1, "a2": 3, "b1": 2}


def test_patients_without_tiles_have_no_mean(folder):
    write_features(folder / "b1.h5", np.zeros((0, 3)), np.zeros((0, 2)))
    slides = SLIDES.assign(path=[folder / f"{slide}.h5" for slide in SLIDES["slide_id"]])
    assert mean_features(slides)[0].index.tolist() == ["A"]


def test_features_that_are_not_finite_are_refused(folder):
    write_features(folder / "b1.h5", np.full((1, 3), np.nan), np.zeros((1, 2)))
    slides = SLIDES.assign(path=[folder / f"{slide}.h5" for slide in SLIDES["slide_id"]])
    with pytest.raises(CohortError, match=r"b1\.h5 holds features that are not finite"):
        mean_features(slides)


def test_slides_that_are_not_used_do_not_count():
    slides = SLIDES.assign(used=[True, False, True], n_tiles=[1, 3, 2])
    obs = patient_table(slides, pd.Index(["B", "A"]))
    assert obs["slide_ids"].tolist() == ["b1", "a1"]
    assert obs["n_tiles"].tolist() == [2, 1]
    assert obs["site"].tolist() == ["", "X"]


def test_bags_and_their_index_are_in_the_order_of_the_patients(folder, monkeypatch):
    obs = pd.DataFrame({"slide_ids": ["b1", "a1;a2"]}, index=["B", "A"])
    bags, index = read_bags(obs, [folder]), bag_index(obs, [folder])
    assert [bag[:, 0].tolist() for bag in bags] == [[4, 5], [0, 1, 2, 6]]
    assert index["x"].tolist() == [4, 5, 0, 1, 2, 6]
    assert index["slide_id"].tolist() == ["b1", "b1", "a1", "a2", "a2", "a2"]
    monkeypatch.setattr(pooling, "IN_MEMORY", 0)
    stored = read_bags(obs, [folder])
    assert not isinstance(stored, list)
    assert [bag[:, 0].tolist() for bag in stored] == [[4, 5], [0, 1, 2, 6]]


def test_bags_of_two_studies_are_read_from_the_folder_of_each(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("test")
    write_features(other / "a1.h5", np.full((2, 3), 7), np.zeros((2, 2)))
    obs = pd.DataFrame({"slide_ids": ["a1", "a1"], "external": np.int8([-1, 0])}, index=["A", "N"])
    assert [bag[:, 0].tolist() for bag in read_bags(obs, [folder, other])] == [[0], [7, 7]]
