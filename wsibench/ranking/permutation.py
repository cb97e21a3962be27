"""Scores under permuted pairing: what the whole pipeline finds where there is nothing to find.

Patients' expression is shuffled, whole profiles at a time, so that genes stay as dependent as they
are; then every probe is fitted and scored again.  There are two kinds:

``within-site``
    Shuffled among the patients of the same site, so that a site keeps what it has to do with
    expression.  Under random-patient folds the null of a gene that differs between sites is therefore
    not zero: it is what knowing the site is worth.  Significance is measured against this one.
``free``
    Shuffled over all patients: nothing is left to find, and the null lies about zero unless the
    pipeline leaks.  What the within-site null lies above it is the sites' share.

In external validation the training patients are shuffled; the test patients keep what was measured of them.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from wsibench.core import Artefact, Study, make_key, parallel_map, writing
from wsibench.ranking.fusion import Fusion
from wsibench.regression import Fit, fits, fold_spearman, load, out_of_fold
from wsibench.regression.metrics import permutation_within

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
STAGE = "null"

COLUMNS = 100_000
"""Most permuted targets fitted at once, side by side, by a probe that fits each by itself."""


Kind = Literal["within-site", "free"]
"""Among whom patients' expression is shuffled."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def permutations(study: Study, job: Fit | Fusion, kind: Kind = "within-site") -> int:
    """How many refits the study wants of the job's probe; a fusion is not refitted."""
    ranking = study.ranking
    wanted = ranking.permutations if kind == "within-site" else ranking.free_permutations
    return wanted.get(job.probe, 0) if isinstance(job, Fit) else 0


def artefact(study: Study, job: Fit, kind: Kind = "within-site") -> Artefact:
    """The job's scores under permuted pairing."""
    section = {"permutations": permutations(study, job, kind), "seed": study.ranking.seed}
    if kind == "free":
        section["kind"] = kind
    path = study.null_parquet(job.scheme, job.encoder, job.probe, free=kind == "free")
    return Artefact(path, make_key(STAGE, FORMAT, section, [job.predictions.key]))


def _wanted(study: Study) -> list[tuple[Fit, Kind]]:
    return [(job, kind) for job in fits(study) for kind in KINDS if permutations(study, job, kind)]


def expected(study: Study) -> list[Artefact]:
    """One table a job and kind that is to be permuted."""
    return [artefact(study, *each) for each in _wanted(study)]


def permute(study: Study) -> None:
    """Make what is due."""
    due = [each for each in _wanted(study) if artefact(study, *each).due()]
    parallel_map(partial(_permute_job, study), due, label="06 permuted pairing")


def read_null(study: Study, job: Fit, kind: Kind = "within-site") -> pd.DataFrame:
    """ρ under permuted pairing, (permutations, genes); NaN where a shuffled gene is constant in a fold."""
    table = pd.read_parquet(artefact(study, job, kind).path)
    genes = table["gene"].to_numpy(str)[: int((table["permutation"] == 0).sum())]
    return pd.DataFrame(table["rho"].to_numpy().reshape(-1, len(genes)), columns=genes)


def exchangeable(job: Fit, benchmark: "AnnData", kind: Kind) -> np.ndarray:
    """Groups that expression is shuffled in, (patients,): sites, or all; each test patient of external validation."""
    groups = benchmark.obs["site"] if kind == "within-site" else pd.Series("all", benchmark.obs_names)
    if job.scheme == "external":
        groups = groups.where(benchmark.obs["external"] < 0, benchmark.obs_names)
    return groups.to_numpy(str)


def _permute_job(study: Study, wanted: tuple[Fit, Kind]) -> None:
    job, kind = wanted
    patients, benchmark, splits = load(job)
    fold, probe = splits["fold"].to_numpy(), job.make_probe()
    y, among = benchmark.X, exchangeable(job, benchmark, kind)
    held = fold >= 0 if (fold < 0).any() else slice(None)  # which copies nothing where all are held out
    # The same shuffles for every encoder and probe: what differs between them is not the luck of the draw.
    rng = np.random.default_rng(study.ranking.seed)
    shuffles = [permutation_within(among, rng) for _ in range(permutations(study, job, kind))]
    together = max(1, COLUMNS // y.shape[1]) if probe.columnwise else 1
    rho = []
    for start in range(0, len(shuffles), together):
        shuffled = np.concatenate([y[order] for order in shuffles[start : start + together]], axis=1)
        with threadpool_limits(1):
            predicted = out_of_fold(probe, patients, shuffled, fold, seed=job.seed).predicted
        rho.append(fold_spearman(shuffled[held], predicted[held], fold[held]).mean().astype(np.float32))
    table = pd.DataFrame({
        "permutation": np.repeat(np.arange(len(shuffles), dtype=np.int32), y.shape[1]),
        "gene": np.tile(benchmark.var_names.to_numpy(str), len(shuffles)),
        "rho": np.concatenate(rho),
    })  # fmt: skip
    with writing(artefact(study, job, kind), permutations=len(shuffles)) as path:
        table.to_parquet(path, index=False)
