"""The full ranking equals its plain oracle, breaks ties by item row, and refuses what it cannot rank."""

import numpy as np
import plain_oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_oracle import BLANK, TEST, TRAIN
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.errors import ConfigurationError, DataError
from recsys_fed.evaluation.protocol import evaluate_ranking


def matrices(states):
    states = np.asarray(states)
    return {"train": csr_array(1 * (states == TRAIN)), "test": csr_array(1 * (states == TEST))}


def table(scores, dtype=torch.float32):
    scores = torch.as_tensor(np.asarray(scores), dtype=dtype)
    return lambda rows: scores[rows]


def rows_of(cell, n_users, n_items):
    row = st.lists(cell, min_size=n_items, max_size=n_items)
    return st.lists(row, min_size=n_users, max_size=n_users)


@st.composite
def worlds(draw):
    """Scores with many ties, and the state of every pair; at least one is a test pair."""
    n_users, n_items = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    states = draw(rows_of(st.sampled_from([BLANK, TRAIN, TEST]), n_users, n_items))
    states[draw(st.integers(0, n_users - 1))][draw(st.integers(0, n_items - 1))] = TEST
    return draw(rows_of(st.integers(-2, 2), n_users, n_items)), states


CUTOFFS = st.lists(st.integers(1, 15), min_size=1, max_size=3, unique=True)


@settings(max_examples=150, deadline=None)
@given(worlds(), CUTOFFS, st.integers(1, 8), st.sampled_from([torch.float32, torch.float64]))
def test_equals_the_plain_oracle_with_ties_and_any_block_size(world, cutoffs, block_users, dtype):
    scores, states = world
    users, per_user, covered = plain_oracle.full_ranking(scores, states, cutoffs)
    result = evaluate_ranking(table(scores, dtype), **matrices(states), cutoffs=cutoffs, block_users=block_users)
    assert result.users.tolist() == users
    assert result.per_user.keys() == per_user.keys()
    for name, expected in per_user.items():
        np.testing.assert_allclose(result.per_user[name], expected, atol=1e-12, err_msg=name)
    assert result.catalogue == pytest.approx(covered, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_renumbering_the_items_changes_nothing_without_ties(world, random):
    _, states = world
    n_items = len(states[0])
    scores = np.array([random.sample(range(100), n_items) for _ in states])
    order = random.sample(range(n_items), n_items)
    before = evaluate_ranking(table(scores), **matrices(states), cutoffs=(1, 3)).means()
    after = evaluate_ranking(
        table(scores[:, order]), **matrices(np.asarray(states)[:, order]), cutoffs=(1, 3)
    ).means()
    assert after == pytest.approx(before, abs=1e-12)


def test_a_case_worked_out_by_hand():
    states = [
        [TRAIN, TEST, BLANK, TEST, BLANK],  # ranked 4, 3, 2, 1: hits at ranks 2 and 4
        [BLANK, BLANK, TRAIN, TRAIN, TRAIN],  # no test item: does not count
        [TEST, TRAIN, BLANK, BLANK, BLANK],  # ranked 4, 3, 2, 0: a hit at rank 4
    ]
    means = evaluate_ranking(table([[9, 1, 2, 3, 4]] + 2 * [[0, 1, 2, 3, 4]]), **matrices(states),
                             cutoffs=(2,)).means()  # fmt: skip
    # NDCG@2 of the first user: (1 / log2 3) / (1 + 1 / log2 3) = 0.386853
    assert means == pytest.approx(
        {
            "recall@2": 0.25,
            "ndcg@2": 0.386853 / 2,
            "hr@2": 0.5,
            "mrr": (1 / 2 + 1 / 4) / 2,
            "coverage@2": 0.4,
        },
        abs=1e-6,
    )


def test_checkerboard_recommends_the_withheld_diagonal_first():
    # Even users like even items and odd users odd items; the diagonal is withheld.
    n = 50
    likes = (np.arange(n)[:, None] + np.arange(n)) % 2 == 0
    states = np.where(likes, TRAIN, BLANK)
    np.fill_diagonal(states, TEST)
    seen = (states == TRAIN).astype(float)
    means = evaluate_ranking(table(seen @ seen.T @ seen), **matrices(states), cutoffs=(1, 10), block_users=7).means()
    assert means == {"recall@1": 1, "ndcg@1": 1, "hr@1": 1, "recall@10": 1, "ndcg@10": 1, "hr@10": 1,
                     "mrr": 1, "coverage@1": 1, "coverage@10": 1}  # fmt: skip


@pytest.mark.parametrize("position", [0, 3, 40, 299])
def test_constant_scores_rank_a_test_item_by_its_row_alone(position):
    states = np.full((1, 300), BLANK)
    states[0, position] = TEST
    result = evaluate_ranking(table(np.zeros((1, 300))), **matrices(states), cutoffs=(10,))
    assert result.means()["mrr"] == pytest.approx(1 / (position + 1))
    assert result.means()["hr@10"] == float(position < 10)


def test_negative_zero_ties_with_zero():
    states = np.full((1, 30), BLANK)
    states[0, 29] = TEST
    scores = np.full((1, 30), -0.0)
    scores[0, 29] = 0.0
    assert evaluate_ranking(table(scores), **matrices(states)).means()["mrr"] == pytest.approx(1 / 30)


def test_wide_random_scores_agree_with_a_stable_sort():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 200, (20, 3000)).astype(np.float32)  # about 15 items share each score
    states = np.where(rng.random((20, 3000)) < 0.05, TRAIN, np.where(rng.random((20, 3000)) < 0.01, TEST, BLANK))
    _, per_user, covered = plain_oracle.full_ranking(scores, states, (10, 20))
    result = evaluate_ranking(table(scores), **matrices(states), block_users=6)
    for name, expected in per_user.items():
        np.testing.assert_allclose(result.per_user[name], expected, atol=1e-12, err_msg=name)
    assert result.catalogue == pytest.approx(covered)


def test_the_interactions_count_once_whatever_their_value():
    train = csr_matrix(([5.0, 3.0, 0.0], [0, 0, 2], [0, 3]), shape=(1, 4))  # one pair twice, one zero
    test = csr_matrix(([4.0, 4.0], [3, 3], [0, 2]), shape=(1, 4))
    means = evaluate_ranking(table([[9, 2, 4, 3]]), train=train, test=test, cutoffs=(1, 2)).means()
    # Item 0 is train, item 2 is not (its entry is zero): ranked 2, 3, 1.
    assert (means["recall@1"], means["recall@2"], means["mrr"]) == (0.0, 1.0, 0.5)
    assert (train.nnz, test.nnz) == (3, 2)


def test_blocks_are_reported_and_skipped_where_nobody_is_evaluated():
    states = np.full((7, 4), BLANK)
    states[[0, 6], 1] = TEST
    scores, asked, done = torch.arange(28.0).reshape(7, 4), [], []

    def score(rows):
        asked.append((rows.start, rows.stop))
        return scores[rows]

    evaluate_ranking(score, **matrices(states), block_users=3, on_block=done.append)
    assert asked == [(0, 3), (6, 7)]
    assert done == [3, 6, 7]


def test_the_scores_of_the_model_are_not_written_to():
    weights = torch.nn.Parameter(torch.tensor([[3.0, 2.0, 1.0]]))
    evaluate_ranking(lambda rows: weights[rows], **matrices([[TRAIN, TEST, BLANK]]))
    assert weights.tolist() == [[3.0, 2.0, 1.0]]


def test_values_per_user_do_not_show_in_the_repr():
    result = evaluate_ranking(table([[1, 2, 3]]), **matrices([[TRAIN, TEST, BLANK]]))
    assert repr(result) == "RankingMetrics()"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(ConfigurationError, match="Expected finite scores"):
        evaluate_ranking(table([[1, bad, 2]]), **matrices([[TRAIN, BLANK, TEST]]))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 4), "3 columns, got 2 dimensions, the last of size 4"),
        (torch.zeros(1, 3), "one row per user"),
        (torch.zeros(3), "got 1 dimensions"),
        (torch.zeros(2, 3, dtype=torch.int64), "float32 or float64, got torch.int64"),
    ],
)
def test_scores_of_the_wrong_shape_or_type_are_refused(scores, message):
    with pytest.raises(ConfigurationError, match=message):
        evaluate_ranking(lambda rows: scores, **matrices([[TRAIN, BLANK, TEST]] * 2))


def test_matrices_that_cannot_be_evaluated_are_refused():
    one = csr_array(np.eye(3))
    with pytest.raises(DataError, match="without common entries"):
        evaluate_ranking(table(np.zeros((3, 3))), train=one, test=one)
    with pytest.raises(DataError, match="one shape"):
        evaluate_ranking(table(np.zeros((3, 3))), train=one, test=csr_array(np.zeros((3, 4))))
    with pytest.raises(DataError, match="at least one user with a test item"):
        evaluate_ranking(table(np.zeros((3, 3))), train=one, test=csr_array((3, 3)))


@pytest.mark.parametrize(
    "settings", [{"cutoffs": ()}, {"cutoffs": (10, 0)}, {"block_users": 0}], ids=["none", "zero", "block"]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ConfigurationError, match="Expected"):
        evaluate_ranking(table([[1, 2, 3]]), **matrices([[TRAIN, TEST, BLANK]]), **settings)
