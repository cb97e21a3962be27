"""Clinical tables as cBioPortal, TCGAbiolinks and the GDC export them."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from wsibench.cohort.clinical import read_tcga_clinical
from wsibench.core import CohortError

# The headers are those of the real exports; the patients are invented.
CBIOPORTAL_VIEW = """\
Study ID\tPatient ID\tSample ID\tDiagnosis Age\tNeoplasm Disease Stage American Joint Committee on Cancer Code\tSubtype
brca_tcga_pan_can_atlas_2018\tTCGA-3C-AAAU\tTCGA-3C-AAAU-01\t55\tSTAGE X\tBRCA_LumA
brca_tcga_pan_can_atlas_2018\tTCGA-3C-AALI\tTCGA-3C-AALI-01\t50\tSTAGE IIB\tBRCA_Her2
brca_tcga_pan_can_atlas_2018\tTCGA-BH-A18V\tTCGA-BH-A18V-06\t48\tSTAGE IA\tNA
"""
CBIOPORTAL_FILE = """\
#Patient Identifier\tSubtype\tDiagnosis Age\tStage
#Identifier\tSubtype\tAge\tStage
#STRING\tSTRING\tNUMBER\tSTRING
#1\t1\t1\t1
PATIENT_ID\tSUBTYPE\tAGE\tAJCC_PATHOLOGIC_TUMOR_STAGE
TCGA-3C-AAAU\tBRCA_LumA\t55\tSTAGE X
TCGA-3C-AALI\tBRCA_Her2\t50\tSTAGE IIB
TCGA-BH-A18V\t\t48\tSTAGE IA
"""
FIREHOSE = """\
Patient ID\tSample ID\tDiagnosis Age\tER Status By IHC\tPR status by ihc\tIHC-HER2\tNote #1
TCGA-3C-AAAU\tTCGA-3C-AAAU-01\t55\tPositive\tPositive\tNegative\tsee #2
TCGA-3C-AALI\tTCGA-3C-AALI-01\t50\tPositive\t[Not Available]\tPositive\t
TCGA-BH-A18V\tTCGA-BH-A18V-01\t48\tNegative\tNegative\tEquivocal\t
"""
TCGABIOLINKS_SUBTYPE = """\
"","patient","age_at_initial_pathologic_diagnosis","pathologic_stage","BRCA_Pathology","BRCA_Subtype_PAM50"
"1","TCGA-3C-AAAU",55,"NA","NA","LumA"
"2","TCGA-3C-AALI",50,"Stage_IIB","IDC","Her2"
"3","TCGA-BH-A18V",48,"Stage_I","IDC","Basal"
"""
TCGABIOLINKS_COLDATA = """\
barcode,patient,ajcc_pathologic_stage,age_at_diagnosis,paper_BRCA_Subtype_PAM50
TCGA-BH-A18V-06A-11R-A213-07,TCGA-BH-A18V,Stage IA,17532,Normal
TCGA-BH-A18V-01A-11R-A12D-07,TCGA-BH-A18V,Stage IA,17532,Basal
TCGA-3C-AALI-01A-11R-A41B-07,TCGA-3C-AALI,Stage IIB,18538,Her2
"""
PANCAN_SUBTYPES = """\
pan.samplesID\tcancer.type\tSubtype_mRNA\tSubtype_DNAmeth\tSubtype_Selected
TCGA-BH-A18V-01A\tBRCA\tBasal\tNA\tBRCA.Basal
TCGA-3C-AALI-01A\tBRCA\tHer2\tNA\tBRCA.Her2
"""
GDC_CLINICAL = """\
case_id\tcase_submitter_id\tage_at_index\tajcc_pathologic_stage
1\tTCGA-3C-AALI\t50\tStage IIB
2\tTCGA-BH-A18V\t'--\t'--
"""


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [
        ("view.tsv", CBIOPORTAL_VIEW, {"subtype": "Her2", "stage": "II", "age_years": "50"}),
        ("view.tsv.gz", CBIOPORTAL_VIEW, {"subtype": "Her2", "stage": "II", "age_years": "50"}),
        ("data_clinical_patient.txt", CBIOPORTAL_FILE, {"subtype": "Her2", "stage": "II", "age_years": "50"}),
        ("legacy.tsv", FIREHOSE, {"er": "positive", "her2": "positive", "age_years": "50"}),
        ("subtype.csv", TCGABIOLINKS_SUBTYPE, {"subtype": "Her2", "stage": "II", "age_years": "50"}),
        ("coldata.csv", TCGABIOLINKS_COLDATA, {"subtype": "Her2", "stage": "II", "age_years": "50.8"}),
        ("pancan.tsv", PANCAN_SUBTYPES, {"subtype": "Her2"}),
        ("clinical.tsv", GDC_CLINICAL, {"stage": "II", "age_years": "50"}),
    ],
)
def test_exports_are_understood(tmp_path: Path, name: str, text: str, known: dict[str, str]) -> None:
    row = read_tcga_clinical(written(tmp_path, name, text)).loc["TCGA-3C-AALI"]
    assert row[row != ""].to_dict() == known


def test_every_spelling_of_unknown_becomes_empty(tmp_path: Path) -> None:
    view = read_tcga_clinical(written(tmp_path, "view.tsv", CBIOPORTAL_VIEW))
    assert view.loc["TCGA-BH-A18V", "subtype"] == ""
    gdc = read_tcga_clinical(written(tmp_path, "clinical.tsv", GDC_CLINICAL))
    assert (gdc.loc["TCGA-BH-A18V"] == "").all()
    legacy = read_tcga_clinical(written(tmp_path, "legacy.tsv", FIREHOSE))
    assert legacy.loc["TCGA-BH-A18V", "her2"] == "Equivocal"
    assert legacy.loc["TCGA-3C-AALI", "pr"] == ""


def test_the_row_of_the_primary_tumour_is_used(tmp_path: Path) -> None:
    table = read_tcga_clinical(written(tmp_path, "coldata.csv", TCGABIOLINKS_COLDATA))
    assert table.loc["TCGA-BH-A18V", "subtype"] == "Basal"
    uuids = TCGABIOLINKS_COLDATA.replace("barcode,patient", "sample_id,patient").replace("TCGA-BH-A18V-01A", "1f2e-01")
    assert read_tcga_clinical(written(tmp_path, "uuids.csv", uuids)).index.tolist() == ["TCGA-3C-AALI", "TCGA-BH-A18V"]


def test_columns_that_were_read_are_named(tmp_path: Path) -> None:
    table = read_tcga_clinical(written(tmp_path, "subtype.csv", TCGABIOLINKS_SUBTYPE))
    assert table.attrs["columns"] == {
        "subtype": "BRCA_Subtype_PAM50",
        "stage": "pathologic_stage",
        "age_years": "age_at_initial_pathologic_diagnosis",
    }


def test_other_tables_are_refused_as_clinical_data(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"none\.tsv cannot be read.*No such file"):
        read_tcga_clinical(tmp_path / "none.tsv")
    with pytest.raises(CohortError, match=r"no column of TCGA patients.*it has a, b.*patient_id"):
        read_tcga_clinical(written(tmp_path, "x.csv", "a,b\n1,2\n"))
    with pytest.raises(CohortError, match="cannot be read"):
        read_tcga_clinical(written(tmp_path, "empty.tsv", ""))


@pytest.mark.real
def test_the_real_subtypes(real_data: Path) -> None:
    patients = pd.read_csv(real_data / "tcga_brca" / "patients.csv")
    table = read_tcga_clinical(real_data / "tcga_brca" / "patients.csv")
    counts = table["subtype"][table["subtype"] != ""].value_counts().to_dict()
    assert counts == patients["pam50"].value_counts().to_dict()
    assert set(counts) <= {"LumA", "LumB", "Basal", "Her2", "Normal"}
