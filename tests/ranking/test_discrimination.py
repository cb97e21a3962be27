"""Scores of classes against scikit-learn's, sample by sample."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from wsibench.ranking.discrimination import balanced_accuracy, macro_auroc, n_without_auroc


def trial(n=90, classes=3, folds=3, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    member = (label[:, None] == np.arange(classes)).astype(np.float32)
    predicted = np.round(member + rng.normal(size=member.shape), 1).astype(np.float32)  # with ties
    return label, member, predicted, np.arange(n) % folds


def test_scores_are_scikit_learns_of_each_resampled_fold():
    label, member, predicted, fold = trial()
    weights = np.random.default_rng(1).multinomial(90, np.full(90, 1 / 90), size=4).astype(np.float32)
    found = macro_auroc(member, predicted, fold, weights), balanced_accuracy(member, predicted, fold, weights)
    for draw, w in enumerate(weights):
        n, auroc, recall = [], [], []
        for f in range(3):
            rows = np.repeat(np.arange(90), w.astype(int))
            rows = rows[fold[rows] == f]
            n.append(len(rows) - 3)
            auroc.append([roc_auc_score(member[rows, c], predicted[rows, c]) for c in range(3)])
            recall.append(balanced_accuracy_score(label[rows], predicted[rows].argmax(axis=1)))
        assert found[0][draw] == pytest.approx(np.average(auroc, axis=0, weights=n).mean())
        assert found[1][draw] == pytest.approx(np.average(recall, weights=n))


def test_perfect_reversed_and_constant_predictions():
    _, member, _, fold = trial()
    one = np.ones((1, 90), np.float32)
    assert macro_auroc(member, member, fold, one) == balanced_accuracy(member, member, fold, one) == 1
    assert macro_auroc(member, -member, fold, one) == balanced_accuracy(member, -member, fold, one) == 0
    assert macro_auroc(member, 0 * member, fold, one) == 0.5
    assert balanced_accuracy(member, 0 * member, fold, one) == pytest.approx(1 / 3)


def test_a_fold_without_members_of_a_class_is_passed_over_and_counted():
    _, member, predicted, fold = trial()
    rare = np.column_stack([member, np.zeros(90)])
    rare[[0, 3, 6]] = [0, 0, 0, 1]  # all in fold 0
    scored = np.column_stack([predicted, rare[:, 3]])
    one = np.ones((1, 90), np.float32)
    assert n_without_auroc(rare, fold) == 2
    alone = macro_auroc(rare[:, 3:], scored[:, 3:], fold, one)
    assert alone == 1, "the two folds without a member say nothing"
    assert macro_auroc(rare[:, :3], scored[:, :3], fold, one) * 3 + alone == pytest.approx(
        4 * macro_auroc(rare, scored, fold, one)
    )


def test_a_sample_without_any_pair_has_no_score():
    _, member, predicted, fold = trial()
    one_patient = np.zeros((1, 90), np.float32)
    one_patient[0, 0] = 90
    assert np.isnan(macro_auroc(member, predicted, fold, one_patient))
