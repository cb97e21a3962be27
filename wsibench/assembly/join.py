"""Join features, expression and other targets into one AnnData of patients × genes; knows no study."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench.assembly.pooling import one_hot_control
from wsibench.core import CohortError, digest, key_at, some

if TYPE_CHECKING:
    from anndata import AnnData

# Rows of benchmark.exclusions.csv: what (slide, patient, feature or gene), id, reason.
Exclusions = list[tuple[str, str, str]]
ROLES = ("train", "test")


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
    expression: "AnnData", slides: pd.DataFrame, features: Mapping[str, pd.DataFrame], *, tables: Collection[str] = ()
) -> tuple["AnnData", Exclusions]:
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


def digests(adata: "AnnData", sources: dict[str, list]) -> dict[str, Any]:
    """Digest the parts of a benchmark: patients, expression, targets, and features by name with their sources."""
    known = adata.obs[["site", "subtype", *adata.obs.columns.intersection(["external"])]]
    features = {name: values for name, values in adata.obsm.items() if name != "targets"}
    found = {
        "patients": digest([list(row) for row in known.itertuples()]),
        "expression": digest([_sha256(adata.X), list(adata.var_names)]),
        "features": {name: digest([_sha256(values), *sources.get(name, [])]) for name, values in features.items()},
    }
    if "targets" in adata.obsm:
        found["targets"] = digest([_sha256(adata.obsm["targets"].to_numpy()), adata.uns["wsibench"]["targets"]])
    return found


def _sha256(matrix: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()


def read_benchmark(path: Path) -> "AnnData":
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
    import anndata

    key_at(path)
    adata = anndata.read_h5ad(path)
    # HDF5 lists its members by name; the study's own order is the one that tables and figures follow.
    order = [*adata.uns["wsibench"]["encoders"], *adata.uns["wsibench"]["controls"]]
    adata.obsm = {name: adata.obsm[name] for name in [*order, *(name for name in adata.obsm if name not in order)]}
    return adata


# External validation: the benchmarks of two studies as one, to train on the one and test on the other


def concatenate(benchmarks: dict[str, "AnnData"], names: list[str]) -> tuple["AnnData", Exclusions]:
    """Concatenate the benchmarks of a training and a test study.

    Genes, and feature columns that have names, are those of both.  The control ``site`` is computed anew, and
    sites carry ``train:`` or ``test:`` before their name, since equal names need not be one site.

    Parameters
    ----------
    benchmarks
        The training and the test benchmark, in this order, by the name of their study.
    names
        Features to keep.

    Returns
    -------
    AnnData
        The training patients, then the test patients; obs["external"] is −1 for the former and 0 for the latter.
    exclusions
        Genes and feature columns that only one of them has: what, id, reason.

    Raises
    ------
    CohortError
        For a patient in both, no gene or feature column in both, and features made with different settings.
    """
    import anndata

    train, test = benchmarks.values()
    _check_patients(benchmarks)
    _check_settings(benchmarks, [name for name in names if name != "site"])
    genes = test.var_names[test.var_names.isin(train.var_names)]
    if genes.empty:
        first, second = (f"{name} has {some(each.var_names)}" for name, each in benchmarks.items())
        raise CohortError(
            f"The studies share no gene: {first}; {second}.", "Name genes alike in both, by symbol or by Ensembl id."
        )
    parts = {role: _part(each, genes, names, role) for role, each in zip(ROLES, benchmarks.values(), strict=True)}
    both = anndata.concat(parts.values(), join="inner")
    both.var = test.var.loc[genes]
    exclusions = []
    for (study, each), (role, part) in zip(benchmarks.items(), parts.items(), strict=True):
        reason = f"only in {study} ({role})"
        exclusions += [("gene", gene, reason) for gene in each.var_names.difference(genes, sort=False)]
        for name, values in part.obsm.items():
            alone = values.columns.difference(both.obsm[name].columns, sort=False)
            exclusions += [("feature", f"{name}: {column}", reason) for column in alone]
    if "site" in names:
        both.obsm["site"] = one_hot_control(both.obs, "site", "site")
    columns = {name: values.columns.to_numpy(str) for name, values in both.obsm.items() if _named(values)}
    for name, values in both.obsm.items():
        if values.empty:
            raise CohortError(f"The studies share no column of {name}.", "Name columns alike in both tables.")
        both.obsm[name] = np.ascontiguousarray(values.to_numpy(np.float32))
    both.uns["wsibench"] = {"columns": columns}
    return both, exclusions


def check_slides(cohorts: dict[str, pd.DataFrame]) -> None:
    """Refuse a slide file that is in both studies under different patients.

    Parameters
    ----------
    cohorts
        Slides with their identity, by the name of the study.

    Raises
    ------
    CohortError
        Names the first of them.
    """
    first, second = (rows[rows["identity"] != ""].set_index("identity")["slide_id"] for rows in cohorts.values())
    same = first.index.intersection(second.index)
    if len(same):
        studies = " and ".join(f"{ids[same[0]]} of {name}" for ids, name in zip((first, second), cohorts, strict=True))
        raise CohortError(
            f"{len(same)} slides are in both studies, under different patients: {studies} is the same file.",
            "Remove them from one study.",
        )


def _part(benchmark: "AnnData", genes: pd.Index, names: list[str], role: str) -> "AnnData":
    """One study's patients, with features as data frames, so that anndata matches columns by name."""
    part, columns = benchmark[:, genes].copy(), benchmark.uns["wsibench"]["columns"]
    part.obs["site"] = part.obs["site"].where(part.obs["site"] == "", f"{role}:" + part.obs["site"])
    part.obs["external"] = np.int8(-1 if role == "train" else 0)
    part.obsm = {
        name: pd.DataFrame(part.obsm[name], part.obs_names, columns.get(name)) for name in names if name != "site"
    }
    return part


def _named(features: pd.DataFrame) -> bool:
    return features.columns.inferred_type == "string"


def _check_patients(benchmarks: dict[str, "AnnData"]) -> None:
    train, test = benchmarks.values()
    both = train.obs_names.intersection(test.obs_names)
    if len(both):
        raise CohortError(
            f"{len(both)} patients are in study {' and in study '.join(benchmarks)}: {some(both)}. They would be "
            "tested on models that were trained on them.",
            "Remove them from one study; if they are different people, give them different ids.",
        )


def _check_settings(benchmarks: dict[str, "AnnData"], names: list[str]) -> None:
    """Refuse features of other encoders, weights or tiles: a model trained on the one cannot read the other."""
    for name in names:
        keys = set()
        for each in benchmarks.values():
            known = each.uns["wsibench"]
            keys.add((known["settings"][name], None if name in known["columns"] else each.obsm[name].shape[1]))
        if len(keys) > 1:
            studies = " and in study ".join(benchmarks)
            raise CohortError(
                f"The features of {name} were made with different settings in study {studies}.",
                "Use the same encoder, weights, `tiles` (tile_um, min_tissue, drop) and `embedding` in both.",
            )
