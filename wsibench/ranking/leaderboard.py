"""Rank the encoders: scores of every gene, the leaderboard, and the tables beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from wsibench import assembly, regression
from wsibench.assembly import not_applicable
from wsibench.core import (
    FUSION,
    Artefact,
    CohortError,
    NotReady,
    Study,
    file_sha256,
    key_at,
    make_key,
    parallel_map,
    writing,
)
from wsibench.embedding import tcga
from wsibench.ranking.gene_sets import check_gene_sets, declared_sets, read_gene_sets
from wsibench.regression import Fit

if TYPE_CHECKING:
    from anndata import AnnData

    from wsibench.ranking.predictions import Entry, Kind
    from wsibench.ranking.tables import Options

FORMAT = 7
__all__ = ["check", "expected", "headline", "not_applicable", "rank", "read", "read_null"]

TEXT = ("encoder", "probe", "scheme", "tcga", "study_key", "encoder_a", "probe_a", "encoder_b", "probe_b", "group",
        "gene", "reason", "kind", "set", "adjustment", "target", "measure", "what", "message")  # fmt: skip
"""Columns of text, in which "NA" is a name like any other."""


TableName = Literal[
    "scores", "leaderboard", "encoders", "differences", "rank_frequencies", "null", "groups", "measures", "exposure",
    "spread", "excluded_genes", "sets", "adjusted", "targets", "sites", "warnings",
]  # fmt: skip


@dataclass(frozen=True)
class Null:
    """Permutation null of one fit."""

    fit: Fit
    kind: "Kind"
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


def expected(study: Study) -> list[Artefact]:
    """Artefacts of the stage: fused predictions, permutation nulls and tables.

    Raises
    ------
    NotReady
        When the benchmark has not been assembled.
    """
    return plan(study).artefacts


def rank(study: Study) -> pd.DataFrame:
    """Score, bootstrap and rank the predictions, as far as results are missing or outdated.

    Returns
    -------
    DataFrame
        The leaderboard: preserved-site folds first, controls after the encoders and without a rank.

    Raises
    ------
    NotReady
        When predictions have not been made.
    CohortError
        When no gene varies in every fold, or no fold has more than three patients.
    """
    planned = plan(study)
    if late := [fit.predictions for fit in planned.fits if fit.predictions.due()]:
        raise NotReady(f"{len(late)} predictions are due, {late[0].path} first.", "Run the stage 05_regression.")
    if any(artefact.due() for artefact in planned.artefacts):
        from wsibench.ranking.predictions import permute

        benchmark = assembly.read_benchmark(study.benchmark_h5ad)
        for fusion in planned.fusions:
            if fusion.artefact.due():
                _write_fusion(fusion, benchmark, study.key)
        parallel_map(permute, [null for null in planned.nulls if null.artefact.due()], label="06 permutation null")
        if any(artefact.due() for artefact in planned.tables.values()):
            tables = _make_tables(study, benchmark, planned)
            for name, artefact in planned.tables.items():
                with writing(artefact) as path:
                    table = tables[name]
                    table.to_parquet(path, index=False) if name == "scores" else table.to_csv(path, index=False)
    return read(study, "leaderboard")


def check(study: Study) -> list[str]:
    """Find faults of the files that the ranking reads; ``warning: `` marks gene sets that the cohort lacks genes of."""
    from anndata import read_h5ad

    from wsibench.ranking.association import read_covariates

    built = read_h5ad(study.expression_h5ad, backed="r") if study.expression_h5ad.is_file() else None
    faults, covariates = [], covariates_path(study)
    try:
        sets = read_gene_sets(declared_sets(study.ranking.gene_sets, study.resolve))
        if built is not None and study.ranking.gene_sets is not None:
            faults += [f"warning: {each}" for each in check_gene_sets(sets, built.var_names)]
    except CohortError as error:
        faults.append(str(error))
    try:
        if covariates is not None:
            read_covariates(covariates, study.ranking.given, None if built is None else built.obs_names)
    except CohortError as error:
        faults.append(str(error))
    return faults


def read(study: Study, table: TableName) -> pd.DataFrame:
    """Read a table of the ranking; it has no rows where it does not apply to the study.

    Parameters
    ----------
    study
        A ranked study.
    table
        Name of the table, such as ``leaderboard``, ``scores`` or ``differences``.

    Returns
    -------
    DataFrame
        Text columns hold "" and never NaN.

    Raises
    ------
    NotReady
        When the ranking has not been made.
    """
    path = table_path(study, table)
    key_at(path)
    if table == "scores":
        return pd.read_parquet(path)
    frame = pd.read_csv(path, converters=dict.fromkeys(TEXT, str))
    return frame.astype({"rank": "Int64"}) if table == "leaderboard" else frame


def read_null(study: Study, fit: Fit, kind: "Kind" = "within-site") -> pd.DataFrame | None:
    """Read ρ of one fit under permuted expression.

    Parameters
    ----------
    study
        A ranked study.
    fit
        One of `wsibench.regression.fits`.
    kind
        Patients among whom expression is permuted: ``within-site`` or ``free``.

    Returns
    -------
    DataFrame or None
        (permutations, genes); None if the study asks for no permutations of this probe.
    """
    from wsibench.ranking.predictions import read_permuted

    found = [null.artefact.path for null in nulls(study, [fit]) if null.kind == kind]
    return read_permuted(found[0]) if found else None


def headline(study: Study) -> str:
    """State in one or two sentences which encoder predicts expression best, and how sure that is."""
    from wsibench.ranking.caveats import describe_best

    return describe_best(read(study, "leaderboard"), read(study, "encoders"))


def _write_fusion(fusion: Fusion, benchmark: "AnnData", study_key: str) -> None:
    from wsibench.ranking.predictions import fuse

    members = [regression.read_predictions(fit.predictions.path) for fit in fusion.members]
    adata = fuse(members, benchmark[members[0].obs_names].X)
    names = [fit.encoder for fit in fusion.members]
    adata.uns["wsibench"] = {"key": fusion.artefact.key, "study_key": study_key, "members": names}
    with writing(fusion.artefact, scheme=fusion.scheme, encoder=FUSION, probe=fusion.probe, members=names) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)


def _entries(study: Study, planned: Plan) -> "dict[str, list[Entry]]":
    """Lines of the leaderboard by fold scheme."""
    from wsibench.ranking.predictions import Entry

    paths: dict[Path, dict[Kind, Path]] = {}
    for null in planned.nulls:
        paths.setdefault(null.fit.predictions.path, {})[null.kind] = null.artefact.path
    competing = {*study.encoders, *study.features}
    entries: dict[str, list[Entry]] = {scheme: [] for scheme in study.folds.schemes}
    for fit in planned.fits:
        path, exposure = fit.predictions.path, tcga(study, fit.encoder)
        control = fit.encoder not in competing
        entries[fit.scheme].append(Entry(fit.encoder, fit.probe, path, control, exposure, paths.get(path, {})))
    for fusion in planned.fusions:
        exposure = tcga(study, FUSION)
        entries[fusion.scheme].append(Entry(FUSION, fusion.probe, fusion.artefact.path, False, exposure))
    return entries


def _scheme_tables(task: "tuple[str, list[Entry], Path, int | None, Options]") -> dict[str, pd.DataFrame]:
    """Load the predictions of one fold scheme, score them, and make the tables."""
    from wsibench.ranking.predictions import load_predictions
    from wsibench.ranking.tables import compute_scores, make_tables

    scheme, entries, path, highly_variable, options = task
    benchmark = assembly.read_benchmark(path)
    predictions = load_predictions(scheme, entries, benchmark, highly_variable=highly_variable)
    return make_tables(compute_scores(predictions, options))


def _make_tables(study: Study, benchmark: "AnnData", planned: Plan) -> dict[str, pd.DataFrame]:
    """Compute all tables, each fold scheme in a process of its own."""
    from wsibench.ranking.association import read_covariates
    from wsibench.ranking.caveats import caveat_table, site_table, study_caveats
    from wsibench.ranking.tables import Options

    settings, covariates = study.ranking, covariates_path(study)
    sets = read_gene_sets(declared_sets(settings.gene_sets, study.resolve))
    if settings.gene_sets is None and not any(benchmark.var_names.isin(each).any() for each in sets.values()):
        sets = {}  # lists that the study did not ask for, and that do not apply to its genes
    options = Options(
        draws=settings.bootstrap,
        seed=settings.seed,
        rope=settings.rope,
        gene_sets=sets,
        covariates=read_covariates(covariates, settings.given, benchmark.obs_names) if covariates else None,
        match_levels=study.expression.unit != "zscore",
        one_unit=len({part.expression.unit for part in study.parts.values()}) < 2,
        study_key=study.key,
    )
    tasks = [
        (scheme, entries, study.benchmark_h5ad, study.expression.highly_variable, options)
        for scheme, entries in _entries(study, planned).items()
    ]
    parts = parallel_map(_scheme_tables, tasks, label="06 schemes")
    tables = {name: _concat([part[name] for part in parts]) for name in parts[0]}
    competing = [*study.encoders, *study.features]
    controls = [name for name in assembly.feature_names(study) if name not in competing]
    features = {name: np.asarray(benchmark.obsm[name]) for name in (*competing, *controls)}
    site, subtype = (benchmark.obs[column].astype(str) for column in ("site", "subtype"))
    tables["sites"] = site_table(features, site.to_numpy(str), subtype.to_numpy(str), study.folds.seed)
    paths = {str(scheme): study.folds_csv(scheme) for scheme in study.folds.schemes}
    folds = {scheme: regression.folds.read(path, benchmark.obs_names)["fold"] for scheme, path in paths.items()}
    known = study_caveats(site, competing, controls)
    known += [("gene sets", "; ".join(faults)) for faults in [check_gene_sets(sets, benchmark.var_names)] if faults]
    tables["warnings"] = caveat_table(known, folds, site)
    return tables


def _concat(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables, keeping the columns where none has rows."""
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


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
