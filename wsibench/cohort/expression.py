"""What is predicted: an expression table of the cohort's patients, checked and narrowed to usable genes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.core import CohortError, Study, read_matrix, some

if TYPE_CHECKING:
    from anndata import AnnData

VAR_COLUMNS = ("gene_type", "ensembl_id", "group", "ceiling")
"""What is known about a gene and kept, when the table is an h5ad that says it."""


@dataclass
class Expression:
    """An expression table and what of it could not be used."""

    adata: "AnnData"
    """Patients × genes; X float32."""
    not_selected: int
    """Genes of the table that ``expression.genes`` does not ask for."""
    exclusions: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, id, reason) of patients and genes that were asked for and left out."""


def read_expression_table(
    study: Study, path: Path, patients: list[str], *, id_column: str, stranger: str
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
        Ids of the patients who can be paired, sorted.
    id_column
        Name of the first column.
    stranger
        Why a patient who has expression is not among `patients`.

    Raises
    ------
    CohortError
        When the table cannot be used, shares no patient with the cohort, or keeps no gene.
    """
    import anndata

    values, var = read_matrix(path, id_column=id_column, ids=patients)
    kept = [patient for patient in patients if patient in values.index]
    if not kept:
        raise CohortError(
            f"No patient of the cohort has expression: the cohort has {some(patients)}; {path} has "
            f"{some(values.index)}.",
            "Give both tables the same patient ids (a TCGA patient is its first 12 characters).",
        )
    exclusions = [("patient", patient, "no expression") for patient in patients if patient not in values.index]
    exclusions += [("patient", patient, stranger) for patient in values.index.difference(patients)]
    genes, absent = _select_genes(study, values.columns, var, path)
    exclusions += [("gene", gene, "not in the expression table") for gene in absent]

    numbers = values.loc[kept, genes].to_numpy(np.float64)  # (n, g)
    blank = np.isnan(numbers).all(axis=1)
    exclusions += [("patient", patient, "no expression") for patient in np.array(kept)[blank]]
    kept, numbers = list(np.array(kept)[~blank]), numbers[~blank]
    if study.expression.clip is not None:
        numbers = np.clip(numbers, -study.expression.clip, study.expression.clip)
    usable, unusable = _usable(numbers.astype(np.float32), genes)
    exclusions += unusable
    if not usable.any():
        raise CohortError(
            f"{path}: none of {len(genes)} genes varies over the {len(kept)} patients without missing values.",
            "Impute or drop patients with missing values; they are empty cells of the table.",
        )
    adata = anndata.AnnData(
        X=numbers[:, usable].astype(np.float32),
        obs=pd.DataFrame(index=pd.Index(kept, name="patient_id")),
        var=_plain(var.loc[genes[usable], [name for name in VAR_COLUMNS if name in var]]),
    )
    return Expression(adata, values.shape[1] - len(genes), exclusions)


def gene_file(study: Study) -> Path | None:
    """The file of gene symbols that ``expression.genes`` names, if it names one."""
    genes = study.expression.genes
    return study.resolve(genes) if isinstance(genes, str) and genes not in ("all", "protein_coding") else None


def read_gene_list(file: Path, where: str, otherwise: str = "a list, or ") -> list[str]:
    """Symbols of a file, one a line; what follows a # is a comment.

    Parameters
    ----------
    where
        What of study.yaml names the file.
    otherwise
        What may stand there too, for the error.

    Raises
    ------
    CohortError
        When there is no such file.
    """
    if not file.is_file():
        raise CohortError(
            f"{where} names {file}, which is no file.",
            f"Give {otherwise}a file with one symbol a line (after #: a comment).",
        )
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    return [symbol for line in lines for symbol in line.partition("#")[0].split()]


def _select_genes(study: Study, table: pd.Index, var: pd.DataFrame, path: Path) -> tuple[np.ndarray, list[str]]:
    """Genes of the table that the study asks for, in the table's order, and those that it lacks."""
    wanted = study.expression.genes
    if wanted == "all":
        return table.to_numpy(str).astype(object), []
    if wanted == "protein_coding":
        if "gene_type" not in var:
            raise CohortError(
                f"expression.genes is protein_coding, but {path} does not say the type of its genes.",
                "Give an h5ad with var['gene_type'], a file of symbols, or `genes: all`.",
            )
        return var.index[var["gene_type"].astype(str) == "protein_coding"].to_numpy(object), []
    file = gene_file(study)
    if file is not None:
        wanted = read_gene_list(file, "expression.genes", "`all`, `protein_coding`, a list, or ")
    listed = dict.fromkeys(wanted)
    genes = np.array([gene for gene in table if gene in listed], dtype=object)
    if not len(genes):
        raise CohortError(
            f"None of the genes that the study lists is in {path}: it lists {some(list(listed))}; the table has "
            f"{some(table)}."
        )
    return genes, list(pd.Index(listed).difference(table, sort=False))


def _usable(numbers: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    missing = np.isnan(numbers).any(axis=0)
    constant = ~missing & (numbers == numbers[:1]).all(axis=0)
    rows = [
        ("gene", gene, f"missing values ({n} patient{'s' if n > 1 else ''})")
        for gene, n in zip(genes[missing], np.isnan(numbers[:, missing]).sum(axis=0), strict=True)
    ]
    rows += [("gene", gene, "the same for every patient") for gene in genes[constant]]
    return ~(missing | constant), rows


def _plain(var: pd.DataFrame) -> pd.DataFrame:
    """Text as plain strings, empty where unknown: h5ad refuses objects that mix strings and NaN."""
    text = [name for name in var if not pd.api.types.is_numeric_dtype(var[name])]
    var = var.astype(dict.fromkeys(text, object))
    var[text] = var[text].fillna("").astype(str)
    var.index = pd.Index(var.index.astype(str), name="gene")
    return var
