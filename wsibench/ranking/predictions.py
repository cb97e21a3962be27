"""All predictions of one scheme side by side, on the patients and genes that they are compared on."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsibench.assembly import read_benchmark
from wsibench.core import FUSION, CohortError, Scheme, Study
from wsibench.ranking.fusion import Fusion, fusions
from wsibench.regression import Fit, fits, metrics as scores, read_predictions


@dataclass(frozen=True)
class Arm:
    """All predictions of one scheme, on the one set of genes they are scored on."""

    study: Study
    scheme: Scheme
    jobs: list[Fit | Fusion]
    ranked: np.ndarray
    """Which of the jobs compete: encoders, features tables and their fusion, not controls."""
    patients: np.ndarray
    """Their ids, (patients,)."""
    measured: np.ndarray
    predicted: list[np.ndarray]
    noise: list[np.ndarray]
    """Of the training patients in each prediction, (patients, genes)."""
    by_split: list[np.ndarray]
    """ρ of each split of the patients into folds, (genes, splits); NaN for a gene constant in a fold of another."""
    by_seed: list[np.ndarray | None]
    """ρ of each seed of a probe that has several, (genes, seeds)."""
    fold: np.ndarray
    sites: np.ndarray
    subtypes: np.ndarray
    genes: pd.DataFrame
    """var of the benchmark."""
    excluded: pd.Series
    """Why a gene is not scored, by gene."""

    @property
    def sets(self) -> dict[str, np.ndarray]:
        """Genes by group, (genes,) each; all of them under ""."""
        every = {"": np.ones(len(self.genes), bool)}
        if "group" not in self.genes:
            return every
        groups = self.genes["group"].astype(str)
        return every | {group: (groups == group).to_numpy() for group in dict.fromkeys(groups)}

    @property
    def drawn_sites(self) -> np.ndarray | None:
        """Sites that the bootstrap draws whole, (patients,); None where it draws patients.

        Test patients of external validation are drawn by site where there are two sites and none is unknown.
        """
        if self.scheme == "external":
            return self.sites if len(np.unique(self.sites)) > 1 and (self.sites != "").all() else None
        return self.sites if self.scheme == "preserved-site" else None

    @property
    def one_unit(self) -> bool:
        """Whether prediction and measurement are in one unit: of external validation, that of both studies."""
        return len({part.expression.unit for part in self.study.parts.values()}) < 2

    def named(self, row: int) -> dict[str, str]:
        """The columns that name a row of a table."""
        return {"scheme": self.scheme, "encoder": self.jobs[row].encoder, "probe": self.jobs[row].probe}


def load_arm(study: Study, scheme: Scheme) -> Arm:
    """Read all predictions of one scheme.

    Raises
    ------
    NotReady
        When predictions have not been made.
    CohortError
        When no gene varies in every fold, or no fold has more than three patients.
    """
    benchmark = read_benchmark(study.benchmark_h5ad)
    competing = [job for job in [*fits(study), *fusions(study)] if job.scheme == scheme]
    predictions = [read_predictions(job.predictions.path) for job in competing]
    if study.parts:  # the training patients are not predicted
        benchmark = benchmark[predictions[0].obs_names].copy()
    fold = predictions[0].obs["fold"].to_numpy()
    counted = np.isin(
        fold, [f for f, n in zip(*np.unique(fold, return_counts=True), strict=True) if n > scores.RESERVED]
    )
    if not counted.any():
        raise CohortError(
            f"{scheme}: no fold has more than {scores.RESERVED} of the {len(fold)} patients, so none can be scored.",
            "Lower folds.n in study.yaml, or bring more patients.",
        )
    varies = scores.scorable_genes(benchmark.X, fold)
    genes, reason = varies, np.where(varies, "", "constant in a fold")
    if study.expression.highly_variable:
        genes = varies & highly_variable(benchmark.X, fold, study.expression.highly_variable)
        reason = np.where(varies & ~genes, "not highly variable in the training patients of every fold", reason)
    if not genes.any():
        raise CohortError(
            f"{scheme}: of {len(genes)} genes {varies.sum()} vary in every fold, and none of these is asked for.",
            "Check the expression table, or raise expression.highly_variable.",
        )
    return Arm(
        study,
        scheme,
        competing,
        np.array([job.encoder in (*study.encoders, *study.features, FUSION) for job in competing]),
        benchmark.obs_names.to_numpy(str)[counted],
        benchmark.X[counted][:, genes],
        [adata.X[counted][:, genes] for adata in predictions],
        [adata.layers["noise"][counted][:, genes] for adata in predictions],
        [adata.varm["rho_by_split"][genes] for adata in predictions],
        [adata.varm["rho_by_seed"][genes] if "rho_by_seed" in adata.varm else None for adata in predictions],
        fold[counted],
        benchmark.obs["site"].to_numpy(str)[counted],
        benchmark.obs["subtype"].to_numpy(str)[counted],
        benchmark.var[genes],
        pd.Series(reason, index=benchmark.var_names)[~genes],
    )


def highly_variable(expression: np.ndarray, fold: np.ndarray, n_top: int) -> np.ndarray:
    """Genes that are among the most variable ones of the training patients of every fold, (genes,).

    Variability is scanpy's: the dispersion of a gene among genes of its mean (flavour ``seurat``).
    The patients held out in a fold have no say in it, and one set serves all folds and encoders.

    Parameters
    ----------
    expression
        log2(x + 1) of TPM or CPM, (patients, genes).
    fold
        Fold that holds each patient out, (patients,).
    n_top
        How many genes a fold's training patients choose.
    """
    import scanpy
    from anndata import AnnData

    kept = np.ones(expression.shape[1], bool)
    for label in np.unique(fold):
        training = AnnData(expression[fold != label], uns={"log1p": {"base": 2}})
        scanpy.pp.highly_variable_genes(training, n_top_genes=min(n_top, training.n_vars), flavor="seurat")
        kept &= training.var["highly_variable"].to_numpy()
    return kept
