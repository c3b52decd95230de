"""A linear item model of one silo, pulled towards what the released model says of pairs of items.

With X the silo's histories, heavy users scaled down, and V the released item vectors,

    G = X^T X + pull * offdiagonal(H),   H = O C O^T,   C = R^T X^T X R,   diag(G) = (1 + pull) diag(X^T X)

where R = W Q, O = W^-1 Q, Q an orthonormal basis of V and W the history weights: H is the silo's own second moment
seen through the released subspace, so it has the silo's scale, and pairs of items that no user of the silo has. Then
EASE (arXiv 1905.03375) on G: P = (G + regularization I)^-1, B_ij = -P_ij / P_jj. pull = 0 is EASE on the silo alone.

G is diagonal plus F F^T with n_users + embedding_dim columns in F, so with D the diagonal

    P = D^-1 - D^-1 F (I + F^T D^-1 F)^-1 F^T D^-1            (Woodbury)

and nothing of size n_items x n_items is held. That is the form for silos with fewer users than items, and for
catalogues above 20,000 items; beyond 20,000 users those keep a random 20,000 of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from recsys_fed import checks
from recsys_fed.models.items import ItemEmbeddings

Floats = npt.NDArray[np.float64]
# A history of n items counts n^-HEAVY in sums of squares: X has rows scaled by n^(-HEAVY / 2).
HEAVY = 0.5
LARGEST_DENSE = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemModel:
    """Scores of a history x are (x L) R^T, or x L; private to the silo. Items of x have no meaningful score.

    Attributes:
        left: L, float64 [n_items, k].
        right: R, float64 [n_items, k]; None where L is all, [n_items, n_items].
    """

    left: Floats
    right: Floats | None

    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items] for histories of ones."""
        found = histories @ self.left
        return np.asarray(found if self.right is None else found @ self.right.T)


@dataclass(frozen=True, kw_only=True, eq=False)
class Through:
    """How the released model sees histories: R and O of the module, float64 [n_items, embedding_dim]."""

    seeing: Floats
    back: Floats


def through(model: ItemEmbeddings) -> Through:
    """R = W Q and O = W^-1 Q of a released model; directions without length are left out."""
    vectors, weights = model.vectors.double().cpu().numpy(), model.history_weights.double().cpu().numpy()
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    basis = left[:, singular > 1e-6 * max(float(singular.max(initial=0.0)), 1e-30)]
    used = weights > 0
    inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=used)
    return Through(seeing=weights[:, None] * basis, back=inverse[:, None] * basis)


def fit_item_model(
    train: sparse.csr_matrix,
    seen: Through,
    *,
    pull: float,
    regularization: float,
    largest_dense: int = LARGEST_DENSE,
    rng: np.random.Generator,
) -> ItemModel:
    """Fit to the users of a silo.

    Guarantees: none. The result depends on the silo's users without noise and must never leave the silo.

    Args:
        train: histories of ones, csr [n_users, n_items].
        seen: the released model.
        pull: how much the released model's view of pairs counts against the silo's own.
        regularization: of the inverse; about a third to two thirds of n_users.
        largest_dense: catalogues above it are never held as n_items x n_items.
        rng: chooses users where there are too many; not used otherwise.
    """
    checks.non_negative(pull=pull)
    checks.positive(regularization=regularization)
    n_users, n_items = train.shape
    if n_items > largest_dense and n_users > largest_dense:
        train = train[np.sort(rng.choice(n_users, largest_dense, replace=False))]
    scaled = _without_heavy_rows(train)
    occurrence = np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel()
    pulled = _pulled_factor(scaled, seen, pull=pull)
    diagonal = np.maximum(pull * occurrence - np.square(pulled).sum(axis=1), 0.0) + regularization
    if train.shape[0] + pulled.shape[1] < n_items or n_items > largest_dense:
        return _by_woodbury(np.hstack([scaled.toarray().T, pulled]), diagonal)
    gramian = (scaled.T @ scaled).toarray() + pulled @ pulled.T
    gramian[np.diag_indices_from(gramian)] += diagonal
    inverse = linalg.inv(gramian, overwrite_a=True)
    return ItemModel(left=-inverse / np.diag(inverse), right=None)


def _without_heavy_rows(train: sparse.csr_matrix) -> sparse.csr_matrix:
    sizes = np.maximum(np.diff(train.indptr), 1).astype(np.float64)
    weights = (sizes / sizes.mean()) ** (-HEAVY / 2) if len(sizes) else sizes
    return sparse.csr_matrix(sparse.diags(weights) @ train, dtype=np.float64)


def _pulled_factor(scaled: sparse.csr_matrix, seen: Through, *, pull: float) -> Floats:
    """F with F F^T = pull * H, [n_items, <= embedding_dim]."""
    if not pull:
        return np.zeros((scaled.shape[1], 0))
    projected = scaled @ seen.seeing
    values, vectors = np.linalg.eigh(projected.T @ projected)
    return np.asarray(seen.back @ (vectors * np.sqrt(pull * np.maximum(values, 0.0))))


def _by_woodbury(factor: Floats, diagonal: Floats) -> ItemModel:
    """-P_ij / P_jj off the diagonal as left right^T, from P = (diag + F F^T)^-1."""
    shrunk = factor / diagonal[:, None]
    core = np.eye(factor.shape[1]) + factor.T @ shrunk
    left = linalg.cho_solve(linalg.cho_factor(core), shrunk.T).T
    own = 1 / diagonal - (left * shrunk).sum(axis=1)
    return ItemModel(left=left, right=shrunk / own[:, None])
