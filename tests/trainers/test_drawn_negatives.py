"""Negatives: a function of a user's own history and a key, one in each stratum, right on average."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import stats

from recsys_fed.trainers.loss import draw_negatives


def matrix_of(seed, n_users=6, n_items=23, density=0.3):
    return (np.random.default_rng(seed).random((n_users, n_items)) < density).astype(float)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), key=st.integers(0, 2**62), count=st.integers(1, 40), user=st.integers(0, 5))
def test_they_depend_on_the_users_own_history_alone(seed, key, count, user):
    matrix = matrix_of(seed)
    together = draw_negatives(from_dense(matrix), count=count, key=key)
    alone = draw_negatives(from_dense(matrix[[user]]), count=count, key=key)
    assert torch.equal(together.items[user], alone.items[0])
    assert torch.equal(together.weights[user], alone.weights[0])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 40))
def test_no_row_comes_twice_and_rows_of_the_history_have_no_weight(seed, count):
    matrix = matrix_of(seed)
    found = draw_negatives(from_dense(matrix), count=count, key=7)
    assert found.items.shape == (6, min(count, 23))
    assert (found.items.diff(dim=1) > 0).all()
    assert torch.equal(found.weights == 0, torch.from_numpy(matrix).gather(1, found.items) > 0)
    if count >= 23:
        assert torch.equal(found.items, torch.arange(23).expand(6, 23))
        assert torch.equal(found.weights, torch.from_numpy(1 - matrix))


def test_weighted_sums_are_right_on_average():
    matrix, values = matrix_of(3, n_users=1, n_items=50), torch.linspace(-1, 3, 50).double().square()
    draws = [draw_negatives(from_dense(matrix), count=7, key=key) for key in range(4_000)]
    sums = torch.tensor([float((draw.weights * values[draw.items]).sum()) for draw in draws])
    expected = float((values * torch.from_numpy(1 - matrix[0])).sum())
    assert abs(float(sums.mean()) - expected) < 4 * float(sums.std()) / len(draws) ** 0.5


def test_other_keys_and_other_histories_give_other_items_uniformly():
    one = from_dense(matrix_of(0, n_users=1, n_items=1_000))
    items = torch.cat([draw_negatives(one, count=10, key=key).items[0] for key in range(1_000)])
    # A stratum has 100 rows: chi-square over the places within one.
    counts = torch.bincount(items % 100, minlength=100).numpy()
    assert stats.chisquare(counts).pvalue > 1e-4
    pairs = from_dense(matrix_of(1, n_users=2_000, n_items=1_000, density=0.01))
    found = draw_negatives(pairs, count=1, key=0).items[:, 0].numpy()
    assert stats.chisquare(np.bincount(found // 50, minlength=20)).pvalue > 1e-4


@pytest.mark.parametrize("n_users", [0, 2])
def test_without_users_or_interactions_there_is_nothing_to_avoid(n_users):
    found = draw_negatives(from_dense(np.zeros((n_users, 5))), count=3, key=1)
    assert found.items.shape == found.weights.shape == (n_users, 3)
    assert (found.weights > 0).all()
