"""Orthonormal bases, and the leading directions of public features against numpy's dense SVD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_fed.trainers import subspace as module
from recsys_fed.trainers.subspace import leading_directions, orthonormal


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def unit(vector):
    return vector / vector.norm()


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 8), columns=st.integers(0, 9), rank=st.integers(0, 4), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
)  # fmt: skip
def test_the_basis_spans_what_is_left_and_dependent_columns_are_zero(rows, columns, rank, seed, scale):
    against = unit(normal(rows, seed=seed + 100))
    table = scale * normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1)
    basis = orthonormal(table, against=against)
    centred = table - torch.outer(against, against) @ table
    expected_rank = min(rank, columns, rows - 1)
    assert basis.shape == (rows, columns)
    expected = torch.diag((torch.arange(columns) < expected_rank).double())
    torch.testing.assert_close(basis.T @ basis, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(against @ basis, torch.zeros(columns).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(basis @ (basis.T @ centred), centred, atol=1e-8 * scale, rtol=1e-8)


def test_columns_come_in_the_order_of_their_singular_values():
    table = torch.zeros(4, 3, dtype=torch.float64)
    table[1, 0], table[2, 1], table[3, 2] = 1.0, 5.0, 3.0
    basis = orthonormal(table, against=torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    assert basis.abs().argmax(0).tolist() == [2, 3, 1]


def test_what_lies_along_the_removed_vector_gives_zero_columns():
    """What is left after removing it is rounding, which is no direction."""
    for seed in range(20):
        against = unit(normal(7, seed=seed))
        assert torch.equal(
            orthonormal(torch.outer(against, normal(3, seed=1)), against=against).sum(0), torch.zeros(3)
        )


def conditioned(rows, columns, *, condition, seed=0):
    """A table whose singular values fall evenly in logarithm from 1 to 1 / condition."""
    left, right = (np.linalg.qr(normal(size, columns, seed=seed + size).numpy())[0] for size in (rows, columns))
    return torch.from_numpy(left * np.geomspace(1.0, 1.0 / condition, columns) @ right.T)


@pytest.mark.parametrize("condition", [1.5, 1e2, 3e3, 1e5, 1e9])
@pytest.mark.parametrize("rows", [200, 5_000])
def test_by_gramian_it_is_the_singular_value_decomposition(rows, condition):
    against = unit(normal(rows, seed=9))
    table = conditioned(rows, 6, condition=condition)
    basis = orthonormal(table, against=against)
    centred = table - torch.outer(against, against @ table)
    expected, _, _ = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6).double(), atol=1e-13, rtol=0)
    cosines = (basis * expected).sum(0).abs()
    torch.testing.assert_close(cosines, torch.ones(6).double(), atol=1e-6, rtol=0)


def test_the_gramian_is_refused_where_it_would_lose_digits():
    assert module._by_gramian(conditioned(300, 4, condition=1e3), 4) is not None
    assert module._by_gramian(conditioned(300, 4, condition=1e5), 4) is None
    assert module._by_gramian(conditioned(300, 4, condition=1e5), 2) is not None
    assert module._by_gramian(torch.zeros(300, 4).double(), 4) is None


@pytest.mark.parametrize("rows", [20, 400])
def test_a_few_directions_are_the_first_ones(rows):
    table, against = conditioned(rows, 8, condition=1e3), unit(normal(rows, seed=4))
    first, all_of_them = orthonormal(table, against=against, dim=3), orthonormal(table, against=against)
    cosines = (first * all_of_them[:, :3]).sum(0).abs()
    torch.testing.assert_close(cosines, torch.ones(3).double(), atol=1e-6, rtol=0)
    assert first.shape == (rows, 3)


def test_tall_dependent_columns_are_zero_columns():
    against = unit(normal(400, seed=1))
    basis = orthonormal(normal(400, 2, seed=2) @ normal(2, 5, seed=3), against=against)
    torch.testing.assert_close(
        basis.T @ basis, torch.diag(torch.tensor([1.0, 1, 0, 0, 0]).double()), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("density", [0.2, 0.8])
@pytest.mark.parametrize("dim", [1, 3])
def test_leading_directions_are_those_of_the_dense_matrix(density, dim):
    rng = np.random.default_rng(3)
    features = (rng.random((30, 8)) < density) * rng.random((30, 8))
    weights = rng.random(30) + 0.1
    found = leading_directions(sparse.csr_matrix(features), weights=torch.from_numpy(weights), dim=dim).numpy()
    mean = np.average(features, axis=0, weights=weights**2)
    left, _, _ = np.linalg.svd(weights[:, None] * (features - mean), full_matrices=False)
    np.testing.assert_allclose(np.abs(found.T @ left[:, :dim]), np.eye(dim), atol=1e-8)


def test_there_are_no_more_directions_than_the_features_have():
    rng = np.random.default_rng(3)
    features = rng.random((20, 2)) @ rng.random((2, 6))
    found = leading_directions(sparse.csr_matrix(features), weights=torch.ones(20).double(), dim=5)
    assert found.shape == (20, 2)
    torch.testing.assert_close(found.T @ found, torch.eye(2).double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_features_that_all_items_share_lead_nowhere(value):
    features = sparse.csr_matrix(np.full((9, 3), value))
    weights = torch.linspace(0.1, 1.3, 9, dtype=torch.float64)
    assert leading_directions(features, weights=weights, dim=2).shape == (9, 0)


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_a_few_directions_of_many_features_are_those_of_the_whole_decomposition(dim):
    """200 features: 1, 5 and 20 directions come from Lanczos' method, and are the same bits every time."""
    rng = np.random.default_rng(dim)
    features = sparse.csr_matrix(
        rng.standard_normal((300, 200)) * (rng.random((300, 200)) < 0.2) * 0.97 ** np.arange(200)
    )
    weights = torch.from_numpy(rng.random(300) + 0.1)
    found = leading_directions(features, weights=weights, dim=dim)
    weight = weights.numpy()
    dense = features.toarray()
    centred = weight[:, None] * (dense - (weight**2 @ dense) / (weight**2).sum())
    expected = np.linalg.svd(centred, full_matrices=False)[0][:, :dim]
    np.testing.assert_allclose(np.abs(np.diag(expected.T @ found.numpy())), 1, atol=1e-8)
    assert torch.equal(found, leading_directions(features, weights=weights, dim=dim))
