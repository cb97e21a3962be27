"""What made a file: keys, atomic writes, sidecars and failure rows.

Nothing counts as done because a file exists.  Every file a stage leaves has a sidecar
``.<file>.meta.json`` that holds the key it was made under and the size and sha256 of its bytes;
the file is current when its key is the one now expected and its bytes are those that were written.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench.core.errors import NotReady, TooManyFailures, WsibenchError

MIB = 1 << 20
PACKAGES = ("wsibench", "numpy", "torch", "timm", "transformers", "openslide-python", "openslide-bin", "anndata")
"""Whose versions a sidecar records."""


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_key(stage: str, format: int, section: Any, made_from: Iterable[str] = ()) -> str:
    """The key of an artefact.

    Parameters
    ----------
    stage
        Name of the room that makes it.
    format
        The room's integer format, raised only when the same input gives other results.
    section
        JSON-able settings that decide the content.
    made_from
        Keys (or file identities) of everything it is made from, in a meaningful order.
    """
    return digest({"stage": stage, "format": format, "section": section, "made_from": list(made_from)})


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slide_identity(path: Path) -> str:
    """Size and sha256 of the first and last MiB: tells slides apart without reading gigabytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        ends = hashlib.sha256(file.read(MIB))
        file.seek(max(0, size - MIB))
        ends.update(file.read(MIB))
    return f"{size}-{ends.hexdigest()}"


@dataclass(frozen=True)
class Artefact:
    """A file that a stage is to leave, and the key it must carry to count as made."""

    path: Path
    key: str

    def due(self) -> str | None:
        """Why the file has to be made, or None when it is current."""
        meta = read_meta(self.path)
        if meta is None:
            return "unfinished" if self.path.exists() else "missing"
        if not self.path.exists():
            return "missing"
        if meta["key"] != self.key:
            return "made from other input or settings"
        stat = self.path.stat()
        if stat.st_size != meta["size"]:
            return "changed since it was made"
        if stat.st_mtime_ns != meta["mtime_ns"] and file_sha256(self.path) != meta["sha256"]:
            return "changed since it was made"
        return None


def meta_path(path: Path) -> Path:
    """Where the sidecar of `path` lies: hidden, since people take whole folders of figures."""
    return path.with_name(f".{path.name}.meta.json")


def read_meta(path: Path) -> dict[str, Any] | None:
    """The sidecar of `path`, or None when there is no readable one."""
    try:
        return json.loads(meta_path(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def key_at(path: Path) -> str:
    """The key that the file at `path` was made under.

    Raises
    ------
    NotReady
        When the file or its sidecar is missing.
    """
    meta = read_meta(path)
    if meta is None or not path.exists():
        raise NotReady(f"{path} has not been made yet.", "Run the stage before this one, or `wsibench run <study>`.")
    return meta["key"]


@contextmanager
def writing(artefact: Artefact, **facts: Any) -> Iterator[Path]:
    """Write an artefact: yields a temporary path; on leaving, the file is synced, renamed and signed.

    A process killed at any point leaves either the old file, or a file without a sidecar (which
    counts as unfinished), never a half file under the real name.  `facts` go to the sidecar.

    Examples
    --------
    >>> with writing(Artefact(path, key), slide_id="S1") as temporary:
    ...     frame.to_parquet(temporary)
    """
    path = artefact.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keeps the suffix, since writers such as anndata and matplotlib choose a format by it.
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    started = time.time()
    try:
        yield temporary
        _sync(temporary)
        sha256 = file_sha256(temporary)
        meta_path(path).unlink(missing_ok=True)
        temporary.replace(path)
        sign(artefact, sha256, time.time() - started, facts)
    finally:
        temporary.unlink(missing_ok=True)


def sign(artefact: Artefact, sha256: str, seconds: float, facts: dict[str, Any]) -> None:
    """Write the sidecar of a file that lies under its real name: from now on it counts as made.

    `writing` does this itself; a download, which lives longer than one process, does it at its end.

    Parameters
    ----------
    artefact
        The file and the key it was made under.
    sha256
        Of its bytes.
    seconds
        How long making it took.
    facts
        Whatever else the sidecar should say.
    """
    stat = artefact.path.stat()
    meta = {
        "key": artefact.key,
        "size": stat.st_size,
        "sha256": sha256,
        "mtime_ns": stat.st_mtime_ns,
        "seconds": round(seconds, 3),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "facts": facts,
        "versions": versions(),
    }
    write_text(meta_path(artefact.path), json.dumps(meta, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small text file so that a reader never sees half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file that is no stage's: yields a temporary path; on leaving, the file is synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@cache
def versions() -> dict[str, str]:
    """Of python and `PACKAGES`, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Failure:
    """One slide that a stage could not process."""

    slide_id: str
    stage: str
    error: str
    remedy: str
    key: str
    """The key of the artefact that could not be made: another key is another attempt."""


def failure(slide_id: str, stage: str, key: str, error: BaseException) -> Failure:
    """The row that an exception becomes."""
    if isinstance(error, WsibenchError):
        return Failure(slide_id, stage, error.what, error.remedy, key)
    remedy = "Not a failure that wsibench knows: check that the file is whole, then report it with this row."
    return Failure(slide_id, stage, f"{type(error).__name__}: {error}", remedy, key)


def read_failures(path: Path) -> list[Failure]:
    """All rows of ``failures.csv``; none when there is no such file."""
    if not path.exists():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [Failure(**row) for row in frame.to_dict("records")]


def failures_table(path: Path) -> pd.DataFrame:
    """``failures.csv`` as people read it: without the keys."""
    rows = [asdict(row) for row in read_failures(path)]
    return pd.DataFrame(rows, columns=["slide_id", "stage", "error", "remedy"])


def record_failures(path: Path, stage: str, failures: Iterable[Failure]) -> None:
    """Replace the rows of one stage in ``failures.csv``, leaving those of other stages."""
    rows = [row for row in read_failures(path) if row.stage != stage]
    rows += sorted(failures, key=lambda row: row.slide_id)
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(Failure.__dataclass_fields__))
    write_text(path, frame.to_csv(index=False))


def check_failures(failures: list[Failure], n_slides: int, limit: float) -> None:
    """Raise when more than the share `limit` of the slides failed.

    Raises
    ------
    TooManyFailures
        Names the first few slides and their remedies.
    """
    if len(failures) > limit * n_slides:
        first = "; ".join(f"{row.slide_id}: {row.error} {row.remedy}".strip() for row in failures[:3])
        raise TooManyFailures(
            f"{len(failures)} of {n_slides} slides failed, more than limits.failed_slides = {limit:g} allows. {first}",
            "All of them are in failures.csv. Mend or drop them, or raise the limit in study.yaml.",
        )
