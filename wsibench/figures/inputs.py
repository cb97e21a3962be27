"""Inputs of the figures of a study: the artefact keys they were made under, and how to load each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from wsibench import assembly, cohort, ranking, regression, tiling
from wsibench.core import FUSION, NotReady, Study, key_at, read_failures
from wsibench.figures.rows import in_order
from wsibench.figures.style import palette, primary_scheme, probe_name, scheme_name

Keys = list[str] | None  # artefact keys; None where the study does not have the input
MAX_SLIDES, MAX_GALLERY = 12, 6  # slides of the overview, and of the gallery of tiles
UNITS = {"log2_tpm": "log2 TPM", "log2_cpm": "log2 CPM", "zscore": "z-score", "as_is": "unit of the table"}


class Inputs:
    """Inputs of the figures of one study, by name; each is loaded at most once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._loaded: dict[str, Any] = {}
        self._keys: dict[str, Keys] = {}
        self._stages: dict[str, Keys] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = SOURCES[name].load(self)
        return self._loaded[name]

    def keys(self, name: str) -> Keys:
        """Artefact keys of an input.

        Raises
        ------
        NotReady
            When the stage that makes the input applies to the study and is due.
        """
        if name not in self._keys:
            self._keys[name] = SOURCES[name].keys(self)
        return self._keys[name]

    def stage(self, stage: ModuleType) -> Keys:
        """Keys of all files of a stage."""
        if stage.__name__ not in self._stages:
            self._stages[stage.__name__] = _stage_keys(stage, self.study)
        return self._stages[stage.__name__]

    @property
    def scheme(self) -> str:
        """Primary fold scheme."""
        return primary_scheme(self.study.folds.schemes)


def _stage_keys(stage: ModuleType, study: Study) -> Keys:
    if stage.not_applicable(study):
        return None
    artefacts = stage.expected(study)
    for artefact in artefacts:
        if why := artefact.due():
            raise NotReady(f"{artefact.path} is {why}.", "Run the stages before this one, or `wsibench run <study>`.")
    return [artefact.key for artefact in artefacts]


@dataclass(frozen=True)
class Source:
    """Origin of an input."""

    keys: Callable[[Inputs], Keys]
    load: Callable[[Inputs], Any]


def _ranked(inputs: Inputs) -> Keys:
    return inputs.stage(ranking)


def _table(name: Any, *, may_be_empty: bool = False) -> Source:
    """Table of the ranking; a study without rows in it does not have it."""

    def keys(inputs: Inputs) -> Keys:
        return _ranked(inputs) if may_be_empty or (_ranked(inputs) and len(inputs[name])) else None

    return Source(keys, lambda inputs: ranking.read(inputs.study, name))


def _permuted(inputs: Inputs) -> dict[tuple[str, str], Any]:
    """ρ under the permutation null of the genes that are scored, (permutations, genes), by encoder and probe."""
    scores = inputs["scores"]
    genes = scores.loc[scores["scheme"] == inputs.scheme, "gene"].unique()
    fits = [fit for fit in regression.fits(inputs.study) if fit.scheme == inputs.scheme]
    nulls = {(fit.encoder, fit.probe): ranking.read_null(inputs.study, fit) for fit in fits}
    return {name: rho[genes].to_numpy() for name, rho in nulls.items() if rho is not None}


def best_predictions(inputs: Inputs) -> dict[str, Any]:
    """Arguments for a figure of the predictions of the encoder and probe that head the leaderboard."""
    import anndata

    encoder, probe, _ = in_order(inputs["leaderboard"])[0]
    scores = inputs["scores"]
    own = scores[(scores[["scheme", "encoder", "probe"]] == [inputs.scheme, encoder, probe]).all(axis=1)]
    return {
        "predictions": anndata.read_h5ad(inputs.study.predictions_h5ad(inputs.scheme, encoder, probe)),
        "benchmark": inputs["benchmark"],
        "rho": own.set_index("gene")["rho"],
        "label": f"{encoder}, {probe_name(probe)}, {scheme_name(inputs.scheme)}",
        "unit": UNITS[inputs.study.expression.unit],
        "colour": palette([encoder])[encoder],
    }


def _attending(inputs: Inputs) -> list[str]:
    """Encoders that attention MIL was fitted on."""
    if regression.not_applicable(inputs.study):
        return []
    return list(dict.fromkeys(fit.encoder for fit in regression.fits(inputs.study) if fit.probe == "abmil"))


def _with_attention(inputs: Inputs) -> Keys:
    found = inputs.stage(regression)
    return found if found and _attending(inputs) else None


def _curves(inputs: Inputs) -> pd.DataFrame:
    """Training curves of attention MIL of every encoder under the primary scheme."""
    import h5py
    from anndata.io import read_elem

    frames = []
    for encoder in _attending(inputs):
        with h5py.File(inputs.study.predictions_h5ad(inputs.scheme, encoder, "abmil"), "r") as file:
            frames.append(read_elem(file["uns/wsibench/curves"]).assign(encoder=encoder))
    return pd.concat(frames, ignore_index=True)


def _attention_encoder(inputs: Inputs) -> str:
    """Best encoder of those with attention."""
    board = in_order(inputs["leaderboard"])
    return next(encoder for encoder, probe, _ in board if probe == "abmil" and encoder != FUSION)


def _attended(inputs: Inputs) -> pd.DataFrame:
    """Row of cohort.csv of the first slide with tiles, a file and attention; empty where there is none."""
    path = inputs.study.attention_parquet(inputs.scheme, _attention_encoder(inputs), "abmil")
    slides, attended = inputs["tiled"], pd.read_parquet(path, columns=["slide_id"])["slide_id"].unique()
    return slides[slides["slide_id"].isin(attended)].head(1)


def shown_attention(inputs: Inputs) -> dict[str, Any]:
    """Arguments for a figure of the attention on one slide."""
    encoder = _attention_encoder(inputs)
    ((path, tiles),) = _tiles(inputs.study, inputs["attended"]).items()
    attention = pd.read_parquet(inputs.study.attention_parquet(inputs.scheme, encoder, "abmil"))
    label = f"{encoder}, {probe_name('abmil')}, {scheme_name(inputs.scheme)}"
    return {"path": path, "tiles": tiles, "attention": attention, "label": label}


def _tiled(inputs: Inputs) -> pd.DataFrame:
    """Rows of cohort.csv of the slides that have tiles and a file, one a site before any site has two.

    Raises
    ------
    NotReady
        When no slide has been tiled and none has failed either.
    """
    study = inputs.study
    if tiling.not_applicable(study):
        return pd.DataFrame()
    rows = cohort.read_cohort(study).set_index("slide_id", drop=False).loc[tiling.tiled_slides(study)]
    if rows.empty and not read_failures(study.failures_csv):
        raise NotReady(f"No slide of {study.name} has been tiled.", "Run 02_tiling.")
    rows = rows.loc[rows.groupby("site", sort=False).cumcount().sort_values(kind="stable").index]
    return rows[[Path(path).exists() for path in rows["path"]]]


def _slides(n: int, least: int, load: Callable[[Study, pd.DataFrame], Any]) -> Source:
    """Something of at most `n` slides that are at hand; a study with fewer than `least` does not have it."""

    def keys(inputs: Inputs) -> Keys:
        paths = [inputs.study.tiles_parquet(slide) for slide in inputs["tiled"].index[:n]]
        return [key_at(path) for path in paths] if len(paths) >= least else None

    return Source(keys, lambda inputs: load(inputs.study, inputs["tiled"].head(n)))


def _tiles(study: Study, slides: pd.DataFrame, *, dropped: bool = False) -> dict[str, pd.DataFrame]:
    """Tiles of each slide, by path."""
    read = tiling.read_tiles
    return {path: read(study.tiles_parquet(slide), dropped=dropped) for slide, path in slides["path"].items()}


SOURCES = {
    **{name: _table(name) for name in ("differences", "spread", "adjusted", "sets", "targets", "groups", "measures")},
    **{name: _table(name) for name in ("rank_frequencies", "sites", "leaderboard")},
    "null": _table("null", may_be_empty=True),
    "scores": _table("scores", may_be_empty=True),
    "permuted": Source(_ranked, _permuted),
    "curves": Source(_with_attention, _curves),
    "attended": Source(lambda inputs: inputs.keys("leaderboard") and _with_attention(inputs), _attended),
    "benchmark": Source(
        lambda inputs: inputs.stage(assembly), lambda inputs: assembly.read_benchmark(inputs.study.benchmark_h5ad)
    ),
    "cohort": Source(
        lambda inputs: None if cohort.not_applicable(inputs.study) else [key_at(inputs.study.cohort_csv)],
        lambda inputs: cohort.read_cohort(inputs.study),
    ),
    "tiled": Source(lambda inputs: None, _tiled),
    "slide_path": _slides(1, 1, lambda study, slides: slides["path"].iloc[0]),
    "slide_tiles": _slides(1, 1, lambda study, slides: next(iter(_tiles(study, slides, dropped=True).values()))),
    "gallery": _slides(MAX_GALLERY, 1, _tiles),
    "thumbnails": _slides(
        MAX_SLIDES, 2, lambda study, slides: tiling.thumbnails(slides, study.tiles.slide_mpp, study.tiles.tile_um)
    ),
}
