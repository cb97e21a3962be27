"""What the probes see and how they learn: maps of the features, training curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsibench.core import Study, key_at
from wsibench.figures.cohort import OTHERS, UNKNOWN, group_colours
from wsibench.figures.plates import bag_encoders
from wsibench.figures.style import (
    COLUMN_MM,
    INK,
    PAGE_MM,
    described,
    new_figure,
    palette,
    per_cent,
    primary_scheme,
    probe_name,
    scheme_name,
    sentence_case,
    styled,
)

if TYPE_CHECKING:
    from anndata import AnnData


@styled
def feature_map(
    benchmark: "AnnData",
    encoders: str | Sequence[str],
    *,
    colour: Literal["site", "subtype", "cohort"] = "site",
    basis: Literal["pca", "umap"] = "pca",
) -> Figure:
    """Patients by their mean features, a panel an encoder: do they lie by biology, or by site?

    Parameters
    ----------
    benchmark
        As from `wsibench.assembly.read_benchmark`.
    encoders
        One name of obsm or several.
    colour
        Column of obs.
    basis
        ``umap`` takes half a minute the first time, while numba compiles.
    """
    names = [encoders] if isinstance(encoders, str) else list(encoders)
    labels = benchmark.obs[colour].astype(str).replace("", UNKNOWN)
    colours = group_colours(labels)
    labels = labels.where(labels.isin(list(colours)), OTHERS)
    columns = min(len(names), 4)
    n_rows = -(-len(names) // columns)
    width_mm = COLUMN_MM if columns == 1 else PAGE_MM
    fig = new_figure(width_mm, 62 if columns == 1 else n_rows * ((width_mm - 16) / columns + 8))
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    frames, gaps = [], []
    for ax, name in zip(axes, names, strict=False):
        places, axis_names = _embed(benchmark.obsm[name], basis)
        for label, value in colours.items():
            ax.plot(*places[labels == label].T, "o", color=value, ms=2.5, mew=0, alpha=0.8, label=label)
        ax.set(title=name, xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
        ax.set_box_aspect(1)
        frame = pd.DataFrame(places, columns=["x", "y"]).assign(encoder=name, patient_id=benchmark.obs_names)
        frames.append(frame.assign(**{colour: benchmark.obs[colour].to_numpy()}))
        gaps.append(f"{name} {per_cent(_between(places, labels))}")
    for ax in axes[len(names) :]:
        ax.remove()
    handles, texts = axes[0].get_legend_handles_labels()
    fig.legend(handles, texts, title=colour, loc="outside right upper", markerscale=1.4)
    alt = (
        f"{basis.upper()} of the mean features of {benchmark.n_obs} patients, coloured by {colour} ({len(colours)} "
        f"colours). Share of the variance on the map that lies between {colour}s: {', '.join(gaps)}."
    )
    data = pd.concat(frames, ignore_index=True)
    return described(fig, alt, data[["encoder", "patient_id", colour, "x", "y"]])


def _embed(features: np.ndarray, basis: str) -> tuple[np.ndarray, list[str]]:
    """Places on the map, (n, 2), and what the two axes are called."""
    import anndata
    import scanpy as sc

    # A column that never varies has no scale to be divided by.
    features = np.asarray(features, np.float32)
    adata = anndata.AnnData(features[:, features.std(axis=0) > 0])
    sc.pp.scale(adata)
    if basis == "umap":
        sc.pp.neighbors(adata, use_rep="X", random_state=0)
        sc.tl.umap(adata, random_state=0)
        return adata.obsm["X_umap"], ["UMAP 1", "UMAP 2"]
    sc.pp.pca(adata, n_comps=2, random_state=0)
    shares = adata.uns["pca"]["variance_ratio"]
    return adata.obsm["X_pca"], [f"PC {i + 1} ({per_cent(share)} of the variance)" for i, share in enumerate(shares)]


def _between(places: np.ndarray, labels: pd.Series) -> float:
    """Share of the variance that lies between the groups."""
    frame = pd.DataFrame(places)
    within = frame - frame.groupby(labels.to_numpy()).transform("mean")
    return 1 - float((within**2).to_numpy().sum() / ((frame - frame.mean()) ** 2).to_numpy().sum())


def read_curves(study: Study, scheme: str, encoders: Sequence[str]) -> pd.DataFrame:
    """Training curves of attention MIL: encoder, fold, seed, epoch, loss, validation_rho, chosen.

    Raises
    ------
    NotReady
        When the predictions have not been made.
    """
    import h5py
    from anndata.io import read_elem

    frames = []
    for encoder in encoders:
        path = study.predictions_h5ad(scheme, encoder, "abmil")
        key_at(path)
        with h5py.File(path, "r") as file:
            frames.append(read_elem(file["uns/wsibench/curves"]).assign(encoder=encoder))
    return pd.concat(frames, ignore_index=True)


@styled
def curves(data: pd.DataFrame, *, scheme: str) -> Figure:
    """Loss and validation ρ over the epochs of attention MIL, a column an encoder, a line a fold and seed.

    Parameters
    ----------
    data
        As from `read_curves`; `chosen` marks the epoch that was kept.
    scheme
        The fold scheme, for the title.
    """
    encoders = list(dict.fromkeys(data["encoder"]))
    fig = new_figure(PAGE_MM if len(encoders) > 2 else COLUMN_MM, 76)
    axes = fig.subplots(2, len(encoders), sharex=True, sharey="row", squeeze=False)
    colours = palette(encoders)
    for column, encoder in zip(axes.T, encoders, strict=True):
        part = data[data["encoder"] == encoder]
        _lines(column[0], part, "loss", colours[encoder])
        _lines(column[1], part, "validation_rho", colours[encoder])
        column[0].set_title(encoder)
        column[1].set_xlabel("epoch")
    axes[0, 0].set_ylabel("training loss\n(MSE of z-scores)")
    axes[1, 0].set_ylabel("validation ρ\n(mean over genes)")
    fig.suptitle(sentence_case(f"{probe_name('abmil')}, {scheme_name(scheme)}"), x=0.02, ha="left", fontsize=6.5)
    kept = data[data["chosen"]].groupby("encoder", sort=False)
    values = [f"{name} {part['validation_rho'].mean():.2f} at epoch {part['epoch'].mean():.0f}" for name, part in kept]
    n = data[["fold", "seed"]].drop_duplicates().shape[0]
    alt = (
        f"Training curves of {probe_name('abmil')} by {scheme_name(scheme)}, {n} fits an encoder; "
        f"mean validation ρ at the epoch kept: {', '.join(values)}."
    )
    return described(fig, alt, data)


def _lines(ax: Axes, part: pd.DataFrame, column: str, colour: str) -> None:
    for _, line in part.groupby(["fold", "seed"]):
        ax.plot(line["epoch"], line[column], color=colour, lw=0.5, alpha=0.5)
    kept = part[part["chosen"]]
    ax.plot(kept["epoch"], kept[column], "o", color=colour, ms=2.5, mec=INK, mew=0.3)
    ax.grid(axis="y")


def training_curves(study: Study, *, scheme: str | None = None) -> Figure:
    """The `curves` of every encoder that attention MIL was fitted on.

    Parameters
    ----------
    scheme
        The study's primary one unless given.

    Raises
    ------
    NotReady
        When the predictions have not been made.
    """
    scheme = scheme or primary_scheme(study.folds.schemes)
    return curves(read_curves(study, scheme, bag_encoders(study)), scheme=scheme)
