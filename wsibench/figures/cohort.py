"""Who is in the cohort: patients by site and subtype, slides a patient."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wsibench.figures.style import MUTED, OTHER_COLOURS, PAGE_MM, described, new_figure, styled

MOST_SITES, MOST_GROUPS = 40, 8
OTHERS, UNKNOWN = "others", "unknown"


def group_colours(labels: pd.Series, most: int = MOST_GROUPS) -> dict[str, str]:
    """A colour for each of the `most` frequent labels, grey for the others together.

    Colours follow the labels' own order, so that subtypes keep theirs from figure to figure.
    """
    counts = labels.value_counts()
    named = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:most])
    colours = dict(zip(named, OTHER_COLOURS, strict=False))
    if UNKNOWN in colours:
        colours[UNKNOWN] = "#8c8c8c"
    return colours if len(named) == len(counts) else {**colours, OTHERS: "#c4c4c4"}


@styled
def cohort_overview(slides: pd.DataFrame) -> Figure:
    """Patients a site, stacked by subtype, beside the number of slides a patient has.

    Parameters
    ----------
    slides
        As in cohort.csv: slide_id, patient_id, site and subtype, empty where unknown.
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
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        right.text(0.5, 0.5, "no slides", transform=right.transAxes, ha="center", color=MUTED)
    right.set(title="Slides a patient", xlabel="slides", ylabel="patients")
    sizes = patients.loc[patients["site"] != UNKNOWN, "site"].value_counts()
    spread = f" (median {sizes.median():.0f} a site, from {sizes.min()} to {sizes.max()})" if len(sizes) else ""
    subtypes = ", ".join(f"{name} {n}" for name, n in patients["subtype"].value_counts().sort_index().items())
    alt = (
        f"{_patients_and_sites(patients)}{spread}; patients by subtype: {subtypes}; "
        f"patients with more than one slide: {(n_slides > 1).sum()}."
    )
    data = patients.assign(n_slides=n_slides.reindex(patients.index, fill_value=0)).reset_index()
    return described(fig, alt, data)


def _patients_and_sites(patients: pd.DataFrame) -> str:
    n_unknown = int((patients["site"] == UNKNOWN).sum())
    n_sites = patients.loc[patients["site"] != UNKNOWN, "site"].nunique()
    text = f"{len(patients)} patients on {n_sites} {'site' if n_sites == 1 else 'sites'}"
    return f"{text}, {n_unknown} of them on unknown ones" if n_unknown else text


def _by_site(ax: Axes, patients: pd.DataFrame) -> None:
    sizes = patients["site"].value_counts()
    order = sorted(sizes.index, key=lambda site: (-sizes[site], site))
    shown = order[:MOST_SITES]
    colours = group_colours(patients["subtype"])
    subtype = patients["subtype"].where(patients["subtype"].isin(list(colours)), OTHERS)
    table = pd.crosstab(patients["site"], subtype).reindex(shown)
    base = pd.Series(0, index=shown)
    for name, colour in colours.items():
        ax.bar(range(len(shown)), table[name], bottom=base, color=colour, label=name, width=0.8)
        base = base + table[name]
    left_out = f" ({len(order) - len(shown)} smaller sites not shown)" if len(order) > len(shown) else ""
    ax.set_title(_patients_and_sites(patients) + left_out)
    ax.set_xticks(range(len(shown)), shown, rotation=90 if len(shown) > 14 else 0)
    ax.set(xlabel="site", ylabel="patients", xlim=(-0.6, len(shown) - 0.4))
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if list(colours) != [UNKNOWN]:
        ax.legend(title="subtype", loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
