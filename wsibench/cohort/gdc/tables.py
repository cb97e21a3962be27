"""Pair slides with RNA by TCGA's barcodes, and read the RNA (STAR counts files, one a patient) as AnnData."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from wsibench.core import CohortError, n_workers, progress

if TYPE_CHECKING:
    from anndata import AnnData

# Sample, slide and aliquot barcodes.  Characters 6–7 are the tissue source site.
#
# https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode
BARCODE = (
    r"^(?P<patient_id>TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})-(?P<sample>\d{2})(?P<vial>[A-Z])"
    r"(?:-(?P<portion>\d{2})(?:(?P<analyte>[A-Z])-(?P<plate>[A-Z0-9]{4})-(?P<centre>[A-Z0-9]{2})"
    r"|-(?P<section>DX|TS|MS|BS)[A-Z0-9]*)?)?$"
)

# Sample code of a primary solid tumour; 06 is a metastasis, 11 normal tissue beside the tumour.
PRIMARY = "01"

# RNA analytes, preferred ones first: the order of Firehose's analyte replicate filter.
ANALYTES = ("H", "R", "T")
GENE_COLUMNS = ("gene_id", "gene_name", "gene_type")
VALUE_COLUMNS = ("gene_id", "unstranded", "tpm_unstranded")
# Suffix of the ids of 44 genes that lie on both X and Y and are counted on X: the same symbol twice.
PAR_Y = "_PAR_Y"
READ_AGAIN = "Delete it and run 01_cohort again: it is fetched anew."


# Pairing


@dataclass(frozen=True)
class Pairing:
    """Files that the rules keep, and those that they drop."""

    slides: pd.DataFrame  # one row a slide, as given, with `patient_id` and `site`
    rna: pd.DataFrame  # one row a patient
    # One row a rule: the numbers of files, patients and sites that it keeps, and of those that it drops.
    rules: pd.DataFrame
    dropped: pd.DataFrame  # one row a dropped file: kind of file (what), id, reason


def parse_barcodes(barcodes: pd.Series) -> pd.DataFrame:
    """Split TCGA barcodes into their parts.

    Parameters
    ----------
    barcodes
        Of samples (``TCGA-BH-A0B3-01A``), slides (``…-01Z-00-DX1``) or aliquots (``…-01A-11R-A056-07``).

    Returns
    -------
    DataFrame
        Text columns patient_id, site, sample, vial, portion, analyte, plate, centre, section; ""
        where a barcode has no such part.

    Raises
    ------
    CohortError
        For text that is no such barcode; names the first few.
    """
    parts = barcodes.str.extract(BARCODE)
    wrong = barcodes[parts["patient_id"].isna()]
    if len(wrong):
        raise CohortError(
            f"{len(wrong)} barcodes are not TCGA's, such as {', '.join(map(repr, wrong.head(3)))}.",
            "A `source: gdc` cohort takes TCGA projects; bring another one as `source: local`.",
        )
    return parts.fillna("")


def pair(slides: pd.DataFrame, rna: pd.DataFrame) -> Pairing:
    """Apply the rules to all slides and RNA files of a project.

    Parameters
    ----------
    slides
        One row a slide file: `file_name` and `barcode`, and whatever else should be kept.
    rna
        One row an expression file: `file_name`, the aliquot's `barcode`, and `ffpe` (bool).

    Returns
    -------
    Pairing
        The files kept, the counts of every rule, and the files dropped.

    Raises
    ------
    CohortError
        For a barcode that is not TCGA's.
    """
    slides, rna = (table.join(parse_barcodes(table["barcode"])) for table in (slides, rna))
    rules: list[dict] = []
    dropped: list[pd.DataFrame] = []

    def keep(
        what: str, before: pd.DataFrame, rule: str, kept: pd.Series | None = None, reason: str = ""
    ) -> pd.DataFrame:
        after = before if kept is None else before[kept]
        left_out = before["file_name"].drop(after.index)
        dropped.append(pd.DataFrame({"what": what, "id": left_out, "reason": reason}))
        n_before, n = before["patient_id"].nunique(), after["patient_id"].nunique()
        count = {"of": what, "rule": rule, "files": len(after), "patients": n, "sites": after["site"].nunique()}
        rules.append(count | {"dropped_files": len(left_out), "dropped_patients": n_before - n})
        return after

    # docs/tcga.md gives the reasons of the rules.
    slides = keep("slide", slides, "all files listed")
    # Frozen sections (TS, MS, BS) look different; a barcode such as 01A-01-DX1 is diagnostic all the same.
    slides = keep("slide", slides, "diagnostic (DX) sections", slides["section"] == "DX", "not a diagnostic section")
    # A metastasis, or normal tissue, is not the tumour whose RNA is predicted.
    other = "not of a primary tumour"
    slides = keep("slide", slides, "slides of primary tumours (01)", slides["sample"] == PRIMARY, other)

    rna = keep("RNA file", rna, "all files listed")
    rna = keep("RNA file", rna, "RNA of primary tumours (01)", rna["sample"] == PRIMARY, other)
    best = _in_order_of_preference(rna).drop_duplicates("patient_id").index
    another = "another aliquot of the patient was taken"
    rna = keep("RNA file", rna, "one aliquot a patient", rna.index.to_series().isin(best), another)

    # All slides of a patient stay together.
    both = set(slides["patient_id"]) & set(rna["patient_id"])
    unpaired = "no RNA of the patient's primary tumour"
    slides = keep("slide", slides, "slides of patients with RNA", slides["patient_id"].isin(both), unpaired)
    unpaired = "no diagnostic slide of the patient's primary tumour"
    rna = keep("RNA file", rna, "RNA of patients with a slide", rna["patient_id"].isin(both), unpaired)
    return Pairing(
        slides.sort_values("file_name", ignore_index=True),
        rna.sort_values("patient_id", ignore_index=True),
        pd.DataFrame(rules),
        pd.concat(dropped, ignore_index=True),
    )


def _in_order_of_preference(rna: pd.DataFrame) -> pd.DataFrame:
    """Sort RNA files so that each patient's preferred one comes first.

    FFPE aliquots come last, since TCGA's RNA is otherwise from frozen tissue.  Among replicates the
    rules are Firehose's: analyte H before R before T, then the later plate, then the barcode that
    sorts highest (https://gdac.broadinstitute.org/runs/gdc/report_2017_07_22/).
    """
    analyte = rna["analyte"].map({name: rank for rank, name in enumerate(ANALYTES)}).fillna(len(ANALYTES))
    by = ["ffpe", "vial", "analyte", "plate", "barcode"]
    return rna.assign(analyte=analyte).sort_values(by, ascending=[True, True, True, False, False], kind="stable")


# Expression


def read_star(paths: Mapping[str, Path]) -> "AnnData":
    """Read one STAR counts file a patient (``*.rna_seq.augmented_star_gene_counts.tsv``, gzipped or not).

    Pseudo-autosomal copies on Y are dropped, versions are stripped from Ensembl ids, and symbols
    made unique as `gene_table` says.  TPM is as published: over all genes of the annotation, not renormalised
    over those that are kept, so that a value does not depend on which genes a study looks at.

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
    from anndata import AnnData  # takes a second, which `wsibench status` does not need

    patients = sorted(paths)
    first = paths[patients[0]]
    annotation = _read_columns(first, GENE_COLUMNS)
    kept = ~annotation["gene_id"].to_pandas().str.endswith(PAR_Y).to_numpy()
    tpm = np.empty((len(patients), kept.sum()), np.float32)
    counts = np.empty(tpm.shape, np.int32)

    def read(row: int) -> None:
        path = paths[patients[row]]
        columns = _read_columns(path, VALUE_COLUMNS)
        if columns["gene_id"] != annotation["gene_id"]:
            raise CohortError(f"{path} lists other genes than {first}.", "All files have to be of one GENCODE release.")
        for values, name in ((counts, "unstranded"), (tpm, "tpm_unstranded")):
            numbers = columns[name].to_numpy()
            if not (numbers >= 0).all():  # NaN compares false, too
                raise CohortError(f"{path} has genes without a count or TPM.", READ_AGAIN)
            values[row] = numbers[kept]

    with ThreadPoolExecutor(n_workers() or 1) as pool:
        for _ in progress(pool.map(read, range(len(patients))), total=len(patients), label="01 STAR counts"):
            pass
    np.log2(np.add(tpm, 1, out=tpm), out=tpm)
    with pa.input_stream(str(first), compression="detect") as file:
        model = file.read(200).decode(errors="replace").splitlines()[0].removeprefix("# gene-model:").strip()
    facts = {"unit": "log2_tpm", "normalisation": "TPM over all genes, not renormalised", "gene_model": model}
    return AnnData(
        X=tpm,
        obs=pd.DataFrame(index=pd.Index(patients, name="patient_id")),
        var=gene_table(annotation.to_pandas()[kept]),
        layers={"counts": counts},
        uns={"wsibench": facts},
    )


def gene_table(annotation: pd.DataFrame) -> pd.DataFrame:
    """Index genes by unique symbols, with Ensembl ids without versions.

    Of several genes with one symbol the first protein-coding one keeps it, or else the first; the
    others are called ``SYMBOL_ENSG…``.

    Parameters
    ----------
    annotation
        One row a gene: gene_id, gene_name, gene_type.

    Returns
    -------
    DataFrame
        Indexed by gene, in the same order: ensembl_id, gene_type.
    """
    genes = annotation.assign(
        ensembl_id=annotation["gene_id"].str.split(".").str[0], gene_type=annotation["gene_type"].fillna("")
    )
    coding_first = genes.iloc[np.argsort(genes["gene_type"] != "protein_coding", kind="stable")]
    repeated = coding_first["gene_name"].duplicated().reindex(genes.index)
    symbols = genes["gene_name"].mask(repeated, genes["gene_name"] + "_" + genes["ensembl_id"])
    return genes[["ensembl_id", "gene_type"]].set_axis(pd.Index(symbols.to_numpy(), name="gene"))


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
