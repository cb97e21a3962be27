"""The feature store: one HDF5 file a slide and encoder, with TRIDENT's dataset names."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def write_features(path: Path, features: np.ndarray, coords: np.ndarray, **attrs: Any) -> None:
    """Write a slide's tile features.

    The dataset is contiguous float16: tile features hardly compress, and a contiguous dataset is
    read ten times faster than one in chunks of a row.

    Parameters
    ----------
    features
        (n, dim).
    coords
        (n, 2) level-0 px of the tiles' top-left corners.
    attrs
        Attributes of ``features``; None is left out.
    """
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", data=np.asarray(features, np.float16))
        dataset.attrs.update({name: value for name, value in attrs.items() if value is not None})
        file.create_dataset("coords", data=np.asarray(coords, np.int64).reshape(-1, 2))


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The (n, dim) float16 features and (n, 2) int64 level-0 px coordinates of a slide's tiles."""
    with h5py.File(path, "r") as file:
        return file["features"][()], file["coords"][()]


def read_coords(path: Path) -> np.ndarray:
    """The (n, 2) int64 level-0 px coordinates alone, without reading the features."""
    with h5py.File(path, "r") as file:
        return file["coords"][()]
