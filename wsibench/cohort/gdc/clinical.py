"""Patients' clinic and subtype from an export that the user has: cBioPortal's, TCGAbiolinks' or the GDC's.

Columns are recognised by name, whatever their case and punctuation: "ER Status By IHC" and
er_status_by_ihc are one.  `COLUMNS` is the whole list.
"""

import gzip
import re
from itertools import takewhile
from pathlib import Path

import pandas as pd

from wsibench.core import CohortError

COLUMNS = {
    "patient_id": (
        "sample_id", "barcode", "pan_samplesid", "patient_id", "patient", "bcr_patient_barcode", "submitter_id",
        "case_submitter_id",
    ),
    "subtype": (
        "pam50", "pam50_subtype", "brca_subtype_pam50", "paper_brca_subtype_pam50", "subtype_mrna", "subtype_selected",
        "subtype",
    ),
    "stage": (
        "ajcc_pathologic_stage", "ajcc_pathologic_tumor_stage", "pathologic_stage", "paper_pathologic_stage",
        "neoplasm_disease_stage_american_joint_committee_on_cancer_code", "ajcc_stage", "stage",
    ),
    "age_years": (
        "age_years", "age_at_initial_pathologic_diagnosis", "paper_age_at_initial_pathologic_diagnosis",
        "diagnosis_age", "age_at_index", "age",
    ),
    "age_days": ("age_at_diagnosis",),
    "er": ("er_status_by_ihc", "er_status", "breast_carcinoma_estrogen_receptor_status"),
    "pr": ("pr_status_by_ihc", "pr_status", "breast_carcinoma_progesterone_receptor_status"),
    "her2": ("ihc_her2", "her2_status_by_ihc", "her2_status", "her2_final_status"),
}  # fmt: skip
"""Names that are understood for each of ours, preferred ones first, lower case and ``_`` for all punctuation.

GDC and TCGAbiolinks give ``age_at_diagnosis`` in days.
"""
PATIENT = r"TCGA-\w\w-\w{4}"
FIELDS = ("subtype", "stage", "age_years", "er", "pr", "her2")
"""What is read, in the order of the tables."""
UNKNOWN = {
    "", "--", "na", "nan", "n/a", "unknown", "none", "not reported", "not available", "not evaluated", "not applicable",
}  # fmt: skip
"""What the exports write where they do not know, without brackets and quotes."""
PAM50 = {
    "luma": "LumA", "luminala": "LumA", "lumb": "LumB", "luminalb": "LumB", "basal": "Basal", "basallike": "Basal",
    "her2": "Her2", "her2enriched": "Her2", "normal": "Normal", "normallike": "Normal",
}  # fmt: skip
"""Spellings of the PAM50 subtypes, letters and digits only."""


def read_clinical(path: Path) -> pd.DataFrame:
    """Read a table of patients or samples (CSV or TSV, gzipped or not).

    Lines that begin with ``#`` (cBioPortal's data_clinical_*.txt) are skipped.  Of several rows of a
    patient the first that knows a value counts, primary tumours before others.

    Returns
    -------
    DataFrame
        Indexed by patient_id (first 12 characters of a barcode); all text, "" unknown: subtype
        (LumA, LumB, Basal, Her2, Normal, or as it stands), stage (I, II, III, IV), age_years, er, pr,
        her2 (positive, negative, or as it stands); a field that the table lacks is "" throughout.
        ``attrs["columns"]``: which column each field was read from.

    Raises
    ------
    CohortError
        When the table cannot be read, or names no TCGA patients.
    """
    table = _read(path)
    chosen = _choose(table)
    if "patient_id" not in chosen:
        raise CohortError(
            f"{path} has no column of TCGA patients or samples; it has {', '.join(table.columns[:12])}.",
            f"Call it one of {', '.join(COLUMNS['patient_id'])}.",
        )
    barcodes = _barcodes(table[chosen["patient_id"]])
    known = barcodes.str.match(PATIENT)
    fields = pd.DataFrame({"patient_id": barcodes.str[:12], "primary": barcodes.str[13:15].isin(["", "01"])})
    for field, column in chosen.items():
        if field != "patient_id":
            fields[field] = [_tidy(field, value.strip("[]\"' ")) for value in table[column]]
    if "age_days" in fields and "age_years" not in fields:
        fields["age_years"] = [f"{float(days) / 365.25:.1f}" if days else "" for days in fields["age_days"]]
        chosen["age_years"] = chosen["age_days"]
    fields = fields[known].sort_values("primary", ascending=False, kind="stable")
    # "" has to count as missing for the first known value to be found.
    merged = fields.replace("", pd.NA).groupby("patient_id").first().reindex(columns=list(FIELDS)).fillna("")
    merged.attrs["columns"] = {field: chosen[field] for field in FIELDS if field in chosen}
    return merged


def coverage(clinical: pd.DataFrame, patients: list[str]) -> pd.DataFrame:
    """How many of the patients each field is known for, which column it came from, and its values.

    Parameters
    ----------
    clinical
        From `read_clinical`.
    patients
        Ids of the cohort's patients.
    """
    of_cohort = clinical.reindex(patients, fill_value="")
    rows = []
    for field in FIELDS:
        known = of_cohort[field][of_cohort[field] != ""]
        if field == "age_years":
            ages = known.astype(float)
            values = f"median {ages.median():.0f}, {ages.min():.0f} to {ages.max():.0f}" if len(ages) else ""
        else:
            values = ", ".join(f"{value} {n}" for value, n in known.value_counts().head(8).items())
        column = clinical.attrs["columns"].get(field, "")
        rows.append({"field": field, "column": column, "known": len(known), "of": len(patients), "values": values})
    return pd.DataFrame(rows)


def _read(path: Path) -> pd.DataFrame:
    separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            n_comments = sum(1 for _ in takewhile(lambda line: line.startswith("#"), file))
        return pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, skiprows=n_comments, encoding="utf-8-sig"
        )
    except FileNotFoundError:
        raise CohortError(f"There is no clinical table {path}.", "Correct `clinical` in study.yaml.") from None
    except (UnicodeDecodeError, OSError, EOFError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path} cannot be read: {error}.", "Give a .csv, or a tab-separated .tsv or .txt.") from None


def _choose(table: pd.DataFrame) -> dict[str, str]:
    """The table's column for each field that it has."""
    names = {re.sub(r"\W+", "_", name.strip().lower()).strip("_"): name for name in reversed(table.columns)}
    found = {field: [names[alias] for alias in aliases if alias in names] for field, aliases in COLUMNS.items()}
    # A sample tells primary tumours apart; but sample_id may also be a UUID.
    found["patient_id"] = [name for name in found["patient_id"] if _barcodes(table[name]).str.match(PATIENT).any()]
    return {field: columns[0] for field, columns in found.items() if columns}


def _barcodes(column: pd.Series) -> pd.Series:
    # R turns hyphens in names into points.
    return column.str.strip().str.upper().str.replace(".", "-")


def _tidy(field: str, value: str) -> str:
    if value.lower() in UNKNOWN:
        return ""
    if field == "subtype":
        bare = re.sub(r"^BRCA[._]", "", value)
        return PAM50.get(re.sub(r"[^a-z0-9]", "", bare.lower()), bare)
    if field == "stage":
        stage = re.fullmatch(r"(?i)(?:stage[ _]*)?(IV|I{1,3})[ABC]?\d?", value)
        return stage[1].upper() if stage else value
    if field in ("age_years", "age_days"):
        return value if re.fullmatch(r"\d+(\.\d+)?", value) else ""
    return value.lower() if value.lower() in ("positive", "negative") else value
