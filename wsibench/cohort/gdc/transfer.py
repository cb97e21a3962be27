"""The bytes of one file over HTTP: resumed where they stopped, counted, and written until the disk is full."""

import errno
import hashlib
import io
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import requests
import urllib3

from wsibench.cohort.gdc import client
from wsibench.cohort.gdc.client import GdcFile, Refused, Transient
from wsibench.core import LINE_EVERY_S, GdcError, clock, interactive

FULL = (errno.ENOSPC, errno.EDQUOT)
GB = 1e9
MIB = 1 << 20
CHUNK = 1 << 16
"""Bytes read at once, and lost at most when a connection breaks."""
BROKEN_STREAM = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class DiskFull(GdcError):
    """No room for what is to be fetched."""


class Stopped(Exception):
    """Another download's error, or the user, ended this one."""


def receive(session: requests.Session, file: GdcFile, sink: io.FileIO, watch: "Watch") -> None:
    """Append to `sink` whatever is missing of a file, however many attempts that takes.

    Raises
    ------
    Refused
        When the GDC will not serve it.
    GdcError
        When attempt after attempt brings nothing.
    DiskFull
        When it cannot be written.
    """
    client.retrying(
        lambda: _receive_rest(session, file, sink, watch),
        progressed=lambda: sink.seek(0, io.SEEK_END),
        sleep=watch.stop.wait,
    )


def _receive_rest(session: requests.Session, file: GdcFile, sink: io.FileIO, watch: "Watch") -> None:
    """One attempt at the bytes that are still missing."""
    watch.check()
    start = sink.seek(0, io.SEEK_END)
    if start > file.size:
        start = restart(sink, watch)
    if start == file.size:
        return
    ranged = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = client.send(session, "GET", f"/data/{file.file_id}", headers=ranged, stream=True)
    except Refused as error:
        if error.status != 416:
            raise
        restart(sink, watch)
        raise Transient(error.what) from None
    with response:
        if start and not (response.status_code == 206 and _range_start(response) == start):
            start = restart(sink, watch)
            if response.status_code != 200:
                raise Transient(f"{file.name}: another range was sent than asked for")
        announced = int(response.headers.get("Content-Length", file.size - start))
        if start + announced != file.size:
            raise Transient(f"{file.name}: {start + announced} bytes announced, {file.size} published")
        try:
            for chunk in response.iter_content(CHUNK):
                watch.check()
                _write(sink, chunk, file)
                watch.add(len(chunk))
        except BROKEN_STREAM as error:
            raise Transient(f"{file.name}: {error}") from None
    if (got := sink.seek(0, io.SEEK_END)) != file.size:
        raise Transient(f"{file.name}: the connection closed after {got} of {file.size} bytes")


def _range_start(response: requests.Response) -> int | None:
    """First byte of a ``Content-Range: bytes 5-9/10``."""
    text = response.headers.get("Content-Range", "").removeprefix("bytes").strip().split("-")[0]
    return int(text) if text.isdecimal() else None


def restart(sink: io.FileIO, watch: "Watch") -> int:
    """Throw away what there is; the new length, 0."""
    watch.add(-sink.seek(0, io.SEEK_END))
    sink.truncate(0)
    return sink.seek(0)


def _write(sink: io.FileIO, chunk: bytes, file: GdcFile) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[sink.write(rest) :]
    except OSError as error:
        raise disk_full(file.name, Path(sink.name).parent) if error.errno in FULL else GdcError(str(error)) from None


def disk_full(name: str, folder: Path) -> DiskFull:
    """The error of a disk that filled up meanwhile."""
    return DiskFull(
        f"The disk of {folder} filled up while {name} was fetched.",
        "Free some space and run again: finished files stay, and an unfinished one goes on where it stopped.",
    )


def file_hashes(path: Path) -> tuple[str, str]:
    """md5 and sha256 (hex) of a file, in one pass."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as source:
        while chunk := source.read(4 * MIB):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


class Watch:
    """Files and bytes so far, how fast they come, and whether to stop.

    A widget in JupyterLab, a line every few seconds in a batch, like `wsibench.core.parallel.progress`;
    nothing without a label.  `here` bytes of the files were there before.
    """

    def __init__(self, label: str, files: Sequence[GdcFile], *, here: int = 0) -> None:
        self.stop = threading.Event()
        self._label, self._n_files, self._size = label, len(files), sum(file.size for file in files)
        self._done, self._here, self._got, self._lock = 0, here, here, threading.Lock()
        self._started = self._shown = time.monotonic()
        self._bar = None

    def __enter__(self) -> "Watch":
        if interactive() and self._n_files and self._label:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=self._size, initial=self._here, desc=self._label, unit="B", unit_scale=True, leave=False
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def check(self) -> None:
        """Raise when the download is to end."""
        if self.stop.is_set():
            raise Stopped

    def add(self, n_bytes: int) -> None:
        """Count bytes that came, or went again (negative)."""
        with self._lock:
            self._got += n_bytes
            if self._bar is not None:
                self._bar.update(n_bytes)
        self._show()

    def finished(self) -> None:
        """Count a file that is whole."""
        with self._lock:
            self._done += 1
        self._show(last=self._done == self._n_files)

    def _show(self, last: bool = False) -> None:
        if not self._label:
            return
        with self._lock:
            now = time.monotonic()
            seconds = now - self._started
            if self._bar is not None or (now - self._shown < LINE_EVERY_S and not (last and seconds >= 1)):
                return
            self._shown = now
            rate = max(self._got - self._here, 1) / seconds
            left = clock(max(0, self._size - self._got) / rate)
            text = f"{self._done}/{self._n_files}, {self._got / GB:.2f} of {self._size / GB:.2f} GB"
            print(f"{self._label}: {text}, {rate / 1e6:.1f} MB/s, {left} left", file=sys.stdout, flush=True)
