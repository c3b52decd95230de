"""User vectors equal those of a plain solve, one user at a time, and depend on nobody else."""

import numpy as np
import pytest
import torch
from dense_histories import binary_matrices, from_dense, random_table
from dense_histories import one_thread as _one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.models import items as ridge
from recsys_fed.models.items import FoldIn, ItemEmbeddings, fold_in, scores, user_vectors

PROJECTION = FoldIn(kind="projection")
RIDGE = FoldIn(kind="ridge", unobserved_weight=0.3, regularization=0.7)


def plain_projection(vectors, history, weights):
    chosen = np.flatnonzero(history)
    if not len(chosen):
        return np.zeros(vectors.shape[1])
    return weights[chosen] @ vectors[chosen] / np.linalg.norm(weights[chosen])


def plain_ridge(vectors, history, weights, *, how):
    """argmin_u sum_H w (1 - v u)^2 + unobserved_weight sum (v u)^2 + regularization |u|^2, as least squares."""
    chosen = np.flatnonzero(history)
    roots = np.sqrt(weights[chosen])[:, None]
    dim = vectors.shape[1]
    rows = [roots * vectors[chosen], how.unobserved_weight**0.5 * vectors, how.regularization**0.5 * np.eye(dim)]
    wanted = np.concatenate([roots[:, 0], np.zeros(len(vectors) + dim)])
    return np.linalg.lstsq(np.concatenate(rows), wanted, rcond=None)[0]


def inputs(matrix, *, dim=3, seed=1):
    vectors = random_table(matrix.shape[1], dim, seed=seed)
    weights = random_table(matrix.shape[1], 1, seed=seed + 1)[:, 0].abs() + 0.1
    return vectors, weights


@settings(max_examples=50, deadline=None)
@given(binary_matrices(), st.integers(1, 5))
def test_projection_equals_the_plain_formula(matrix, dim):
    vectors, weights = inputs(matrix, dim=dim)
    found = fold_in(vectors, from_dense(matrix), weights, how=PROJECTION)
    expected = [plain_projection(vectors.numpy(), row, weights.numpy()) for row in matrix]
    np.testing.assert_allclose(found.numpy(), np.array(expected).reshape(found.shape), atol=1e-10)


@settings(max_examples=50, deadline=None)
@given(
    binary_matrices(),
    st.integers(1, 5),
    st.sampled_from([RIDGE, FoldIn(kind="ridge"), FoldIn(kind="ridge", unobserved_weight=2.0, regularization=0.01)]),
)
def test_ridge_equals_a_plain_least_squares_solve(matrix, dim, how):
    vectors, weights = inputs(matrix, dim=dim)
    found = fold_in(vectors, from_dense(matrix), weights, how=how)
    expected = [plain_ridge(vectors.numpy(), row, weights.numpy(), how=how) for row in matrix]
    np.testing.assert_allclose(found.numpy(), np.array(expected).reshape(found.shape), atol=1e-8)


@pytest.mark.parametrize("block_floats", [1, 9, 40, 100])
def test_blocks_do_not_change_the_result(monkeypatch, block_floats):
    matrix = (np.random.default_rng(0).random((11, 13)) < 0.3).astype(float)
    vectors, weights = inputs(matrix, dim=4)
    whole = fold_in(vectors, from_dense(matrix), weights, how=RIDGE)
    monkeypatch.setattr(ridge, "_BATCH_FLOATS", block_floats)
    torch.testing.assert_close(
        fold_in(vectors, from_dense(matrix), weights, how=RIDGE), whole, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("how", [PROJECTION, RIDGE], ids=lambda how: how.kind)
def test_an_empty_history_gives_the_zero_vector_and_the_ranking_of_the_bias(how):
    matrix = np.array([[1.0, 0, 1], [0, 0, 0]])
    vectors, weights = inputs(matrix)
    bias = torch.tensor([0.2, 0.9, 0.5])
    model = ItemEmbeddings(
        vectors=vectors.float(), bias=bias, history_weights=weights.float(), fold_in=how, catalogue_hash="c"
    )
    found = user_vectors(model, from_dense(matrix))
    assert torch.equal(found[1], torch.zeros(3))
    assert found[0].norm() > 0
    assert torch.equal(scores(model, found)[1], bias)


def test_a_history_of_items_without_weight_is_an_empty_history():
    matrix = np.array([[1.0, 0, 1]])
    vectors, _ = inputs(matrix)
    found = fold_in(vectors, from_dense(matrix), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), how=PROJECTION)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("how", [PROJECTION, RIDGE], ids=lambda how: how.kind)
@settings(max_examples=25, deadline=None)
@given(others=binary_matrices())
def test_a_users_vector_depends_on_that_users_history_only(how, others):
    mine = np.zeros((1, others.shape[1]))
    mine[0, ::2] = 1
    vectors, weights = inputs(others)
    alone = fold_in(vectors, from_dense(mine), weights, how=how)[0]
    for matrix, row in ((np.vstack([others, mine]), len(others)), (np.vstack([mine, 1 - others]), 0)):
        among = fold_in(vectors, from_dense(matrix), weights, how=how)[row]
        torch.testing.assert_close(among, alone, atol=1e-11, rtol=1e-9)


def test_equations_that_cannot_be_solved_touch_nobody_else_and_raise_nothing():
    vectors = torch.tensor([[1.0, 0.5], [1e18, 1e18]])
    how = FoldIn(kind="ridge", unobserved_weight=0.0)
    # In float32 the second user's equations are singular: the regularization is lost beside 1e36.
    found = fold_in(vectors, from_dense(np.eye(2)), torch.ones(2), how=how)
    expected = plain_ridge(vectors[:1].double().numpy(), np.ones(1), np.ones(1), how=how)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)


def test_scores_are_products_plus_bias():
    model = ItemEmbeddings(
        vectors=torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        bias=torch.tensor([0.5, -0.5]),
        history_weights=torch.ones(2),
        fold_in=PROJECTION,
        catalogue_hash="c",
    )
    assert scores(model, torch.tensor([[2.0, 1.0]])).tolist() == [[4.5, 9.5]]


@pytest.mark.parametrize("dim", [1, 3, 5, 7, 9, 11, 13, 16, 17, 21, 24, 31, 33, 38, 64])
def test_not_a_bit_of_a_users_vector_depends_on_who_else_is_there(dim):
    """Equations that are next to singular make a different vector of a different last bit."""
    rng = np.random.default_rng(dim)
    for _ in range(12):
        matrix = np.zeros((int(rng.integers(2, 60)), 80))
        for row in matrix:
            row[rng.choice(80, int(rng.integers(1, 50)), replace=False)] = 1
        vectors = torch.from_numpy(rng.standard_normal((80, dim))).float()
        vectors[:, 1:] *= 10.0 ** rng.uniform(-5, 0)
        vectors *= 10.0 ** rng.uniform(0, 6)
        how = FoldIn(kind="ridge", unobserved_weight=0.3, regularization=1.0)
        weights, first = torch.ones(80), int(rng.integers(1, len(matrix)))
        whole = fold_in(vectors, from_dense(matrix), weights, how=how)
        assert torch.equal(whole[first:], fold_in(vectors, from_dense(matrix[first:]), weights, how=how))


@pytest.mark.parametrize("broken", [3e38, 1e30])
def test_a_user_whose_equations_overflow_gets_zero_and_nobody_else_does(broken):
    vectors = torch.ones(4, 2)
    vectors[3] = broken
    how = FoldIn(kind="ridge", unobserved_weight=0.0, regularization=1.0)
    users = fold_in(vectors, from_dense([[1, 1, 0, 0], [0, 0, 1, 1]]), torch.ones(4), how=how)
    assert users[0].any()
    assert not users[1].any()
