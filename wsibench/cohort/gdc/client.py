"""Search the Genomic Data Commons (GDC) for a project's files, and keep its answer as a snapshot.

Only open data is asked for, and no token is sent: the GDC refuses even open files to a token that
has expired.  API: https://docs.gdc.cancer.gov/API/Users_Guide/Getting_Started/
"""

import gzip
import json
import os
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from wsibench.core import GdcError

T = TypeVar("T")

API = "https://api.gdc.cancer.gov"
# Files asked for at once: the GDC answers 503 or 504 to large requests.
PAGE = 500
FIELDS = (
    "file_id", "file_name", "file_size", "md5sum", "access",
    "associated_entities.entity_submitter_id", "cases.submitter_id",
    "cases.samples.submitter_id", "cases.samples.sample_type", "cases.samples.preservation_method",
    "cases.samples.portions.is_ffpe",
)  # fmt: skip
SLIDES = {
    "data_type": "Slide Image",
    "experimental_strategy": "Diagnostic Slide",
    "data_format": "SVS",
    "access": "open",
}
RNA = {
    "data_type": "Gene Expression Quantification",
    "analysis.workflow_type": "STAR - Counts",
    "access": "open",
}
FORMAT = 1
# Allowed names of files: they become paths here.
FILE_NAME = re.compile(r"\w[\w.-]*")
# Answers after which a request is repeated.
BUSY = (429, 500, 502, 503, 504)
# Attempts in a row without progress before a request counts as failed: about two minutes.
ATTEMPTS = 8
# Pause after the first failed attempt; it doubles each time, up to a minute.
BACKOFF_S = 1.0
# To connect, and between two packets.
TIMEOUT_S = (30, 120)
# Errors that JSON of another structure than expected leads to.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class GdcFile:
    """A file that the GDC offers."""

    file_id: str
    name: str
    size: int  # bytes
    md5: str


class Unreachable(GdcError):
    """The network or the GDC is down: attempt after attempt failed."""


class Refused(GdcError):
    """A request that the GDC will not serve (4xx)."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


class Interrupted(Exception):
    """An answer that broke off or arrived damaged; another attempt may succeed."""


def api() -> str:
    """Address of the API: ``WSIBENCH_GDC`` (tests, mirrors), or the GDC's own."""
    return (os.environ.get("WSIBENCH_GDC") or API).rstrip("/")


def new_session() -> requests.Session:
    """Open a session that repeats failed requests, asks for bytes as they are stored and never authenticates."""
    session = requests.Session()
    # Without an `auth` of our own, requests would send the credentials that ~/.netrc has for the host.
    session.auth = lambda request: request
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "wsibench"})
    retry = Retry(
        ATTEMPTS - 1,
        backoff_factor=BACKOFF_S,
        backoff_max=60,
        backoff_jitter=BACKOFF_S,  # parallel downloads should not all return at the same moment
        status_forcelist=BUSY,
        allowed_methods=None,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def send(session: requests.Session, method: str, path: str, **options: Any) -> requests.Response:
    """Send one request, repeated while the connection fails or the server is busy.

    Parameters
    ----------
    session
        From `new_session`.
    method
        ``GET`` or ``POST``.
    path
        Below the API's address, such as ``/files``.
    options
        Passed on to `requests.Session.request`.

    Raises
    ------
    Unreachable
        When no attempt succeeded.
    Refused
        When the server refuses (4xx); carries its message.
    Interrupted
        When the answer's body broke off.
    """
    url = f"{api()}{path}"
    try:
        response = session.request(method, url, timeout=TIMEOUT_S, **options)
    except requests.exceptions.ChunkedEncodingError as error:
        raise Interrupted(f"{url}: {error}") from None
    except requests.RequestException as error:
        raise _unreachable(f"{url}: {error}") from None
    if response.status_code < 400:
        return response
    with response:
        raise Refused(response.status_code, f"{url} answered {response.status_code}: {response.text[:300]}")


def _unreachable(reason: str) -> Unreachable:
    return Unreachable(
        f"No success after {ATTEMPTS} attempts: {reason}.",
        "Check the network, or try later; a second run continues where this one stopped.",
    )


def persist(attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Call a function until it returns, pausing longer after each `Interrupted`.

    Parameters
    ----------
    attempt
        Raises `Interrupted` when it should be called again.
    progress
        Amount transferred so far: an attempt that increased it does not count as failed.

    Raises
    ------
    Unreachable
        After `ATTEMPTS` attempts without progress.
    """
    failed, before = 0, progress()
    while True:
        try:
            return attempt()
        except Interrupted as error:
            failed, before = (1 if progress() > before else failed + 1), progress()
            if failed >= ATTEMPTS:
                raise _unreachable(str(error)) from None
            time.sleep(min(60, BACKOFF_S * 2 ** (failed - 1)))


def _ask(session: requests.Session, method: str, path: str, **options: Any) -> Any:
    """Send a request and parse the JSON of its answer."""

    def attempt() -> Any:
        response = send(session, method, path, **options)
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise Interrupted(f"{response.url} answered with broken JSON ({error})") from None

    return persist(attempt)


def find_files(session: requests.Session, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """List all files that match, page by page, sorted by file_id.

    Parameters
    ----------
    session
        From `new_session`.
    wanted
        Value of each field; all must match.

    Returns
    -------
    list of dict
        The GDC's entries, as it answered.

    Raises
    ------
    GdcError
        When the GDC refuses, warns, answers in another form, or lists another number of files than announced.
    """
    found: dict[str, dict] = {}
    announced: int | None = None
    n_listed = 0
    terms = [{"op": "in", "content": {"field": field, "value": [value]}} for field, value in wanted.items()]
    query = {
        "filters": {"op": "and", "content": terms},
        "fields": ",".join(FIELDS),
        "format": "JSON",
        "size": PAGE,
        "sort": "file_id:asc",
    }
    while announced is None or n_listed < announced:
        page, total = _page(_ask(session, "POST", "/files", json=query | {"from": n_listed}))
        n_listed += len(page)
        found |= {hit["id"]: hit for hit in page}
        if total != (announced or total) or len(found) != n_listed or n_listed > total or len(page) < min(1, total):
            raise GdcError(
                f"The GDC announced {announced or total} files, then {total}, and listed {n_listed}, {len(found)} of "
                "them unique.",
                "Its index changed between two pages: ask again.",
            )
        announced = total
    return list(found.values())


def _page(answer: Any) -> tuple[list[dict[str, Any]], int]:
    """Entries of one page, and the number of all files, from an answer without warnings."""
    try:
        # A misspelt facet gives a 200 with every file there is, and only a warning.
        if warnings := answer.get("warnings"):
            raise GdcError(f"The GDC warns: {json.dumps(warnings)}.", "The answer cannot be relied on.")
        hits, total = answer["data"]["hits"], int(answer["data"]["pagination"]["total"])
        {hit["id"]: hit for hit in hits}
    except MALFORMED as error:
        raise _unexpected(error) from None
    return hits, total


def _unexpected(error: Exception) -> GdcError:
    return GdcError(
        f"The GDC's list of files is not of the form that its API documents ({error!r}).",
        "Try later; if you named a snapshot, take a new one by removing `snapshot` from study.yaml.",
    )


def find_again(session: requests.Session, file: GdcFile) -> GdcFile:
    """Find a file under its present id, since data releases change ids and keep names.

    Raises
    ------
    GdcError
        When there is no file of that name, or its content has changed.
    """
    found = gdc_files(file_table(find_files(session, {"file_name": file.name})))
    for other in found:
        if other.md5 == file.md5:
            return other
    what = f"now has md5 {found[0].md5} (was {file.md5})" if found else "is no longer offered"
    raise GdcError(
        f"{file.name} {what}.",
        "The GDC has published a new release since the snapshot was taken: take a new one by deleting "
        "gdc/snapshot.json.gz in the study's data folder (or the study's `snapshot` key).",
    )


# Snapshots


def ask(project: str) -> dict[str, Any]:
    """Ask for a project's diagnostic slides and STAR counts.

    Parameters
    ----------
    project
        Such as ``TCGA-BRCA``.

    Returns
    -------
    dict
        The snapshot, JSON-able: project, api, asked (UTC), status (the GDC's own, with its data release),
        slides and rna (the GDC's entries as they are).

    Raises
    ------
    GdcError
        When the GDC cannot be reached, refuses, or has no such files.
    """
    with new_session() as session:
        status = _ask(session, "GET", "/status")
        found = {
            kind: find_files(session, {"cases.project.project_id": project} | wanted)
            for kind, wanted in (("slides", SLIDES), ("rna", RNA))
        }
    if not all(found.values()):
        raise GdcError(
            f"The GDC lists {len(found['slides'])} slides and {len(found['rna'])} STAR counts of project {project!r}.",
            "Look the project's name up on https://portal.gdc.cancer.gov, e.g. TCGA-BRCA.",
        )
    asked = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"format": FORMAT, "project": project, "api": api(), "asked": asked, "status": status, **found}


def save_snapshot(snapshot: dict[str, Any], path: Path) -> None:
    """Write a snapshot as JSON, gzipped when the name ends so; the same content gives the same bytes."""
    text = json.dumps(snapshot, indent=1, sort_keys=True).encode() + b"\n"
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def read_snapshot(path: Path, project: str) -> dict[str, Any]:
    """Read the snapshot of a project.

    Raises
    ------
    GdcError
        When it cannot be read, or is another project's.
    """
    try:
        content = path.read_bytes()
        snapshot = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
        found = snapshot["project"]
        snapshot["slides"], snapshot["rna"], snapshot["status"].get("data_release")
    except (OSError, EOFError, zlib.error, *MALFORMED) as error:
        raise GdcError(
            f"{path} is not a saved answer of the GDC ({error!r}).",
            "Give the gdc/snapshot.json.gz of an earlier run, or leave `snapshot` out to ask the GDC.",
        ) from None
    if found != project:
        raise GdcError(f"{path} is of project {found!r}, and the study wants {project!r}.", "Correct one of them.")
    return snapshot


def file_table(hits: list[dict[str, Any]]) -> pd.DataFrame:
    """Tabulate the GDC's entries.

    Returns
    -------
    DataFrame
        One row a file: file_id, file_name, size (bytes), md5, barcode, ffpe (bool).

    Raises
    ------
    GdcError
        For an entry that lacks one of these, belongs to several aliquots, or names no allowed file name.
    """
    try:
        table = pd.DataFrame(map(_row, hits), columns=["file_id", "file_name", "size", "md5", "barcode", "ffpe"])
        return table.astype({"size": "int64"})
    except MALFORMED as error:
        raise _unexpected(error) from None


def _row(hit: dict[str, Any]) -> tuple[str, str, int, str, str, bool]:
    name = hit["file_name"]
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise GdcError(f"The GDC lists a file named {name!r}, which is no allowed file name.")
    entities = [entity["entity_submitter_id"] for entity in hit.get("associated_entities") or []]
    if len(entities) > 1:
        raise GdcError(f"{name} belongs to several entities: {', '.join(entities)}.")
    samples = [sample for case in hit.get("cases") or [] for sample in case.get("samples") or []]
    portions = [portion for sample in samples for portion in sample.get("portions") or []]
    ffpe = any(each.get("preservation_method") == "FFPE" for each in samples)
    ffpe = ffpe or any(each.get("is_ffpe") for each in portions)
    # Slides are named by their barcode; 74 of TCGA's hang on no sample of their own.
    barcode = entities[0] if entities else name.split(".")[0]
    return str(hit["file_id"]), name, int(hit["file_size"]), hit["md5sum"].lower(), barcode, ffpe


def gdc_files(rows: pd.DataFrame) -> list[GdcFile]:
    """List the files of a `file_table`."""
    columns = rows[["file_id", "file_name", "size", "md5"]]
    return [GdcFile(*row) for row in columns.itertuples(index=False, name=None)]
