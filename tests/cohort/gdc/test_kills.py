"""Downloads killed repeatedly at random moments end with every file whole and fetched once."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gdc_server import GdcServer, serving

from wsibench.cohort.gdc import download
from wsibench.cohort.gdc.client import GdcFile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIENT = """
import sys
from pathlib import Path
from wsibench.cohort.gdc import download
from wsibench.cohort.gdc.client import GdcFile
files = [GdcFile(*line.split()[:2], int(line.split()[2]), line.split()[3]) for line in open(sys.argv[1])]
download.fetch_all(files, Path(sys.argv[2]), label="files")
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GdcServer]:
    with serving() as server:
        monkeypatch.setenv("WSIBENCH_GDC", server.url)
        server.chunk_pause_s = 0.02
        yield server


def offered(server: GdcServer) -> list[GdcFile]:
    rng = random.Random(0)
    sizes = [("svs", rng.randrange(1 << 18, 1 << 22)) for _ in range(12)]
    sizes += [("tsv", rng.randrange(1000, 100_000)) for _ in range(40)]
    files = []
    for n, (kind, size) in enumerate(sizes):
        hit = server.offer(f"file{n}.{kind}", rng.randbytes(size))
        files.append(GdcFile(hit["file_id"], hit["file_name"], hit["file_size"], hit["md5sum"]))
    return files


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_kills(server: GdcServer, tmp_path: Path, seed: int) -> None:
    files, rng = offered(server), random.Random(seed)
    listing, folder = tmp_path / "files.txt", tmp_path / "data"
    listing.write_text("".join(f"{f.file_id} {f.name} {f.size} {f.md5}\n" for f in files))
    done: set[str] = set()
    kills = 0
    while len(done) < len(files):
        assert kills < 60
        before = len(server.log)
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(listing), str(folder)], stderr=subprocess.PIPE, text=True
        )
        while len(server.log) == before and process.poll() is None:
            time.sleep(0.005)
        try:
            _, said = process.communicate(timeout=rng.uniform(0.02, 0.8))
            assert process.returncode == 0, said
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        asked = {path.removeprefix("/data/") for _, path, _, _ in server.log[before:]}
        assert not asked & done, "a finished file was fetched again"
        for file in files:
            path = folder / file.name
            if path.exists():
                # Under its real name there is never anything but the whole file.
                assert path.read_bytes() == server.content[file.file_id]
        done = {file.file_id for file in files if download.artefact(file, folder).due() is None}
    assert kills >= 3
    assert not list(folder.glob(".*.svs.part"))
