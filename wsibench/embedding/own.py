"""A user's own encoder: code named by a study, run only when the user says that it is trusted."""

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsibench.core import Study, StudyError
from wsibench.embedding.registry import Encoder


def own_encoder(study: Study, name: str) -> Encoder:
    """The record of an encoder that a study brings along.

    Its module's source is part of the record: another text makes other features.

    Raises
    ------
    StudyError
        When the user has not said that the study is trusted, or the module is not found.
    """
    given = study.own[name]
    if os.environ.get("WSIBENCH_TRUST") != "1":
        raise StudyError(
            f"Study {study.name} names code of its own: the encoder {name} is {given.callable}.",
            f"Read it; then let it run as you: wsibench run {study.name} --trust, or WSIBENCH_TRUST=1.",
        )
    module = given.callable.partition(":")[0]
    beside = study.study_yaml.parent / f"{module}.py"
    file = beside if beside.exists() else _installed(module)
    if file is None:
        raise StudyError(f"The module {module} of the encoder {name} is not found.", f"Put it at {beside}.")
    return Encoder(
        name=name,
        loader="callable",
        arch=given.callable,
        kwargs={"source": hashlib.sha256(file.read_bytes()).hexdigest()},
        dim=None,
        px=given.px,
        interpolation=given.interpolation,
        tcga=given.tcga,
        repo=str(beside) if file == beside else None,
        tcga_source="study.yaml",
    )


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def build(encoder: Encoder, device: str) -> Callable[[Any], Any]:
    """Call the user's function: a callable from uint8 tiles (b, 3, px, px) to embeddings (b, width)."""
    name, _, function = encoder.arch.partition(":")
    if encoder.repo is None:
        return getattr(importlib.import_module(name), function)(device)
    # By its path, since another study may have a module of the same name.
    spec = importlib.util.spec_from_file_location(f"{name}_{encoder.kwargs['source'][:12]}", encoder.repo)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)(device)
