"""Stage 03: make the features of every slide and encoder of a study that are due."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import tiling
from wsibench.cohort import fetch_slide, read_cohort
from wsibench.core import (
    Artefact,
    Encoder,
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
from wsibench.embedding.encoders import as_pinned, find_weights, tile_encoders, weights_hash
from wsibench.embedding.features import find_import, import_identity
from wsibench.embedding.one_pass import Output, Ready, Task, devices, load_once, make_features

FORMAT = 1
STAGE = "embedding"


def not_applicable(study: Study) -> str | None:
    """Return the reason why the study has no tiles to embed, or None."""
    if study.no_cohort:
        return study.no_cohort
    if study.without_slides and not study.folders:
        return "The cohort is a table of patients without slides: there are no tiles to embed."
    return None if tile_encoders(study) else "The study names no encoder of tiles."


def made_by(study: Study, encoder: Encoder) -> dict[str, Any]:
    """Return the settings that decide an encoder's features of a tile.

    The settings of features that were computed elsewhere are unknown.
    """
    if encoder.loader == "import":
        return {"loader": encoder.loader}
    settings = {"tile_um": study.tiles.tile_um, "weights": _known_hash(study, encoder)}
    return encoder.decides(study.embedding.geometry) | settings


def expected(study: Study) -> list[Artefact]:
    """Return the feature files of every encoder and every slide that has tiles.

    Raises
    ------
    NotReady
        If a slide has neither been tiled nor failed.
    """
    return [output.artefact for task in _tasks(study, _known(study)) for output in task.outputs]


def embed_slides(study: Study) -> pd.DataFrame:
    """Make the features that are due, reading every slide once for all its encoders.

    Slides are distributed over processes, one a core or one a CUDA device. Encoders are loaded once a process.

    Returns
    -------
    DataFrame
        One row for each slide and encoder that has features: slide_id, encoder, n_tiles, seconds (of the pass
        over the slide, for all encoders that were due), device, new (bool, made by this call).

    Raises
    ------
    WeightsError
        If an encoder's weights cannot be had; before any slide is opened.
    TooManyFailures
        If more slides fail than the study's limits allow; each is a row of failures.csv.
    """
    every = _tasks(study, _known(study))
    if due := _due(every):
        every = _tasks(study, _loadable(study, {output.encoder.name for task in due for output in task.outputs}))
    due = _due(every)
    most = len(devices()) if due and devices() != ("cpu",) else None
    results = parallel_map(make_features, due, label="03 embedding", errors="return", most=most)
    failed = [(task, error) for task, error in zip(due, results, strict=True) if isinstance(error, BaseException)]
    rows = [
        failure(task.slide_id, STAGE, output.artefact.key, error) for task, error in failed for output in task.outputs
    ]
    record_failures(study.failures_csv, STAGE, rows)
    one_per_slide = list({row.slide_id: row for row in rows}.values())
    check_failures(one_per_slide, len({task.slide_id for task in every}), study.limits.failed_slides)
    return _summary(every, new={output.artefact.key for task in due for output in task.outputs})


def _known(study: Study) -> list[Ready]:
    return [Ready(encoder, None, _known_hash(study, encoder)) for encoder in tile_encoders(study)]


def _loadable(study: Study, names: set[str]) -> list[Ready]:
    """Return the encoders of a study; the named ones, which are due, have been fetched and loaded once.

    Raises
    ------
    WeightsError
        With all encoders that cannot be had, so that they can be had together.
    """
    ready, wrong = [], []
    for each in tile_encoders(study):
        folder = None
        try:
            if each.name in names and (folder := find_weights(study, each.name, download=True)):
                load_once(each, folder)
                if as_pinned(each, folder) is False:
                    print(f"{each.name}: {folder} does not hold the weights of revision {each.revision}.", flush=True)
        except WeightsError as error:
            wrong.append(error)
        else:
            ready.append(Ready(each, folder, weights_hash(each, folder) if folder else _known_hash(study, each)))
    if len(wrong) > 1:
        raise WeightsError(
            "\n".join(map(str, wrong)), f"{len(wrong)} of {len(ready) + len(wrong)} encoders are missing."
        )
    if wrong:
        raise wrong[0]
    return ready


def _due(every: list[Task]) -> list[Task]:
    due = [replace(task, outputs=tuple(each for each in task.outputs if each.artefact.due())) for task in every]
    return [task for task in due if task.outputs]


def _summary(every: list[Task], new: set[str]) -> pd.DataFrame:
    rows = []
    for task in every:
        for output in task.outputs:
            meta = None if output.artefact.due() else read_meta(output.artefact.path)
            if meta:
                facts = [meta["facts"].get(name) for name in ("n_tiles", "seconds", "device")]
                rows.append([task.slide_id, output.encoder.name, *facts, output.artefact.key in new])
    made = pd.DataFrame(rows, columns=["slide_id", "encoder", "n_tiles", "seconds", "device", "new"])
    return made.sort_values(["slide_id", "encoder"], ignore_index=True)


def _tasks(study: Study, ready: list[Ready]) -> list[Task]:
    """Return the tasks of all slides: one pass over its tiles each, and one import for each folder of features."""
    imported = [each for each in ready if each.encoder.loader == "import"]
    embedded = [each for each in ready if each.encoder.loader != "import"]
    if embedded and study.without_slides:
        raise StudyError(
            f"{embedded[0].encoder.name} needs slides, and the cohort is a table of patients without slides.",
            "Give `slides` in `cohort`, or a folder of its features.",
        )
    slides = read_cohort(study)
    imports = [_import_task(study, slide, each) for slide in slides["slide_id"] if slide for each in imported]
    return [*(_embedding_tasks(study, slides, embedded) if embedded else ()), *imports]


def _embedding_tasks(study: Study, slides: pd.DataFrame, ready: list[Ready]) -> Iterator[Task]:
    failed = {row.slide_id for row in read_failures(study.failures_csv) if row.stage in ("cohort", "tiling")}
    geometry = study.embedding.geometry
    sections = [{"encoder": each.encoder.decides(geometry)} for each in ready]
    # Streamed slides are tiled in the same pass: the keys of their tiles are known, the tiles do not exist yet.
    streamed = {task.slide_id: task for task in tiling.tasks(study)} if study.streamed else {}
    for slide, path in zip(slides["slide_id"], slides["path"], strict=True):
        if slide in failed:
            continue
        to_tile, tiles = streamed.get(slide), study.tiles_parquet(slide)
        key = to_tile.artefact.key if to_tile else key_at(tiles)
        outputs = tuple(_output(study, slide, *each, key) for each in zip(ready, sections, strict=True))
        task = Task(slide, Path(path), outputs, tiles, geometry, study.limits.bad_tiles)
        yield replace(task, tiling=to_tile, fetched=partial(fetch_slide, study, task.path.name)) if to_tile else task


def _import_task(study: Study, slide_id: str, ready: Ready) -> Task:
    folder = study.folders[ready.encoder.name]
    root = study.resolve(folder.folder)
    try:
        identity = import_identity(find_import(root, folder.layout, slide_id))
    except SlideError:
        identity = "absent"
    section = {"encoder": ready.encoder.name, "layout": folder.layout, "table": folder.table}
    return Task(slide_id, root, (_output(study, slide_id, ready, section, identity),), imported=folder)


def _output(study: Study, slide_id: str, ready: Ready, section: dict[str, Any], made_from: str) -> Output:
    key = make_key(STAGE, FORMAT, section | {"weights": ready.hash}, made_from=[made_from])
    path = study.features_h5(ready.encoder.name, slide_id)
    return Output(ready.encoder, ready.weights, ready.hash, Artefact(path, key))


def _known_hash(study: Study, encoder: Encoder) -> str:
    """Return the hash of an encoder's weights without using the network.

    If the weights are not on this machine, it is the hash with which the existing features were made, so
    that a study embedded on a cluster can be continued elsewhere.
    """
    try:
        return weights_hash(encoder, find_weights(study, encoder.name))
    except WeightsError:
        files = study.features_h5(encoder.name, "any").parent.glob("*.h5")
        known = {meta["facts"]["weights"] for meta in map(read_meta, files) if meta}
        return known.pop() if len(known) == 1 else "unavailable"
