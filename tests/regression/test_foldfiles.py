"""Tables of folds of others: what is read, what is refused, and that what is written is read back."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from wsibench.core import CohortError
from wsibench.regression.foldfiles import FORMATS, given_digest, read_given, write_splits

# What a cohort's table may call a patient: printable, without blanks at the ends.
printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
ids = printable.map(str.strip).filter(bool)


def splits_of(patients, folds, **further):
    index = pd.Index(patients, name="patient_id", dtype=object)
    return pd.DataFrame({"fold": folds, **further}, index=index).astype(np.int64)


def written(tmp_path, text, name="folds.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# Written and read back


@given(st.data(), st.lists(ids, min_size=2, max_size=30, unique=True), st.sampled_from(FORMATS), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_whatever_patients_are_called_their_folds_come_back(tmp_path_factory, data, patients, form, repeats):
    numbers = st.lists(st.integers(0, 11), min_size=len(patients), max_size=len(patients))
    names = ["fold", "fold_1", "fold_2"][: 1 if form == "sequoia" else repeats]
    splits = splits_of(patients, **{"folds": data.draw(numbers)} | {name: data.draw(numbers) for name in names[1:]})
    table = splits.assign(site=data.draw(printable), subtype=data.draw(printable))
    path = tmp_path_factory.mktemp("folds") / "folds"
    write_splits(table, path, form)
    pd.testing.assert_frame_equal(read_given(path).loc[patients], splits, check_index_type=False)


def test_preservedsitecv_counts_from_one_and_names_the_number_of_folds(tmp_path):
    table = splits_of(["a", "b", "c"], [0, 2, 1], fold_1=[2, 1, 0]).assign(site=["X", "Y", "X"], subtype="")
    write_splits(table, tmp_path / "cv.csv", "preservedsitecv")
    lines = (tmp_path / "cv.csv").read_text().splitlines()
    assert lines == ["submitter_id,SITE,subtype,CV3,CV3_1", "a,X,,1,3", "b,Y,,3,2", "c,X,,2,1"]


def test_sequoias_files_hold_the_patients_held_out(tmp_path):
    write_splits(splits_of(["a", "b", "c"], [0, 1, 0]).assign(site="", subtype=""), tmp_path / "new", "sequoia")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["test_0.npy", "test_1.npy"]
    assert np.load(tmp_path / "new" / "test_0.npy").tolist() == ["a", "c"]


def test_sequoias_format_holds_one_split_and_a_folder_of_its_own(tmp_path):
    table = splits_of(["a", "b"], [0, 1]).assign(site="", subtype="")
    with pytest.raises(CohortError, match="holds one split, and there are 2"):
        write_splits(table.assign(fold_1=[1, 0]), tmp_path / "new", "sequoia")
    written(tmp_path, "mine", "notes.txt")
    with pytest.raises(CohortError, match="not empty"):
        write_splits(table, tmp_path, "sequoia")


# As others write them


def test_a_table_of_preservedsitecvs_own_with_a_row_a_slide_is_read(tmp_path):
    text = "slide,submitter_id,SITE,CV3\nA-1,A,X,1\nA-2,A,X,1\nB-1,B,Y,3\nC-1,C,Z,\n"
    read = read_given(written(tmp_path, text))
    pd.testing.assert_frame_equal(read, splits_of(["A", "B"], [0, 2]), check_index_type=False)


def test_pickled_arrays_of_several_cancers_are_read_as_sequoia_publishes_them(tmp_path):
    np.save(tmp_path / "test-brca-0.npy", np.array(["A", "B"], dtype=object))  # np.unique of a column of text
    np.save(tmp_path / "test-brca-1.npy", np.array(["C"], dtype=object))
    np.save(tmp_path / "test-gbm-1.npy", np.array(["D"]))
    np.save(tmp_path / "train_0.npy", np.array(["C"], dtype=object))
    read = read_given(tmp_path).sort_index()
    pd.testing.assert_frame_equal(read, splits_of(list("ABCD"), [0, 0, 1, 1]), check_index_type=False)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folds"
    folder.mkdir()
    np.save(folder / "test_0.npy", np.array([Harmful()], dtype=object))
    with pytest.raises(CohortError, match=r"test_0.npy is no array of patients: it asks for posix.mkdir"):
        read_given(folder)
    assert not (tmp_path / "harm").exists()


# Refusals


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patient_id,Fold\nA,0\n", ["no table of folds that is known", "patient_id, Fold", "CV<k>", "test_<k>.npy"]),
        ("submitter_id,CV3_age,CV3_race\nA,1,2\n", ["no table of folds that is known", "CV3_age, CV3_race"]),
        ("submitter_id,CV3,CV5\nA,1,2\n", ["no table of folds that is known", "CV3, CV5"]),
        ("case,CV3\nA,1\n", ["no table of folds that is known", "case, CV3"]),
        ("patient_id,fold\nA,0\nB,1.5\n", ["'1.5' in column fold, of patient B", "from 0"]),
        ("patient_id,fold,fold_1\nA,0,1\nB,1,\n", ["'' in column fold_1, of patient B"]),
        ("patient_id,fold\nA,-1\n", ["'-1' in column fold, of patient A"]),
        ("submitter_id,CV3\nA,0\n", ["'0' in column CV3, of patient A", "from 1 to 3"]),
        ("submitter_id,CV3\nA,4\n", ["'4' in column CV3, of patient A"]),
        ("patient_id,fold\nA,0\nB,1\nA,1\n", ["puts A into more than one fold"]),
        ("submitter_id,CV2\nA,1\nB,1\nB,2\n", ["puts B into more than one fold"]),
        ("patient_id,fold\n", ["no rows"]),
    ],
)
def test_what_is_no_table_of_folds_is_refused(tmp_path, text, words):
    with pytest.raises(CohortError) as info:
        read_given(written(tmp_path, text))
    for word in [*words, "folds.csv"]:
        assert word in str(info.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "a folder without test_<k>.npy"),
        ({"test_0.npy": np.array(["A", "B"]), "test_1.npy": np.array(["B"])}, "puts B into more than one fold"),
        ({"test_0.npy": np.arange(3)}, "test_0.npy is no array of patients: it is int64"),
        ({"test_0.npy": np.array([["A"]])}, "test_0.npy is no array of patients"),
        ({"test_0.npy": np.array(["A", 1.5], dtype=object)}, "test_0.npy is no array of patients"),
    ],
)
def test_what_is_no_folder_of_folds_is_refused(tmp_path, arrays, words):
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    with pytest.raises(CohortError, match=words):
        read_given(tmp_path)


@pytest.mark.parametrize("form", ["U1", object])
def test_a_torn_array_is_refused(tmp_path, form):
    np.save(tmp_path / "test_0.npy", np.array(list("ABCDEFGH"), dtype=form))
    whole = (tmp_path / "test_0.npy").read_bytes()
    for length in (0, 5, 60, len(whole) - 3):
        (tmp_path / "test_0.npy").write_bytes(whole[:length])
        with pytest.raises(CohortError, match="no array of patients"):
            read_given(tmp_path)


def test_one_array_is_told_to_be_a_folder(tmp_path):
    np.save(tmp_path / "test_0.npy", np.array(["A"]))
    with pytest.raises(CohortError, match="a folder of them"):
        read_given(tmp_path / "test_0.npy")


def test_the_digest_follows_the_contents(tmp_path):
    path = written(tmp_path, "patient_id,fold\nA,0\nB,1\n")
    before = given_digest(path)
    assert given_digest(written(tmp_path, "patient_id,fold\nA,0\nB,1\n", "copy.csv")) == before
    written(tmp_path, "patient_id,fold\nA,1\nB,0\n")
    assert given_digest(path) != before
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "test_0.npy", np.array(["A"]))
    one = given_digest(folder)
    np.save(folder / "test_1.npy", np.array(["B"]))
    assert given_digest(folder) != one
    with pytest.raises(CohortError, match=r"no table of folds .*gone\.csv"):
        given_digest(tmp_path / "gone.csv")
