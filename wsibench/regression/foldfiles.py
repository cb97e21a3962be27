"""Tables of folds, as wsibench, PreservedSiteCV and SEQUOIA write them."""

import pickle
import re
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import pandas as pd

from wsibench.core import CohortError, digest, file_sha256, read_rows, some

FileFormat = Literal["wsibench", "preservedsitecv", "sequoia"]
"""How others write folds down."""
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

SPLIT = re.compile(r"fold(_[1-9]\d*)?")
"""A column of ours: the first split, and further ones."""
CV = re.compile(r"CV([1-9]\d*)(_[1-9]\d*)?")
"""A column of PreservedSiteCV's: its number is that of its folds."""
CV_PATIENT = ("submitter_id", "patient", "patient_id")
"""What PreservedSiteCV's tables call the patient: by default, in its example, and as we do."""
TEST_FILE = re.compile(r"test[-_](?:.*[-_])?(\d+)\.npy")
"""Patients held out in a fold of SEQUOIA's: ``test_0.npy`` of its training, ``test-brca-0.npy`` as published."""

ARRAY_ONLY = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # NumPy 1's name of it
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a pickled array of text is made with."""


def read_given(path: Path) -> pd.DataFrame:
    """Read a table of folds; its content tells which format it is.

    ``wsibench``: a CSV with ``patient_id`` and ``fold``, and ``fold_1``, … for further splits.

    ``preservedsitecv``: a CSV with a column ``CV<k>`` of values 1 … k beside the patient, as
    PreservedSiteCV's ``crossfolds.generate`` [1]_ adds to its table (``CV3`` and ``submitter_id`` by
    default).  It may have a row a slide, as the annotation files of that repository have.

    ``sequoia``: a folder with the patients held out in fold k in ``test_<k>.npy``, as the training of
    SEQUOIA [2]_ saves them (``np.save`` of the unique ``patient_id``, beside train and validation,
    which are not read), or ``test-<cancer>-<k>.npy``, as it publishes them in ``src/folds``.  NumPy
    pickles such arrays; they are read without letting a pickle do anything but make an array.

    Parameters
    ----------
    path
        The CSV, or SEQUOIA's folder.

    Returns
    -------
    DataFrame
        int64, indexed by patient_id (text); columns fold, fold_1, …, numbered from 0.

    Raises
    ------
    CohortError
        For anything else, for what is no number of a fold, and for a patient in two folds.

    References
    ----------
    .. [1] https://github.com/fmhoward/PreservedSiteCV, ``preservedsite/crossfolds.py``; Howard et al.
       2021, Nature Communications 12, 4423.
    .. [2] https://github.com/gevaertlab/sequoia-pub, ``src/main.py``, ``src/utils.py`` (patient_kfold,
       match_patient_kfold) and ``src/folds``; Pizurica et al. 2024, Nature Communications 15, 9886.
    """
    splits = _read_sequoia(path) if path.is_dir() else _read_table(path)
    splits = splits[~splits.reset_index().duplicated().to_numpy()]  # a row a slide
    twice = splits.index[splits.index.duplicated()].unique()
    if len(twice):
        raise CohortError(f"{path} puts {some(twice)} into more than one fold.", "A patient is held out once.")
    return splits


def write_splits(table: pd.DataFrame, path: Path, form: FileFormat) -> None:
    """Write splits for others to read; `read_given` gives them back.

    Parameters
    ----------
    table
        Indexed by patient_id; columns site, subtype, and the splits fold, fold_1, …
    path
        Of the CSV; for ``sequoia`` of a folder that does not exist or is empty.
    form
        ``preservedsitecv`` has a column ``CV<k>`` (and ``CV<k>_1``, … for further splits), ``sequoia``
        a ``test_<k>.npy`` a fold.

    Raises
    ------
    CohortError
        For several splits in SEQUOIA's format, which holds one, and for a folder that is not empty.
    """
    names = [name for name in table if SPLIT.fullmatch(name)]
    if form == "sequoia":
        _write_sequoia(table[names], path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "wsibench":
        table[["site", "subtype", *names]].to_csv(path, index_label="patient_id")
    else:
        theirs = table[["site", "subtype"]].rename(columns={"site": "SITE"})
        for name in names:
            theirs[f"CV{table[names].to_numpy().max() + 1}{name.removeprefix('fold')}"] = table[name] + 1
        theirs.to_csv(path, index_label="submitter_id")


def given_digest(path: Path) -> str:
    """sha256 (hex) of what `read_given` reads at `path`.

    Raises
    ------
    CohortError
        When there is nothing.
    """
    if path.is_dir():
        return digest([[file.name, file_sha256(file)] for _, file in _test_files(path)])
    if not path.is_file():
        raise CohortError(f"There is no table of folds {path}.", "Correct `folds: {given: …}` in study.yaml.")
    return file_sha256(path)


def _unknown(path: Path, found: str) -> CohortError:
    return CohortError(
        f"{path} is no table of folds that is known: {found}.",
        "Give a CSV with the columns patient_id and fold, one of PreservedSiteCV with submitter_id and one column "
        "CV<k>, or a folder with SEQUOIA's test_<k>.npy.",
    )


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix == ".npy":
        raise _unknown(path, "it is one array; SEQUOIA's folds are a folder of them")
    rows = read_rows(path)
    if {"patient_id", "fold"} <= set(rows):
        names = sorted((name for name in rows if SPLIT.fullmatch(name)), key=lambda name: (len(name), name))
        return _numbered(path, rows, "patient_id", {name: name for name in names}, first=0, last=None)
    patient = next((name for name in CV_PATIENT if name in rows), None)
    first = [name for name in rows if (match := CV.fullmatch(name)) and not match[2]]
    if patient is None or len(first) != 1:
        raise _unknown(path, f"its columns are {some(list(rows), 12)}")
    k = int(first[0].removeprefix("CV"))
    further = [name for name in rows if name.startswith(f"{first[0]}_") and CV.fullmatch(name)]
    names = {name: name.replace(first[0], "fold") for name in [*first, *further]}
    return _numbered(path, rows, patient, names, first=1, last=k)


def _numbered(
    path: Path, rows: pd.DataFrame, patient: str, names: dict[str, str], *, first: int, last: int | None
) -> pd.DataFrame:
    """The columns `names` (theirs: ours) as numbers of folds from 0; rows that leave all of them empty are dropped."""
    rows = rows[(rows[list(names)] != "").any(axis=1)]
    for name in names:
        number = rows[name].where(rows[name].str.fullmatch(r"[0-9]{1,6}"), "-1").astype(int)
        bad = rows[(number < first) | (number > (number if last is None else last))]
        if len(bad):
            raise CohortError(
                f"{path}: {bad[name].iloc[0]!r} in column {name}, of patient {bad[patient].iloc[0]}, is no fold.",
                f"Folds are whole numbers from {first}{f' to {last}' if last else ''}.",
            )
    folds = rows[list(names)].astype(np.int64).rename(columns=names) - first
    return folds.set_axis(pd.Index(rows[patient], name="patient_id"))


def _test_files(folder: Path) -> list[tuple[int, Path]]:
    """SEQUOIA's files by fold; several cancers may share a folder."""
    matches = [(TEST_FILE.fullmatch(file.name), file) for file in sorted(folder.iterdir())]
    return [(int(match[1]), file) for match, file in matches if match]


def _read_sequoia(folder: Path) -> pd.DataFrame:
    held_out = [(fold, _read_ids(file)) for fold, file in _test_files(folder)]
    if not held_out:
        raise _unknown(folder, "it is a folder without test_<k>.npy")
    ids = np.concatenate([ids for _, ids in held_out])
    folds = np.repeat([fold for fold, _ in held_out], [len(ids) for _, ids in held_out])
    return pd.DataFrame({"fold": folds.astype(np.int64)}, index=pd.Index(ids, dtype=object, name="patient_id"))


def _write_sequoia(splits: pd.DataFrame, folder: Path) -> None:
    if splits.shape[1] > 1:
        raise CohortError(
            f"SEQUOIA's format holds one split, and there are {splits.shape[1]}.", "Write another format."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CohortError(f"{folder} is not empty.", "SEQUOIA's folds are a folder: name a new one.")
    for fold, members in splits.groupby("fold").groups.items():
        np.save(folder / f"test_{fold}.npy", np.array(members, dtype=str), allow_pickle=False)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays of text and numbers and nothing else, where a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ARRAY_ONLY:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ARRAY_ONLY[module, name]


def _read_ids(path: Path) -> np.ndarray:
    """An array of ids, (n,) text; NumPy pickles those that came as objects."""
    try:
        with open(path, "rb") as file:
            ids = _unpickled(file) if _is_pickled(file) else np.load(file, allow_pickle=False)
    except (ValueError, EOFError, TypeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        raise CohortError(f"{path} is no array of patients: {error}.", "Is the file whole?") from None
    if ids.ndim != 1 or not all(isinstance(one, str) for one in ids.tolist()):
        raise CohortError(f"{path} is no array of patients: it is {ids.dtype}, {ids.shape}.", "Ids are text.")
    return ids


def _is_pickled(file: BinaryIO) -> bool:
    np.lib.format.read_magic(file)
    _, _, dtype = np.lib.format.read_array_header_1_0(file)
    if not dtype.hasobject:
        file.seek(0)
    return dtype.hasobject


def _unpickled(file: BinaryIO) -> np.ndarray:
    array = _ArrayUnpickler(file).load()
    if not isinstance(array, np.ndarray):
        raise ValueError("what was pickled is no array")
    return array
