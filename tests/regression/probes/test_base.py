"""Scaling and inner folds that every probe shares."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from wsibench.regression.probes.base import Patients, Scaler, hold_out_groups, inner_folds


def test_scaler_uses_training_statistics_and_inverts():
    rng = np.random.default_rng(0)
    train, new = rng.normal(5, 3, (40, 6)), rng.normal(5, 3, (9, 6))
    scaler = Scaler.fit(train)
    np.testing.assert_allclose(scaler.transform(new), (new - train.mean(0)) / train.std(0), rtol=1e-5)
    np.testing.assert_allclose(scaler.invert(scaler.transform(new)), new, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 7.1, -3e8, 1e-20])
def test_what_does_not_vary_becomes_zero_and_comes_back_as_its_mean(value):
    train = np.full((30, 1), value, np.float32)
    scaler = Scaler.fit(train)
    assert (scaler.transform(train + 1) == 0).all()
    np.testing.assert_array_equal(scaler.invert(np.ones((3, 1), np.float32)), train[:3])


def test_small_but_real_variation_is_kept():
    train = np.array([[1e-12], [3e-12]], np.float32)
    np.testing.assert_allclose(Scaler.fit(train).transform(train), [[-1], [1]], rtol=1e-5)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.integers(2, 6))
@settings(deadline=None)
def test_inner_folds_cover_everyone_once_and_keep_groups_whole(labels, n):
    groups = np.array(labels)
    folds = inner_folds(groups, n)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(groups)))
    for train, held in folds:
        assert len(train)
        assert not set(train) & set(held)
        if len(set(labels)) > 1:
            assert not set(groups[train]) & set(groups[held])


@given(st.lists(st.integers(0, 12), min_size=4, max_size=80), st.integers(0, 5))
@settings(deadline=None)
def test_hold_out_leaves_both_sides_patients_and_keeps_groups_whole(labels, seed):
    groups = np.array(labels)
    train, held = hold_out_groups(groups, 0.15, seed)
    assert len(train)
    assert len(held)
    assert sorted([*train, *held]) == list(range(len(groups)))
    if len(set(labels)) > 2:
        assert not set(groups[train]) & set(groups[held])


def test_one_huge_site_is_not_the_whole_validation():
    groups = np.repeat(["huge", *"abcdefghij"], [50, *[5] * 10])
    for seed in range(20):
        _, held = hold_out_groups(groups, 0.15, seed)
        assert "huge" not in groups[held]
        assert 10 <= len(held) <= 30


def test_taking_patients_takes_everything_of_them():
    bags = [np.full((i + 1, 2), i, np.float16) for i in range(5)]
    patients = Patients(np.array(list("abcde")), np.array(list("xxyyz")), np.arange(10.0).reshape(5, 2), bags)
    some = patients.take(np.array([4, 1])).take(np.array([1]))
    assert (len(some), some.ids.tolist(), some.groups.tolist()) == (1, ["b"], ["x"])
    assert some.mean.tolist() == [[2, 3]]
    assert len(some.bags) == 1
    assert (some.bags[0] == bags[1]).all()
