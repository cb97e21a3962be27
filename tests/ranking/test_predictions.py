"""Genes that patients choose: by those who train, never by those who are held out."""

import numpy as np
import pytest

from wsibench.core import Study, StudyError
from wsibench.ranking.predictions import highly_variable


def cohort(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """90 patients in three folds; of 400 genes over a range of means every 20th varies most for its mean."""
    genes = np.arange(400)
    values = 2 + genes / 60 + rng.normal(size=(90, 400)) * np.where(genes % 20 == 10, 1.0, 0.25)
    return np.maximum(values, 0).astype(np.float32), np.repeat([0, 1, 2], 30)


def test_genes_that_vary_most_for_their_mean_are_kept():
    values, fold = cohort(np.random.default_rng(0))
    kept = np.flatnonzero(highly_variable(values, fold, 24))
    planted = np.arange(10, 400, 20)
    assert len(np.intersect1d(kept, planted)) >= 18
    assert len(np.setdiff1d(kept, planted)) <= 4


def test_patients_held_out_have_no_say():
    values, fold = cohort(np.random.default_rng(1))
    values[:, 150] = np.where(fold == 0, 4.5 + 2 * (np.arange(90) % 2), 4.5 + 0.01 * (np.arange(90) % 2))
    assert highly_variable(values, np.zeros(90) + (np.arange(90) % 3), 24)[150], "divided otherwise, it is chosen"
    # It varies in the patients of one fold only; that fold's training patients see it flat.
    assert not highly_variable(values, fold, 24)[150]


def test_more_than_there_are_keeps_all():
    values, fold = cohort(np.random.default_rng(3))
    assert highly_variable(values, fold, 1000).all()


def test_it_is_asked_for_on_a_log_scale_only(data_root):
    (data_root / "mine").mkdir()
    text = "title: T\ncohort: {source: simulate}\nexpression: {unit: zscore, highly_variable: 10}\n"
    (data_root / "mine" / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match="unit is zscore"):
        Study.load("mine")
