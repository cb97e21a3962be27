"""The pass over one slide: bounded memory, and the same arrays after an interruption."""

import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsibench import tiling
from wsibench.core import Artefact, SlideError
from wsibench.embedding import encoder, one_pass, read_features
from wsibench.embedding.one_pass import Output, Task, embed_slide, make_features

N_TILES, PX = 640, 224


class Endless:
    """A slide that makes its tiles as they are read, and counts the batches that are still in memory."""

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
def tiles():
    tiles = pd.DataFrame({"x": np.arange(N_TILES), "y": 0})
    tiles.attrs = {"tile_um": 112.0, "slide_mpp": 0.5}
    return tiles


@pytest.fixture
def task(tmp_path, tiles, monkeypatch):
    """Two encoders to embed a slide with, neither of which looks at more than a few numbers."""
    monkeypatch.setattr(tiling, "read_tiles", lambda path: tiles)
    monkeypatch.setattr(one_pass, "_loaded", lambda *_: first_numbers)
    outputs = [
        Output(encoder(name), None, "", Artefact(tmp_path / name / "s.h5", name)) for name in ("colour", "random-vit")
    ]
    return Task("s", tmp_path / "s.svs", tuple(outputs), wanted_mpp=0.5)


def first_numbers(batch):
    return batch[:, :4, 0, 0].float()


def test_only_a_few_batches_of_tiles_are_in_memory(task, monkeypatch):
    slide = Endless()
    monkeypatch.setattr(tiling, "open_slide", lambda *_, **__: slide)
    make_features(task)
    assert len(slide.batches) == N_TILES / one_pass.BATCH
    assert slide.most_alive <= 3
    features, coords = read_features(task.outputs[0].artefact.path)
    np.testing.assert_array_equal(features[:, 0], np.arange(N_TILES) // one_pass.BATCH)
    np.testing.assert_array_equal(coords[:, 0], np.arange(N_TILES))


def test_undecodable_tiles_are_left_out_of_features_and_coordinates(task, monkeypatch):
    slide = Endless()
    read = slide.read_tiles
    slide.read_tiles = lambda xy, **more: ((i[i % 7 != 0], t[i % 7 != 0]) for i, t in read(xy, **more))
    monkeypatch.setattr(tiling, "open_slide", lambda *_, **__: slide)
    make_features(task)
    features, coords = read_features(task.outputs[0].artefact.path)
    kept = np.array([index for index in range(N_TILES) if index % 7])
    assert len(features) == len(kept)
    np.testing.assert_array_equal(coords[:, 0], kept)
    np.testing.assert_array_equal(features[:, 0], kept // one_pass.BATCH)


def test_an_interrupted_pass_leaves_no_partial_file_and_is_repeated_to_the_same_bytes(task, monkeypatch):
    monkeypatch.setattr(tiling, "open_slide", lambda *_, **__: Endless())
    make_features(task)
    paths = [output.artefact.path for output in task.outputs]
    unbroken = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()

    write = one_pass.write_features
    with monkeypatch.context() as patch:
        patch.setattr(one_pass, "write_features", lambda path, *_, **__: cut(path))
        with pytest.raises(KeyboardInterrupt):
            make_features(task)
    assert not any(path.exists() for path in paths)
    assert all(output.artefact.due() for output in task.outputs)
    assert one_pass.write_features is write
    make_features(task)
    assert [path.read_bytes() for path in paths] == unbroken
    assert not list(paths[0].parent.glob(".*part*"))


def cut(path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_embedding_a_slide_needs_no_study(tiles):
    features, decoded = embed_slide(Endless(), tiles, [first_numbers])
    assert decoded.all()
    assert features[0].dtype == np.float16
    np.testing.assert_array_equal(features[0][:, 0], np.arange(N_TILES) // one_pass.BATCH)


def test_a_slide_without_a_decodable_tile_is_refused(tiles):
    slide = Endless()
    slide.path, slide.read_tiles = Path("s.svs"), lambda *_, **__: iter(())
    with pytest.raises(SlideError, match=r"No tile of s\.svs can be decoded"):
        embed_slide(slide, tiles, [first_numbers], max_bad=1.0)
