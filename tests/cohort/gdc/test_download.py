"""Downloads from a faulty server: no damaged file is kept, no finished file is fetched twice."""

import errno
import fcntl
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gdc_server import GdcServer, save, serving

from wsibench.cohort.gdc import client, download
from wsibench.cohort.gdc.client import GdcFile
from wsibench.core import GdcError, meta_path, read_meta

MIB = 1 << 20


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        yield server


def offered(
    server: GdcServer, n: int = 1, *, size: int = 3 * MIB, name: str = "file", kind: str = "svs"
) -> list[GdcFile]:
    files = []
    for index in range(n):
        content = random.Random(index).randbytes(size + index)
        hit = server.offer(f"{name}{index}.{kind}", content)
        files.append(GdcFile(hit["file_id"], hit["file_name"], hit["file_size"], hit["md5sum"]))
    return files


def assert_whole(files: list[GdcFile], folder: Path) -> None:
    for file in files:
        assert download.artefact(file, folder).due() is None
        assert hashlib.md5((folder / file.name).read_bytes()).hexdigest() == file.md5
    assert not list(folder.glob(".*.svs.part")), "something unfinished was left"


def data_requests(server: GdcServer, file: GdcFile) -> list[str]:
    """The ranges that a file was asked for with ("" for all of it)."""
    return [headers.get("Range", "") for _, _, headers, _ in server.asked("GET", f"/data/{file.file_id}")]


def test_fetches_all_and_nothing_twice(server: GdcServer, tmp_path: Path) -> None:
    files = offered(server, 6, size=MIB // 4)
    assert download.fetch_all(files, tmp_path, label="slides") == {}
    assert_whole(files, tmp_path)
    before = len(server.log)
    assert download.fetch_all(files, tmp_path, label="slides") == {}
    assert len(server.log) == before
    meta = read_meta(tmp_path / files[0].name)
    assert meta["facts"] == {"file_id": files[0].file_id, "md5": files[0].md5, "from": server.url}


@pytest.mark.parametrize("trouble", [("reset", 2 * MIB + 7), ("truncate", 2 * MIB + 1)])
def test_broken_connection_is_resumed(server: GdcServer, tmp_path: Path, trouble: tuple) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", trouble)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)
    first, second = data_requests(server, file)
    assert first == ""
    if trouble[0] == "truncate":  # a reset may discard all bytes received
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= trouble[1]


def test_busy_server_is_retried(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", ("status", 503), ("status", 502))
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)
    assert len(data_requests(server, file)) == 3


@pytest.mark.parametrize("answer", ["ignore_range", ("shift_range", 5)])
def test_wrong_range_restarts_the_download(server: GdcServer, tmp_path: Path, answer: object) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", ("reset", MIB + 7), answer)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


def test_partial_file_of_an_earlier_run_is_continued(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    download.part_path(file, tmp_path).write_bytes(server.content[file.file_id][: 2 * MIB])
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)
    assert data_requests(server, file) == [f"bytes={2 * MIB}-"]
    assert server.bytes_sent[file.file_id] == file.size - 2 * MIB


@pytest.mark.parametrize("wrong", [b"x" * MIB, b"x" * (3 * MIB), b"x" * (4 * MIB)], ids=["begun", "whole", "longer"])
def test_a_part_with_wrong_bytes_is_not_kept(server: GdcServer, tmp_path: Path, wrong: bytes) -> None:
    [file] = offered(server)
    download.part_path(file, tmp_path).write_bytes(wrong)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


def test_wrong_md5_is_fetched_once_more(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", "corrupt")
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


def test_wrong_md5_for_good_is_an_error_and_leaves_nothing(server: GdcServer, tmp_path: Path) -> None:
    bad, good = offered(server, 2)
    server.trouble(f"/data/{bad.file_id}", "corrupt", "corrupt")
    errors = download.fetch_all([bad, good], tmp_path, label="slides")
    assert list(errors) == [bad]
    assert f"it published {bad.md5}" in str(errors[bad])
    assert_whole([good], tmp_path)
    assert not (tmp_path / bad.name).exists()


def test_download_fails_after_too_many_attempts(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", *[("reset", 0)] * client.ATTEMPTS**2)
    with pytest.raises(GdcError, match="a second run continues"):
        download.fetch(file, tmp_path)


def test_downloads_end_when_several_in_a_row_fail(
    server: GdcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", 0.001)
    files = offered(server, 30, size=1000)
    for file in files[2:]:
        server.trouble(f"/data/{file.file_id}", *[("status", 503)] * client.ATTEMPTS)
    with pytest.raises(client.Unreachable, match="try later"):
        download.fetch_all(files, tmp_path, label="slides")
    assert len(server.log) < 20 * client.ATTEMPTS
    assert [download.artefact(file, tmp_path).due() for file in files[:2]] == [None, None]


def test_attempts_that_make_progress_are_not_counted(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", *[("truncate", MIB // 8)] * (3 * client.ATTEMPTS))
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


def test_an_id_that_expired_is_found_again_by_name(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.rename(file.file_id, "after-the-release")
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)
    assert len(server.asked("GET", "/data/after-the-release")) == 1


def test_refused_open_file_suggests_a_later_run(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    server.trouble(f"/data/{file.file_id}", ("status", 403))
    with pytest.raises(GdcError, match="hours after a data release"):
        download.fetch(file, tmp_path)


def test_a_finished_file_that_changed_is_fetched_again(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    path = download.fetch(file, tmp_path)
    path.write_bytes(b"x" * file.size)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


def test_whole_file_without_sidecar_is_verified_and_not_fetched(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    path = download.fetch(file, tmp_path)
    meta_path(path).unlink()
    before = len(server.log)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)
    assert len(server.log) == before


def test_gdc_clients_folder_is_verified_and_linked(server: GdcServer, tmp_path: Path) -> None:
    good, bad = offered(server, 2)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    content = server.content[bad.file_id]
    local = {
        good.name: save(theirs, server.hits[good.file_id], server.content[good.file_id]),
        bad.name: save(theirs, server.hits[bad.file_id], content[:-1] + bytes([content[-1] ^ 1])),
    }
    listing = sorted(theirs.rglob("*"))
    assert download.fetch_all([good, bad], ours, label="slides", local=local) == {}
    assert_whole([good, bad], ours)
    assert (ours / good.name).is_symlink()
    assert not (ours / bad.name).is_symlink()
    assert data_requests(server, good) == []
    assert sorted(theirs.rglob("*")) == listing, "the user's folder was written to"
    local[good.name].unlink()
    assert download.artefact(good, ours).due() == "missing"


def test_insufficient_disk_space_is_an_error_before_the_download(
    server: GdcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = offered(server, 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8 * MIB))
    with pytest.raises(download.DiskFull, match=r"3 files need 0\.0 GB.*stream: true"):
        download.fetch_all(files, tmp_path, label="slides")
    assert not server.log
    download.part_path(files[0], tmp_path).write_bytes(server.content[files[0].file_id][: 2 * MIB])
    assert download.fetch_all(files, tmp_path, label="slides") == {}


def test_downloads_continue_after_a_full_disk(
    server: GdcServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = offered(server, 6)
    room = [7 * MIB]
    real = download._write

    def write(sink, chunk):
        room[0] -= len(chunk)
        if room[0] < 0:
            sink = SimpleNamespace(write=no_space, name=sink.name)
        real(sink, chunk)

    def no_space(_: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_write", write)
    with pytest.raises(download.DiskFull, match=r"No space left.*finished files stay"):
        download.fetch_all(files, tmp_path, label="slides")
    done = [file for file in files if download.artefact(file, tmp_path).due() is None]
    room[0] = 1 << 40
    assert download.fetch_all(files, tmp_path, label="slides") == {}
    assert_whole(files, tmp_path)
    assert all(len(data_requests(server, file)) == 1 for file in done)


def test_file_locked_by_another_process_is_not_fetched(server: GdcServer, tmp_path: Path) -> None:
    [file] = offered(server)
    with open(download.part_path(file, tmp_path), "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(GdcError, match="another process"):
            download.fetch(file, tmp_path)
    download.fetch(file, tmp_path)
    assert_whole([file], tmp_path)


CLIENT = """
import sys
from pathlib import Path
from wsibench.cohort.gdc import download
from wsibench.cohort.gdc.client import GdcFile
files = [GdcFile(*line.split()[:2], int(line.split()[2]), line.split()[3]) for line in open(sys.argv[1])]
{call}
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_downloads_of_a_killed_process_are_continued(
    server: GdcServer, tmp_path: Path, signal_: signal.Signals
) -> None:
    files = [file for n in range(6) for file in offered(server, size=(n + 1) * MIB, name=f"slide{n}")]
    listing, folder = tmp_path / "files.txt", tmp_path / "slides"
    listing.write_text("".join(f"{f.file_id} {f.name} {f.size} {f.md5}\n" for f in files))
    script = CLIENT.format(call="download.fetch_all(files, Path(sys.argv[2]), label='slides')")
    server.chunk_pause_s = 0.02
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(listing), str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores SIGINT and hands that on: these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".slide*.meta.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal_)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    done = [file for file in files if download.artefact(file, folder).due() is None]
    assert 0 < len(done) < len(files), said
    server.chunk_pause_s = 0.0
    before = len(server.log)
    assert download.fetch_all(files, folder, label="slides") == {}
    assert_whole(files, folder)
    asked = {path for _, path, _, _ in server.log[before:]}
    assert asked == {f"/data/{file.file_id}" for file in files if file not in done}
    resumed = [headers["Range"] for _, _, headers, _ in server.log[before:] if "Range" in headers]
    assert resumed, "no partial file was continued"
