"""Figures of the cohort: patients by site and subtype, slides per patient, and maps of the mean features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.figures.catalogue import figure
from wsibench.figures.style import COLUMN_MM, MUTED, OTHER_COLOURS, PAGE_MM, Axes, Figure, describe, new_figure, percent

if TYPE_CHECKING:
    from anndata import AnnData

MAX_SITES, MAX_GROUPS = 40, 8
OTHERS, UNKNOWN = "others", "unknown"


def group_colours(labels: pd.Series) -> dict[str, str]:
    """Colour of each of the most frequent labels, and grey for the others together.

    Colours follow the alphabetical order of the labels, so that subtypes keep theirs from figure to figure.
    """
    counts = labels.value_counts()
    named = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MAX_GROUPS])
    colours = dict(zip(named, OTHER_COLOURS, strict=False))
    if UNKNOWN in colours:
        colours[UNKNOWN] = "#8c8c8c"
    return colours if len(named) == len(counts) else {**colours, OTHERS: "#c4c4c4"}


@figure(
    "The cohort",
    "Patients per site, by subtype, and slides per patient.",
    "cohort",
)
def cohort_overview(slides: pd.DataFrame) -> Figure:
    """Patients per site, stacked by subtype, beside the number of slides per patient.

    Parameters
    ----------
    slides
        Table cohort.csv: slide_id, patient_id, site and subtype, empty where unknown.
    """
    patients = slides.groupby("patient_id").agg(site=("site", "first"), subtype=("subtype", "first"))
    patients = patients.fillna("").replace("", UNKNOWN)
    n_slides = slides[slides["slide_id"] != ""].groupby("patient_id").size()
    fig = new_figure(PAGE_MM, 58)
    left, right = fig.subplots(1, 2, width_ratios=[4, 1])
    _by_site(left, patients)
    if len(n_slides):
        counts = n_slides.value_counts().sort_index()
        bars = right.bar(counts.index.astype(str), counts, color=MUTED, width=0.7)
        right.bar_label(bars, fontsize=5, padding=1)
        right.locator_params(axis="y", integer=True)
    else:
        right.text(0.5, 0.5, "no slides", transform=right.transAxes, ha="center", color=MUTED)
    right.set(title="Slides per patient", xlabel="slides", ylabel="patients")
    subtypes = ", ".join(f"{name} {n}" for name, n in patients["subtype"].value_counts().sort_index().items())
    alt = (
        f"{_patients_and_sites(patients)}; patients by subtype: {subtypes}; "
        f"patients with more than one slide: {(n_slides > 1).sum()}."
    )
    data = patients.assign(n_slides=n_slides.reindex(patients.index, fill_value=0)).reset_index()
    return describe(fig, alt, data)


def _patients_and_sites(patients: pd.DataFrame) -> str:
    n_unknown = int((patients["site"] == UNKNOWN).sum())
    n_sites = patients.loc[patients["site"] != UNKNOWN, "site"].nunique()
    text = f"{len(patients)} patients of {n_sites} {'site' if n_sites == 1 else 'sites'}"
    return f"{text}, {n_unknown} of them of unknown site" if n_unknown else text


def _by_site(ax: Axes, patients: pd.DataFrame) -> None:
    sizes = patients["site"].value_counts()
    order = sorted(sizes.index, key=lambda site: (-sizes[site], site))
    shown = order[:MAX_SITES]
    colours = group_colours(patients["subtype"])
    subtype = patients["subtype"].where(patients["subtype"].isin(list(colours)), OTHERS)
    table = pd.crosstab(patients["site"], subtype).reindex(shown)
    base = pd.Series(0, index=shown)
    for name, colour in colours.items():
        ax.bar(range(len(shown)), table[name], bottom=base, color=colour, label=name, width=0.8)
        base = base + table[name]
    omitted = f" ({len(order) - len(shown)} smaller sites not shown)" if len(order) > len(shown) else ""
    ax.set_title(_patients_and_sites(patients) + omitted)
    ax.set_xticks(range(len(shown)), shown, rotation=90 if len(shown) > 14 else 0)
    ax.set(xlabel="site", ylabel="patients", xlim=(-0.6, len(shown) - 0.4))
    ax.tick_params(axis="x", length=0)
    ax.locator_params(axis="y", integer=True)
    if list(colours) != [UNKNOWN]:
        ax.legend(title="subtype", loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)


@figure(
    "Principal components of the mean features",
    "First two principal components of the standardised mean features of each encoder, one dot a patient. Patients "
    "that cluster by site indicate differences of stain and scanner.",
    "benchmark",
    arguments=lambda inputs: {
        "benchmark": inputs["benchmark"],
        "colour": "external" if "external" in inputs["benchmark"].obs else "site",
    },
)
def feature_map(
    benchmark: "AnnData",
    encoders: str | Sequence[str] | None = None,
    *,
    colour: str = "site",
) -> Figure:
    """First two principal components of the patients' mean features, one panel an encoder.

    Parameters
    ----------
    benchmark
        Patients × genes, with mean features in obsm.
    encoders
        One name of obsm or several; all competitors unless given.
    colour
        Column of obs that colours the patients: site, subtype or external.
    """
    encoders = benchmark.uns["wsibench"]["encoders"] if encoders is None else encoders
    names = [encoders] if isinstance(encoders, str) else list(encoders)
    labels = benchmark.obs[colour]
    labels = labels.map({-1: "train", 0: "test"}) if colour == "external" else labels.astype(str).replace("", UNKNOWN)
    colours = group_colours(labels)
    labels = labels.where(labels.isin(list(colours)), OTHERS)
    columns = min(len(names), 4)
    n_rows = -(-len(names) // columns)
    width_mm = COLUMN_MM if columns == 1 else PAGE_MM
    fig = new_figure(width_mm, 62 if columns == 1 else n_rows * ((width_mm - 16) / columns + 8))
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    frames, shares = [], []
    for ax, name in zip(axes, names, strict=False):
        places, axis_names = _components(benchmark.obsm[name])
        for label, value in colours.items():
            ax.plot(*places[labels == label].T, "o", color=value, ms=2.5, mew=0, alpha=0.8, label=label)
        ax.set(title=name, xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
        ax.set_box_aspect(1)
        frame = pd.DataFrame(places, columns=["x", "y"]).assign(encoder=name, patient_id=benchmark.obs_names)
        frames.append(frame.assign(**{colour: benchmark.obs[colour].to_numpy()}))
        shares.append(f"{name} {percent(_between(places, labels))}")
    for ax in axes[len(names) :]:
        ax.remove()
    fig.legend(*axes[0].get_legend_handles_labels(), title=colour, loc="outside right upper", markerscale=1.4)
    alt = (
        f"Principal components of the mean features of {benchmark.n_obs} patients, coloured by {colour}. "
        f"Share of the variance on the map that lies between groups: {', '.join(shares)}."
    )
    return describe(fig, alt, pd.concat(frames, ignore_index=True)[["encoder", "patient_id", colour, "x", "y"]])


def _components(features: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Coordinates of the patients, (n, 2), and names of the two axes."""
    import anndata
    import scanpy as sc

    # A column that never varies has no scale to be divided by.
    features = np.asarray(features, np.float32)
    adata = anndata.AnnData(features[:, features.std(axis=0) > 0])
    sc.pp.scale(adata)
    sc.pp.pca(adata, n_comps=2, random_state=0)
    shares = adata.uns["pca"]["variance_ratio"]
    return adata.obsm["X_pca"], [f"PC {i + 1} ({percent(share)} of the variance)" for i, share in enumerate(shares)]


def _between(places: np.ndarray, labels: pd.Series) -> float:
    """Share of the variance that lies between groups."""
    frame = pd.DataFrame(places)
    within = frame - frame.groupby(labels.to_numpy()).transform("mean")
    return 1 - float((within**2).to_numpy().sum() / ((frame - frame.mean()) ** 2).to_numpy().sum())
