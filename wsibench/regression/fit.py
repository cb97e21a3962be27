"""Out-of-fold predictions of every encoder by every probe, under every scheme of folds."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench import cohort
from wsibench.assembly import (
    bag_index,
    contents,
    feature_folders,
    feature_names,
    not_applicable,
    read_bags,
    read_benchmark,
    tile_feature_names,
)
from wsibench.core import Abmil, Artefact, Scheme, Study, StudyError, key_at, make_key, parallel_map, read_meta, writing
from wsibench.regression import folds
from wsibench.regression.cross_validation import OutOfFold, out_of_fold, predict_targets
from wsibench.regression.metrics import fold_spearman
from wsibench.regression.probes import make_probe, probe_spec
from wsibench.regression.probes.base import Patients, Probe

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Fit", "check", "expected", "fits", "load", "not_applicable", "read_predictions", "regress"]

FORMAT = 5
STAGE = "regression"


@dataclass(frozen=True)
class Fit:
    """One encoder fitted by one probe under one scheme of folds: settings, inputs and outputs."""

    scheme: Scheme
    encoder: str
    probe: str
    settings: Abmil | None
    """Settings of a probe that is a network."""
    seed: int
    n_splits: int
    """Number of splits to fit; 1 for controls, which are not ranked."""
    study_key: str
    benchmark: Path
    folds: Path
    folders: tuple[Path, ...]
    """Folders of tile features, of a probe that needs them; see `wsibench.assembly.feature_folders`."""
    predictions: Artefact
    attention: Artefact | None
    """Attention of every tile, of a probe that attends."""

    @property
    def artefacts(self) -> list[Artefact]:
        """Predictions and, of a probe that attends, attention."""
        return [self.predictions, *([self.attention] if self.attention else [])]

    def due(self) -> bool:
        """Check if the fit has to be made."""
        return any(artefact.due() for artefact in self.artefacts)

    def make_probe(self) -> Probe:
        """Make the unfitted probe."""
        return make_probe(self.probe, self.settings)


def fits(study: Study) -> list[Fit]:
    """List the fits of a study; probes that need tiles are fitted on encoders with tile features alone.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    StudyError
        For an unknown probe.
    """
    parts, tiled = contents(study), tile_feature_names(study)
    fold_keys = {artefact.path: artefact.key for artefact in folds.expected(study)}
    return [
        _fit(study, scheme, encoder, probe, parts, fold_keys[study.folds_csv(scheme)])
        for scheme in study.folds.schemes
        for probe in study.probes
        for encoder in feature_names(study)
        if probe_spec(probe).needs == "mean" or encoder in tiled
    ]


def _fit(study: Study, scheme: Scheme, encoder: str, probe: str, parts: dict[str, Any], fold_key: str) -> Fit:
    spec = probe_spec(probe)
    settings = study.abmil if spec.network else None
    competes = encoder in (*study.encoders, *study.features)
    n_splits = study.folds.repeats if competes else 1
    section = {
        "probe": probe,
        "format": spec.format,
        "settings": settings.model_dump(mode="json") if settings else None,
        "seed": study.folds.seed,
        "splits": n_splits,
    }
    # An encoder that the benchmark lacks has been added since it was assembled: its fit is due.
    features = parts["features"].get(encoder, "missing")
    made_from = [parts["patients"], parts["expression"], features, parts.get("targets", ""), fold_key]
    predictions = Artefact(study.predictions_h5ad(scheme, encoder, probe), make_key(STAGE, FORMAT, section, made_from))
    attention = study.attention_parquet(scheme, encoder, probe)
    attention_key = make_key(STAGE, FORMAT, "attention", [predictions.key])
    return Fit(
        scheme=scheme,
        encoder=encoder,
        probe=probe,
        settings=settings,
        seed=study.folds.seed,
        n_splits=n_splits,
        study_key=study.key,
        benchmark=study.benchmark_h5ad,
        folds=study.folds_csv(scheme),
        folders=tuple(feature_folders(study, encoder)) if spec.needs == "bags" else (),
        predictions=predictions,
        attention=Artefact(attention, attention_key) if spec.attends else None,
    )


def check(study: Study) -> list[str]:
    """List faults in the settings of probes and folds that would stop the stage; folds once the cohort is known."""
    faults = []
    for probe in study.probes:
        try:
            probe_spec(probe)
        except StudyError as error:
            faults.append(str(error))
    if study.parts or not_applicable(study) or not study.cohort_csv.exists():
        return faults
    # A cohort that is due may have been corrected; it is checked once it has been built again.
    if not any(artefact.due() for artefact in cohort.expected(study)):
        patients = cohort.read_cohort(study).drop_duplicates("patient_id").set_index("patient_id")
        measured = patients.index.isin(cohort.read_expression(study).obs_names)
        faults += [str(fault) for fault in folds.check_folds(patients[measured], study.folds)]
    return faults


def expected(study: Study) -> list[Artefact]:
    """List folds, predictions and attention with their keys.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    return [*folds.expected(study), *(artefact for fit in fits(study) for artefact in fit.artefacts)]


def regress(study: Study) -> pd.DataFrame:
    """Divide the patients and make the fits that are due.

    Returns
    -------
    DataFrame
        A row for each scheme, encoder and probe: n_patients, n_genes, seconds (of fitting and predicting all
        folds, in one thread), chosen (hyperparameters, median over folds).

    Raises
    ------
    CohortError
        When the patients cannot be divided or a fold leaves fewer than three to train on.
    """
    folds.divide(study)
    wanted = fits(study)
    parallel_map(_make, [fit for fit in wanted if fit.due()], label="05 regression")
    columns = ["scheme", "encoder", "probe", "n_patients", "n_genes", "seconds", "chosen"]
    rows = [(read_meta(fit.predictions.path) or {})["facts"] for fit in wanted]
    return pd.DataFrame(rows, columns=columns)


def read_predictions(path: Path) -> "AnnData":
    """Read out-of-fold predictions.

    Returns
    -------
    AnnData
        X: float32 (patients, genes) in the unit of the study's expression, in external validation of the
        test patients alone; layers["noise"]: training-sample noise of the predictions, 0 in external validation;
        obs: fold, site; varm["rho_by_split"]: within-fold ρ of each split (genes, splits), the first of which
        X belongs to; varm["rho_by_seed"]: within-fold ρ of each seed of a probe with several (genes, seeds);
        obsm["targets"], ["targets_measured"], ["targets_noise"]: the same of targets other than genes;
        uns["wsibench"]: key, study_key, chosen (JSON, by fold) and, of a probe that trains by epochs, curves
        (DataFrame: fold, seed, epoch, loss, validation_rho, chosen).

    Raises
    ------
    NotReady
        When they have not been made.
    """
    import anndata

    key_at(path)
    return anndata.read_h5ad(path)


def load(fit: Fit) -> tuple[Patients, "AnnData", pd.DataFrame]:
    """Load the inputs of a fit.

    Returns
    -------
    patients
        All patients of the benchmark, with the features that the probe needs.
    benchmark
        The assembled benchmark.
    splits
        Fold that holds each patient out, split by split; int64 (patients, splits).
    """
    benchmark = read_benchmark(fit.benchmark)
    splits = folds.read(fit.folds, benchmark.obs_names)
    ids, groups = benchmark.obs_names.to_numpy(str), folds.inner_groups(benchmark.obs, fit.scheme)
    if fit.folders:
        return Patients(ids, groups, bags=read_bags(benchmark.obs, fit.folders)), benchmark, splits
    return Patients(ids, groups, mean=benchmark.obsm[fit.encoder]), benchmark, splits


def _make(fit: Fit) -> None:
    """Make the predictions and attention of one fit, in one thread, since other fits use the other cores."""
    patients, benchmark, splits = load(fit)
    started = time.perf_counter()
    first, *others = (splits[name].to_numpy() for name in splits.columns[: fit.n_splits])
    probe = fit.make_probe()
    with threadpool_limits(1):
        found = out_of_fold(probe, patients, benchmark.X, first, seed=fit.seed, split_half=True)
        refitted = [out_of_fold(probe, patients, benchmark.X, fold, seed=fit.seed).predicted for fold in others]
        obsm = predict_targets(probe, patients, benchmark, first, seed=fit.seed) if "targets" in benchmark.obsm else {}
    seconds = round(time.perf_counter() - started, 2)
    by_split = list(zip([found.predicted, *refitted], [first, *others], strict=True))
    adata = _predictions(fit, benchmark, found, by_split, obsm, first)
    facts = {"scheme": fit.scheme, "encoder": fit.encoder, "probe": fit.probe, "chosen": found.median_chosen()}
    with writing(fit.predictions, n_patients=adata.n_obs, n_genes=adata.n_vars, seconds=seconds, **facts) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
    if fit.attention:
        tiles = bag_index(benchmark.obs[first >= 0], fit.folders)
        with writing(fit.attention) as path:
            tiles.assign(attention=np.concatenate(found.attention)).to_parquet(path, index=False)


def _predictions(
    fit: Fit,
    benchmark: "AnnData",
    found: OutOfFold,
    by_split: list[tuple[np.ndarray, np.ndarray]],
    obsm: dict[str, pd.DataFrame],
    fold: np.ndarray,
) -> "AnnData":
    """Predictions as `read_predictions` describes them."""
    from anndata import AnnData

    varm = {"rho_by_split": _rho(benchmark.X, by_split)}
    if found.seeds is not None:
        varm["rho_by_seed"] = _rho(benchmark.X, [(each, fold) for each in found.seeds])
    uns = {"key": fit.predictions.key, "study_key": fit.study_key, "chosen": json.dumps(found.chosen)}
    if found.curves is not None:
        uns["curves"] = found.curves
    obs = pd.DataFrame({"fold": fold, "site": benchmark.obs["site"].to_numpy(str)}, index=benchmark.obs_names)
    test = fold >= 0
    return AnnData(
        found.predicted[test],
        obs[test],
        pd.DataFrame(index=benchmark.var_names),
        layers={"noise": found.noise[test]},
        obsm={name: table[test] for name, table in obsm.items()},
        varm=varm,
        uns={"wsibench": uns},
    )


def _rho(y: np.ndarray, predictions: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Within-fold ρ of several predictions, each with its folds; float32 (genes, predictions)."""
    rho = [fold_spearman(y[fold >= 0], each[fold >= 0], fold[fold >= 0]).mean() for each, fold in predictions]
    return np.stack(rho, axis=1).astype(np.float32)
