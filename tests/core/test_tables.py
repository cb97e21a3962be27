"""Tables of any content are read or refused, without a traceback of a library."""

import gzip

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import example, given, settings, strategies as st

from wsibench.core.errors import CohortError
from wsibench.core.tables import read_matrix, read_rows, some

cells = st.one_of(st.text(max_size=6), st.sampled_from(["1", ".5", "-inf", "nan", "NA", "", "1e400", '"', ",", "007"]))
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map("\n".join),
    st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map(lambda rows: "\n".join(["id,a,b", *rows])),
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(st.one_of(texts, st.binary(max_size=80)))
@example(b"id,a\n1\x00,2\n")
@example(b'id,a\n"1,2\n')
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_rows_of_text_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("rows") / "table.csv"
    path.write_bytes(content)
    try:
        rows = read_rows(path)
    except CohortError:
        return
    assert all(isinstance(cell, str) for cell in rows.to_numpy().ravel())


@given(
    st.one_of(texts, st.binary(max_size=80)),
    st.sampled_from(["a.csv", "a.csv.gz", "a.parquet", "a.h5ad"]),
)
@example(b"id,a\n007,1\n", "a.csv")
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_a_matrix_or_refused(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("matrix") / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") and len(content) % 2 else content)
    try:
        values, var = read_matrix(path, id_column="id", ids=["x"])
    except CohortError:
        return
    assert values.index.is_unique
    assert values.columns.is_unique
    assert not np.isinf(values.to_numpy(np.float64)).any()
    assert var.index.equals(values.columns)


printable = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1)


@given(st.lists(printable, min_size=1, max_size=5, unique=True), st.integers(0, 99))
@example(["NA", "007", "1e5"], 0)
@settings(deadline=None, max_examples=50)
def test_written_tables_are_read_unchanged(tmp_path_factory, ids, seed):
    values = np.random.default_rng(seed).normal(size=(len(ids), 3))
    frame = pd.DataFrame(values, index=pd.Index(ids, name="id"), columns=["a", "b", "007"])
    path = tmp_path_factory.mktemp("round") / "table.csv"
    frame.to_csv(path)
    read, _ = read_matrix(path, id_column="id", ids=[])
    assert read.index.tolist() == ids
    assert read.columns.tolist() == ["a", "b", "007"]
    np.testing.assert_allclose(read, values, rtol=1e-12)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numeric_ids_of_a_typed_table_become_text(tmp_path, kind):
    frame = pd.DataFrame({"id": [7, 8], "a": [1.0, np.nan]})
    path = tmp_path / f"table.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    values, _ = read_matrix(path, id_column="id", ids=[])
    assert values.index.tolist() == ["7", "8"]
    assert np.isnan(values.loc["8", "a"])


@pytest.mark.parametrize("index", [100_000, -1])
def test_indices_of_a_sparse_matrix_are_checked_before_use(tmp_path, index):
    x = scipy.sparse.csr_matrix(np.eye(4, dtype=np.float32))
    path = tmp_path / "table.h5ad"
    anndata.AnnData(x, pd.DataFrame(index=list("abcd")), pd.DataFrame(index=list("wxyz"))).write_h5ad(path)
    assert read_matrix(path, id_column="id", ids=[])[0].to_numpy().tolist() == np.eye(4).tolist()
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = index
    with pytest.raises(CohortError, match=r"cannot be read as \.h5ad"):
        read_matrix(path, id_column="id", ids=[])


def test_damage_in_an_h5ad_is_one_error(tmp_path):
    path = tmp_path / "table.h5ad"
    anndata.AnnData(np.eye(4), pd.DataFrame(index=list("abcd")), pd.DataFrame(index=list("wxyz"))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["var"].attrs["encoding-version"] = "9.9.9"
    with pytest.raises(CohortError, match=r"cannot be read as \.h5ad: IORegistryError"):
        read_matrix(path, id_column="id", ids=[])


def test_semicolons_are_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id;a\nx;1\n")
    for read in (read_rows, lambda path: read_matrix(path, id_column="id", ids=[])):
        with pytest.raises(CohortError, match="separated by semicolons"):
            read(path)


def test_a_message_names_the_first_few():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdef")) == "a, b, c and 3 more"


def test_a_table_of_other_ids_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,A\nx,1\ny,2\n")
    assert read_matrix(path, id_column="id", ids=["y", "z"])[0].shape == (2, 1)
    with pytest.raises(CohortError, match="shares no id with the cohort: the cohort has v, w; the table has x, y"):
        read_matrix(path, id_column="id", ids=["v", "w"])
