"""Which recipe a silo takes: the best on its own users, each measured by models that were fitted to others.

The silo on its own is always among the recipes, so what is taken is never worse than that on the same users, and
where the federation does not help it is what is taken. All of this stays in the silo and is not released.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from scipy import sparse

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.silo_model import Recipe, SiloModel, fit_silo_model, scorer_of

METRIC = "ndcg@20"
RECIPES = (
    Recipe(own_weight=0.0),
    *(
        Recipe(own_weight=own, pull=pull, regularization=regularization)
        for regularization, pull, own in product((0.3, 0.7), (0.0, 1.0, 3.0), (1.0, 2.0, math.inf))
    ),
)
_HELD_OUT = 0.2
# Silos of so many users validate on some of them only.
_LARGE, _ENOUGH = 1_000, 500


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was taken and why.

    Attributes:
        recipe: the best.
        validation: mean of the metric over all validation users, by recipe. Private to the silo.
    """

    recipe: Recipe
    validation: Mapping[Recipe, float] = field(repr=False)

    @property
    def best_local(self) -> Recipe:
        """The best of the silo on its own, on the same users.

        Raises:
            ConfigurationError: there was none among the recipes.
        """
        alone = [recipe for recipe in self.validation if recipe.name == "local-only"]
        if not alone:
            raise ConfigurationError("Expected recipes with own_weight = inf and pull = 0 among them, got none.")
        return max(alone, key=self.validation.__getitem__)


def choose(
    train: sparse.csr_matrix,
    released: ItemEmbeddings,
    *,
    rng: np.random.Generator,
    recipes: tuple[Recipe, ...] = RECIPES,
    folds: int = 4,
) -> Choice:
    """Measure all recipes on every user of the silo, csr [n_users, n_items] of ones, by cross-validation over users.

    A validation user keeps four fifths of the history; the others are to be found. Where no user has enough of them
    to hold something out, the released model is taken. A large silo measures on a random 500 of its users, once.
    """
    checks.at_least(2, folds=folds)
    sums, n_measured = dict.fromkeys(recipes, 0.0), 0
    n_users = train.shape[0]
    fold = rng.permutation(n_users) % folds if n_users < _LARGE else (rng.permutation(n_users) >= _ENOUGH).astype(int)
    for k in range(folds if n_users < _LARGE else 1):
        kept, held = _held_out(train[fold == k], rng=rng)
        rest = train[fold != k]
        if not held.nnz or not rest.nnz:
            continue
        n_measured += int((np.diff(held.indptr) > 0).sum())
        for recipe, model in _fitted(rest, released, recipes, rng=rng):
            measured = evaluate_ranking(
                scorer_of(model, kept), train=kept, test=held, cutoffs=(20,), whole_ranking=False
            )
            sums[recipe] += float(measured.per_user[METRIC].sum())
    if not n_measured:
        return Choice(recipe=recipes[0], validation=dict.fromkeys(recipes, 0.0))
    means = {recipe: value / n_measured for recipe, value in sums.items()}
    return Choice(recipe=max(recipes, key=means.__getitem__), validation=means)


def _fitted(
    train: sparse.csr_matrix, released: ItemEmbeddings, recipes: tuple[Recipe, ...], *, rng: np.random.Generator
) -> Iterator[tuple[Recipe, SiloModel]]:
    """Every recipe fitted; those that differ in the weight only share an item model."""
    known: dict[tuple[float, float], SiloModel] = {}
    for recipe in recipes:
        key = (recipe.pull, recipe.regularization)
        if recipe.own_weight and key not in known:
            known[key] = fit_silo_model(train, released, recipe, rng=rng)
        base = known[key] if recipe.own_weight else fit_silo_model(train, released, recipe, rng=rng)
        yield recipe, SiloModel(recipe=recipe, released=released, item_model=base.item_model, spreads=base.spreads)


def _held_out(users: sparse.csr_matrix, *, rng: np.random.Generator) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """A fifth of each history, at least one of two items, apart from the rest."""
    rows, columns = users.nonzero()
    order = np.lexsort((rng.random(len(rows)), rows))
    sizes = np.diff(users.indptr)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.where(sizes > 1, np.maximum(np.round(_HELD_OUT * sizes), 1), 0)
    held = place < np.repeat(wanted, sizes)
    kept, taken = (
        sparse.csr_matrix((np.ones(mask.sum()), (rows[order][mask], columns[order][mask])), shape=users.shape)
        for mask in (~held, held)
    )
    return kept, taken
