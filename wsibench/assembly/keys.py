"""Names, keys and folders of what a benchmark is assembled from."""

from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import embedding
from wsibench.cohort import clinical, has_expression, read_cohort
from wsibench.core import (
    Artefact,
    NotReady,
    Study,
    digest,
    file_sha256,
    key_at,
    make_key,
    read_failures,
    read_meta,
)
from wsibench.embedding import encoder, tile_controls, tile_encoders

FORMAT = 2
STAGE = "assembly"


def not_applicable(study: Study) -> str | None:
    """Reason that there is nothing to assemble, or None."""
    if study.parts:
        reasons = ((part.name, not_applicable(part)) for part in study.parts.values())
        return next((f"Study {name}: {reason}" for name, reason in reasons if reason), None)
    if not has_expression(study):
        return "The study has no expression: there is nothing to predict, it ends with the features."
    if not (study.encoders or study.features or study.controls):
        return "The study names neither encoders nor features."
    return None


def feature_names(study: Study) -> list[str]:
    """Names of all features in obsm: encoders, feature tables and controls, in the order of tables and figures.

    Raises
    ------
    NotReady
        When study.yaml names no controls, and the cohort that decides which apply has not been built.
    """
    controls = study.controls
    if controls is None:
        rows, needs = read_cohort(study), {"site": "site", "subtype-oracle": "subtype"}
        of_patients = [name for name, column in needs.items() if len(set(rows[column]) - {""}) > 1]
        controls = [*tile_controls(study), *of_patients]
    return list(dict.fromkeys([*study.encoders, *study.features, *controls]))


def tile_feature_names(study: Study) -> list[str]:
    """Names of the features that were computed tile by tile; in external validation in both studies."""
    if any(embedding.not_applicable(part) for part in study.parts.values() or [study]):
        return []
    return [each.name for each in tile_encoders(study)]


def feature_folders(study: Study, name: str) -> list[Path]:
    """Folders of an encoder's tile features; in external validation those of the training and the test study."""
    return [part.features_h5(name, "any").parent for part in study.parts.values() or [study]]


def settings_key(study: Study, name: str) -> str | None:
    """Key of the settings that features were made with; features of one key can be compared.

    The number of tiles drawn has no part in it, since fewer tiles of the same tissue estimate the same mean.

    Parameters
    ----------
    study
        The study that has the features.
    name
        Encoder, feature table or control.

    Returns
    -------
    str or None
        "" for tables and controls of patients; None while the encoder's weights are not known.
    """
    if name not in tile_feature_names(study):
        return ""
    made = embedding.made_by(study, encoder(name, study))
    if made.get("weights") == "unavailable":
        return None
    tissue = [] if made["loader"] == "import" else [study.tiles.min_tissue, sorted(study.tiles.drop)]
    return make_key("features", FORMAT, [made, tissue])


def contents(study: Study) -> dict[str, Any]:
    """Digests of the parts of the benchmark: patients, expression, targets, and features by name.

    Predictions depend on the features that they were made from, not on those of other encoders.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    key_at(study.benchmark_h5ad)
    return (read_meta(study.benchmark_h5ad) or {})["facts"]["contents"]


def expected(study: Study) -> list[Artefact]:
    """List benchmark.h5ad and benchmark.exclusions.csv with their keys.

    Raises
    ------
    NotReady
        When the cohort or features of a slide are due; in external validation, a benchmark of either study.
    """
    return artefacts(study, None if study.parts else slides_and_keys(study))


def artefacts(study: Study, slides: tuple[pd.DataFrame, pd.DataFrame] | None) -> list[Artefact]:
    if slides is None:
        section: Any = feature_names(study)
        made_from = [_current_key(role, part) for role, part in study.parts.items()]
    else:
        rows, keys = slides
        section = _settings(study)
        cohort = rows[["slide_id", "patient_id", "site", "subtype"]].to_dict("records")
        files = [table.table for table in study.features.values()]
        files += [target.genes for target in study.targets.values() if isinstance(target.genes, str)]
        # A file that is missing is an error of `assemble`; here it only makes another key.
        read = [file_sha256(path) if path.is_file() else "" for path in map(study.resolve, files)]
        made_from = [key_at(study.expression_h5ad), digest(cohort), *keys.to_numpy().ravel(), *read]
    key = make_key(STAGE, FORMAT, section, made_from)
    return [
        Artefact(study.benchmark_h5ad, key),
        Artefact(study.benchmark_exclusions_csv, make_key(STAGE, FORMAT, "exclusions", [key])),
    ]


def _settings(study: Study) -> dict[str, Any]:
    section: dict[str, Any] = {"names": feature_names(study)}
    section["features"] = {name: table.model_dump(mode="json") for name, table in study.features.items()}
    section["targets"] = {name: target.model_dump(mode="json") for name, target in study.targets.items()}
    if "clinical" in section["names"] or any(target.column for target in study.targets.values()):
        section["clinical"] = [study.clinical.covariates, *clinical.contents(study)]
    return section


def _current_key(role: str, part: Study) -> str:
    remedy = f"Run `wsibench run {part.name} --to 04`."
    try:
        benchmark, *_ = expected(part)
    except NotReady as error:
        raise NotReady(f"Study {part.name} ({role}): {error.what}", remedy) from None
    if why := benchmark.due():
        raise NotReady(f"Study {part.name} ({role}): {benchmark.path} is {why}.", remedy)
    return benchmark.key


def slides_and_keys(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the cohort, and the key of each slide's features by encoder, "" where they could not be made."""
    rows, names = read_cohort(study), tile_feature_names(study)
    wanted = {artefact.path: artefact for artefact in embedding.expected(study)} if names else {}
    failed = {row.key for row in read_failures(study.failures_csv)}
    keys, due = pd.DataFrame("", rows.index, names), []
    for name in names:
        for index, slide in rows["slide_id"].items():
            artefact = wanted.get(study.features_h5(name, slide))
            if artefact and not artefact.due():
                keys.loc[index, name] = artefact.key
            elif artefact and artefact.key not in failed:
                due.append(artefact.path)
    if due:
        raise NotReady(f"{len(due)} files of features are due, {due[0].name} of {due[0].parent.name} first.",
                       "Run the stage 03_embedding.")  # fmt: skip
    return rows, keys
