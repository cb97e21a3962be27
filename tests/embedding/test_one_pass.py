"""The pass over one slide: bounded memory, and the same arrays after an interruption."""

import ctypes
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from wsibench import tiling
from wsibench.core import Artefact, SlideError, WeightsError
from wsibench.embedding import encoder, one_pass, read_features
from wsibench.embedding.models import Embedder
from wsibench.embedding.one_pass import Cuda, Output, Task, embed_slide, make_features

N_TILES, PX = 640, 224


class Endless:
    """A slide that makes its tiles as they are read, and counts the batches that are still in memory."""

    def __init__(self):
        self.batches, self.most_alive = [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def resolution_for(self, wanted_mpp):
        return wanted_mpp

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
    return Task("s", tmp_path / "s.svs", tuple(outputs))


first_numbers = Embedder(lambda batch: batch[:, :4, 0, 0].float(), PX)


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
    [made] = embed_slide(Endless(), tiles, [first_numbers])
    assert made.decoded.all()
    assert made.features.dtype == np.float16
    np.testing.assert_array_equal(made.features[:, 0], np.arange(N_TILES) // one_pass.BATCH)


def test_a_slide_without_a_decodable_tile_is_refused(tiles):
    slide = Endless()
    slide.path, slide.read_tiles = Path("s.svs"), lambda *_, **__: iter(())
    with pytest.raises(SlideError, match=r"No tile of s\.svs can be decoded"):
        embed_slide(slide, tiles, [first_numbers], max_bad=1.0)


# A CUDA device, as far as a processor can stand in for it


class Device(Cuda):
    """A device that computes in its own time, holding the interpreter's lock, and notes what happens when."""

    batch, threads = 64, 2

    def __init__(self):
        self.events, self.controls = [], ThreadPoolExecutor(2)
        self.computing = ThreadPoolExecutor(1)

    def put(self, pixels):
        self.events.append(("copied", int(pixels[0, 0, 0, 0])))
        return torch.from_numpy(pixels)

    def start(self, model, pixels, on_device):
        if not model.needs_device:
            return super().start(model, pixels, on_device)
        batch = int(pixels[0, 0, 0, 0])
        future = self.computing.submit(self.compute, model, on_device)

        def wait():
            made = future.result()
            self.events.append(("result", batch))
            return made

        return wait

    @staticmethod
    def compute(model, tiles):
        ctypes.PyDLL(None).usleep(20_000)  # PyDLL keeps the lock
        return model(tiles).numpy()


@pytest.fixture
def device(monkeypatch):
    device = Device()
    read = Endless.read_tiles

    def noted(self, xy, **more):
        for rows, pixels in read(self, xy, **more):
            device.events.append(("decoded", int(pixels[0, 0, 0, 0])))
            yield rows, pixels

    monkeypatch.setattr(Endless, "read_tiles", noted)
    return device


on_device = replace(first_numbers, needs_device=True)


def test_the_next_batch_is_decoded_and_copied_before_a_result_is_waited_for(device, tiles):
    [made] = embed_slide(Endless(), tiles, [on_device], device=device)
    order = device.events.index
    for batch in range(N_TILES // device.batch - 1):
        assert order(("decoded", batch + 1)) < order(("copied", batch + 1)) < order(("result", batch))
    np.testing.assert_array_equal(made.features[:, 0], np.arange(N_TILES) // device.batch)


def test_five_encoders_of_one_resolution_share_the_decoding_and_the_copy(device, tiles):
    finer = replace(on_device, decoded_px=2 * PX)
    made = embed_slide(Endless(), tiles, [on_device] * 4 + [finer, on_device], device=device)
    n_batches = N_TILES // device.batch
    assert sum(what == "decoded" for what, _ in device.events) == 2 * n_batches  # of each resolution
    assert sum(what == "copied" for what, _ in device.events) == 2 * n_batches
    decoded = [batch for what, batch in device.events if what == "decoded"]
    assert decoded == sorted(decoded), "resolutions take turns, so that they read the same part of the file"
    for each in made:
        np.testing.assert_array_equal(each.features, made[0].features)


def test_controls_do_not_hold_the_device_back(device, tiles):
    released = threading.Event()

    def slow(batch):
        assert released.wait(10)
        return batch[:, :4, 0, 0].float()

    def last_batch(batch):
        if int(batch[0, 0, 0, 0]) == 1:
            released.set()
        return batch[:, :4, 0, 0].float()

    # The control of batch 0 ends only once the device has computed batch 1.
    models = [Embedder(slow, PX), replace(on_device, function=last_batch)]
    control, made = embed_slide(Endless(), tiles, models, device=device)
    np.testing.assert_array_equal(control.features, made.features)


def test_a_failing_slide_ends_the_thread_that_decodes(device, tiles):
    def broken(batch):
        raise RuntimeError("no kernel")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no kernel"):
        embed_slide(Endless(), tiles, [replace(on_device, function=broken)], device=device)
    assert threading.active_count() <= before + 1  # the fake device's own


def test_every_worker_process_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(one_pass, "devices", lambda: ("cuda:0", "cuda:1", "cuda:2"))
    process = SimpleNamespace(name="MainProcess")
    monkeypatch.setattr("multiprocessing.current_process", lambda: process)
    assert one_pass.device_of_process() == "cuda:0"
    found = []
    for number in (4, 5, 6):
        process.name = f"SpawnProcess-{number}"
        found.append(one_pass.device_of_process())
    assert sorted(found) == ["cuda:0", "cuda:1", "cuda:2"]


def test_an_encoder_that_does_not_fit_the_device_says_so(monkeypatch):
    def load(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("wsibench.embedding.models.load", load)
    ready = one_pass.Ready(encoder("uni"), None, "hash")
    with pytest.raises(WeightsError, match=r"uni does not fit the memory of cuda:0 .*precision: {uni: bf16}"):
        one_pass._loaded(ready, "tile", "cuda:0")
