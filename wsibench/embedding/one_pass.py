"""One pass over a slide: every tile is decoded once, and every encoder that is due sees it.

Tiles travel as uint8 batches and are resized and normalised on the device.  On a CUDA machine
several slides are in flight in threads of one process: while one has the device, others decode and
write.  At no time are more than a few batches of a slide's tiles in memory, only its features.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from wsibench.core import Artefact, Study, writing
from wsibench.embedding.feature_store import write_features
from wsibench.embedding.foreign import foreign_file, read_foreign
from wsibench.embedding.registry import Encoder
from wsibench.tiling import open_slide, read_tiles, tasks, tile_slide

BATCH = 64
"""Tiles decoded at a time."""
IN_FLIGHT = 4
"""Slides at a time for each CUDA device."""


@dataclass(frozen=True)
class Ready:
    """An encoder and its weights."""

    encoder: Encoder
    folder: Path | None
    """Where the weights lie."""
    hash: str
    """Of the weights."""


@dataclass(frozen=True)
class Due(Ready):
    """An encoder's features of one slide that have to be made."""

    artefact: Artefact


@dataclass(frozen=True)
class Task:
    """What one slide is due."""

    study: Study
    slide_id: str
    path: Path
    wanted_mpp: float
    due: tuple[Due, ...]


@cache
def devices() -> tuple[str, ...]:
    """torch's names of the CUDA devices, else the CPU."""
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)


@cache
def _free_devices() -> "SimpleQueue[str]":
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices() * IN_FLIGHT:
        free.put(device)
    return free


@cache
def _lock(device: str) -> threading.Lock:
    return threading.Lock()


_LOADED: dict[tuple[Encoder, Path | None, str, str], Any] = {}


def _load(due: Ready, study: Study, device: str) -> Callable[..., Any]:
    """An encoder on a device: loaded once a process, not once a slide."""
    from wsibench.embedding import models

    geometry = study.embedding.geometry
    key = (due.encoder, due.folder, device, geometry)
    with _lock(device):
        if key not in _LOADED:
            compiled = os.environ.get("WSIBENCH_COMPILE") == "1"
            _LOADED[key] = models.load(due.encoder, due.folder, device, geometry=geometry, compiled=compiled)
        return _LOADED[key]


def make_features(task: Task) -> tuple[int, float]:
    """Make what a slide is due; the number of its tiles and the seconds that it took.

    A streamed slide is fetched for this, tiled, and deleted again once its features are signed.
    """
    started = time.monotonic()
    if task.due[0].encoder.loader == "import":
        return _import(task), time.monotonic() - started
    with _at_hand(task):
        free = _free_devices()
        device = free.get()
        try:
            return _embed(task, device), time.monotonic() - started
        finally:
            free.put(device)


@contextmanager
def _at_hand(task: Task) -> Iterator[None]:
    """The slide's file and its tiles: there already, or for the moment when slides are streamed."""
    if not task.study.streamed:
        yield
        return
    from wsibench.cohort.gdc.acquire import fetched  # and with it a client that other cohorts never need

    with fetched(task.study, task.path.name):
        [tiling] = [one for one in tasks(task.study) if one.slide_id == task.slide_id]
        if tiling.artefact.due():
            tile_slide(tiling)
        yield


def _embed(task: Task, device: str) -> int:
    import torch

    models = [_load(due, task.study, device) for due in task.due]
    # One batch at a time on a CUDA device; statistics are computed beside it.
    guards = [_lock(device) if device != "cpu" and due.encoder.needs_device else nullcontext() for due in task.due]
    tiles = read_tiles(task.study.tiles_parquet(task.slide_id))
    xy = tiles[["x", "y"]].to_numpy()
    tile_um, slide_mpp = tiles.attrs["tile_um"], tiles.attrs["slide_mpp"]
    features: list[np.ndarray] = [np.empty((0, due.encoder.dim or 0), np.float16) for due in task.due]
    decoded = np.zeros(len(xy), bool)
    with open_slide(task.path, slide_mpp) as slide:
        px = slide.tile_px(tile_um, task.wanted_mpp)
        batches = slide.read_tiles(
            xy,
            tile_um=tile_um,
            wanted_mpp=task.wanted_mpp,
            batch=BATCH,
            threads=1 if device == "cpu" else IN_FLIGHT,
            max_bad=task.study.limits.bad_tiles,
        )
        for indices, pixels in batches:
            batch = torch.from_numpy(pixels)
            for each, (model, guard) in enumerate(zip(models, guards, strict=True)):
                with guard:
                    made = model(batch).cpu().numpy()
                if not decoded.any():
                    features[each] = np.empty((len(xy), made.shape[1]), np.float16)
                features[each][indices] = made
            decoded[indices] = True
    attrs = {"slide_mpp": slide_mpp, "tile_um": tile_um, "decoded_px": px} | task.study.embedding.model_dump()
    facts = {"device": device, "n_undecodable": int((~decoded).sum())}
    with ExitStack() as stack:
        for due, made in zip(task.due, features, strict=True):
            _write(stack, task, due, made[decoded], xy[decoded], attrs, facts)
    return int(decoded.sum())


def _import(task: Task) -> int:
    [due] = task.due
    folder = task.study.folders[due.encoder.name]
    path = foreign_file(task.study.resolve(folder.folder), folder, task.slide_id)
    features, coords = read_foreign(path, folder, due.encoder.dim)
    with ExitStack() as stack:
        _write(stack, task, due, features, coords, {"layout": folder.layout}, {"imported_from": str(path)})
    return len(features)


def _write(
    stack: ExitStack,
    task: Task,
    due: Due,
    features: np.ndarray,
    coords: np.ndarray,
    attrs: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """Write one encoder's features; they get their name when `stack` is left, with those of the others."""
    facts = facts | {"slide_id": task.slide_id, "weights": due.hash}
    temporary = stack.enter_context(writing(due.artefact, **facts))
    known = {"encoder": due.encoder.name, "revision": due.encoder.revision, "weights": due.hash}
    write_features(temporary, features, coords, **attrs, **known, key=due.artefact.key)
