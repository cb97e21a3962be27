"""Reading of the user's tables: rows of text, and matrices of numbers with one id a row."""

import csv
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.core.errors import CohortError

NOT_FOUND = "Paths in study.yaml are relative to its own folder."


def read_rows(path: Path) -> pd.DataFrame:
    """Read a CSV of text: every cell a string, empty where there is nothing, ``007`` left as it is.

    Raises
    ------
    CohortError
        When the file is missing, empty or no CSV.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            # utf-8-sig: Excel's "CSV UTF-8" starts with a byte-order mark.
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError:
        raise CohortError(f"There is no table {path}.", NOT_FOUND) from None
    except (OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise CohortError(f"{path} cannot be read as a CSV: {error}.", "Save it as comma-separated UTF-8.") from None
    _check_commas(path, frame.columns[0])
    if frame.empty:
        raise CohortError(f"{path} has no rows.")
    return frame


def read_matrix(path: Path, *, id_column: str, ids: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a table of numbers whose first column (h5ad: obs index) holds the ids.

    Parameters
    ----------
    path
        CSV, gzipped CSV, Parquet or h5ad, by its suffix.
    id_column
        Required name of the first column; an h5ad's index may have any name.
    ids
        Ids of the cohort, one of which has to occur and none of which names a column; empty for any.

    Returns
    -------
    values
        Numbers indexed by id (str), one column a variable (str); NaN where empty.
    var
        Annotation of the variables in an h5ad, else without columns.

    Raises
    ------
    CohortError
        For a missing file, an unknown kind of file, a first column of another name, a transposed table, ids that
        the cohort does not have, duplicate rows or columns, and anything that is neither a finite number nor empty.
    """
    if not path.exists():
        raise CohortError(f"There is no table {path}.", NOT_FOUND)
    readers = {".csv": _read_csv, ".csv.gz": _read_csv, ".parquet": _read_parquet, ".h5ad": _read_h5ad}
    suffix = next((suffix for suffix in readers if path.name.endswith(suffix)), None)
    if suffix is None:
        raise CohortError(f"{path} is not a kind of table that can be read.", f"Use one of {', '.join(readers)}.")
    try:
        frame, var = readers[suffix](path, id_column)
        _check_header(path, list(frame.columns), id_column, ids)
        values = frame.set_index(id_column)
        values.index = values.index.astype(str)
    except CohortError:
        raise
    except Exception as error:  # libraries raise all kinds for damaged files
        what = f"{path} cannot be read as {suffix}: {type(error).__name__}: {error}."
        raise CohortError(what, "Check that the file is complete and of that kind.") from None
    if values.empty:
        raise CohortError(f"{path} has no {'columns of numbers' if len(values) else 'rows'}.")
    _check_unique(path, "row", values.index)
    if len(ids) and not values.index.isin(ids).any():
        raise CohortError(
            f"{path} shares no {id_column} with the cohort: the cohort has {some(ids)}; the table has "
            f"{some(values.index)}.",
            "Give both the same ids (a TCGA patient is its first 12 characters).",
        )
    _check_numbers(path, values)
    return values, pd.DataFrame(index=values.columns) if var is None else var


def some(values: Collection[str], n: int = 3) -> str:
    """Join the first `n` of many values for a message: ``a, b, c and 7 more``."""
    values = list(values)
    rest = f" and {len(values) - n} more" if len(values) > n else ""
    return ", ".join(map(str, values[:n])) + rest


# Readers of a table whose first column holds the ids, and of an h5ad's annotation of variables.


def _read_csv(path: Path, _: str) -> tuple[pd.DataFrame, None]:
    # The header is read separately, since pandas silently renames duplicate columns.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig").iloc[0]
    try:
        # A converter keeps ids as they are, where dtype=str would read a patient called NA as missing.
        frame = pd.read_csv(
            path, header=None, skiprows=1, index_col=False, converters={0: str}, encoding="utf-8-sig", low_memory=False
        )
    except pd.errors.EmptyDataError:
        raise CohortError(f"{path} has no rows.") from None
    if frame.shape[1] != len(header):
        raise CohortError(
            f"{path}: the header names {len(header)} columns, the rows have {frame.shape[1]}.",
            "A header written by R lacks the name of the first column: write it with row.names=FALSE.",
        )
    return frame.set_axis(header.tolist(), axis=1), None


def _read_parquet(path: Path, id_column: str) -> tuple[pd.DataFrame, None]:
    frame = pd.read_parquet(path)
    if frame.index.name == id_column:
        frame = frame.reset_index()
    return frame.rename(columns=str), None


def _read_h5ad(path: Path, id_column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    import anndata

    with warnings.catch_warnings():  # names that are not unique are refused below
        warnings.simplefilter("ignore", UserWarning)
        adata = anndata.read_h5ad(path)
    if hasattr(adata.X, "check_format"):  # without it, toarray writes wherever damaged indices point to
        adata.X.check_format(full_check=True)
    return adata.to_df().rename_axis(id_column).reset_index(), adata.var


def _check_header(path: Path, header: list[str], id_column: str, ids: Collection[str]) -> None:
    transposed = [name for name in header[1:] if name in set(ids)]
    if transposed:
        raise CohortError(
            f"{path} is transposed: its columns are {id_column}s ({some(transposed)}).",
            f"Transpose it: one row a {id_column.removesuffix('_id')}, first column {id_column}.",
        )
    _check_commas(path, header[0])
    if header[0] != id_column:
        raise CohortError(f"{path}: the first column has to be {id_column!r}, it is {header[0]!r}.", "Rename it.")
    _check_unique(path, "column", pd.Index(header[1:]))


def _check_commas(path: Path, first_column: str) -> None:
    if ";" in first_column:
        raise CohortError(f"{path} is separated by semicolons.", "Save it with commas between the columns.")


def _check_unique(path: Path, what: str, names: pd.Index) -> None:
    if names.hasnans or (names == "").any():
        raise CohortError(f"{path} has a {what} without a name.")
    duplicates = names[names.duplicated()].unique()
    if len(duplicates):
        raise CohortError(
            f"{path} has more than one {what} called {some(duplicates)}.",
            f"Every {what} needs a name of its own: keep one of them, or average them.",
        )


def _check_numbers(path: Path, values: pd.DataFrame) -> None:
    for name in values.select_dtypes(exclude="number").columns:
        text = values[name]
        bad = text[pd.to_numeric(text, errors="coerce").isna() & text.notna()]
        shown = f"{bad.iloc[0]!r} in row {bad.index[0]}" if len(bad) else f"values of type {text.dtype}"
        raise CohortError(f"{path}: column {name!r} is not numeric: {shown}.", "Numbers only, empty where unknown.")
    numbers = values.to_numpy()
    if np.isinf(numbers).any():
        row, column = np.argwhere(np.isinf(numbers))[0]
        raise CohortError(
            f"{path}: column {values.columns[column]!r} is infinite in row {values.index[row]}.",
            "A logarithm of zero? Use log2(x + 1), or leave the cell empty.",
        )
