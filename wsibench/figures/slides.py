"""Pictures of slides: thumbnails, tissue and tiles, galleries and attention; every length in physical units."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench import cohort, tiling
from wsibench.core import FUSION, NotReady, Study, key_at, read_failures
from wsibench.figures import style
from wsibench.figures.catalogue import Inputs, Keys, Source, figure
from wsibench.figures.genes import CURVES
from wsibench.figures.style import PAGE_MM, Axes, Figure, describe, new_figure
from wsibench.tiling import Thumbnail, open_slide, thumbnail

if TYPE_CHECKING:
    from matplotlib.collections import PolyCollection

OUTLINE, KEPT, DROPPED = "#00441b", "#0072B2", "#D55E00"
FRAME = "#c4c4c4"
MAX_SLIDES, MAX_GALLERY = 12, 6  # slides of the overview, and of the gallery of tiles
SLIDE_PX, TILE_PX, GAP_PX = 900, 224, 12  # longer side of a slide that fills half a figure, side of a tile, and gap


def _attended(inputs: Inputs) -> dict[str, Any] | None:
    """Attention of the best encoder that has it on the first slide with tiles, a file and attention."""
    board = style.in_order(inputs["leaderboard"])
    encoder = next(encoder for encoder, probe in board if probe == "abmil" and encoder != FUSION)
    attention = pd.read_parquet(inputs.study.attention_parquet(inputs.scheme, encoder, "abmil"))
    slides = inputs[TILED]
    for path, tiles in _tiles(inputs.study, slides[slides.index.isin(attention["slide_id"])].head(1)).items():
        label = f"{encoder}, {style.probe_name('abmil')}, {style.scheme_name(inputs.scheme)}"
        return {"path": path, "tiles": tiles, "attention": attention, "label": label}
    return None


def _tiled(inputs: Inputs) -> pd.DataFrame:
    """Rows of cohort.csv of the slides that have tiles and a file, one a site before any site has two.

    Raises
    ------
    NotReady
        When no slide has been tiled and none has failed either.
    """
    study = inputs.study
    if tiling.not_applicable(study):
        return pd.DataFrame(columns=["path"])
    rows = cohort.read_cohort(study).set_index("slide_id", drop=False).loc[tiling.tiled_slides(study)]
    if rows.empty and not read_failures(study.failures_csv):
        raise NotReady(f"No slide of {study.name} has been tiled.", "Run 02_tiling.")
    rows = rows.loc[rows.groupby("site", sort=False).cumcount().sort_values(kind="stable").index]
    return rows[[Path(path).exists() for path in rows["path"]]]


def _slides(n: int, least: int, load: Callable[[Study, pd.DataFrame], Any]) -> Source:
    """Something of at most `n` slides that are at hand; a study with fewer than `least` does not have it."""

    def keys(inputs: Inputs) -> Keys:
        paths = [inputs.study.tiles_parquet(slide) for slide in inputs[TILED].index[:n]]
        return [key_at(path) for path in paths] if len(paths) >= least else None

    return Source(keys, lambda inputs: load(inputs.study, inputs[TILED].head(n)))


def _tiles(study: Study, slides: pd.DataFrame, *, dropped: bool = False) -> dict[str, pd.DataFrame]:
    """Tiles of each slide, by path."""
    read = tiling.read_tiles
    return {path: read(study.tiles_parquet(slide), dropped=dropped) for slide, path in slides["path"].items()}


TILED = Source(lambda inputs: None, _tiled)
ATTENDED = Source(lambda inputs: inputs.keys("leaderboard") and inputs.keys(CURVES), _attended)
FIRST = _slides(1, 1, partial(_tiles, dropped=True))
GALLERY = _slides(MAX_GALLERY, 1, _tiles)
THUMBNAILS = _slides(
    MAX_SLIDES, 2, lambda study, slides: tiling.thumbnails(slides, study.tiles.slide_mpp, study.tiles.tile_um)
)


@figure(
    "Attention on one slide",
    "One slide, and the attention of each of its tiles by models that never saw this patient, relative to uniform "
    "attention over all tiles of the patient.",
    ATTENDED,
    applies=lambda inputs: inputs[ATTENDED] is not None,
    arguments=lambda inputs: inputs[ATTENDED],
)
def slide_attention(
    path: str | Path, tiles: pd.DataFrame, attention: pd.DataFrame, *, label: str = "", n: int = 6
) -> Figure:
    """One slide with the attention of its tiles, and the tiles of highest and of lowest attention.

    Parameters
    ----------
    path
        Slide file.
    tiles
        Tiles of the slide; only ``attrs`` are used: slide_id, slide_mpp, tile_um, width_px, height_px.
    attention
        Columns patient_id, slide_id, x, y (level-0 px) and attention; of all tiles of the patient at least.
    label
        Encoder, probe and scheme, for the title.
    n
        Number of tiles shown at either end.
    """
    slide_id = _slide_id(path, tiles)
    # Attention sums to 1 over all tiles of a patient: divided by their mean, uniform attention is 1.
    relative = attention["attention"] / attention.groupby("patient_id")["attention"].transform("mean")
    shown = attention.assign(relative_attention=relative)[["slide_id", "x", "y", "relative_attention"]]
    shown = shown[shown["slide_id"] == slide_id].sort_values(["relative_attention", "y", "x"], ascending=False)
    shown.attrs = tiles.attrs
    n = min(n, len(shown) // 2)
    ends = {"highest": shown.head(n), "lowest": shown.tail(n)[::-1]}
    strip_mm = PAGE_MM / 2 / n + 5
    fig = _side_by_side(tiles, extra_mm=strip_mm)
    top, bottom = fig.subfigures(2, 1, height_ratios=[fig.get_figheight() * 25.4 - strip_mm, strip_mm])
    left, right = top.subplots(1, 2)
    image = _read_slide(path, tiles)
    _draw_slide(left, image)
    _draw_slide(right, image, alpha=0.35)
    _draw_attention(top, right, shown)
    left.set_title(shorten(slide_id, 40))
    right.set_title(label)
    for ax, (text, some) in zip(bottom.subplots(1, 2), ends.items(), strict=True):
        values = [f"{value:.1f}×" if value >= 0.1 else "< 0.1×" for value in some["relative_attention"]]
        _montage(ax, _read_tiles(path, some), n, values)
        ax.set_title(f"tiles of {text} attention", fontsize=5.5)
    low, high = shown["relative_attention"].min(), shown["relative_attention"].max()
    alt = (
        f"Slide {slide_id}, and its {len(shown)} tiles coloured by the attention of {label}: from {low:.2g} to "
        f"{high:.2g} times uniform; below, the {n} tiles of highest and the {n} of lowest attention."
    )
    return describe(fig, alt, shown)


def _draw_attention(fig: Figure, ax: Axes, shown: pd.DataFrame) -> None:
    """Draw tiles coloured by relative attention, with a colour bar."""
    from matplotlib.colors import LogNorm

    values = shown["relative_attention"]
    # Symmetric about uniform attention, and never so narrow that nearly uniform attention looks selective.
    most = 2 ** np.ceil(np.log2(np.clip(np.quantile(np.exp(abs(np.log(values))), 0.95), 2, 16)))
    scale = {"array": values, "cmap": "coolwarm", "norm": LogNorm(1 / most, most)}
    squares = _draw_squares(ax, shown, edgecolors="white", linewidths=0.3, **scale)
    ticks = 2.0 ** np.arange(-np.log2(most), np.log2(most) + 1)
    bar = fig.colorbar(squares, ax=ax, shrink=0.7, aspect=25, extend="both", pad=0.01)
    bar.set_ticks(ticks, labels=[f"{tick:g}×" if tick >= 1 else f"1/{1 / tick:g}×" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label("attention, relative to uniform")
    bar.outline.set_visible(False)


@figure(
    "Tissue and tiles of one slide",
    "Green: outline of the tissue. Blue: tiles that were kept. Orange: tiles excluded for an artefact.",
    FIRST,
    arguments=lambda inputs: dict(zip(("path", "tiles"), *inputs[FIRST].items(), strict=True)),
)
def tissue_and_tiles(path: str | Path, tiles: pd.DataFrame) -> Figure:
    """One slide, and the same with its tissue outlined, the tiles that were kept and those excluded for artefacts.

    Parameters
    ----------
    path
        Slide file.
    tiles
        Columns x, y (level-0 px), kept (bool) and artefacts; ``attrs``: slide_mpp, tile_um, width_px, height_px,
        n_tissue_tiles.
    """
    slide_id, attrs = _slide_id(path, tiles), tiles.attrs
    kept, dropped = tiles[tiles["kept"]], tiles[~tiles["kept"]]
    fig = _side_by_side(tiles)
    left, right = fig.subplots(1, 2)
    image = _read_slide(path, tiles)
    _draw_slide(left, image)
    _draw_slide(right, image)
    _draw_outline(right, image)
    for some, colour in ((kept, KEPT), (dropped, DROPPED)):
        _draw_squares(right, some, facecolors=f"{colour}22", edgecolors=colour, linewidths=0.5)
    counts = f"{len(kept)} of {attrs['n_tissue_tiles']} tiles of {attrs['tile_um']:g} µm"
    if len(dropped):
        reasons = ", ".join(f"{name} {n}" for name, n in dropped["artefacts"].value_counts().items())
        counts += f", {len(dropped)} excluded ({reasons})"
    left.set_title(f"{shorten(slide_id, 40)}, {attrs['slide_mpp']:.3g} µm/px")
    right.set_title(f"{image.tissue_mm2:.2f} mm² tissue, {counts}")
    alt = (
        f"Slide {slide_id}, left the plain picture, right with the outline of its tissue ({image.tissue_mm2:.2f} mm²) "
        f"and the tiles that were kept: {counts}."
    )
    return describe(fig, alt, tiles.assign(slide_id=slide_id)[["slide_id", *tiles.columns]])


@figure(
    "Tiles as the encoders get them",
    "Tiles spread evenly over the tissue of a few slides, one slide a row.",
    GALLERY,
    arguments=lambda inputs: {"slides": inputs[GALLERY], "n": 60},
)
def tile_gallery(slides: Mapping[str, pd.DataFrame], *, n: int = 24) -> Figure:
    """Tiles as an encoder gets them, spread evenly over the tissue of each slide.

    Parameters
    ----------
    slides
        Tiles (columns x, y in level-0 px, tissue) by slide file: one slide fills three rows, several a row each.
    n
        Number of tiles in all, at most.
    """
    columns = 8 if len(slides) == 1 else max(1, min(12, n // len(slides)))
    shown = {path: _spread(tiles, n if len(slides) == 1 else columns) for path, tiles in slides.items()}
    heights = [-(-len(tiles) // columns) for tiles in shown.values()]
    fig = new_figure(PAGE_MM, sum(heights) * PAGE_MM / columns + 5 * len(slides))
    axes = fig.subplots(len(slides), 1, height_ratios=heights, squeeze=False)[:, 0]
    frames = []
    for ax, (path, tiles) in zip(axes, shown.items(), strict=True):
        slide_id = _slide_id(path, tiles)
        _montage(ax, _read_tiles(path, tiles), columns)
        text = f"{tiles.attrs['slide_mpp']:.3g} µm/px, tiles of {tiles.attrs['tile_um']:g} µm"
        ax.set_title(f"{shorten(slide_id, 40)}, {text}", fontsize=5.5)
        frames.append(tiles.assign(slide_id=slide_id)[["slide_id", "x", "y", "tissue"]])
    data = pd.concat(frames, ignore_index=True)
    names = ", ".join(data["slide_id"].unique())
    return describe(fig, f"Gallery of {len(data)} tiles, spread evenly over the tissue of {names}.", data)


@figure(
    "Tissue of the first slides",
    "One slide a site before any site has two; green: outline of the tissue.",
    THUMBNAILS,
)
def slide_thumbnails(thumbnails: Mapping[str, Thumbnail | Exception]) -> Figure:
    """Slides side by side at their own scale, with the outline of their tissue, resolution and scale bar.

    Parameters
    ----------
    thumbnails
        Thumbnail by slide_id, as from `wsibench.tiling.thumbnails`; an exception gives an empty panel with its text.
    """
    columns = min(6, len(thumbnails))
    n_rows = -(-len(thumbnails) // columns)
    width_mm = PAGE_MM if columns > 2 else style.COLUMN_MM
    fig = new_figure(width_mm, n_rows * (width_mm / columns + 7))
    axes = fig.subplots(n_rows, columns, squeeze=False).ravel()
    rows: list[dict[str, Any]] = []
    texts = []
    for ax, (slide_id, found) in zip(axes, thumbnails.items(), strict=False):
        if isinstance(found, Exception):
            rows.append({"slide_id": slide_id, "error": str(found)})
            texts.append(f"{slide_id} (cannot be shown)")
            _draw_error(ax, slide_id, found)
            continue
        (width, height), area = found.size_um, found.tissue_mm2
        rows.append({"slide_id": slide_id, "slide_mpp": found.slide_mpp, "width_um": width, "height_um": height})
        rows[-1]["tissue_mm2"] = area
        texts.append(f"{slide_id} ({width / 1000:.1f} × {height / 1000:.1f} mm)")
        _draw_slide(ax, found)
        _draw_outline(ax, found)
        ax.set_title(f"{shorten(slide_id)}\n{found.slide_mpp:.3g} µm/px, {area:.2f} mm² tissue", fontsize=5)
    for ax in axes[len(thumbnails) :]:
        ax.remove()
    alt = f"Thumbnails of {len(rows)} slides with the outline of their tissue: {', '.join(texts)}."
    return describe(fig, alt, pd.DataFrame(rows))


def _draw_error(ax: Axes, slide_id: str, error: Exception) -> None:
    ax.set_title(f"{shorten(slide_id)}\ncannot be shown", fontsize=5)
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[:].set(visible=True, color=FRAME)
    text = textwrap.shorten(str(error) or type(error).__name__, 150, placeholder=" …")
    place = {"transform": ax.transAxes, "ha": "center", "va": "center"}
    ax.text(0.5, 0.5, textwrap.fill(text, 28), fontsize=5, color=style.MUTED, **place)


def shorten(slide_id: str, longest: int = 26) -> str:
    """Leave out the middle of a slide's id where it would not fit."""
    return slide_id if len(slide_id) <= longest else f"{slide_id[: longest - 9]}…{slide_id[-8:]}"


def _slide_id(path: str | Path, tiles: pd.DataFrame) -> str:
    return tiles.attrs.get("slide_id", Path(path).stem)


def _read_slide(path: str | Path, tiles: pd.DataFrame) -> Thumbnail:
    with open_slide(path, tiles.attrs["slide_mpp"]) as slide:
        return thumbnail(slide, longest_px=SLIDE_PX, tile_um=tiles.attrs["tile_um"])


def _read_tiles(path: str | Path, tiles: pd.DataFrame) -> list[np.ndarray]:
    tile_um = tiles.attrs["tile_um"]
    with open_slide(path, tiles.attrs["slide_mpp"]) as slide:
        batches = slide.read_tiles(tiles[["x", "y"]].to_numpy(), tile_um=tile_um, wanted_mpp=tile_um / TILE_PX)
        return [image for _, batch in batches for image in batch]


def _draw_slide(ax: Axes, shown: Thumbnail, *, alpha: float = 1) -> None:
    """Draw a slide in µm with a scale bar."""
    width, height = shown.size_um
    ax.imshow(shown.image, extent=(0, width, height, 0), alpha=alpha, interpolation="antialiased")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set(visible=True, color=FRAME)
    bar, place = _round_length(width / 4), ax.get_xaxis_transform()
    ax.plot([0, bar], [-0.03, -0.03], color=style.INK, lw=1.2, clip_on=False, transform=place)
    text = f"{bar / 1000:g} mm" if bar >= 1000 else f"{bar:g} µm"
    ax.text(bar, -0.03, f"  {text}", va="center", fontsize=5, transform=place)


def _round_length(most_um: float) -> float:
    """Longest of 1, 2, 5 × 10ⁿ µm that is no longer than `most_um`."""
    power = 10 ** np.floor(np.log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)


def _draw_outline(ax: Axes, shown: Thumbnail) -> None:
    if shown.tissue.any() and not shown.tissue.all():
        y, x = ((np.arange(n) + 0.5) * shown.tissue_mpp for n in shown.tissue.shape)
        ax.contour(x, y, shown.tissue, levels=[0.5], colors=OUTLINE, linewidths=0.6)


def _draw_squares(ax: Axes, tiles: pd.DataFrame, **look: object) -> "PolyCollection":
    """Draw the outlines of tiles."""
    from matplotlib.collections import PolyCollection

    corner = tiles[["x", "y"]].to_numpy()[:, None] * tiles.attrs["slide_mpp"]
    squares = corner + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * tiles.attrs["tile_um"]
    return ax.add_collection(PolyCollection(squares, **look))


def _side_by_side(tiles: pd.DataFrame, *, extra_mm: float = 0) -> Figure:
    aspect = tiles.attrs["height_px"] / tiles.attrs["width_px"]
    return new_figure(PAGE_MM, np.clip(PAGE_MM / 2 * aspect + 8, 40, 130) + extra_mm)


def _spread(tiles: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` tiles, evenly over the rows and columns of the slide."""
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(n, len(tiles))).round().astype(int))
    return tiles.iloc[chosen]


def _montage(ax: Axes, images: list[np.ndarray], columns: int, texts: Sequence[str] = ()) -> None:
    """Draw tiles in rows of `columns` with a white gap, and a text in the corner of each."""
    from skimage.util import montage

    px = images[0].shape[0]
    gap = max(1, px * GAP_PX // TILE_PX)
    grid = (-(-len(images) // columns), columns)
    padding = {"padding_width": gap, "fill": (255, 255, 255), "channel_axis": -1}
    ax.imshow(montage(np.stack(images), grid_shape=grid, **padding), interpolation="antialiased")
    ax.set_axis_off()
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for i, text in enumerate(texts):
        x, y = gap + (i % columns) * (px + gap) + px * 0.05, (i // columns + 1) * (px + gap) - px * 0.07
        ax.text(x, y, text, fontsize=5, bbox=box)
