"""Declared sets of genes: how well each is read, and whether better than any genes as many.

A mean over thousands of genes says little of the few that a reader has in mind, and a set of genes that
does well may do so because its genes are expressed highly, or because all genes do.  So each set stands
beside random sets of its size, drawn from the genes that are scored and, where the unit tells expression
levels apart, with as many genes from each tenth of the mean expression as the set has.  z-scores have lost
the level: there the random sets are matched by size alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsibench.cohort import read_gene_list
from wsibench.core import CHECKOUT, CohortError, Study, file_sha256
from wsibench.ranking.bootstrap import central_interval
from wsibench.ranking.predictions import Arm

COLUMNS = [
    "scheme", "encoder", "probe", "set", "n_genes", "n_missing", "mean_rho", "ci_low", "ci_high", "random_mean",
    "random_low", "random_high", "p_random",
]  # fmt: skip
"""Of sets.csv."""
DEFAULT = [CHECKOUT / "data" / "genes" / f"{name}.txt" for name in ("proliferation", "immune", "pam50")]
"""Lists that a study scores when it declares none."""
COVERED = 5
"""Fewest genes of such a list that the study must score; a list that is declared is scored whatever it has."""
RANDOM_SETS = 1000
LEVELS = 10
"""Bins of mean expression, of equally many genes, that random sets are matched in."""


@dataclass(frozen=True)
class GeneSet:
    """A declared set, and which of the scored genes are in it."""

    name: str
    members: np.ndarray
    """Boolean (genes,)."""
    n_missing: int
    """Genes of the set that are not scored."""

    @property
    def size(self) -> int:
        """Genes of the set that are scored."""
        return int(self.members.sum())


def identities(study: Study) -> list[str]:
    """What tells the sets' files apart by content, for the key of what is made from them."""
    files = [each for each in _given(study).values() if isinstance(each, Path)]
    return [file_sha256(path) if path.is_file() else "" for path in files]


def scored(study: Study, genes: Sequence[str]) -> list[GeneSet]:
    """The study's sets, on the genes that are scored.

    Parameters
    ----------
    study
        With ``ranking.gene_sets``, or without for the lists of data/genes of which it scores at least
        `COVERED` genes.
    genes
        Symbols of the scored genes.

    Raises
    ------
    CohortError
        For a file that is missing, empty or no .gmt, and for two sets of one name.
    """
    sets = []
    for name, symbols in _declared(study):
        members = np.isin(np.asarray(genes, str), list(symbols))
        sets.append(GeneSet(name, members, len(symbols) - int(members.sum())))
    twice = pd.Index([each.name for each in sets])
    if twice.has_duplicates:
        raise CohortError(
            f"ranking.gene_sets has two sets called {twice[twice.duplicated()][0]!r}.",
            "Sets of a .gmt go by their own names: rename one, in study.yaml or in the .gmt.",
        )
    return [each for each in sets if study.ranking.gene_sets is not None or each.size >= COVERED]


def _declared(study: Study) -> Iterator[tuple[str, set[str]]]:
    """Every set's name and symbols, in the order of study.yaml."""
    for name, given in _given(study).items():
        if isinstance(given, list):
            yield name, set(given)
            continue
        if not given.is_file():
            raise CohortError(
                f"ranking.gene_sets.{name} names {given}, which is no file.",
                "Paths in study.yaml are relative to its own folder; genes themselves are given as a list: [A, B].",
            )
        where = f"ranking.gene_sets.{name}"
        sets = _read_gmt(given) if given.suffix == ".gmt" else {name: set(read_gene_list(given, where))}
        if not any(sets.values()):
            raise CohortError(f"{where}: {given} names no genes.", "Give one symbol a line.")
        yield from sets.items()


def _given(study: Study) -> dict[str, list[str] | Path]:
    """The sets as study.yaml gives them: symbols, or the path of a file."""
    if study.ranking.gene_sets is None:
        return {path.stem: path for path in DEFAULT}
    given = study.ranking.gene_sets.items()
    return {name: study.resolve(each) if isinstance(each, str) else each for name, each in given}


def _read_gmt(path: Path) -> dict[str, set[str]]:
    """Sets of a file of the Molecular Signatures Database: name, description and genes, between tabs."""
    sets = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip().split("\t")
        if len(rest) < 2 or name in sets:
            wrong = f"a second set {name!r}" if name in sets else "no set of genes"
            raise CohortError(
                f"{path}: line {number} is {wrong}.", "A line of a .gmt is name, description and genes, between tabs."
            )
        sets[name] = {gene.strip() for gene in rest[1:]} - {""}
    return sets


def filled(sets: list[GeneSet]) -> list[np.ndarray]:
    """Members of the sets that have any, for the bootstrap."""
    return [each.members for each in sets if each.size]


def table(arm: Arm, rho: np.ndarray, draws: np.ndarray, sets: list[GeneSet]) -> pd.DataFrame:
    """Mean ρ of every set, its interval, and where random sets of its size lie.

    Parameters
    ----------
    arm
        Who and what was scored.
    rho
        (encoders, genes).
    draws
        Of `bootstrap.confidence_draws`, (encoders, sets, draws), of the sets that are `filled`.
    sets
        Of `scored`; one without a scored gene keeps its row, without numbers.

    Returns
    -------
    DataFrame
        A row an encoder, probe and set, with `COLUMNS`.  ``p_random`` is one-sided: the share of random
        sets that are read as well.
    """
    bins = levels(arm.measured.mean(axis=0)) if matched(arm.study) else np.zeros(rho.shape[1], int)
    rng = np.random.default_rng(arm.study.ranking.seed)
    members = filled(sets)
    random = random_means(rho, np.stack(members), bins, rng) if members else None
    rows = []
    for row in range(len(arm.jobs)):
        position = 0
        for each in sets:
            cells = {**arm.named(row), "set": each.name, "n_genes": each.size, "n_missing": each.n_missing}
            if each.size:
                mean, against = rho[row, each.members].mean(), random[row, position]
                low, high = central_interval(draws[row, position])
                below, above = central_interval(against)
                # The set itself may be drawn, and its mean be added up in another order.
                as_well = (against >= mean - 1e-9).sum()
                cells |= {
                    "mean_rho": mean, "ci_low": low, "ci_high": high, "random_mean": against.mean(),
                    "random_low": below, "random_high": above, "p_random": (1 + as_well) / (1 + len(against)),
                }  # fmt: skip
                position += 1
            rows.append(cells)
    return pd.DataFrame(rows, columns=COLUMNS)


def matched(study: Study) -> bool:
    """Whether random sets are matched by mean expression: not in z-scores, where every gene's mean is 0."""
    return study.expression.unit != "zscore"


def levels(mean: np.ndarray) -> np.ndarray:
    """Which tenth of the mean expression each gene is in, (genes,)."""
    order = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    return order * LEVELS // len(mean)


def random_means(
    rho: np.ndarray, members: np.ndarray, bins: np.ndarray, rng: np.random.Generator, *, n: int = RANDOM_SETS
) -> np.ndarray:
    """Mean ρ of random sets, each with as many genes from every bin as the declared set has.

    Genes are put in a random order within their bins, and each declared set's random counterpart takes the
    first so many of every bin: one order serves all sets and encoders, and running sums give every mean.

    Parameters
    ----------
    rho
        (encoders, genes).
    members
        Boolean (sets, genes), each with at least one gene.
    bins
        (genes,), integers from 0.
    n
        Random sets a declared set.

    Returns
    -------
    np.ndarray
        (encoders, sets, n).
    """
    taken = np.stack([np.bincount(bins[each], minlength=bins.max() + 1) for each in members])  # (sets, bins)
    start = np.concatenate([[0], np.cumsum(np.bincount(bins))[:-1]])
    means = np.empty((len(rho), len(members), n))
    sums = np.zeros((len(rho), rho.shape[1] + 1))
    for draw in range(n):
        order = np.argsort(bins + rng.random(len(bins)))
        np.cumsum(rho[:, order], axis=1, dtype=np.float64, out=sums[:, 1:])
        means[:, :, draw] = (sums[:, start + taken] - sums[:, None, start]).sum(axis=2)
    return means / taken.sum(axis=1)[:, None]
