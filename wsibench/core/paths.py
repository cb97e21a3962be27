"""Paths of a study's files."""

import os
from pathlib import Path

# The clone that this package runs from, with notebooks/, data/ and figures/.
CHECKOUT = Path(__file__).resolve().parents[2]


def data_root() -> Path:
    """Return the data folder: ``WSIBENCH_DATA``, or that of the checkout."""
    return Path(os.environ.get("WSIBENCH_DATA") or CHECKOUT / "data").expanduser().resolve()


def figures_root() -> Path:
    """Return the figures folder: ``WSIBENCH_FIGURES``, else beside a moved data folder, else that of the checkout."""
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
        """Folder ``data/<study>`` of all generated files but the figures."""
        return data_root() / self.name

    @property
    def figures(self) -> Path:
        """Folder ``figures/<study>`` of figures and report."""
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
        """Answers of the GDC, and tables made of them."""
        return self.root / "gdc"

    @property
    def truth(self) -> Path:
        """Ground truth of a simulated cohort."""
        return self.root / "truth"

    @property
    def cohort_csv(self) -> Path:
        """Sample table, one row a slide."""
        return self.root / "cohort.csv"

    @property
    def expression_h5ad(self) -> Path:
        """Measured expression, patients × genes."""
        return self.root / "expression.h5ad"

    @property
    def exclusions_csv(self) -> Path:
        """Slides, patients and genes of the input tables that the study excludes."""
        return self.root / "exclusions.csv"

    @property
    def failures_csv(self) -> Path:
        """Slides that a stage could not process."""
        return self.root / "failures.csv"

    @property
    def benchmark_h5ad(self) -> Path:
        """Patients × genes, with one mean feature vector an encoder in obsm."""
        return self.root / "benchmark.h5ad"

    @property
    def benchmark_exclusions_csv(self) -> Path:
        """Patients and feature columns of the cohort that the benchmark excludes."""
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
        """Site predictability from each encoder's features."""
        return self.root / "sites.csv"

    @property
    def warnings_csv(self) -> Path:
        """Warnings about the leaderboard: few patients, few sites, no controls."""
        return self.root / "warnings.csv"

    def tiles_parquet(self, slide_id: str) -> Path:
        """Tiles of one slide."""
        return self.root / "tiles" / f"{slide_id}.parquet"

    def features_h5(self, encoder: str, slide_id: str) -> Path:
        """Tile features of one slide and encoder."""
        return self.root / "features" / encoder / f"{slide_id}.h5"

    def folds_csv(self, scheme: str) -> Path:
        """Fold of every patient."""
        return self.root / "folds" / f"{scheme}.csv"

    def predictions_h5ad(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold predictions, patients × genes."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.h5ad"

    def attention_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold attention of attention-based MIL, one row a tile."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.attention.parquet"

    def null_parquet(self, scheme: str, encoder: str, probe: str, *, free: bool = False) -> Path:
        """Scores of refits to permuted expression, within sites or `free`, one row a permutation and gene."""
        return self.root / "null" / scheme / f"{encoder}.{probe}{'.free' if free else ''}.parquet"

    def targets_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold predictions of targets other than genes, one row a target, class and patient."""
        return self.root / "targets" / scheme / f"{encoder}.{probe}.parquet"

    def predicted_h5ad(self, fit: str) -> Path:
        """Predictions of a saved fit for the study's patients."""
        return self.root / "predicted" / f"{fit}.h5ad"
