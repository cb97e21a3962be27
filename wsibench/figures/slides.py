"""Slides to look at: thumbnails, tissue and tiles, galleries, attention; every length in physical units."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from wsibench.cohort.build import read_cohort
from wsibench.core import SlideError, Study
from wsibench.figures.style import COLUMN_MM, INK, MUTED, PAGE_MM, described, new_figure, styled
from wsibench.tiling import MASK_MPP, Slide, open_slide, read_tiles, tissue_mask

OUTLINE, SQUARE, LEFT_OUT = "#00441b", "#0072B2", "#D55E00"
SHOWN_PX = 900
"""Pixels on the longer side of a slide that fills a figure."""
TILE_SHOWN_PX = 224
GAP_PX = 12
LONGEST_ID = 26


@styled
def slide_thumbnails(study: Study, slide_ids: Sequence[str], *, tissue: bool = False) -> Figure:
    """Slides side by side at their own scale, with resolution and scale bar.

    Parameters
    ----------
    slide_ids
        Of the cohort, tiled or not; one that cannot be read gets an empty panel that says why.
    tissue
        Whether to outline what the tiling takes for tissue.
    """
    columns = min(6, len(slide_ids))
    n_rows = -(-len(slide_ids) // columns)
    width_mm = PAGE_MM if columns > 2 else COLUMN_MM
    fig = new_figure(width_mm, n_rows * (width_mm / columns + 7))
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    rows = []
    for ax, slide_id in zip(axes, slide_ids, strict=False):
        try:
            rows.append(_thumbnail(ax, study, slide_id, tissue))
        except SlideError as error:
            rows.append({"slide_id": slide_id, "error": str(error)})
            _unreadable(ax, slide_id, error)
    for ax in axes[len(slide_ids) :]:
        ax.remove()
    what = " with the outline of their tissue" if tissue else ""
    texts = [
        f"{row['slide_id']} (cannot be shown)"
        if "error" in row
        else f"{row['slide_id']} ({row['width_um'] / 1000:.1f} × {row['height_um'] / 1000:.1f} mm)"
        for row in rows
    ]
    return described(fig, f"Thumbnails of {len(rows)} slides{what}: {', '.join(texts)}.", pd.DataFrame(rows))


def _thumbnail(ax: Axes, study: Study, slide_id: str, tissue: bool) -> dict[str, str | float]:
    with _open(study, slide_id) as slide:
        width, height = _picture(ax, slide, SHOWN_PX // 2)
        row = {"slide_id": slide_id, "slide_mpp": slide.slide_mpp, "width_um": width, "height_um": height}
        text = f"{slide.slide_mpp:.3g} µm/px"
        if tissue:
            row["tissue_mm2"] = _outline(ax, slide, study.tiles.tile_um)
            text += f", {row['tissue_mm2']:.2f} mm² tissue"
    ax.set_title(f"{short(slide_id)}\n{text}", fontsize=5)
    return row


def _unreadable(ax: Axes, slide_id: str, error: SlideError) -> None:
    ax.set_title(f"{short(slide_id)}\ncannot be shown", fontsize=5)
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[:].set(visible=True, color="#c4c4c4")
    text = "\n".join(textwrap.wrap(error.what, 28))
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=5, color=MUTED)


@styled
def tissue_and_tiles(study: Study, slide_id: str) -> Figure:
    """One slide as it is, and with its tissue outlined, the tiles that were kept and those left out for artefacts.

    Raises
    ------
    NotReady
        When the slide has not been tiled.
    """
    tiles = read_tiles(study.tiles_parquet(slide_id), dropped=True)
    kept, dropped = tiles[tiles["kept"]], tiles[~tiles["kept"]]
    fig = _side_by_side(tiles)
    left, right = fig.subplots(1, 2)
    with _open(study, slide_id, tiles) as slide:
        _picture(left, slide, SHOWN_PX)
        _picture(right, slide, SHOWN_PX)
        tissue_mm2 = _outline(right, slide, tiles.attrs["tile_um"])
    for some, colour in ((kept, SQUARE), (dropped, LEFT_OUT)):
        squares = PolyCollection(_squares(some), facecolors=f"{colour}22", edgecolors=colour, linewidths=0.5)
        right.add_collection(squares)
    left.set_title(f"{short(slide_id, 40)}, {tiles.attrs['slide_mpp']:.3g} µm/px")
    counts = f"{len(kept)} of {tiles.attrs['n_tissue_tiles']} tiles of {tiles.attrs['tile_um']:g} µm"
    if len(dropped):
        reasons = dropped["artefacts"].value_counts()
        counts += f", {len(dropped)} left out ({', '.join(f'{name} {n}' for name, n in reasons.items())})"
    right.set_title(f"{tissue_mm2:.2f} mm² tissue, {counts}")
    alt = (
        f"Slide {slide_id}, left as it is, right with the outline of its tissue ({tissue_mm2:.2f} mm²) "
        f"and the tiles that were kept: {counts}."
    )
    return described(fig, alt, tiles.assign(slide_id=slide_id)[["slide_id", *tiles.columns]])


@styled
def tile_gallery(study: Study, slide_ids: str | Sequence[str], *, n: int = 24) -> Figure:
    """Tiles as an encoder gets them, spread evenly over the tissue of each slide.

    Parameters
    ----------
    slide_ids
        One slide, whose tiles fill three rows; or several, a row each.
    n
        Number of tiles in all, at most.
    """
    slides = [slide_ids] if isinstance(slide_ids, str) else list(slide_ids)
    columns = 8 if len(slides) == 1 else max(1, min(12, n // len(slides)))
    per_slide = n if len(slides) == 1 else columns
    shown = {slide_id: _spread(read_tiles(study.tiles_parquet(slide_id)), per_slide) for slide_id in slides}
    heights = [-(-len(tiles) // columns) for tiles in shown.values()]
    fig = new_figure(PAGE_MM, sum(heights) * PAGE_MM / columns + 5 * len(slides))
    axes = fig.subplots(len(slides), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (slide_id, tiles) in zip(axes, shown.items(), strict=True):
        _montage(ax, _read(study, slide_id, tiles), columns)
        mpp = f"{tiles.attrs['slide_mpp']:.3g} µm/px"
        ax.set_title(f"{short(slide_id, 40)}, {mpp}, tiles of {tiles.attrs['tile_um']:g} µm", fontsize=5.5)
    data = pd.concat([tiles.assign(slide_id=slide_id) for slide_id, tiles in shown.items()], ignore_index=True)
    alt = f"Gallery of {len(data)} tiles of {study.tiles.tile_um:g} µm from {', '.join(slides)}."
    return described(fig, alt, data[["slide_id", "x", "y", "tissue"]])


@styled
def slide_attention(study: Study, attention: pd.DataFrame, slide_id: str, *, label: str, n: int = 6) -> Figure:
    """One slide with the attention its tiles got, and the tiles that got most and least.

    Parameters
    ----------
    attention
        As in ``<encoder>.<probe>.attention.parquet``: patient_id, slide_id, x, y (level-0 px),
        attention; of all tiles of the patient at least.
    label
        What gave the attention: encoder, probe and scheme.
    n
        Tiles shown at either end.
    """
    tiles = read_tiles(study.tiles_parquet(slide_id))
    # Attention sums to 1 over all tiles of a patient: divided by their mean, 1 is what all alike would get.
    relative = attention["attention"] / attention.groupby("patient_id")["attention"].transform("mean")
    shown = attention.assign(relative=relative)[["slide_id", "x", "y", "relative"]]
    shown = shown[shown["slide_id"] == slide_id].sort_values(["relative", "y", "x"], ascending=False)
    shown.attrs = tiles.attrs
    strip_mm = PAGE_MM / 2 / n + 5
    fig = _side_by_side(tiles, extra_mm=strip_mm)
    top, bottom = fig.subfigures(2, 1, height_ratios=[fig.get_figheight() * 25.4 - strip_mm, strip_mm])
    left, right = top.subplots(1, 2)
    with _open(study, slide_id, tiles) as slide:
        _picture(left, slide, SHOWN_PX)
        _picture(right, slide, SHOWN_PX, alpha=0.35)
    # Symmetric about uniform attention, and never so narrow that attention to all alike looks like a choice.
    most = 2 ** np.ceil(np.log2(np.clip(np.quantile(np.exp(abs(np.log(shown["relative"]))), 0.95), 2, 16)))
    squares = PolyCollection(
        _squares(shown), array=shown["relative"], cmap="coolwarm", norm=LogNorm(1 / most, most), edgecolors="white",
        linewidths=0.3,
    )  # fmt: skip
    right.add_collection(squares)
    ticks = 2.0 ** np.arange(-np.log2(most), np.log2(most) + 1)
    bar = top.colorbar(squares, ax=right, shrink=0.7, aspect=25, extend="both", pad=0.01)
    bar.set_ticks(ticks, labels=[f"{tick:g}×" if tick >= 1 else f"1/{1 / tick:g}×" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label("attention, times uniform")
    bar.outline.set_visible(False)
    left.set_title(short(slide_id, 40))
    right.set_title(label)
    n = min(n, len(shown) // 2)
    ends = {"most": shown.head(n), "least": shown.tail(n)[::-1]}
    for ax, (text, some) in zip(bottom.subplots(1, 2), ends.items(), strict=True):
        _montage(ax, _read(study, slide_id, some), n, [_times(value) for value in some["relative"]])
        ax.set_title(f"{text} attended tiles", fontsize=5.5)
    alt = (
        f"Slide {slide_id}, and its {len(shown)} tiles coloured by the attention of {label}: from "
        f"{shown['relative'].min():.2g} to {shown['relative'].max():.2g} times uniform; "
        f"below, the {n} most and the {n} least attended tiles."
    )
    return described(fig, alt, shown.rename(columns={"relative": "relative_attention"}))


def short(slide_id: str, longest: int = LONGEST_ID) -> str:
    """A slide's id, its middle left out where it would not fit."""
    return slide_id if len(slide_id) <= longest else f"{slide_id[: longest - 9]}…{slide_id[-8:]}"


def _open(study: Study, slide_id: str, tiles: pd.DataFrame | None = None) -> Slide:
    row = read_cohort(study).set_index("slide_id").loc[slide_id]
    if tiles is not None:
        return open_slide(row["path"], tiles.attrs["slide_mpp"])
    given = float(row["mpp"]) if row["mpp"] else None
    return open_slide(row["path"], given, assumed_mpp=study.tiles.slide_mpp)


def _picture(ax: Axes, slide: Slide, longest_px: int, *, alpha: float = 1) -> tuple[float, float]:
    """The slide in µm with a scale bar; returns its width and height (µm)."""
    width, height = (side * slide.slide_mpp for side in slide.size_px)
    image, _ = slide.thumbnail(max(width, height) / longest_px)
    ax.imshow(image, extent=(0, width, height, 0), alpha=alpha, interpolation="antialiased")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set(visible=True, color="#c4c4c4")
    bar = _round_length(width / 4)
    ax.plot([0, bar], [-0.03, -0.03], color=INK, lw=1.2, clip_on=False, transform=ax.get_xaxis_transform())
    text = f"{bar / 1000:g} mm" if bar >= 1000 else f"{bar:g} µm"
    ax.text(bar, -0.03, f"  {text}", va="center", fontsize=5, transform=ax.get_xaxis_transform())
    return width, height


def _round_length(most_um: float) -> float:
    """The longest of 1, 2, 5 × 10ⁿ µm that is no longer than `most_um`."""
    power = 10 ** np.floor(np.log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)


def _outline(ax: Axes, slide: Slide, tile_um: float) -> float:
    """Draw the outline of the tissue as the tiling sees it; returns its area (mm²)."""
    image, mpp = slide.thumbnail(min(MASK_MPP, tile_um / 8))
    mask = tissue_mask(image)
    if mask.any() and not mask.all():
        height, width = mask.shape
        x, y = (np.arange(width) + 0.5) * mpp, (np.arange(height) + 0.5) * mpp
        ax.contour(x, y, mask, levels=[0.5], colors=OUTLINE, linewidths=0.6)
    return float(mask.sum() * (mpp / 1000) ** 2)


def _squares(tiles: pd.DataFrame) -> np.ndarray:
    """Corners of the tiles in µm, (n, 4, 2)."""
    corner = tiles[["x", "y"]].to_numpy()[:, None] * tiles.attrs["slide_mpp"]
    return corner + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * tiles.attrs["tile_um"]


def _side_by_side(tiles: pd.DataFrame, *, extra_mm: float = 0) -> Figure:
    aspect = tiles.attrs["height_px"] / tiles.attrs["width_px"]
    return new_figure(PAGE_MM, np.clip(PAGE_MM / 2 * aspect + 8, 40, 130) + extra_mm)


def _spread(tiles: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` tiles, evenly over the rows and columns of the slide."""
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(n, len(tiles))).round().astype(int))
    return tiles.iloc[chosen]


def _read(study: Study, slide_id: str, tiles: pd.DataFrame) -> list[np.ndarray]:
    tile_um = tiles.attrs["tile_um"]
    images: list[np.ndarray] = []
    with _open(study, slide_id, tiles) as slide:
        for _, batch in slide.read_tiles(
            tiles[["x", "y"]].to_numpy(), tile_um=tile_um, wanted_mpp=tile_um / TILE_SHOWN_PX
        ):
            images.extend(batch)
    return images


def _montage(ax: Axes, images: list[np.ndarray], columns: int, texts: Sequence[str] = ()) -> None:
    """Tiles in rows of `columns` with a white gap, and a text in the corner of each."""
    from skimage.util import montage

    px = images[0].shape[0]
    gap = max(1, px * GAP_PX // TILE_SHOWN_PX)
    grid = (-(-len(images) // columns), columns)
    padding = {"padding_width": gap, "fill": (255, 255, 255), "channel_axis": -1}
    ax.imshow(montage(np.stack(images), grid_shape=grid, **padding), interpolation="antialiased")
    ax.set_axis_off()
    for i, text in enumerate(texts):
        ax.text(
            gap + (i % columns) * (px + gap) + px * 0.05, (i // columns + 1) * (px + gap) - px * 0.07, text, fontsize=5,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip


def _times(value: float) -> str:
    return f"{value:.1f}×" if value >= 0.1 else "< 0.1×"
