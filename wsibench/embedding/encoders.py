"""The encoders that a study compares: found by name, listed, and what is known of them.

- ``registry``: a frozen record for each, with everything that decides an embedding
- ``weights``: where they lie, fetching them, and the hash that tells them apart
- ``models``: from a record to a function of tiles
- ``statistics``: the hand-crafted ones
- ``own``: a user's own
"""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from wsibench.core import FUSION, FeatureFolder, Study, StudyError, WeightsError
from wsibench.embedding import weights
from wsibench.embedding.controls import tile_controls
from wsibench.embedding.own import own_encoder
from wsibench.embedding.registry import ENCODERS, Encoder, Known

PATIENT_LEVEL = ("site", "clinical", "subtype-oracle", "oracle")
"""Controls that are one vector a patient, made at assembly: no tile is encoded for them."""


def encoder(name: str, study: Study | None = None) -> Encoder:
    """The record of an encoder, be it the registry's or one that `study` brings along.

    Raises
    ------
    StudyError
        For an unknown name, saying which ones there are; for code that is not trusted.
    """
    if study and study.parts:
        return encoder(name, study.parts["train"])
    if study and name in study.folders:
        return _imported(name, study.folders[name])
    if study and name in study.own:
        return own_encoder(study, name)
    if name in ENCODERS:
        return ENCODERS[name]
    allowed = [*ENCODERS, *PATIENT_LEVEL]
    close = difflib.get_close_matches(name, allowed, n=3)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise StudyError(f"There is no encoder {name!r}.", f"{hint}Encoders: {', '.join(allowed)}.")


def _imported(name: str, folder: FeatureFolder) -> Encoder:
    """The record of features computed elsewhere: what is known of the encoder, if it is a known one."""
    if name in ENCODERS:
        return replace(ENCODERS[name], loader="import", arch=folder.layout, kwargs={})
    known = {"tcga": folder.tcga, "tcga_source": "study.yaml"}
    return Encoder(name=name, loader="import", arch=folder.layout, dim=None, **known)


def tile_encoders(study: Study) -> list[Encoder]:
    """Encoders that tiles are embedded with: the study's, then its controls that look at tiles."""
    for name in study.weights:
        encoder(name, study)  # a misspelt one would quietly leave its folder unused
    names = dict.fromkeys(study.encoders + tile_controls(study))
    return [encoder(name, study) for name in names if name not in (*PATIENT_LEVEL, *study.tables)]


def tcga(study: Study, name: str) -> Known:
    """Whether TCGA was in the training data of an encoder, a control or a feature table of `study`."""
    if name == FUSION:
        said = {tcga(study, member) for member in study.fused}
        return "yes" if "yes" in said else "unknown" if "unknown" in said else "no"
    if study.parts:
        # One of the two may know what the other leaves open.
        said = {tcga(part, name) for part in study.parts.values()}
        return "yes" if "yes" in said else "no" if "no" in said else "unknown"
    if name in study.features:
        return study.features[name].tcga
    if name in study.own:
        return study.own[name].tcga
    return "no" if name in PATIENT_LEVEL else encoder(name, study).tcga


def find_weights(study: Study, name: str) -> Path | None:
    """The folder of an encoder's weights on this machine, or None when it needs none; asks no network.

    Raises
    ------
    WeightsError
        When they are not here; says how to get them.
    """
    record = encoder(name, study)
    return weights.find(record, weights.local_folder(name, study)) if record.needs_weights else None


def table(encoders: Iterable[Encoder], study: Study | None = None) -> pd.DataFrame:
    """What is known of encoders, one a row, and whether their weights are on this machine."""
    columns = ("name", "dim", "px", "parameters", "licence", "commercial", "gate", "tcga", "data")
    frame = pd.DataFrame([[getattr(record, name) for name in columns] for record in encoders], columns=columns)
    frame["dim"] = ["unknown" if pd.isna(dim) else str(int(dim)) for dim in frame["dim"]]
    frame["parameters"] = ["unknown" if pd.isna(count) else f"{int(count):,}" for count in frame["parameters"]]
    frame["weights"] = [_presence(record, study) for record in encoders]
    return frame


def _presence(encoder: Encoder, study: Study | None) -> str:
    if not encoder.needs_weights:
        return "not needed"
    try:
        weights.find(encoder, weights.local_folder(encoder.name, study))
    except WeightsError:
        return "absent"
    return "present"


def encoders_table() -> str:
    """All encoders as a table for a terminal."""
    frame = table(ENCODERS.values()).drop(columns=["commercial", "data"]).rename(columns={"dim": "width"})
    return frame.to_string(index=False)
