"""Split halves of training patients, and the noise of predictions that is estimated from them."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from wsibench.regression import cross_validation as halves


@given(groups=st.lists(st.integers(0, 6), min_size=2, max_size=40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_halves_share_nobody_and_keep_groups_whole(groups, seed):
    groups = np.array(groups)
    first, second = halves.split_groups(groups, seed)
    assert sorted([*first, *second]) == list(range(len(groups)))
    assert len(first)
    assert len(second)
    if len(np.unique(groups)) > 1:
        assert not set(groups[first]) & set(groups[second])
        assert abs(len(first) - len(second)) <= np.bincount(groups).max()


def test_other_seeds_give_other_halves():
    groups = np.arange(30)
    assert set(halves.split_groups(groups, 0)[0]) != set(halves.split_groups(groups, 1)[0])


@pytest.mark.parametrize("sd", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("whole", [lambda a, b: (a + b) / 2, lambda a, b: 0.01 * (a + b)], ids=["light", "heavy"])
def test_noise_has_the_variance_that_was_planted_whatever_the_penalty(sd, whole):
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(4000, 1))
    a, b = (signal + sd * rng.normal(size=(4000, 20)) for _ in range(2))
    predicted = whole(a, b)
    noise = halves.training_noise(a, b, predicted)
    share = noise.var(axis=0) / predicted.var(axis=0)
    assert share.mean() == pytest.approx((sd**2 / 2) / (1 + sd**2 / 2), abs=0.03)


def test_a_prediction_that_does_not_vary_has_no_noise():
    flat, other = np.full((10, 2), 3.0), np.random.default_rng(0).normal(size=(10, 2))
    assert not halves.training_noise(flat, flat, flat).any()
    assert not halves.training_noise(flat, other, flat).any()
    assert np.isfinite(halves.training_noise(flat, other, other)).all()
