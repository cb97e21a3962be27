"""Embed the tiles of one slide with all encoders, in one pass over the slide.

Encoders that need the same resolution share the decoding of every tile, others the reading of the file. Tiles
travel as uint8 batches and are resized and normalised on the device. On a CUDA device the next batch is decoded
and copied while it computes. Only a few batches of tiles are in memory at a time.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import repeat, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from wsibench import tiling
from wsibench.core import Artefact, Encoder, FeatureFolder, SlideError, WeightsError, writing
from wsibench.embedding.features import find_import, read_import, write_features

if TYPE_CHECKING:  # torch, which listing the features does not need
    import torch

    from wsibench.embedding.models import Embedder

T = TypeVar("T")
# Number of tiles decoded at a time for a CPU.
BATCH = 64
# Number of tiles decoded at a time for a CUDA device, on which small encoders need so many to be busy.
CUDA_BATCH = 256
# Maximum number of threads that decode, and as many that compute controls, for one CUDA device.
MAX_THREADS = 8


@dataclass(frozen=True)
class Ready:
    """An encoder with its weights on this machine."""

    encoder: Encoder
    weights: Path | None
    # Hash of the weights.
    hash: str


@dataclass(frozen=True)
class Output(Ready):
    """Features of one slide by one encoder, to be written."""

    artefact: Artefact


@dataclass(frozen=True)
class Task:
    """Features of one slide that are due, and all that is needed to make them."""

    slide_id: str
    # The slide, or the folder of features that another tool computed.
    path: Path
    outputs: tuple[Output, ...]
    tiles: Path = Path()
    geometry: str = "tile"
    max_bad: float = 0.05
    imported: FeatureFolder | None = None
    # Context in which the slide of a streamed cohort is on this machine.
    fetched: Callable[[], AbstractContextManager[Any]] = nullcontext
    # Tiling of the slide, done in the same pass when slides are streamed.
    tiling: "tiling.TilingTask | None" = None


# Devices


class Cpu:
    """Batches in memory, embedded one after another."""

    batch = BATCH
    threads = 1

    def ahead(self, items: Iterable[T]) -> Iterable[T]:
        """Iterate over batches."""
        return items

    def put(self, pixels: np.ndarray) -> "torch.Tensor":
        """Copy a batch to the device."""
        import torch

        return torch.from_numpy(pixels)

    def start(self, model: "Embedder", pixels: np.ndarray, on_device: "torch.Tensor") -> Callable[[], np.ndarray]:
        """Begin to embed a batch; the function that is returned waits for the embeddings."""
        made = model(on_device).cpu().numpy()
        return lambda: made


class Cuda(Cpu):
    """A CUDA device that computes while the next batch is decoded, and copied from page-locked memory.

    Parameters
    ----------
    name
        torch's name of the device.
    """

    batch = CUDA_BATCH

    def __init__(self, name: str) -> None:
        import torch

        self.threads = min(MAX_THREADS, max(1, len(os.sched_getaffinity(0)) // len(devices())))
        self.device = torch.device(name)
        self.side = torch.cuda.Stream(self.device)
        self.controls = ThreadPoolExecutor(self.threads)

    def ahead(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over batches, of which the next one is decoded meanwhile in a thread of its own."""
        batches = iter(items)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, batches, None)
            while (item := following.result()) is not None:
                following = pool.submit(next, batches, None)
                yield item

    def put(self, pixels: np.ndarray) -> "torch.Tensor":
        """Copy a batch on a stream of its own, for which the encoders wait and not the processor."""
        import torch

        # torch keeps page-locked memory for its next use once the copy from it is done.
        pinned = torch.from_numpy(pixels).pin_memory()
        with torch.cuda.stream(self.side):
            on_device = pinned.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.side)
        on_device.record_stream(current)
        return on_device

    def start(self, model: "Embedder", pixels: np.ndarray, on_device: "torch.Tensor") -> Callable[[], np.ndarray]:
        """Queue an encoder on the device, or hand a control to threads, neither of which waits for the other."""
        import torch

        if not model.needs_device:
            parts = [torch.from_numpy(part) for part in np.array_split(pixels, self.threads) if len(part)]
            made = [self.controls.submit(model, part) for part in parts]
            return lambda: np.concatenate([part.result().numpy() for part in made])
        embedded = model(on_device)
        copied = torch.empty_like(embedded, device="cpu", pin_memory=True).copy_(embedded, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))

        def wait() -> np.ndarray:
            done.synchronize()
            return copied.numpy()

        return wait


@cache
def devices() -> tuple[str, ...]:
    """Return torch's names of the CUDA devices, or the CPU's."""
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)


def device_of_process() -> str:
    """Return torch's name of the device of this worker process, of which there is one for each."""
    number = multiprocessing.current_process().name.rpartition("-")[2]
    return devices()[int(number) % len(devices()) if number.isdecimal() else 0]


@cache
def _feed(device: str) -> Cpu:
    return Cuda(device) if device.startswith("cuda") else Cpu()


# The pass over one slide


def embed(tiles: np.ndarray, model: "Embedder") -> np.ndarray:
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
    feed = Cpu()
    batches = [tiles[start : start + BATCH] for start in range(0, len(tiles), BATCH)]
    return np.concatenate([feed.start(model, batch, feed.put(batch))() for batch in batches])


class Embedded:
    """Features of one slide by one encoder, filled batch by batch."""

    def __init__(self, n_tiles: int) -> None:
        # False for tiles that cannot be decoded, and have no features.
        self.decoded = np.zeros(n_tiles, bool)
        self._values: np.ndarray | None = None

    @property
    def features(self) -> np.ndarray:
        """float16 (n_decoded, dim)."""
        assert self._values is not None
        return self._values[self.decoded]

    def store(self, rows: np.ndarray, made: np.ndarray) -> None:
        """Store the embeddings of some tiles."""
        if self._values is None:
            self._values = np.empty((len(self.decoded), made.shape[1]), np.float16)
        self._values[rows] = made
        self.decoded[rows] = True


def embed_slide(
    slide: "tiling.Slide",
    tiles: pd.DataFrame,
    models: "Sequence[Embedder]",
    *,
    device: Cpu | None = None,
    max_bad: float = 0.05,
) -> list[Embedded]:
    """Embed the tiles of a slide with several encoders, decoding every tile once for each resolution.

    Parameters
    ----------
    slide
        The open slide.
    tiles
        Its tiles: x, y in level-0 pixels, and their side in ``attrs["tile_um"]``.
    models
        Encoders from `load`.
    device
        Device that the encoders were loaded on; unset, the CPU.
    max_bad
        Share of the tiles that may be undecodable.

    Returns
    -------
    list
        For each model its `features`, float16 (n_decoded, dim), and `decoded`, bool (n_tiles,).

    Raises
    ------
    SlideError
        If more than `max_bad` of the tiles, or all of them, cannot be decoded.
    """
    device = device or Cpu()
    made = [Embedded(len(tiles)) for _ in models]
    waiting: list[tuple[Embedded, np.ndarray, Callable[[], np.ndarray]]] = []
    for of, rows, pixels in device.ahead(_read(slide, tiles, models, device, max_bad)):
        on_device = device.put(pixels)
        started = [(made[index], rows, device.start(models[index], pixels, on_device)) for index in of]
        _store(waiting)  # of the batch before, after this one has been queued
        waiting = started
    _store(waiting)
    if not all(each.decoded.any() for each in made):
        raise SlideError(f"No tile of {slide.path.name} can be decoded.", "Fetch or export the file again.")
    return made


def _store(waiting: list[tuple[Embedded, np.ndarray, Callable[[], np.ndarray]]]) -> None:
    for embedded, rows, result in waiting:
        embedded.store(rows, result())


def _read(
    slide: "tiling.Slide", tiles: pd.DataFrame, models: "Sequence[Embedder]", device: Cpu, max_bad: float
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yield the indices of encoders, the rows of tiles and their pixels; resolutions take turns, batch by batch."""
    tile_um, xy = tiles.attrs["tile_um"], tiles[["x", "y"]].to_numpy()
    sharing: dict[Any, list[int]] = {}
    for index, model in enumerate(models):
        sharing.setdefault(slide.resolution_for(tile_um / model.decoded_px), []).append(index)
    readers = [
        zip(
            repeat(of),
            slide.read_tiles(
                xy,
                tile_um=tile_um,
                wanted_mpp=tile_um / models[of[0]].decoded_px,
                batch=device.batch,
                threads=device.threads,
                max_bad=max_bad,
            ),
            strict=False,
        )
        for of in sharing.values()
    ]
    for turn in zip_longest(*readers):
        yield from ((of, *batch) for of, batch in filter(None, turn))


def make_features(task: Task) -> None:
    """Make and write the features of one slide."""
    started = time.monotonic()
    if task.imported:
        _import(task, task.imported, started)
        return
    with task.fetched():
        if task.tiling and task.tiling.artefact.due():
            tiling.tile_slide(task.tiling)
        _embed(task, device_of_process(), started)


def _embed(task: Task, device: str, started: float) -> None:
    models = [_loaded(output, task.geometry, device) for output in task.outputs]
    tiles = tiling.read_tiles(task.tiles)
    tile_um, slide_mpp = tiles.attrs["tile_um"], tiles.attrs["slide_mpp"]
    with tiling.open_slide(task.path, slide_mpp) as slide:
        px = [slide.tile_px(tile_um, tile_um / model.decoded_px) for model in models]
        made = embed_slide(slide, tiles, models, device=_feed(device), max_bad=task.max_bad)
    xy = tiles[["x", "y"]].to_numpy()
    attrs = {"slide_mpp": slide_mpp, "tile_um": tile_um, "geometry": task.geometry}
    with ExitStack() as stack:  # all features of a slide get their names together
        for output, model, decoded_px, each in zip(task.outputs, models, px, made, strict=True):
            facts = {"device": device, "precision": model.precision, "n_undecodable": int((~each.decoded).sum())}
            facts |= _cost(int(each.decoded.sum()), started)
            path = stack.enter_context(_writing(task, output, **facts))
            _write(path, output, each.features, xy[each.decoded], attrs | {"decoded_px": decoded_px})


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


# Encoders, loaded once a process


def load_once(encoder: Encoder, weights: Path) -> None:
    """Load an encoder and let go of it, to find weights that are not its own before any slide is read."""
    from wsibench.embedding.models import load

    load(encoder, weights)


_LOADED: "dict[tuple[str, ...], Embedder]" = {}


def _loaded(ready: Ready, geometry: str, device: str) -> "Embedder":
    import torch

    from wsibench.embedding.models import load

    key = (ready.encoder.model_dump_json(), ready.hash, device, geometry)
    if key not in _LOADED:
        compiled = os.environ.get("WSIBENCH_COMPILE") == "1"
        try:
            _LOADED[key] = load(ready.encoder, ready.weights, device, geometry=geometry, compiled=compiled)
        except torch.OutOfMemoryError:
            raise WeightsError(
                f"{ready.encoder.name} does not fit the memory of {device} beside {len(_LOADED)} other encoders.",
                f"Set embedding: {{precision: {{{ready.encoder.name}: bf16}}}}, or use fewer encoders at a time.",
            ) from None
    return _LOADED[key]
