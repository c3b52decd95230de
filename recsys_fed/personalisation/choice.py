"""Which recipe a silo takes: the best on its own users, each measured by models that were fitted to others.

First the strength of the silo's item model on its own, then how much of the released model goes with it, at that
strength. The silo on its own stays among the candidates, so what is taken is never worse than that on the same users,
and where the federation does not help it is what is taken. All of this stays in the silo and is not released.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from recsys_fed.evaluation.metrics import ndcg_at
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.folds import Fold, folds_of
from recsys_fed.personalisation.item_model import Through, fit_item_model, through
from recsys_fed.personalisation.pairs import Floats, Singles
from recsys_fed.personalisation.silo_model import Recipe, blended, released_scores, spread, strength

STRENGTHS = (0.3, 0.7, 2.0)
"""Of the item model, in users of the silo."""
PULLS = (1.0, 3.0)
OWN_WEIGHTS = (1.0, 2.0)
_USER_ONLY = Recipe(own_weight=0.0)
# Scores that are held at once: 32 MB in float64.
_CELLS = 1 << 22
_K = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Alone:
    """The silo on its own: what no released model changes. Private to the silo.

    Attributes:
        recipe: the best "local-only" one.
        validation: mean of ndcg@20 over all validation users, by recipe.
        scores: its scores of each fold's users, float32 [n_kept, n_items], and their spread.
    """

    recipe: Recipe
    validation: Mapping[Recipe, float] = field(repr=False)
    scores: tuple[tuple[Singles, float], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What was taken and why.

    Attributes:
        recipe: the best.
        alone: the best of the silo on its own.
        validation: mean of ndcg@20 over all validation users, by recipe. Private to the silo.
    """

    recipe: Recipe
    alone: Recipe
    validation: Mapping[Recipe, float] = field(repr=False)


def choose(train: sparse.csr_matrix, released: ItemEmbeddings, *, rng: np.random.Generator) -> Choice:
    """Measure all recipes on the users of a silo, csr [n_users, n_items] of ones; see `choose_on`."""
    folds = folds_of(train, rng=rng)
    return choose_on(folds, alone(folds), released)


def alone(folds: tuple[Fold, ...]) -> Alone:
    """The best strength of the silo's item model without any released one; of equal ones the first."""
    recipes = [Recipe(own_weight=math.inf, regularization=part) for part in STRENGTHS]
    validation: dict[Recipe, float] = dict.fromkeys(recipes, 0.0)
    kept: dict[Recipe, tuple[tuple[Singles, float], ...]] = dict.fromkeys(recipes, ())
    for recipe in recipes:
        for fold in folds:
            model = fit_item_model(fold.pairs, None, pull=0.0, regularization=strength(recipe, fold.n_users))
            scores = model.scores(fold.kept).astype(np.float32)
            kept[recipe] = (*kept[recipe], (scores, spread(model.scores(fold.some))))
            validation[recipe] += _sum_of_metric(scores, fold.kept, fold.held)
    best = max(recipes, key=validation.__getitem__)
    n_measured = max(sum(fold.n_measured for fold in folds), 1)
    means = {recipe: value / n_measured for recipe, value in validation.items()}
    return Alone(recipe=best, validation=means, scores=kept[best])


def choose_on(folds: tuple[Fold, ...], own: Alone, released: ItemEmbeddings) -> Choice:
    """The recipe with the largest mean over all users of all folds; of equal ones the simplest.

    Where there is nobody to measure on, the released model is taken as it is.
    """
    n_measured = sum(fold.n_measured for fold in folds)
    if not n_measured:
        return Choice(recipe=_USER_ONLY, alone=own.recipe, validation={})
    sums: dict[Recipe, float] = {}
    seen = through(released)
    for fold, scores in zip(folds, own.scores, strict=True):
        for recipe, value in _measured(fold, own.recipe, scores, released, seen):
            sums[recipe] = sums.get(recipe, 0.0) + value
    means = dict(own.validation) | {recipe: value / n_measured for recipe, value in sums.items()}
    return Choice(recipe=max(means, key=means.__getitem__), alone=own.recipe, validation=means)


def _measured(
    fold: Fold, local: Recipe, local_scores: tuple[Singles, float], released: ItemEmbeddings, seen: Through
) -> Iterator[tuple[Recipe, float]]:
    """Sums of ndcg@20 of all that the released model has a part in."""
    scale = spread(released_scores(released, fold.some))
    models = {
        pull: fit_item_model(fold.pairs, seen, pull=pull, regularization=strength(local, fold.n_users))
        for pull in PULLS
    }
    own_scale = {0.0: local_scores[1]} | {pull: spread(model.scores(fold.some)) for pull, model in models.items()}
    rows = max(1, _CELLS // fold.kept.shape[1])
    for start in range(0, fold.kept.shape[0], rows):
        block = slice(start, start + rows)
        kept, held = fold.kept[block], fold.held[block]
        whole = released_scores(released, kept)
        yield _USER_ONLY, _sum_of_metric(whole, kept, held)
        for pull in (0.0, *PULLS):
            own = models[pull].scores(kept) if pull else local_scores[0][block].astype(np.float64)
            for weight in (*OWN_WEIGHTS, math.inf) if pull else OWN_WEIGHTS:
                recipe = Recipe(own_weight=weight, pull=pull, regularization=local.regularization)
                together = own if math.isinf(weight) else blended(whole, own, weight, (scale, own_scale[pull]))
                yield recipe, _sum_of_metric(together, kept, held)


def _sum_of_metric(values: Floats | Singles, kept: sparse.csr_matrix, held: sparse.csr_matrix) -> float:
    """Sum of ndcg@20 over users with something to be found, as `evaluate_ranking` measures it."""
    table = torch.from_numpy(values.copy())
    users, items = kept.nonzero()
    table[torch.from_numpy(users).long(), torch.from_numpy(items).long()] = -torch.inf
    best = top_items(table, _K)
    hits = torch.from_numpy(held.toarray() > 0).gather(1, best)
    there = torch.from_numpy(np.diff(held.indptr).astype(np.int64))
    return float(ndcg_at(hits[there > 0], there[there > 0], _K).sum())
