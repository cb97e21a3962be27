"""Columns of targets other than genes, from clinical text and expression."""

import numpy as np
import pandas as pd
import pytest

from wsibench.assembly import gene_set_score, target_columns
from wsibench.core import CohortError, Target

PATIENTS = pd.DataFrame(
    {
        "grade": ["high", "low", "", "middle"],
        "size": ["1.5", "", "3", "2"],
        "stage": ["I/II", "III", "I/II", ""],
        "same": ["yes"] * 4,
        "none": [""] * 4,
        "few": ["1", "2", "3", "high"],
    },
    index=["A", "B", "C", "D"],
)
EXPRESSION = pd.DataFrame(
    [[1, 10, 5], [2, 30, 5], [3, 50, 5], [4, 90, 5]], PATIENTS.index, ["G1", "G2", "FLAT"], np.float32
)


def columns(name, gene_sets=None, **target):
    return target_columns({name: Target(**target)}, gene_sets or {}, EXPRESSION, PATIENTS)


def test_a_category_becomes_a_column_for_each_class_and_is_missing_where_unknown():
    values, said = columns("grade", column="grade")
    assert values.columns.tolist() == ["grade=high", "grade=low", "grade=middle"]
    assert values.dtypes.eq(np.float32).all()
    np.testing.assert_array_equal(values.loc["A"], [1, 0, 0])
    assert values.loc["C"].isna().all()
    assert said["grade=low"] == {"target": "grade", "class": "low", "kind": "category", "genes": [], "n_absent": 0}


def test_classes_that_are_not_asked_for_count_as_unknown():
    values, _ = columns("grade", column="grade", classes=["low", "high"])
    assert values.columns.tolist() == ["grade=high", "grade=low"]
    assert values.loc[["C", "D"]].isna().all(axis=None)
    few, said = columns("few", column="few", classes=["3", "1"])
    assert few.columns.tolist() == ["few=1", "few=3"]
    assert said["few=1"]["kind"] == "category"


def test_numbers_are_a_continuous_column():
    values, said = columns("tumour", column="size")
    np.testing.assert_array_equal(values["tumour"], np.float32([1.5, np.nan, 3, 2]))
    assert said["tumour"]["kind"] == "continuous"
    assert columns("tumour", column="size", kind="categorical")[0].columns[0] == "tumour=1.5"


def test_a_slash_in_a_class_is_replaced_in_the_name_of_the_column_alone():
    values, said = columns("stage", column="stage")
    assert values.columns.tolist() == ["stage=I∕II", "stage=III"]
    assert said["stage=I∕II"]["class"] == "I/II"


def test_a_gene_set_is_the_mean_z_score_of_its_measured_genes():
    symbols = ["G1", "G2", "ABSENT", "G1", "FLAT"]
    values, said = columns("set", {"set": symbols}, genes=symbols)
    known = EXPRESSION[["G1", "G2", "FLAT"]].to_numpy(float)
    z = np.divide(known - known.mean(0), known.std(0), out=np.zeros_like(known), where=known.std(0) > 0)
    np.testing.assert_allclose(values["set"], z.mean(axis=1), atol=1e-6)
    assert said["set"]["genes"] == ["G1", "G2", "FLAT"]
    assert (said["set"]["n_absent"], said["set"]["kind"]) == (1, "gene-set")


def test_a_gene_set_score_uses_the_statistics_of_training_patients_alone():
    rng = np.random.default_rng(0)
    training, new = rng.normal(3, [1, 5], (30, 2)), rng.normal(9, [2, 1], (4, 2))
    expected = ((new - training.mean(0)) / training.std(0)).mean(axis=1)
    np.testing.assert_allclose(gene_set_score(training, new), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"column": "graed"}, r"targets.t.column names 'graed'"),
        ({"column": "none"}, r"'none', which is known of none of the 4 patients"),
        ({"column": "grade", "classes": ["low", "hihg"]}, r"targets.t: no patient's grade is hihg. Its values: .*high"),
        ({"column": "same"}, r"targets.t: same is 'yes' for all 4 patients"),
        ({"column": "few", "kind": "continuous"}, r"is continuous, but few of patient D is 'high'"),
        ({"genes": ["TP53", "MKI67"]}, r"0 of its 2 genes \(TP53, MKI67\) are in the benchmark.*expression.genes"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused(target, message):
    sets = {"t": target["genes"]} if "genes" in target else {}
    with pytest.raises(CohortError, match=message):
        columns("t", sets, **target)
