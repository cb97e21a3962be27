"""Names, keys and folders of what a benchmark is assembled from; imports nothing heavy."""

from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import embedding
from wsibench.cohort import clinical, has_expression, read_cohort
from wsibench.core import Artefact, NotReady, Study, digest, file_sha256, key_at, make_key, read_failures, read_meta

FORMAT = 2
STAGE = "assembly"


def not_applicable(study: Study) -> str | None:
    """Reason that there is nothing to assemble, or None."""
    for part in study.parts.values() or [study]:
        if not has_expression(part):
            return f"Study {part.name} has no expression: there is nothing to predict, it ends with the features."
        if not (part.encoders or part.features or part.controls):
            return f"Study {part.name} names neither encoders nor features."
    return None


def feature_names(study: Study) -> list[str]:
    """List encoders, feature tables and controls in the order of tables and figures.

    Raises
    ------
    NotReady
        When study.yaml names no controls, and the cohort that decides which apply has not been built.
    """
    controls = study.controls
    if controls is None:
        rows, needs = read_cohort(study), {"site": "site", "subtype-oracle": "subtype"}
        of_patients = [name for name, column in needs.items() if len(set(rows[column]) - {""}) > 1]
        controls = [*embedding.tile_controls(study), *of_patients]
    return list(dict.fromkeys([*study.encoders, *study.features, *controls]))


def tile_feature_names(study: Study) -> list[str]:
    """List the features that are computed tile by tile; in external validation in both studies."""
    if any(embedding.not_applicable(part) for part in study.parts.values() or [study]):
        return []
    return [encoder.name for encoder in embedding.tile_encoders(study)]


def feature_folders(study: Study, name: str) -> list[Path]:
    """List the folders of an encoder's tile features: one, or that of the training and that of the test study."""
    return [part.features_h5(name, "any").parent for part in study.parts.values() or [study]]


def settings_key(study: Study, name: str) -> str | None:
    """Key of the settings that features were made with; features of one key can be compared.

    The number of tiles drawn has no part in it, since fewer tiles of the same tissue estimate the same mean.

    Returns
    -------
    str or None
        "" for tables and controls of patients; None while the encoder's weights are unknown.
    """
    if name not in tile_feature_names(study):
        return ""
    made = embedding.made_by(study, embedding.encoder(name, study))
    tissue = [] if made["loader"] == "import" else [study.tiles.min_tissue, sorted(study.tiles.drop)]
    return None if made.get("weights") == "unavailable" else make_key("features", FORMAT, [made, tissue])


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
    """List what is made from `slides_and_keys`; in external validation from two benchmarks."""
    section: list[Any] = [feature_names(study)]
    if slides is None:
        made_from = [_current_key(role, part) for role, part in study.parts.items()]
    else:
        rows, keys = slides
        section.append(study.model_dump(mode="json", include={"features", "targets"}))
        if "clinical" in section[0] or any(target.column for target in study.targets.values()):
            section += [study.clinical.covariates, clinical.contents(study)]
        cohort = rows[["slide_id", "patient_id", "site", "subtype"]].to_dict("records")
        files = [table.table for table in study.features.values()]
        files += [target.genes for target in study.targets.values() if isinstance(target.genes, str)]
        # A file that is missing is an error of `assemble`; here it only makes another key.
        digests = [file_sha256(path) if path.is_file() else "" for path in map(study.resolve, files)]
        made_from = [key_at(study.expression_h5ad), digest(cohort), *keys.to_numpy().ravel(), *digests]
    key = make_key(STAGE, FORMAT, section, made_from)
    exclusions = make_key(STAGE, FORMAT, "exclusions", [key])
    return [Artefact(study.benchmark_h5ad, key), Artefact(study.benchmark_exclusions_csv, exclusions)]


def _current_key(role: str, part: Study) -> str:
    try:
        benchmark, *_ = expected(part)
        why = benchmark.due()
    except NotReady as error:
        why = error.what
    if why:
        remedy = f"Run `wsibench run {part.name} --to 04`."
        raise NotReady(f"Study {part.name} ({role}): {part.benchmark_h5ad} is due ({why.rstrip('.')}).", remedy)
    return benchmark.key


def slides_and_keys(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the cohort, and the key of each slide's features by encoder, "" where they could not be made.

    Raises
    ------
    NotReady
        When features are due.
    """
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
        raise NotReady(f"{len(due)} files of features are due, {due[0]} first.", "Run the stage 03_embedding.")
    return rows, keys
