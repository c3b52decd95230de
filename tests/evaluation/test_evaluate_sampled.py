"""The sampled protocol equals its plain oracle, and ties do not help the model."""

import math
import re

import numpy as np
import plain_oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.evaluation.sampled import NO_ITEM, evaluate_sampled

N_ITEMS = 8


def table(scores):
    scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)
    return lambda rows: scores[rows]


TRIAL = st.tuples(
    st.integers(0, 4),
    st.integers(0, N_ITEMS - 1),
    st.lists(st.integers(NO_ITEM, N_ITEMS - 1), min_size=5, max_size=5),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TRIAL, min_size=1, max_size=8),
    st.lists(st.integers(-2, 2), min_size=5 * N_ITEMS, max_size=5 * N_ITEMS),
    st.integers(1, 6),
)
def test_equals_the_plain_oracle(trials, scores, block_users):
    scores = np.reshape(scores, (5, N_ITEMS))
    users, positives, negatives = (np.array(column) for column in zip(*trials, strict=True))
    ranks = [plain_oracle.sampled_rank(scores[user], *rest) for user, *rest in trials]
    result = evaluate_sampled(
        table(scores), users=users, positives=positives, negatives=negatives,
        n_items=N_ITEMS, cutoffs=(1, 3), block_users=block_users,
    )  # fmt: skip
    assert result.users.tolist() == users.tolist()
    expected = {"sampled_mrr": [1 / rank for rank in ranks]}
    for k in (1, 3):
        expected[f"sampled_hr@{k}"] = [float(rank <= k) for rank in ranks]
        expected[f"sampled_ndcg@{k}"] = [1 / math.log2(rank + 1) if rank <= k else 0.0 for rank in ranks]
    assert result.per_user.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(result.per_user[name], values, atol=1e-12, err_msg=name)


def test_constant_scores_never_hit():
    result = evaluate_sampled(
        table(np.ones((1, 100))), users=np.array([0]), positives=np.array([0]),
        negatives=np.arange(1, 100)[None], n_items=100,
    )  # fmt: skip
    assert result.means() == {"sampled_hr@10": 0.0, "sampled_ndcg@10": 0.0, "sampled_mrr": 0.01}


def test_only_blocks_with_a_trial_are_scored():
    asked = []

    def score(rows):
        asked.append((rows.start, rows.stop))
        return torch.zeros(rows.stop - rows.start, 3)

    users = np.array([9, 1, 9])
    evaluate_sampled(
        score,
        users=users,
        positives=np.zeros(3, int),
        negatives=np.ones((3, 1), int),
        n_items=3,
        block_users=4,
    )
    assert asked == [(0, 2), (8, 10)]


GOOD = {"users": np.array([0]), "positives": np.array([1]), "negatives": np.array([[0, 2]]), "n_items": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": np.array([0, 0])}, "users [n], positives [n] and negatives"),
        ({"users": np.array([-1])}, "Expected users >= 0"),
        ({"positives": np.array([3])}, "positives in 0..2"),
        ({"positives": np.array([-1])}, "positives in 0..2"),
        ({"negatives": np.array([[0, 3]])}, "negatives in -1..2"),
        ({"negatives": np.array([[0, -2]])}, "negatives in -1..2"),
        (
            {"users": np.zeros(0, int), "positives": np.zeros(0, int), "negatives": np.zeros((0, 2), int)},
            "got none",
        ),
    ],
)
def test_trials_that_cannot_be_ranked_are_refused(change, message):
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate_sampled(table(np.zeros((1, 3))), **(GOOD | change))


@pytest.mark.parametrize("change", [{"cutoffs": (0,)}, {"block_users": 0}, {"n_items": 2}])
def test_settings_that_do_not_fit_are_refused(change):
    good = GOOD | {"negatives": np.array([[0, 0]])}
    with pytest.raises(ConfigurationError, match="Expected"):
        evaluate_sampled(table(np.zeros((1, 3))), **(good | change))
