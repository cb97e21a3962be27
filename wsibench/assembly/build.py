"""Assemble features, expression and other targets into one AnnData of patients × genes."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from wsibench.assembly.external import check_slides, concatenate
from wsibench.assembly.keys import artefacts, contents, feature_names, settings_key, slides_and_keys
from wsibench.assembly.pooling import mean_features, one_hot_control, table_features
from wsibench.assembly.targets import target_columns
from wsibench.cohort import clinical, read_cohort, read_expression, read_gene_list
from wsibench.core import PATIENT_CONTROLS, CohortError, Study, digest, key_at, some, writing

Exclusions = list[tuple[str, str, str]]
"""Rows of benchmark.exclusions.csv: what (slide, patient, feature or gene), id, reason."""


# The stage


def assemble(study: Study) -> AnnData:
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
    slides = None if study.parts else slides_and_keys(study)
    benchmark, left_out = artefacts(study, slides)
    if benchmark.due() or left_out.due():
        adata, exclusions, sources = _external(study) if slides is None else _assembled(study, *slides)
        competing = [*study.encoders, *study.features]
        controls = [name for name in feature_names(study) if name not in competing]
        uns = {"study": study.name, "study_key": study.key, "key": benchmark.key}
        adata.uns["wsibench"] |= uns | {"encoders": competing, "controls": controls}
        with writing(left_out) as path:
            pd.DataFrame(exclusions, columns=["what", "id", "reason"]).to_csv(path, index=False)
        with writing(benchmark, contents=_digests(adata, sources)) as path:
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
    return read_benchmark(study.benchmark_h5ad)


def _assembled(study: Study, rows: pd.DataFrame, keys: pd.DataFrame) -> tuple[AnnData, Exclusions, dict[str, list]]:
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


def _external(study: Study) -> tuple[AnnData, Exclusions, dict[str, list]]:
    parts, names = study.parts.values(), feature_names(study)
    check_slides({part.name: read_cohort(part) for part in parts})
    adata, exclusions = concatenate({part.name: read_benchmark(part.benchmark_h5ad) for part in parts}, names)
    digests = [contents(part)["features"] for part in parts]
    return adata, exclusions, {name: [each.get(name, "") for each in digests] for name in names}


# Without a study


def tiles_per_slide(n_tiles: Mapping[str, pd.Series]) -> pd.Series:
    """Count the tiles of each slide, and check that all encoders have the same number.

    Parameters
    ----------
    n_tiles
        Tiles per slide, indexed by slide_id, by encoder.

    Raises
    ------
    CohortError
        When encoders saw different numbers of tiles of a slide.
    """
    counts = pd.DataFrame(n_tiles, dtype=np.int64)
    uneven = counts.index[counts.min(axis=1) < counts.max(axis=1)]
    if len(uneven):
        raise CohortError(
            f"Encoders have different numbers of tiles of slide {some(uneven)}: they would be compared on different "
            "tissue.",
            "Delete the features of these slides and run 03_embedding again.",
        )
    return counts.max(axis=1)


def join(
    expression: AnnData, slides: pd.DataFrame, features: Mapping[str, pd.DataFrame], *, tables: Collection[str] = ()
) -> tuple[AnnData, Exclusions]:
    """Join expression and features of the patients of whom everything is known.

    Parameters
    ----------
    expression
        Patients × genes.
    slides
        The cohort, one row per slide: slide_id (empty for patients without slides), patient_id, site, subtype, used
        (bool; every encoder has the slide's features), n_tiles.
    features
        (patients, dim), indexed by patient_id, by name.
    tables
        Names of features of which constant and incomplete columns are left out.

    Returns
    -------
    AnnData
        As from `read_benchmark`, without targets.
    exclusions
        Slides, patients and feature columns that were left out.

    Raises
    ------
    CohortError
        When no patient, or no column of a table, is left.
    """
    lost = slides["slide_id"][~slides["used"]]
    exclusions = [("slide", slide, "no features of every encoder (failures.csv gives the error)") for slide in lost]
    complete = []
    for patient in expression.obs_names:
        lacking = [name for name, values in features.items() if patient not in values.index]
        complete.append(not lacking)
        exclusions += [("patient", patient, f"no features: {', '.join(lacking)}")] if lacking else []
    adata = expression[complete].copy()
    if not adata.n_obs:
        found = "; ".join(f"{name} has {len(values)} patients" for name, values in features.items())
        raise CohortError(
            f"No patient has expression and the features of every encoder: {expression.n_obs} have expression; "
            f"{found}.",
            "Give all tables the same patient ids, or leave out tables of other patients.",
        )
    adata.obs = patient_table(slides, adata.obs_names)
    columns: dict[str, np.ndarray] = {}
    for name, values in features.items():
        values = values.loc[adata.obs_names]
        if name in tables:
            values, dropped = _usable_columns(name, values)
            exclusions += dropped
        adata.obsm[name] = np.ascontiguousarray(values.to_numpy(np.float32))
        if values.columns.inferred_type == "string":
            columns[name] = values.columns.to_numpy(str)
    adata.uns["wsibench"] = {"columns": columns}
    return adata, exclusions


def _usable_columns(name: str, values: pd.DataFrame) -> tuple[pd.DataFrame, Exclusions]:
    matrix = values.to_numpy(np.float32)  # (n, d)
    missing = ~np.isfinite(matrix).all(axis=0)
    constant = ~missing & (matrix == matrix[:1]).all(axis=0)
    reasons = {"missing values": missing, "the same for every patient": constant}
    exclusions = [
        ("feature", f"{name}: {each}", why) for why, which in reasons.items() for each in values.columns[which]
    ]
    if (missing | constant).all():
        raise CohortError(
            f"features.{name}: none of {len(missing)} columns can be used for these {len(values)} patients "
            f"({missing.sum()} have missing values, {constant.sum()} are constant).",
            "Impute missing values, or leave out the patients who have them.",
        )
    return values.loc[:, ~(missing | constant)], exclusions


def patient_table(slides: pd.DataFrame, patients: pd.Index) -> pd.DataFrame:
    """Summarise the slides of patients.

    Parameters
    ----------
    slides
        As in `join`.
    patients
        Patients to keep, in this order.

    Returns
    -------
    DataFrame
        site, subtype, n_slides, n_tiles, slide_ids (separated by semicolons), indexed by patient_id; slides that are
        not used do not count.
    """
    obs = slides.drop_duplicates("patient_id").set_index("patient_id").loc[patients, ["site", "subtype"]]
    by_patient = slides[slides["used"] & (slides["slide_id"] != "")].groupby("patient_id")
    obs["n_slides"] = by_patient.size().reindex(patients, fill_value=0)
    obs["n_tiles"] = by_patient["n_tiles"].sum().reindex(patients, fill_value=0).astype(np.int64)
    obs["slide_ids"] = by_patient["slide_id"].agg(";".join).reindex(patients, fill_value="")
    return obs


def _digests(adata: AnnData, sources: dict[str, list]) -> dict[str, Any]:
    known = adata.obs[["site", "subtype", *adata.obs.columns.intersection(["external"])]]
    features = {name: values for name, values in adata.obsm.items() if name != "targets"}
    digests = {
        "patients": digest([list(row) for row in known.itertuples()]),
        "expression": digest([_sha256(adata.X), list(adata.var_names)]),
        "features": {name: digest([_sha256(values), *sources.get(name, [])]) for name, values in features.items()},
    }
    if "targets" in adata.obsm:
        digests["targets"] = digest([_sha256(adata.obsm["targets"].to_numpy()), adata.uns["wsibench"]["targets"]])
    return digests


def _sha256(matrix: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()


def read_benchmark(path: Path) -> AnnData:
    """Read an assembled benchmark.

    Returns
    -------
    AnnData
        X: float32 (patients, genes), clipped as the study states.  obs: site, subtype (empty where unknown),
        n_slides, n_tiles, slide_ids (separated by semicolons); in external validation also external (int8; −1
        trained on in every fold, 0 tested).  obsm: float32 (patients, dim) for each encoder, feature table and
        control; targets, a DataFrame of targets other than genes, if the study names any.  uns["wsibench"]: study,
        study_key, key, encoders, controls, columns (names of feature columns, where they have any), settings (keys
        of the settings that features were made with), targets (JSON, by column of obsm["targets"]).

    Raises
    ------
    NotReady
        When it has not been assembled.
    """
    key_at(path)
    adata = anndata.read_h5ad(path)
    # HDF5 lists its members by name; the study's own order is the one that tables and figures follow.
    order = [*adata.uns["wsibench"]["encoders"], *adata.uns["wsibench"]["controls"]]
    adata.obsm = {name: adata.obsm[name] for name in [*order, *(name for name in adata.obsm if name not in order)]}
    return adata


def read_exclusions(path: Path) -> pd.DataFrame:
    """Read benchmark.exclusions.csv: what (slide, patient, feature or gene), id, reason."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)
