"""Feature files: written and read as they are, and imported from TRIDENT, CLAM and LazySlide."""

import h5py
import numpy as np
import pytest
import torch

from wsibench.core import FeatureFolder, SlideError
from wsibench.embedding import encoder
from wsibench.embedding.features import find_import, import_identity, read_features, read_import, write_features

FEATURES = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
COORDS = np.array([[0, 0], [512, 0], [0, 512], [512, 512]])


def test_features_are_stored_as_float16(tmp_path):
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    coords = np.arange(10).reshape(5, 2)
    write_features(tmp_path / "a.h5", features, coords, encoder="colour", revision=None, tile_um=112.0)
    got, where = read_features(tmp_path / "a.h5")
    assert got.dtype == np.float16
    assert where.dtype == np.int64
    np.testing.assert_array_equal(got, features.astype(np.float16))
    np.testing.assert_array_equal(where, coords)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].chunks is None
        assert dict(file["features"].attrs) == {"encoder": "colour", "tile_um": 112.0}


def test_the_same_features_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_features(tmp_path / name, np.ones((3, 2)), np.zeros((3, 2)), key="k")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_slide_without_tiles_keeps_its_width(tmp_path):
    write_features(tmp_path / "a.h5", np.zeros((0, 7)), np.zeros((0, 2)))
    features, coords = read_features(tmp_path / "a.h5")
    assert features.shape == (0, 7)
    assert coords.shape == (0, 2)


# Import


def h5(path, features=FEATURES, coords=COORDS):
    """A file as TRIDENT and CLAM write it: extensible, a chunk a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", coords)):
            chunks = (1, *values.shape[1:])
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=chunks)


def read(root, layout, dim=6, record="resnet50", **more):
    folder = FeatureFolder(folder=str(root), layout=layout, **more)
    return read_import(find_import(root, layout, "s"), folder, encoder(record).model_copy(update={"dim": dim}))


@pytest.mark.parametrize(("layout", "place"), [("trident", "s.h5"), ("clam", "h5_files/s.h5"), ("clam", "s.h5")])
def test_hdf5_of_trident_and_clam(tmp_path, layout, place):
    h5(tmp_path / place)
    features, coords = read(tmp_path, layout)
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features, FEATURES.astype(np.float16))
    np.testing.assert_array_equal(coords, COORDS)


def test_a_batch_axis_of_one_is_taken_off(tmp_path):
    h5(tmp_path / "s.h5", FEATURES[None], COORDS[None])
    features, coords = read(tmp_path, "trident")
    assert features.shape == (4, 6)
    np.testing.assert_array_equal(coords, COORDS)


def test_clams_tensors_have_no_coordinates(tmp_path):
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(FEATURES), tmp_path / "pt_files" / "s.pt")
    features, coords = read(tmp_path, "clam")
    np.testing.assert_array_equal(features, FEATURES.astype(np.float16))
    assert (coords == -1).all()


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # of zarr, when the store is written
def test_lazyslides_table(tmp_path):
    import anndata
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = tmp_path / "s.zarr"
    table = anndata.AnnData(FEATURES, obs=pd.DataFrame(index=[str(i) for i in range(4)]))
    table.uns["spatialdata_attrs"] = {"region": "tiles", "region_key": "library_id", "instance_key": "tile_id"}
    (store / "tables").mkdir(parents=True)
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        table.write_zarr(store / "tables" / "uni_tiles")
    (store / "shapes" / "tiles").mkdir(parents=True)
    squares = [square(x, y, 512) for x, y in COORDS]
    pq.write_table(pa.table({"geometry": squares}), store / "shapes" / "tiles" / "shapes.parquet")
    features, coords = read(tmp_path, "lazyslide")
    np.testing.assert_array_equal(features, FEATURES.astype(np.float16))
    np.testing.assert_array_equal(coords, COORDS)
    with pytest.raises(SlideError, match="set `table` to one of uni_tiles"):
        read(tmp_path, "lazyslide", table="conch_tiles")


def square(x, y, side):
    """Well-known binary of a square, anticlockwise from its lower right corner, as shapely's box has it."""
    points = np.array([[x + side, y], [x + side, y + side], [x, y + side], [x, y], [x + side, y]], "<f8")
    return b"\x01" + np.array([3, 1, 5], "<u4").tobytes() + points.tobytes()


def test_another_width_than_the_encoders_is_refused(tmp_path):
    h5(tmp_path / "s.h5")
    with pytest.raises(SlideError, match="6 wide; resnet50's are 1024 wide"):
        read(tmp_path, "trident", dim=1024)


@pytest.mark.parametrize(
    ("name", "width", "why"),
    [
        ("resnet50", 1024, "TRIDENT, HEST and CLAM stop after its third block"),
        ("midnight-12k", 1536, "TRIDENT takes the class token alone"),
        ("virchow", 1280, "STAMP takes the class token alone"),
        ("h0-mini", 1536, "LazySlide adds the mean of the patch tokens"),
    ],
)
def test_features_that_another_tool_pools_otherwise_are_refused_with_the_reason(tmp_path, name, width, why):
    h5(tmp_path / "s.h5", np.zeros((4, width), np.float32))
    dim = encoder(name).dim
    with pytest.raises(SlideError, match=f"{width} wide; {name}'s are {dim} wide: {why}"):
        read(tmp_path, "trident", dim=dim, record=name)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (FEATURES[:3], r"shape \(3, 6\) for 4 tiles"),
        (np.full((4, 6), 1e6, np.float32), "not finite in float16"),
        (np.full((4, 6), np.nan, np.float32), "not finite in float16"),
    ],
    ids=["count", "overflow", "nan"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_features_that_cannot_be_right_are_refused(tmp_path, features, message):
    h5(tmp_path / "s.h5", features)
    with pytest.raises(SlideError, match=message):
        read(tmp_path, "trident")


def test_absent_and_empty_files_are_refused(tmp_path):
    with pytest.raises(SlideError, match=r"looked for h5_files/s\.h5, s\.h5, pt_files/s\.pt, s\.pt"):
        read(tmp_path, "clam")
    with h5py.File(tmp_path / "s.h5", "w"):
        pass
    with pytest.raises(SlideError, match="does not hold features in trident's layout"):
        read(tmp_path, "trident")


def test_files_that_declare_more_than_they_store_are_refused_unread(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("features", (60_000_000, 6), "f4", chunks=(1000, 6))
        file.create_dataset("coords", (60_000_000, 2), "i8", chunks=(1000, 2))
    assert (tmp_path / "s.h5").stat().st_size < 10_000
    with pytest.raises(SlideError, match=r"features declares the shape \(60000000, 6\) and stores 0 bytes"):
        read(tmp_path, "trident")
    torch.save(torch.zeros(1).expand(40_000_000, 6), tmp_path / "s.pt")
    assert (tmp_path / "s.pt").stat().st_size < 10_000
    (tmp_path / "s.h5").unlink()
    with pytest.raises(SlideError, match=r"the tensor declares the shape \(40000000, 6\) and stores 4 bytes"):
        read(tmp_path, "clam")


@pytest.mark.parametrize(
    "content", [b"", b"no tensor", b"\x80\x02.", b"PK\x03\x04"], ids=["empty", "text", "pickle", "zip"]
)
def test_a_damaged_tensor_file_is_refused_with_its_remedy(tmp_path, content):
    (tmp_path / "s.pt").write_bytes(content)
    with pytest.raises(SlideError, match=r"does not hold features in clam's layout.*that the file is whole"):
        read(tmp_path, "clam")


def test_another_content_has_another_identity(tmp_path):
    h5(tmp_path / "s.h5")
    before = import_identity(tmp_path / "s.h5")
    h5(tmp_path / "s.h5", FEATURES + 1)
    assert import_identity(tmp_path / "s.h5") != before
