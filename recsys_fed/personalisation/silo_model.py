"""What a silo recommends from: the released model, a linear item model of its own, or both. Private to the silo.

Pairs. How often pairs of items meet in the histories of one silo, in a form that fits into memory.

With X the silo's histories, heavy users scaled down, S = X^T X is held as

    n_items x n_items        where a silo has more users than a small catalogue has items
    F F^T + diagonal         else: F = X^T, sparse, of up to 8,000 users; F = V_k diag(s_k) of the k largest singular
                             values of X where both are more. The diagonal is then what F leaves of diag(S), which is
                             exact.

Item model. It is pulled towards what the released model says of pairs of items. With V the released item vectors,

    G = S + pull * offdiagonal(H),   H = O C O^T,   C = R^T S R,   diag(G) = (1 + pull) diag(S)

where R = W Q, O = W^-1 Q, Q an orthonormal basis of V and W the history weights: H is the silo's own second moment
seen through the released subspace, so it has the silo's scale, and pairs of items that no user of the silo has. Then
EASE (arXiv 1905.03375) on G: P = (G + regularization I)^-1, B_ij = -P_ij / P_jj. pull = 0 is EASE on the silo alone.
With few users B leans towards what most of them have, so column j is divided by (S_jj + 5)^DISCOUNT.

Where S has a factor, G is diagonal plus F F^T, with the embedding_dim columns of the pull beside S's own, and

    P = D^-1 - D^-1 F (I + F^T D^-1 F)^-1 F^T D^-1            (Woodbury: EASE's dual form)

so that nothing of size n_items x n_items is held, and no column of P is solved for: the diagonal of P is all that is
needed of it, and F has few entries a row.

Scores of the released model may be divided by |v_i|^row_exponent, and go without its bias: what is frequent has long
vectors, so both recommend less of it. That is free, and how much of it is good differs from catalogue to catalogue.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

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
from recsys_fed.personalisation.fusion import Fusion
from recsys_fed.personalisation.private_parts import PrivateParts, fit_private_parts

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Scores = TypeVar("Scores", Floats, Singles)
# A history of n items counts n^-HEAVY in sums of squares: X has rows scaled by n^(-HEAVY / 2).
HEAVY = 0.5
LARGEST_DENSE = 20_000
FEW_USERS, LARGEST_RANK = 8_000, 500


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloPairs:
    """S = X^T X of a silo.

    Attributes:
        histories: X, csr float64 [n_users, n_items].
        occurrence: diag(S), float64 [n_items].
        dense: S, float64 [n_items, n_items], or None.
        factor: F, [n_items, k], or None where S is dense: csr where there is a column for each user, else float32.
    """

    histories: sparse.csr_matrix
    occurrence: Floats
    dense: Floats | None
    factor: Singles | sparse.csr_matrix | None


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
    factor = scaled.T.tocsr() if few else _leading(scaled, largest_rank)
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
# Items whose part in P is worked out at once.
_ROWS = 4_096


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemModel:
    """Scores of a history x are ((x L) C) R^T, or x L; private to the silo. Items of x have no meaningful score.

    Attributes:
        left, right: L and R, float32 or csr [n_items, k]; without R, L is all, [n_items, n_items].
        core: C, float32 [k, k]; None stands for the identity, as in models that were sealed before there was one.
    """

    left: Singles | sparse.csr_matrix
    right: Singles | sparse.csr_matrix | None
    core: Singles | None = None

    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items] for histories of ones or weights."""
        found = _dense(histories.astype(np.float32) @ self.left)
        if self.core is not None:
            found = found @ self.core
        return np.asarray(found if self.right is None else (self.right @ found.T).T, dtype=np.float64)

    def weights(self) -> Singles:
        """The table [n_items, n_items] whose rows a history adds up; the diagonal means nothing."""
        if self.right is None:
            return np.array(_dense(self.left), dtype=np.float32)
        left = self.left if self.core is None else self.left @ self.core
        return np.asarray(_dense(left @ self.right.T), dtype=np.float32)


def _dense(table: Singles | sparse.csr_matrix) -> Singles:
    return np.asarray(table) if isinstance(table, np.ndarray) else np.asarray(table.toarray())


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
    if pairs.factor is not None:
        return _by_woodbury(
            pairs.factor,
            pulled,
            total=(1 + pull) * pairs.occurrence,
            regularization=regularization,
            discount=discount,
        )
    gramian = pulled @ pulled.T
    if pairs.dense is not None:
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


def _by_woodbury(
    own: Singles | sparse.csr_matrix, pulled: Floats, *, total: Floats, regularization: float, discount: Floats
) -> ItemModel:
    """-discount_j P_ij / P_jj off the diagonal, from P = (D + F F^T)^-1, F = [own, pulled], diag(P^-1) = total + reg.

    With L = D^-1 F and C = (I + F^T D^-1 F)^-1 the diagonal of P is that of D^-1 - L C L^T.
    """
    if sparse.issparse(own):
        factor = sparse.hstack([own, sparse.csr_matrix(pulled)], format="csr")
    else:
        factor = np.hstack([own, pulled.astype(np.float32)])
    inverse = 1 / (np.maximum(total - _row_products(factor, factor), 0.0) + regularization)
    left = _scale_rows(factor, inverse)
    core = np.asarray(_dense(factor.T @ left), dtype=np.float64)
    core[np.diag_indices_from(core)] += 1
    core = _inverse_of_symmetric(core)
    blocks = [left[start : start + _ROWS] for start in range(0, len(inverse), _ROWS)]
    explained = np.concatenate([_quadratic_forms(rows, core, n_sparse=own.shape[1]) for rows in blocks])
    right = _scale_rows(left, discount / (inverse - explained))
    return ItemModel(left=left.astype(np.float32), right=right.astype(np.float32), core=core.astype(np.float32))


def _scale_rows(table: Singles | sparse.csr_matrix, by: Floats) -> Singles | sparse.csr_matrix:
    if sparse.issparse(table):
        return sparse.csr_matrix(sparse.diags(by) @ table)
    return np.asarray(table * by.astype(np.float32)[:, None])


def _quadratic_forms(rows: Singles | sparse.csr_matrix, core: Floats, *, n_sparse: int) -> Floats:
    """r C r^T of each row r, [n_rows]; only the first `n_sparse` entries of csr rows have zeros among them."""
    if isinstance(rows, np.ndarray):
        return _row_products(rows, rows @ core)
    first, rest = rows[:, :n_sparse], rows[:, n_sparse:].toarray()
    found = _row_products(first, first @ core[:n_sparse, :n_sparse])
    found += 2 * _row_products(first @ core[:n_sparse, n_sparse:], rest)
    return found + _row_products(rest, rest @ core[n_sparse:, n_sparse:])


def _row_products(table: Singles | sparse.csr_matrix, other: Singles | Floats | sparse.csr_matrix) -> Floats:
    """Inner products of the rows of two tables, [n_rows]."""
    products = np.multiply(table, other, dtype=np.float64) if isinstance(table, np.ndarray) else table.multiply(other)
    return np.asarray(products.sum(axis=1), dtype=np.float64).ravel()


def _inverse_of_symmetric(matrix: Floats) -> Floats:
    """That of a positive definite matrix, which is overwritten; by Cholesky's factors."""
    factor, _ = linalg.lapack.dpotrf(matrix, lower=False, overwrite_a=True)
    inverse, _ = linalg.lapack.dpotri(factor, lower=False, overwrite_c=True)
    upper = np.triu(inverse)
    return np.asarray(upper + np.triu(upper, 1).T)


_LEAST = 1e-12
_SPREAD_USERS = 256


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How items are scored by the released model: v_i u / |v_i|^row_exponent, plus the item's bias or without it."""

    row_exponent: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.row_exponent < 1:
            raise ConfigurationError(f"Expected 0 <= row_exponent < 1, got {self.row_exponent}.")


AS_RELEASED = Shown()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a silo's scores come about: scores of the released model + own_weight * scores of the item model.

    Both are divided by their standard deviation over the silo's users first.

    Attributes:
        own_weight: 0 is "user-only", infinity the item model alone.
        pull: of the item model towards the released one; 0 with infinite own_weight is the silo on its own.
        regularization: of the item model, in users of the silo.
        shown: what is scored of the released model.
        private_parts: whether the released model scores as the module that it was trained for, whose private parts
            were fitted to the silo (`private_parts`), in place of dot products.
    """

    own_weight: float
    pull: float = 0.0
    regularization: float = 0.5
    shown: Shown = AS_RELEASED
    private_parts: bool = False

    def __post_init__(self) -> None:
        if self.own_weight:
            checks.positive_or_inf(own_weight=self.own_weight)
        checks.non_negative(pull=self.pull)
        checks.positive(regularization=self.regularization)

    @property
    def name(self) -> str:
        """Which of the three kinds it is."""
        if self.own_weight == 0 and not self.private_parts:
            return "user-only"
        return "local-only" if math.isinf(self.own_weight) and not self.pull else "silo-trusted"


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloModel:
    """A fitted recipe. Private to the silo.

    Attributes:
        recipe: which.
        released: the federation's model.
        item_model: of the silo; None for a recipe without it.
        parts: of the silo; None for a recipe without them.
        spreads: standard deviations of the two scores over the silo's users.
        fusion: effects of attributes and contexts, for `Fusion.add_to`; None where nothing is told or nothing wins.
    """

    recipe: Recipe
    released: ItemEmbeddings
    item_model: ItemModel | None
    spreads: tuple[float, float]
    parts: PrivateParts | None = None
    fusion: Fusion | None = None

    def scores(self, histories: sparse.csr_matrix) -> Floats:
        """Float64 [n_users, n_items], higher is better; items of the history itself have no meaningful score."""
        if self.item_model is None:
            return _whole_scores(self.released, self.parts, self.recipe, histories)
        own = self.item_model.scores(histories)
        if math.isinf(self.recipe.own_weight):
            return own
        whole = _whole_scores(self.released, self.parts, self.recipe, histories)
        return blend_scores(whole, own, self.recipe.own_weight, self.spreads)


def regularization_of(recipe: Recipe, n_users: int) -> float:
    """The regularisation of a silo of so many users."""
    return max(recipe.regularization * n_users, 1.0)


def blend_scores(whole: Scores, own: Scores, own_weight: float, spreads: tuple[float, float]) -> Scores:
    """Scores of the released model and of the item model together, for a finite weight."""
    return whole / spreads[0] + own_weight / spreads[1] * own


def fit_silo_model(
    train: sparse.csr_matrix, released: ItemEmbeddings, recipe: Recipe, *, pairs: SiloPairs | None = None
) -> SiloModel:
    """Fit a recipe to the histories of a silo, csr [n_users, n_items] of ones or weights; none gives "user-only".

    Guarantees: none but for "user-only" as released. What else comes out depends on the silo's users without noise
    and must never leave the silo; between its users it is as private as any ordinary recommender.

    Args:
        train: the histories. released: the federation's model. recipe: which.
        pairs: those of `train`, where they are known already.
    """
    if not train.nnz or (not recipe.own_weight and not recipe.private_parts):
        recipe = Recipe(own_weight=0.0, shown=recipe.shown if train.nnz else AS_RELEASED)
        return SiloModel(recipe=recipe, released=released, item_model=None, spreads=(1.0, 1.0))
    parts = fit_private_parts(train, released) if recipe.private_parts else None
    if not recipe.own_weight:
        return SiloModel(recipe=recipe, released=released, item_model=None, spreads=(1.0, 1.0), parts=parts)
    item_model = fit_item_model(
        pairs or silo_pairs(train),
        view_released(released) if recipe.pull else None,
        pull=recipe.pull,
        regularization=regularization_of(recipe, train.shape[0]),
    )
    some = spread_users(train)
    whole = _whole_scores(released, parts, recipe, some)
    spreads = score_spread(whole), score_spread(item_model.scores(some))
    return SiloModel(recipe=recipe, released=released, item_model=item_model, spreads=spreads, parts=parts)


def _whole_scores(
    released: ItemEmbeddings, parts: PrivateParts | None, recipe: Recipe, histories: sparse.csr_matrix
) -> Floats:
    return released_scores(released, histories, shown=recipe.shown) if parts is None else parts.scores(histories)


def released_scores(model: ItemEmbeddings, histories: sparse.csr_matrix, *, shown: Shown = AS_RELEASED) -> Floats:
    """Scores of folded-in users, float64 [n_users, n_items]."""
    return scores_shown(model, user_vectors(model, weighted_histories(histories, device=model.vectors.device)), shown)


def scores_shown(model: ItemEmbeddings, users: torch.Tensor, shown: Shown) -> Floats:
    """Scores of user vectors [n_users, embedding_dim], which were folded in from the model as it was released."""
    if shown == AS_RELEASED:
        return np.asarray(scores(model, users).double().cpu().numpy())
    norms = model.vectors.norm(dim=1, keepdim=True)
    vectors = model.vectors / torch.where(norms > 0, norms, 1.0) ** shown.row_exponent
    found = users @ vectors.T
    return np.asarray((found + model.bias if shown.bias else found).double().cpu().numpy())


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
