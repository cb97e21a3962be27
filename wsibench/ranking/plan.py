"""Inputs and artefacts of the ranking: fits, fusions, permutation nulls and tables, with their keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from wsibench import regression
from wsibench.core import FUSION, Artefact, Study, file_sha256, make_key
from wsibench.ranking.gene_sets import declared_sets
from wsibench.regression import Fit

FORMAT = 7

Kind = Literal["within-site", "free"]
"""Patients among whom expression is permuted: those of a site, or all."""

TableName = Literal[
    "scores", "leaderboard", "encoders", "differences", "rank_frequencies", "null", "groups", "measures", "exposure",
    "spread", "excluded_genes", "sets", "adjusted", "targets", "sites", "warnings",
]  # fmt: skip


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
class Null:
    """Permutation null of one fit."""

    fit: Fit
    kind: Kind
    permutations: int
    seed: int
    artefact: Artefact


@dataclass(frozen=True)
class Fusion:
    """The mean of the predictions of several encoders by one probe."""

    scheme: str
    probe: str
    members: tuple[Fit, ...]
    artefact: Artefact


@dataclass(frozen=True)
class Plan:
    """Inputs and artefacts of a study's ranking."""

    fits: Sequence[Fit]
    fusions: list[Fusion]
    nulls: list[Null]
    tables: dict[str, Artefact]

    @property
    def artefacts(self) -> list[Artefact]:
        """Everything that the stage writes."""
        made = [*(fusion.artefact for fusion in self.fusions), *(null.artefact for null in self.nulls)]
        return [*made, *self.tables.values()]


def plan(study: Study) -> Plan:
    """List the inputs and artefacts of a study's ranking.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    fits = regression.fits(study)
    return Plan(fits, _fusions(study, fits), nulls(study, fits), _tables(study, fits))


def table_path(study: Study, table: str) -> Path:
    """Path of a table."""
    return study.scores_parquet if table == "scores" else study.leaderboard_csv.with_name(f"{table}.csv")


def covariates_path(study: Study) -> Path | None:
    """Path of the table of covariates that the study names, or None."""
    return study.resolve(study.ranking.covariates) if study.ranking.covariates else None


def nulls(study: Study, fits: Sequence[Fit]) -> list[Null]:
    """Permutation nulls of `fits` that the study asks for; a fusion is not refitted."""
    ranking, found = study.ranking, []
    wanted: dict[Kind, dict[str, int]] = {"within-site": ranking.permutations, "free": ranking.free_permutations}
    for fit in fits:
        for kind, permutations in wanted.items():
            if n := permutations.get(fit.probe, 0):
                path = study.null_parquet(fit.scheme, fit.encoder, fit.probe, free=kind == "free")
                section = {"kind": kind, "permutations": n, "seed": ranking.seed}
                artefact = Artefact(path, make_key("null", FORMAT, section, [fit.predictions.key]))
                found.append(Null(fit, kind, n, ranking.seed, artefact))
    return found


def _fusions(study: Study, fits: Sequence[Fit]) -> list[Fusion]:
    """One fusion for every scheme and probe that all encoders to be fused have."""
    have: dict[tuple[str, str], dict[str, Fit]] = {}
    for fit in fits:
        have.setdefault((fit.scheme, fit.probe), {})[fit.encoder] = fit
    fusions = []
    for (scheme, probe), own in have.items():
        if study.fused and set(study.fused) <= set(own):
            members = tuple(own[name] for name in study.fused)
            key = make_key("fusion", FORMAT, study.fused, [fit.predictions.key for fit in members])
            artefact = Artefact(study.predictions_h5ad(scheme, FUSION, probe), key)
            fusions.append(Fusion(scheme, probe, members, artefact))
    return fusions


def _tables(study: Study, fits: Sequence[Fit]) -> dict[str, Artefact]:
    """Artefacts of the tables; they depend on the study's settings, the predictions and the files it names."""
    sets = declared_sets(study.ranking.gene_sets, study.resolve).values()
    files = [each for each in (*sets, covariates_path(study)) if isinstance(each, Path)]
    # A missing file is an error of `rank`; here it only gives another key.
    contents = [file_sha256(path) if path.is_file() else "" for path in files]
    key = make_key("ranking", FORMAT, study.key, [*(fit.predictions.key for fit in fits), *contents])
    names = get_args(TableName)
    return {name: Artefact(table_path(study, name), make_key("ranking", FORMAT, name, [key])) for name in names}
