"""The client of the Genomic Data Commons (GDC): sessions, retries, and searching its files.

Only open data is asked for, and no token is sent: the GDC refuses even open files to a token that
has expired.  API: https://docs.gdc.cancer.gov/API/Users_Guide/Getting_Started/
"""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

from wsibench.core import GdcError

T = TypeVar("T")

API = "https://api.gdc.cancer.gov"
PAGE = 500
"""Files asked for at once: the GDC answers 503 or 504 to large requests."""
FIELDS = (
    "file_id", "file_name", "file_size", "md5sum", "access",
    "associated_entities.entity_submitter_id", "cases.submitter_id",
    "cases.samples.submitter_id", "cases.samples.sample_type", "cases.samples.preservation_method",
    "cases.samples.portions.is_ffpe",
)  # fmt: skip
ATTEMPTS = 8
"""Attempts in a row without any progress, after which a request has failed: about two minutes."""
FIRST_WAIT_S = 1.0
"""Wait before the second attempt; it doubles each time, up to a minute."""
TIMEOUT_S = (30, 120)
"""To connect, and between two packets."""


@dataclass(frozen=True)
class GdcFile:
    """A file that the GDC offers."""

    file_id: str
    name: str
    size: int
    md5: str


class Transient(Exception):
    """An attempt that failed in a way that another attempt may not."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Unreachable(GdcError):
    """Attempt after attempt failed: the network or the GDC is down."""


def api() -> str:
    """Where the API is: ``WSIBENCH_GDC`` (tests, mirrors), else the GDC's own address."""
    return (os.environ.get("WSIBENCH_GDC") or API).rstrip("/")


def new_session(connections: int = 1) -> requests.Session:
    """A session that asks for bytes as they are stored and never authenticates."""
    session = requests.Session()
    # Without an own `auth`, requests would send what ~/.netrc has for the host.
    session.auth = lambda request: request
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "wsibench"})
    adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def send(session: requests.Session, method: str, path: str, **options: Any) -> requests.Response:
    """One attempt at one request.

    Raises
    ------
    Transient
        When the connection fails or the server is busy (429, 5xx).
    GdcError
        When the server refuses (4xx); carries its message.
    """
    url = f"{api()}{path}"
    try:
        response = session.request(method, url, timeout=TIMEOUT_S, **options)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Transient(f"{url}: {error}") from None
    if response.status_code < 400:
        return response
    with response:
        if response.status_code == 429 or response.status_code >= 500:
            wait = response.headers.get("Retry-After", "")
            raise Transient(f"{url} answered {response.status_code}", float(wait) if wait.isdecimal() else 0.0)
        raise Refused(response.status_code, f"{url} answered {response.status_code}: {_message(response)}")


class Refused(GdcError):
    """A request that the GDC will not serve (4xx)."""

    def __init__(self, status: int, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.status = status


def _message(response: requests.Response) -> str:
    """The reason that the GDC gives with a refusal."""
    try:
        content = response.json()
        return str(content.get("message") or content.get("error") or content)
    except (ValueError, AttributeError):
        return response.text[:200]


def retrying(
    attempt: Callable[[], T],
    *,
    progressed: Callable[[], int] = lambda: 0,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Call `attempt` until it succeeds, waiting longer and longer after each `Transient`.

    Parameters
    ----------
    attempt
        Raises `Transient` when it should be called again.
    progressed
        How much there is so far: while it grows, the attempts are not counted.
    sleep
        Waits so many seconds.

    Raises
    ------
    Unreachable
        After `ATTEMPTS` attempts without progress.
    """
    failed, before = 0, progressed()
    while True:
        try:
            return attempt()
        except Transient as error:
            failed, before = (1, progressed()) if progressed() > before else (failed + 1, before)
            if failed >= ATTEMPTS:
                raise Unreachable(
                    f"No success after {ATTEMPTS} attempts: {error}.",
                    "Check the network, or try later; a second run goes on where this one stopped.",
                ) from None
            # Random, so that parallel downloads do not all come back at the same moment.
            pause = min(60.0, FIRST_WAIT_S * 2 ** (failed - 1)) * random.uniform(0.5, 1.0)
            sleep(max(error.wait_s, pause))


def status(session: requests.Session) -> dict[str, Any]:
    """What the GDC says of itself: data_release, tag, ….

    Raises
    ------
    GdcError
        When it cannot be reached.
    """
    return retrying(lambda: _json(send(session, "GET", "/status")))


def files(session: requests.Session, wanted: dict[str, str | list[str]]) -> list[dict]:
    """All files that match, page by page, sorted by file_id.

    Parameters
    ----------
    session
        From `new_session`.
    wanted
        Field → value, or list of allowed values; all must hold.

    Raises
    ------
    GdcError
        When the GDC refuses, warns, or answers with another number of files than it announced.
    """
    hits: list[dict] = []
    totals: set[int] = set()
    while True:
        body = {
            "filters": _all_of(wanted),
            "fields": ",".join(FIELDS),
            "format": "JSON",
            "size": PAGE,
            "from": len(hits),
            "sort": "file_id:asc",
        }
        data = retrying(lambda body=body: _data(send(session, "POST", "/files", json=body)))
        hits += data["hits"]
        totals.add(data["pagination"]["total"])
        if len(hits) >= max(totals) or not data["hits"]:
            break
    unique = len({hit["file_id"] for hit in hits})
    if totals != {unique} or unique != len(hits):
        raise GdcError(
            f"The GDC announced {' and '.join(map(str, sorted(totals)))} files and listed {len(hits)}, "
            f"{unique} of them unique.",
            "Its index changed between two pages: ask again.",
        )
    return hits


def _all_of(wanted: dict[str, str | list[str]]) -> dict:
    terms = [
        {"op": "in", "content": {"field": field, "value": [value] if isinstance(value, str) else value}}
        for field, value in wanted.items()
    ]
    return {"op": "and", "content": terms}


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except (ValueError, requests.RequestException) as error:
        raise Transient(f"{response.url} answered with broken JSON ({error})") from None


def _data(response: requests.Response) -> Any:
    """The `data` of an answer without warnings."""
    answer = _json(response)
    # A misspelt facet gives a 200 with every file there is, and only a warning.
    if answer.get("warnings"):
        raise GdcError(f"The GDC warns: {json.dumps(answer['warnings'])}.", "The answer cannot be relied on.")
    return answer["data"]


def find_again(session: requests.Session, file: GdcFile) -> GdcFile:
    """The same file under the id that it has now, since data releases change ids and keep names.

    Raises
    ------
    GdcError
        When there is none of that name, or its bytes are others now.
    """
    hits = files(session, {"file_name": file.name})
    found = [GdcFile(hit["file_id"], hit["file_name"], hit["file_size"], hit["md5sum"].lower()) for hit in hits]
    same = [other for other in found if other.md5 == file.md5]
    if same:
        return same[0]
    what = f"now has md5 {found[0].md5} (was {file.md5})" if found else "is no longer offered"
    raise GdcError(
        f"{file.name} {what}.",
        "The GDC has published a new release since the snapshot was taken: take a new one by deleting "
        "gdc/snapshot.json.gz in the study's data folder (or the study's `snapshot` key).",
    )
