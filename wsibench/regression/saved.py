"""Saved fits: a probe fitted on all patients of a study, written to two files, and applied to new patients.

``<name>.safetensors`` holds arrays; ``<name>.json`` describes them: settings of the features, genes, cohort and
accuracy.  Nothing in them is executed.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from anndata import AnnData
from pydantic import BaseModel, ConfigDict, ValidationError

from wsibench import assembly, cohort, embedding, tiling
from wsibench.core import (
    Artefact,
    CohortError,
    FitError,
    NotReady,
    Scheme,
    Study,
    digest,
    read_failures,
    replacing,
    some,
    versions,
    write_text,
)
from wsibench.regression import folds
from wsibench.regression.probes import make_probe, probe_spec
from wsibench.regression.probes.base import Fitted, Patients

FORMAT = 2
SCORES = ["rho", "p", "q"]  # out-of-fold scores of a gene in the training study, which its predictions carry


class Description(BaseModel):
    """Description of a saved fit, as its JSON file holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    encoder: str
    licence: str
    probe: str
    chosen: dict[str, Any]  # hyperparameters, selected within the training patients
    facts: dict[str, Any]  # JSON-able part of the fitted probe, beside its arrays
    settings: str  # `wsibench.assembly.settings_key` of the features
    width: int
    columns: list[str] | None  # names of the features, for a feature table
    unit: str
    trained_on: dict[str, str | int]  # study, study_key, n_patients, n_sites
    scheme: str  # folds of scores and accuracy
    accuracy: dict[str, float] | None  # out-of-fold mean_rho and, unless there are too few sites, ci_low and ci_high
    genes: list[str]
    scores: dict[str, list[float | None]]
    versions: dict[str, str]
    arrays_sha256: str

    @property
    def key(self) -> str:
        """Digest of the description and, through arrays_sha256, of the arrays."""
        return digest(self.model_dump(mode="json"))


class _File(BaseModel):
    key: str
    fit: Description


@dataclass(frozen=True)
class SavedFit:
    """A fitted probe: its description, and its arrays in the safetensors format."""

    description: Description
    arrays: bytes

    @property
    def fitted(self) -> Fitted:
        """Restore the probe."""
        probe = probe_spec(self.description.probe).probe_class
        return probe.restore(safetensors.numpy.load(self.arrays), self.description.facts)

    @property
    def genes(self) -> pd.DataFrame:
        """Scores of the genes in the training study; NaN where they were not measured."""
        index = pd.Index(self.description.genes, name="gene", dtype=object)
        return pd.DataFrame(self.description.scores, index, SCORES, dtype=np.float64)

    def __str__(self) -> str:
        """Summarise the fit for a terminal."""
        info, accuracy = self.description, "not measured: rank this encoder and probe in the study, then fit again"
        if info.accuracy:
            low, high = info.accuracy.get("ci_low"), info.accuracy.get("ci_high")
            interval = "too few sites for an interval" if low is None else f"[{low:.3f}, {high:.3f}]"
            accuracy = f"out-of-fold mean ρ {info.accuracy['mean_rho']:.3f}, {interval} ({info.scheme})"
        trained_on = "{n_patients} patients of {n_sites} sites (study {study}, key {study_key})"
        return (
            f"{info.probe} on {info.encoder} ({info.width} wide), {len(info.genes)} genes, fitted on "
            f"{trained_on.format(**info.trained_on)}\naccuracy  {accuracy}\n"
            f"licence   {info.encoder}: {info.licence}; read its terms before you share this fit"
        )


def fit(
    study: Study,
    encoder: str,
    probe: str,
    *,
    scores: pd.DataFrame | None = None,
    accuracy: dict[str, float] | None = None,
) -> SavedFit:
    """Fit a probe on all patients and genes of a study's benchmark.

    Parameters
    ----------
    study
        A study that has been assembled.
    encoder
        Encoder, control computed from tiles, or feature table of the study.
    probe
        Name of a probe; the study need not compare it.
    scores
        Out-of-fold rho, p and q of this encoder and probe, indexed by gene, if they were measured.
    accuracy
        Out-of-fold mean_rho, and ci_low and ci_high unless there are too few sites.

    Raises
    ------
    NotReady
        When the benchmark is missing or due.
    FitError
        When the study has no such features, or no tiles for a probe that needs them; for external validation.
    StudyError
        For an unknown probe.
    """
    spec = probe_spec(probe)
    if study.parts:
        raise FitError(
            f"{study.name} tests one study on another: fitted on all, a probe would have seen its test patients.",
            f"Fit on its training study: wsibench fit {study.train} …",
        )
    _check_encoder(study, encoder, probe)
    if any(artefact.due() for artefact in assembly.expected(study)):
        raise NotReady(f"{study.benchmark_h5ad} is due.", f"Run `wsibench run {study.name} --to 04`.")
    benchmark, scheme = assembly.read_benchmark(study.benchmark_h5ad), primary_scheme(study)
    obs, mean, made = benchmark.obs, benchmark.obsm[encoder], benchmark.uns["wsibench"]
    patients = _patients(study, probe, encoder, obs, mean, folds.inner_groups(obs, scheme))
    fitted = make_probe(probe, study.abmil).fit(patients, benchmark.X, seed=study.folds.seed)
    arrays, facts = fitted.arrays()
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    known = pd.DataFrame(scores, benchmark.var_names, SCORES, dtype=object)
    n_sites = len(set(obs["site"]) - {""})
    description = Description(
        format=f"{FORMAT}.{spec.format}",
        encoder=encoder,
        licence="unknown" if encoder in study.features else embedding.encoder(encoder, study).licence,
        probe=probe,
        chosen=fitted.chosen,
        facts=facts,
        settings=made["settings"][encoder],
        width=mean.shape[1],
        columns=list(made["columns"][encoder]) if encoder in study.features else None,
        unit=study.expression.unit,
        trained_on={"study": study.name, "study_key": study.key, "n_patients": benchmark.n_obs, "n_sites": n_sites},
        scheme=scheme,
        accuracy=accuracy,
        genes=benchmark.var_names.tolist(),
        scores=known.where(known.notna(), None).to_dict("list"),
        versions=versions(),
        arrays_sha256=hashlib.sha256(content).hexdigest(),
    )
    return SavedFit(description, content)


def _patients(
    study: Study, probe: str, encoder: str, obs: pd.DataFrame, mean: np.ndarray, groups: np.ndarray
) -> Patients:
    patients = Patients(obs.index.to_numpy(str), groups, mean)
    if probe_spec(probe).needs == "bags":
        return replace(patients, bags=assembly.read_bags(obs, assembly.feature_folders(study, encoder)))
    return patients


def primary_scheme(study: Study) -> Scheme:
    """Preserved sites where the study has that scheme, else its first: that of the accuracy and of inner folds."""
    return "preserved-site" if "preserved-site" in study.folds.schemes else study.folds.schemes[0]


# The two files


def description_path(path: Path) -> Path:
    """Path of the JSON beside a safetensors file.

    Raises
    ------
    FitError
        For a file of another name.
    """
    if path.suffix != ".safetensors":
        raise FitError(f"A fit is not written as {path}.", "Name it something.safetensors.")
    return path.with_suffix(".json")


def save(saved: SavedFit, path: Path) -> None:
    """Write ``<name>.safetensors`` and ``<name>.json``."""
    beside = description_path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(saved.arrays)
    write_text(beside, _File(key=saved.description.key, fit=saved.description).model_dump_json(indent=1) + "\n")


def load(path: Path) -> SavedFit:
    """Read a fit, and check that its two files are whole and belong together.

    Raises
    ------
    FitError
        When a file is missing, damaged, or of a format that this version does not read.
    """
    beside = description_path(path)
    for each in (path, beside):
        if not each.is_file():
            raise FitError(f"There is no file {each}.", "A fit is two files, side by side: copy both.")
    again = "Copy both files again from where they were made."
    try:
        file = _File.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise FitError(f"{beside} is not a description that `wsibench fit` wrote: {first['msg']}.", again) from None
    description, arrays = file.fit, path.read_bytes()
    if (file.key, description.arrays_sha256) != (description.key, hashlib.sha256(arrays).hexdigest()):
        raise FitError(f"{path} and {beside.name} have been cut off or changed, or belong to different fits.", again)
    if description.format != f"{FORMAT}.{probe_spec(description.probe).format}":
        made_by = description.versions.get("wsibench")
        raise FitError(f"{path} is of another format ({description.format}).", f"Use wsibench {made_by}, or fit again.")
    saved, ids = SavedFit(description, arrays), np.array(["any"])
    zeros = np.zeros((1, description.width), np.float32)
    try:  # Inconsistent arrays raise all kinds of errors.
        pd.DataFrame(saved.fitted.predict(Patients(ids, ids, zeros, [zeros])), columns=saved.genes.index)
    except Exception as error:
        raise FitError(f"{path} does not hold the arrays of a fitted {description.probe}: {error}.", again) from None
    return saved


# New patients


def predict(saved: SavedFit, study: Study) -> AnnData:
    """Predict the expression of a study's patients.

    Tiles and features that are due are made first.  The study needs no expression.

    Returns
    -------
    AnnData
        X: float32 (patients, genes), in the unit of the training study's expression.  obs: site, n_slides, n_tiles.
        var: out-of-fold rho, p, q in the training study.  uns["wsibench"]: fit (its key), encoder, probe, unit,
        study, study_key, trained_on, accuracy (if measured), left_out (patients without features).

    Raises
    ------
    FitError
        When the features were made with other settings than those of the fit, or lack columns of its table.
    CohortError
        When no patient has features, or values are missing.
    """
    info, name = saved.description, saved.description.encoder
    # Controls that study.yaml does not name would be embedded for nothing.
    study = study.model_copy(update={"controls": []}) if study.controls is None else study
    _check_encoder(study, name, info.probe)
    _check_settings(saved, study)
    cohort.build(study)
    rows = cohort.read_cohort(study).assign(used=True, n_tiles=0)
    if name in study.features:
        mean = _table(info, study, rows)
    else:
        rows["used"] = _embedded(study, name, rows)
        _check_settings(saved, study)
        slides = rows[rows["used"]].assign(path=lambda used: [study.features_h5(name, s) for s in used["slide_id"]])
        mean, n_tiles = assembly.mean_features(slides, label=f"pooling {name}")
        rows["n_tiles"] = rows["slide_id"].map(n_tiles)
    obs = assembly.patient_table(rows, pd.Index([each for each in rows["patient_id"].unique() if each in mean.index]))
    if obs.empty or mean.shape[1] != info.width:
        raise FitError(
            f"{name} has {mean.shape[1]} features of {len(obs)} patients in study {study.name}; the fit reads "
            f"{info.width}.",
            f"Features have to be made by the same encoder; slides that failed are in {study.failures_csv}.",
        )
    ids = obs.index.to_numpy(str)
    x = saved.fitted.predict(_patients(study, info.probe, name, obs, mean.loc[ids].to_numpy(np.float32), ids))
    uns = info.model_dump(include={"encoder", "probe", "unit", "trained_on", "accuracy"}, exclude_none=True)
    uns |= {"fit": info.key, "study": study.name, "study_key": study.key}
    uns["left_out"] = np.array(sorted(set(rows["patient_id"]) - set(ids)), dtype=str)
    return AnnData(x, obs[["site", "n_slides", "n_tiles"]], saved.genes, uns={"wsibench": uns})


def _check_encoder(study: Study, name: str, probe: str) -> None:
    """Refuse features that the study does not have or the probe cannot read, and controls without slides."""
    names = [*assembly.tile_feature_names(study), *(study.features if probe_spec(probe).needs == "mean" else [])]
    if name not in names:
        raise FitError(
            f"Study {study.name} has no features of {name!r} that {probe} can read; it has: {', '.join(names)}.",
            f"Add it to `encoders` or `features` of {study.study_yaml}.",
        )


def _check_settings(saved: SavedFit, study: Study) -> None:
    """Refuse features that were made with other settings; before weights are known, nothing is refused."""
    info = saved.description
    if assembly.settings_key(study, info.encoder) not in (info.settings, None):
        raise FitError(
            f"The features of {info.encoder} in study {study.name} are made with other settings than those of the fit.",
            f"Use the encoder, weights, `tiles` and `embedding` of study {info.trained_on['study']} in "
            f"{study.study_yaml}.",
        )


def _table(info: Description, study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Read the columns of a feature table that the fit was made on."""
    settings, wanted = study.features[info.encoder], info.columns or []
    path = study.resolve(settings.table)
    values = assembly.table_features(path, rows, settings, info.encoder)
    if lacking := [column for column in wanted if column not in values]:
        raise FitError(
            f"{path} lacks {len(lacking)} of the {len(wanted)} columns that the fit needs: {some(lacking)}.",
            "Give a table with the column names of the training study.",
        )
    incomplete = values.index[values[wanted].isna().any(axis=1)]
    if len(incomplete):
        raise CohortError(
            f"{path}: {len(incomplete)} patients miss values that the fit needs: {some(incomplete)}.",
            "Impute missing values, or leave these patients out.",
        )
    return values[wanted]


def _embedded(study: Study, name: str, rows: pd.DataFrame) -> list[bool]:
    """Make tiles and features that are due, and return for each slide of the cohort if it has features."""
    folder = study.features_h5(name, "any").parent

    def due(artefacts: list[Artefact]) -> bool:
        failed = {row.key for row in read_failures(study.failures_csv)}
        return any(artefact.due() for artefact in artefacts if artefact.key not in failed)

    def features() -> list[Artefact]:
        return [artefact for artefact in embedding.expected(study) if artefact.path.parent == folder]

    # Slides of a streamed cohort are tiled as they are embedded.
    if not tiling.not_applicable(study) and due(tiling.expected(study)):
        tiling.tile_slides(study)
    if study.streamed or due(features()):
        embedding.embed_slides(study)
    current = {artefact.path for artefact in features() if not artefact.due()}
    return [study.features_h5(name, slide) in current for slide in rows["slide_id"]]


def check_output(path: Path) -> None:
    """Refuse a file name that predictions are not written under.

    Raises
    ------
    FitError
        For a name that ends neither in .h5ad nor in .csv.
    """
    if path.suffix not in (".h5ad", ".csv"):
        raise FitError(f"Predictions are not written as {path.name}.", "Name a file that ends in .h5ad or .csv.")


def write_predictions(predicted: AnnData, path: Path) -> list[Path]:
    """Write predictions as .h5ad or .csv; beside a CSV, ``<name>.genes.csv`` holds the scores of the genes."""
    check_output(path)
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


def summary(predicted: AnnData) -> str:
    """Summarise predictions for a terminal."""
    info = predicted.uns["wsibench"]
    text = f"predicted {predicted.n_vars} genes ({info['unit']}) of {predicted.n_obs} patients of {info['study']}"
    if left_out := list(info["left_out"]):
        text += f"\nleft out  {len(left_out)} patients without features: {some(left_out)}"
    if info["study_key"] == info["trained_on"]["study_key"]:
        text += "\nWARNING   the probe was fitted on these patients; predictions/ holds their out-of-fold predictions"
    return text
