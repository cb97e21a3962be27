"""Download files from the GDC: in parallel, resumed, verified, and kept only when whole.

A file under its real name with a sidecar is finished and is never fetched again.  Until then its
bytes are in a hidden ``.part`` file, which a later run continues.
"""

import fcntl
import hashlib
import io
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
import urllib3

from wsibench.cohort.gdc import client
from wsibench.cohort.gdc.client import GdcFile, Interrupted, Refused, Unreachable
from wsibench.core import Artefact, GdcError, file_sha256, make_key, meta_path, progress, sign

FORMAT = 1
# Files fetched at once.
PARALLEL = 4
GB = 1e9
# Bytes read at once, and lost at most when a connection breaks.
CHUNK = 1 << 16


class DiskFull(GdcError):
    """A disk without room for the files to fetch, or that cannot be written to."""


def artefact(file: GdcFile, folder: Path) -> Artefact:
    """Return the final path of a file, with the key that it carries once verified."""
    return Artefact(folder / file.name, make_key("download", FORMAT, {"md5": file.md5, "size": file.size}))


def fetch_all(
    files: Sequence[GdcFile], folder: Path, *, label: str, local: Mapping[str, Path] | None = None
) -> dict[GdcFile, GdcError]:
    """Fetch files, several at once, skipping those that are there.

    Parameters
    ----------
    files
        Files to fetch.
    folder
        Destination; each file keeps its name.
    label
        Begins the lines of progress.
    local
        Copies that the user has, by name: verified and linked to, fetched only when they differ.

    Returns
    -------
    dict
        The errors of files that could not be fetched.

    Raises
    ------
    DiskFull
        Before anything is fetched when it cannot all fit, or when the disk fills up meanwhile.
    Unreachable
        When several files in a row fail: the others would, too.
    """
    local = local or {}
    due = [file for file in files if artefact(file, folder).due()]
    check_space([file for file in due if file.name not in local], folder)
    errors: dict[GdcFile, GdcError] = {}
    unreachable, stop = 0, threading.Event()
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = {pool.submit(fetch, file, folder, local=local.get(file.name), stop=stop): file for file in due}
        try:
            for future in progress(as_completed(futures), total=len(due), label=label):
                error = future.exception()
                unreachable = unreachable + 1 if isinstance(error, Unreachable) else 0
                if error and unreachable == PARALLEL and unreachable < len(due):
                    raise error
                if isinstance(error, GdcError) and not isinstance(error, DiskFull):
                    errors[futures[future]] = error
                elif error is not None:
                    raise error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors


def check_space(files: Sequence[GdcFile], folder: Path) -> None:
    """Check that the disk has room for what is left to fetch.

    Raises
    ------
    DiskFull
        When it has not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    due = [file for file in files if artefact(file, folder).due()]
    wanted = sum(max(0, file.size - _size(part_path(file, folder))) for file in due)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DiskFull(
            f"{len(due)} files need {wanted / GB:,.1f} GB and {folder} has {free / GB:,.1f} GB free.",
            "Move the data folder to a larger disk (WSIBENCH_DATA), or set `stream: true` in the study's cohort: "
            "then only a few slides are on the disk at once.",
        )


def part_path(file: GdcFile, folder: Path) -> Path:
    """Path of an unfinished download."""
    return folder / f".{file.name}.part"


def fetch(file: GdcFile, folder: Path, *, local: Path | None = None, stop: threading.Event | None = None) -> Path:
    """Fetch one file, continuing what an earlier attempt left; nothing when it is there.

    Parameters
    ----------
    file
        The file to fetch.
    folder
        Destination.
    local
        A copy that the user has: verified and linked to.
    stop
        Ends the download when set.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    GdcError
        When the GDC refuses it, cannot deliver it, or sends other bytes than it published.
    DiskFull
        When the disk is full; the part that was fetched stays.
    """
    wanted = artefact(file, folder)
    if wanted.due() is None:
        return wanted.path
    folder.mkdir(parents=True, exist_ok=True)
    # A file under its own name without a sidecar is whole if the process was killed between renaming and signing.
    if any(_adopt(file, wanted, path) for path in (local, wanted.path) if path is not None):
        return wanted.path
    meta_path(wanted.path).unlink(missing_ok=True)
    wanted.path.unlink(missing_ok=True)

    started = time.time()
    # Unbuffered: after a failed write nothing is left that closing the file would try to write again.
    with open(part_path(file, folder), "ab", buffering=0) as sink, client.new_session() as session:
        _lock(sink, file)
        _download(session, file, sink, stop or threading.Event())
        Path(sink.name).replace(wanted.path)
    _sign(file, wanted, started, client.api())
    return wanted.path


def _download(session: requests.Session, file: GdcFile, sink: io.FileIO, stop: threading.Event) -> None:
    """Fetch until the file is whole and has the published md5."""
    current = file
    for _ in range(2):  # a wrong md5 is given a second chance, from the first byte
        try:
            _receive(session, current, sink, stop)
        except Refused as error:
            if error.status not in (403, 404) or current is not file:
                raise
            current = client.find_again(session, file)
            if current.file_id == file.file_id:
                raise GdcError(
                    error.what, "Open files are refused for some hours after a data release: run again later."
                ) from None
            _receive(session, current, sink, stop)
        if (md5 := _md5(Path(sink.name))) == file.md5:
            return
        _restart(sink)
    Path(sink.name).unlink()
    raise GdcError(
        f"{file.name}: the GDC sent bytes with md5 {md5}, and it published {file.md5}.",
        "Run again later; if it persists, tell the GDC's help desk.",
    )


def _receive(session: requests.Session, file: GdcFile, sink: io.FileIO, stop: threading.Event) -> None:
    """Append the missing bytes of a file, in as many attempts as make progress."""
    client.persist(lambda: _receive_rest(session, file, sink, stop), lambda: sink.seek(0, io.SEEK_END))


def _receive_rest(session: requests.Session, file: GdcFile, sink: io.FileIO, stop: threading.Event) -> None:
    """Append the bytes that are still missing, in one attempt; begin again when they cannot be continued."""
    start = sink.seek(0, io.SEEK_END)
    if start == file.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        response = client.send(session, "GET", f"/data/{file.file_id}", headers=headers, stream=True)
    except Refused as error:
        if error.status != 416:
            raise
        _restart(sink)
        raise Interrupted(error.what) from None
    with response:
        continues = not start or response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        announced = response.headers.get("Content-Length", str(file.size - start))
        if not continues or announced != str(file.size - start):
            _restart(sink)
            raise Interrupted(f"{file.name}: another part was sent than bytes {start} to {file.size}")
        try:
            for chunk in response.iter_content(CHUNK):
                if stop.is_set():
                    raise GdcError(f"{file.name} was left unfinished, since another download failed.")
                _write(sink, chunk)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Interrupted(f"{file.name}: {error}") from None
    if (received := sink.seek(0, io.SEEK_END)) != file.size:
        raise Interrupted(f"{file.name}: the connection closed after {received} of {file.size} bytes")


def _restart(sink: io.FileIO) -> None:
    """Discard the bytes received so far."""
    sink.truncate(0)
    sink.seek(0)


def _write(sink: io.FileIO, chunk: bytes) -> None:
    try:
        while chunk:
            chunk = chunk[sink.write(chunk) :]
    except OSError as error:
        raise DiskFull(
            f"{sink.name} cannot be written: {error}.",
            "Free some space and run again: finished files stay, and an unfinished one continues where it stopped.",
        ) from None


def _md5(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sign(file: GdcFile, wanted: Artefact, started: float, source: str) -> None:
    facts = {"file_id": file.file_id, "md5": file.md5, "from": source}
    sign(wanted, file_sha256(wanted.path), time.time() - started, facts)


def _adopt(file: GdcFile, wanted: Artefact, path: Path) -> bool:
    """Use an existing copy, linked to unless it lies in place, when its bytes are the published ones."""
    started = time.time()
    if _size(path) != file.size or _md5(path) != file.md5:
        return False
    if path != wanted.path:
        link = wanted.path.with_name(f".{file.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        meta_path(wanted.path).unlink(missing_ok=True)
        link.replace(wanted.path)
    _sign(file, wanted, started, str(path))
    return True


def _lock(sink: io.FileIO, file: GdcFile) -> None:
    """Refuse to write what another process is writing."""
    try:
        fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GdcError(f"{file.name} is being fetched by another process.", "Let it finish, then run again.") from None
    except OSError:
        return  # a file system without locks: the md5 still guards the result


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
