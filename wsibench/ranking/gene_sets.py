"""Gene sets: how well each set is predicted, compared with random sets of as many genes.

The mean over thousands of genes says little about the few genes of a pathway, and a set may do well only because its
genes are highly expressed. So each set is compared with random sets of its size drawn from the scored genes, with as
many genes from each tenth of the mean expression as the set has. z-scores carry no expression level: there the random
sets are matched by size alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsibench.cohort import read_gene_list
from wsibench.core import CHECKOUT, CohortError

DEFAULT = {name: CHECKOUT / "data" / "genes" / f"{name}.txt" for name in ("proliferation", "immune", "pam50")}
"""Lists that a study scores if it declares no gene sets."""
RANDOM_SETS = 1000
LEVELS = 10
"""Bins of the mean expression, of equally many genes, within which random sets are matched."""


@dataclass(frozen=True)
class GeneSet:
    """A declared gene set, on the scored genes."""

    name: str
    members: np.ndarray
    """Scored genes of the set, boolean (genes,)."""
    n_missing: int
    """Genes of the set that are not scored."""

    @property
    def size(self) -> int:
        """Number of scored genes of the set."""
        return int(self.members.sum())

    @property
    def coverage(self) -> str:
        """Number of scored genes in words: ``7 of 50``."""
        return f"{self.size} of {self.size + self.n_missing}"


def declared_sets(
    gene_sets: dict[str, str | list[str]] | None, resolve: Callable[[str], Path]
) -> dict[str, list[str] | Path]:
    """Gene sets of a study as lists of symbols or as paths; the lists of data/genes if it declares none."""
    if gene_sets is None:
        return dict(DEFAULT)
    return {name: resolve(given) if isinstance(given, str) else given for name, given in gene_sets.items()}


def read_gene_sets(declared: dict[str, list[str] | Path]) -> dict[str, list[str]]:
    """Read the symbols of every gene set, in the order of study.yaml.

    Parameters
    ----------
    declared
        Lists of symbols, or paths of text files with one symbol a line or of .gmt files, by name.

    Raises
    ------
    CohortError
        For a file that is missing, empty or not a .gmt, and for two sets with the same name.
    """
    sets: dict[str, list[str]] = {}
    for given_name, given in declared.items():
        for name, symbols in _read_sets(given_name, given):
            if name in sets:
                raise CohortError(
                    f"ranking.gene_sets has two sets called {name!r}.",
                    "The sets of a .gmt keep their own names: rename one, in study.yaml or in the .gmt.",
                )
            sets[name] = list(dict.fromkeys(symbols))
    return sets


def _read_sets(name: str, given: list[str] | Path) -> Iterator[tuple[str, list[str]]]:
    if isinstance(given, list):
        yield name, given
        return
    where = f"ranking.gene_sets.{name}"
    if not given.is_file():
        raise CohortError(
            f"{where} names {given}, which is no file.",
            "Paths in study.yaml are relative to its own folder; genes themselves are given as a list: [A, B].",
        )
    sets = list(_read_gmt(given)) if given.suffix == ".gmt" else [(name, read_gene_list(given, where))]
    if not any(symbols for _, symbols in sets):
        raise CohortError(f"{where}: {given} names no genes.", "Give one symbol a line.")
    yield from sets


def _read_gmt(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Read the sets of a .gmt of the Molecular Signatures Database: name, description and genes between tabs."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip().split("\t")
        if len(rest) < 2:
            raise CohortError(
                f"{path}: line {number} is no gene set.",
                "A line of a .gmt is name, description and genes between tabs.",
            )
        yield name, [gene.strip() for gene in rest[1:] if gene.strip()]


def on_genes(sets: dict[str, list[str]], genes: Sequence[str]) -> list[GeneSet]:
    """Locate gene sets among the scored genes; a set keeps its place even if none of its genes is scored."""
    members = {name: np.isin(np.asarray(genes, str), symbols) for name, symbols in sets.items()}
    return [GeneSet(name, each, len(sets[name]) - int(each.sum())) for name, each in members.items()]


def check_gene_sets(sets: dict[str, list[str]], genes: Sequence[str]) -> list[str]:
    """Name the gene sets of which less than half is among the genes: ``gene set pam50: 7 of 50 genes``.

    Parameters
    ----------
    sets
        Symbols of every set, from `read_gene_sets`.
    genes
        Symbols of the genes that the study measures or scores.
    """
    return [
        f"gene set {each.name}: {each.coverage} genes" for each in on_genes(sets, genes) if each.size < each.n_missing
    ]


def expression_levels(mean: np.ndarray) -> np.ndarray:
    """Tenth of the mean expression that each gene is in, (genes,)."""
    order = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    return order * LEVELS // len(mean)


def random_means(
    rho: np.ndarray, members: np.ndarray, bins: np.ndarray, rng: np.random.Generator, *, n: int = RANDOM_SETS
) -> np.ndarray:
    """Mean ρ of random sets, each with as many genes from every bin as the declared set has.

    Genes are put in a random order within their bins, and the random counterpart of a set takes the first genes of
    every bin. One order serves all sets and fits, and cumulative sums give every mean.

    Parameters
    ----------
    rho
        ρ of every fit and gene, (fits, genes).
    members
        Members of each set, boolean (sets, genes), at least one gene each.
    bins
        Bin of each gene, integers from 0, (genes,).
    rng
        Random generator.
    n
        Number of random sets for each declared set.

    Returns
    -------
    np.ndarray
        (fits, sets, n).
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
