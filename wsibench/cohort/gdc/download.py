"""Fetch files from the GDC: parallel, resumed, verified, and kept only when whole.

A file under its real name with a sidecar is finished and is never fetched again.  Until then its
bytes are in a hidden ``.part`` file, which a later run goes on with.
"""

import fcntl
import hashlib
import io
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests

from wsibench.cohort.gdc import client
from wsibench.cohort.gdc.client import GdcFile, Refused, Transient, Unreachable
from wsibench.cohort.gdc.transfer import (
    BROKEN_STREAM,
    FULL,
    GB,
    DiskFull,
    Watch,
    disk_full,
    file_hashes,
    receive,
    restart,
)
from wsibench.core import Artefact, GdcError, make_key, meta_path, sign, writing

FORMAT = 1
PARALLEL = 4
"""Files fetched at once."""
BATCH = 50
"""Small files asked for in one request."""


def artefact(file: GdcFile, folder: Path) -> Artefact:
    """Where a file belongs, and the key that it carries once verified."""
    return Artefact(folder / file.name, make_key("download", FORMAT, {"md5": file.md5, "size": file.size}))


def fetch_all(
    files: Sequence[GdcFile], folder: Path, *, label: str, already: Mapping[str, Path] | None = None
) -> dict[str, GdcError]:
    """Fetch files of any size, a few at once, leaving alone those that are there.

    Parameters
    ----------
    files
        What to fetch.
    folder
        Where to; each file keeps its name.
    label
        Says in the progress what is being done.
    already
        Files that the user has, by name: verified and linked to, fetched only when they are wrong.

    Returns
    -------
    The errors of files that could not be had, by name.

    Raises
    ------
    DiskFull
        Before anything is fetched when it cannot all fit, or when the disk fills up meanwhile.
    Unreachable
        When several files in a row do not come through: the others would not either.
    """
    already = already or {}
    due = [file for file in files if artefact(file, folder).due()]
    check_space([file for file in due if file.name not in already], folder)
    watch = Watch(label, due, here=sum(_size(part_path(file, folder)) for file in due))
    return _in_parallel(
        {file.name: lambda file=file: fetch(file, folder, already=already.get(file.name), watch=watch) for file in due},
        folder,
        watch,
    )


def fetch_batches(
    files: Sequence[GdcFile], folder: Path, *, label: str, already: Mapping[str, Path] | None = None
) -> dict[str, GdcError]:
    """Fetch many small files, `BATCH` a request; otherwise as `fetch_all`.

    The errors are by the name of a batch's first file.
    """
    already = already or {}
    due = [file for file in files if artefact(file, folder).due()]
    check_space([file for file in due if file.name not in already], folder)
    watch = Watch(label, due)
    for file in due:
        if file.name in already:
            _adopt(file, folder, already[file.name], watch)
    due = [file for file in due if artefact(file, folder).due()]
    batches = [due[start : start + BATCH] for start in range(0, len(due), BATCH)]
    return _in_parallel(
        {batch[0].name: lambda batch=batch: _fetch_batch(batch, folder, watch) for batch in batches}, folder, watch
    )


def check_space(files: Sequence[GdcFile], folder: Path) -> None:
    """Raise `DiskFull` when what is left to fetch is more than the disk has room for."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sum(max(0, file.size - _size(part_path(file, folder))) for file in files)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DiskFull(
            f"{len(files)} files need {wanted / GB:,.1f} GB and {folder} has {free / GB:,.1f} GB free.",
            "Move the data folder to a larger disk (WSIBENCH_DATA), or set `stream: true` in the study's cohort: "
            "then only a few slides are on the disk at once.",
        )


def part_path(file: GdcFile, folder: Path) -> Path:
    """Where an unfinished download lies."""
    return folder / f".{file.name}.part"


def fetch(file: GdcFile, folder: Path, *, already: Path | None = None, watch: Watch | None = None) -> Path:
    """Fetch one file, going on with what an earlier attempt left; nothing when it is there.

    Raises
    ------
    GdcError
        When the GDC refuses it, does not get it through, or gives other bytes than it published.
    DiskFull
        When the disk is full; the part that was fetched stays.
    """
    wanted = artefact(file, folder)
    if wanted.due() is None:
        return wanted.path
    watch = watch or Watch("", [file])
    folder.mkdir(parents=True, exist_ok=True)
    if already is not None and _adopt(file, folder, already, watch):
        return wanted.path
    # Killed between the renaming and the signing, it is whole; changed since, it is not.
    if _adopt(file, folder, wanted.path, watch):
        return wanted.path
    meta_path(wanted.path).unlink(missing_ok=True)
    wanted.path.unlink(missing_ok=True)

    started = time.time()
    part = part_path(file, folder)
    # Unbuffered: after a failed write nothing is left that closing the file would try to write again.
    with open(part, "ab", buffering=0) as sink, client.new_session() as session:
        _lock(sink, file)
        sha256 = _fill(session, sink, file, watch)
        part.replace(wanted.path)
    sign(wanted, sha256, time.time() - started, {"file_id": file.file_id, "md5": file.md5, "from": client.api()})
    watch.finished()
    return wanted.path


def _fill(session: requests.Session, sink: io.FileIO, file: GdcFile, watch: Watch) -> str:
    """Fetch until the file is whole and has the right md5; its sha256."""
    current = file
    for _ in range(2):  # a wrong md5 is given a second chance, from the first byte
        try:
            receive(session, current, sink, watch)
        except Refused as error:
            if error.status not in (403, 404) or current is not file:
                raise
            current = client.find_again(session, file)
            if current.file_id == file.file_id:
                raise GdcError(
                    error.what, "Open files are refused for some hours after a data release: run again later."
                ) from None
            receive(session, current, sink, watch)
        md5, sha256 = file_hashes(part_path(file, Path(sink.name).parent))
        if md5 == file.md5:
            return sha256
        restart(sink, watch)
    Path(sink.name).unlink()
    raise GdcError(
        f"{file.name}: what the GDC sent has md5 {md5}, and it published {file.md5}.",
        "Run again later; if it persists, tell the GDC's help desk.",
    )


def _fetch_batch(batch: Sequence[GdcFile], folder: Path, watch: Watch) -> None:
    """Fetch small files in one request, asking again for those that did not come through."""

    def missing() -> list[GdcFile]:
        return [file for file in batch if artefact(file, folder).due()]

    def attempt(session: requests.Session) -> None:
        watch.check()
        if len(left := missing()) > 1:  # asked for one id, the GDC sends the file and no archive
            body = {"ids": [file.file_id for file in left]}
            with client.send(session, "POST", "/data", json=body, stream=True) as response:
                _unpack(response, {file.name: file for file in left}, folder, watch)
        if len(left := missing()) > 1:
            raise Transient(f"{len(left)} of {len(batch)} files missing or wrong, such as {left[0].name}")

    try:
        with client.new_session() as session:
            client.retrying(lambda: attempt(session), progressed=lambda: -len(missing()), sleep=watch.stop.wait)
    except Refused as error:
        if error.status not in (403, 404):
            raise  # else one of the ids is refused: ask one by one
    for file in missing():
        fetch(file, folder, watch=watch)


def _unpack(response: requests.Response, wanted: dict[str, GdcFile], folder: Path, watch: Watch) -> None:
    """Keep those members of a tar.gz that are what the GDC published."""
    try:
        with tarfile.open(fileobj=response.raw, mode="r|*") as archive:
            for member in archive:
                # <uuid>/<name>; a member's path is never used to write.
                file = wanted.get(Path(member.name).name)
                if file is None or not member.isfile() or member.size != file.size:
                    continue
                content = archive.extractfile(member).read()
                if hashlib.md5(content, usedforsecurity=False).hexdigest() == file.md5:
                    _keep(content, file, folder)
                    watch.add(file.size)
                    watch.finished()
                watch.check()
    except (tarfile.TarError, EOFError, zlib.error, *BROKEN_STREAM) as error:
        raise Transient(f"batch of {len(wanted)} files: {error}") from None


def _keep(content: bytes, file: GdcFile, folder: Path) -> None:
    try:
        with writing(artefact(file, folder), file_id=file.file_id, md5=file.md5) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise disk_full(file.name, folder) if error.errno in FULL else GdcError(str(error)) from None


def _adopt(file: GdcFile, folder: Path, path: Path, watch: Watch) -> bool:
    """Take a file that lies somewhere for the one wanted, when its bytes are the published ones."""
    if _size(path) != file.size:
        return False
    started = time.time()
    md5, sha256 = file_hashes(path)
    if md5 != file.md5:
        return False
    wanted = artefact(file, folder)
    if path != wanted.path:
        link = wanted.path.with_name(f".{file.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        meta_path(wanted.path).unlink(missing_ok=True)
        link.replace(wanted.path)
    sign(wanted, sha256, time.time() - started, {"file_id": file.file_id, "md5": file.md5, "from": str(path)})
    watch.add(file.size)
    watch.finished()
    return True


def _lock(sink: io.FileIO, file: GdcFile) -> None:
    try:
        fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GdcError(f"{file.name} is being fetched by another process.", "Let it finish, then run again.") from None
    except OSError:
        return  # a file system without locks: the md5 still guards the result


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _in_parallel(tasks: dict[str, Callable[[], object]], folder: Path, watch: Watch) -> dict[str, GdcError]:
    errors: dict[str, GdcError] = {}
    unreachable = 0
    with ThreadPoolExecutor(PARALLEL) as pool, watch:
        futures = {pool.submit(task): name for name, task in tasks.items()}
        try:
            for future in as_completed(futures):
                error = future.exception()
                unreachable = unreachable + 1 if isinstance(error, Unreachable) else 0
                if unreachable == PARALLEL and unreachable < len(tasks):
                    raise error
                if isinstance(error, GdcError) and not isinstance(error, DiskFull):
                    errors[futures[future]] = error
                elif isinstance(error, OSError) and error.errno in FULL:
                    raise disk_full(futures[future], folder) from None
                elif error is not None:
                    raise error
        except BaseException:
            watch.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return errors
