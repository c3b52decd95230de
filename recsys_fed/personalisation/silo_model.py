"""What a silo recommends from: the released model, a linear item model of its own, or both. Private to the silo.

Pairs. How often pairs of items meet in the histories of one silo, in a form that fits into memory.

With X the silo's histories, heavy users scaled down, S = X^T X is held as

    n_items x n_items        where a silo has more users than a small catalogue has items
    F F^T + diagonal         else: F = X^T where users are few; F = V_k diag(s_k) of the k largest singular values
                             of X where both are many. The diagonal is then what F leaves of diag(S), which is exact.

Item model. It is pulled towards what the released model says of pairs of items. With V the released item vectors,

    G = S + pull * offdiagonal(H),   H = O C O^T,   C = R^T S R,   diag(G) = (1 + pull) diag(S)

where R = W Q, O = W^-1 Q, Q an orthonormal basis of V and W the history weights: H is the silo's own second moment
seen through the released subspace, so it has the silo's scale, and pairs of items that no user of the silo has. Then
EASE (arXiv 1905.03375) on G: P = (G + regularization I)^-1, B_ij = -P_ij / P_jj. pull = 0 is EASE on the silo alone.
With few users B leans towards what most of them have, so column j is divided by (S_jj + 5)^DISCOUNT.

Where S has a factor, G is diagonal plus F F^T, with the embedding_dim columns of the pull beside S's own, and

    P = D^-1 - D^-1 F (I + F^T D^-1 F)^-1 F^T D^-1            (Woodbury)

so that nothing of size n_items x n_items is held.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse
from scipy.sparse.linalg import svds

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.protocol import Scorer
from recsys_fed.models.histories import weighted_histories
from recsys_fed.models.items import ItemEmbeddings, scores, user_vectors

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
    """Count the pairs of a silo's histories, csr [n_users, n_items] of ones or weights up to 1.

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
    sizes = np.maximum(np.asarray(train.sum(axis=1), dtype=np.float64).ravel(), 1.0)
    weights = (sizes / sizes.mean()) ** (-HEAVY / 2) if len(sizes) else sizes
    return sparse.csr_matrix(sparse.diags(weights) @ train, dtype=np.float64)


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
        """Float64 [n_users, n_items] for histories of ones or weights."""
        found = histories.astype(np.float32) @ self.left
        return np.asarray(found if self.right is None else found @ self.right.T, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedView:
    """How the released model sees histories: R and O of the module, float64 [n_items, embedding_dim]."""

    seeing: Floats
    back: Floats


def view_released(model: ItemEmbeddings) -> ReleasedView:
    """R = W Q and O = W^-1 Q of a released model; directions without length are left out."""
    vectors, weights = model.vectors.double().cpu().numpy(), model.history_weights.double().cpu().numpy()
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    basis = left[:, singular > 1e-6 * max(float(singular.max(initial=0.0)), 1e-30)]
    used = weights > 0
    inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=used)
    return ReleasedView(seeing=weights[:, None] * basis, back=inverse[:, None] * basis)


def fit_item_model(pairs: SiloPairs, seen: ReleasedView | None, *, pull: float, regularization: float) -> ItemModel:
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


def _pulled_factor(pairs: SiloPairs, seen: ReleasedView | None, *, pull: float) -> Floats:
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


_LEAST = 1e-12
_SPREAD_USERS = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a silo's scores come about: scores of the released model + own_weight * scores of the item model.

    Both are divided by their standard deviation over the silo's users first.

    Attributes:
        own_weight: 0 is "user-only", infinity the item model alone.
        pull: of the item model towards the released one; 0 with infinite own_weight is the silo on its own.
        regularization: of the item model, in users of the silo.
    """

    own_weight: float
    pull: float = 0.0
    regularization: float = 0.5

    def __post_init__(self) -> None:
        if self.own_weight:
            checks.positive_or_inf(own_weight=self.own_weight)
        checks.non_negative(pull=self.pull)
        checks.positive(regularization=self.regularization)

    @property
    def name(self) -> str:
        """Which of the three kinds it is."""
        if self.own_weight == 0:
            return "user-only"
        return "local-only" if math.isinf(self.own_weight) and not self.pull else "silo-trusted"


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloModel:
    """A fitted recipe. Private to the silo.

    Attributes:
        recipe: which.
        released: the federation's model.
        item_model: of the silo; None for a recipe without it.
        spreads: standard deviations of the two scores over the silo's users.
    """

    recipe: Recipe
    released: ItemEmbeddings
    item_model: ItemModel | None
    spreads: tuple[float, float]

    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items], higher is better; items of the history itself have no meaningful score."""
        if self.item_model is None:
            return released_scores(self.released, histories)
        own = self.item_model.scores(histories)
        if math.isinf(self.recipe.own_weight):
            return own
        return blend_scores(released_scores(self.released, histories), own, self.recipe.own_weight, self.spreads)


def regularization_of(recipe: Recipe, n_users: int) -> float:
    """The regularisation of a silo of so many users."""
    return max(recipe.regularization * n_users, 1.0)


def blend_scores(whole: Floats, own: Floats, own_weight: float, spreads: tuple[float, float]) -> Floats:
    """Scores of the released model and of the item model together, for a finite weight."""
    return whole / spreads[0] + own_weight / spreads[1] * own


def fit_silo_model(train: sparse.csr_matrix, released: ItemEmbeddings, recipe: Recipe) -> SiloModel:
    """Fit a recipe to the histories of a silo, csr [n_users, n_items] of ones or weights; none gives "user-only".

    Guarantees: none but for "user-only". What else comes out depends on the silo's users without noise and must never
    leave the silo; between its users it is as private as any ordinary recommender.
    """
    if not recipe.own_weight or not train.nnz:
        return SiloModel(recipe=Recipe(own_weight=0.0), released=released, item_model=None, spreads=(1.0, 1.0))
    regularization = regularization_of(recipe, train.shape[0])
    item_model = fit_item_model(
        silo_pairs(train), view_released(released), pull=recipe.pull, regularization=regularization
    )
    some = spread_users(train)
    spreads = score_spread(released_scores(released, some)), score_spread(item_model.scores(some))
    return SiloModel(recipe=recipe, released=released, item_model=item_model, spreads=spreads)


def released_scores(model: ItemEmbeddings, histories: sparse.csr_matrix) -> Floats:
    """Scores of folded-in users, float64 [n_users, n_items]."""
    users = user_vectors(model, weighted_histories(histories, device=model.vectors.device))
    return np.asarray(scores(model, users).double().cpu().numpy())


def scorer_of(model: SiloModel, histories: sparse.csr_matrix) -> Scorer:
    """The users of `histories` as an evaluation asks for them."""

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(model.scores(histories[rows]))

    return score


def spread_users(train: sparse.csr_matrix) -> sparse.csr_matrix:
    """At most 256 users, evenly chosen: enough to set a scale."""
    return train[np.unique(np.linspace(0, train.shape[0] - 1, _SPREAD_USERS).astype(np.int64))]


def score_spread(values: Floats) -> float:
    """A standard deviation that can be divided by."""
    return max(float(values.std()), _LEAST)
