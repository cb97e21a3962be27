"""Rank the encoders: scores of every gene, the leaderboard, and the tables beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench import assembly, regression
from wsibench.assembly import not_applicable
from wsibench.core import FUSION, Artefact, CohortError, NotReady, Study, key_at, parallel_map, writing
from wsibench.embedding import tcga
from wsibench.ranking.gene_sets import check_gene_sets, declared_sets, read_gene_sets
from wsibench.ranking.plan import Entry, Fusion, Kind, Plan, TableName, covariates_path, nulls, plan, table_path
from wsibench.regression import Fit

if TYPE_CHECKING:
    from anndata import AnnData

    from wsibench.ranking.tables import Options

__all__ = ["check", "describe_best", "expected", "headline", "not_applicable", "rank", "read", "read_null"]

TEXT = ("encoder", "probe", "scheme", "tcga", "study_key", "encoder_a", "probe_a", "encoder_b", "probe_b", "group",
        "gene", "reason", "kind", "set", "adjustment", "target", "measure", "what", "message")  # fmt: skip
"""Columns of text, in which "NA" is a name like any other."""


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
        from wsibench.ranking.permutation import permute

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

    from wsibench.ranking.adjusted import read_covariates

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


def read_null(study: Study, fit: Fit, kind: Kind = "within-site") -> pd.DataFrame | None:
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
    from wsibench.ranking.permutation import read_permuted

    found = [null.artefact.path for null in nulls(study, [fit]) if null.kind == kind]
    return read_permuted(found[0]) if found else None


def headline(study: Study) -> str:
    """State in one or two sentences which encoder predicts expression best, and how sure that is."""
    return describe_best(read(study, "leaderboard"), read(study, "encoders"))


def describe_best(leaderboard: pd.DataFrame, encoders: pd.DataFrame) -> str:
    """State in one or two sentences which encoder is best under the first fold scheme.

    Parameters
    ----------
    leaderboard
        leaderboard.csv.
    encoders
        encoders.csv.
    """
    scheme = leaderboard["scheme"].iloc[0]
    lines, own = (table[table["scheme"] == scheme] for table in (leaderboard, encoders))
    if own.empty:
        return "Only controls were run: there is nothing to rank."
    first, line = own.iloc[0], lines.iloc[0]
    score = f"mean ρ {first['mean_rho']:.3f} ({first['ci_low']:.3f} to {first['ci_high']:.3f})"
    if len(own) == 1:
        return f"{first['encoder']} reaches {score} in {scheme} folds; no other encoder was run."
    if np.isnan(first["p_best"]):
        return f"{line['n_sites']} sites cannot support a ranking."
    probes = f" over {first['n_probes']} probes" if first["n_probes"] > 1 else ""
    text = (
        f"{first['encoder']} predicts gene expression best of {len(own)} encoders in {scheme} folds: {score}{probes}, "
        f"first in {first['p_best']:.0%} of the bootstrap draws."
    )
    if first["n_probes"] < 2:
        return text
    return (
        f"{text} The best combination is {line['encoder']} with {line['probe']}: {line['mean_rho']:.3f} "
        f"({line['ci_low']:.3f} to {line['ci_high']:.3f}), first in {line['p_best']:.0%}."
    )


def _write_fusion(fusion: Fusion, benchmark: "AnnData", study_key: str) -> None:
    from wsibench.ranking.predictions import fuse

    members = [regression.read_predictions(fit.predictions.path) for fit in fusion.members]
    adata = fuse(members, benchmark[members[0].obs_names].X)
    names = [fit.encoder for fit in fusion.members]
    adata.uns["wsibench"] = {"key": fusion.artefact.key, "study_key": study_key, "members": names}
    with writing(fusion.artefact, scheme=fusion.scheme, encoder=FUSION, probe=fusion.probe, members=names) as path:
        adata.write_h5ad(path, convert_strings_to_categoricals=False)


def _entries(study: Study, planned: Plan) -> dict[str, list[Entry]]:
    """Lines of the leaderboard by fold scheme."""
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
    from wsibench.ranking.adjusted import read_covariates
    from wsibench.ranking.caveats import caveat_table, study_caveats
    from wsibench.ranking.site_predictability import site_table
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
