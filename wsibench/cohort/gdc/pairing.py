"""Parse TCGA barcodes, and pair diagnostic slides with RNA by counted rules."""

from dataclasses import dataclass

import pandas as pd

from wsibench.core import CohortError

BARCODE = (
    r"^(?P<patient_id>TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})-(?P<sample>\d{2})(?P<vial>[A-Z])"
    r"(?:-(?P<portion>\d{2})(?:(?P<analyte>[A-Z])-(?P<plate>[A-Z0-9]{4})-(?P<centre>[A-Z0-9]{2})"
    r"|-(?P<section>DX|TS|MS|BS)[A-Z0-9]*)?)?$"
)
"""Sample, slide and aliquot barcodes.  Characters 6–7 are the tissue source site.

https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode
"""

PRIMARY = "01"
"""Sample code of a primary solid tumour; 06 is a metastasis, 11 normal tissue beside the tumour."""

ANALYTES = ("H", "R", "T")
"""RNA analytes, preferred ones first: the order of Firehose's analyte replicate filter."""


@dataclass(frozen=True)
class Rule:
    """A condition that files must meet; docs/tcga.md gives the reasons."""

    keeps: str
    drops: str
    """Reason stated for a file that does not meet it."""


# Frozen sections (TS, MS, BS) look different; a barcode such as 01A-01-DX1 is diagnostic all the same.
DIAGNOSTIC = Rule("diagnostic (DX) sections", "not a diagnostic section")
# A metastasis, or normal tissue, is not the tumour whose RNA is predicted.
PRIMARY_SLIDE = Rule("slides of primary tumours (01)", "not of a primary tumour")
PRIMARY_RNA = Rule("RNA of primary tumours (01)", "not of a primary tumour")
# Frozen before FFPE, then the first vial, analyte H, R, T, the latest plate, the highest barcode.
ONE_ALIQUOT = Rule("one aliquot a patient", "another aliquot of the patient was taken")
# All slides of a patient stay together.
PAIRED_SLIDE = Rule("slides of patients with RNA", "no RNA of the patient's primary tumour")
PAIRED_RNA = Rule("RNA of patients with a slide", "no diagnostic slide of the patient's primary tumour")
LISTED = Rule("all files listed", "")


@dataclass(frozen=True)
class Pairing:
    """Files that the rules keep, and those that they drop."""

    slides: pd.DataFrame
    """One row a slide, as given, with `patient_id` and `site`."""
    rna: pd.DataFrame
    """One row a patient."""
    rules: pd.DataFrame
    """One row a rule: the numbers of files, patients and sites that it keeps, and of those that it drops."""
    dropped: pd.DataFrame
    """One row a dropped file: kind of file (what), id, reason."""


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
    counts: list[dict] = []
    dropped: list[pd.DataFrame] = []

    def keep(what: str, table: pd.DataFrame, rule: Rule, kept: pd.Series) -> pd.DataFrame:
        dropped.append(pd.DataFrame({"what": what, "id": table.loc[~kept, "file_name"], "reason": rule.drops}))
        counts.append(_count(what, rule, table[kept], before=table))
        return table[kept]

    slides = slides.join(parse_barcodes(slides["barcode"]))
    counts.append(_count("slide", LISTED, slides, before=slides))
    slides = keep("slide", slides, DIAGNOSTIC, slides["section"] == "DX")
    slides = keep("slide", slides, PRIMARY_SLIDE, slides["sample"] == PRIMARY)

    rna = rna.join(parse_barcodes(rna["barcode"]))
    counts.append(_count("RNA file", LISTED, rna, before=rna))
    rna = keep("RNA file", rna, PRIMARY_RNA, rna["sample"] == PRIMARY)
    best = _in_order_of_preference(rna).drop_duplicates("patient_id").index
    rna = keep("RNA file", rna, ONE_ALIQUOT, rna.index.to_series().isin(best))

    both = set(slides["patient_id"]) & set(rna["patient_id"])
    slides = keep("slide", slides, PAIRED_SLIDE, slides["patient_id"].isin(both))
    rna = keep("RNA file", rna, PAIRED_RNA, rna["patient_id"].isin(both))
    return Pairing(
        slides.sort_values("file_name", ignore_index=True),
        rna.sort_values("patient_id", ignore_index=True),
        pd.DataFrame(counts),
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


def _count(what: str, rule: Rule, kept: pd.DataFrame, before: pd.DataFrame) -> dict[str, str | int]:
    patients, n_before = kept["patient_id"].nunique(), before["patient_id"].nunique()
    return {
        "of": what,
        "rule": rule.keeps,
        "files": len(kept),
        "patients": patients,
        "sites": kept["site"].nunique(),
        "dropped_files": len(before) - len(kept),
        "dropped_patients": n_before - patients,
    }
