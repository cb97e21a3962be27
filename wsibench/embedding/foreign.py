"""Tile features that TRIDENT, CLAM or LazySlide computed, read as they are."""

import struct
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq

from wsibench.core import FeatureFolder, SlideError, digest, slide_identity

PLACES = {
    "trident": ("{}.h5",),
    "clam": ("h5_files/{}.h5", "{}.h5", "pt_files/{}.pt", "{}.pt"),
    "lazyslide": ("{}.zarr",),
}
"""Where a slide's features lie in a folder of each layout; the first that is there counts."""
UNKNOWN = -1
"""Coordinate of tiles in files that hold none."""


def foreign_file(root: Path, folder: FeatureFolder, slide_id: str) -> Path:
    """The file (or zarr store) of a slide's features in the folder `root`.

    Raises
    ------
    SlideError
        When there is none.
    """
    paths = [root / place.format(slide_id) for place in PLACES[folder.layout]]
    for path in paths:
        if path.exists():
            return path
    looked = ", ".join(str(path.relative_to(root)) for path in paths)
    raise SlideError(f"{root} holds no features of the slide (looked for {looked}).", "Files are named by slide_id.")


def foreign_identity(path: Path) -> str:
    """What tells one state of a feature file from another."""
    if path.is_file():
        return slide_identity(path)
    parts = [part for name in ("tables", "shapes") for part in sorted((path / name).rglob("*")) if part.is_file()]
    return digest([[str(part.relative_to(path)), slide_identity(part)] for part in parts])


def read_foreign(path: Path, folder: FeatureFolder, dim: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A slide's features as float16 (n, dim), and int64 level-0 px coordinates (n, 2), -1 where the file has none.

    Parameters
    ----------
    dim
        Width that the features must have, where it is known.

    Raises
    ------
    SlideError
        When the file does not hold what its layout promises.
    """
    read = {".h5": _h5, ".pt": _pt, ".zarr": _lazyslide}[path.suffix]
    try:
        features, coords = read(path, folder)
    except (KeyError, OSError, ValueError, RuntimeError) as error:
        raise SlideError(
            f"{path} does not hold features in {folder.layout}'s layout: {error}.", "Check `layout` in study.yaml."
        ) from None
    # CLAM's successors keep a batch axis of one around a slide's features.
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    coords = np.full((len(features), 2), UNKNOWN) if coords is None else coords.reshape(-1, 2)
    if features.ndim != 2 or len(features) != len(coords):
        raise SlideError(f"{path} holds features of shape {features.shape} for {len(coords)} tiles.")
    if dim is not None and features.shape[1] != dim:
        raise SlideError(f"{path} holds features {features.shape[1]} wide; the encoder's are {dim} wide.")
    if not np.isfinite(features := np.asarray(features, np.float16)).all():
        raise SlideError(f"{path} holds features that are not finite in float16.", "Compute them again.")
    return features, np.asarray(coords, np.int64)


def _h5(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        return file["features"][()], file["coords"][()]


def _pt(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, None]:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True).float().numpy(), None


def _lazyslide(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, np.ndarray]:
    from anndata.io import read_zarr

    tables = sorted(table.name for table in (path / "tables").iterdir() if table.is_dir())
    name = folder.table or (tables[0] if len(tables) == 1 else None)
    if name not in tables:
        raise ValueError(f"set `table` to one of {', '.join(tables)}")
    table = read_zarr(path / "tables" / name)
    region = table.uns.get("spatialdata_attrs", {}).get("region", "tiles")
    return np.asarray(table.X), _corners(path / "shapes" / str(region) / "shapes.parquet")


def _corners(path: Path) -> np.ndarray:
    """Top-left corners of the polygons of a GeoParquet file, read from their well-known binary form."""
    corners = []
    for shape in pq.read_table(path, columns=["geometry"])["geometry"].to_pylist():
        order = "<" if shape[0] else ">"
        (n,) = struct.unpack_from(f"{order}I", shape, 9)  # points of the outer ring
        points = np.frombuffer(shape, f"{order}f8", 2 * n, offset=13).reshape(n, 2)
        corners.append(points.min(0))
    return np.rint(np.array(corners).reshape(-1, 2))
