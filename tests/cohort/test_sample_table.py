"""Tables that a cohort refuses, and the errors."""

from functools import partial

import own_tables
import pytest
import yaml
from own_tables import EXPRESSION, SLIDES, assert_refused

from wsibench import cohort
from wsibench.core import CohortError, Study, StudyError


@pytest.fixture
def make(data_root):
    return partial(own_tables.write, data_root)


@pytest.mark.parametrize(
    ("slides", "words"),
    [
        (SLIDES + "S1,010,s9.svs,A,,\n", ["S1", "007, 010", "more than once"]),
        (SLIDES + "S1,007,s9.svs,A,,\n", ["S1", "more than once"]),
        (SLIDES + "S9,010,s1.svs,A,,\n", ["s1.svs", "S1, S9", "007, 010"]),
        (SLIDES + "../S9,010,s9.svs,A,,\n", ["../S9", "file's name"]),
        (SLIDES + ".S9,010,s9.svs,A,,\n", [".S9", "file's name"]),
        (SLIDES + ",010,s9.svs,A,,\n", ["line 6", "slide id ''", "file's name"]),
        (SLIDES + "S9,,s9.svs,A,,\n", ["line 6", "id is empty", "slide 'S9'"]),
        (SLIDES + "S9,010 ,s9.svs,A,,\n", ["'010 '", "blanks"]),
        (SLIDES + "S9,007,s9.svs,B,,\n", ["007", "several sites", "S1, S2, S9"]),
        (SLIDES + "S9,007,s9.svs,A,Basal,\n", ["007", "several subtypes"]),
        (SLIDES + "S9,010,s9.svs,A,,wide\n", ["S9", "'wide'", "µm"]),
        (SLIDES + "S9,010,s9.svs,A,,-1\n", ["S9", "'-1'"]),
        (SLIDES + "S9,010,s9.svs,A,,nan\n", ["S9", "'nan'"]),
        (SLIDES + "S9,010,s9.svs,A,,1,2\n", ["slides.csv", "CSV"]),
        (SLIDES.replace("path", "file"), ["lacks the column path", "it has slide_id", "columns: {ours: theirs}"]),
        (SLIDES.replace(",", ";"), ["slides.csv", "semicolon"]),
        ("slide_id,patient_id,path\n", ["no rows"]),
        ("", ["CSV"]),
    ],
)
def test_a_table_of_slides_that_cannot_be_used_is_refused(make, slides, words):
    assert_refused(make(slides), *words)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("gene,007,008,009\nESR1,1,2,3\n", ["is transposed", "007, 008, 009", "Transpose"]),
        ("sample,ESR1\n007,1\n008,2\n", ["first column", "'patient_id'", "'sample'"]),
        (EXPRESSION.replace("FOXM1", "ESR1"), ["more than one column called ESR1"]),
        (EXPRESSION.replace("FOXM1", ""), ["column without a name"]),
        (EXPRESSION + "007,1,1,1\n", ["more than one row called 007"]),
        (EXPRESSION.replace("0.25", "high"), ["'CD38'", "'high'", "row 007"]),
        (EXPRESSION.replace("0.25", '"0,25"'), ["'CD38'", "'0,25'"]),
        (EXPRESSION.replace("0.25", "-inf"), ["'CD38'", "infinite", "row 007"]),
        (
            EXPRESSION.replace("00", "TCGA-0"),
            ["shares no patient_id", "has 007, 008, 009", "has TCGA-07, TCGA-08"],
        ),
        (EXPRESSION.replace("patient_id,", ""), ["first column"]),
        ("patient_id,A,B\n007,1,,3\n", ["names 3 columns, the rows have 4"]),
        ("patient_id,A,B\n007,1,\n008,1,2\n009,1,3\n", ["none of 2 genes varies"]),
        ("patient_id,A\n", ["no rows"]),
        ("", ["expression.csv cannot be read"]),
    ],
)
def test_an_expression_table_that_cannot_be_used_is_refused(make, expression, words):
    assert_refused(make(expression=expression), *words)


def test_an_expression_table_that_is_not_there_or_of_another_kind_is_refused(make):
    assert_refused(make(expression=True), "There is no table", "expression.csv")
    assert_refused(make(name="expression.xlsx"), "expression.xlsx", ".parquet")


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ("protein_coding", ["gene_type", "genes: all"]),
        ("coding", ["no file", "protein_coding"]),
        (["XIST", "TSIX"], ["XIST, TSIX", "ESR1"]),
    ],
)
def test_unusable_gene_selections_are_refused(make, genes, words):
    assert_refused(make(expression_section={"genes": genes}), *words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sit": "site"}, ["sit", "Allowed: slide_id"]),
        ({"site": "hospital"}, ["lacks the column hospital", "it has slide_id"]),
    ],
)
def test_columns_that_are_mapped_have_to_exist(make, columns, words):
    assert_refused(make(columns=columns), *words)


@pytest.mark.parametrize("kind", ["expression", "slides", "link"])
def test_a_table_that_the_study_would_overwrite_is_refused(make, kind):
    study = make(SLIDES, None if kind == "slides" else EXPRESSION)
    content = yaml.safe_load((study.root / "study.yaml").read_text())
    output = study.root / ("cohort.csv" if kind == "slides" else "expression.h5ad")
    if kind == "link":
        output.symlink_to(study.root / "expression.csv")
    else:
        output.write_text("mine")
        content["cohort"][kind] = output.name
    (study.root / "study.yaml").write_text(yaml.safe_dump(content))
    before = output.read_bytes()
    with pytest.raises(StudyError, match=r"which the study itself writes\. Give your own table another name"):
        cohort.build(Study.load("own"))
    assert output.read_bytes() == before


def test_a_patient_listed_twice_is_refused(make):
    assert_refused(make("patient_id,site\n007,A\n007,B\n", table="patients"), "more than one row for patient 007")


def test_refused_table_leaves_earlier_outputs(make):
    cohort.build(make())
    study = make(SLIDES + "S1,010,s9.svs,A,,\n")
    before = study.cohort_csv.read_bytes()
    with pytest.raises(CohortError):
        cohort.build(study)
    assert study.cohort_csv.read_bytes() == before
