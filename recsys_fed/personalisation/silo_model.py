"""What a silo recommends from: the released model, its own item model, or both."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.evaluation.protocol import Scorer
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.users import scores, user_vectors
from recsys_fed.personalisation.item_model import ItemModel, fit_item_model, through
from recsys_fed.personalisation.pairs import Floats, silo_pairs

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
        return blended(released_scores(self.released, histories), own, self.recipe.own_weight, self.spreads)


def strength(recipe: Recipe, n_users: int) -> float:
    """The regularisation of a silo of so many users."""
    return max(recipe.regularization * n_users, 1.0)


def blended(whole: Floats, own: Floats, own_weight: float, spreads: tuple[float, float]) -> Floats:
    """Scores of the released model and of the item model together, for a finite weight."""
    return whole / spreads[0] + own_weight / spreads[1] * own


def fit_silo_model(train: sparse.csr_matrix, released: ItemEmbeddings, recipe: Recipe) -> SiloModel:
    """Fit a recipe to the histories of a silo, csr [n_users, n_items] of ones; without any it is "user-only".

    Guarantees: none but for "user-only". What else comes out depends on the silo's users without noise and must never
    leave the silo; between its users it is as private as any ordinary recommender.
    """
    if not recipe.own_weight or not train.nnz:
        return SiloModel(recipe=Recipe(own_weight=0.0), released=released, item_model=None, spreads=(1.0, 1.0))
    regularization = strength(recipe, train.shape[0])
    item_model = fit_item_model(silo_pairs(train), through(released), pull=recipe.pull, regularization=regularization)
    some = spread_users(train)
    spreads = spread(released_scores(released, some)), spread(item_model.scores(some))
    return SiloModel(recipe=recipe, released=released, item_model=item_model, spreads=spreads)


def released_scores(model: ItemEmbeddings, histories: sparse.csr_matrix) -> Floats:
    """Scores of folded-in users, float64 [n_users, n_items]."""
    users = user_vectors(model, histories_of(histories, device=model.vectors.device))
    return np.asarray(scores(model, users).double().cpu().numpy())


def scorer_of(model: SiloModel, histories: sparse.csr_matrix) -> Scorer:
    """The users of `histories` as an evaluation asks for them."""

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(model.scores(histories[rows]))

    return score


def spread_users(train: sparse.csr_matrix) -> sparse.csr_matrix:
    """At most 256 users, evenly chosen: enough to set a scale."""
    return train[np.unique(np.linspace(0, train.shape[0] - 1, _SPREAD_USERS).astype(np.int64))]


def spread(values: Floats) -> float:
    """A standard deviation that can be divided by."""
    return max(float(values.std()), _LEAST)
