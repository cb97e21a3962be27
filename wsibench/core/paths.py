"""Where a study's files lie: the one place that knows paths."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The clone that this package runs from: where notebooks/, data/ and figures/ lie."""


def data_root() -> Path:
    """The data folder: ``WSIBENCH_DATA``, or the checkout's."""
    return Path(os.environ.get("WSIBENCH_DATA") or CHECKOUT / "data").expanduser().resolve()


def figures_root() -> Path:
    """The figures folder: ``WSIBENCH_FIGURES``; else beside a moved data folder, else the checkout's."""
    if os.environ.get("WSIBENCH_FIGURES"):
        return Path(os.environ["WSIBENCH_FIGURES"]).expanduser().resolve()
    return data_root().parent / "figures" if os.environ.get("WSIBENCH_DATA") else CHECKOUT / "figures"


class Paths:
    """Paths of a study's files, which follow from its name."""

    @property
    def name(self) -> str:
        """Name of the study, and of its folders."""
        raise NotImplementedError

    @property
    def root(self) -> Path:
        """``data/<study>``, where everything generated lies."""
        return data_root() / self.name

    @property
    def figures(self) -> Path:
        """``figures/<study>``, what a paper takes."""
        return figures_root() / self.name

    @property
    def notebooks(self) -> Path:
        """Executed notebooks."""
        return self.root / "notebooks"

    @property
    def slides(self) -> Path:
        """Raw slides that the study generates or downloads."""
        return self.root / "slides"

    @property
    def rna(self) -> Path:
        """Raw expression files that the study downloads."""
        return self.root / "rna"

    @property
    def gdc(self) -> Path:
        """What the GDC answered, and the tables made of it."""
        return self.root / "gdc"

    @property
    def truth(self) -> Path:
        """What a simulated cohort was made from."""
        return self.root / "truth"

    @property
    def cohort_csv(self) -> Path:
        """One row a slide."""
        return self.root / "cohort.csv"

    @property
    def expression_h5ad(self) -> Path:
        """Patients × genes."""
        return self.root / "expression.h5ad"

    @property
    def exclusions_csv(self) -> Path:
        """Slides, patients and genes that the cohort's tables name and the study leaves out."""
        return self.root / "exclusions.csv"

    @property
    def failures_csv(self) -> Path:
        """Slides that a stage could not process."""
        return self.root / "failures.csv"

    @property
    def benchmark_h5ad(self) -> Path:
        """Patients × genes, with a mean feature an encoder in obsm."""
        return self.root / "benchmark.h5ad"

    @property
    def benchmark_exclusions_csv(self) -> Path:
        """Patients and feature columns of the cohort that the benchmark leaves out."""
        return self.root / "benchmark.exclusions.csv"

    @property
    def scores_parquet(self) -> Path:
        """One row a scheme, encoder, probe and gene."""
        return self.root / "scores.parquet"

    @property
    def leaderboard_csv(self) -> Path:
        """One row a scheme, encoder and probe."""
        return self.root / "leaderboard.csv"

    @property
    def sites_csv(self) -> Path:
        """How well the site can be told from each encoder's features."""
        return self.root / "sites.csv"

    @property
    def warnings_csv(self) -> Path:
        """What a reader of the leaderboard has to know: few patients, few sites, no controls."""
        return self.root / "warnings.csv"

    def tiles_parquet(self, slide_id: str) -> Path:
        """Where one slide's tissue is."""
        return self.root / "tiles" / f"{slide_id}.parquet"

    def features_h5(self, encoder: str, slide_id: str) -> Path:
        """One slide's tile features of one encoder."""
        return self.root / "features" / encoder / f"{slide_id}.h5"

    def folds_csv(self, scheme: str) -> Path:
        """Which patient is held out in which fold."""
        return self.root / "folds" / f"{scheme}.csv"

    def predictions_h5ad(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold predictions, patients × genes."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.h5ad"

    def attention_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold attention of a bag probe, one row a tile."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.attention.parquet"

    def null_parquet(self, scheme: str, encoder: str, probe: str, *, free: bool = False) -> Path:
        """Scores under permuted pairing (within sites, or `free` of them), one row a permutation and gene."""
        return self.root / "null" / scheme / f"{encoder}.{probe}{'.free' if free else ''}.parquet"

    def targets_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold predictions of targets other than genes, one row a target, class and patient."""
        return self.root / "targets" / scheme / f"{encoder}.{probe}.parquet"

    def predicted_h5ad(self, fit: str) -> Path:
        """What a saved fit predicts for the study's patients, unless another place is named."""
        return self.root / "predicted" / f"{fit}.h5ad"
