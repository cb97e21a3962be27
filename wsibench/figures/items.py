"""Panels of items, such as gene sets, with the scores of every encoder and probe in each."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsibench.figures import style
from wsibench.figures.rows import PAIR, Rows
from wsibench.figures.style import BAND, COLUMN_MM, FAINT, INK, PAGE_MM, Artist, Axes, Figure

MAX_PAIRS = 12  # pairs of encoder and probe beyond which only each encoder's best is drawn
ITEMS_MM, LINE_MM = 128, 2.6  # height of all items on a page, and of a line of an item's name
NAME_WIDTH = 26  # letters of an item's name before it is broken


@dataclass(frozen=True)
class Panel:
    """Panel with one row an item."""

    # Columns item, encoder, probe, score, ci_low and ci_high; band_low and band_high where there is a grey band, and
    # tick where there is a black tick.
    table: pd.DataFrame
    items: list[str]
    labels: dict[str, str]  # by item
    xlabel: str
    title: str = ""
    line: float = 0.0  # position of the vertical line


def label(name: str, counts: str) -> str:
    """Name of an item with its counts, broken into short lines: ``pam50 (7 of 50)``."""
    return textwrap.fill(f"{name.replace('_', ' ')} ({counts})", NAME_WIDTH)


def pitch_mm(rows: Rows, labels: dict[str, str]) -> float:
    """Height of an item (mm)."""
    return max(LINE_MM * (1 + max(text.count("\n") for text in labels.values())), 1.1 * len(rows.pairs)) + 1.2


def capacity(rows: Rows, labels: dict[str, str]) -> int:
    """Number of items that fit below each other."""
    return int(ITEMS_MM // pitch_mm(rows, labels))


def draw_panels(rows: Rows, panels: list[Panel], text: str, handles: list[Artist]) -> Figure:
    """Draw panels side by side.

    Parameters
    ----------
    rows
        Encoders and probes in the order of the dots within an item.
    panels
        At least one.
    text
        Heading.
    handles
        Legend entries beside those of encoders and probes.
    """
    handles = [*rows.colour_legend(), *handles]
    columns = 2 if len(panels) == 1 else 6
    deep = max(len(panel.items) for panel in panels)
    height = deep * max(pitch_mm(rows, panel.labels) for panel in panels)
    fig = style.new_figure(COLUMN_MM if len(panels) == 1 else PAGE_MM, 24 + 3 * -(-len(handles) // columns) + height)
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        for i, item in enumerate(panel.items):
            if i % 2 == 0:
                ax.axhspan(i - 0.5, i + 0.5, color=FAINT, alpha=0.35, lw=0, zorder=-1)
            _draw_item(ax, rows, panel.table[panel.table["item"] == item], i)
        ax.axvline(panel.line, color=INK, lw=0.5, ls=(0, (3, 2)) if panel.line else "-")
        ax.set_yticks(range(len(panel.items)), [panel.labels[item] for item in panel.items])
        ax.set(ylim=(deep - 0.5, -0.5), xlabel=panel.xlabel, title=panel.title)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    style.heading(fig, text)
    style.legend(fig, handles, columns)
    return fig


def _draw_item(ax: Axes, rows: Rows, part: pd.DataFrame, height: int) -> None:
    n = len(rows.pairs)
    shifts, half = (np.arange(n) - (n - 1) / 2) * (0.86 / n), 0.4 * 0.86 / n
    by = part.set_index(PAIR)
    for pair, shift in zip((pair[:2] for pair in rows.pairs), shifts, strict=True):
        if pair in by.index:
            row, y = by.loc[pair], height + shift
            if "band_low" in row:
                ax.fill_betweenx([y - half, y + half], row["band_low"], row["band_high"], color=BAND, lw=0)
            rows.dot(ax, pair, row["score"], y, (row["ci_low"], row["ci_high"]), size=np.clip(14 / n, 2.2, 3.5))
    if "tick" in part and part["tick"].max() > 0:
        ax.plot([part["tick"].max()] * 2, [height - 0.44, height + 0.44], color=INK, lw=1)
