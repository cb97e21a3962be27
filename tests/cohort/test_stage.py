"""Cohorts from tables: values that are used, and patients, slides and genes that are left out."""

import gzip
import io
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import own_tables
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from own_tables import EXPRESSION, SLIDES

from wsibench import cohort
from wsibench.cohort import stage
from wsibench.cohort.sample_table import SAFE_ID, TCGA_BARCODE
from wsibench.core import CohortError, NotReady, Study, TooManyFailures, read_failures


@pytest.fixture
def make(data_root):
    return partial(own_tables.write, data_root)


# Values that are used


def test_ids_stay_text_and_every_slide_keeps_its_patient(make):
    study = make()
    report = cohort.build(study)
    rows = cohort.read_cohort(study)
    assert list(rows.columns) == list(stage.COLUMNS)
    assert rows["patient_id"].tolist() == ["007", "007", "008", "009"]
    assert rows["mpp"].tolist() == ["", "0.5", "", ""]
    assert rows["subtype"].tolist() == ["LumA", "LumA", "Basal", "LumA"]
    assert all(Path(path).is_absolute() and Path(path).exists() for path in rows["path"])
    assert rows["identity"].nunique() == 4
    adata = cohort.read_expression(study)
    assert adata.obs_names.tolist() == ["007", "008", "009"]
    assert adata.var_names.tolist() == ["ESR1", "FOXM1", "CD38"]
    assert adata.X.dtype == np.float32
    assert adata["007", "FOXM1"].X.item() == 2
    assert report.counts["patients"] == 3
    assert report.counts["patients with several slides"] == 1
    assert report.exclusions.empty
    assert "Nothing was left out" in report._repr_html_()


def test_nothing_is_written_twice_until_something_changes(make):
    study = make()
    cohort.build(study)
    stamp = study.cohort_csv.stat().st_mtime_ns
    cohort.build(study)
    assert study.cohort_csv.stat().st_mtime_ns == stamp
    assert all(artefact.due() is None for artefact in cohort.expected(study))
    (study.root / "s3.svs").write_bytes(b"another scan")
    assert {a.path.name for a in cohort.expected(study) if a.due()} == {"cohort.csv", "exclusions.csv"}
    cohort.build(study)
    assert all(artefact.due() is None for artefact in cohort.expected(study))


def test_expression_keeps_its_key_when_only_slides_move(make):
    study = make()
    before = {a.path.name: a.key for a in cohort.expected(study)}
    (study.root / "elsewhere").mkdir()
    (study.root / "s1.svs").rename(study.root / "elsewhere" / "s1.svs")
    after = {a.path.name: a.key for a in cohort.expected(make(SLIDES.replace("s1.svs", "elsewhere/s1.svs")))}
    assert before["expression.h5ad"] == after["expression.h5ad"]
    assert before["cohort.csv"] != after["cohort.csv"]


def test_status_reads_no_slide_that_has_not_changed(make, monkeypatch):
    study = make()
    cohort.build(study)
    monkeypatch.setattr(stage, "slide_identity", lambda path: pytest.fail(f"{path} was read"))
    assert all(artefact.due() is None for artefact in cohort.expected(study))


@pytest.mark.parametrize("kind", ["csv.gz", "parquet", "h5ad"])
def test_expression_is_read_from_every_file_format(make, kind):
    study = make(expression=True, name=f"rna.{kind}")
    path = study.root / f"rna.{kind}"
    table = pd.read_csv(io.StringIO(EXPRESSION), dtype={"patient_id": str})
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(EXPRESSION.encode()))
    elif kind == "parquet":
        table.to_parquet(path, index=False)
    else:
        table = table.set_index("patient_id")
        var = pd.DataFrame({"gene_type": ["protein_coding", np.nan, "lncRNA"]}, index=table.columns)
        anndata.AnnData(table.astype("float32"), var=var).write_h5ad(path)
    cohort.build(study)
    adata = cohort.read_expression(study)
    np.testing.assert_array_equal(adata["008"].X.ravel(), np.float32([2.5, 1, 0.5]))
    if kind == "h5ad":
        assert adata.var["gene_type"].tolist() == ["protein_coding", "", "lncRNA"]


def test_a_tcga_patient_without_site_column_is_given_the_barcodes_site(make):
    text = "slide_id,patient_id,path\nS1,TCGA-A2-A0T2,s1.svs\nS2,TCGA-3C-AALI,s2.svs\nS3,other,s3.svs\n"
    study = make(text, expression=None)
    cohort.build(study)
    assert cohort.read_cohort(study).set_index("patient_id")["site"].to_dict() == {
        "TCGA-A2-A0T2": "A2",
        "TCGA-3C-AALI": "3C",
        "other": "",
    }


def test_a_cohort_without_expression_or_sites_is_a_cohort(make):
    study = make("slide_id,patient_id,path\nS1,P1,s1.svs\n", expression=None)
    report = cohort.build(study)
    assert report.counts["sites"] == 0
    assert not study.expression_h5ad.exists()
    assert [a.path.name for a in cohort.expected(study)] == ["cohort.csv", "exclusions.csv"]


def test_a_table_of_patients_may_name_slides_and_have_other_columns(make):
    text = "case,grade,pam50,slide_ids\n007,3,LumA,a.svs; b.svs\n008,1,,c.svs\n009,2,Basal,\n"
    columns = {"patient_id": "case", "subtype": "pam50"}
    expression = EXPRESSION.replace("patient_id", "case")
    study = make(text, expression, table="patients", columns=columns)
    report = cohort.build(study)
    rows = cohort.read_cohort(study)
    assert rows["slide_id"].tolist() == ["a.svs", "b.svs", "c.svs", ""]
    assert report.counts["slides"] == 3
    assert report.tables["Subtypes"].values.tolist() == [["Basal", 1], ["LumA", 1]]
    assert "Columns not used: grade" in report._repr_html_()


@pytest.mark.parametrize("path", ["${HF_TOKEN}/x.svs", "~nobody/x.svs", ""])
def test_a_table_cannot_read_the_environment(make, monkeypatch, path):
    monkeypatch.setenv("HF_TOKEN", "secret")
    study = make(f"slide_id,patient_id,path\nS1,P1,{path}\n", expression=None)
    with pytest.raises(CohortError, match=r"not expanded here.*cohort: \{folder: ") as info:
        cohort.build(study)
    assert "secret" not in str(info.value)


def test_paths_start_from_the_folder_that_the_study_names(make, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SLIDES", str(tmp_path))
    (tmp_path / "x.svs").write_bytes(b"x")
    study = make("slide_id,patient_id,path\nS1,P1,x.svs\n", expression=None, source={"folder": "${MY_SLIDES}"})
    cohort.build(study)
    assert cohort.read_cohort(study)["path"].tolist() == [str(tmp_path / "x.svs")]


def test_a_path_that_is_too_long_is_a_missing_file(make):
    study = make(f"slide_id,patient_id,path\nS1,P1,{'x' * 5000}\n", expression=None, limits={"failed_slides": 1.0})
    with pytest.raises(CohortError, match="None of the 1 slides"):
        cohort.build(study)


def test_an_excel_table_with_a_byte_order_mark_is_read(make):
    study = make("\ufeff" + SLIDES, "\ufeff" + EXPRESSION)
    assert cohort.build(study).counts["patients"] == 3


def test_values_are_clipped(make):
    study = make(expression_section={"clip": 2})
    cohort.build(study)
    assert cohort.read_expression(study)["009"].X.tolist() == [[0.5, 2, 0.75]]


@pytest.mark.parametrize("as_file", [False, True])
def test_listed_genes_are_selected_and_absent_ones_reported(make, as_file):
    study = make(expression_section={"genes": "genes.txt" if as_file else ["CD38", "ESR1", "XIST"]})
    (study.root / "genes.txt").write_text("CD38\nESR1\nXIST\n")
    report = cohort.build(study)
    assert cohort.read_expression(study).var_names.tolist() == ["ESR1", "CD38"]
    assert report.exclusions.values.tolist() == [["gene", "XIST", "not in the expression table"]]
    assert report.counts["genes not selected"] == 1


def test_another_list_of_genes_is_another_expression(make):
    study = make(expression_section={"genes": "genes.txt"})
    (study.root / "genes.txt").write_text("CD38\n")
    cohort.build(study)
    (study.root / "genes.txt").write_text("CD38\nESR1\n")
    assert "expression.h5ad" in {a.path.name for a in cohort.expected(study) if a.due()}


def test_protein_coding_genes_are_selected_by_type(make):
    study = make(expression=True, name="rna.h5ad", expression_section={"genes": "protein_coding"})
    var = pd.DataFrame({"gene_type": ["protein_coding", "lncRNA"]}, index=["ESR1", "XIST"])
    obs = pd.DataFrame(index=["007", "008", "009"])
    anndata.AnnData(np.arange(6, dtype="float32").reshape(3, 2), obs, var).write_h5ad(study.root / "rna.h5ad")
    cohort.build(study)
    assert cohort.read_expression(study).var_names.tolist() == ["ESR1"]


# Patients, slides and genes that are left out


def test_a_missing_slide_file_is_a_failure_within_the_limit(make):
    study = make(SLIDES.replace("s4.svs", "nowhere.svs"), limits={"failed_slides": 0.25})
    report = cohort.build(study)
    (row,) = read_failures(study.failures_csv)
    assert (row.slide_id, row.stage) == ("S4", "cohort")
    assert "nowhere.svs" in row.error
    assert "path" in row.remedy
    assert cohort.read_cohort(study)["slide_id"].tolist() == ["S1", "S2", "S3"]
    assert report.exclusions.values.tolist() == [["slide", "S4", "no such file"], ["patient", "009", "no slide"]]
    (study.root / "nowhere.svs").write_bytes(b"found again")
    cohort.build(study)
    assert read_failures(study.failures_csv) == []
    assert len(cohort.read_cohort(study)) == 4


def test_too_many_missing_slides_stop_the_stage(make):
    study = make(SLIDES.replace("s4.svs", "nowhere.svs"))
    with pytest.raises(TooManyFailures, match=r"1 of 4 slides"):
        cohort.build(study)
    assert len(read_failures(study.failures_csv)) == 1
    assert not study.cohort_csv.exists()


def test_no_slide_at_all_is_an_error_whatever_the_limit(make):
    study = make("slide_id,patient_id,path\nS1,P1,none.svs\n", None, limits={"failed_slides": 1.0})
    with pytest.raises(CohortError, match="None of the 1 slides"):
        cohort.build(study)


def test_patients_of_one_table_only_are_listed(make):
    study = make(expression=EXPRESSION.replace("009", "010") + "011,,,\n")
    report = cohort.build(study)
    listed = {(row.id, row.reason) for row in report.exclusions.itertuples()}
    assert listed == {("009", "no expression"), ("010", "no slide"), ("011", "no slide")}
    assert cohort.read_cohort(study)["patient_id"].unique().tolist() == ["007", "008"]
    assert cohort.read_expression(study).obs_names.tolist() == ["007", "008"]
    assert ["patient", "no slide", 2, "010, 011"] in report.summary.values.tolist()


def test_a_patient_whose_expression_is_empty_has_none(make):
    report = cohort.build(make(expression=EXPRESSION.replace("008,2.5,1,0.5", "008,,,")))
    assert report.exclusions.values.tolist() == [["patient", "008", "no expression"]]
    assert report.counts["genes"] == 3


def test_genes_with_missing_or_constant_values_are_listed(make):
    text = "patient_id,A,B,C,D\n007,1,,3,0\n008,2,1,3,0\n009,3,1,3,1e-9\n"
    report = cohort.build(make(expression=text))
    assert report.exclusions.values.tolist() == [
        ["gene", "B", "missing values (1 patient)"],
        ["gene", "C", "the same for every patient"],
    ]
    assert report.counts["genes"] == 2
    assert report.summary["n"].tolist() == [1, 1]


def test_a_gene_is_judged_on_the_cohorts_patients_alone(make):
    report = cohort.build(make(expression="patient_id,A,B\n007,1,5\n008,2,5\n009,3,5\nstranger,,6\n"))
    genes = report.exclusions[report.exclusions["what"] == "gene"]
    assert genes.values.tolist() == [["gene", "B", "the same for every patient"]]


def test_site_of_one_row_is_used_for_all_slides_of_the_patient(make):
    study = make("slide_id,patient_id,path,site\nS1,P1,s1.svs,\nS2,P1,s2.svs,A\n", expression=None)
    cohort.build(study)
    assert cohort.read_cohort(study)["site"].tolist() == ["A", "A"]


# Missing cohorts, and ids


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"slide_id\nS1\n", b'slide_id,"\n'])
def test_a_damaged_cohort_is_not_ready_and_is_rebuilt(make, content):
    study = make()
    cohort.build(study)
    study.cohort_csv.write_bytes(content)
    with pytest.raises(NotReady, match=r"cohort\.csv is damaged.*--from 01"):
        cohort.read_cohort(study)
    cohort.build(study)
    assert len(cohort.read_cohort(study)) == 4


def test_a_cohort_that_is_not_built_is_not_ready(make):
    with pytest.raises(NotReady):
        cohort.read_cohort(make())


@given(st.text(min_size=1, max_size=30))
def test_a_safe_id_is_one_name_in_its_folder(tmp_path_factory, text):
    if SAFE_ID.fullmatch(text):
        folder = tmp_path_factory.mktemp("ids")
        (folder / f"{text}.h5").touch()
        assert [path.name for path in folder.iterdir()] == [f"{text}.h5"]


def test_the_site_of_a_barcode_is_its_characters_6_and_7():
    assert TCGA_BARCODE.match("TCGA-BH-A0B3")["site"] == "TCGA-BH-A0B3"[5:7]
    assert not TCGA_BARCODE.match("CPTAC-BH-A0B3")


# Checks before the work


def test_usable_tables_have_no_faults(make):
    assert cohort.check(make()) == []


@pytest.mark.parametrize(
    ("slides", "sections", "words"),
    [
        (SLIDES.replace(",site", ",place"), {}, ["no patient's `site`", "random-patient"]),
        (SLIDES.replace(",", ";"), {}, ["separated by semicolons"]),
        (SLIDES.replace("path", "file"), {}, ["lacks the column path"]),
        (SLIDES, {"targets": {"er": {"column": "er_status"}}}, ["targets.er.column", "There are site, subtype"]),
        (SLIDES, {"clinical": {"covariates": ["age"]}}, ["clinical.covariates names 'age'"]),
        (SLIDES, {"clinical": {"table": "none.csv"}}, ["no table", "none.csv"]),
        (SLIDES, {"expression_section": {"genes": ["XIST"]}}, ["None of the genes that the study lists"]),
    ],
)
def test_each_fault_of_the_tables_is_found_before_the_work(make, slides, sections, words):
    study = make(slides, **sections)
    [fault] = cohort.check(study)
    assert all(word in fault for word in words), fault
    assert not study.cohort_csv.exists()


def test_all_faults_are_found_at_once(make):
    study = make(SLIDES.replace(",site", ",place"), clinical={"covariates": ["age", "weight"]})
    assert len(cohort.check(study)) == 3


def test_sites_are_not_needed_where_nothing_is_divided_by_them(make):
    slides = SLIDES.replace(",site", ",place")
    assert cohort.check(make(slides, folds={"schemes": ["random-patient"]})) == []
    assert cohort.check(make(slides, expression=None)) == []


def test_tables_that_are_still_to_be_made_are_no_fault(data_root):
    assert cohort.check(Study.load("demo")) == []
    assert cohort.check(Study.load("tcga-brca")) == []


# Real tables


@pytest.mark.real
def test_the_real_brca_cohort_is_read_whole(data_root, real_data):
    study = Study.load("tcga-brca-hif")
    report = cohort.build(study)
    assert report.counts == {
        "patients": 884,
        "slides": 948,
        "patients with several slides": 60,
        "sites": 37,
        "patients without a site": 0,
        "genes": 1558,
        "genes not selected": 0,
    }
    assert np.abs(cohort.read_expression(study).X).max() == 10


@pytest.mark.real
def test_the_real_slides_are_found(data_root, real_data):
    study = Study.load("real-slides")
    assert cohort.build(study).counts["slides"] == 3
    assert cohort.read_cohort(study)["site"].tolist() == ["", "CR", ""]
