"""Read an expression table, and keep the cohort's patients and the usable genes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.core import CohortError, read_matrix, some

if TYPE_CHECKING:
    from anndata import AnnData

# Columns of a table's var that are kept, when it is an h5ad that has them.
VAR_COLUMNS = ("gene_type", "ensembl_id", "group", "ceiling")


@dataclass
class Expression:
    """Expression of the cohort's patients, and the parts of the table that were left out."""

    adata: "AnnData"  # patients × genes; X float32
    n_not_selected: int  # genes of the table that ``expression.genes`` does not ask for
    # Patients and genes that were asked for and left out: ("patient" or "gene", id, reason).
    exclusions: list[tuple[str, str, str]] = field(default_factory=list)


def read_expression_table(
    path: Path,
    patients: Sequence[str],
    *,
    genes: str | Sequence[str] | Path = "all",
    clip: float | None = None,
    id_column: str = "patient_id",
    unpaired: str = "no slide",
) -> Expression:
    """Read a patients × genes table, and keep the cohort's patients and the usable genes.

    A gene is left out when it misses a value or is constant over these patients after clipping: it
    cannot be correlated with anything.  Genes that are merely almost constant stay, since whether
    they can be scored depends on the folds.

    Parameters
    ----------
    path
        CSV, Parquet or h5ad.
    patients
        Ids of the cohort's patients, sorted.
    genes
        ``all``, ``protein_coding`` (an h5ad with ``var["gene_type"]``), symbols, or a file of symbols.
    clip
        Values are clipped to ± this first.
    id_column
        Name of the first column.
    unpaired
        Reason stated for a patient who has expression and is not among `patients`.

    Returns
    -------
    Expression
        AnnData of the patients and genes kept, and those left out.

    Raises
    ------
    CohortError
        When the table cannot be used, shares no patient with the cohort, or keeps no gene.
    """
    import anndata  # takes a second, which `wsibench status` does not need

    values, var = read_matrix(path, id_column=id_column, ids=patients)
    kept = [patient for patient in patients if patient in values.index]
    if isinstance(genes, Path):
        genes = read_gene_list(genes, "expression.genes", "`all`, `protein_coding`, a list, or ")
    selected, absent = _select_genes(genes, values.columns, var, path)
    numbers = values.loc[kept, selected].to_numpy(np.float64)  # (n, g)
    known = ~np.isnan(numbers).all(axis=1)
    kept, numbers = list(np.array(kept)[known]), numbers[known]
    exclusions = [("patient", patient, "no expression") for patient in patients if patient not in set(kept)]
    exclusions += [("patient", patient, unpaired) for patient in values.index.difference(patients)]
    exclusions += [("gene", gene, "not in the expression table") for gene in absent]
    if clip is not None:
        numbers = np.clip(numbers, -clip, clip)
    usable, unusable = _usable(numbers.astype(np.float32), selected)
    if not usable.any():
        raise CohortError(
            f"{path}: none of {len(selected)} genes varies over the {len(kept)} patients without missing values.",
            "Impute or drop patients with missing values; they are empty cells of the table.",
        )
    adata = anndata.AnnData(
        X=numbers[:, usable].astype(np.float32),
        obs=pd.DataFrame(index=pd.Index(kept, name="patient_id")),
        var=_plain(var.loc[selected[usable], [name for name in VAR_COLUMNS if name in var]]),
    )
    return Expression(adata, values.shape[1] - len(selected), exclusions + unusable)


def read_gene_list(file: Path, where: str, otherwise: str = "a list, or ") -> list[str]:
    """Read gene symbols from a text file, one a line; text after a # is a comment.

    Parameters
    ----------
    file
        The file.
    where
        The setting of study.yaml that names it, for errors.
    otherwise
        Other values that the setting allows, for errors.

    Returns
    -------
    list of str
        The symbols, in the file's order.

    Raises
    ------
    CohortError
        When there is no such file, or it is not text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise CohortError(
            f"{where} names {file}, which is no file of gene symbols.",
            f"Give {otherwise}a file with one symbol a line (after #: a comment).",
        ) from None
    return [symbol for line in lines for symbol in line.partition("#")[0].split()]


def _select_genes(
    wanted: str | Sequence[str], table: pd.Index, var: pd.DataFrame, path: Path
) -> tuple[np.ndarray, list[str]]:
    """Select the wanted genes of a table, in its order, and list those that it lacks."""
    if wanted == "all":
        return table.to_numpy(object), []
    if wanted == "protein_coding":
        if "gene_type" not in var:
            raise CohortError(
                f"expression.genes is protein_coding, but {path} does not say the type of its genes.",
                "Give an h5ad with var['gene_type'], a file of symbols, or `genes: all`.",
            )
        return var.index[var["gene_type"].astype(str) == "protein_coding"].to_numpy(object), []
    genes = table[table.isin(list(wanted))].to_numpy(object)
    if not len(genes):
        raise CohortError(
            f"None of the genes that the study lists is in {path}: it lists {some(list(wanted))}; the table has "
            f"{some(table)}."
        )
    return genes, list(pd.Index(dict.fromkeys(wanted)).difference(table, sort=False))


def _usable(numbers: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """Mark genes without missing values that vary, and list the others with the reason."""
    n_missing = np.isnan(numbers).sum(axis=0)
    constant = (n_missing == 0) & (numbers == numbers[:1]).all(axis=0)
    rows = [
        ("gene", gene, f"missing values ({n} patient{'s' if n > 1 else ''})")
        for gene, n in zip(genes, n_missing, strict=True)
        if n
    ]
    rows += [("gene", gene, "the same for every patient") for gene in genes[constant]]
    return (n_missing == 0) & ~constant, rows


def _plain(var: pd.DataFrame) -> pd.DataFrame:
    """Convert text to plain strings, empty where unknown: h5ad refuses objects that mix strings and NaN."""
    text = [name for name in var if not pd.api.types.is_numeric_dtype(var[name])]
    var = var.astype(dict.fromkeys(text, object))
    var[text] = var[text].fillna("").astype(str)
    var.index = pd.Index(var.index.astype(str), name="gene")
    return var
