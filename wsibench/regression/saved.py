"""A probe fitted on all patients of a study, in a file that can be applied to others'.

Two files: ``<name>.safetensors`` holds arrays, ``<name>.json`` says what they are, what they may be applied
to and how well that was measured to go.  Each carries a digest of the other.  Neither is ever executed.
"""

import json
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsibench.assembly import build as assembly
from wsibench.core import (
    FitError,
    NotReady,
    Scheme,
    Study,
    digest,
    file_sha256,
    make_key,
    read_meta,
    replacing,
    versions,
    write_text,
)
from wsibench.embedding import wanted_mpp
from wsibench.ranking import leaderboard as ranking
from wsibench.regression import recipe
from wsibench.regression.fit import Job, read_patients
from wsibench.regression.probes import offer
from wsibench.regression.probes.base import Arrays, Fitted

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "fit"
MEASURED = ["rho", "p", "q"]
"""Columns of scores.parquet that a gene takes along."""
ON_A_LINE = ("columns", "genes")
"""Parts of the JSON that come last and on one line each, so that the rest can be read on a screen."""
KEPT = (
    "This probe is its training patients: the file holds their features and expression, standardised. "
    "Share it only where you might share those."
)
NOT_KEPT = (
    "The file holds no patient's id, features or expression, only what was estimated from all of them together. "
    "That is no formal guarantee of privacy."
)


@dataclass(frozen=True)
class Saved:
    """A fitted probe and everything that has to be known to apply it."""

    record: dict[str, Any]
    """What ``<name>.json`` says, but for the entry ``file``."""
    arrays: Arrays

    @property
    def encoder(self) -> str:
        """Encoder or features table that it reads."""
        return self.record["encoder"]["name"]

    @property
    def probe(self) -> str:
        """Probe that was fitted."""
        return self.record["probe"]["name"]

    @cached_property
    def fitted(self) -> Fitted:
        """The probe, ready to predict."""
        return offer(self.probe).restore(self.arrays, self.record["probe"]["facts"])

    @property
    def genes(self) -> pd.DataFrame:
        """Indexed by gene: rho, p, q out of fold in the training study; NaN where that was not measured."""
        columns = self.record["genes"]
        index = pd.Index(columns["gene"], name="gene", dtype=object)
        return pd.DataFrame({name: columns[name] for name in MEASURED}, index, dtype=np.float64)

    def __str__(self) -> str:
        cohort, features, accuracy = (self.record[part] for part in ("cohort", "features", "accuracy"))
        lines = [
            f"{self.probe} on {self.encoder} ({features['width']} wide), {len(self.record['genes']['gene'])} genes, "
            f"fitted on {cohort['n_patients']} patients of {cohort['n_sites']} sites "
            f"(study {cohort['study']}, key {cohort['study_key']})",
            f"accuracy  {_accuracy_text(accuracy, cohort['study'])}",
            f"licence   {self.encoder}: {self.record['encoder']['licence']}. {self.record['encoder']['note']}",
            f"privacy   {'WARNING: ' * self.record['probe']['keeps_patients']}{self.record['privacy']}",
        ]
        return "\n".join(lines)


def _accuracy_text(accuracy: dict[str, Any] | None, study: str) -> str:
    if accuracy is None:
        return (
            "NOT MEASURED: the ranking of this encoder and probe is missing or due. Predictions will come without "
            f"any: name both in study.yaml, `wsibench run {study} --to 06`, and fit again."
        )
    return (
        f"out of fold ({accuracy['scheme']}): mean ρ {accuracy['mean_rho']:.3f} "
        f"[{accuracy['ci_low']:.3f}, {accuracy['ci_high']:.3f}] over {accuracy['n_genes']} genes; "
        "each gene's own comes with its predictions"
    )


# Fitting


def fit(study: Study, encoder: str, probe: str) -> Saved:
    """Fit a probe on all patients and genes of a study's benchmark.

    Parameters
    ----------
    encoder
        Encoder, control that looks at tiles, or features table of the study.
    probe
        Any of `wsibench.regression.probes.PROBES`; it need not be one that the study compares, but has an accuracy
        only if it is.

    Raises
    ------
    NotReady
        When the benchmark is missing or due.
    FitError
        When the study has no such features, or no tiles for a probe that needs them; for external validation.
    StudyError
        For an unknown probe.
    """
    said = offer(probe)
    if study.parts:
        raise FitError(
            f"{study.name} tests one study on another: fitted on all, a probe would have seen those it is tested on.",
            f"Fit on the study that it trains on: wsibench fit {study.train} …",
        )
    late = [artefact.path for artefact in assembly.expected(study) if artefact.due()]
    if late:
        raise NotReady(f"{late[0]} is due.", f"wsibench run {study.name} --to 04")
    recipe.check_named(study, encoder)
    if said.needs == "bags" and encoder in study.features:
        raise FitError(f"{probe} looks at tiles, and {encoder} is a table of one vector a patient.", "Use ridge.")
    benchmark = assembly.read_benchmark(study)
    job = Job(study, _primary(study), encoder, probe)
    patients = read_patients(job, benchmark)
    fitted = said.make(study).fit(patients, benchmark.X, seed=study.folds.seed)
    arrays, facts = fitted.arrays()
    return Saved(_record(job, benchmark, fitted, facts), arrays)


def _primary(study: Study) -> Scheme:
    """The scheme whose inner groups are kept together and whose accuracy is told: preserved-site where there is one."""
    return "preserved-site" if "preserved-site" in study.folds.schemes else study.folds.schemes[0]


def _record(job: Job, benchmark: "AnnData", fitted: Fitted, facts: dict[str, Any]) -> dict[str, Any]:
    study, said = job.study, offer(job.probe)
    contents = read_meta(study.benchmark_h5ad)["facts"]["contents"]
    features = _features(job, benchmark)
    probe = {"name": job.probe, "format": said.format, "settings": said.settings(study), "seed": study.folds.seed}
    probe |= {"inner_groups": job.scheme, "chosen": fitted.chosen}
    made_from = [contents["patients"], contents["expression"], contents["features"][job.encoder]]
    accuracy, genes = _accuracy(job, benchmark.var_names.to_list())
    obs = benchmark.obs
    record = {
        "wsibench": "fit",
        "format": FORMAT,
        "key": make_key(STAGE, FORMAT, {"features": features, "probe": probe}, made_from),
        "encoder": {"name": job.encoder, **recipe.licence(study, job.encoder)},
        "probe": {**probe, "keeps_patients": said.keeps_patients, "facts": facts},
        "privacy": KEPT if said.keeps_patients else NOT_KEPT,
        "features": features,
        "expression": {"unit": study.expression.unit, "clip": study.expression.clip},
        "cohort": {
            "study": study.name,
            "title": study.title,
            "study_key": study.key,
            "n_patients": benchmark.n_obs,
            "n_sites": int(obs["site"][obs["site"] != ""].nunique()),
            "n_slides": int(obs["n_slides"].sum()),
            "n_tiles": int(obs["n_tiles"].sum()),
        },
        "accuracy": accuracy,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "columns": recipe.columns(study, job.encoder) if job.encoder in study.features else None,
        "genes": genes,
    }
    return json.loads(json.dumps(record, allow_nan=False))


def _features(job: Job, benchmark: "AnnData") -> dict[str, Any]:
    study, name = job.study, job.encoder
    table = name in study.features
    slides = [slide for ids in benchmark.obs["slide_ids"] for slide in ids.split(";") if slide]
    return {
        "settings": recipe.settings(study, name),
        "weights": recipe.weights(study, name, slides),
        "width": benchmark.obsm[name].shape[1],
        "decoded_mpp": None if table else wanted_mpp(study),
        "max_tiles": None if table else study.tiles.max_tiles,
    }


def _accuracy(job: Job, genes: list[str]) -> tuple[dict[str, Any] | None, dict[str, list]]:
    """How well held-out patients were predicted: on average, and gene by gene; None where that is not known."""
    table, row = pd.DataFrame(columns=["gene", *MEASURED]), None
    artefacts = {artefact.path: artefact for artefact in ranking.expected(job.study)}
    if not any(artefacts[path].due() for path in (job.study.scores_parquet, job.study.leaderboard_csv)):
        every, board = pd.read_parquet(job.study.scores_parquet), ranking.read(job.study, "leaderboard")
        table, board = (part[_is_of(part, job)] for part in (every, board))
        row = None if board.empty else board.iloc[0]
    measured = table.set_index("gene")[MEASURED].reindex(genes).astype(float)
    columns = {name: [_plain(value) for value in measured[name]] for name in MEASURED}
    if row is None:
        return None, {"gene": genes, **columns}
    numbers = {name: _plain(row[name]) for name in ("mean_rho", "ci_low", "ci_high", "median_rho")}
    counts = {name: int(row[name]) for name in ("n_patients", "n_genes", "n_undefined")}
    return {"scheme": job.scheme, **numbers, **counts, "tcga": row["tcga"]}, {"gene": genes, **columns}


def _is_of(table: pd.DataFrame, job: Job) -> pd.Series:
    return (table["scheme"] == job.scheme) & (table["encoder"] == job.encoder) & (table["probe"] == job.probe)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


# The two files


def beside(path: Path) -> Path:
    """The JSON of a safetensors file.

    Raises
    ------
    FitError
        For a file of another name.
    """
    if path.suffix != ".safetensors":
        raise FitError(f"{path} is no name for a fit.", "Name it something.safetensors.")
    return path.with_suffix(".json")


def write(saved: Saved, path: Path) -> None:
    """Write ``<name>.safetensors`` and ``<name>.json``.

    Raises
    ------
    FitError
        When `path` does not end in .safetensors.
    """
    from safetensors.numpy import save

    said = beside(path)
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(arrays, metadata={"wsibench": "fit", "record": digest(saved.record)}))
    file = {"name": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}
    head = {name: part for name, part in saved.record.items() if name not in ON_A_LINE} | {"file": file}
    lines = "".join(f',\n "{name}": {json.dumps(saved.record[name])}' for name in ON_A_LINE)
    write_text(said, f"{json.dumps(head, indent=1)[:-2]}{lines}\n}}\n")


def read(path: Path) -> Saved:
    """Read a fit, and make sure that its two files are whole and belong together.

    Raises
    ------
    FitError
        When a file is missing, torn, changed, or of a format that this version does not read.
    """
    from safetensors import SafetensorError, safe_open

    record = _read_record(path)
    file = record.pop("file")
    if not path.is_file():
        raise FitError(f"There is no file {path}.", "Both files of a fit are needed; they lie side by side.")
    if path.stat().st_size != file["size"] or file_sha256(path) != file["sha256"]:
        raise FitError(
            f"{path} is not the file that {beside(path).name} was written with: {path.stat().st_size:,} bytes, "
            f"not {file['size']:,}, or others. It is cut off, changed, or another fit's.",
            "Copy both files again from where they were made.",
        )
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise FitError(f"{path} cannot be read as safetensors: {error}.", "Copy it again.") from None
    if metadata.get("record") != digest(record):
        raise FitError(
            f"{beside(path)} has been changed since the fit: it no longer says what {path.name} was fitted on.",
            "Copy both files again from where they were made.",
        )
    said = offer(record["probe"]["name"])
    if said.format != record["probe"]["format"]:
        by = f"wsibench {record['versions'].get('wsibench')}"
        raise FitError(
            f"{path} was made by {by}, whose {record['probe']['name']} computes otherwise than this version's.",
            "Use that version, or fit again.",
        )
    return Saved(record, arrays)


def _read_record(path: Path) -> dict[str, Any]:
    said = beside(path)
    try:
        record = json.loads(said.read_text())
    except FileNotFoundError:
        what = "It says what the arrays are; without it they cannot be applied."
        raise FitError(f"There is no {said} beside {path.name}.", f"{what} Copy both files.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FitError(f"{said} is not valid JSON: {error}.", "Copy both files again.") from None
    if not isinstance(record, dict) or record.get("wsibench") != "fit" or "file" not in record:
        raise FitError(f"{said} is not what `wsibench fit` writes.", "Name a file that it wrote.")
    if record.get("format") != FORMAT:
        raise FitError(
            f"{said} has format {record.get('format')}, and this version of wsibench reads {FORMAT}.",
            f"Use wsibench {record.get('versions', {}).get('wsibench')}, or fit again.",
        )
    return record
