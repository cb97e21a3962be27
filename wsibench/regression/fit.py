"""Out-of-fold predictions of every encoder and probe, for both ways of dividing patients."""

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.assembly import (
    bag_index,
    feature_folders,
    feature_names,
    not_applicable,
    read_bags,
    read_benchmark,
    tile_feature_names,
)
from wsibench.core import Artefact, CohortError, Scheme, Study, key_at, make_key, parallel_map, read_meta, writing
from wsibench.regression import folds, split_half as halves
from wsibench.regression.metrics import fold_spearman
from wsibench.regression.probes import offer
from wsibench.regression.probes.base import Attends, Fitted, Patients, Probe, Seeded

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Job", "expected", "fit", "jobs", "not_applicable", "out_of_fold", "read_predictions", "regress"]

FORMAT = 4
STAGE = "regression"

ROUNDING = 1e-5
"""Share of a gene's SD below which predictions do not differ; the largest penalty leaves ten times as much."""
FEWEST_IN_HALF = 4
"""Training patients that a fit on a half needs; with fewer, all of a prediction may be noise."""


@dataclass(frozen=True)
class Job:
    """One encoder read by one probe under one scheme of folds."""

    study: Study
    scheme: Scheme
    encoder: str
    probe: str

    @property
    def artefact(self) -> Artefact:
        """Its predictions.

        The key knows this encoder's features, the patients, expression and folds, and the probe's own
        settings: another encoder in the study leaves it as it is.
        """
        study, probe = self.study, offer(self.probe)
        contents = read_meta(study.benchmark_h5ad)["facts"]["contents"]
        made_from = [contents["patients"], contents["expression"], contents["features"][self.encoder]]
        section = {"probe": self.probe, "format": probe.format, **probe.settings(study), "seed": study.folds.seed}
        if self.splits < study.folds.repeats:
            section["splits"] = self.splits
        key = make_key(STAGE, FORMAT, section, [*made_from, _folds_key(study, self.scheme)])
        return Artefact(study.predictions_h5ad(self.scheme, self.encoder, self.probe), key)

    @property
    def splits(self) -> int:
        """On how many splits it is fitted: a control, which no rank depends on, on the first alone."""
        competes = self.encoder in (*self.study.encoders, *self.study.features)
        return self.study.folds.repeats if competes else 1

    @property
    def artefacts(self) -> list[Artefact]:
        """Its predictions and, from a probe that attends, the attention of every tile."""
        made = self.artefact
        if not offer(self.probe).attends:
            return [made]
        path = self.study.attention_parquet(self.scheme, self.encoder, self.probe)
        return [made, Artefact(path, make_key(STAGE, FORMAT, "attention", [made.key]))]


def _folds_key(study: Study, scheme: Scheme) -> str:
    return folds.expected(study)[study.folds.schemes.index(scheme)].key


def jobs(study: Study) -> list[Job]:
    """All that the study asks for; a probe on bags reads only encoders that have tiles.

    Raises
    ------
    StudyError
        For a probe that there is not.
    """
    tiled = tile_feature_names(study)
    return [
        Job(study, scheme, encoder, probe)
        for scheme in study.folds.schemes
        for probe in study.probes
        for encoder in feature_names(study)
        if offer(probe).needs == "mean" or encoder in tiled
    ]


def expected(study: Study) -> list[Artefact]:
    """Folds, predictions and attention.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    key_at(study.benchmark_h5ad)
    return [*folds.expected(study), *(artefact for job in jobs(study) for artefact in job.artefacts)]


def regress(study: Study) -> pd.DataFrame:
    """Fit what is due, and say what was chosen.

    Returns
    -------
    DataFrame
        A row a scheme, encoder and probe: n_patients, n_genes, seconds (of fitting and predicting all
        folds, in one thread), chosen (median over folds).

    Raises
    ------
    CohortError
        When the patients cannot be divided or a fold leaves fewer than three to train on.
    """
    folds.divide(study)
    wanted = jobs(study)
    due = [job for job in wanted if any(artefact.due() for artefact in job.artefacts)]
    parallel_map(_fit_job, due, label="05 regression")
    columns = ["scheme", "encoder", "probe", "n_patients", "n_genes", "seconds", "chosen"]
    return pd.DataFrame([read_meta(job.artefact.path)["facts"] for job in wanted], columns=columns)


def read_predictions(job: Job) -> "AnnData":
    """Out-of-fold predictions.

    Returns
    -------
    AnnData
        X: float32 (patients, genes) in the unit of the study's expression, of external validation the
        test patients alone; layers["noise"]: what other training patients might have made of it, as
        `wsibench.regression.split_half.training_noise`, 0 of external validation; obs: fold, site;
        varm["rho_by_split"]: within-fold ρ of each of the job's splits (genes, splits), the first of
        which X is of; varm["rho_by_seed"]: of each seed of a probe that has several (genes, seeds);
        uns["wsibench"]: key, study_key, chosen (JSON, by fold) and, from a probe that trains by epochs,
        curves (DataFrame: fold, seed, epoch, loss, validation_rho, chosen).
    """
    import anndata

    key_at(job.artefact.path)
    return anndata.read_h5ad(job.artefact.path)


def load(job: Job) -> tuple[Patients, "AnnData", np.ndarray]:
    """What the job fits on: features, the benchmark, and the fold of each patient."""
    benchmark = read_benchmark(job.study.benchmark_h5ad)
    fold = folds.read_folds(job.study, job.scheme).to_numpy()
    return read_patients(job, benchmark), benchmark, fold


def read_patients(job: Job, benchmark: "AnnData") -> Patients:
    """All patients of the benchmark, with the features that the job's probe needs."""
    ids, groups = benchmark.obs_names.to_numpy(str), folds.inner_groups(benchmark.obs, job.scheme)
    if offer(job.probe).needs == "mean":
        return Patients(ids, groups, mean=benchmark.obsm[job.encoder])
    return Patients(ids, groups, bags=read_bags(benchmark.obs, feature_folders(job.study, job.encoder)))


@dataclass(frozen=True)
class OutOfFold:
    """Every patient as predicted by the fit that did not see them."""

    predicted: np.ndarray
    """float32 (patients, genes); NaN for patients who are never held out."""
    seeds: np.ndarray | None
    """The same of each seed, (seeds, patients, genes), from a probe that has several."""
    noise: np.ndarray | None
    """What intervals have to put back: noise of training patients who are predicted too, (patients, genes)."""
    attention: list[np.ndarray]
    """(tiles,) a patient who is held out; empty unless the probe attends."""
    chosen: dict[str, dict[str, Any]]
    """What each fold's fit selected."""
    curves: pd.DataFrame | None


def out_of_fold(
    probe: Probe, patients: Patients, y: np.ndarray, fold: np.ndarray, *, seed: int = 0, with_halves: bool = False
) -> OutOfFold:
    """Fit the probe once a fold on all other patients, and predict those held out.

    Parameters
    ----------
    y
        (patients, genes).
    fold
        Fold that holds each patient out, (patients,); below 0 for patients who are trained on in every fold.
    with_halves
        Also fit on two halves of every fold's training patients, to tell the noise in its predictions.
        Not where one fold is all that is held out: whoever is predicted there has trained no fit, what chance
        does to them stands in the score once, as samples of them show it, and the noise to put back is 0.

    Raises
    ------
    CohortError
        When a fold leaves fewer than three patients to train on.
    """
    predicted = np.full(y.shape, np.nan, np.float32)
    labels = np.unique(fold[fold >= 0])
    noise = np.zeros(y.shape, np.float32) if with_halves else None
    by_seed: np.ndarray | None = None
    attention: dict[int, np.ndarray] = {}
    chosen, curves = {}, []
    for label in labels:
        train, held = np.flatnonzero(fold != label), np.flatnonzero(fold == label)
        if len(train) < 3:
            raise CohortError(f"Fold {label} leaves {len(train)} patients to train on.", "Lower folds.n in study.yaml.")
        fitted = probe.fit(patients.take(train), y[train], seed=seed)
        seeds, weights = _of_each_seed(fitted, patients.take(held))
        predicted[held] = settled(seeds.mean(axis=0), y[train].std(axis=0, dtype=np.float64))
        if len(seeds) > 1:
            by_seed = np.empty((len(seeds), *y.shape), np.float32) if by_seed is None else by_seed
            by_seed[:, held] = seeds
        if noise is not None and len(labels) > 1:
            noise[held] = _noise(probe, patients.take(train), y[train], patients.take(held), predicted[held], seed)
        if isinstance(fitted, Attends):
            attention |= zip(held.tolist(), weights, strict=True)
            curves.append(fitted.curves.assign(fold=int(label)))
        chosen[str(label)] = fitted.chosen
    ordered = [attention[position] for position in sorted(attention)]
    together = pd.concat(curves, ignore_index=True) if curves else None
    return OutOfFold(predicted, by_seed, noise, ordered, chosen, together)


def _of_each_seed(fitted: Fitted, patients: Patients) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predictions of every seed, (seeds, patients, genes), and the attention of a probe that attends."""
    if isinstance(fitted, Attends):
        return fitted.predict_with_attention(patients)
    if isinstance(fitted, Seeded):
        return fitted.predict_seeds(patients), []
    return fitted.predict(patients)[None], []


def _noise(
    probe: Probe, train: Patients, y: np.ndarray, held: Patients, predicted: np.ndarray, seed: int
) -> np.ndarray:
    """Noise of the training patients in what is predicted, from fits on two halves of them."""
    # The same halves for every encoder and probe, whose predictions they make noisy together.
    parts = halves.divide(train.groups, seed)
    if min(map(len, parts)) < FEWEST_IN_HALF:
        return predicted - predicted.mean(axis=0)
    one, other = (probe.fit(train.take(part), y[part], seed=seed).predict(held) for part in parts)
    return halves.training_noise(one, other, predicted)


def settled(predicted: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Predictions of a fold, constant for genes that vary by rounding only.

    Patients of the same features (of sites never seen, to the site control) differ in the last bit,
    depending on where they stand in a matrix product, and ranks would make a signal of that.

    Parameters
    ----------
    predicted
        (patients, genes).
    sd
        Of each gene in the training patients, (genes,).
    """
    flat = np.ptp(predicted, axis=0) <= ROUNDING * sd
    return np.where(flat, predicted[:1], predicted)


def fit(job: Job, y: np.ndarray, patients: Patients, fold: np.ndarray, *, with_halves: bool = False) -> OutOfFold:
    """Out-of-fold predictions of `y`, in one thread: other jobs have the other cores."""
    with threadpool_limits(1):
        probe = offer(job.probe).make(job.study)
        return out_of_fold(probe, patients, y, fold, seed=job.study.folds.seed, with_halves=with_halves)


def _fit_job(job: Job) -> None:
    import anndata

    patients, benchmark, fold = load(job)
    started = time.perf_counter()
    found = fit(job, benchmark.X, patients, fold, with_halves=True)
    others = [each.to_numpy() for _, each in folds.read_splits(job.study, job.scheme).iloc[:, 1 : job.splits].items()]
    splits = [(found.predicted, fold), *((fit(job, benchmark.X, patients, each).predicted, each) for each in others)]
    varm = {"rho_by_split": _rho(benchmark.X, splits)}
    if found.seeds is not None:
        varm["rho_by_seed"] = _rho(benchmark.X, [(each, fold) for each in found.seeds])
    seconds = round(time.perf_counter() - started, 2)
    predictions, *attention = job.artefacts
    uns = {"key": predictions.key, "study_key": job.study.key, "chosen": json.dumps(found.chosen)}
    if found.curves is not None:
        uns["curves"] = found.curves
    held = fold >= 0
    obs = pd.DataFrame({"fold": fold, "site": benchmark.obs["site"].to_numpy(str)}, index=benchmark.obs_names)[held]
    var = pd.DataFrame(index=benchmark.var_names)
    facts = {
        "scheme": job.scheme,
        "encoder": job.encoder,
        "probe": job.probe,
        "n_patients": len(obs),
        "n_genes": benchmark.n_vars,
        "seconds": seconds,
        "chosen": _median_of(list(found.chosen.values())),
    }
    with writing(predictions, **facts) as path:
        layers = {"noise": found.noise[held]}
        adata = anndata.AnnData(found.predicted[held], obs, var, layers=layers, varm=varm, uns={"wsibench": uns})
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
    for artefact in attention:
        table = bag_index(benchmark.obs[held], feature_folders(job.study, job.encoder))
        table["attention"] = np.concatenate(found.attention)
        with writing(artefact) as path:
            table.to_parquet(path, index=False)


def _rho(y: np.ndarray, predictions: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Within-fold ρ of several predictions, each with its folds; float32 (genes, predictions)."""
    rho = [fold_spearman(y[fold >= 0], each[fold >= 0], fold[fold >= 0]).mean() for each, fold in predictions]
    return np.stack(rho, axis=1).astype(np.float32)


def _median_of(chosen: list[dict[str, Any]]) -> str:
    """The median over folds of every number that was chosen, as text."""
    numbers = [name for name, value in chosen[0].items() if isinstance(value, int | float)]
    return ", ".join(f"{name} {np.median([each[name] for each in chosen]):.3g}" for name in numbers)
