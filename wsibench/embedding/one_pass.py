"""Embed the tiles of one slide with all encoders, in one pass over the slide.

Every tile is decoded once for all encoders that are due. Tiles travel as uint8 batches and are resized and
normalised on the device. On a CUDA machine several slides are in flight in threads of one process: while one
uses the device, others are decoded and written. Only a few batches of tiles are in memory at a time.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd

from wsibench import tiling
from wsibench.core import Artefact, Encoder, FeatureFolder, SlideError, writing
from wsibench.embedding.features import find_import, read_import, write_features

BATCH = 64
"""Number of tiles decoded at a time."""
IN_FLIGHT = 4
"""Number of slides processed at a time for each CUDA device."""


@dataclass(frozen=True)
class Ready:
    """An encoder with its weights on this machine."""

    encoder: Encoder
    weights: Path | None
    hash: str
    """Hash of the weights."""


@dataclass(frozen=True)
class Output(Ready):
    """Features of one slide by one encoder, to be written."""

    artefact: Artefact


@dataclass(frozen=True)
class Task:
    """Features of one slide that are due, and all that is needed to make them."""

    slide_id: str
    path: Path
    """The slide, or the folder of features that another tool computed."""
    outputs: tuple[Output, ...]
    tiles: Path = Path()
    wanted_mpp: float = 0.0
    geometry: str = "tile"
    max_bad: float = 0.05
    imported: FeatureFolder | None = None
    fetched: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Context in which the slide of a streamed cohort is on this machine."""
    tiling: "tiling.TilingTask | None" = None
    """Tiling of the slide, done in the same pass when slides are streamed."""


# The pass over one slide


def embed(tiles: np.ndarray, model: Callable[..., Any]) -> np.ndarray:
    """Embed tiles.

    Parameters
    ----------
    tiles
        uint8 (n, px, px, 3).
    model
        An encoder from `load`.

    Returns
    -------
    ndarray
        float32 (n, dim).
    """
    import torch

    batches = [tiles[start : start + BATCH] for start in range(0, len(tiles), BATCH)]
    return np.concatenate([model(torch.from_numpy(batch)).cpu().numpy() for batch in batches])


def embed_slide(
    slide: "tiling.Slide",
    tiles: pd.DataFrame,
    models: Sequence[Callable[..., Any]],
    *,
    wanted_mpp: float = 0.5,
    threads: int = 1,
    max_bad: float = 0.05,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Embed the tiles of a slide with several encoders, decoding every tile once.

    Parameters
    ----------
    slide
        The open slide.
    tiles
        Its tiles: x, y in level-0 pixels, and their side in ``attrs["tile_um"]``.
    models
        Encoders from `load`.
    wanted_mpp
        Finest µm/px that an encoder needs.
    threads
        Number of decoding threads.
    max_bad
        Share of the tiles that may be undecodable.

    Returns
    -------
    features
        float16 (n_decoded, dim) for each model.
    decoded
        bool (n_tiles,), False for tiles that cannot be decoded and have no features.

    Raises
    ------
    SlideError
        If more than `max_bad` of the tiles, or all of them, cannot be decoded.
    """
    xy = tiles[["x", "y"]].to_numpy()
    features: list[np.ndarray] = []
    decoded = np.zeros(len(xy), bool)
    batches = slide.read_tiles(
        xy, tile_um=tiles.attrs["tile_um"], wanted_mpp=wanted_mpp, batch=BATCH, threads=threads, max_bad=max_bad
    )
    for rows, pixels in batches:
        embedded = [embed(pixels, model) for model in models]
        features = features or [np.empty((len(xy), made.shape[1]), np.float16) for made in embedded]
        for stored, made in zip(features, embedded, strict=True):
            stored[rows] = made
        decoded[rows] = True
    if not features:
        raise SlideError(f"No tile of {slide.path.name} can be decoded.", "Fetch or export the file again.")
    return [stored[decoded] for stored in features], decoded


def make_features(task: Task) -> None:
    """Make and write the features of one slide."""
    started = time.monotonic()
    if task.imported:
        _import(task, task.imported, started)
        return
    with task.fetched():
        if task.tiling and task.tiling.artefact.due():
            tiling.tile_slide(task.tiling)
        with _a_device() as device:
            _embed(task, device, started)


def _embed(task: Task, device: str, started: float) -> None:
    models = [_loaded(output, task.geometry, device) for output in task.outputs]
    tiles = tiling.read_tiles(task.tiles)
    tile_um, slide_mpp = tiles.attrs["tile_um"], tiles.attrs["slide_mpp"]
    with tiling.open_slide(task.path, slide_mpp) as slide:
        px = slide.tile_px(tile_um, task.wanted_mpp)
        features, decoded = embed_slide(
            slide,
            tiles,
            models,
            wanted_mpp=task.wanted_mpp,
            threads=1 if device == "cpu" else IN_FLIGHT,
            max_bad=task.max_bad,
        )
    xy = tiles[["x", "y"]].to_numpy()[decoded]
    attrs = {"slide_mpp": slide_mpp, "tile_um": tile_um, "decoded_px": px, "geometry": task.geometry}
    facts = {"device": device, "n_undecodable": int((~decoded).sum()), **_cost(len(xy), started)}
    with ExitStack() as stack:  # all features of a slide get their names together
        for output, made in zip(task.outputs, features, strict=True):
            _write(stack.enter_context(_writing(task, output, **facts)), output, made, xy, attrs)


def _import(task: Task, folder: FeatureFolder, started: float) -> None:
    [output] = task.outputs
    path = find_import(task.path, folder.layout, task.slide_id)
    features, coords = read_import(path, folder, output.encoder)
    with _writing(task, output, imported_from=str(path), **_cost(len(features), started)) as temporary:
        _write(temporary, output, features, coords, {"layout": folder.layout})


def _cost(n_tiles: int, started: float) -> dict[str, float]:
    return {"n_tiles": n_tiles, "seconds": round(time.monotonic() - started, 3)}


def _writing(task: Task, output: Output, **facts: Any) -> AbstractContextManager[Path]:
    return writing(output.artefact, **facts, slide_id=task.slide_id, weights=output.hash)


def _write(path: Path, output: Output, features: np.ndarray, coords: np.ndarray, attrs: dict[str, Any]) -> None:
    known = {"encoder": output.encoder.name, "revision": output.encoder.revision, "weights": output.hash}
    write_features(path, features, coords, **attrs, **known, key=output.artefact.key)


# Devices, and encoders that are loaded once a process


@cache
def devices() -> tuple[str, ...]:
    """Return torch's names of the CUDA devices, or the CPU's."""
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)


@cache
def _free_devices() -> "SimpleQueue[str]":
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices() * IN_FLIGHT:
        free.put(device)
    return free


@contextmanager
def _a_device() -> Iterator[str]:
    device = _free_devices().get()
    try:
        yield device
    finally:
        _free_devices().put(device)


@cache
def _lock(device: str) -> threading.Lock:
    return threading.Lock()


def load_once(encoder: Encoder, weights: Path) -> None:
    """Load an encoder and let go of it, to find weights that are not its own before any slide is read."""
    from wsibench.embedding.models import load

    load(encoder, weights)


_LOADED: dict[tuple[str, ...], Callable[..., Any]] = {}


def _loaded(ready: Ready, geometry: str, device: str) -> Callable[..., Any]:
    """Load an encoder on a device, once a process."""
    from wsibench.embedding.models import load

    key = (ready.encoder.model_dump_json(), ready.hash, device, geometry)
    with _lock(device):
        if key not in _LOADED:
            compiled = os.environ.get("WSIBENCH_COMPILE") == "1"
            model = load(ready.encoder, ready.weights, device, geometry=geometry, compiled=compiled)
            _LOADED[key] = _one_at_a_time(model, device) if ready.encoder.needs_device else model
        return _LOADED[key]


def _one_at_a_time(model: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Let one batch at a time onto a CUDA device, so that slides in flight do not exhaust its memory."""

    def embed_alone(batch: Any) -> Any:
        with _lock(device) if device != "cpu" else nullcontext():
            return model(batch).cpu()

    return embed_alone
