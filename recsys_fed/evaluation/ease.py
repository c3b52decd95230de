"""EASE (Steck, arXiv 1905.03375) of one train matrix under any strength, from one decomposition.

With P = (X^T X + lambda I)^-1 the weights are B = I - P diag(P)^-1, so the scores of X are X - X P diag(P)^-1. Let
n users and M items be given, and the smaller Gramian be decomposed:

    M <= n:  X^T X = V diag(s) V^T    L = (X V) diag(s / (s + lambda)) V^T
    n < M:   X X^T = U diag(s) U^T    L = U diag(s / (s + lambda)) (X^T U)^T     (Woodbury: the dual form)

    lambda X P = X - L,   lambda P_jj = 1 - sum_k C_jk / (s_k + lambda),   C = V^2 diag(s), or (X^T U)^2

Beyond a size that a machine does in minutes, U and s are those of the leading singular directions only, which is an
approximation: s / (s + lambda) of the others is taken for zero.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse

from recsys_fed.evaluation.baselines import pattern_of
from recsys_fed.evaluation.protocol import Scorer

# Products of the exact form, and the side of what it decomposes; a few minutes on two cores at most.
_MOST_PRODUCTS, _MOST_SIDE = 2e12, 8_000
DIRECTIONS = 1_000
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class _EaseSpectrum:
    """The decomposed train matrix.

    Attributes:
        pattern: X with ones as entries, csr [n_users, n_items].
        left, right: of L as above, float32 [n_users, r] and [n_items, r].
        covered: C, float32 [n_items, r].
        squares: s, [r].
        exact: whether r is the smaller side of X.
    """

    pattern: sparse.csr_matrix = field(repr=False)
    left: Floats
    right: Floats
    covered: Floats
    squares: npt.NDArray[np.float64]
    exact: bool

    def scorer(self, regularization: float) -> Scorer:
        """The scores of EASE under this lambda, which must be above 0: [n_block, n_items] float32."""
        inverse = 1 / (self.squares + regularization)
        diagonal = (1 - self.covered.astype(np.float64) @ inverse).astype(np.float32)
        left = self.left * (self.squares * inverse).astype(np.float32)

        def score(rows: slice) -> torch.Tensor:
            own = self.pattern[rows].toarray().astype(np.float32)
            return torch.from_numpy(own - (own - left[rows] @ self.right.T) / diagonal)

        return score


def ease_spectrum(train: sparse.csr_matrix | sparse.csr_array) -> _EaseSpectrum:
    """Decompose a train matrix [n_users, n_items]; its values are not read, an entry is an interaction."""
    pattern = pattern_of(train)
    side, other = min(pattern.shape), max(pattern.shape)
    exact = side <= _MOST_SIDE and float(side) ** 2 * other <= _MOST_PRODUCTS
    if exact and pattern.shape[1] <= pattern.shape[0]:
        squares, vectors = _spectrum(pattern.T @ pattern)
        left, right = pattern @ vectors, vectors
        covered = vectors**2 * squares
    else:
        squares, vectors = _spectrum(pattern @ pattern.T) if exact else _leading(pattern)
        left, right = vectors, pattern.T @ vectors
        covered = right**2
    return _EaseSpectrum(
        pattern=pattern,
        left=left.astype(np.float32),
        right=right.astype(np.float32),
        covered=covered.astype(np.float32),
        squares=squares,
        exact=exact,
    )


def _spectrum(gramian: sparse.csr_matrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvalues, not below zero, and eigenvectors of a Gramian."""
    values, vectors = linalg.eigh(gramian.toarray(), overwrite_a=True, driver="evd")
    return np.maximum(values, 0.0), vectors


def _leading(pattern: sparse.csr_matrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Squares and left singular vectors of the leading directions (Halko et al., arXiv 0909.4061)."""
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (pattern.indptr, pattern.indices))
    values = torch.from_numpy(pattern.data.astype(np.float32))
    matrix = torch.sparse_csr_tensor(rows, columns, values, size=pattern.shape, check_invariants=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, _, _ = torch.svd_lowrank(matrix, q=min(DIRECTIONS, *pattern.shape), niter=2)
    vectors = left.double().numpy()
    # What the directions really have: X^T u is what the form above goes on with.
    return np.asarray(np.square(pattern.T @ vectors).sum(axis=0)), vectors
