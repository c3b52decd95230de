"""User vectors with a half-life equal a plain sum over the interactions in order, one user at a time."""

import numpy as np
import pytest
import torch
from dense_histories import from_dense, random_table
from hypothesis import given, settings
from hypothesis import strategies as st
from ordered_lists import N_ITEMS, histories_in_order, users

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, fold_in, recency

MISSING = torch.iinfo(torch.int64).min
DAY = 86_400 * 10**9
KINDS = ({"kind": "projection"}, {"kind": "ridge", "unobserved_weight": 0.3, "regularization": 0.7})


def plain(vectors, weights, items, decay, *, kind, unobserved_weight=0.0, regularization=1.0):
    if not len(items):
        return np.zeros(vectors.shape[1])
    rows, w = vectors[items], weights[items] * decay
    if kind == "projection":
        return w @ rows / np.linalg.norm(w)
    normal = (rows.T * w) @ rows + unobserved_weight * vectors.T @ vectors + regularization * np.eye(vectors.shape[1])
    return np.linalg.solve(normal, w @ rows)


@settings(max_examples=40, deadline=None)
@given(users, st.sampled_from(KINDS), st.sampled_from([0.5, 2.0, 20.0]))
def test_vectors_weigh_the_history_by_position(lists, kind, half_life):
    vectors, weights = random_table(N_ITEMS, 3, seed=1), random_table(N_ITEMS, 1, seed=2)[:, 0].abs() + 0.1
    found = fold_in(vectors, histories_in_order(lists), weights, how=FoldIn(half_life=half_life, **kind))
    for user, items in enumerate(lists):
        decay = 2.0 ** (-np.arange(len(items))[::-1] / half_life)
        expected = plain(vectors.numpy(), weights.numpy(), list(items), decay, **kind)
        np.testing.assert_allclose(found[user].numpy(), expected, atol=1e-9)


def test_days_count_from_the_latest_interaction_and_what_has_no_time_is_as_old_as_the_oldest():
    histories = histories_in_order(
        [[3, 1, 2], [0], [4, 5]], times=[[MISSING, 10 * DAY, 12 * DAY], [7 * DAY], [MISSING, MISSING]]
    )
    found = recency(histories, FoldIn(kind="projection", half_life_days=2.0))
    # By item: 1, 2, 3 of the first user.
    assert found.tolist() == [0.5, 1.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "how", [FoldIn(kind="projection", half_life=2.0), FoldIn(kind="projection", half_life_days=2.0)]
)
def test_histories_that_do_not_say_count_all_alike(how):
    matrix = np.array([[1.0, 0, 1], [0, 1, 1]])
    vectors = random_table(3, 2, seed=3)
    ones = torch.ones(3, dtype=torch.float64)
    plainly = fold_in(vectors, from_dense(matrix), ones, how=FoldIn(kind="projection"))
    assert torch.equal(fold_in(vectors, from_dense(matrix), ones, how=how), plainly)


def test_a_long_half_life_forgets_nothing_and_a_short_one_all_but_the_newest():
    lists, vectors = [[4, 0, 2, 5]], random_table(N_ITEMS, 3, seed=4)
    histories, ones = histories_in_order(lists), torch.ones(N_ITEMS, dtype=torch.float64)
    newest = fold_in(vectors, histories, ones, how=FoldIn(kind="projection", half_life=0.01))
    torch.testing.assert_close(newest[0], vectors[5])
    whole = fold_in(vectors, histories, ones, how=FoldIn(kind="projection", half_life=1e4))
    torch.testing.assert_close(whole[0], vectors[[4, 0, 2, 5]].sum(0) / 2, atol=1e-3, rtol=0)


def test_what_a_fold_in_reads_and_what_its_file_says():
    assert FoldIn(kind="projection").record() == {
        "kind": "projection",
        "unobserved_weight": 0.0,
        "regularization": 1.0,
    }
    assert FoldIn(kind="projection", half_life=2.0).reads == {"order"}
    assert FoldIn(kind="projection", half_life_days=2.0).reads == {"time"}
    with pytest.raises(ConfigurationError, match="got both"):
        FoldIn(kind="projection", half_life=2.0, half_life_days=2.0)
