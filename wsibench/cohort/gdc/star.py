"""Read the STAR counts files of the GDC, one a patient, as AnnData.

X is log2(TPM + 1) of the TPM as published: over all genes of the annotation, not renormalised over
those that are kept, so that a value does not depend on which genes a study looks at.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from anndata import AnnData

from wsibench.core import CohortError, n_workers, progress

UNIT = "log2_tpm"
GENE_COLUMNS = ("gene_id", "gene_name", "gene_type")
VALUE_COLUMNS = ("gene_id", "unstranded", "tpm_unstranded")
PAR_Y = "_PAR_Y"
"""Suffix of the ids of 44 genes that lie on both X and Y and are counted on X: the same symbol twice."""
READ_AGAIN = "Delete it and run 01_cohort again: it is fetched anew."


def read_star(paths: Mapping[str, Path]) -> AnnData:
    """Read one STAR counts file a patient (``*.rna_seq.augmented_star_gene_counts.tsv``, gzipped or not).

    Pseudo-autosomal copies on Y are dropped, versions are stripped from Ensembl ids, and symbols
    made unique as `unique_symbols` says.

    Parameters
    ----------
    paths
        File of each patient, by patient id.

    Returns
    -------
    AnnData
        Patients × genes.  X float32, log2(TPM + 1); layer ``counts`` int32, unstranded reads; var
        index gene (symbol), ensembl_id, gene_type; uns ``wsibench`` says unit and normalisation.

    Raises
    ------
    CohortError
        For a file that is not of this format, or of another annotation than the first one.
    """
    patients = sorted(paths)
    annotation, model = _read_annotation(paths[patients[0]])
    kept = ~annotation["gene_id"].str.endswith(PAR_Y).to_numpy()
    tpm = np.empty((len(patients), kept.sum()), np.float32)
    counts = np.empty(tpm.shape, np.int32)
    gene_ids = pa.chunked_array([pa.array(annotation["gene_id"], pa.string())])

    def read(row: int) -> None:
        path = paths[patients[row]]
        columns = _read_columns(path, VALUE_COLUMNS)
        if columns["gene_id"] != gene_ids:
            raise CohortError(
                f"{path} lists other genes than {paths[patients[0]]}.", "All files have to be of one GENCODE release."
            )
        counts[row] = _numbers(columns["unstranded"], path)[kept]
        tpm[row] = _numbers(columns["tpm_unstranded"], path)[kept]

    with ThreadPoolExecutor(n_workers() or 1) as pool:
        for _ in progress(pool.map(read, range(len(patients))), total=len(patients), label="01 STAR counts"):
            pass
    np.log2(np.add(tpm, 1, out=tpm), out=tpm)
    return AnnData(
        X=tpm,
        obs=pd.DataFrame(index=pd.Index(patients, name="patient_id")),
        var=_var(annotation[kept]),
        layers={"counts": counts},
        uns={"wsibench": {"unit": UNIT, "normalisation": "TPM over all genes, not renormalised", "gene_model": model}},
    )


def unique_symbols(symbols: Sequence[str], gene_types: Sequence[str], ensembl_ids: Sequence[str]) -> np.ndarray:
    """Make gene symbols unique.

    Of several genes with one symbol the first protein-coding one keeps it, or else the first; the
    others are called ``SYMBOL_ENSG…``.

    Parameters
    ----------
    symbols, gene_types, ensembl_ids
        One a gene.

    Returns
    -------
    ndarray
        The symbols, in the same order.
    """
    table = pd.DataFrame({"symbol": symbols, "other": np.asarray(gene_types) != "protein_coding", "id": ensembl_ids})
    keeps = ~table.sort_values("other", kind="stable")["symbol"].duplicated().sort_index()
    return np.where(keeps, table["symbol"], table["symbol"] + "_" + table["id"])


def _var(annotation: pd.DataFrame) -> pd.DataFrame:
    ids = annotation["gene_id"].str.split(".").str[0].to_numpy()
    types = annotation["gene_type"].fillna("").to_numpy()
    symbols = unique_symbols(annotation["gene_name"].to_numpy(), types, ids)
    return pd.DataFrame({"ensembl_id": ids, "gene_type": types}, index=pd.Index(symbols, name="gene"))


def _read_annotation(path: Path) -> tuple[pd.DataFrame, str]:
    """Read the genes of a STAR counts file, and the gene model that its first line names."""
    table = _read_columns(path, GENE_COLUMNS)
    with pa.input_stream(str(path), compression="detect") as file:
        model = file.read(200).decode(errors="replace").splitlines()[0].removeprefix("# gene-model:").strip()
    return table.to_pandas(), model


def _read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a STAR counts file, without the rows N_unmapped, N_multimapping, … above the genes."""
    types = {name: pa.string() for name in GENE_COLUMNS} | {"unstranded": pa.int64(), "tpm_unstranded": pa.float64()}
    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(skip_rows=1, use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter="\t"),
            convert_options=pa.csv.ConvertOptions(include_columns=list(columns), column_types=types),
        )
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is not a STAR counts file: {error}.", READ_AGAIN) from None
    return table.filter(pc.invert(pc.starts_with(table["gene_id"], "N_")))


def _numbers(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    values = column.to_numpy()
    if not (values >= 0).all():  # NaN compares false, too
        raise CohortError(f"{path} has genes without a count or TPM.", READ_AGAIN)
    return values
