"""Thousands of damaged inputs are read, or refused by one error of wsibench, and never end in another exception."""

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gdc_server import GdcServer, star_tsv
from own_tables import EXPRESSION, SLIDES

from wsibench.cohort.clinical import read_clinical, read_tcga_clinical
from wsibench.cohort.expression import read_expression_table
from wsibench.cohort.gdc import client, tables
from wsibench.cohort.sample_table import read_sample_table
from wsibench.core import CHECKOUT, Study, WsibenchError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOKENS = [
    *(
        b"",
        b"\x00",
        b"\xff",
        b'"',
        b",",
        b";",
        b"\n",
        b"\r",
        b"\t",
        b"#",
        b"{",
        b"[",
        b"*a",
        b"&a ",
        b"!!python/name:os",
    ),
    *(b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"null", b"~", b"${HOME}", b"../", b"\xef\xbb\xbf", b"\xe2\x80\xae"),
]
PATIENTS = "case,site,pam50,slide_ids\n007,A,LumA,a; b\n008,B,,c\n009,,Basal,\n"
CLINICAL = "Patient ID\tSample ID\tSubtype\tDiagnosis Age\nTCGA-A2-A001\tTCGA-A2-A001-01\tBRCA_LumA\t61\n"
GENES = [("ENSG1.1", "A", "protein_coding"), ("ENSG2.1", "B", "lncRNA"), ("ENSG3.1_PAR_Y", "A", "lncRNA")]
VALUES = [None, True, 0, -1, 10**400, 1.5, float("nan"), "", "x", "../x", [], {}, [[]], [None], {"a": 1}, [{}]]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes, once to four times."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randint(0, len(content)), rng.randint(0, 12)
        kind = rng.randrange(4)
        if kind == 0 and content:
            flipped = bytes([rng.randrange(256)])
            content = content[: max(0, at - 1)] + flipped + content[at:]
        elif kind == 1:
            content = content[:at] + content[at + length :]
        elif kind == 2:
            content = content[:at] + content[max(0, at - length) : at] * rng.randint(1, 3) + content[at:]
        else:
            content = content[:at] + rng.choice(TOKENS) + content[at:]
    return content


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """List every container and key of a JSON document."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def assert_refused_or_read(read: Callable[[], object], what: object) -> None:
    message = ""
    try:
        read()
    except WsibenchError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} for {what!r}") from error
    assert len(message) < 4000


def bytes_of(frame: pd.DataFrame, path: Path) -> bytes:
    frame.to_parquet(path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["slides", "patients"])
def test_sample_tables(tmp_path, kind):
    rng, path = random.Random(0), tmp_path / "table.csv"
    columns = {"patient_id": "case", "subtype": "pam50"} if kind == "patients" else {}
    for _ in range(1500):
        path.write_bytes(damaged((SLIDES if kind == "slides" else PATIENTS).encode(), rng))
        assert_refused_or_read(lambda: read_sample_table(path, kind, columns), path.read_bytes())


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_expression_tables(tmp_path, suffix):
    rng, path = random.Random(1), tmp_path / f"rna.{suffix}"
    frame = pd.DataFrame({"patient_id": ["007", "008", "009"], "A": [1.0, 2, 3], "B": [1.0, np.nan, 3]})
    whole = {
        "csv": EXPRESSION.encode(),
        "csv.gz": gzip.compress(EXPRESSION.encode(), mtime=0),
        "parquet": bytes_of(frame, tmp_path / "whole.parquet"),
    }[suffix]
    for _ in range(1000):
        path.write_bytes(damaged(whole, rng))
        assert_refused_or_read(lambda: read_expression_table(path, ["007", "008", "009"]), path.read_bytes())


def test_clinical_tables(tmp_path):
    rng, path = random.Random(2), tmp_path / "clinical.tsv"
    for _ in range(1000):
        path.write_bytes(damaged(CLINICAL.encode(), rng))
        assert_refused_or_read(lambda: read_tcga_clinical(path), path.read_bytes())
        path.write_bytes(damaged(b"patient_id,age\n007,61\n008,40\n", rng))
        assert_refused_or_read(lambda: read_clinical(path), path.read_bytes())


def test_star_counts(tmp_path):
    rng, path = random.Random(3), tmp_path / "star.tsv"
    whole = star_tsv(GENES, np.array([5, 0, 2]), np.array([0.5, 0, 2.25]))
    for _ in range(500):
        path.write_bytes(damaged(whole, rng))
        assert_refused_or_read(lambda: tables.read_star({"P1": path}), path.read_bytes())


@pytest.mark.parametrize("name", ["demo", "tcga-brca"])
def test_studies(data_root, name):
    rng, whole = random.Random(4), (CHECKOUT / "data" / name / "study.yaml").read_bytes()
    path = data_root / "own" / "study.yaml"
    path.parent.mkdir()
    for _ in range(700):
        path.write_bytes(damaged(whole, rng))
        assert_refused_or_read(lambda: Study.load("own"), path.read_bytes())


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    """An answer of the GDC with two slides and three RNA files."""
    server = GdcServer()
    for n in range(2):
        server.offer_slide(f"TCGA-BH-A00{n}-01Z-00-DX1", b"slide")
        server.offer_rna(f"TCGA-BH-A00{n}-01A-11R-A056-07", b"rna")
    server.offer_rna("TCGA-BH-A001-01B-11R-A056-07", b"rna", ffpe=True)
    server.server_close()
    hits = list(server.hits.values())
    return {"data": {"hits": hits, "pagination": {"total": len(hits)}}, "warnings": {}}


def test_answers_of_the_gdc(answer):
    def read() -> None:
        hits, _ = client._page(changed)
        table = client.file_table(hits)
        slides = table["file_name"].str.endswith(".svs")
        pairing = tables.pair(table[slides], table[~slides])
        client.gdc_files(pairing.slides)

    rng = random.Random(5)
    for _ in range(3000):
        changed = copy.deepcopy(answer)
        for _ in range(rng.randint(1, 3)):
            container, key = rng.choice([*places(changed), (changed, "data")])
            if rng.random() < 0.3:
                container.pop(key, None) if isinstance(container, dict) else container.pop(key)
            else:
                container[key] = rng.choice(VALUES)
        assert_refused_or_read(read, changed)


@pytest.mark.parametrize("name", ["gdc.json", "gdc.json.gz"])
def test_snapshots(tmp_path, answer, name):
    rng, path = random.Random(6), tmp_path / name
    hits = answer["data"]["hits"]
    text = json.dumps({"project": "TCGA-BRCA", "slides": hits[:1], "rna": hits[1:2], "status": {}}).encode()
    whole = gzip.compress(text, mtime=0) if name.endswith(".gz") else text

    def read() -> None:
        snapshot = client.read_snapshot(path, "TCGA-BRCA")
        tables.pair(client.file_table(snapshot["slides"]), client.file_table(snapshot["rna"]))

    for _ in range(1500):
        path.write_bytes(damaged(whole, rng))
        assert_refused_or_read(read, path.read_bytes())
