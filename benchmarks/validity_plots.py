"""Draws what benchmarks/validity.py measured: coverage of the intervals, and the power to order two encoders.

    python benchmarks/validity_plots.py [--coverage coverage.csv] [--power power.csv] [--to docs/images]

Coverage goes to validity-coverage.png, power to validity-power.png; a table that is not named is not drawn.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsibench.figures.style import (
    FAINT,
    INK,
    MUTED,
    PAGE_MM,
    describe,
    heading,
    house_style,
    new_figure,
    number,
    scheme_name,
    schemes_in_order,
    sentence_case,
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, for methods and gaps."""
BAND = (0.93, 0.97)
SHARES = {"covers": "mean ρ", "delta_covers": "difference of two"}
VERDICTS = {"right_order": "the better one stands first", "power": "… and is told apart (p < .05)"}
IMAGES = Path(__file__).parents[1] / "docs" / "images"


@house_style()
def coverage(table: pd.DataFrame) -> Figure:
    """Share of 95 % intervals that hold the truth against the number of patients, a column a number of sites.

    Lines are means over the signals and correlations of genes that were simulated; bars reach from the least to the
    greatest of these.

    Parameters
    ----------
    table
        Of validity.py's experiment ``coverage``: scheme, patients, sites, method, covers, delta_covers, cohorts.
    """
    methods, sites = list(dict.fromkeys(table["method"])), sorted(table["sites"].unique())
    colours = dict(zip(methods, COLOURS, strict=False))
    lines = [(scheme, share) for scheme in schemes_in_order(table["scheme"]) for share in SHARES]
    fig = new_figure(PAGE_MM, 18 + 36 * len(lines))
    grid = fig.subplots(len(lines), len(sites), sharex=True, sharey=True, squeeze=False)
    for axes, (scheme, share) in zip(grid, lines, strict=True):
        for ax, n_sites in zip(axes, sites, strict=True):
            part = table[(table["scheme"] == scheme) & (table["sites"] == n_sites)]
            ax.axhspan(*BAND, color=FAINT, lw=0)
            ax.axhline(0.95, color=MUTED, lw=0.5)
            for i, method in enumerate(methods):
                _line(ax, part[part["method"] == method], share, colours[method], i - (len(methods) - 1) / 2)
        axes[0].set_ylabel(f"{scheme_name(scheme)}\n{SHARES[share]}")
    _frame(grid, [f"{n_sites} sites" for n_sites in sites], table["patients"])
    heading(fig, "share of 95 % intervals that hold the truth")
    handles = [Line2D([], [], color=colours[method], marker="o", label=method) for method in methods]
    handles.append(Patch(color=FAINT, lw=0, label="93 to 97 %"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    least = table.loc[table["covers"].idxmin()]
    alt = (
        f"Coverage of 95 % intervals against the number of patients. Between {number(table['covers'].min(), 2)} and "
        f"{number(table['covers'].max(), 2)} for the mean ρ; least with {least['patients']} patients of "
        f"{least['sites']} sites by {scheme_name(least['scheme'])}, {least['method']}."
    )
    return describe(fig, alt, table)


@house_style()
def power(table: pd.DataFrame) -> Figure:
    """How often the better of two encoders stands first, and is told apart, against the number of patients.

    Parameters
    ----------
    table
        Of validity.py's experiment ``power``: scheme, patients, sites, noise_ratio, gap, right_order, power.
    """
    ratios, sites = sorted(table["noise_ratio"].unique()), sorted(table["sites"].unique())
    colours = dict(zip(ratios, COLOURS, strict=False))
    lines = [(scheme, share) for scheme in schemes_in_order(table["scheme"]) for share in VERDICTS]
    fig = new_figure(PAGE_MM, 22 + 36 * len(lines))
    grid = fig.subplots(len(lines), len(sites), sharex=True, sharey=True, squeeze=False)
    for axes, (scheme, share) in zip(grid, lines, strict=True):
        for ax, n_sites in zip(axes, sites, strict=True):
            part = table[(table["scheme"] == scheme) & (table["sites"] == n_sites)]
            # Two equal ones stand in either order by chance, and should be told apart in no more than 1 of 40.
            ax.axhline(0.5 if share == "right_order" else 0.025, color=MUTED, lw=0.5, ls=(0, (3, 2)))
            for i, ratio in enumerate(ratios):
                _line(ax, part[part["noise_ratio"] == ratio], share, colours[ratio], i - (len(ratios) - 1) / 2)
            ax.set_ylim(-0.03, 1.03)
        axes[0].set_ylabel(f"{scheme_name(scheme)}\n{VERDICTS[share]}")
    _frame(grid, [f"{n_sites} sites" for n_sites in sites], table["patients"])
    heading(fig, "share of the cohorts; gap: true difference in mean ρ")
    gaps = table.groupby("noise_ratio")["gap"]
    handles = [
        Line2D([], [], color=colours[ratio], marker="o", label=f"gap {_range(gaps.get_group(ratio))}")
        for ratio in ratios
    ]
    handles.append(Line2D([], [], color=MUTED, lw=0.5, ls=(0, (3, 2)), label="two equal encoders"))
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    best = table.loc[table["power"].idxmax()]
    alt = (
        "How often the better of two encoders stands first and is told apart, against the number of patients. "
        f"At most it is told apart in {best['power']:.0%} of the cohorts, with {best['patients']} patients and a gap "
        f"of {number(best['gap'])}."
    )
    return describe(fig, alt, table)


def _line(ax: Axes, part: pd.DataFrame, share: str, colour: str, shift: float) -> None:
    """Mean over cells against n, with the range over cells; `shift` keeps bars of different lines apart."""
    by = part.groupby("patients")[share].agg(["mean", "min", "max"])
    x = by.index.to_numpy(float) * 1.035**shift
    ax.vlines(x, by["min"], by["max"], color=colour, lw=0.7, alpha=0.7)
    ax.plot(x, by["mean"], "o-", color=colour, ms=2.5)


def _frame(grid: list, titles: list[str], patients: pd.Series) -> None:
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(sentence_case(title))
    for ax in grid.ravel():
        ax.grid(axis="y")
    for ax in grid[-1]:
        ax.set_xscale("log")
        ax.set_xticks(sorted(patients.unique()), sorted(patients.unique()))
        ax.minorticks_off()
        ax.set_xlabel("patients", color=INK)


def _range(gaps: pd.Series) -> str:
    return " to ".join(dict.fromkeys(number(value) for value in (gaps.min(), gaps.max())))


def main() -> None:
    """Draw the tables that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coverage", type=Path, help="table of the experiment coverage")
    parser.add_argument("--power", type=Path, help="table of the experiment power")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures")
    asked = parser.parse_args()
    wanted = {name: path for name in ("coverage", "power") if (path := getattr(asked, name))}
    for name, path in wanted.items():
        picture = asked.to / f"validity-{name}.png"
        fig = {"coverage": coverage, "power": power}[name](pd.read_csv(path))
        fig.savefig(picture, dpi=200, metadata={"Description": fig.alt})
        print(f"{picture}: {fig.alt}")
    if not wanted:
        print("Nothing to draw: name a table that benchmarks/validity.py --csv has left.")


if __name__ == "__main__":
    main()
