"""How often pairs of items meet in the histories of one silo, in a form that fits into memory.

With X the silo's histories, heavy users scaled down, S = X^T X is held as

    n_items x n_items        where a silo has more users than a small catalogue has items
    F F^T + diagonal         else: F = X^T where users are few; F = V_k diag(s_k) of the k largest singular values
                             of X where both are many. The diagonal is then what F leaves of diag(S), which is exact.

Private to the silo.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from recsys_fed import checks

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
# A history of n items counts n^-HEAVY in sums of squares: X has rows scaled by n^(-HEAVY / 2).
HEAVY = 0.5
LARGEST_DENSE = 20_000
FEW_USERS, LARGEST_RANK = 2_000, 500


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloPairs:
    """S = X^T X of a silo.

    Attributes:
        histories: X, csr float64 [n_users, n_items].
        occurrence: diag(S), float64 [n_items].
        dense: S, float64 [n_items, n_items], or None.
        factor: F, float32 [n_items, k], or None where S is dense. Half the memory and time, and six digits.
    """

    histories: sparse.csr_matrix
    occurrence: Floats
    dense: Floats | None
    factor: Singles | None


def silo_pairs(
    train: sparse.csr_matrix,
    *,
    largest_dense: int = LARGEST_DENSE,
    few_users: int = FEW_USERS,
    largest_rank: int = LARGEST_RANK,
) -> SiloPairs:
    """Count the pairs of a silo's histories, csr [n_users, n_items] of ones.

    Guarantees: none. The result depends on the silo's users without noise and must never leave the silo.

    Args:
        train: the histories.
        largest_dense: catalogues above it are never held as n_items x n_items.
        few_users: then, so many have a column each in F, and nothing is left out.
        largest_rank: columns of F with more users.
    """
    checks.at_least(1, largest_dense=largest_dense, few_users=few_users, largest_rank=largest_rank)
    n_users, n_items = train.shape
    scaled = _without_heavy_rows(train)
    occurrence = np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel()
    if n_items <= largest_dense and n_users >= n_items:
        return SiloPairs(histories=scaled, occurrence=occurrence, dense=(scaled.T @ scaled).toarray(), factor=None)
    few = n_users <= few_users or n_items <= largest_dense
    factor = scaled.astype(np.float32).toarray().T if few else _leading(scaled, largest_rank)
    return SiloPairs(histories=scaled, occurrence=occurrence, dense=None, factor=factor)


def _leading(scaled: sparse.csr_matrix, rank: int) -> Singles:
    """V_k diag(s_k) by ARPACK, which starts from the same vector each time."""
    rank = min(rank, min(scaled.shape) - 1)
    _, values, right = svds(scaled, k=rank, v0=np.ones(min(scaled.shape)))
    return np.asarray(right.T * values, dtype=np.float32)


def _without_heavy_rows(train: sparse.csr_matrix) -> sparse.csr_matrix:
    sizes = np.maximum(np.diff(train.indptr), 1).astype(np.float64)
    weights = (sizes / sizes.mean()) ** (-HEAVY / 2) if len(sizes) else sizes
    return sparse.csr_matrix(sparse.diags(weights) @ train, dtype=np.float64)
