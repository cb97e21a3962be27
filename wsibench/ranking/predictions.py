"""Out-of-fold predictions of all fits of one fold scheme, on the patients and genes they are compared on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from wsibench.core import CohortError
from wsibench.ranking.caveats import supports_ranking
from wsibench.ranking.plan import Entry
from wsibench.regression import fold_spearman, metrics, scorable_genes


@dataclass(frozen=True)
class Predictions:
    """Measured and predicted values of all entries of one fold scheme."""

    scheme: str
    entries: list[Entry]
    measured: np.ndarray
    """float32 (patients, genes)."""
    predicted: list[np.ndarray]
    """Of each entry, float32 (patients, genes)."""
    noise: list[np.ndarray]
    """Noise of the training patients in each prediction, float32 (patients, genes)."""
    by_split: list[np.ndarray]
    """ρ on each split of the patients into folds, (genes, splits); NaN for a gene constant in a fold of that split."""
    by_seed: list[np.ndarray | None]
    """ρ of each seed of a probe with several seeds, (genes, seeds)."""
    obs: pd.DataFrame
    """Patients: fold, site and subtype, indexed by patient id."""
    genes: pd.DataFrame
    """var of the benchmark, of the scored genes."""
    excluded: pd.Series
    """Reason why a gene is not scored, by gene."""
    targets: dict[str, Any] = field(default_factory=dict)
    """Description of every column of targets other than genes."""
    target_frames: list[dict[str, pd.DataFrame]] = field(default_factory=list)
    """Of each entry with targets: measured, predicted and noise, (patients, columns)."""

    @property
    def fold(self) -> np.ndarray:
        """Fold of each patient, (patients,)."""
        return self.obs["fold"].to_numpy()

    @property
    def competing(self) -> np.ndarray:
        """Entries that are ranked: all but controls, boolean (entries,)."""
        return np.array([not entry.control for entry in self.entries])

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Scored genes by group of the expression table, boolean (genes,); all genes under ""."""
        every = {"": np.ones(len(self.genes), bool)}
        if "group" not in self.genes:
            return every
        groups = self.genes["group"].astype(str)
        return every | {group: (groups == group).to_numpy() for group in dict.fromkeys(groups)}

    @property
    def sampled_sites(self) -> np.ndarray | None:
        """Site of each patient where the bootstrap draws whole sites, (patients,); None where it draws patients.

        Test patients of external validation are drawn by site if there are two sites and none is unknown.
        """
        sites = self.obs["site"].to_numpy(str)
        if self.scheme == "external":
            return sites if len(np.unique(sites)) > 1 and (sites != "").all() else None
        return sites if self.scheme == "preserved-site" else None

    @property
    def rankable(self) -> bool:
        """True if there are enough sites for a ranking."""
        return supports_ranking(self.scheme, self.obs["site"], self.fold)

    def name(self, row: int) -> dict[str, str]:
        """Scheme, encoder and probe of an entry: the first columns of a table's row."""
        return {"scheme": self.scheme, "encoder": self.entries[row].encoder, "probe": self.entries[row].probe}


def load_predictions(
    scheme: str, entries: list[Entry], benchmark: AnnData, *, highly_variable: int | None = None
) -> Predictions:
    """Read all predictions of one scheme, and select the patients and genes that can be scored.

    Parameters
    ----------
    scheme
        Fold scheme.
    entries
        Lines of the leaderboard, with the paths of their predictions.
    benchmark
        Patients × genes, with obs site and subtype.
    highly_variable
        Score only genes that are among this many most variable ones of the training patients of every fold.

    Raises
    ------
    CohortError
        When no gene varies in every fold, or no fold has more than three patients.
    """
    read = [read_h5ad(entry.path) for entry in entries]
    benchmark = benchmark[read[0].obs_names]  # in external validation the training patients are not predicted
    obs = benchmark.obs[["site", "subtype"]].astype(str).assign(fold=read[0].obs["fold"].to_numpy())
    scored = (obs.groupby("fold")["fold"].transform("size") > metrics.RESERVED).to_numpy()
    if not scored.any():
        raise CohortError(
            f"{scheme}: no fold has more than {metrics.RESERVED} of the {len(obs)} patients, so none can be scored.",
            "Lower folds.n in study.yaml, or add patients.",
        )
    measured, fold = np.asarray(benchmark.X), obs["fold"].to_numpy()
    genes, reason = _scored_genes(scheme, measured, fold, highly_variable)
    seeds = (adata.varm.get("rho_by_seed") for adata in read)
    return Predictions(
        scheme=scheme,
        entries=entries,
        measured=measured[scored][:, genes],
        predicted=[adata.X[scored][:, genes] for adata in read],
        noise=[adata.layers["noise"][scored][:, genes] for adata in read],
        by_split=[adata.varm["rho_by_split"][genes] for adata in read],
        by_seed=[None if each is None else each[genes] for each in seeds],
        obs=obs[scored],
        genes=benchmark.var[genes],
        excluded=pd.Series(reason, index=benchmark.var_names)[~genes],
        targets=json.loads(benchmark.uns["wsibench"].get("targets", "{}")) if "wsibench" in benchmark.uns else {},
        target_frames=[_target_frames(adata) for adata in read],
    )


def _target_frames(adata: AnnData) -> dict[str, pd.DataFrame]:
    """Targets other than genes as measured, as predicted, and the noise in the predictions."""
    names = {"measured": "targets_measured", "predicted": "targets", "noise": "targets_noise"}
    return {name: adata.obsm[key] for name, key in names.items() if key in adata.obsm}


def _scored_genes(
    scheme: str, measured: np.ndarray, fold: np.ndarray, highly_variable: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Select the scored genes, and name the reason for the others."""
    varies = scorable_genes(measured, fold)
    genes, reason = varies, np.where(varies, "", "constant in a fold")
    if highly_variable:
        genes = varies & highly_variable_genes(measured, fold, highly_variable)
        reason = np.where(varies & ~genes, "not highly variable in the training patients of every fold", reason)
    if not genes.any():
        raise CohortError(
            f"{scheme}: of {len(genes)} genes {varies.sum()} vary in every fold, and none of these is highly variable.",
            "Check the expression table, or raise expression.highly_variable.",
        )
    return genes, reason


def highly_variable_genes(expression: np.ndarray, fold: np.ndarray, n_top: int) -> np.ndarray:
    """Select genes that are among the most variable ones of the training patients of every fold.

    Variability is scanpy's dispersion of a gene among genes of similar mean (flavour ``seurat``). Held-out patients
    do not influence it, and one selection serves all folds and encoders.

    Parameters
    ----------
    expression
        log2(x + 1) of TPM or CPM, (patients, genes).
    fold
        Fold that holds each patient out, (patients,).
    n_top
        Number of genes selected in each fold.

    Returns
    -------
    np.ndarray
        Boolean (genes,).
    """
    import scanpy

    kept = np.ones(expression.shape[1], bool)
    for label in np.unique(fold):
        training = AnnData(expression[fold != label], uns={"log1p": {"base": 2}})
        scanpy.pp.highly_variable_genes(training, n_top_genes=min(n_top, training.n_vars), flavor="seurat")
        kept &= training.var["highly_variable"].to_numpy()
    return kept


def fuse(members: Sequence[AnnData], measured: np.ndarray) -> AnnData:
    """Average the out-of-fold predictions of several encoders by one probe (late fusion with equal weights).

    Nothing is fitted, so nothing can leak. The split halves are the same patients for every member, so that the
    noise of the mean is the mean of the noise. Predictions of further splits are not stored; the fusion has the first.

    Parameters
    ----------
    members
        Predictions of the encoders on the same patients, genes and folds.
    measured
        Measured expression of these patients, (patients, genes).
    """
    first = members[0]
    mean = np.asarray(np.mean([adata.X for adata in members], axis=0, dtype=np.float64), np.float32)
    rho = fold_spearman(measured, mean, first.obs["fold"].to_numpy()).mean()
    noise = np.mean([adata.layers["noise"] for adata in members], axis=0)
    fused = AnnData(mean, first.obs.copy(), pd.DataFrame(index=first.var_names), layers={"noise": noise})
    fused.varm["rho_by_split"] = rho[:, None].astype(np.float32)
    return fused
