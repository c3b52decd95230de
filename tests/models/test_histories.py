"""Histories multiply, restrict and select like the dense matrix that they stand for."""

import numpy as np
import pytest
import torch
from dense_histories import binary_matrices, from_dense, random_table, to_dense, weighted
from dense_histories import one_thread as _one_thread  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import histories_of, positions

many = settings(max_examples=60, deadline=None)


def assert_same(histories, matrix):
    """Same matrix, and the same interactions in the order by item, whichever way they were computed."""
    np.testing.assert_array_equal(to_dense(histories), matrix)
    assert (histories.n_users, histories.n_items) == matrix.shape
    users, items = np.nonzero(matrix)
    np.testing.assert_array_equal(histories.users.numpy(), users)
    np.testing.assert_array_equal(histories.items.numpy(), items)
    np.testing.assert_array_equal(histories.order.numpy(), np.lexsort((users, items)))


def assert_products_fit(histories, matrix):
    values = random_table(int(matrix.sum()), 1, seed=3)[:, 0]
    by_items, by_users = (random_table(rows, 3, seed=4) for rows in (matrix.shape[1], matrix.shape[0]))
    filled = weighted(matrix, values)
    np.testing.assert_allclose(histories.times(values, by_items).numpy(), filled @ by_items.numpy(), atol=1e-12)
    np.testing.assert_allclose(
        histories.transposed_times(values, by_users).numpy(), filled.T @ by_users.numpy(), atol=1e-12
    )
    np.testing.assert_allclose(histories.per_user(values).numpy(), filled.sum(axis=1), atol=1e-12)


@many
@given(binary_matrices())
def test_products_equal_those_of_the_dense_matrix(matrix):
    assert_same(from_dense(matrix), matrix)
    assert_products_fit(from_dense(matrix), matrix)


@many
@given(binary_matrices(), st.data())
def test_a_block_is_these_rows(matrix, data):
    start = data.draw(st.integers(0, len(matrix)))
    stop = data.draw(st.integers(start, len(matrix)))
    block = from_dense(matrix).block(start, stop)
    assert_same(block, matrix[start:stop])
    assert_products_fit(block, matrix[start:stop])


@many
@given(binary_matrices(), st.data())
def test_a_subset_is_the_chosen_rows(matrix, data):
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(matrix), max_size=len(matrix))), dtype=bool)
    subset = from_dense(matrix).subset(torch.from_numpy(chosen))
    assert_same(subset, matrix[chosen])
    assert_products_fit(subset, matrix[chosen])


@many
@given(binary_matrices(), st.data())
def test_restricted_are_the_chosen_columns_for_all_users(matrix, data):
    rows = sorted(data.draw(st.sets(st.integers(0, matrix.shape[1] - 1), min_size=1)))
    restricted = from_dense(matrix).restricted(torch.tensor(rows))
    assert_same(restricted, matrix[:, rows])
    assert_products_fit(restricted, matrix[:, rows])


@many
@given(binary_matrices(), st.data())
def test_parts_of_parts_keep_the_order_by_item(matrix, data):
    rows = sorted(data.draw(st.sets(st.integers(0, matrix.shape[1] - 1), min_size=1)))
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(matrix), max_size=len(matrix))), dtype=bool)
    both = from_dense(matrix).restricted(torch.tensor(rows)).subset(torch.from_numpy(chosen))
    assert_same(both, matrix[:, rows][chosen])
    assert_products_fit(both, matrix[:, rows][chosen])


def test_values_of_the_scipy_matrix_are_not_read_and_columns_come_sorted():
    matrix = sparse.csr_matrix((np.array([5.0, -1.0, 0.0]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
    histories = histories_of(matrix)
    assert histories.items.tolist() == [0, 2, 1]
    assert histories.starts.tolist() == [0, 2, 3]


@pytest.mark.parametrize("columns", [0, 1])
def test_products_without_users_interactions_or_columns_are_empty_or_zero(columns):
    nobody, nothing = from_dense(np.zeros((0, 4))), from_dense(np.zeros((3, 4)))
    none = torch.zeros(0)
    assert nobody.times(none, torch.ones(4, columns)).shape == (0, columns)
    assert nobody.per_user(none).shape == (0,)
    assert torch.equal(nobody.transposed_times(none, torch.ones(0, columns)), torch.zeros(4, columns))
    assert torch.equal(nothing.times(none, torch.ones(4, columns)), torch.zeros(3, columns))
    assert torch.equal(nothing.transposed_times(none, torch.ones(3, columns)), torch.zeros(4, columns))


@pytest.mark.parametrize("rows", [[3, 3], [2, 1], [-1, 2], [0, 5]])
def test_rows_that_repeat_go_back_or_leave_the_items_are_refused(rows):
    """Somebody who has an item would be in a sum over such rows more than once."""
    with pytest.raises(ConfigurationError, match="each once and ascending"):
        positions(torch.tensor(rows), 5, dtype=torch.int32)
