"""A local server that imitates the GDC and its faults, with the files that it offers."""

import hashlib
import io
import json
import socket
import struct
import tarfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = "TCGA-BRCA"
KNOWN = {
    "file_id", "file_name", "file_size", "md5sum", "access", "data_type", "data_format", "experimental_strategy",
    "analysis.workflow_type", "associated_entities.entity_submitter_id", "cases.submitter_id",
    "cases.project.project_id", "cases.samples.submitter_id", "cases.samples.sample_type",
    "cases.samples.preservation_method", "cases.samples.portions.is_ffpe",
}  # fmt: skip
"""Fields that the server can be asked for; others give a 400."""


class GdcServer(ThreadingHTTPServer):
    """Offers files; `trouble` scripts what goes wrong with the next requests of a path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hits: dict[str, dict] = {}
        self.content: dict[str, bytes] = {}
        self.log: list[tuple[str, str, dict[str, str], Any]] = []
        self.bytes_sent: dict[str, int] = defaultdict(int)
        self.chunk_pause_s = 0.0
        self._trouble: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def trouble(self, path: str, *kinds: str | tuple[str, Any]) -> None:
        """Script faults of the next requests of a path, one each, in order: a kind, or (kind, value).

        ``status`` (a code), ``reset`` (after so many bytes), ``truncate`` (likewise, closed in
        peace), ``corrupt`` (a byte is changed), ``ignore_range`` (200 on a Range), ``shift_range``
        (another range than asked for), ``warnings``, ``broken_json``, ``drop_members``.
        """
        self._trouble[path] += [(kind, None) if isinstance(kind, str) else kind for kind in kinds]

    def next_trouble(self, path: str) -> tuple[str, Any]:
        with self._lock:
            return self._trouble[path].pop(0) if self._trouble[path] else ("", None)

    def offer(self, name: str, content: bytes, *, file_id: str | None = None, **hit: Any) -> dict:
        """Offer a file under a new id; its entry."""
        file_id = file_id or str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        entry = {
            "id": file_id,
            "file_id": file_id,
            "file_name": name,
            "file_size": len(content),
            "md5sum": hashlib.md5(content).hexdigest(),
            "access": "open",
        } | hit
        self.hits[file_id], self.content[file_id] = entry, content
        return entry

    def offer_slide(self, barcode: str, content: bytes) -> dict:
        """Offer a diagnostic slide as the GDC describes one."""
        name = f"{barcode}.{str(uuid.uuid5(uuid.NAMESPACE_DNS, barcode)).upper()}.svs"
        return self.offer(
            name,
            content,
            data_type="Slide Image",
            data_format="SVS",
            experimental_strategy="Diagnostic Slide",
            associated_entities=[{"entity_submitter_id": barcode}],
            cases=[_case(barcode)],
        )

    def offer_rna(self, barcode: str, content: bytes, *, ffpe: bool = False) -> dict:
        """Offer a STAR counts file as the GDC describes one."""
        return self.offer(
            f"{uuid.uuid5(uuid.NAMESPACE_OID, barcode)}.rna_seq.augmented_star_gene_counts.tsv",
            content,
            data_type="Gene Expression Quantification",
            data_format="TSV",
            experimental_strategy="RNA-Seq",
            analysis={"workflow_type": "STAR - Counts"},
            associated_entities=[{"entity_submitter_id": barcode}],
            cases=[_case(barcode, ffpe=ffpe)],
        )

    def rename(self, file_id: str, new: str) -> None:
        """Give a file another id, as a data release does."""
        entry = self.hits.pop(file_id)
        self.hits[new] = entry | {"id": new, "file_id": new}
        self.content[new] = self.content.pop(file_id)

    def asked(self, method: str, prefix: str) -> list[tuple[str, str, dict[str, str], Any]]:
        """Logged requests."""
        return [entry for entry in self.log if entry[0] == method and entry[1].startswith(prefix)]

    def slides_asked(self) -> list[str]:
        """Ids of slides whose content was asked for, once a request."""
        asked = [path.removeprefix("/data/") for _, path, _, _ in self.asked("GET", "/data/")]
        return [file_id for file_id in asked if self.hits[file_id]["file_name"].endswith(".svs")]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server."""


@contextmanager
def serving() -> Iterator[GdcServer]:
    """A server that runs meanwhile."""
    with GdcServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _case(barcode: str, *, ffpe: bool = False) -> dict:
    sample = barcode[:16]
    kind = {"01": "Primary Tumor", "06": "Metastatic", "11": "Solid Tissue Normal"}[sample[13:15]]
    return {
        "submitter_id": barcode[:12],
        "project": {"project_id": PROJECT},
        "samples": [
            {
                "submitter_id": sample,
                "sample_type": kind,
                "preservation_method": "FFPE" if ffpe else None,
                "portions": [{"is_ffpe": ffpe}],
            }
        ],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GdcServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._note(None)
        kind, value = self.server.next_trouble(self.path)
        if kind == "status":
            self._refuse(value)
        elif self.path == "/status":
            self._json(200, {"status": "OK", "tag": "7.9", "data_release": "Data Release 45.0 - December 04, 2025"})
        elif (file_id := self.path.removeprefix("/data/")) in self.server.content:
            self._send_file(file_id, kind, value)
        else:
            self._refuse(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        kind, value = self.server.next_trouble(self.path)
        if kind == "status":
            self._refuse(value)
        elif self.path == "/files":
            self._search(body, kind, value)
        elif self.path == "/data":
            self._send_archive(body["ids"], kind, value)
        else:
            self._refuse(404)

    def _note(self, body: Any) -> None:
        self.server.log.append((self.command, self.path, dict(self.headers), body))

    def _refuse(self, status: int) -> None:
        self._json(status, {"error": "refused", "message": f"scripted {status}"})

    def _json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _search(self, body: dict, kind: str, value: Any) -> None:
        wanted = {term["content"]["field"]: term["content"]["value"] for term in body["filters"]["content"]}
        fields = body["fields"].split(",")
        if unknown := sorted((set(fields) | set(wanted)) - KNOWN):
            self._json(400, {"error": "Bad Request", "message": f"unrecognized values: {unknown}"})
            return
        hits = [
            hit
            for hit in self.server.hits.values()
            if all(set(_values(hit, field.split("."))) & set(allowed) for field, allowed in wanted.items())
        ]
        key, _, order = body["sort"].partition(":")
        hits.sort(key=lambda hit: hit[key], reverse=order == "desc")
        size, start = body["size"], body["from"]
        page = [_only(hit, [field.split(".") for field in fields]) for hit in hits[start : start + size]]
        pagination = {"count": len(page), "total": len(hits), "size": size, "from": start, "sort": body["sort"]}
        content = {"data": {"hits": page, "pagination": pagination}, "warnings": {}}
        if kind == "warnings":
            content["warnings"] = {"facets": "unrecognized values: [nonsense]"}
        if kind == "broken_json":
            self._send(200, json.dumps(content).encode()[:-20], {"Content-Type": "application/json"})
        else:
            self._json(200, content)

    def _send_file(self, file_id: str, kind: str, value: Any) -> None:
        content = self.server.content[file_id]
        headers = {"Content-Disposition": f"attachment; filename={self.server.hits[file_id]['file_name']}"}
        status, start = 200, 0
        asked = self.headers.get("Range")
        if asked and kind != "ignore_range":
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self._refuse(416)
                return
            start += value if kind == "shift_range" else 0
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if kind == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        self._send(status, content[start:], headers, kind, value, count=file_id)

    def _send_archive(self, ids: Sequence[str], kind: str, value: Any) -> None:
        if unknown := [file_id for file_id in ids if file_id not in self.server.content]:
            self._json(404, {"error": "not found", "message": str(unknown)})
            return
        if len(ids) == 1:
            self._send_file(ids[0], kind, value)
            return
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for file_id in ids[: len(ids) - (value if kind == "drop_members" else 0)]:
                content = self.server.content[file_id]
                if kind == "corrupt" and file_id == ids[0]:
                    content = bytes([content[0] ^ 1]) + content[1:]
                _add(archive, f"{file_id}/{self.server.hits[file_id]['file_name']}", content)
            _add(archive, "MANIFEST.txt", b"id\tfilename\tmd5\tsize\tstate\n")
        self._send(200, buffer.getvalue(), {"Content-Type": "application/x-tar"}, kind, value)

    def _send(
        self, status: int, content: bytes, headers: dict, kind: str = "", value: Any = None, count: str = ""
    ) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = value if kind in ("reset", "truncate") else len(content)
        for at in range(0, cut, 1 << 16):
            piece = content[at : min(cut, at + (1 << 16))]
            self.wfile.write(piece)
            self.server.bytes_sent[count] += len(piece)
            if self.server.chunk_pause_s:
                threading.Event().wait(self.server.chunk_pause_s)
        if kind in ("reset", "truncate"):
            self.close_connection = True
            self.wfile.flush()
            if kind == "reset":  # closing at once, with unsent data thrown away, resets the connection
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _values(hit: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(hit, list):
        for item in hit:
            yield from _values(item, path)
    elif not path:
        yield hit
    elif isinstance(hit, dict) and path[0] in hit:
        yield from _values(hit[path[0]], path[1:])


def _only(hit: Any, paths: list[list[str]]) -> Any:
    """An entry with the fields that were asked for."""
    if isinstance(hit, list):
        return [_only(item, paths) for item in hit]
    kept = {}
    for name, value in hit.items():
        below = [path[1:] for path in paths if path[0] == name]
        if name == "id" or [] in below:
            kept[name] = value
        elif below:
            kept[name] = _only(value, below)
    return kept


def star_tsv(genes: Sequence[tuple[str, str, str]], counts: np.ndarray, tpm: np.ndarray) -> bytes:
    """A STAR counts file in the GDC's format.

    Parameters
    ----------
    genes
        (gene_id with version, gene_name, gene_type).
    counts
        Unstranded counts, (n_genes,).
    tpm
        Transcripts per million, (n_genes,).
    """
    lines = [
        "# gene-model: GENCODE v36",
        "gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded"
        "\tfpkm_uq_unstranded",
    ]
    lines += [f"{name}\t\t\t{n}\t{n}\t{n}\t\t\t" for name, n in _UNCOUNTED.items()]
    for (gene_id, symbol, kind), count, value in zip(genes, counts, tpm, strict=True):
        lines.append(f"{gene_id}\t{symbol}\t{kind}\t{count}\t0\t{count}\t{value:.4f}\t{value / 3:.4f}\t{value / 2:.4f}")
    return ("\n".join(lines) + "\n").encode()


_UNCOUNTED = {"N_unmapped": 8120268, "N_multimapping": 4402480, "N_noFeature": 1446120, "N_ambiguous": 5551010}


def save(folder: Path, hit: dict, content: bytes) -> Path:
    """A file as gdc-client leaves it: ``<uuid>/<name>``."""
    path = folder / hit["file_id"] / hit["file_name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
