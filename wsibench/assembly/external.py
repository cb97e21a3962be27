"""External validation: the patients of two studies as one benchmark, to train on the one and be tested on the other."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import embedding
from wsibench.assembly.pooling import Vectors, from_table, site
from wsibench.cohort.build import read_cohort
from wsibench.core import Artefact, CohortError, NotReady, Study, digest, file_sha256, make_key, read_meta, some
from wsibench.embedding import encoder, tile_encoders

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "external"


class UnlikeDecoding(UserWarning):
    """Tiles of the two cohorts that were decoded at different resolutions."""


def key(study: Study, names: list[str], expected: Callable[[Study], list[Artefact]]) -> str:
    """The key of the benchmark of both cohorts: another one when the contents of either's have changed.

    Parameters
    ----------
    names
        Features that are compared.
    expected
        `wsibench.assembly.build.expected`, asked for the benchmark of each.

    Raises
    ------
    NotReady
        When the benchmark of one of the two studies is due; names the study.
    """
    made_from = []
    for role, part in study.parts.items():
        benchmark = _current(role, part, expected)
        contents = read_meta(benchmark.path)["facts"]["contents"]
        features = [contents["features"].get(name, "") for name in names]
        tables = [part.resolve(part.features[name].table) for name in names if name in part.features]
        made_from += [contents["patients"], contents["expression"], *features, *map(file_sha256, tables)]
    return make_key(STAGE, FORMAT, {"names": names}, made_from)


def _current(role: str, part: Study, expected: Callable[[Study], list[Artefact]]) -> Artefact:
    remedy = f"Run `wsibench run {part.name} --to 04`."
    try:
        benchmark, *_ = expected(part)
    except NotReady as error:
        raise NotReady(f"Study {part.name} ({role}): {error.what}", remedy) from None
    if why := benchmark.due():
        raise NotReady(f"Study {part.name} ({role}): {benchmark.path} is {why}.", remedy)
    return benchmark


def stacked(
    study: Study, benchmarks: dict[str, "AnnData"]
) -> tuple["AnnData", dict[str, Vectors], list[tuple[str, str, str]]]:
    """The patients of both cohorts, those to train on first.

    Parameters
    ----------
    benchmarks
        Of the two studies, by role.

    Returns
    -------
    adata
        X: float32 (patients, genes), the genes that both have.  obs: as in a benchmark, and cohort
        (train or test); sites carry the role before their name, since equal names need not be one site.
    vectors
        Every encoder's, table's and control's features.
    exclusions
        (what, id, reason) of genes that one of them lacks.

    Raises
    ------
    CohortError
        For a patient or slide in both, no gene in both, and features that were not made alike.

    Warns
    -----
    UnlikeDecoding
        When tiles were decoded at different resolutions.
    """
    import anndata

    train, test = benchmarks["train"], benchmarks["test"]
    _check_apart(study, benchmarks)
    genes, exclusions = _genes(study, train, test)
    obs = []
    for role, benchmark in benchmarks.items():
        sites = benchmark.obs["site"]
        obs.append(benchmark.obs.assign(site=sites.where(sites == "", f"{role}:" + sites), cohort=role))
    x = np.concatenate([train[:, genes].X, test[:, genes].X])
    adata = anndata.AnnData(x, obs=pd.concat(obs), var=test.var.loc[genes])
    names = dict.fromkeys([*study.encoders, *(study.controls or [])])
    return adata, {name: _vectors(study, name, benchmarks, adata.obs) for name in names}, exclusions


def _check_apart(study: Study, benchmarks: dict[str, "AnnData"]) -> None:
    """Whoever is trained on must not be tested on."""
    both = benchmarks["train"].obs_names.intersection(benchmarks["test"].obs_names)
    if len(both):
        raise CohortError(
            f"{len(both)} patients are in study {study.train} and in study {study.test}: {some(both)}. They would be "
            "tested on models that were trained on them.",
            "Leave them out of one study; if they are different people, give them different ids.",
        )
    slides = {role: read_cohort(part).set_index("identity")["slide_id"] for role, part in study.parts.items()}
    same = [identity for identity in slides["train"].index.intersection(slides["test"].index) if identity]
    if same:
        found = " and ".join(f"{slides[role][same].iloc[0]} of {part.name}" for role, part in study.parts.items())
        raise CohortError(
            f"{len(same)} slides are in both studies, under different patients: {found} is the same file.",
            "Leave them out of one study.",
        )


def _genes(study: Study, train: "AnnData", test: "AnnData") -> tuple[pd.Index, list[tuple[str, str, str]]]:
    """Genes that both have, in the order of the test cohort; and those that only one has."""
    genes = test.var_names[test.var_names.isin(train.var_names)]
    if genes.empty:
        raise CohortError(
            f"The studies share no gene: {study.train} has {some(train.var_names)}; {study.test} has "
            f"{some(test.var_names)}.",
            "Name genes alike in both, by symbol or by Ensembl id.",
        )
    exclusions = []
    for role, part, index in (("train", study.train, train.var_names), ("test", study.test, test.var_names)):
        exclusions += [("gene", gene, f"only in {part} ({role})") for gene in index.difference(genes, sort=False)]
    return genes, exclusions


def _vectors(study: Study, name: str, benchmarks: dict[str, "AnnData"], obs: pd.DataFrame) -> Vectors:
    if name in study.tables:
        return _of_tables(study, name, benchmarks)
    if name == "site":
        return site(study, obs.rename_axis("patient_id").reset_index())
    if name in tile_names(study):
        _check_make(study, name)
    elif name != "oracle":
        raise CohortError(f"{name} is no feature of tiles that both studies have.", "Leave it out.")
    widths = {role: benchmark.obsm[name].shape[1] for role, benchmark in benchmarks.items()}
    if widths["train"] != widths["test"]:
        raise CohortError(
            f"{name} is {widths['train']} wide in study {study.train} and {widths['test']} wide in {study.test}.",
            "Use the same encoder for both cohorts, or leave it out.",
        )
    values = pd.DataFrame(np.concatenate([each.obsm[name] for each in benchmarks.values()]), index=obs.index)
    kept = [read_meta(part.benchmark_h5ad)["facts"]["contents"]["features"][name] for part in study.parts.values()]
    return Vectors(values, digest(kept))


def _of_tables(study: Study, name: str, benchmarks: dict[str, "AnnData"]) -> Vectors:
    """A feature table of both studies, with all its columns in the order of the training study's."""
    values = {}
    for role, part in study.parts.items():
        values[role] = from_table(part, name, read_cohort(part)).values.loc[benchmarks[role].obs_names]
    train, test = values["train"], values["test"]
    if set(train) != set(test):
        lacking = [f"{part} lacks {some(ours.difference(theirs, sort=False))}" for part, ours, theirs in (
            (study.train, test.columns, train.columns), (study.test, train.columns, test.columns),
        ) if len(ours.difference(theirs))]  # fmt: skip
        raise CohortError(
            f"features.{name} has {train.shape[1]} columns in study {study.train} and {test.shape[1]} in "
            f"{study.test}: {'; '.join(lacking)}.",
            "Compute the same features for both cohorts, and name them alike.",
        )
    return Vectors(pd.concat([train, test[train.columns]]))


def tile_names(study: Study) -> list[str]:
    """Encoders that both studies have tile features of: what probes on bags can read."""
    applicable = not any(embedding.not_applicable(part) for part in study.parts.values())
    return [each.name for each in tile_encoders(study)] if applicable else []


def _check_make(study: Study, name: str) -> None:
    """Refuse features that another encoder, or other tiles, made: a model of the one cannot read the other."""
    made: dict[str, dict[str, Any]] = {}
    for role, part in study.parts.items():
        made[role] = embedding.made_by(part, encoder(name, part))
    fields = dict.fromkeys([*made["train"], *made["test"]])
    unlike = [field for field in fields if made["train"].get(field) != made["test"].get(field)]
    if unlike:
        how = "; ".join(
            f"{field} is {made['train'].get(field)} in {study.train}, {made['test'].get(field)} in {study.test}"
            for field in unlike
        )
        raise CohortError(
            f"The features of {name} were not made alike: {how}.",
            "Embed both cohorts with the same tiles and encoder, or leave it out.",
        )
    mpp = [embedding.wanted_mpp(part) for part in study.parts.values()]
    if made["train"]["loader"] != "import" and not np.isclose(*mpp):
        warnings.warn(
            f"Tiles of {name} were decoded at {mpp[0]:.3g} µm/px in {study.train} and at {mpp[1]:.3g} in {study.test}, "
            "each as its own encoders need, before they were resized: a difference between the cohorts that is none of "
            "tissue. With the same encoders in both studies there is none.",
            UnlikeDecoding,
            stacklevel=4,
        )
