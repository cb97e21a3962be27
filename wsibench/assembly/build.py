"""Features with expression: one AnnData of patients × genes, a mean feature an encoder in obsm."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench import embedding
from wsibench.assembly import external
from wsibench.assembly.pooling import CONTROLS, Vectors, from_table, pooled
from wsibench.cohort import clinical
from wsibench.cohort.build import has_expression, read_cohort, read_expression
from wsibench.core import (
    Artefact,
    CohortError,
    NotReady,
    Study,
    digest,
    file_sha256,
    key_at,
    make_key,
    read_failures,
    some,
    writing,
)
from wsibench.embedding import read_coords, read_features, tile_encoders
from wsibench.embedding.controls import controls

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "assembly"

Exclusions = list[tuple[str, str, str]]
"""(what, id, reason)."""


def not_applicable(study: Study) -> str | None:
    """Why there is nothing to assemble, or None."""
    if study.parts and names(study):
        reasons = ((part.name, not_applicable(part)) for part in study.parts.values())
        return next((f"Study {name}: {reason}" for name, reason in reasons if reason), None)
    if not study.parts and not has_expression(study):
        return "The study has no expression: there is nothing to predict, it ends with the features."
    if not (study.encoders or study.features or study.controls):
        return "The study names neither encoders nor features."
    return None


def names(study: Study) -> list[str]:
    """Everything that gets a matrix in obsm: encoders, features tables, controls.

    Raises
    ------
    NotReady
        When which controls apply is left to a cohort that has not been built.
    """
    return list(dict.fromkeys([*study.encoders, *study.features, *controls(study)]))


def expected(study: Study) -> list[Artefact]:
    """benchmark.h5ad and the list of what it leaves out.

    Raises
    ------
    NotReady
        When the cohort or a slide's features are due; of external validation, a benchmark of either study.
    """
    if study.parts:
        return _artefacts(study, external.key(study, names(study), expected))
    slides = _slides(study)
    cohort = slides[["slide_id", "patient_id", "site", "subtype"]].to_dict("records")
    tables = [study.resolve(table.table) for table in study.features.values()]
    section = {
        "names": names(study),
        "features": {name: table.model_dump(mode="json") for name, table in study.features.items()},
    }
    if "clinical" in section["names"]:
        section["clinical"] = [study.clinical.covariates, *clinical.contents(study)]
    features = [key for keys in slides["keys"] for key in keys]
    # A table that is missing is an error of `assemble`; here it only makes another key.  The truth
    # of a simulated cohort is in the key of its expression.
    tables = [file_sha256(path) if path.is_file() else "" for path in tables]
    made_from = [key_at(study.expression_h5ad), digest(cohort), *features, *tables]
    return _artefacts(study, make_key(STAGE, FORMAT, section, made_from))


def _artefacts(study: Study, key: str) -> list[Artefact]:
    return [
        Artefact(study.benchmark_h5ad, key),
        Artefact(study.benchmark_exclusions_csv, make_key(STAGE, FORMAT, "exclusions", [key])),
    ]


def assemble(study: Study) -> "AnnData":
    """Pool every encoder's features over each patient's tiles, and put them beside expression.

    A slide counts only when every encoder has its features, and a patient only when every encoder,
    features table and control has a vector for it: all of them are judged on the same tissue of the
    same patients.

    Returns
    -------
    AnnData
        As `read_benchmark`.

    Raises
    ------
    NotReady
        When an earlier stage is due.
    CohortError
        For a features table that cannot be used, and when no patient is left.
    """
    benchmark, left_out = artefacts = expected(study)
    if any(artefact.due() for artefact in artefacts):
        adata, exclusions, contents = _assembled(study)
        adata.uns["wsibench"]["key"] = benchmark.key
        with writing(left_out) as path:
            pd.DataFrame(exclusions, columns=["what", "id", "reason"]).to_csv(path, index=False)
        with writing(benchmark, contents=contents) as path:
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
    return read_benchmark(study)


def read_benchmark(study: Study) -> "AnnData":
    """The assembled benchmark.

    Returns
    -------
    AnnData
        X: float32 (patients, genes), clipped as the study says.  obs: site, subtype (empty where
        unknown), n_slides, n_tiles, slide_ids (separated by semicolons).  obsm: float32 (patients,
        dim) an encoder, features table or control.  uns["wsibench"]: study, study_key, key,
        encoders, controls, and counts.  Of external validation obs has cohort (train or test), too.

    Raises
    ------
    NotReady
        When it has not been assembled.
    """
    import anndata

    key_at(study.benchmark_h5ad)
    adata = anndata.read_h5ad(study.benchmark_h5ad)
    # HDF5 lists its members by name; the study's own order is the one that tables and figures follow.
    order = [*adata.uns["wsibench"]["encoders"], *adata.uns["wsibench"]["controls"]]
    adata.obsm = {name: adata.obsm[name] for name in order}
    return adata


def read_exclusions(study: Study) -> pd.DataFrame:
    """What the benchmark leaves out of the cohort: what (slide, patient, feature, gene), id, reason."""
    key_at(study.benchmark_exclusions_csv)
    return pd.read_csv(study.benchmark_exclusions_csv, dtype=str, keep_default_na=False)


def read_bags(study: Study, encoder: str, patient_ids: Sequence[str]) -> list[np.ndarray]:
    """All tiles of patients: one float16 (n_tiles, dim) array a patient, slide after slide."""
    bags = []
    for owner, slides in _slides_of(study, patient_ids):
        bags.append(np.concatenate([read_features(owner.features_h5(encoder, slide))[0] for slide in slides]))
    return bags


def bag_index(study: Study, patient_ids: Sequence[str], encoder: str | None = None) -> pd.DataFrame:
    """Where the tiles of `read_bags` lie: patient_id, slide_id, x, y (level-0 px), in the same order.

    Encoders share their tiles, so that none need be named; features from elsewhere may have others.
    """
    encoder = encoder or tile_encoders(study)[0].name
    parts = []
    for patient, (owner, slides) in zip(patient_ids, _slides_of(study, patient_ids), strict=True):
        for slide in slides:
            xy = read_coords(owner.features_h5(encoder, slide))
            parts.append(pd.DataFrame({"patient_id": patient, "slide_id": slide, "x": xy[:, 0], "y": xy[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def with_tiles(study: Study) -> list[str]:
    """Encoders that have features of tiles: what probes on bags can read."""
    if study.parts:
        return external.tile_names(study)
    return [] if embedding.not_applicable(study) else [encoder.name for encoder in tile_encoders(study)]


def _slides_of(study: Study, patient_ids: Sequence[str]) -> list[tuple[Study, list[str]]]:
    """The slides of each patient, and the study that has their features."""
    import h5py
    from anndata.io import read_elem

    key_at(study.benchmark_h5ad)
    with h5py.File(study.benchmark_h5ad, "r") as file:
        obs = read_elem(file["obs"])
    obs = obs.loc[list(patient_ids)]
    owners = [study.parts[role] for role in obs["cohort"]] if study.parts else [study] * len(obs)
    return [(owner, text.split(";")) for owner, text in zip(owners, obs["slide_ids"], strict=True)]


# What is there


def _slides(study: Study) -> pd.DataFrame:
    """The cohort's rows, with whether every encoder has the slide's features (`used`), and their `keys`."""
    rows = read_cohort(study)
    if embedding.not_applicable(study):
        return rows.assign(used=True, keys=[()] * len(rows))
    wanted = {artefact.path: artefact for artefact in embedding.expected(study)}
    failed = {row.key for row in read_failures(study.failures_csv)}
    keys, due = [], []
    for slide in rows["slide_id"]:
        artefacts = [wanted.get(study.features_h5(encoder.name, slide)) for encoder in tile_encoders(study)]
        missing = [artefact for artefact in artefacts if artefact is None or artefact.due()]
        due += [artefact for artefact in missing if artefact is not None and artefact.key not in failed]
        keys.append(() if missing else tuple(artefact.key for artefact in artefacts))
    if due:
        raise NotReady(f"{len(due)} files of features are due, {due[0].path} first.", "Run the stage 03_embedding.")
    return rows.assign(used=[len(of_slide) > 0 for of_slide in keys], keys=keys)


# Putting together


def _assembled(study: Study) -> tuple["AnnData", Exclusions, dict]:
    import anndata

    if study.parts:
        benchmarks = {role: read_benchmark(part) for role, part in study.parts.items()}
        expression, vectors, exclusions = external.stacked(study, benchmarks)
        patients, obs = list(expression.obs_names), expression.obs
    else:
        expression, rows = read_expression(study), _slides(study)
        vectors = _vectors(study, rows)
        patients, exclusions = _patients(expression.obs_names, rows, vectors)
        expression, obs = expression[patients].copy(), _obs(patients, rows, vectors)
    obsm = {}
    for name, one in vectors.items():
        values, unusable = _usable_columns(name, one.values.loc[patients], check=name in study.tables)
        obsm[name] = values
        exclusions += unusable
    counts = pd.Series([what for what, _, _ in exclusions]).value_counts()
    uns = {
        "study": study.name,
        "study_key": study.key,
        "encoders": [*study.encoders, *study.features],
        "controls": [name for name in names(study) if name not in (*study.encoders, *study.features)],
        "n_patients": len(patients),
        "n_genes": expression.n_vars,
        **{f"n_{what}s_left_out": int(counts.get(what, 0)) for what in ("slide", "patient", "feature", "gene")},
    }
    adata = anndata.AnnData(X=expression.X, obs=obs, var=expression.var, obsm=obsm, uns={"wsibench": uns})
    return adata, exclusions, _contents(adata, vectors)


def _vectors(study: Study, rows: pd.DataFrame) -> dict[str, Vectors]:
    tiled = {encoder.name for encoder in tile_encoders(study)}
    used = rows[rows["used"]]
    vectors = {}
    for name in names(study):
        if name in study.features:
            vectors[name] = from_table(study, name, rows)
        elif name in CONTROLS:
            vectors[name] = CONTROLS[name](study, rows)
        elif name in tiled and not embedding.not_applicable(study):
            vectors[name] = pooled(study, name, used)
        else:
            raise CohortError(f"{name} looks at slides, and the cohort has none.", "Leave it out of study.yaml.")
    counts = pd.DataFrame({name: one.n_tiles for name, one in vectors.items() if len(one.n_tiles)})
    uneven = counts.index[counts.min(axis=1) < counts.max(axis=1)]
    if len(uneven):
        raise CohortError(
            f"Encoders have another number of tiles of slide {some(uneven)}: they would be judged on other tissue.",
            "Delete these slides' features and run 03_embedding again.",
        )
    return vectors


def _patients(expressed: pd.Index, rows: pd.DataFrame, vectors: dict[str, Vectors]) -> tuple[list[str], Exclusions]:
    """Patients whom everything is known of, in the order of expression; and who is left out."""
    lost = rows["slide_id"][~rows["used"]]
    exclusions = [("slide", slide, "no features of every encoder (failures.csv says why)") for slide in lost]
    patients = []
    for patient in expressed:
        lacking = [name for name, one in vectors.items() if patient not in one.values.index]
        if lacking:
            exclusions.append(("patient", patient, f"no features: {', '.join(lacking)}"))
        else:
            patients.append(patient)
    if not patients:
        found = "; ".join(f"{name} has {len(one.values)} patients" for name, one in vectors.items())
        raise CohortError(
            f"No patient has expression and the features of every encoder: {len(expressed)} have expression; {found}.",
            "Give all tables the same patient ids, or leave out what covers other patients.",
        )
    return patients, exclusions


def _usable_columns(name: str, values: pd.DataFrame, *, check: bool) -> tuple[np.ndarray, Exclusions]:
    """A contiguous matrix of the columns of a features table that say something; and the others.

    Only tables are searched: an encoder's dead dimension is the encoder's own, and harmless.
    """
    matrix = values.to_numpy(np.float32)  # (n, d)
    if not check:
        return np.ascontiguousarray(matrix), []
    missing = ~np.isfinite(matrix).all(axis=0)
    constant = ~missing & (matrix == matrix[:1]).all(axis=0)
    keep = ~(missing | constant)
    exclusions = [("feature", f"{name}: {column}", "missing values") for column in values.columns[missing]]
    exclusions += [
        ("feature", f"{name}: {column}", "the same for every patient") for column in values.columns[constant]
    ]
    if not keep.any():
        raise CohortError(
            f"features.{name}: none of {len(keep)} columns can be used for these {len(values)} patients "
            f"({missing.sum()} miss values, {constant.sum()} are constant).",
            "Impute missing values, or leave out the patients who miss them.",
        )
    return np.ascontiguousarray(matrix[:, keep]), exclusions


def _obs(patients: list[str], rows: pd.DataFrame, vectors: dict[str, Vectors]) -> pd.DataFrame:
    n_tiles = next((one.n_tiles for one in vectors.values() if len(one.n_tiles)), pd.Series(dtype=np.int64))
    slides = rows[rows["used"] & (rows["slide_id"] != "")]
    slides = slides.assign(n_tiles=slides["slide_id"].map(n_tiles).fillna(0).astype(np.int64))
    by_patient = slides.groupby("patient_id")
    obs = rows.drop_duplicates("patient_id").set_index("patient_id").loc[patients, ["site", "subtype"]]
    obs["n_slides"] = by_patient.size().reindex(patients, fill_value=0)
    obs["n_tiles"] = by_patient["n_tiles"].sum().reindex(patients, fill_value=0)
    obs["slide_ids"] = by_patient["slide_id"].agg(";".join).reindex(patients, fill_value="")
    return obs


def _contents(adata: "AnnData", vectors: dict[str, Vectors]) -> dict:
    """Digests of what the benchmark holds, part by part: a prediction depends on its own parts only."""
    known = adata.obs[["site", "subtype", *adata.obs.columns.intersection(["cohort"])]]
    return {
        "patients": digest([list(row) for row in known.itertuples()]),
        "expression": digest([_sha256(adata.X), list(adata.var_names)]),
        "features": {name: one.contents or _sha256(adata.obsm[name]) for name, one in vectors.items()},
    }


def _sha256(matrix: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()
