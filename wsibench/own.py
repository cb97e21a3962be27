"""A user's own encoder: code named by a study, run only when the user says that it is trusted."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsibench.errors import StudyError
from wsibench.registry import Encoder
from wsibench.study import Study


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
    importable(study)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise StudyError(
            f"The module {module} of the encoder {name} is not found.", f"Put it into {study.study_yaml.parent}."
        )
    source = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return Encoder(
        name=name,
        loader="callable",
        arch=given.callable,
        kwargs={"source": source},
        dim=None,
        px=given.px,
        interpolation=given.interpolation,
        tcga=given.tcga,
        tcga_source="study.yaml",
    )


def importable(study: Study) -> None:
    """Let modules beside study.yaml be imported."""
    folder = str(study.study_yaml.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)


def build(encoder: Encoder, device: str) -> Callable[[Any], Any]:
    """Call the user's function: a callable from uint8 tiles (b, 3, px, px) to embeddings (b, width)."""
    module, _, function = encoder.arch.partition(":")
    return getattr(importlib.import_module(module), function)(device)
