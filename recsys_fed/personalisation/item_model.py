"""A linear item model of one silo, pulled towards what the released model says of pairs of items.

With X the silo's scaled histories, S = X^T X their pairs (see `pairs`), and V the released item vectors,

    G = S + pull * offdiagonal(H),   H = O C O^T,   C = R^T S R,   diag(G) = (1 + pull) diag(S)

where R = W Q, O = W^-1 Q, Q an orthonormal basis of V and W the history weights: H is the silo's own second moment
seen through the released subspace, so it has the silo's scale, and pairs of items that no user of the silo has. Then
EASE (arXiv 1905.03375) on G: P = (G + regularization I)^-1, B_ij = -P_ij / P_jj. pull = 0 is EASE on the silo alone.
With few users B leans towards what most of them have, so column j is divided by (S_jj + 5)^DISCOUNT.

Where S has a factor, G is diagonal plus F F^T, with the embedding_dim columns of the pull beside S's own, and

    P = D^-1 - D^-1 F (I + F^T D^-1 F)^-1 F^T D^-1            (Woodbury)

so that nothing of size n_items x n_items is held.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.pairs import Floats, SiloPairs, Singles

DISCOUNT, _SMOOTHING = 0.15, 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemModel:
    """Scores of a history x are (x L) R^T, or x L; private to the silo. Items of x have no meaningful score.

    Attributes:
        left: L, float32 [n_items, k].
        right: R, float32 [n_items, k]; None where L is all, [n_items, n_items].
    """

    left: Singles
    right: Singles | None

    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items] for histories of ones."""
        found = histories.astype(np.float32) @ self.left
        return np.asarray(found if self.right is None else found @ self.right.T, dtype=np.float64)


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


def fit_item_model(pairs: SiloPairs, seen: Through | None, *, pull: float, regularization: float) -> ItemModel:
    """Fit to the users of a silo.

    Guarantees: none. The result depends on the silo's users without noise and must never leave the silo.

    Args:
        pairs: of the silo's histories.
        seen: the released model; None is enough without pull.
        pull: how much the released model's view of pairs counts against the silo's own.
        regularization: of the inverse, in users.
    """
    checks.non_negative(pull=pull)
    checks.positive(regularization=regularization)
    if pull and seen is None:
        raise ConfigurationError("Expected a released model for pull > 0, got none.")
    pulled = _pulled_factor(pairs, seen, pull=pull)
    discount = (pairs.occurrence + _SMOOTHING) ** -DISCOUNT
    if pairs.dense is None:
        single = pulled.astype(np.float32)
        factor = np.hstack([pairs.factor, single]) if pairs.factor is not None else single
        left_over = (1 + pull) * pairs.occurrence - np.square(factor).sum(axis=1, dtype=np.float64)
        return _by_woodbury(factor, np.maximum(left_over, 0.0) + regularization, discount=discount)
    gramian = pulled @ pulled.T
    gramian += pairs.dense
    missing = np.maximum((1 + pull) * pairs.occurrence - np.diag(gramian), 0.0)
    gramian[np.diag_indices_from(gramian)] += missing + regularization
    inverse = linalg.inv(gramian, overwrite_a=True, check_finite=False)
    inverse *= -discount / np.diag(inverse)
    return ItemModel(left=inverse.astype(np.float32), right=None)


def _pulled_factor(pairs: SiloPairs, seen: Through | None, *, pull: float) -> Floats:
    """F with F F^T = pull * H, [n_items, <= embedding_dim]."""
    if not pull or seen is None:
        return np.zeros((len(pairs.occurrence), 0))
    projected = pairs.histories @ seen.seeing
    values, vectors = np.linalg.eigh(projected.T @ projected)
    return np.asarray(seen.back @ (vectors * np.sqrt(pull * np.maximum(values, 0.0))))


def _by_woodbury(factor: Singles, diagonal: Floats, *, discount: Floats) -> ItemModel:
    """-discount_j P_ij / P_jj off the diagonal as left right^T, from P = (diag + F F^T)^-1."""
    shrunk = factor / diagonal.astype(np.float32)[:, None]
    core = factor.T @ shrunk
    core[np.diag_indices_from(core)] += 1
    left = linalg.cho_solve(linalg.cho_factor(core, overwrite_a=True), shrunk.T, check_finite=False).T
    own = 1 / diagonal - np.einsum("ij,ij->i", left, shrunk, dtype=np.float64)
    return ItemModel(left=left, right=shrunk * (discount / own).astype(np.float32)[:, None])
