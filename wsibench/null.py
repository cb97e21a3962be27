"""Scores under permuted pairing: what the whole pipeline finds where there is nothing to find.

Patients' expression is shuffled among the patients of the same site, whole profiles at a time, so
that genes stay as dependent as they are and a site keeps what it has to do with expression; then
every probe is fitted and scored again.  Under random-patient folds the null of a gene that differs
between sites is therefore not zero: it is what knowing the site is worth.
"""

import numpy as np
import pandas as pd

from wsibench.artefacts import Artefact, make_key, writing
from wsibench.compute import map_slides
from wsibench.fusion import Fusion
from wsibench.probes import offer
from wsibench.regression import Job, fit, jobs, load
from wsibench.scores import fold_spearman, permutation_within
from wsibench.study import Study

FORMAT = 1
STAGE = "null"

COLUMNS = 100_000
"""Most permuted targets fitted at once, side by side, by a probe that fits each by itself."""


def permutations(job: Job | Fusion) -> int:
    """How many refits the study wants of the job's probe; a fusion is not refitted."""
    return job.study.ranking.permutations.get(job.probe, 0) if isinstance(job, Job) else 0


def artefact(job: Job) -> Artefact:
    """The job's scores under permuted pairing."""
    section = {"permutations": permutations(job), "seed": job.study.ranking.seed}
    path = job.study.null_parquet(job.scheme, job.encoder, job.probe)
    return Artefact(path, make_key(STAGE, FORMAT, section, [job.artefact.key]))


def expected(study: Study) -> list[Artefact]:
    """One table a job that is to be permuted."""
    return [artefact(job) for job in jobs(study) if permutations(job)]


def permute(study: Study) -> None:
    """Make what is due."""
    due = [job for job in jobs(study) if permutations(job) and artefact(job).due()]
    for _, result in map_slides(_permute_job, due, label="06 permuted pairing"):
        if isinstance(result, BaseException):
            raise result


def read_null(job: Job) -> pd.DataFrame:
    """ρ under permuted pairing, (permutations, genes); NaN where a shuffled gene is constant in a fold."""
    table = pd.read_parquet(artefact(job).path)
    genes = table["gene"].to_numpy(str)[: int((table["permutation"] == 0).sum())]
    return pd.DataFrame(table["rho"].to_numpy().reshape(-1, len(genes)), columns=genes)


def _permute_job(job: Job) -> None:
    patients, benchmark, fold = load(job)
    y, sites = benchmark.X, benchmark.obs["site"].to_numpy(str)
    # The same shuffles for every encoder and probe: what differs between them is not the luck of the draw.
    rng = np.random.default_rng(job.study.ranking.seed)
    shuffles = [permutation_within(sites, rng) for _ in range(permutations(job))]
    together = max(1, COLUMNS // y.shape[1]) if offer(job.probe).make(job.study).columnwise else 1
    rho = []
    for start in range(0, len(shuffles), together):
        shuffled = np.concatenate([y[order] for order in shuffles[start : start + together]], axis=1)
        predicted = fit(job, shuffled, patients, fold).predicted
        rho.append(fold_spearman(shuffled, predicted, fold).mean().astype(np.float32))
    table = pd.DataFrame({
        "permutation": np.repeat(np.arange(len(shuffles), dtype=np.int32), y.shape[1]),
        "gene": np.tile(benchmark.var_names.to_numpy(str), len(shuffles)),
        "rho": np.concatenate(rho),
    })  # fmt: skip
    with writing(artefact(job), permutations=len(shuffles)) as path:
        table.to_parquet(path, index=False)
