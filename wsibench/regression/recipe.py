"""What makes an encoder's features what they are, and what tells those of two studies apart.

A key tells that features are other features; a person who brings a saved fit to new slides has to be
told what about them is other, and what to write in study.yaml.  So this room spells out what the keys
of `wsibench.tiling.tiles` and `wsibench.embedding.embed` are made from, less what belongs to the slides alone.
"""

import json
from collections.abc import Iterable
from typing import Any

import yaml

from wsibench import embedding, tiling
from wsibench.assembly.build import read_exclusions
from wsibench.assembly.pooling import from_table
from wsibench.cohort.build import read_cohort
from wsibench.core import PATIENT_CONTROLS, Embedding, Encoder, FitError, Study, Tiles, read_meta
from wsibench.embedding import ENCODERS, encoder, tile_encoders

SECTIONS = {"tiles": Tiles(), "embedding": Embedding()}
"""Sections of study.yaml that decide features, as they are when nothing is said."""


def names(study: Study) -> list[str]:
    """What a study has features of slides from: encoders, controls that look at tiles, and features tables."""
    return [*(each.name for each in tile_encoders(study)), *study.features]


def settings(study: Study, name: str) -> dict[str, Any]:
    """Everything in a study that decides its features of `name`, under the names of study.yaml where it has any.

    How many tiles are drawn (``max_tiles``, ``seed``) is left out, since fewer tiles of the same tissue
    estimate the same; so is the µm/px that slides are decoded at, which depends on what a slide has.

    Returns
    -------
    dict
        JSON-able.  ``kind`` is tiles, folder (tile features from elsewhere) or table.
    """
    if name in study.features:
        return {"kind": "table"}
    record = encoder(name, study)
    if record.loader == "import":
        return {"kind": "folder", "layout": study.folders[name].layout}
    cropped = record.decoded_px(study.embedding.geometry) != record.px
    decide = {
        "kind": "tiles",
        "tiles.tile_um": study.tiles.tile_um,
        "tiles.min_tissue": study.tiles.min_tissue,
        "tiles.drop": sorted(study.tiles.drop),
        "embedding.geometry": "card" if cropped else "tile",
        "format of tiles": tiling.FORMAT,
        "format of features": embedding.FORMAT,
        **{f"encoder.{key}": value for key, value in record.decides().items()},
    }
    return json.loads(json.dumps(decide))


def weights(study: Study, name: str, slide_ids: Iterable[str]) -> str | None:
    """The hash of the weights that the slides' features were made with; None of an encoder without any.

    Raises
    ------
    FitError
        When they were made with more than one.
    """
    if name in study.features or not encoder(name, study).needs_weights:
        return None
    found = {read_meta(study.features_h5(name, slide))["facts"]["weights"] for slide in slide_ids}
    if len(found) > 1:
        raise FitError(f"The features of {name} were made with different weights.", "Run 03_embedding again.")
    return found.pop()


def columns(study: Study, name: str) -> list[str]:
    """The columns of a features table that the study's benchmark uses, in its order."""
    said = read_exclusions(study)
    dropped = set(said["id"][said["what"] == "feature"])
    every = from_table(study, name, read_cohort(study)).values.columns
    return [column for column in every if f"{name}: {column}" not in dropped]


def licence(study: Study, name: str) -> dict[str, str]:
    """What is known of the terms that an encoder comes with."""
    record = ENCODERS.get(name) if name in study.features else encoder(name, study)
    record = record or Encoder(name=name, loader="import", arch="table", dim=None)
    return {
        "licence": record.licence,
        "commercial": record.commercial,
        "note": "Whether a fit on an encoder's embeddings falls under its licence is for that licence to say: "
        "read it before you share this file.",
    }


# Comparing


def check_named(study: Study, name: str) -> None:
    """Refuse what the study has no features from.

    Raises
    ------
    FitError
        Says which features there are.
    """
    if name in PATIENT_CONTROLS:
        raise FitError(f"{name} looks at no slide: there is nothing to apply to new ones.", "Name an encoder.")
    if name not in (have := names(study)):
        listed = ", ".join(have) or "none"
        raise FitError(
            f"Study {study.name} has no features of {name!r}; it has: {listed}.",
            f"Add it to `encoders` or `features` of {study.study_yaml}.",
        )


def check_same(study: Study, name: str, fitted_on: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse features of another making than those of a fit.

    Parameters
    ----------
    fitted_on, found
        As `settings` gives them, or some of the facts beside them: ``weights``, ``width``.

    Raises
    ------
    FitError
        Names all that differs, with what to do about it.
    """
    keys = list(fitted_on | found)
    differ = [key for key in keys if fitted_on.get(key) != found.get(key)]
    if "kind" in differ:
        differ = ["kind"]
    if differ:
        told = "; ".join(f"{key} {_short(found.get(key))}, not {_short(fitted_on.get(key))}" for key in differ)
        remedies = dict.fromkeys(_remedy(study, name, key, fitted_on.get(key)) for key in differ)
        raise FitError(
            f"The features of {name} in study {study.name} are not what the fit was made on: {told}.",
            " ".join(remedies),
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:30]}…"


def _remedy(study: Study, name: str, key: str, wanted: Any) -> str:
    section, _, field = key.partition(".")
    if section in SECTIONS:
        line = json.dumps(wanted)
        return f"Set `{section}: {{{field}: {line}}}` in {study.study_yaml}; what that changes is made again."
    if key == "weights":
        return f"Give the folder of those weights (sha256 {wanted}): `weights: {{{name}: /path/to/dir}}`."
    if key in ("kind", "layout"):
        return f"Bring features of {name} that come from where the fit's came from ({key} {wanted})."
    if key == "width":
        return f"Bring features of {name} that are {wanted} wide, made by the encoder that the fit's were made by."
    return f"{name} is built in another way now: use the version of wsibench, and the code, that the fit was made with."


def example(name: str, made: dict[str, Any]) -> str:
    """A study.yaml whose features of `name` have the `settings` that are given."""
    if made["kind"] == "table":
        content = {"cohort": {"source": "local", "patients": "patients.csv"}}
        content["features"] = {name: {"table": "features.csv"}}
    else:
        content = {"cohort": {"source": "local", "slides": "slides.csv"}}
        if made["kind"] == "folder":
            content["features"] = {name: {"folder": "/path/to/features", "layout": made["layout"]}}
        else:
            content["encoders"] = [name]
            for section, default in SECTIONS.items():
                other = {
                    field: value
                    for key, value in made.items()
                    if (field := key.removeprefix(f"{section}.")) != key and value != _plain(getattr(default, field))
                }
                content |= {section: other} if other else {}
    lines = [f"{key}: {_flow(value)}" for key, value in content.items()]
    return "\n".join(["title: New patients", *lines])


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=200).strip()
