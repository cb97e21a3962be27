"""A project's files as the GDC listed them: asked once, kept, and read again without a network."""

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench.cohort.gdc import client
from wsibench.cohort.gdc.client import GdcFile
from wsibench.core import GdcError

FORMAT = 1
NAME = re.compile(r"\w[\w.-]*")
"""What a file may be called: names become paths here."""
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


def ask(project: str) -> dict[str, Any]:
    """Ask for a project's diagnostic slides and STAR counts: the answer is a snapshot.

    Returns
    -------
    JSON-able: project, api, asked (UTC), status (the GDC's own, with its data release), slides and
    rna (the GDC's hits as they are).

    Raises
    ------
    GdcError
        When the GDC cannot be reached, refuses, or has no such files.
    """
    with client.new_session() as session:
        status = client.status(session)
        found = {
            kind: client.files(session, {"cases.project.project_id": project} | wanted)
            for kind, wanted in (("slides", SLIDES), ("rna", RNA))
        }
    for kind, hits in found.items():
        if not hits:
            raise GdcError(
                f"The GDC has no open {kind} files of project {project!r}.",
                "Look the project's name up on https://portal.gdc.cancer.gov, e.g. TCGA-BRCA.",
            )
    asked = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"format": FORMAT, "project": project, "api": client.api(), "asked": asked, "status": status, **found}


def save_snapshot(snapshot: dict[str, Any], path: Path) -> None:
    """Write a snapshot as JSON, gzipped when the name ends so; the same content gives the same bytes."""
    text = json.dumps(snapshot, indent=1, sort_keys=True).encode() + b"\n"
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def read_snapshot(path: Path, project: str) -> dict[str, Any]:
    """Read a snapshot of `project`.

    Raises
    ------
    GdcError
        When it is missing, no snapshot, or another project's.
    """
    try:
        content = path.read_bytes()
        snapshot = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
        found = snapshot["project"]
        snapshot["slides"], snapshot["rna"], snapshot["status"]
    except FileNotFoundError:
        raise GdcError(f"There is no snapshot {path}.", "Leave `snapshot` out to ask the GDC.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise GdcError(
            f"{path} is not a saved answer of the GDC ({error!r}).",
            "Give the gdc/snapshot.json.gz that an earlier run left in its data folder.",
        ) from None
    if found != project:
        raise GdcError(f"{path} is of project {found!r}, and the study wants {project!r}.", "Correct one of them.")
    return snapshot


def file_table(hits: list[dict]) -> pd.DataFrame:
    """The GDC's hits as a table: file_id, file_name, size (bytes), md5, barcode, ffpe.

    Raises
    ------
    GdcError
        For a file that lacks one of these, belongs to several aliquots, or has a name that is none.
    """
    rows = []
    for hit in hits:
        if not NAME.fullmatch(str(hit.get("file_name") or "")):
            raise GdcError(f"The GDC lists a file named {hit.get('file_name')!r}, which cannot be one.")
        entities = [entity["entity_submitter_id"] for entity in hit.get("associated_entities") or []]
        if len(entities) > 1:
            raise GdcError(f"{hit.get('file_name')} belongs to several entities: {', '.join(entities)}.")
        try:
            rows.append(
                {
                    "file_id": hit["file_id"],
                    "file_name": hit["file_name"],
                    "size": int(hit["file_size"]),
                    "md5": hit["md5sum"].lower(),
                    # Slides are named by their barcode; 74 of TCGA's hang on no sample of their own.
                    "barcode": entities[0] if entities else hit["file_name"].split(".")[0],
                    "ffpe": _ffpe(hit),
                }
            )
        except KeyError as error:
            raise GdcError(f"The GDC's entry of {hit.get('file_name')} has no {error}.") from None
    return pd.DataFrame(rows, columns=["file_id", "file_name", "size", "md5", "barcode", "ffpe"])


def _ffpe(hit: dict) -> bool:
    samples = [sample for case in hit.get("cases") or [] for sample in case.get("samples") or []]
    portions = [portion for sample in samples for portion in sample.get("portions") or []]
    return any(sample.get("preservation_method") == "FFPE" for sample in samples) or any(
        portion.get("is_ffpe") for portion in portions
    )


def gdc_files(rows: pd.DataFrame) -> list[GdcFile]:
    """The files of a `file_table`."""
    columns = rows[["file_id", "file_name", "size", "md5"]]
    return [GdcFile(*row) for row in columns.itertuples(index=False, name=None)]
