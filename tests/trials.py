"""Small studies with features tables or tile features, for tests of regression and ranking."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import yaml

from wsibench import assembly, cohort, embedding, ranking, regression, tiling
from wsibench.core import Study, writing
from wsibench.embedding import write_features

GENES = 12
"""Genes in each of the groups good, site and null."""
RANKING = {"bootstrap": 200, "permutations": {"ridge": 12}, "free_permutations": {"ridge": 8}}


def latent(n: int, seed: int = 0) -> np.ndarray:
    """What the patients' pictures and their good genes have in common, (n, 3)."""
    return np.random.default_rng(seed).normal(size=(n, 3))


def write_tables(folder: Path, *, n: int = 60, sites: int = 6) -> None:
    """Patients, expression, and features that are good, poor, or nothing but noise."""
    folder.mkdir(parents=True)
    rng, z = np.random.default_rng(1), latent(n)
    ids = [f"P{i:03d}" for i in range(n)]
    site = np.arange(n) % sites
    patients = pd.DataFrame(
        {"patient_id": ids, "site": [f"S{s}" for s in site], "subtype": "", "path": [f"{i}.svs" for i in ids]}
    )
    patients.drop(columns="path").to_csv(folder / "patients.csv", index=False)
    patients.assign(slide_id=[f"{i}-1" for i in ids]).to_csv(folder / "slides.csv", index=False)
    good = z @ rng.normal(size=(3, GENES)) + rng.normal(size=(n, GENES))
    y = np.concatenate([good, rng.normal(size=(sites, GENES))[site], rng.normal(size=(n, GENES))], axis=1)
    y[:, GENES : 2 * GENES] += 0.3 * rng.normal(size=(n, GENES))
    groups = np.repeat(["good", "site", "null"], GENES)
    var = pd.DataFrame({"group": groups, "ceiling": np.repeat([0.7, 0, 0], GENES)}, [f"G{i}" for i in range(3 * GENES)])
    anndata.AnnData(y.astype(np.float32), pd.DataFrame(index=ids), var).write_h5ad(folder / "rna.h5ad")
    for name, noise in (("good", 0.5), ("poor", 3.0), ("noise", 1e3)):
        x = z @ rng.normal(size=(3, 6)) + noise * rng.normal(size=(n, 6))
        pd.DataFrame(x, ids).rename_axis("patient_id").to_csv(folder / f"{name}.csv")


def load(folder: Path, **sections) -> Study:
    """The study of `write_tables`, with features tables good and poor, and noise and site as controls."""
    content = {
        "title": "Trial",
        "cohort": {"source": "local", "patients": "patients.csv", "expression": "rna.h5ad"},
        "features": {name: {"table": f"{name}.csv"} for name in ("good", "poor")},
        "controls": ["site"],
        "folds": {"n": 3},
        "probes": ["ridge"],
        "ranking": RANKING,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load(folder.name)


def assembled(folder: Path, **sections) -> Study:
    """The same, up to benchmark.h5ad."""
    study = load(folder, **sections)
    cohort.build(study)
    assembly.assemble(study)
    return study


def ranked(folder: Path, **sections) -> Study:
    """Assemble, fit and rank a study of features tables."""
    study = assembled(folder, **sections)
    regression.regress(study)
    ranking.rank(study)
    return study


def with_tiles(folder: Path, *, seed: int = 2, **sections) -> Study:
    """A study of the same patients with features of 5 to 7 tiles each, as two encoders would leave them."""
    for slide in pd.read_csv(folder / "slides.csv")["path"]:
        (folder / slide).write_text(slide)
    tables = {"slides": "slides.csv", "expression": "rna.h5ad", "source": "local"}
    study = load(folder, **{"cohort": tables, "features": {}, "encoders": ["colour", "texture"], **sections})
    cohort.build(study)
    rng, z = np.random.default_rng(seed), latent(60)
    for artefact in tiling.expected(study):
        with writing(artefact) as path:
            path.write_text("not looked at")
    for artefact in embedding.expected(study):
        patient = int(artefact.path.stem[1:4])
        tiles = 5 + patient % 3
        x = np.tile(z[patient], (tiles, 2)) + rng.normal(size=(tiles, 6))
        with writing(artefact) as path:
            write_features(path, x.astype(np.float16), np.stack([np.arange(tiles), np.full(tiles, patient)], axis=1))
    assembly.assemble(study)
    return study
