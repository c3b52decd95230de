"""Held-out interactions: the train and test matrices of one evaluation, checked once."""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.errors import DataError


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What the model has seen and what it is asked for, as [n_users, n_items] patterns without overlap."""

    train: csr_array = field(repr=False)
    test: csr_array = field(repr=False)

    @property
    def n_items(self) -> int:
        """Number of columns of both matrices."""
        return int(self.test.shape[1])

    @property
    def users(self) -> np.ndarray:
        """Rows with at least one test item, ascending, int64."""
        return self.users_in(0, self.test.shape[0])

    def users_in(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` up to but not including `stop` with at least one test item, ascending, int64."""
        return start + np.flatnonzero(np.diff(self.test.indptr[start : stop + 1]))

    def train_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the train entries, int64 [n_entries] each, by user and then item."""
        return _entries(self.train)

    def test_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the test entries, int64 [n_entries] each, by user and then item."""
        return _entries(self.test)

    def of_users(self, users: np.ndarray) -> "HeldOut":
        """The rows `users` alone, in that order."""
        return HeldOut(train=self.train[users], test=self.test[users])


def hold_out(train: csr_matrix | csr_array, test: csr_matrix | csr_array) -> HeldOut:
    """Check two interaction matrices and reduce them to patterns.

    Every stored non-zero entry is an interaction, whatever its value; entries stored twice count once.

    Args:
        train: sparse [n_users, n_items], interactions that the model has seen.
        test: sparse [n_users, n_items], interactions to be predicted.

    Returns:
        The two patterns; the arguments are left as they are.

    Raises:
        DataError: the shapes differ, an entry is in both, or no user has a test item.
    """
    if train.shape != test.shape:
        raise DataError(
            "Expected train and test of one shape [n_users, n_items], got two. "
            "Index both by the same users and the same catalogue."
        )
    held_out = HeldOut(train=_pattern(train), test=_pattern(test))
    if held_out.train.multiply(held_out.test).nnz:
        raise DataError(
            "Expected train and test without common entries, got some. "
            "A train item is never recommended again: remove it from the user's test row."
        )
    if not held_out.test.nnz:
        raise DataError("Expected at least one user with a test item, got none. Check the split.")
    return held_out


def _entries(matrix: csr_array) -> tuple[np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return rows, matrix.indices.astype(np.int64)


def _pattern(matrix: csr_matrix | csr_array) -> csr_array:
    pattern = csr_array(matrix, copy=True)
    pattern.eliminate_zeros()
    pattern.sum_duplicates()
    pattern.data = np.ones(pattern.nnz, dtype=np.int8)
    return pattern
