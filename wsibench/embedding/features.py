"""Feature files: one HDF5 file a slide and encoder, and import from TRIDENT, CLAM and LazySlide."""

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq

from wsibench.core import Encoder, FeatureFolder, SlideError, digest, slide_identity

# Files of a slide's features in each layout, in order of preference.
FILES = {
    "trident": ("{}.h5",),
    "clam": ("h5_files/{}.h5", "{}.h5", "pt_files/{}.pt", "{}.pt"),
    "lazyslide": ("{}.zarr",),
}
# Coordinate of tiles in files without coordinates.
UNKNOWN_COORDINATE = -1
# Ratio of declared to stored bytes above which a file is damaged; tile features hardly compress.
MAX_COMPRESSION = 100


def write_features(path: Path, features: np.ndarray, coords: np.ndarray, **attrs: Any) -> None:
    """Write a slide's tile features, with TRIDENT's dataset names.

    The dataset is contiguous float16: tile features hardly compress, and a contiguous dataset is
    read ten times faster than one in chunks of a row.

    Parameters
    ----------
    path
        HDF5 file to write.
    features
        float (n, dim).
    coords
        int (n, 2), level-0 pixels of the tiles' top-left corners.
    attrs
        Attributes of the dataset ``features``; None is left out.
    """
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", data=np.asarray(features, np.float16))
        dataset.attrs.update({name: value for name, value in attrs.items() if value is not None})
        file.create_dataset("coords", data=np.asarray(coords, np.int64).reshape(-1, 2))


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a slide's tile features: float16 (n, dim), and int64 (n, 2) coordinates in level-0 pixels."""
    with h5py.File(path, "r") as file:
        return file["features"][()], file["coords"][()]


def read_coords(path: Path) -> np.ndarray:
    """Read the int64 (n, 2) level-0 pixel coordinates alone, without the features."""
    with h5py.File(path, "r") as file:
        return file["coords"][()]


def find_import(root: Path, layout: str, slide_id: str) -> Path:
    """Find the file or zarr store of a slide's features that another tool computed.

    Parameters
    ----------
    root
        Folder of the features.
    layout
        Key of `FILES`.
    slide_id
        Name of the slide.

    Returns
    -------
    Path
        The first of the layout's files that exists.

    Raises
    ------
    SlideError
        If there is none.
    """
    paths = [root / name.format(slide_id) for name in FILES[layout]]
    for path in paths:
        if path.exists():
            return path
    looked = ", ".join(str(path.relative_to(root)) for path in paths)
    raise SlideError(f"{root} holds no features of the slide (looked for {looked}).", "Files are named by slide_id.")


def import_identity(path: Path) -> str:
    """Return an identity of the content of another tool's feature file or zarr store."""
    if path.is_file():
        return slide_identity(path)
    parts = [part for name in ("tables", "shapes") for part in sorted((path / name).rglob("*")) if part.is_file()]
    return digest([[str(part.relative_to(path)), slide_identity(part)] for part in parts])


def read_import(path: Path, folder: FeatureFolder, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Read a slide's features that another tool computed.

    Parameters
    ----------
    path
        File or zarr store from `find_import`.
    folder
        Its layout and LazySlide's table.
    encoder
        Record of the encoder, whose width the features must have if it is known.

    Returns
    -------
    features
        float16 (n, dim).
    coords
        int64 (n, 2), level-0 pixels; -1 if the file has none.

    Raises
    ------
    SlideError
        If the file does not match its layout, or holds features that cannot be right.
    """
    read = {".h5": _read_h5, ".pt": _read_pt, ".zarr": _read_lazyslide}[path.suffix]
    try:
        features, coords = read(path, folder)
    except Exception as error:  # readers of damaged files raise anything, UnpicklingError and EOFError among it
        raise SlideError(
            f"{path} does not hold features in {folder.layout}'s layout: {type(error).__name__}: {error}.",
            "Check `layout` in study.yaml, and that the file is whole.",
        ) from None
    # CLAM's successors keep a batch axis of one around a slide's features.
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    coords = np.full((len(features), 2), UNKNOWN_COORDINATE) if coords is None else coords.reshape(-1, 2)
    if features.ndim != 2 or len(features) != len(coords):
        raise SlideError(f"{path} holds features of shape {features.shape} for {len(coords)} tiles.")
    if encoder.dim is not None and (width := features.shape[1]) != encoder.dim:
        why = f": {encoder.other_widths[width]}" if width in encoder.other_widths else ""
        raise SlideError(
            f"{path} holds features {width} wide; {encoder.name}'s are {encoder.dim} wide{why}.",
            "Compute them as docs/encoders.md describes, or name them otherwise.",
        )
    if not np.isfinite(features := np.asarray(features, np.float16)).all():
        raise SlideError(f"{path} holds features that are not finite in float16.", "Compute them again.")
    return features, np.asarray(coords, np.int64)


def _read_h5(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        for name in ("features", "coords"):
            _check_stored(name, file[name].shape, file[name].nbytes, file[name].id.get_storage_size())
        return file["features"][()], file["coords"][()]


def _read_pt(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, None]:
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose text recommends to load the file unsafely
        raise ValueError("it is not a tensor that torch.save wrote") from None
    # A tensor may be a view that repeats a few stored numbers.
    _check_stored("the tensor", tuple(tensor.shape), tensor.nbytes, tensor.untyped_storage().nbytes())
    return tensor.float().numpy(), None


def _read_lazyslide(path: Path, folder: FeatureFolder) -> tuple[np.ndarray, np.ndarray]:
    import zarr
    from anndata.io import read_zarr

    tables = sorted(table.name for table in (path / "tables").iterdir() if table.is_dir())
    name = folder.table or (tables[0] if len(tables) == 1 else None)
    if name not in tables:
        raise ValueError(f"set `table` to one of {', '.join(tables)}")
    matrix = zarr.open_group(path / "tables" / name, mode="r")["X"]
    if isinstance(matrix, zarr.Array):
        _check_stored("X", matrix.shape, matrix.nbytes, matrix.nbytes_stored())
    table = read_zarr(path / "tables" / name)
    region = table.uns.get("spatialdata_attrs", {}).get("region", "tiles")
    return np.asarray(table.X), _corners(path / "shapes" / str(region) / "shapes.parquet")


def _check_stored(name: str, shape: tuple[int, ...], declared: int, stored: int) -> None:
    """Raise if an array declares far more bytes than are stored, which reading it would fill with zeros."""
    if declared > MAX_COMPRESSION * max(stored, 1):
        raise ValueError(f"{name} declares the shape {shape} and stores {stored} bytes")


def _corners(path: Path) -> np.ndarray:
    """Read the top-left corners of the polygons of a GeoParquet file from their well-known binary form."""
    corners = []
    for shape in pq.read_table(path, columns=["geometry"])["geometry"].to_pylist():
        order = "<" if shape[0] else ">"
        (n,) = struct.unpack_from(f"{order}I", shape, 9)  # points of the outer ring
        points = np.frombuffer(shape, f"{order}f8", 2 * n, offset=13).reshape(n, 2)
        corners.append(points.min(0))
    return np.rint(np.array(corners).reshape(-1, 2))
