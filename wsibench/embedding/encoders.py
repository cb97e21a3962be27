"""Look up encoders: those of encoders.yaml, those that a study defines, and what is known of them."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import yaml

from wsibench.core import (
    FUSION,
    PATIENT_CONTROLS,
    TILE_CONTROLS,
    Encoder,
    FeatureFolder,
    Known,
    Study,
    StudyError,
    WeightsError,
)
from wsibench.embedding import weights

_RECORDS = yaml.safe_load((Path(__file__).parent / "encoders.yaml").read_text())
ENCODERS: dict[str, Encoder] = {record["name"]: Encoder(**record) for record in _RECORDS}
"""All encoders of encoders.yaml by name."""
COLUMNS = [
    "name", "dim", "px", "parameters", "gflops", "precision", "licence", "commercial", "gate", "tcga", "data", "repo",
    "checked",
]  # fmt: skip


def encoder(name: str, study: Study | None = None) -> Encoder:
    """Return the record of an encoder, of encoders.yaml or of a study.

    Raises
    ------
    StudyError
        For an unknown name, or a study's own code that is not trusted.
    """
    if study and study.parts:
        return encoder(name, study.parts["train"])
    record = _record(name, study)
    asked = study.embedding.precision.get(name) if study else None
    return record.model_copy(update={"precision": asked}) if asked else record


def _record(name: str, study: Study | None) -> Encoder:
    if study and name in study.folders:
        return _imported(name, study.folders[name])
    if study and name in study.own:
        return _own(study, study.own[name])
    if name in ENCODERS:
        return ENCODERS[name]
    raise StudyError(f"There is no encoder {name!r}.", f"Encoders: {', '.join([*ENCODERS, *PATIENT_CONTROLS])}.")


def _imported(name: str, folder: FeatureFolder) -> Encoder:
    """Return the record of features computed elsewhere, with the terms of the encoder if its name is known."""
    if name in ENCODERS:
        return ENCODERS[name].model_copy(update={"loader": "import", "arch": folder.layout, "kwargs": {}})
    return Encoder(name=name, loader="import", arch=folder.layout, tcga=folder.tcga, tcga_source="study.yaml")


def _own(study: Study, record: Encoder) -> Encoder:
    """Add the digest of a user's code to its record, since other code makes other features; refuse untrusted code."""
    if record.loader == "import":
        raise StudyError(f"The encoder {record.name} has no loader.", "Name imported features under `features`.")
    if record.loader != "callable":
        return record
    if os.environ.get("WSIBENCH_TRUST") != "1":
        raise StudyError(
            f"Study {study.name} contains code: the encoder {record.name} is {record.arch}.",
            f"Read it; to run it, use wsibench run {study.name} --trust, or set WSIBENCH_TRUST=1.",
        )
    module = record.arch.partition(":")[0]
    beside = study.study_yaml.parent / f"{module}.py"
    file = beside if beside.exists() else _installed(module)
    if file is None:
        raise StudyError(f"The module {module} of the encoder {record.name} is not found.", f"Put it at {beside}.")
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    return record.model_copy(update={"kwargs": {"source": source}, "repo": str(beside) if file == beside else None})


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def tile_controls(study: Study) -> list[str]:
    """Return the controls of a study that embed tiles.

    By default they run in studies that read slides: not for feature tables, and not for tile features that
    were computed elsewhere, whose slides may not be available.
    """
    if study.controls is not None:
        return [name for name in study.controls if name not in PATIENT_CONTROLS]
    reads_slides = not study.without_slides and any(name not in study.folders for name in study.encoders)
    return [name for name in TILE_CONTROLS if reads_slides and name not in study.encoders]


def tile_encoders(study: Study) -> list[Encoder]:
    """Return the encoders of a study that embed tiles: those it compares, then its controls."""
    for name in (*study.weights, *study.embedding.precision):
        encoder(name, study)  # what is given under a misspelt name would not be used
    names = dict.fromkeys(study.encoders + tile_controls(study))
    return [encoder(name, study) for name in names if name not in (*PATIENT_CONTROLS, *study.tables)]


def tcga(study: Study, name: str) -> Known:
    """Return "yes", "no" or "unknown": whether the training data of an encoder or feature table included TCGA."""
    if name == FUSION:
        known = {tcga(study, member) for member in study.fused}
        return "yes" if "yes" in known else "unknown" if "unknown" in known else "no"
    if study.parts:
        # One of the two studies may know what the other leaves open.
        known = {tcga(part, name) for part in study.parts.values()}
        return "yes" if "yes" in known else "no" if "no" in known else "unknown"
    if name in study.features:
        return study.features[name].tcga
    if name in study.own:
        return study.own[name].tcga
    return "no" if name in PATIENT_CONTROLS else encoder(name, study).tcga


def find_weights(study: Study, name: str, *, download: bool = False) -> Path | None:
    """Return the folder of an encoder's weights, or None if it has none.

    Parameters
    ----------
    study
        The study, which may name local folders of weights and encoders of its own.
    name
        Name of the encoder.
    download
        Download weights that are not on this machine; otherwise the network is not used.

    Raises
    ------
    WeightsError
        If the weights are not available; the message says how to get them.
    """
    record = encoder(name, study)
    if not record.needs_weights:
        return None
    return (weights.fetch if download else weights.find)(record, weights.local_folder(name, study))


def table(encoders: Iterable[Encoder] | None = None, study: Study | None = None) -> pd.DataFrame:
    """Tabulate the records of encoders (default: of all), and whether their weights are on this machine."""
    records = list(ENCODERS.values() if encoders is None else encoders)
    frame = pd.DataFrame([[getattr(record, name) for name in COLUMNS] for record in records], columns=COLUMNS)
    frame = frame.astype({"dim": "Int64", "parameters": "Int64"})
    return frame.assign(weights=[_presence(record, study) for record in records])


def _presence(record: Encoder, study: Study | None) -> str:
    if not record.needs_weights:
        return "not needed"
    try:
        weights.find(record, weights.local_folder(record.name, study))
    except WeightsError:
        return "absent"
    return "present"


def encoders_table(form: str = "table") -> str:
    """Return the table of all encoders as text: aligned for a terminal, markdown (as in the docs), csv or json."""
    frame = table()
    if form == "csv":
        return frame.to_csv(index=False)
    if form == "json":
        return frame.to_json(orient="records", indent=1, force_ascii=False)
    frame["parameters"] = [f"{count:,}" if pd.notna(count) else "unknown" for count in frame["parameters"]]
    frame = frame.rename(columns={"dim": "width"}).drop(columns="data")
    if form == "markdown":
        frame = frame.drop(columns="weights").fillna("")
        rows = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return frame.drop(columns=["commercial", "checked"]).to_string(index=False, na_rep="")
