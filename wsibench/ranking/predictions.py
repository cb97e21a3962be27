"""Out-of-fold predictions of all fits of one fold scheme, their fusion, and fits to permuted expression."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from threadpoolctl import threadpool_limits

from wsibench.core import CohortError, writing
from wsibench.ranking.caveats import supports_ranking
from wsibench.regression import fold_spearman, load, metrics, out_of_fold, scorable_genes

if TYPE_CHECKING:
    from wsibench.ranking.leaderboard import Null

Kind = Literal["within-site", "free"]
"""Patients among whom expression is permuted: those of a site, or all."""

MAX_COLUMNS = 100_000
"""Most permuted targets fitted at once, side by side, by a probe that fits each target by itself."""


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard: an encoder, features table, fusion or control, fitted by one probe."""

    encoder: str
    probe: str
    path: Path
    """Out-of-fold predictions (h5ad)."""
    control: bool = False
    tcga: str = "unknown"
    """Exposure of the encoder to TCGA in its training: yes, no or unknown."""
    nulls: dict[Kind, Path] = field(default_factory=dict)
    """Scores under permuted expression (Parquet), by kind."""


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


def permute(null: "Null") -> None:
    """Refit one fit to permuted expression, and write ρ of every permutation and gene.

    Whole expression profiles are permuted among patients, so that genes keep their correlations, and the probe is
    fitted and scored again. There are two kinds:

    ``within-site``
        Permuted among the patients of the same site, so that the association of site and expression is kept. Under
        random-patient folds the null of a gene that differs between sites is therefore above zero, by the score that
        knowledge of the site gives. Significance is measured against this null.
    ``free``
        Permuted among all patients: nothing is left to predict, and the null is centred on zero unless the pipeline
        leaks. The difference between the two nulls is the contribution of the sites.

    In external validation the training patients are permuted; the test patients keep their measured expression.
    """
    patients, benchmark, splits = load(null.fit)
    fold, y = splits.iloc[:, 0].to_numpy(), np.asarray(benchmark.X)
    orders = permuted_orders(
        benchmark.obs["site"].to_numpy(str), fold, kind=null.kind, permutations=null.permutations, seed=null.seed
    )
    probe = null.fit.make_probe()
    together = max(1, MAX_COLUMNS // y.shape[1]) if probe.columnwise else 1
    evaluated = fold >= 0
    rho = []
    for start in range(0, len(orders), together):
        permuted = np.concatenate([y[order] for order in orders[start : start + together]], axis=1)
        with threadpool_limits(1):  # other fits use the other cores
            predicted = out_of_fold(probe, patients, permuted, fold, seed=null.fit.seed).predicted
        scores = fold_spearman(permuted[evaluated], predicted[evaluated], fold[evaluated])
        rho.append(scores.mean().astype(np.float32))
    table = pd.DataFrame({
        "permutation": np.repeat(np.arange(len(orders), dtype=np.int32), y.shape[1]),
        "gene": np.tile(benchmark.var_names.to_numpy(str), len(orders)),
        "rho": np.concatenate(rho),
    })  # fmt: skip
    with writing(null.artefact, permutations=len(orders)) as path:
        table.to_parquet(path, index=False)


def permuted_orders(
    site: np.ndarray, fold: np.ndarray, *, kind: Kind, permutations: int, seed: int
) -> Sequence[np.ndarray]:
    """Permuted positions of the patients, the same for every encoder and probe.

    Parameters
    ----------
    site, fold
        Site and fold of each patient, (patients,); fold below 0 for the training patients of external validation.
    kind
        Patients among whom expression is permuted.
    permutations
        Number of permutations.
    seed
        Seed of the permutations.

    Returns
    -------
    sequence of np.ndarray
        One order of the patients for each permutation, (patients,).
    """
    groups = site if kind == "within-site" else np.full(len(site), "all")
    if (fold < 0).any():  # test patients are groups of one
        groups = np.where(fold < 0, groups, [f"test patient {i}" for i in range(len(fold))])
    rng = np.random.default_rng(seed)
    return [metrics.permutation_within(groups, rng) for _ in range(permutations)]


def read_permuted(path: Path) -> pd.DataFrame:
    """ρ under permuted expression, (permutations, genes); NaN where a permuted gene is constant in a fold."""
    table = pd.read_parquet(path)
    genes = table["gene"].to_numpy(str)[: int((table["permutation"] == 0).sum())]
    return pd.DataFrame(table["rho"].to_numpy().reshape(-1, len(genes)), columns=genes)
