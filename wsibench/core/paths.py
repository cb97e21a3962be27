"""Paths of a study's files."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

# The clone that this package runs from, with notebooks/, data/ and figures/.
CHECKOUT = Path(__file__).resolve().parents[2]


def data_root() -> Path:
    """Return the data folder: ``WSIBENCH_DATA``, or that of the checkout."""
    return Path(os.environ.get("WSIBENCH_DATA") or CHECKOUT / "data").expanduser().resolve()


class _Below:
    """Attribute that is a path below the study's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, study: Any, _: type) -> Path:
        return study.root / self.name


class Paths:
    """Paths of a study's files, which follow from its name."""

    notebooks = _Below("notebooks")  # executed notebooks
    slides = _Below("slides")  # raw slides that the study simulates or downloads
    rna = _Below("rna")  # raw expression files that the study downloads
    gdc = _Below("gdc")  # answers of the GDC, and tables made of them
    truth = _Below("truth")  # ground truth of a simulated cohort
    cohort_csv = _Below("cohort.csv")  # sample table, one row a slide
    expression_h5ad = _Below("expression.h5ad")  # measured expression, patients × genes
    exclusions_csv = _Below("exclusions.csv")  # slides, patients and genes that the cohort excludes
    failures_csv = _Below("failures.csv")  # slides that a stage could not process
    benchmark_h5ad = _Below("benchmark.h5ad")  # patients × genes, with one mean feature vector an encoder in obsm
    benchmark_exclusions_csv = _Below("benchmark.exclusions.csv")  # patients and feature columns it excludes
    scores_parquet = _Below("scores.parquet")  # one row a scheme, encoder, probe and gene
    leaderboard_csv = _Below("leaderboard.csv")  # one row a scheme, encoder and probe
    sites_csv = _Below("sites.csv")  # site predictability from each encoder's features
    warnings_csv = _Below("warnings.csv")  # warnings about the leaderboard

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the study, and of its folders."""

    @property
    def root(self) -> Path:
        """Folder ``data/<study>`` of all generated files but the figures."""
        return data_root() / self.name

    @property
    def figures(self) -> Path:
        """Folder ``figures/<study>`` of figures and report, beside a moved data folder, else in the checkout."""
        parent = data_root().parent if os.environ.get("WSIBENCH_DATA") else CHECKOUT
        return parent / "figures" / self.name

    @property
    def outputs(self) -> set[Path]:
        """Tables that the stages write, with symbolic links resolved."""
        tables = [each.name for each in vars(Paths).values() if isinstance(each, _Below) and "." in each.name]
        return {(self.root / name).resolve() for name in tables}

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

    def predicted_h5ad(self, fit: str) -> Path:
        """Predictions of a saved fit for the study's patients."""
        return self.root / "predicted" / f"{fit}.h5ad"
