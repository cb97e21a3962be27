"""CPU time of a whole pass with null encoders: one pass for five of them, five passes, and LazySlide.

    python benchmarks/embedding.py [--slide SLIDE] [--tiles 1600] [--lazyslide PYTHON]

Embeds the mosaics of benchmarks/reading.py, at 0.5 and 0.25 µm/px, in tiles of 112 µm (224 px at 0.5 µm/px),
with encoders that do next to nothing: what is left is what a pipeline itself costs.
A null encoder takes the uint8 batch as it is, since wsibench resizes and normalises on the device; a
normalising one adds the conversion to normalised float32, should that device be the CPU.
No study has controls here (`controls: []`), except the one that is named after them: the controls `colour`,
`texture` and `random-vit`, which a study has by default, cost more than all the rest and would hide it.
A pass is all that 03_embedding does, features on disk included, in one process and one thread; tiling
is done before the clock starts.  `--lazyslide` names the Python of an environment that has LazySlide,
which then embeds the same slide in tiles of the same size with a null encoder, its transform being the usual
one: resize, float32, normalise, a tile at a time.
Prints CPU milliseconds a tile (getrusage) and peak memory; each row is a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reading import build

MEMORY = 12 * 2**30
"""Bytes that LazySlide may take."""
RATIOS = [
    ("five in five passes", "five in one pass"),
    ("LazySlide, one", "one null encoder"),
    ("LazySlide, five", "five in one pass"),
    ("LazySlide, one", "one normalising"),
    ("LazySlide, five", "five normalising"),
]
NULL = """
import torch

def null(device):
    return lambda tiles: tiles[:, :, ::16, ::16].float().mean((2, 3))

def normalising(device):
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return lambda tiles: tiles.float().mul_(1 / std).add_(-mean / std)[:, :, ::16, ::16].mean((2, 3))
"""
LAZYSLIDE = """
import json, resource, sys, time
import lazyslide, torch
from torchvision.transforms import v2
from wsidata import open_wsi

class Null(torch.nn.Module):
    def forward(self, tiles):
        return tiles[:, :, ::16, ::16].mean((2, 3))

resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

def cpu():
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

torch.set_num_threads(1)
wsi = open_wsi(sys.argv[1], store=sys.argv[1] + ".zarr")
lazyslide.pp.tile_tissues(wsi, tile_px=224, mpp=0.5, tissue_key=None)
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
transform = v2.Compose(
    [v2.ToImage(), v2.Resize((224, 224)), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
)
started, wall = cpu(), time.perf_counter()
for index in range(int(sys.argv[2])):
    lazyslide.tl.feature_extraction(wsi, model=Null(), model_name=f"null{index}", transform=transform, pbar=False)
n = len(wsi["tiles"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
wall = (time.perf_counter() - wall) / n * 1e3
print(json.dumps({"tiles": n, "cpu_ms": (cpu() - started) / n * 1e3, "wall_ms": wall, "peak_mib": peak}))
"""


def study_of(root: Path, slide: Path, kind: str, n_encoders: int) -> str:
    """Write a study of one slide and so many encoders of a kind (with the default controls, or none); its name."""
    name = f"{kind}{n_encoders}"
    controls = "" if kind == "controls" else "controls: []\n"
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "nullcode.py").write_text(NULL + "\ncontrols = null\n")
    (folder / "slides.csv").write_text(f"slide_id,patient_id,path\nmosaic,P1,{slide}\n")
    encoders = ", ".join(
        f'{{name: null{index}, loader: callable, arch: "nullcode:{kind}"}}' for index in range(n_encoders)
    )
    (folder / "study.yaml").write_text(
        "title: null encoders\ncohort: {source: local, slides: slides.csv}\n"
        f"tiles: {{tile_um: 112, max_tiles: 1000000, drop: []}}\nencoders: [{encoders}]\n{controls}"
    )
    return name


def embed(slide: Path, kind: str, n_encoders: int, n_passes: int) -> dict[str, float]:
    """Embed the slide in this process, so many times."""
    os.environ |= {"WSIBENCH_TRUST": "1", "WSIBENCH_WORKERS": "0"}
    import torch

    from wsibench import cohort, embedding, tiling
    from wsibench.core import Study
    from wsibench.embedding import models  # noqa: F401  (imported before the clock starts)

    torch.set_num_threads(1)
    cpu_ms = wall_ms = 0.0
    for _ in range(n_passes):
        with tempfile.TemporaryDirectory(dir=slide.parent) as root:
            os.environ["WSIBENCH_DATA"] = root
            study = Study.load(study_of(Path(root), slide, kind, n_encoders))
            cohort.build(study)
            tiling.tile_slides(study)
            cpu, wall = _cpu(), time.perf_counter()
            n_tiles = int(embedding.embed_slides(study).n_tiles.iloc[0])
            cpu_ms += (_cpu() - cpu) / n_tiles * 1e3
            wall_ms += (time.perf_counter() - wall) / n_tiles * 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tiles": n_tiles, "cpu_ms": cpu_ms, "wall_ms": wall_ms, "peak_mib": peak}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(command: list[str]) -> dict[str, float] | None:
    """What a process prints in its last line, run with one thread; None when it fails."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> None:
    """Build the mosaics, measure every way in its own process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    real = os.environ.get("WSIBENCH_REAL_DATA")
    parser.add_argument("--slide", type=Path, default=Path(real, "slides/CMU-1-Small-Region.svs") if real else None)
    parser.add_argument("--tiles", type=int, default=1600)
    parser.add_argument("--lazyslide", metavar="PYTHON")
    parser.add_argument("--embed", nargs=4, metavar=("SLIDE", "KIND", "ENCODERS", "PASSES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.embed:
        slide, kind, n_encoders, n_passes = arguments.embed
        print(json.dumps(embed(Path(slide), kind, int(n_encoders), int(n_passes))))
        return
    print("slide (µm/px)  way                    tiles  CPU ms/tile  wall ms/tile  peak MiB")
    for mpp in (0.5, 0.25):
        with tempfile.TemporaryDirectory() as folder:
            slide = Path(folder, "mosaic.svs")
            build(slide, arguments.slide, mpp, arguments.tiles)
            us = [sys.executable, __file__, "--embed", str(slide)]
            ways = {
                "one null encoder": [*us, "null", "1", "1"],
                "five in one pass": [*us, "null", "5", "1"],
                "five in five passes": [*us, "null", "1", "5"],
                "one normalising": [*us, "normalising", "1", "1"],
                "five normalising": [*us, "normalising", "5", "1"],
                "one null, and controls": [*us, "controls", "1", "1"],
            }
            if arguments.lazyslide:
                theirs = [arguments.lazyslide, "-c", LAZYSLIDE.replace("MEMORY", str(MEMORY)), str(slide)]
                ways |= {"LazySlide, one": [*theirs, "1"], "LazySlide, five": [*theirs, "5"]}
            cpu_ms = {}
            for way, command in ways.items():
                row = measured(command)
                if row is None:
                    print(f"{mpp:<14} {way:<22} failed within {MEMORY / 2**30:.0f} GiB of memory", flush=True)
                    continue
                cpu_ms[way] = row["cpu_ms"]
                print(
                    f"{mpp:<14} {way:<22} {row['tiles']:>5}  {row['cpu_ms']:>11.2f}  {row['wall_ms']:>12.2f}"
                    f"  {row['peak_mib']:>8.0f}",
                    flush=True,
                )
        for more, less in RATIOS:
            if more in cpu_ms and less in cpu_ms:
                print(f"  {more} / {less}: {cpu_ms[more] / cpu_ms[less]:.1f} ×", flush=True)


if __name__ == "__main__":
    main()
