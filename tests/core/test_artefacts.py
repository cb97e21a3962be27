"""A file is current only under the expected key and with the bytes that were written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from wsibench.core.artefacts import (
    Artefact,
    Failure,
    check_failures,
    digest,
    failure,
    key_at,
    make_key,
    meta_path,
    read_failures,
    read_meta,
    record_failures,
    slide_identity,
    writing,
)
from wsibench.core.errors import NotReady, SlideError, TooManyFailures


def made(path: Path, key: str = "k", text: str = "content") -> Artefact:
    artefact = Artefact(path, key)
    with writing(artefact) as temporary:
        temporary.write_text(text)
    return artefact


def test_written_file_is_current_and_signed(tmp_path):
    artefact = made(tmp_path / "deep" / "a.csv")
    assert artefact.due() is None
    assert key_at(artefact.path) == "k"
    assert sorted(p.name for p in artefact.path.parent.iterdir()) == [".a.csv.meta.json", "a.csv"]


def test_due_states_the_reason(tmp_path):
    path = tmp_path / "a.csv"
    assert Artefact(path, "k").due() == "missing"
    path.write_text("not ours")
    assert Artefact(path, "k").due() == "unfinished"
    made(path)
    assert Artefact(path, "other").due() == "made from other input or settings"
    path.write_text("changed")  # as long as "content"
    assert Artefact(path, "k").due() == "changed since it was made"
    path.write_text("longer than before")
    assert Artefact(path, "k").due() == "changed since it was made"
    made(path)
    os.utime(path, ns=(1, 1))
    assert Artefact(path, "k").due() is None, "touched, same bytes"
    path.unlink()
    assert Artefact(path, "k").due() == "missing"


def test_error_while_writing_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    artefact = made(tmp_path / "a.csv")

    def fails_midway() -> None:
        with writing(Artefact(artefact.path, "new")) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_midway()
    assert artefact.path.read_text() == "content"
    assert artefact.due() is None
    assert len(list(tmp_path.iterdir())) == 2


KILLED = """
import sys, time
from pathlib import Path
from wsibench.core.artefacts import Artefact, writing
with writing(Artefact(Path(sys.argv[1]), "new")) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_killed_writer_leaves_the_old_file_current(tmp_path):
    artefact = made(tmp_path / "a.csv")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(artefact.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert artefact.path.read_text() == "content"
    assert artefact.due() is None
    assert Artefact(artefact.path, "new").due() == "made from other input or settings"


DAMAGED = [b"", b"\xff", b"[]", b"{}", b"null", b'"a"', b"[" * 100_000, b'{"key": "k"}', b'{"key": 1, "checksum": 2}']


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:12]))
def test_damaged_sidecar_counts_as_none(tmp_path, content):
    artefact = made(tmp_path / "a.csv")
    meta_path(artefact.path).write_bytes(content)
    assert read_meta(artefact.path) is None
    assert artefact.due() == "unfinished"
    with pytest.raises(NotReady):
        key_at(artefact.path)


def test_any_changed_value_damages_a_sidecar(tmp_path):
    artefact = Artefact(tmp_path / "a.csv", "k")
    with writing(artefact, n_tiles=12, share=np.float64("nan"), where=Path("x"), none=None) as temporary:
        temporary.write_text("content")
    path = meta_path(artefact.path)
    text = path.read_text()
    assert read_meta(artefact.path)["facts"]["n_tiles"] == 12
    path.write_text(text.replace('"n_tiles": 12', '"n_tiles": 13'))
    assert read_meta(artefact.path) is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b'slide_id,stage\n"open', b"slide_id,stage,error,remedy,key,more\na,b,c,d,e,f\n"]
)
def test_damaged_failures_count_as_none_and_are_replaced(tmp_path, content):
    path = tmp_path / "failures.csv"
    path.write_bytes(content)
    assert read_failures(path) == []
    row = Failure("S", "tiling", "broken", "", "k")
    record_failures(path, "tiling", [row])
    assert read_failures(path) == [row]


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    abandoned = tmp_path / f".{dead.pid}.part.a.csv"
    other, alive = tmp_path / f".{dead.pid}.part.b.csv", tmp_path / f".{os.getppid()}.part.a.csv"
    for path in (abandoned, other, alive):
        path.write_text("half")
    made(tmp_path / "a.csv")
    assert not abandoned.exists()
    assert other.exists()
    assert alive.exists()


def test_file_renamed_but_not_signed_is_unfinished(tmp_path):
    artefact = made(tmp_path / "a.csv")
    meta_path(artefact.path).unlink()  # where a kill between the two renames leaves it
    assert artefact.due() == "unfinished"
    with pytest.raises(NotReady):
        key_at(artefact.path)


@given(
    st.dictionaries(st.text(), st.recursive(st.integers() | st.text() | st.booleans() | st.none(), st.lists)),
)
def test_digest_ignores_the_order_of_keys_and_nothing_else(content):
    reordered = dict(reversed(content.items()))
    assert digest(content) == digest(reordered)
    assert digest({**content, "one more": 1}) != digest({**content, "one more": 2})


def test_key_depends_on_everything_given():
    keys = {
        make_key("a", 1, {"x": 1}, ["m"]),
        make_key("b", 1, {"x": 1}, ["m"]),
        make_key("a", 2, {"x": 1}, ["m"]),
        make_key("a", 1, {"x": 2}, ["m"]),
        make_key("a", 1, {"x": 1}, ["n"]),
        make_key("a", 1, {"x": 1}, []),
    }
    assert len(keys) == 6
    with pytest.raises(ValueError, match="JSON"):
        make_key("a", 1, {"x": float("nan")})


def test_slide_identity_sees_both_ends_and_the_size(tmp_path):
    def identity(content: bytes) -> str:
        (tmp_path / "s").write_bytes(content)
        return slide_identity(tmp_path / "s")

    body = bytes(3 << 20)
    same = identity(body)
    assert identity(body) == same
    assert len({same, identity(b"x" + body[1:]), identity(body[1:] + b"x"), identity(body + b"\0"), identity(b"")}) == 5


def test_failures_are_rows_by_stage(tmp_path):
    path = tmp_path / "failures.csv"
    assert read_failures(path) == []
    tiling = failure("007", "tiling", "k", SlideError("It has no mpp.", "Add a column, mpp."))
    record_failures(path, "tiling", [tiling])
    record_failures(path, "embedding", [Failure("S2", "embedding", "boom, boom", "", "k2")])
    assert read_failures(path) == [tiling, Failure("S2", "embedding", "boom, boom", "", "k2")]
    assert tiling.remedy == "Add a column, mpp."
    record_failures(path, "tiling", [])
    assert [row.slide_id for row in read_failures(path)] == ["S2"]


def test_unknown_error_becomes_a_row_with_its_type():
    assert failure("S", "tiling", "k", ZeroDivisionError("by zero")).error == "ZeroDivisionError: by zero"


def test_too_many_failures_stop_the_stage():
    rows = [Failure(f"S{i}", "tiling", "broken", "mend it", "k") for i in range(3)]
    check_failures(rows, 60, 0.05)
    with pytest.raises(TooManyFailures, match=r"3 of 59 slides failed.*S0: broken mend it"):
        check_failures(rows, 59, 0.05)
    check_failures(rows, 3, 1.0)
