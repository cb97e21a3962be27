"""Saved fits: a probe fitted on all patients of a study, kept in one file, and applied to new patients.

The file is in the safetensors format; its header holds, as JSON, what is known beside the arrays.  Nothing in it is
executed.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from wsibench import assembly, cohort, embedding, tiling
from wsibench.core import FitError, NotReady, Scheme, Study, digest, replacing, some, versions
from wsibench.regression import folds
from wsibench.regression.probes import make_probe, probe_spec
from wsibench.regression.probes.base import Arrays, Fitted, Patients

FORMAT = 3


class SavedFit(BaseModel):
    """A probe fitted on all patients of a study, with what is needed to apply and to judge it."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

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
    scores: dict[str, list[float | None]]  # out-of-fold rho, p and q of every gene, None where not measured
    versions: dict[str, str]
    arrays: Arrays = Field({}, exclude=True)

    @property
    def key(self) -> str:
        """Digest of all that the file holds."""
        return digest([self.model_dump(mode="json"), hashlib.sha256(to_bytes(self.arrays)).hexdigest()])

    @property
    def fitted(self) -> Fitted:
        """Restore the probe."""
        return probe_spec(self.probe).probe_class.restore(self.arrays, self.facts)

    @property
    def genes(self) -> pd.DataFrame:
        """Scores of the genes in the training study: rho, p, q; NaN where they were not measured."""
        table = pd.DataFrame(list(self.scores.values()), list(self.scores), ["rho", "p", "q"], dtype=np.float64)
        return table.rename_axis("gene")

    def __str__(self) -> str:
        """Summarise the fit for a terminal."""
        accuracy, of = "not measured: rank this encoder and probe in the study, then fit again", self.trained_on
        if self.accuracy:
            low, high = self.accuracy.get("ci_low"), self.accuracy.get("ci_high")
            interval = "too few sites for an interval" if low is None else f"[{low:.3f}, {high:.3f}]"
            accuracy = f"out-of-fold mean ρ {self.accuracy['mean_rho']:.3f}, {interval} ({self.scheme})"
        return (
            f"{self.probe} on {self.encoder} ({self.width} wide), {len(self.scores)} genes, fitted on "
            f"{of['n_patients']} patients of {of['n_sites']} sites (study {of['study']}, key {of['study_key']})\n"
            f"accuracy  {accuracy}\n"
            f"licence   {self.encoder}: {self.licence}; read its terms before you share this fit"
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
    if study.parts:
        raise FitError(
            f"{study.name} tests one study on another: fitted on all, a probe would have seen its test patients.",
            f"Fit on its training study: wsibench fit {study.train} …",
        )
    _check_features(study, encoder, probe)
    if any(artefact.due() for artefact in assembly.expected(study)):
        raise NotReady(f"{study.benchmark_h5ad} is due.", f"Run `wsibench run {study.name} --to 04`.")
    benchmark, scheme = assembly.read_benchmark(study.benchmark_h5ad), primary_scheme(study)
    made, table = benchmark.uns["wsibench"], encoder in study.features
    patients = _patients(study, probe, encoder, benchmark.obs, benchmark.obsm[encoder], scheme)
    fitted = make_probe(probe, study.abmil).fit(patients, benchmark.X, seed=study.folds.seed)
    arrays, facts = fitted.arrays()
    known = pd.DataFrame(scores, benchmark.var_names, ["rho", "p", "q"], dtype=object)
    n_sites = len(set(benchmark.obs["site"]) - {""})
    return SavedFit(
        format=f"{FORMAT}.{probe_spec(probe).format}",
        encoder=encoder,
        licence="unknown" if table else embedding.encoder(encoder, study).licence,
        probe=probe,
        chosen=fitted.chosen,
        facts=facts,
        settings=made["settings"][encoder],
        width=patients.mean.shape[1],
        columns=list(made["columns"][encoder]) if table else None,
        unit=study.expression.unit,
        trained_on={"study": study.name, "study_key": study.key, "n_patients": len(patients), "n_sites": n_sites},
        scheme=scheme,
        accuracy=accuracy,
        scores=dict(zip(known.index, known.where(known.notna(), None).to_numpy().tolist(), strict=True)),
        versions=versions(),
        arrays={name: np.ascontiguousarray(array) for name, array in arrays.items()},
    )


def primary_scheme(study: Study) -> Scheme:
    """Preserved sites where the study has that scheme, else its first: that of the accuracy and of inner folds."""
    return "preserved-site" if "preserved-site" in study.folds.schemes else study.folds.schemes[0]


def check_name(path: Path, *suffixes: str) -> Path:
    """Return the path of a file to write, or raise `FitError` if it ends in none of the suffixes."""
    if path.suffix not in suffixes:
        raise FitError(f"{path.name} does not end in {' or '.join(suffixes)}.", "Name the file so.")
    return path


def save(saved: SavedFit, path: Path) -> None:
    """Write a fit to ``<name>.safetensors``."""
    with replacing(check_name(path, ".safetensors")) as temporary:
        temporary.write_bytes(to_bytes(saved.arrays, {"key": saved.key, "fit": saved.model_dump_json()}))


def load(path: Path) -> SavedFit:
    """Read a fit, or raise `FitError` if the file is missing, damaged, or of another version."""
    try:
        with safe_open(path, "numpy") as file:
            header, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved = SavedFit.model_validate_json(header.get("fit", "")).model_copy(update={"arrays": arrays})
    except (OSError, SafetensorError, ValidationError) as error:
        what = f"{path} is not a fit that this version of `wsibench fit` wrote: {str(error).splitlines()[0]}."
        raise FitError(what, "Copy it again from where it was made, or fit again.") from None
    if (saved.format, saved.key) != (f"{FORMAT}.{probe_spec(saved.probe).format}", header.get("key")):
        what = f"{path} is damaged or of another format ({saved.format}, of wsibench {saved.versions.get('wsibench')})."
        raise FitError(what, "Copy it again from where it was made, or fit again.")
    return saved


def predict(saved: SavedFit, study: Study) -> AnnData:
    """Predict the expression of a study's patients; tiles and features that are due are made first.

    Returns
    -------
    AnnData
        X: float32 (patients, genes), in the unit of the training study's expression.  obs: site, n_slides, n_tiles.
        var: out-of-fold rho, p, q in the training study.  uns["wsibench"]: fit (its key), encoder, probe, unit,
        study, study_key, trained_on, accuracy (if measured), left_out (patients without features).

    Raises
    ------
    FitError
        When the features were made with other settings than those of the fit, or a table lacks columns or values.
    """
    name = saved.encoder
    # Controls that study.yaml does not name would be embedded for nothing.
    study = study.model_copy(update={"controls": []}) if study.controls is None else study
    _check_features(study, name, saved.probe, saved)
    cohort.build(study)
    slides = cohort.read_cohort(study).assign(used=True, n_tiles=0)
    if name in study.features:
        mean = _table(saved, study, slides)
    else:
        slides["used"] = slides["slide_id"].isin(_embedded(study, name))
        _check_features(study, name, saved.probe, saved)  # by now the weights are known
        slides["path"] = [study.features_h5(name, slide) for slide in slides["slide_id"]]
        mean, n_tiles = assembly.mean_features(slides[slides["used"]], label=f"pooling {name}")
        slides["n_tiles"] = slides["slide_id"].map(n_tiles)
    obs = assembly.patient_table(
        slides, pd.Index([each for each in slides["patient_id"].unique() if each in mean.index])
    )
    if obs.empty or mean.shape[1] != saved.width:
        raise FitError(
            f"{name} has {mean.shape[1]} features of {len(obs)} patients in study {study.name}; the fit reads "
            f"{saved.width}.",
            f"Features have to be made by the same encoder; slides that failed are in {study.failures_csv}.",
        )
    features = mean.loc[obs.index].to_numpy(np.float32)
    x = saved.fitted.predict(_patients(study, saved.probe, name, obs, features, "random-patient"))
    left_out = np.array(sorted(set(slides["patient_id"]) - set(obs.index)), dtype=str)
    uns = saved.model_dump(include={"encoder", "probe", "unit", "trained_on", "accuracy"}, exclude_none=True)
    uns |= {"fit": saved.key, "study": study.name, "study_key": study.key, "left_out": left_out}
    return AnnData(x, obs[["site", "n_slides", "n_tiles"]], saved.genes, uns={"wsibench": uns})


def _patients(study: Study, probe: str, name: str, obs: pd.DataFrame, mean: np.ndarray, scheme: Scheme) -> Patients:
    patients = Patients(obs.index.to_numpy(str), folds.inner_groups(obs, scheme), mean)
    if probe_spec(probe).needs == "bags":
        return replace(patients, bags=assembly.read_bags(obs, assembly.feature_folders(study, name)))
    return patients


def _check_features(study: Study, name: str, probe: str, saved: SavedFit | None = None) -> None:
    """Refuse features that the study lacks, the probe cannot read, or that have other settings than those of a fit."""
    names = [*assembly.tile_feature_names(study), *(study.features if probe_spec(probe).needs == "mean" else [])]
    if name not in names:
        raise FitError(
            f"Study {study.name} has no features of {name!r} that {probe} can read; it has: {', '.join(names)}.",
            f"Add it to `encoders` or `features` of {study.study_yaml}.",
        )
    # Settings are not known (None) before the weights are.
    if saved and assembly.settings_key(study, name) not in (saved.settings, None):
        raise FitError(
            f"The features of {name} in study {study.name} are made with other settings than those of the fit.",
            f"Use the encoder, weights, `tiles` and `embedding` of study {saved.trained_on['study']} in "
            f"{study.study_yaml}.",
        )


def _table(saved: SavedFit, study: Study, slides: pd.DataFrame) -> pd.DataFrame:
    """Read the columns of a feature table that the fit was made on."""
    settings = study.features[saved.encoder]
    path = study.resolve(settings.table)
    values = assembly.table_features(path, slides, settings, saved.encoder).reindex(columns=saved.columns)
    if lacking := values.columns[values.isna().any()].tolist():
        what = f"{path} lacks columns or values that the fit needs: {some(lacking)}."
        raise FitError(what, "Name columns as in the training study; impute missing values, or leave patients out.")
    return values


def _embedded(study: Study, name: str) -> pd.Series:
    """Make tiles and features that are due, and list the slides that have features."""
    # Slides of a streamed cohort are tiled as they are embedded.
    if not tiling.not_applicable(study) and any(artefact.due() for artefact in tiling.expected(study)):
        tiling.tile_slides(study)
    made = embedding.embed_slides(study)
    return made.loc[made["encoder"] == name, "slide_id"]


def write_predictions(predicted: AnnData, path: Path) -> list[Path]:
    """Write predictions as .h5ad or .csv; beside a CSV, ``<name>.genes.csv`` holds the scores of the genes."""
    with replacing(check_name(path, ".h5ad", ".csv")) as temporary:
        if path.suffix == ".h5ad":
            predicted.write_h5ad(temporary, convert_strings_to_categoricals=False)
            return [path]
        predicted.to_df().to_csv(temporary, index_label="patient_id")
    genes = path.with_suffix(".genes.csv")
    with replacing(genes) as temporary:
        predicted.var.to_csv(temporary, index_label="gene")
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
