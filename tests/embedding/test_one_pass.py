"""The pass itself: bounded memory, and an interrupted one carried on to the same arrays."""

import weakref

import numpy as np
import pandas as pd
import pytest

from wsibench.core import Artefact, Study
from wsibench.embedding import one_pass as onepass
from wsibench.embedding.encoders import encoder
from wsibench.embedding.feature_store import read_features
from wsibench.embedding.one_pass import Due, Task, make_features

N_TILES, PX = 640, 224


class Endless:
    """A slide that makes its tiles as they are read, and knows how many batches of them are still alive."""

    def __init__(self):
        self.batches, self.most_alive = [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def tile_px(self, tile_um, wanted_mpp):
        return PX

    def read_tiles(self, xy, *, batch, **_):
        for start in range(0, len(xy), batch):
            indices = np.arange(start, min(start + batch, len(xy)))
            tiles = np.full((len(indices), PX, PX, 3), start // batch, np.uint8)
            self.batches.append(weakref.ref(tiles))
            yield indices, tiles
            del tiles
            self.most_alive = max(self.most_alive, sum(made() is not None for made in self.batches))


@pytest.fixture
def task(data_root, monkeypatch):
    (data_root / "tiny").mkdir()
    (data_root / "tiny" / "study.yaml").write_text("title: T\ncohort: {source: simulate}\nencoders: [colour]\n")
    study = Study.load("tiny")
    tiles = pd.DataFrame({"x": np.arange(N_TILES), "y": 0})
    tiles.attrs = {"tile_um": 112.0, "slide_mpp": 0.5}
    monkeypatch.setattr(onepass, "read_tiles", lambda path: tiles)
    due = [
        Due(encoder(name), None, "", Artefact(study.features_h5(name, "s"), name)) for name in ("colour", "random-vit")
    ]
    return Task(study, "s", data_root / "s.svs", 0.5, tuple(due))


def test_no_more_than_a_few_batches_of_a_slide_are_in_memory(task, monkeypatch):
    slide = Endless()
    monkeypatch.setattr(onepass, "open_slide", lambda *_, **__: slide)
    monkeypatch.setattr(onepass, "_load", lambda due, study, device: lambda tiles: tiles[:, :4, 0, 0].float())
    assert make_features(task)[0] == N_TILES
    assert len(slide.batches) == N_TILES / onepass.BATCH
    assert slide.most_alive <= 3
    features, coords = read_features(task.study.features_h5("colour", "s"))
    np.testing.assert_array_equal(features[:, 0], np.arange(N_TILES) // onepass.BATCH)
    np.testing.assert_array_equal(coords[:, 0], np.arange(N_TILES))


def test_tiles_that_cannot_be_decoded_are_left_out_of_features_and_coordinates_alike(task, monkeypatch):
    slide = Endless()
    read = slide.read_tiles
    slide.read_tiles = lambda xy, **more: ((i[i % 7 != 0], t[i % 7 != 0]) for i, t in read(xy, **more))
    monkeypatch.setattr(onepass, "open_slide", lambda *_, **__: slide)
    monkeypatch.setattr(onepass, "_load", lambda due, study, device: lambda tiles: tiles[:, :4, 0, 0].float())
    n_tiles, _ = make_features(task)
    features, coords = read_features(task.study.features_h5("colour", "s"))
    kept = np.array([index for index in range(N_TILES) if index % 7])
    assert n_tiles == len(kept)
    np.testing.assert_array_equal(coords[:, 0], kept)
    np.testing.assert_array_equal(features[:, 0], kept // onepass.BATCH)


def test_an_interrupted_pass_leaves_nothing_half_made_and_is_carried_on_to_the_same_bytes(task, monkeypatch):
    monkeypatch.setattr(onepass, "open_slide", lambda *_, **__: Endless())
    monkeypatch.setattr(onepass, "_load", lambda due, study, device: lambda tiles: tiles[:, :4, 0, 0].float())
    make_features(task)
    paths = [due.artefact.path for due in task.due]
    unbroken = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()

    write = onepass.write_features
    with monkeypatch.context() as patch:
        patch.setattr(onepass, "write_features", lambda path, *_, **__: cut(path))
        with pytest.raises(KeyboardInterrupt):
            make_features(task)
    assert not any(path.exists() for path in paths)
    assert all(due.artefact.due() for due in task.due)
    assert onepass.write_features is write
    make_features(task)
    assert [path.read_bytes() for path in paths] == unbroken
    assert not list(paths[0].parent.glob(".*part*"))


def cut(path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt
