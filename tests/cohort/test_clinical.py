"""Clinical data: tables are joined, and refused where they contradict each other."""

import numpy as np
import pandas as pd
import pytest
import yaml

from wsibench import assembly, cohort
from wsibench.cohort import clinical
from wsibench.core import CohortError, Study, StudyError, read_meta

IDS = ["A", "B", "C", "D"]


@pytest.fixture
def folder(data_root):
    """Four patients of two sites, three of a known subtype."""
    folder = data_root / "own"
    folder.mkdir()
    (folder / "patients.csv").write_text("patient_id,site,subtype\nA,X,Basal\nB,X,LumA\nC,Y,\nD,Y,LumA\n")
    (folder / "expression.csv").write_text("patient_id,G1,G2\nA,1,9\nB,2,7\nC,3,8\nD,4,5\n")
    (folder / "x.csv").write_text("patient_id,f\nA,1\nB,2\nC,3\nD,5\n")
    return folder


def load(folder, table=None, **sections):
    if table is not None:
        (folder / "clinic.csv").write_text(table)
        sections["clinical"] = {"table": "clinic.csv", **sections.get("clinical", {})}
    content = {
        "title": "T",
        "cohort": {"source": "local", "patients": "patients.csv", "expression": "expression.csv"},
        "features": {"x": {"table": "x.csv"}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load("own")


def patients():
    return pd.DataFrame({"site": ["X", "X", "Y", "Y"], "subtype": ["Basal", "LumA", "", "LumA"]}, IDS)


def assembled(folder, *arguments, **sections):
    study = load(folder, *arguments, **sections)
    cohort.build(study)
    return assembly.assemble(study)


def test_cohorts_own_columns_need_no_table(folder):
    known = clinical.read_patients(load(folder), patients())
    pd.testing.assert_frame_equal(known, patients().astype(object))


def test_columns_of_a_table_are_added_by_patient_id(folder):
    table = "age,patient_id,er status\n50,C,Positive\n[Not Available],A,NA\n61.5,Z,Negative\n"
    known = clinical.read_patients(load(folder, table), patients())
    assert known.columns.tolist() == ["site", "subtype", "age", "er status"]
    assert known.index.tolist() == IDS
    assert known["age"].tolist() == ["", "", "50", ""]
    assert known["er status"].tolist() == ["", "", "Positive", ""]


def test_columns_are_renamed(folder):
    study = load(folder, "case,ER_2,er\nA,pos,1\n", clinical={"columns": {"patient_id": "case", "er": "ER_2"}})
    known = clinical.read_patients(study, patients())
    assert known.columns.tolist() == ["site", "subtype", "er"]
    assert known["er"].tolist() == ["pos", "", "", ""]


def test_none_is_kept_as_a_value(folder):
    known = clinical.read_patients(load(folder, "patient_id,metastases\nA,none\nB,bone\n"), patients())
    assert known["metastases"].tolist() == ["none", "bone", "", ""]


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("case,age\nA,1\n", {}, r"lacks the column patient_id; it has case, age"),
        ("case,age\nA,1\n", {"patient_id": "csae"}, r"lacks the column csae; it has case, age"),
        ("patient_id,age\nA,1\nA,2\n", {}, "more than one row for patient A"),
        ("patient_id,age\nZ,1\n", {}, r"shares no patient.*A, B, C and 1 more; the table has Z"),
        ("patient_id,subtype\nA,Her2\n", {}, r"gives patient A subtype 'Her2', where the cohort says 'Basal'"),
        ("patient_id,subtype\nC,Her2\n", {}, r"gives patient C subtype 'Her2', where the cohort says nothing"),
    ],
)
def test_table_that_cannot_be_used(folder, table, columns, message):
    study = load(folder, table, clinical={"columns": columns})
    with pytest.raises(CohortError, match=message):
        clinical.read_patients(study, patients())


def test_table_that_repeats_the_cohort_is_no_contradiction(folder):
    known = clinical.read_patients(load(folder, "patient_id,site,subtype\nA,X,Basal\nD,Y,\n"), patients())
    pd.testing.assert_frame_equal(known, patients().astype(object))


def test_columns_without_a_table_are_refused(folder):
    with pytest.raises(StudyError, match="`columns` renames columns of `table`"):
        load(folder, clinical={"columns": {"er": "ER"}})


def test_fields_of_a_gdc_cohort_are_columns_too(folder):
    gdc = {"source": "gdc", "project": "TCGA-BRCA", "clinical": "export.tsv"}
    ids = [f"TCGA-AA-000{each}" for each in IDS]
    study = load(folder, "patient_id,tmb\nTCGA-AA-000A,3\n", cohort=gdc)
    (folder / "export.tsv").write_text(f"Patient ID\tSubtype\tER Status\n{ids[0]}\tBasal\tNegative\n{ids[1]}\tLumA\t\n")
    known = clinical.read_patients(study, patients().set_axis(ids))
    assert known["er"].tolist() == ["negative", "", "", ""]
    assert known["tmb"].tolist() == ["3", "", "", ""]
    (folder / "clinic.csv").write_text("patient_id,er\nTCGA-AA-000A,positive\n")
    with pytest.raises(CohortError, match="er 'positive', where the cohort says 'negative'"):
        clinical.read_patients(study, patients().set_axis(ids))


def test_numeric_columns_are_recognised():
    np.testing.assert_array_equal(clinical.numbers(pd.Series(["1", "", "-2.5e1"])), [1, np.nan, -25])
    assert clinical.numbers(pd.Series(["1", "II"])) is None
    assert clinical.numbers(pd.Series(["1", "inf"])) is None


# Controls


def test_covariates_are_not_scaled_and_mark_unknown_values(folder):
    table = "patient_id,age,stage,size\nA,50,II,1\nB,61.5,I,2\nD,,II,3\n"
    study = load(folder, table, clinical={"covariates": ["age", "stage"]}, controls=["clinical"])
    cohort.build(study)
    made = assembly.assemble(study)
    assert made.obs_names.tolist() == IDS, "patients with unknown covariates are kept"
    design = clinical.covariates(clinical.read_patients(study, patients()), study.clinical.covariates)
    assert design.columns.tolist() == ["age", "age unknown", "stage: I", "stage: II"]
    np.testing.assert_array_equal(design, [[50, 0, 0, 1], [61.5, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(made.obsm["clinical"], design)


def test_subtype_oracle_is_the_cohorts_subtype(folder):
    made = assembled(folder, controls=["subtype-oracle"])
    np.testing.assert_array_equal(made.obsm["subtype-oracle"], [[1, 0], [0, 1], [0, 0], [0, 1]])


def test_key_of_the_clinical_control_depends_on_its_table_and_columns(folder):
    def features(text, covariates):
        study = load(folder, text, clinical={"covariates": covariates}, controls=["clinical"])
        cohort.build(study)
        due = [artefact.due() for artefact in assembly.expected(study)]
        assembly.assemble(study)
        return due[0], read_meta(study.benchmark_h5ad)["facts"]["contents"]["features"]

    _, first = features("patient_id,age,n\nA,50,1\n", ["age"])
    due, second = features("patient_id,age,n\nA,51,1\n", ["age"])
    assert due
    assert second["clinical"] != first["clinical"]
    assert second["x"] == first["x"]
    due, third = features("patient_id,age,n\nA,51,1\n", ["n"])
    assert due
    assert third["clinical"] != second["clinical"]


def test_benchmark_without_the_control_does_not_depend_on_the_table(folder):
    assembled(folder, "patient_id,age\nA,50\n")
    assert not assembly.expected(load(folder, "patient_id,age\nA,51\n"))[0].due()


@pytest.mark.parametrize(
    ("control", "covariates", "message"),
    [
        ("clinical", [], r"names no covariates.*there are site, subtype, age, blank"),
        ("clinical", ["aeg"], r"clinical.covariates names 'aeg'.*There are site, subtype, age, blank"),
        ("clinical", ["blank"], r"'blank', which is known of none of the 4 patients"),
    ],
)
def test_unknown_covariates_are_refused(folder, control, covariates, message):
    with pytest.raises(CohortError, match=message):
        assembled(folder, "patient_id,age,blank\nA,1,\n", clinical={"covariates": covariates}, controls=[control])


def test_subtype_oracle_without_subtypes(folder):
    (folder / "patients.csv").write_text("patient_id,site\nA,X\nB,X\nC,Y\nD,Y\n")
    with pytest.raises(CohortError, match=r"`subtype-oracle` is asked for, but no patient has a subtype.*columns"):
        assembled(folder, controls=["subtype-oracle"])
