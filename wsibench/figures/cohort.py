"""Figures of the cohort: patients by site and subtype, maps of the mean features, and site predictability."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.catalogue import figure
from wsibench.figures.style import MUTED, PAGE_MM, PAIR, Axes, Figure, Rows, describe, new_figure, percent

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
    colours = dict(zip(named, style.OTHER_COLOURS, strict=False))
    if UNKNOWN in colours:
        colours[UNKNOWN] = "#8c8c8c"
    return colours if len(named) == len(counts) else {**colours, OTHERS: "#c4c4c4"}


@figure(
    "The cohort",
    "Patients per site, by subtype, and slides per patient.",
    "cohort",
)
def cohort_overview(slides: pd.DataFrame) -> Figure:
    """Patients per site, stacked by subtype, beside the style.number of slides per patient.

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
    table = pd.crosstab(patients["site"], subtype).reindex(shown)[list(colours)]
    table.plot.bar(stacked=True, ax=ax, color=colours, width=0.8, rot=90 if len(shown) > 14 else 0, legend=False)
    omitted = f" ({len(order) - len(shown)} smaller sites not shown)" if len(order) > len(shown) else ""
    ax.set_title(_patients_and_sites(patients) + omitted)
    ax.set(xlabel="site", ylabel="patients")
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
    width_mm = style.COLUMN_MM if columns == 1 else PAGE_MM
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
        shares.append(f"{name} {' and '.join(axis_names)}")
    for ax in axes[len(names) :]:
        ax.remove()
    fig.legend(*axes[0].get_legend_handles_labels(), title=colour, loc="outside right upper", markerscale=1.4)
    alt = (
        f"Principal components of the mean features of {benchmark.n_obs} patients, coloured by {colour}: "
        f"{'; '.join(shares)}."
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


@figure(
    "Site predictability",
    "a: balanced accuracy of predicting the site from the features, beside chance. b: mean ρ by random-patient folds "
    "less that by preserved-site folds. High in both panels: part of the score may be site recognition; but the folds "
    "differ in their training patients, too.",
    "sites",
    "leaderboard",
)
def site_predictability(sites: pd.DataFrame, leaderboard: pd.DataFrame) -> Figure:
    """Accuracy of predicting the site from the features, beside the difference of mean ρ between the fold schemes.

    Parameters
    ----------
    sites
        Table sites.csv: encoder, n_patients, n_sites, balanced_accuracy, ci_low, ci_high, chance, auroc.
    leaderboard
        Table leaderboard.csv: the difference where the study has both fold schemes, and the controls.
    """
    rows = Rows.of(sites.assign(probe=""), leaderboard)
    loss = _loss(leaderboard, set(sites["encoder"]))
    probes = sorted(loss["probe"].unique(), key=style.probe_order)
    fig = style.new_figure(PAGE_MM, 20 + max(4.6, 2.2 * len(probes)) * len(rows.pairs))
    axes = fig.subplots(1, 1 if loss.empty else 2, sharey=True, squeeze=False)[0]
    rows.set_axes(axes, [encoder for encoder, _ in rows.pairs])
    for row in sites.itertuples():
        height, ends = rows.heights[row.encoder, ""], (row.ci_low, row.ci_high)
        axes[0].plot([row.chance, row.chance], [height - 0.4, height + 0.4], color=style.INK, lw=1)
        rows.dot(axes[0], (row.encoder, ""), row.balanced_accuracy, height, ends, marker="o")
        style.remark(axes[0], style.interval(row.balanced_accuracy, *ends, digits=2), height)
    title = f"Prediction of {sites['n_sites'].max()} sites from the features"
    axes[0].set(title=title, xlabel="balanced accuracy (95 % interval)", xlim=(0, 1.03))
    handles = [style.handle("chance", marker="|")]
    if probes:
        _draw_loss(axes[1], rows, loss, probes)
        handles += [style.handle(style.probe_name(probe), marker=style.probe_marker(probe)) for probe in probes]
    if rows.n_ranked < len(rows.pairs):
        handles.append(style.handle("control", marker="o", mfc="white"))
    style.legend(fig, handles)
    # One row an encoder and probe, so that the file can be read without the leaderboard.
    data = sites if loss.empty else sites.merge(loss, on="encoder", how="left")
    values = [f"{row.encoder} {row.balanced_accuracy:.2f} (chance {row.chance:.2f})" for row in sites.itertuples()]
    alt = f"Balanced accuracy of predicting the site from the features: {'; '.join(values)}."
    if probes:
        lost = loss.groupby("encoder", sort=False)["rho_lost"].mean().map(style.number).items()
        alt += f" Mean ρ by random-patient less that by preserved-site folds: {', '.join(map(' '.join, lost))}."
    return style.describe(fig, alt, data)


def _loss(leaderboard: pd.DataFrame, encoders: set[str]) -> pd.DataFrame:
    """Mean ρ by random-patient folds less that by preserved-site folds: encoder, probe, rho_lost."""
    known = leaderboard[leaderboard["encoder"].isin(encoders)]
    by = known.pivot_table(index=PAIR, columns="scheme", values="mean_rho")
    if not {"random-patient", "preserved-site"} <= set(by.columns):
        return pd.DataFrame(columns=[*PAIR, "rho_lost"])
    return (by["random-patient"] - by["preserved-site"]).dropna().rename("rho_lost").reset_index()


def _draw_loss(ax: Axes, rows: Rows, loss: pd.DataFrame, probes: list[str]) -> None:
    shifts = dict(zip(probes, np.linspace(-0.3, 0.3, len(probes)) if len(probes) > 1 else [0.0], strict=True))
    for row in loss.itertuples():
        height = rows.heights[row.encoder, ""] + shifts[row.probe]
        rows.dot(ax, (row.encoder, ""), row.rho_lost, height, (0, row.rho_lost), marker=style.probe_marker(row.probe))
    ax.axvline(0, color=MUTED, lw=0.5)
    ax.set(title="Difference between fold schemes", xlabel="mean ρ, random-patient less preserved-site folds")
