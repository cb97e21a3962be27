"""All predictions of one scheme side by side, on the patients and genes that they are compared on."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsibench import scores
from wsibench.assembly import read_benchmark
from wsibench.errors import CohortError
from wsibench.regression import Job, jobs, read_predictions
from wsibench.sections import Scheme
from wsibench.study import Study


@dataclass(frozen=True)
class Arm:
    """All predictions of one scheme, on the one set of genes they are scored on."""

    study: Study
    scheme: Scheme
    jobs: list[Job]
    ranked: np.ndarray
    """Which of the jobs compete: encoders and features tables, not controls."""
    measured: np.ndarray
    predicted: list[np.ndarray]
    fold: np.ndarray
    sites: np.ndarray
    subtypes: np.ndarray
    genes: pd.DataFrame
    """var of the benchmark."""
    excluded: pd.Index

    @property
    def sets(self) -> dict[str, np.ndarray]:
        """Genes by group, (genes,) each; all of them under ""."""
        every = {"": np.ones(len(self.genes), bool)}
        if "group" not in self.genes:
            return every
        groups = self.genes["group"].astype(str)
        return every | {group: (groups == group).to_numpy() for group in dict.fromkeys(groups)}

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
    benchmark = read_benchmark(study)
    competing = [job for job in jobs(study) if job.scheme == scheme]
    predictions = [read_predictions(job) for job in competing]
    fold = predictions[0].obs["fold"].to_numpy()
    counted = np.isin(
        fold, [f for f, n in zip(*np.unique(fold, return_counts=True), strict=True) if n > scores.RESERVED]
    )
    if not counted.any():
        raise CohortError(
            f"{scheme}: no fold has more than {scores.RESERVED} of the {len(fold)} patients, so none can be scored.",
            "Lower folds.n in study.yaml, or bring more patients.",
        )
    genes = scores.scorable_genes(benchmark.X, fold)
    if not genes.any():
        raise CohortError(f"{scheme}: none of {len(genes)} genes varies in every fold.", "Check the expression table.")
    return Arm(
        study,
        scheme,
        competing,
        np.array([job.encoder in (*study.encoders, *study.features) for job in competing]),
        benchmark.X[counted][:, genes],
        [adata.X[counted][:, genes] for adata in predictions],
        fold[counted],
        benchmark.obs["site"].to_numpy(str)[counted],
        benchmark.obs["subtype"].to_numpy(str)[counted],
        benchmark.var[genes],
        benchmark.var_names[~genes],
    )
