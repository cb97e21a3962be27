"""Keys of artefacts, atomic writes, sidecars and failed slides.

A file is not current because it exists. Every file that a stage makes has a sidecar ``.<file>.meta.json``
with the key that it was made under and the size and sha256 of its bytes; the file is current when its key
is the expected one and its bytes are those that were written.
"""

import glob
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench.core.errors import NotReady, TooManyFailures, WsibenchError

MIB = 1 << 20
# Packages that wsibench requires, whose versions are recorded in sidecars.
PACKAGES = ("wsibench", "numpy", "torch", "timm", "transformers", "openslide-python", "openslide-bin", "anndata")


def digest(value: Any) -> str:
    """Hash the canonical JSON of `value` (sorted keys, no spaces, no NaN) to a hex sha256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def make_key(stage: str, format: int, section: Any, made_from: Iterable[str] = ()) -> str:
    """Hash everything that decides the content of an artefact to its key.

    Parameters
    ----------
    stage
        Name of the stage that makes it.
    format
        Version of the stage's results, raised only when the same input gives other results.
    section
        Settings that decide the content, JSON-serialisable.
    made_from
        Keys or identities of the input files, in a meaningful order.
    """
    return digest({"stage": stage, "format": format, "section": section, "made_from": list(made_from)})


def file_sha256(path: Path) -> str:
    """Hash the bytes of a file to a hex sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slide_identity(path: Path) -> str:
    """Identify a slide by its size and the sha256 of its first and last MiB, without reading gigabytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        ends = hashlib.sha256(file.read(MIB))
        file.seek(max(0, size - MIB))
        ends.update(file.read(MIB))
    return f"{size}-{ends.hexdigest()}"


@dataclass(frozen=True)
class Artefact:
    """A file that a stage makes, and the key under which it is current."""

    path: Path
    key: str

    def due(self) -> str | None:
        """Reason why the file has to be made, or None when it is current."""
        if not self.path.exists():
            return "missing"
        meta = read_meta(self.path)
        if meta is None:
            return "unfinished"
        if meta["key"] != self.key:
            return "made from other input or settings"
        stat = self.path.stat()
        touched = stat.st_mtime_ns != meta["mtime_ns"]
        if stat.st_size != meta["size"] or (touched and file_sha256(self.path) != meta["sha256"]):
            return "changed since it was made"
        return None


def meta_path(path: Path) -> Path:
    """Path of the sidecar of a file, hidden because people copy whole folders of figures."""
    return path.with_name(f".{path.name}.meta.json")


def read_meta(path: Path) -> dict[str, Any] | None:
    """Sidecar of the file at `path`, or None when there is none or it is damaged."""
    try:
        meta = json.loads(meta_path(path).read_bytes())
        intact = meta.pop("checksum") == _checksum(meta)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return meta if intact else None


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def key_at(path: Path) -> str:
    """Key of the file at `path`, from its sidecar.

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
    """Write an artefact atomically: yield a temporary path, then sync, rename and sign the file.

    A process killed at any point leaves either the old file, or a file without a sidecar (which
    counts as unfinished), never half a file under the real name. `facts` are stored in the sidecar.

    Examples
    --------
    >>> with writing(Artefact(path, key), slide_id="S1") as temporary:
    ...     frame.to_parquet(temporary)
    """
    started = time.time()
    with replacing(artefact.path) as temporary:
        yield temporary
        sha256 = file_sha256(temporary)
        meta_path(artefact.path).unlink(missing_ok=True)
    sign(artefact, sha256, time.time() - started, facts)


def sign(artefact: Artefact, sha256: str, seconds: float, facts: dict[str, Any]) -> None:
    """Write the sidecar of a file that lies under its real name; from then on the file is current.

    `writing` calls this itself; only downloads, which outlive a process, call it directly.

    Parameters
    ----------
    artefact
        The file and the key that it was made under.
    sha256
        Hex digest of the file's bytes.
    seconds
        Time that it took to make the file.
    facts
        Any further content of the sidecar.
    """
    stat = artefact.path.stat()
    stated = {
        "key": artefact.key,
        "size": stat.st_size,
        "sha256": sha256,
        "mtime_ns": stat.st_mtime_ns,
        "seconds": round(seconds, 3),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "facts": facts,
        "versions": versions(),
    }
    meta = json.loads(json.dumps(stated, default=str))
    write_text(meta_path(artefact.path), json.dumps(meta | {"checksum": _checksum(meta)}, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically and without a sidecar: yield a temporary path, then sync and rename the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # Keeps the suffix, since writers such as anndata and matplotlib choose a format by it.
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes left for `path`."""
    for part in path.parent.glob(f".*.part.{glob.escape(path.name)}"):
        if not Path("/proc", part.name.split(".")[1]).exists():
            part.unlink(missing_ok=True)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


@dataclass(frozen=True)
class Failure:
    """A slide that a stage could not process.

    Its `key` is that of the artefact that could not be made: another key is another attempt.
    """

    slide_id: str
    stage: str
    error: str
    remedy: str
    key: str


def failure(slide_id: str, stage: str, key: str, error: BaseException) -> Failure:
    """Turn an exception into a row of ``failures.csv``.

    Parameters
    ----------
    slide_id
        The slide that failed.
    stage
        Name of the stage.
    key
        Key of the artefact that could not be made.
    error
        The exception; its remedy is taken over when it is an error of wsibench.
    """
    if isinstance(error, WsibenchError):
        return Failure(slide_id, stage, error.what, error.remedy, key)
    remedy = "An unexpected error: check that the file is complete, then report it with this row."
    return Failure(slide_id, stage, f"{type(error).__name__}: {error}", remedy, key)


def read_failures(path: Path) -> list[Failure]:
    """Rows of ``failures.csv``; none when there is no such file or it is damaged."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")
        return [Failure(**row) for row in frame.to_dict("records")]
    except (OSError, ValueError, TypeError):
        return []


def record_failures(path: Path, stage: str, failures: Iterable[Failure]) -> None:
    """Replace the rows of one stage in ``failures.csv``, and keep those of other stages.

    Parameters
    ----------
    path
        Path of failures.csv.
    stage
        Name of the stage.
    failures
        Its new rows.
    """
    rows = [row for row in read_failures(path) if row.stage != stage]
    rows += sorted(failures, key=lambda row: row.slide_id)
    write_text(path, pd.DataFrame(rows, columns=list(Failure.__dataclass_fields__)).to_csv(index=False))


def check_failures(failures: list[Failure], n_slides: int, limit: float) -> None:
    """Raise when more than a share of the slides failed.

    Parameters
    ----------
    failures
        One row a failed slide.
    n_slides
        Number of all slides.
    limit
        Share of the slides that may fail.

    Raises
    ------
    TooManyFailures
        With the first few slides and their remedies.
    """
    if len(failures) > limit * n_slides:
        first = "; ".join(f"{row.slide_id}: {row.error} {row.remedy}".strip() for row in failures[:3])
        raise TooManyFailures(
            f"{len(failures)} of {n_slides} slides failed, more than limits.failed_slides = {limit:g} allows. {first}",
            "All of them are in failures.csv. Repair or drop them, or raise the limit in study.yaml.",
        )
