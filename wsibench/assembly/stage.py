"""Assemble the benchmark of a study, and list what it is made from; imports nothing heavy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import embedding
from wsibench.assembly.join import check_slides, concatenate, digests, join, read_benchmark, tiles_per_slide
from wsibench.assembly.pooling import mean_features, one_hot_control, table_features, target_columns
from wsibench.cohort import clinical, has_expression, read_cohort, read_expression, read_gene_list
from wsibench.core import (
    PATIENT_CONTROLS,
    Artefact,
    CohortError,
    NotReady,
    Study,
    digest,
    file_sha256,
    key_at,
    make_key,
    read_failures,
    read_meta,
    writing,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from wsibench.assembly.join import Exclusions

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
    return _artefacts(study, None if study.parts else _slides_and_keys(study))


def _artefacts(study: Study, slides: tuple[pd.DataFrame, pd.DataFrame] | None) -> list[Artefact]:
    """List what is made from `_slides_and_keys`; in external validation from two benchmarks."""
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
        tables = [file_sha256(path) if path.is_file() else "" for path in map(study.resolve, files)]
        made_from = [key_at(study.expression_h5ad), digest(cohort), *keys.to_numpy().ravel(), *tables]
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


def _slides_and_keys(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
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


def assemble(study: Study) -> "AnnData":
    """Pool every encoder's features over each patient's tiles, and join them with expression and other targets.

    A slide counts only if every encoder has its features, and a patient only if every encoder, feature table and
    control has a vector of them: all encoders are evaluated on the same tissue of the same patients.

    Returns
    -------
    AnnData
        As from `read_benchmark`.

    Raises
    ------
    NotReady
        When an earlier stage is due.
    CohortError
        For a feature table or target that cannot be used, and when no patient is left.
    """
    slides = None if study.parts else _slides_and_keys(study)
    benchmark, left_out = _artefacts(study, slides)
    if benchmark.due() or left_out.due():
        adata, exclusions, sources = _external(study) if slides is None else _assembled(study, *slides)
        competing = [*study.encoders, *study.features]
        controls = [name for name in feature_names(study) if name not in competing]
        uns = {"study": study.name, "study_key": study.key, "key": benchmark.key}
        adata.uns["wsibench"] |= uns | {"encoders": competing, "controls": controls}
        with writing(left_out) as path:
            pd.DataFrame(exclusions, columns=["what", "id", "reason"]).to_csv(path, index=False)
        with writing(benchmark, contents=digests(adata, sources)) as path:
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
    return read_benchmark(study.benchmark_h5ad)


def _assembled(study: Study, rows: pd.DataFrame, keys: pd.DataFrame) -> tuple["AnnData", "Exclusions", dict[str, list]]:
    used = (keys != "").all(axis=1)
    features, n_tiles = {}, {}
    for name in feature_names(study):
        if name in keys:
            slides = rows[used].assign(path=[study.features_h5(name, slide) for slide in rows["slide_id"][used]])
            features[name], n_tiles[name] = mean_features(slides, label=f"04 pooling {name}")
        else:
            features[name] = _patient_features(study, name, rows)
    slides = rows.assign(used=used, n_tiles=rows["slide_id"].map(tiles_per_slide(n_tiles)))
    adata, exclusions = join(read_expression(study), slides, features, tables=study.features)
    adata.uns["wsibench"]["settings"] = {name: settings_key(study, name) or "" for name in features}
    if study.targets:
        patients = clinical.read_patients(study, adata.obs)
        columns, description = target_columns(study.targets, _gene_sets(study), adata.to_df(), patients)
        adata.obsm["targets"] = columns
        adata.uns["wsibench"]["targets"] = json.dumps(description)
    return adata, exclusions, {name: keys[name][used].tolist() for name in keys}


def _patient_features(study: Study, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    patients = rows.drop_duplicates("patient_id").set_index("patient_id")
    if name in study.features:
        path = study.resolve(study.features[name].table)
        return table_features(path, rows, study.features[name], name)
    if name not in PATIENT_CONTROLS:
        raise CohortError(f"{name} is computed from slides, and the cohort has none.", "Remove it from study.yaml.")
    if name == "clinical":
        return clinical.covariates(clinical.read_patients(study, patients), study.clinical.covariates)
    if name == "oracle":
        return _simulated_latents(study.truth / "latents.csv")
    return one_hot_control(patients, "site" if name == "site" else "subtype", name)


def _simulated_latents(path: Path) -> pd.DataFrame:
    """Read the latent variables of a simulated cohort: an upper bound of what any encoder could achieve."""
    if not path.is_file():
        raise CohortError("The control `oracle` is the truth of a simulated cohort; this cohort is not simulated.")
    latents = pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id")
    return latents.drop(columns="site").astype(np.float32)


def _gene_sets(study: Study) -> dict[str, list[str]]:
    genes = {name: target.genes for name, target in study.targets.items() if target.genes is not None}
    return {
        name: read_gene_list(study.resolve(each), f"targets.{name}.genes") if isinstance(each, str) else each
        for name, each in genes.items()
    }


def _external(study: Study) -> tuple["AnnData", "Exclusions", dict[str, list]]:
    parts, names = study.parts.values(), feature_names(study)
    check_slides({part.name: read_cohort(part) for part in parts})
    adata, exclusions = concatenate({part.name: read_benchmark(part.benchmark_h5ad) for part in parts}, names)
    features = [contents(part)["features"] for part in parts]
    return adata, exclusions, {name: [each.get(name, "") for each in features] for name in names}
