"""Small history matrices as dense arrays, for tests that compare sparse results with plain numpy."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import sparse

from recsys_fed.models.histories import Histories, histories_of

SHAPES = st.tuples(st.integers(0, 7), st.integers(1, 8))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For modules that import it: on small tensors further threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@st.composite
def binary_matrices(draw):
    """0/1 float64 [n_users, n_items]: perhaps no users, users without items, no interaction at all."""
    n_users, n_items = draw(SHAPES)
    cells = draw(st.lists(st.booleans(), min_size=n_users * n_items, max_size=n_users * n_items))
    return np.array(cells, dtype=np.float64).reshape(n_users, n_items)


def from_dense(matrix: np.ndarray) -> Histories:
    return histories_of(sparse.csr_matrix(matrix))


def to_dense(histories: Histories) -> np.ndarray:
    """The matrix as the public attributes say it."""
    matrix = np.zeros((histories.n_users, histories.n_items))
    for user in range(histories.n_users):
        for place in range(int(histories.starts[user]), int(histories.starts[user + 1])):
            matrix[user, int(histories.items[place])] += 1
    return matrix


def random_table(rows: int, columns: int, *, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def weighted(matrix: np.ndarray, values: torch.Tensor) -> np.ndarray:
    """The matrix with `values` in place of its ones, row by row."""
    filled = np.zeros_like(matrix)
    filled[np.nonzero(matrix)] = values.numpy()
    return filled
