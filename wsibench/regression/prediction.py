"""A saved fit applied to patients of another study: of their slides, their features, or a table of those."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import embedding, tiling
from wsibench.assembly.pooling import from_table, pooled
from wsibench.cohort import build as cohort
from wsibench.core import (
    Artefact,
    CohortError,
    FitError,
    NotReady,
    Study,
    StudyError,
    data_root,
    digest,
    file_sha256,
    make_key,
    read_failures,
    replacing,
    some,
    studies,
)
from wsibench.embedding import read_features
from wsibench.regression import recipe
from wsibench.regression.probes import offer
from wsibench.regression.probes.base import Patients
from wsibench.regression.saved import Saved

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "prediction"


@dataclass(frozen=True)
class SlideBags(Sequence):
    """The tiles of patients, slide after slide, read when they are asked for."""

    study: Study
    encoder: str
    slides: list[list[str]]
    """Ids of each patient's slides."""

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, position: int) -> np.ndarray:
        paths = [self.study.features_h5(self.encoder, slide) for slide in self.slides[position]]
        return np.concatenate([read_features(path)[0] for path in paths])


@dataclass(frozen=True)
class Found:
    """The patients that there are features of."""

    patients: Patients
    obs: pd.DataFrame
    """Indexed by patient_id: site, n_slides, n_tiles."""
    contents: str
    """Digest of the features."""


def load_study(saved: Saved, name: str) -> Study:
    """The study of the new patients, without the controls that run where study.yaml says nothing of them.

    Raises
    ------
    StudyError
        When there is none, with a study.yaml that would do.
    """
    try:
        study = Study.load(name)
    except StudyError as error:
        if name in studies():
            raise
        yaml = recipe.example(saved.encoder, saved.record["features"]["settings"])
        raise StudyError(error.what, f"{error.remedy}\n{_how_to(yaml)}") from None
    # Nothing is compared: embedding slides for controls too would be for nothing.
    return study.model_copy(update={"controls": []}) if study.controls is None else study


def _how_to(yaml: str) -> str:
    table = "patients.csv: patient_id" if "patients.csv" in yaml else "slides.csv: slide_id,patient_id,path"
    lines = "\n".join(f"    {line}" for line in yaml.splitlines())
    return (
        f"New patients are a study of their own. {data_root()}/<name>/study.yaml for this fit:\n{lines}\n"
        f"and beside it {table} (a header and a line for each; paths are relative to the table)."
    )


def predict(saved: Saved, study: Study) -> "AnnData":
    """Predict the expression of a study's patients.

    Features that are current are used as they are; otherwise the study's stages 01 to 03 are run as far as
    they are due, as `wsibench run` would run them.  The study needs no expression; of one that has it, the
    patients with expression are predicted, and their expression is not looked at.

    Returns
    -------
    AnnData
        X: float32 (patients, genes), in the unit of the training study's expression.  obs: site,
        n_slides, n_tiles.  var: rho, p, q, of held-out patients of the training study, NaN where they
        were not measured.  uns["wsibench"]: key, fit (the fit's key), encoder, probe, unit, study,
        study_key, trained_on, left_out (patients without features), accuracy where it was measured, and of
        tiles decoded_mpp (µm/px that slides were decoded at where they have it; of the fit and of these).

    Raises
    ------
    FitError
        When the study's features are not of the making that the fit was made on; names what differs.
    CohortError
        When no patient has features, or a table misses values.
    """
    import anndata

    features = saved.record["features"]
    recipe.check_named(study, saved.encoder)
    recipe.check_same(study, saved.encoder, features["settings"], recipe.settings(study, saved.encoder))
    cohort.build(study)
    rows = cohort.read_cohort(study)
    of = _from_table if saved.encoder in study.features else _from_slides
    found = of(saved, study, rows)
    left_out = sorted(set(rows["patient_id"]) - set(found.obs.index))
    x = saved.fitted.predict(found.patients)
    uns = _uns(saved, study) | {
        "key": make_key(STAGE, FORMAT, "", [saved.record["key"], found.contents]),
        "left_out": np.array(left_out, dtype=str),
    }
    return anndata.AnnData(x, found.obs, saved.genes, uns={"wsibench": uns})


def _uns(saved: Saved, study: Study) -> dict[str, Any]:
    trained_on = {name: saved.record["cohort"][name] for name in ("study", "study_key", "n_patients", "n_sites")}
    said = {
        "fit": saved.record["key"],
        "encoder": saved.encoder,
        "probe": saved.probe,
        "unit": saved.record["expression"]["unit"],
        "study": study.name,
        "study_key": study.key,
        "trained_on": trained_on,
    }
    if (theirs := saved.record["features"]["decoded_mpp"]) is not None:
        said["decoded_mpp"] = {"fit": theirs, "here": embedding.wanted_mpp(study)}
    if accuracy := saved.record["accuracy"]:
        said["accuracy"] = {name: value for name, value in accuracy.items() if value is not None}
    return said


# Features


def _from_table(saved: Saved, study: Study, rows: pd.DataFrame) -> Found:
    name, wanted = saved.encoder, saved.record["columns"]
    values = from_table(study, name, rows).values
    lacking = [column for column in wanted if column not in values.columns]
    if lacking:
        raise FitError(
            f"features.{name} of study {study.name} has {values.shape[1]} columns and lacks {len(lacking)} of the "
            f"{len(wanted)} that the fit needs: {some(lacking)}.",
            "Give the table that the fit's features came from, for these patients, with the same column names.",
        )
    order = [patient for patient in rows["patient_id"].unique() if patient in values.index]
    values = values.loc[order, wanted]
    missing = values.index[values.isna().any(axis=1)]
    if len(missing):
        raise CohortError(
            f"features.{name}: {len(missing)} patients miss values that the fit needs: {some(missing)}.",
            "Impute missing values, or leave these patients out.",
        )
    ids, x = np.array(order, dtype=str), np.ascontiguousarray(values.to_numpy(np.float32))
    slides = rows[rows["slide_id"] != ""].groupby("patient_id").size()
    counts = {"n_slides": slides.reindex(order, fill_value=0).to_numpy(), "n_tiles": 0}
    contents = digest([file_sha256(study.resolve(study.features[name].table)), order, wanted])
    return Found(Patients(ids, ids, mean=x), _obs(rows, order).assign(**counts), contents)


def _from_slides(saved: Saved, study: Study, rows: pd.DataFrame) -> Found:
    name, features = saved.encoder, saved.record["features"]
    _make_due(study, name)
    current = {artefact.path for artefact in _artefacts(study, name) if artefact.due() is None}
    used = rows[[study.features_h5(name, slide) in current for slide in rows["slide_id"]]]
    if used.empty:
        raise CohortError(f"No slide of study {study.name} has features of {name}.", f"See {study.failures_csv}.")
    vectors = pooled(study, name, used)
    found = {"weights": recipe.weights(study, name, used["slide_id"]), "width": vectors.values.shape[1]}
    recipe.check_same(study, name, {key: features[key] for key in found}, found)
    order = [patient for patient in used["patient_id"].unique() if patient in vectors.values.index]
    ids, by_patient = np.array(order, dtype=str), used.groupby("patient_id")
    mean = np.ascontiguousarray(vectors.values.loc[order].to_numpy(np.float32))
    bags = None
    if offer(saved.probe).needs == "bags":
        bags = SlideBags(study, name, [by_patient["slide_id"].get_group(patient).tolist() for patient in order])
    tiles = used["slide_id"].map(vectors.n_tiles).groupby(used["patient_id"]).sum()
    counts = {"n_slides": by_patient.size()[order].to_numpy(), "n_tiles": tiles[order].to_numpy()}
    return Found(Patients(ids, ids, mean=mean, bags=bags), _obs(rows, order).assign(**counts), vectors.contents)


def _make_due(study: Study, name: str) -> None:
    """Tile and embed, if any slide's features of `name` are due."""
    if not tiling.not_applicable(study) and _due(study, tiling.expected(study)):
        tiling.tile_slides(study)
    try:
        due = _due(study, _artefacts(study, name))
    except NotReady:  # the tiles of a streamed cohort, which embedding makes
        due = True
    if due:
        embedding.embed_slides(study)


def _artefacts(study: Study, name: str) -> list[Artefact]:
    folder = study.features_h5(name, "any").parent
    return [artefact for artefact in embedding.expected(study) if artefact.path.parent == folder]


def _due(study: Study, artefacts: Iterable[Artefact]) -> bool:
    """Whether any has to be made, and has not failed to be already."""
    failed = {row.key for row in read_failures(study.failures_csv)}
    return any(artefact.due() for artefact in artefacts if artefact.key not in failed)


def _obs(rows: pd.DataFrame, patients: list[str]) -> pd.DataFrame:
    return rows.drop_duplicates("patient_id").set_index("patient_id").loc[patients, ["site"]]


# What is left


def check_name(path: Path) -> None:
    """Refuse a kind of file that predictions are not written as.

    Raises
    ------
    FitError
        For a name that ends neither in .h5ad nor in .csv.
    """
    if path.suffix not in (".h5ad", ".csv"):
        raise FitError(f"Predictions are not written as {path.name}.", "Name a file that ends in .h5ad or .csv.")


def write(predicted: "AnnData", path: Path) -> list[Path]:
    """Write predictions; a CSV gets ``<name>.genes.csv`` beside it, with each gene's accuracy.

    Returns
    -------
    list of Path
        What was written.
    """
    check_name(path)
    if path.suffix == ".h5ad":
        with replacing(path) as temporary:
            predicted.write_h5ad(temporary, convert_strings_to_categoricals=False)
        return [path]
    genes = path.with_suffix(".genes.csv")
    with replacing(genes) as temporary:
        predicted.var.to_csv(temporary, index_label="gene")
    with replacing(path) as temporary:
        predicted.to_df().to_csv(temporary, index_label="patient_id")
    return [path, genes]


def summary(predicted: "AnnData") -> str:
    """What was predicted, for whom, and for whom not."""
    said = predicted.uns["wsibench"]
    what = f"predicted {predicted.n_vars} genes ({said['unit']}) of {predicted.n_obs} patients of {said['study']}"
    if left_out := list(said["left_out"]):
        why = " (failures.csv says why)" if "decoded_mpp" in said else ""  # a table has no row of them
        what += f"\nleft out  {len(left_out)} patients without features: {some(left_out)}{why}"
    mpp = said.get("decoded_mpp")
    if mpp and mpp["fit"] != mpp["here"]:
        what += f"\nnote      slides were decoded at {mpp['here']:g} µm/px, those of the fit at {mpp['fit']:g}"
    if said["study_key"] == said["trained_on"]["study_key"]:
        what += "\nWARNING   these patients were fitted on: for what they get when held out, see predictions/"
    return what
