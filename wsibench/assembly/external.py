"""External validation: the benchmarks of two studies as one, to train on the one and test on the other."""

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from wsibench.assembly.pooling import one_hot_control
from wsibench.core import CohortError, some

ROLES = ("train", "test")


def concatenate(benchmarks: dict[str, AnnData], names: list[str]) -> tuple[AnnData, list[tuple[str, str, str]]]:
    """Concatenate the benchmarks of a training and a test study.

    Genes, and feature columns that have names, are those of both.  The control ``site`` is computed anew, and
    sites carry ``train:`` or ``test:`` before their name, since equal names need not be one site.

    Parameters
    ----------
    benchmarks
        The training and the test benchmark, in this order, by the name of their study.
    names
        Features to keep.

    Returns
    -------
    AnnData
        The training patients, then the test patients; obs["external"] is −1 for the former and 0 for the latter.
    exclusions
        Genes and feature columns that only one of them has: what, id, reason.

    Raises
    ------
    CohortError
        For a patient in both, no gene or feature column in both, and features made with different settings.
    """
    train, test = benchmarks.values()
    _check_patients(benchmarks)
    _check_settings(benchmarks, [name for name in names if name != "site"])
    genes = test.var_names[test.var_names.isin(train.var_names)]
    if genes.empty:
        first, second = (f"{name} has {some(each.var_names)}" for name, each in benchmarks.items())
        raise CohortError(
            f"The studies share no gene: {first}; {second}.", "Name genes alike in both, by symbol or by Ensembl id."
        )
    parts = {role: _part(each, genes, names, role) for role, each in zip(ROLES, benchmarks.values(), strict=True)}
    both = anndata.concat(parts.values(), join="inner")
    both.var = test.var.loc[genes]
    exclusions = []
    for (study, each), (role, part) in zip(benchmarks.items(), parts.items(), strict=True):
        reason = f"only in {study} ({role})"
        exclusions += [("gene", gene, reason) for gene in each.var_names.difference(genes, sort=False)]
        for name, values in part.obsm.items():
            alone = values.columns.difference(both.obsm[name].columns, sort=False)
            exclusions += [("feature", f"{name}: {column}", reason) for column in alone]
    if "site" in names:
        both.obsm["site"] = one_hot_control(both.obs, "site", "site")
    columns = {name: values.columns.to_numpy(str) for name, values in both.obsm.items() if _named(values)}
    for name, values in both.obsm.items():
        if values.empty:
            raise CohortError(f"The studies share no column of {name}.", "Name columns alike in both tables.")
        both.obsm[name] = np.ascontiguousarray(values.to_numpy(np.float32))
    both.uns["wsibench"] = {"columns": columns}
    return both, exclusions


def check_slides(cohorts: dict[str, pd.DataFrame]) -> None:
    """Refuse a slide file that is in both studies under different patients.

    Parameters
    ----------
    cohorts
        Slides with their identity, by the name of the study.

    Raises
    ------
    CohortError
        Names the first of them.
    """
    first, second = (rows[rows["identity"] != ""].set_index("identity")["slide_id"] for rows in cohorts.values())
    same = first.index.intersection(second.index)
    if len(same):
        studies = " and ".join(f"{ids[same[0]]} of {name}" for ids, name in zip((first, second), cohorts, strict=True))
        raise CohortError(
            f"{len(same)} slides are in both studies, under different patients: {studies} is the same file.",
            "Remove them from one study.",
        )


def _part(benchmark: AnnData, genes: pd.Index, names: list[str], role: str) -> AnnData:
    """One study's patients, with features as data frames, so that anndata matches columns by name."""
    part, columns = benchmark[:, genes].copy(), benchmark.uns["wsibench"]["columns"]
    part.obs["site"] = part.obs["site"].where(part.obs["site"] == "", f"{role}:" + part.obs["site"])
    part.obs["external"] = np.int8(-1 if role == "train" else 0)
    part.obsm = {
        name: pd.DataFrame(part.obsm[name], part.obs_names, columns.get(name)) for name in names if name != "site"
    }
    return part


def _named(features: pd.DataFrame) -> bool:
    return features.columns.inferred_type == "string"


def _check_patients(benchmarks: dict[str, AnnData]) -> None:
    train, test = benchmarks.values()
    both = train.obs_names.intersection(test.obs_names)
    if len(both):
        raise CohortError(
            f"{len(both)} patients are in study {' and in study '.join(benchmarks)}: {some(both)}. They would be "
            "tested on models that were trained on them.",
            "Remove them from one study; if they are different people, give them different ids.",
        )


def _check_settings(benchmarks: dict[str, AnnData], names: list[str]) -> None:
    """Refuse features of other encoders, weights or tiles: a model trained on the one cannot read the other."""
    for name in names:
        keys = set()
        for each in benchmarks.values():
            known = each.uns["wsibench"]
            keys.add((known["settings"][name], None if name in known["columns"] else each.obsm[name].shape[1]))
        if len(keys) > 1:
            studies = " and in study ".join(benchmarks)
            raise CohortError(
                f"The features of {name} were made with different settings in study {studies}.",
                "Use the same encoder, weights, `tiles` (tile_um, min_tissue, drop) and `embedding` in both.",
            )
