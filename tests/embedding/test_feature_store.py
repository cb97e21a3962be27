"""Feature files: what is written comes back, laid out as TRIDENT's readers and memory maps want it."""

import h5py
import numpy as np

from wsibench.embedding.feature_store import read_features, write_features


def test_what_is_written_comes_back_as_float16(tmp_path):
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    coords = np.arange(10).reshape(5, 2)
    write_features(tmp_path / "a.h5", features, coords, encoder="colour", revision=None, tile_um=112.0)
    got, where = read_features(tmp_path / "a.h5")
    assert got.dtype == np.float16
    assert where.dtype == np.int64
    np.testing.assert_array_equal(got, features.astype(np.float16))
    np.testing.assert_array_equal(where, coords)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].chunks is None
        assert dict(file["features"].attrs) == {"encoder": "colour", "tile_um": 112.0}


def test_the_same_features_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_features(tmp_path / name, np.ones((3, 2)), np.zeros((3, 2)), key="k")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_slide_without_tiles_keeps_its_width(tmp_path):
    write_features(tmp_path / "a.h5", np.zeros((0, 7)), np.zeros((0, 2)))
    features, coords = read_features(tmp_path / "a.h5")
    assert features.shape == (0, 7)
    assert coords.shape == (0, 2)
