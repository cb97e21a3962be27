"""Which features a study needs, and making those that are due."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import tiling
from wsibench.cohort.build import read_cohort
from wsibench.core import (
    Artefact,
    Failure,
    LocalCohort,
    SlideError,
    Study,
    StudyError,
    WeightsError,
    check_failures,
    failure,
    key_at,
    make_key,
    parallel_map,
    read_failures,
    read_meta,
    record_failures,
)
from wsibench.embedding import one_pass as onepass
from wsibench.embedding import weights
from wsibench.embedding.encoders import tile_encoders
from wsibench.embedding.foreign import foreign_file, foreign_identity
from wsibench.embedding.one_pass import Due, Ready, Task, make_features
from wsibench.embedding.registry import Encoder

FORMAT = 1
STAGE = "embedding"


def not_applicable(study: Study) -> str | None:
    """Why the study has no tiles to embed, or None."""
    if study.no_cohort:
        return study.no_cohort
    if _without_slides(study) and not study.folders:
        return "The cohort is a table of patients without slides: there are no tiles to embed."
    return None if tile_encoders(study) else "The study names no encoder of tiles."


def _without_slides(study: Study) -> bool:
    return isinstance(study.cohort, LocalCohort) and study.cohort.slides is None


def wanted_mpp(study: Study) -> float:
    """Finest µm/px that any encoder of the study needs: what every slide is decoded at, if it has it."""
    px = [each.decoded_px(study.embedding.geometry) for each in tile_encoders(study) if each.loader != "import"]
    return study.tiles.tile_um / max(px, default=1)


def made_by(study: Study, encoder: Encoder) -> dict[str, Any]:
    """What decides an encoder's features of a tile, whatever the slide, but for the µm/px it was decoded at.

    Of features that were computed elsewhere nothing is known but that.
    """
    if encoder.loader == "import":
        return {"loader": encoder.loader}
    own = {"tile_um": study.tiles.tile_um, "weights": _known_hash(study, encoder)}
    return {**encoder.decides(), **own, "decoded_px": encoder.decoded_px(study.embedding.geometry)}


def expected(study: Study) -> list[Artefact]:
    """The features of every encoder and slide that has tiles.

    Raises
    ------
    NotReady
        When a slide has neither been tiled nor failed to be.
    """
    ready = [Ready(each, None, _known_hash(study, each)) for each in tile_encoders(study)]
    return [due.artefact for task in _tasks(study, ready) for due in task.due]


def embed_slides(study: Study) -> pd.DataFrame:
    """Make the features that are due, reading every slide once for all its encoders.

    Slides are shared over processes on CPUs, and over threads that feed all devices on a CUDA
    machine.  Encoders are loaded once a process.

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
    tasks, n_slides = _due_tasks(study)
    cuda = bool(tasks) and onepass.devices() != ("cpu",)
    threads = len(onepass.devices()) * onepass.IN_FLIGHT if cuda else None
    failures: list[Failure] = []
    rows = []
    results = parallel_map(make_features, tasks, label="03 embedding", errors="return", threads=threads)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, BaseException):
            failures += [failure(task.slide_id, STAGE, due.artefact.key, result) for due in task.due]
        else:
            rows += [(task.slide_id, due.encoder.name, *result) for due in task.due]
    record_failures(study.failures_csv, STAGE, failures)
    one_a_slide = list({row.slide_id: row for row in failures}.values())
    check_failures(one_a_slide, n_slides, study.limits.failed_slides)
    made = pd.DataFrame(rows, columns=["slide_id", "encoder", "n_tiles", "seconds"])
    return made.sort_values(["slide_id", "encoder"], ignore_index=True)


def _due_tasks(study: Study) -> tuple[list[Task], int]:
    """What is to be made, with the weights fetched, and the number of slides that should have features."""
    wanted = expected(study)
    if not any(artefact.due() for artefact in wanted):
        return [], 0
    ready = []
    for encoder in tile_encoders(study):
        folder = weights.fetch(encoder, weights.local_folder(encoder.name, study)) if encoder.needs_weights else None
        ready.append(Ready(encoder, folder, weights.weights_hash(encoder, folder)))
    tasks = list(_tasks(study, ready))
    due = [replace(task, due=tuple(each for each in task.due if each.artefact.due())) for task in tasks]
    return [task for task in due if task.due], len({task.slide_id for task in tasks})


def _tasks(study: Study, ready: list[Ready]) -> Iterator[Task]:
    """All that each slide should have: one pass for its tiles, and one import for each folder of features."""
    failures = read_failures(study.failures_csv)
    absent = {row.slide_id for row in failures if row.stage == "cohort"}
    untiled = {row.slide_id for row in failures if row.stage == "tiling"}
    mpp = wanted_mpp(study)
    # Streamed slides are tiled in the same pass: their tiles' keys are known, the tiles not yet there.
    streamed = {task.slide_id: task.artefact.key for task in tiling.tasks(study)} if study.streamed else {}
    embedded = [each for each in ready if each.encoder.loader != "import"]
    if embedded and _without_slides(study):
        raise StudyError(
            f"{embedded[0].encoder.name} needs slides, and the cohort is a table of patients without any.",
            "Give `slides` in `cohort`, or a folder of its features.",
        )
    for row in read_cohort(study).itertuples():
        path = Path(row.path)
        if embedded and row.slide_id not in absent | untiled:
            tiles_key = streamed.get(row.slide_id) or key_at(study.tiles_parquet(row.slide_id))
            due = tuple(_embedded(study, row.slide_id, each, tiles_key, mpp) for each in embedded)
            yield Task(study, row.slide_id, path, mpp, due)
        for each in ready:
            if each.encoder.loader == "import" and row.slide_id:
                yield Task(study, row.slide_id, path, mpp, (_imported(study, row.slide_id, each),))


def _embedded(study: Study, slide_id: str, ready: Ready, tiles_key: str, mpp: float) -> Due:
    section = {"encoder": ready.encoder.decides(), "weights": ready.hash, "wanted_mpp": mpp}
    if ready.encoder.decoded_px(study.embedding.geometry) != ready.encoder.px:
        section["geometry"] = study.embedding.geometry
    return _due(study, slide_id, ready, make_key(STAGE, FORMAT, section, made_from=[tiles_key]))


def _imported(study: Study, slide_id: str, ready: Ready) -> Due:
    folder = study.folders[ready.encoder.name]
    try:
        identity = foreign_identity(foreign_file(study.resolve(folder.folder), folder, slide_id))
    except SlideError:
        identity = "absent"
    section = {"encoder": ready.encoder.name, "layout": folder.layout, "table": folder.table}
    return _due(study, slide_id, ready, make_key(STAGE, FORMAT, section, made_from=[identity]))


def _due(study: Study, slide_id: str, ready: Ready, key: str) -> Due:
    artefact = Artefact(study.features_h5(ready.encoder.name, slide_id), key)
    return Due(ready.encoder, ready.folder, ready.hash, artefact)


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
