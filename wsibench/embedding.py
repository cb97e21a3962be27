"""One pass over a slide's tiles for all encoders at once."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench import weights
from wsibench.artefacts import (
    Artefact,
    Failure,
    check_failures,
    failure,
    key_at,
    make_key,
    read_failures,
    read_meta,
    record_failures,
    writing,
)
from wsibench.cohort import read_cohort
from wsibench.compute import map_slides
from wsibench.encoders import tile_encoders
from wsibench.errors import WeightsError
from wsibench.features import write_features
from wsibench.registry import Encoder
from wsibench.slides import open_slide
from wsibench.study import Study
from wsibench.tiling import read_tiles

FORMAT = 1
STAGE = "embedding"
BATCH = 64
"""Tiles decoded at a time."""


@dataclass(frozen=True)
class _Due:
    """An encoder's features of one slide that have to be made."""

    encoder: Encoder
    folder: Path | None
    hash: str
    artefact: Artefact


@dataclass(frozen=True)
class _Task:
    study: Study
    slide_id: str
    path: Path
    wanted_mpp: float
    due: tuple[_Due, ...]


def not_applicable(study: Study) -> str | None:
    """Why the study has no tiles to embed, or None."""
    if getattr(study.cohort, "patients", None) is not None and study.cohort.source == "local":
        return "The cohort is a table of patients without slides: there are no tiles to embed."
    return None if tile_encoders(study) else "The study names no encoder of tiles."


def wanted_mpp(study: Study) -> float:
    """Finest µm/px that any encoder of the study needs: what every slide is decoded at, if it has it."""
    return min(study.tiles.tile_um / encoder.px for encoder in tile_encoders(study))


def expected(study: Study) -> list[Artefact]:
    """The features of every encoder and slide that has tiles.

    Raises
    ------
    NotReady
        When a slide has neither been tiled nor failed to be.
    """
    hashes = {encoder.name: _known_hash(study, encoder) for encoder in tile_encoders(study)}
    rows = _tiled(study)
    return [_artefact(study, e, slide_id, hashes[e.name]) for slide_id in rows.index for e in tile_encoders(study)]


def _tiled(study: Study) -> pd.DataFrame:
    """The rows of the cohort that have tiles, indexed by slide_id."""
    rows = read_cohort(study).set_index("slide_id")
    failed = {row.slide_id for row in read_failures(study.failures_csv) if row.stage in ("cohort", "tiling")}
    return rows[[slide_id not in failed for slide_id in rows.index]]


def _artefact(study: Study, encoder: Encoder, slide_id: str, weights_hash: str) -> Artefact:
    section = {"encoder": encoder.decides(), "weights": weights_hash, "wanted_mpp": wanted_mpp(study)}
    key = make_key(STAGE, FORMAT, section, made_from=[key_at(study.tiles_parquet(slide_id))])
    return Artefact(study.features_h5(encoder.name, slide_id), key)


def _known_hash(study: Study, encoder: Encoder) -> str:
    """The hash of an encoder's weights, without the network.

    Where the weights are not at hand it is the one that the features there are were made with, so
    that a study embedded on a cluster can be carried on with elsewhere.
    """
    if not encoder.needs_weights:
        return weights.weights_hash(encoder, None)
    try:
        return weights.weights_hash(encoder, weights.find(encoder, weights.local_folder(encoder.name, study)))
    except WeightsError:
        files = study.features_h5(encoder.name, "any").parent.glob("*.h5")
        known = {meta["facts"]["weights"] for meta in map(read_meta, files) if meta}
        return known.pop() if len(known) == 1 else "not at hand"


def embed_slides(study: Study) -> pd.DataFrame:
    """Make the features that are due, reading every slide once for all its encoders.

    Slides are shared over processes, or fed to the CUDA device from this one.

    Returns
    -------
    DataFrame
        One row a slide and encoder that was due: slide_id, encoder, n_tiles, seconds (of the slide's
        whole pass).

    Raises
    ------
    WeightsError
        When an encoder's weights cannot be had; before any slide is opened.
    TooManyFailures
        When more slides fail than the study's limits allow; each is a row of failures.csv.
    """
    tasks, n_slides = _tasks(study)
    failures: list[Failure] = []
    rows = []
    workers = 1 if device() == "cuda" else None
    for task, result in map_slides(_embed_slide, tasks, label="03 embedding", workers=workers):
        if isinstance(result, BaseException):
            failures += [failure(task.slide_id, STAGE, due.artefact.key, result) for due in task.due]
        else:
            n_tiles, seconds = result
            rows += [(task.slide_id, due.encoder.name, n_tiles, seconds) for due in task.due]
    record_failures(study.failures_csv, STAGE, failures)
    one_a_slide = list({row.slide_id: row for row in failures}.values())
    check_failures(one_a_slide, n_slides, study.limits.failed_slides)
    return pd.DataFrame(rows, columns=["slide_id", "encoder", "n_tiles", "seconds"]).sort_values(
        ["slide_id", "encoder"], ignore_index=True
    )


def _tasks(study: Study) -> tuple[list[_Task], int]:
    """One task a slide that has something due, and the number of slides that have tiles."""
    rows = _tiled(study)
    at_hand = []
    if any(artefact.due() for artefact in expected(study)):
        for encoder in tile_encoders(study):
            given = weights.local_folder(encoder.name, study)
            folder = weights.fetch(encoder, given) if encoder.needs_weights else None
            at_hand.append((encoder, folder, weights.weights_hash(encoder, folder)))
    tasks = []
    for slide_id, row in rows.iterrows():
        every = [_Due(e, folder, hash_, _artefact(study, e, slide_id, hash_)) for e, folder, hash_ in at_hand]
        due = tuple(one for one in every if one.artefact.due())
        if due:
            tasks.append(_Task(study, slide_id, Path(row.path), wanted_mpp(study), due))
    return tasks, len(rows)


@cache
def device() -> str:
    """``cuda`` where there is such a device, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def _loaded(encoder: Encoder, folder: Path | None, device: str):
    # Once a process, not once a slide.
    from wsibench import models

    return models.load(encoder, folder, device)


def _embed_slide(task: _Task) -> tuple[int, float]:
    """Embed one slide's tiles with every encoder that is due; the number of tiles and the seconds."""
    import torch

    started = time.monotonic()
    models = [_loaded(due.encoder, due.folder, device()) for due in task.due]
    tiles = read_tiles(task.study, task.slide_id)
    xy = tiles[["x", "y"]].to_numpy()
    features = [np.empty((len(xy), due.encoder.dim), np.float16) for due in task.due]
    decoded = np.zeros(len(xy), bool)
    tile_um, slide_mpp = tiles.attrs["tile_um"], tiles.attrs["slide_mpp"]
    with open_slide(task.path, slide_mpp=slide_mpp) as slide:
        px = slide.tile_px(tile_um, task.wanted_mpp)
        for indices, pixels in slide.read_tiles(xy, tile_um=tile_um, wanted_mpp=task.wanted_mpp, batch=BATCH):
            batch = torch.from_numpy(pixels)
            decoded[indices] = True
            for made, model in zip(features, models, strict=True):
                made[indices] = model(batch).cpu().numpy()
    with ExitStack() as stack:
        for due, made in zip(task.due, features, strict=True):
            facts = {"weights": due.hash, "device": device(), "n_undecodable": int((~decoded).sum())}
            temporary = stack.enter_context(writing(due.artefact, slide_id=task.slide_id, **facts))
            write_features(
                temporary,
                made[decoded],
                xy[decoded],
                slide_mpp=slide_mpp,
                tile_um=tile_um,
                decoded_px=px,
                encoder=due.encoder.name,
                revision=due.encoder.revision,
                weights=due.hash,
                key=due.artefact.key,
            )
    return int(decoded.sum()), time.monotonic() - started
