"""RNA-seq of GDC's STAR pipeline as AnnData: one file a patient, or the matrices of UCSC Xena.

X is log2(TPM + 1) of the TPM as published: over all genes of the annotation, not renormalised over
those that are kept, so that a value does not depend on which genes a study looks at.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from wsibench.cohort.gdc import pairing as tcga
from wsibench.core import CohortError, n_workers, progress

if TYPE_CHECKING:
    from anndata import AnnData

UNIT = "log2_tpm"
GENE_COLUMNS = ("gene_id", "gene_name", "gene_type")
VALUE_COLUMNS = ("gene_id", "unstranded", "tpm_unstranded")
PAR_Y = "_PAR_Y"
"""Ids of 44 genes that lie on X and Y both and are counted on X: the same symbol twice."""
READ_AGAIN = "Delete it and run 01_cohort again: it is fetched anew."


def read_star(paths: Mapping[str, Path]) -> "AnnData":
    """Read one STAR counts file a patient (``*.rna_seq.augmented_star_gene_counts.tsv``, gzipped or not).

    Pseudo-autosomal copies on Y are dropped, versions are stripped from Ensembl ids, and symbols
    made unique as `unique_symbols` says.

    Parameters
    ----------
    paths
        File by patient id.

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
    import anndata

    patients = sorted(paths)
    annotation, model = _read_annotation(paths[patients[0]])
    kept = ~annotation["gene_id"].str.endswith(PAR_Y).to_numpy()
    tpm = np.empty((len(patients), kept.sum()), np.float32)
    counts = np.empty(tpm.shape, np.int32)

    gene_ids = pa.chunked_array([pa.array(annotation["gene_id"], pa.string())])

    def read(row: int) -> None:
        path = paths[patients[row]]
        columns = _read_columns(path, VALUE_COLUMNS)
        columns = columns.slice(_n_uncounted(columns["gene_id"]))
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
    return anndata.AnnData(
        X=tpm,
        obs=pd.DataFrame(index=pd.Index(patients, name="patient_id")),
        var=_var(annotation[kept]),
        layers={"counts": counts},
        uns={"wsibench": {"unit": UNIT, "normalisation": "TPM over all genes, not renormalised", "gene_model": model}},
    )


def read_xena(tpm: Path, *, annotation: Path, counts: Path | None = None) -> tuple[list[str], "AnnData"]:
    """Read UCSC Xena's matrices of a GDC project (``TCGA-BRCA.star_tpm.tsv.gz`` and ``.star_counts.tsv.gz``).

    They hold log2(TPM + 1) and log2(count + 1), genes × samples; Xena has averaged the aliquots of a
    sample.  They name genes by id alone, so the symbols come from elsewhere.

    Parameters
    ----------
    tpm
        Becomes X as it stands.
    annotation
        Xena's probemap (``gencode.v36.annotation.gtf.gene.probemap``), or any STAR counts file of the
        GDC, which also tells the type of each gene.
    counts
        Becomes the layer ``counts``, rounded.

    Returns
    -------
    samples
        Barcode of each row (``TCGA-BH-A0B3-01A``).
    adata
        As of `read_star`, samples × genes, and obs index the barcode.

    Raises
    ------
    CohortError
        When a matrix, or its annotation, is not what it should be.
    """
    import anndata

    genes, samples, values = _read_matrix(tpm, np.float32)
    kept = ~genes.str.endswith(PAR_Y).to_numpy()
    layers = {}
    if counts is not None:
        genes_too, samples_too, log_counts = _read_matrix(counts, np.float64)
        if not genes_too.equals(genes) or set(samples_too) != set(samples):
            raise CohortError(f"{counts} and {tpm} are not of the same genes and samples.", "Take both from one hub.")
        order = pd.Index(samples_too).get_indexer(samples)
        layers["counts"] = np.rint(np.exp2(log_counts[kept][:, order].T) - 1).astype(np.int32)
    known = read_annotation(annotation).set_index("gene_id")
    known.index = known.index.str.split(".").str[0]
    ids = genes[kept].str.split(".").str[0]
    known = known[~known.index.duplicated()].reindex(ids)
    if known["gene_name"].isna().mean() > 0.01:
        raise CohortError(
            f"{annotation} knows {known['gene_name'].notna().sum()} of the {len(ids)} genes of {tpm}.",
            "Give the annotation of the same GENCODE release, or any STAR counts file of the GDC.",
        )
    known["gene_name"] = known["gene_name"].fillna(known.index.to_series())
    return samples, anndata.AnnData(
        X=np.ascontiguousarray(values[kept].T),
        obs=pd.DataFrame(index=pd.Index(samples, name="barcode")),
        var=_var(known.rename_axis("gene_id").reset_index()),
        layers=layers,
        uns={"wsibench": {"unit": UNIT, "normalisation": "TPM over all genes, averaged over aliquots by UCSC Xena"}},
    )


def xena_samples(path: Path) -> list[str]:
    """Barcodes of the samples of a matrix of UCSC Xena, from its first line alone."""
    with pa.input_stream(str(path), compression="detect") as file:
        head = b""
        while b"\n" not in head and (more := file.read(1 << 16)):
            head += more
    return head.partition(b"\n")[0].decode(errors="replace").rstrip("\r").split("\t")[1:]


def read_annotation(path: Path) -> pd.DataFrame:
    """Genes of a STAR counts file or a Xena probemap: gene_id (with version), gene_name, gene_type ("" unknown)."""
    with pa.input_stream(str(path), compression="detect") as file:
        begin = file.read(4096).decode(errors="replace")
    if begin.startswith("# gene-model"):
        return _read_annotation(path)[0]
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not {"id", "gene"} <= set(table):
        raise CohortError(
            f"{path} is neither a probemap of Xena (columns id, gene) nor a STAR counts file.",
            f"Its columns: {', '.join(map(str, table.columns[:6]))}.",
        )
    table = table.rename(columns={"id": "gene_id", "gene": "gene_name"})
    return table.assign(gene_type="")[list(GENE_COLUMNS)]


def unique_symbols(symbols: Sequence[str], gene_types: Sequence[str], ensembl_ids: Sequence[str]) -> np.ndarray:
    """Symbols of which none comes twice.

    Of several genes with one symbol the first protein-coding one keeps it, or else the first; the
    others are called ``SYMBOL_ENSG…``.
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
    """Genes of a STAR counts file, and its first line's gene model."""
    table = _read_columns(path, GENE_COLUMNS)
    with pa.input_stream(str(path), compression="detect") as file:
        model = file.read(200).decode(errors="replace").splitlines()[0].removeprefix("# gene-model:").strip()
    frame = table.to_pandas()
    return frame[~frame["gene_id"].str.startswith("N_")].reset_index(drop=True), model


def _n_uncounted(gene_ids: pa.ChunkedArray) -> int:
    """Rows above the genes: N_unmapped, N_multimapping, N_noFeature, N_ambiguous."""
    head = gene_ids[:10].to_pylist()
    return sum(name.startswith("N_") for name in head)


def _read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    types = {name: pa.string() for name in GENE_COLUMNS} | {"unstranded": pa.int64(), "tpm_unstranded": pa.float64()}
    try:
        return pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(skip_rows=1, use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter="\t"),
            convert_options=pa.csv.ConvertOptions(include_columns=list(columns), column_types=types),
        )
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is not a STAR counts file: {error}.", READ_AGAIN) from None


def _numbers(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    values = column.to_numpy()
    if not (values >= 0).all():  # NaN compares false, too
        raise CohortError(f"{path} has genes without a count or TPM.", READ_AGAIN)
    return values


def _read_matrix(path: Path, dtype: type[np.floating]) -> tuple[pd.Series, list[str], np.ndarray]:
    """Gene ids, sample barcodes and values (genes, samples) of a matrix of Xena."""
    try:
        table = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter="\t"))
    except (pa.ArrowException, OSError) as error:
        raise CohortError(f"{path} is not a matrix of UCSC Xena: {error}.") from None
    first, *samples = table.column_names
    genes = table[first].to_pandas()
    if genes.dtype != object or not genes.str.startswith("ENSG").any():
        raise CohortError(
            f"{path} is not a matrix of UCSC Xena: its first column {first!r} has no Ensembl ids.",
            "Give TCGA-….star_tpm.tsv.gz from https://gdc.xenahubs.net.",
        )
    tcga.parse_barcodes(pd.Series(samples))
    rows = genes.str.startswith("ENSG").to_numpy()
    values = np.empty((len(genes), len(samples)), dtype)
    for column, sample in enumerate(samples):
        values[:, column] = table[sample].to_numpy()
    if not np.isfinite(values[rows]).all():
        raise CohortError(f"{path} has empty or infinite values.")
    return genes[rows].reset_index(drop=True), samples, values[rows]
