"""Silos that instruments put before a mechanism: empty ones, ordinary ones, and ones with a maximal user."""

import numpy as np
from scipy import sparse

from recsys_fed.federation.release import SiloUsers
from recsys_fed.models.histories import histories_of


def silo_of(matrix: sparse.csr_matrix) -> SiloUsers:
    """A silo of these users; each holds out one item, so that metrics are about them too."""
    return SiloUsers(histories=histories_of(matrix), test=_held_out(matrix))


def nobody(n_items: int) -> sparse.csr_matrix:
    """The histories of no users."""
    return sparse.csr_matrix((0, n_items), dtype=np.float32)


def maximal_users(ordinary: sparse.csr_matrix) -> dict[str, sparse.csr_matrix]:
    """Users who would stretch a sum most if nothing bounded them, each csr [1, n_items]."""
    n_items = ordinary.shape[1]
    found = {
        "who has every item": sparse.csr_matrix(np.ones((1, n_items), dtype=np.float32)),
        "who has one item": sparse.csr_matrix(np.eye(1, n_items, dtype=np.float32)),
    }
    if ordinary.shape[0]:
        found["with the longest ordinary history"] = ordinary[int(np.argmax(np.diff(ordinary.indptr)))]
    return found


def _held_out(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The first item that is not in the history, nothing of who has all: csr of the same shape."""
    held = sparse.lil_matrix(matrix.shape, dtype=np.float32)
    for row in range(matrix.shape[0]):
        items = np.sort(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]])
        gap = np.flatnonzero(items != np.arange(len(items)))
        first = int(gap[0]) if len(gap) else len(items)
        if first < matrix.shape[1]:
            held[row, first] = 1.0
    return held.tocsr()
