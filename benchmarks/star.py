"""How long the STAR counts files of a whole cohort take to become one AnnData, and what memory that needs.

    python benchmarks/star.py [--files 1231] [--genes 60660] [--folder /tmp/…]

Writes files of the GDC's format (about 4 MB each) once, then reads them in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEADER = (
    "# gene-model: GENCODE v36\n"
    "gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded"
    "\tfpkm_uq_unstranded\n"
    "N_unmapped\t\t\t8120268\t8120268\t8120268\t\t\t\n"
    "N_multimapping\t\t\t4402480\t4402480\t4402480\t\t\t\n"
    "N_noFeature\t\t\t1446120\t24573336\t24781939\t\t\t\n"
    "N_ambiguous\t\t\t5551010\t1476463\t1462076\t\t\t\n"
)


def main() -> None:
    """Generate what is not there yet, read it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1231)
    parser.add_argument("--genes", type=int, default=60660)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "wsibench-star")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(read(asked.folder, asked.files)))
        return
    generate(asked.folder, asked.files, asked.genes)
    # Its own process, so that peak memory is that of reading alone.
    output = subprocess.run(
        [sys.executable, __file__, "--read", f"--files={asked.files}", f"--folder={asked.folder}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    measured = json.loads(output.splitlines()[-1])
    print(f"{'':<24}{'seconds':>9}{'CPU s':>9}{'peak GB':>9}")
    for name, (seconds, cpu_s, peak_gb) in measured["steps"].items():
        print(f"{name:<24}{seconds:>9.1f}{cpu_s:>9.1f}{peak_gb:>9.2f}")
    print(f"{measured['patients']} patients × {measured['genes']} genes, h5ad {measured['h5ad_gb']:.2f} GB")


def generate(folder: Path, files: int, genes: int) -> None:
    """Write STAR counts files as the GDC's: same columns, same number of genes, 44 of them PAR_Y copies."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    kinds = np.where(np.arange(genes) % 3 == 0, "protein_coding", "lncRNA")
    names = [f"ENSG{index:011d}.{index % 20}\tGENE{index - index % 50 // 49}\t{kinds[index]}" for index in range(genes)]
    for index in range(44):
        names[genes - 44 + index] = names[index].replace("\t", "_PAR_Y\t", 1)
    level = rng.gamma(0.3, 300, genes)
    for index in range(files):
        path = folder / f"{index:04d}.rna_seq.augmented_star_gene_counts.tsv"
        if path.exists():
            continue
        counts = rng.poisson(level * rng.gamma(5, 0.2))
        tpm = counts / counts.sum() * 1e6
        half = counts // 2
        lines = [
            f"{name}\t{n}\t{h}\t{n - h}\t{t:.4f}\t{t * 0.38:.4f}\t{t * 0.53:.4f}\n"
            for name, n, h, t in zip(names, counts, half, tpm, strict=True)
        ]
        part = path.with_suffix(".part")
        part.write_text(HEADER + "".join(lines))
        part.rename(path)


def read(folder: Path, files: int) -> dict:
    """Read and write, with wall time, CPU time and peak memory so far of each step."""
    from wsibench.cohort.gdc.tables import read_star

    steps = {}

    def measure(name: str, started: float, cpu_s: float) -> None:
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        steps[name] = (time.monotonic() - started, time.process_time() - cpu_s, peak_gb)

    paths = {f"P{index:04d}": path for index, path in enumerate(sorted(folder.glob("*.tsv"))[:files])}
    started, cpu_s = time.monotonic(), time.process_time()
    adata = read_star(paths)
    measure("read", started, cpu_s)
    started, cpu_s = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        adata.write_h5ad(Path(scratch) / "expression.h5ad", convert_strings_to_categoricals=False)
        size_gb = (Path(scratch) / "expression.h5ad").stat().st_size / 1e9
    measure("write h5ad", started, cpu_s)
    return {"steps": steps, "patients": adata.n_obs, "genes": adata.n_vars, "h5ad_gb": size_gb}


if __name__ == "__main__":
    main()
