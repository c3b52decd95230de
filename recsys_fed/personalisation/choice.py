"""Which recipe a silo takes: the best on its own users, each measured by models that were fitted to others.

First the strength of the silo's item model on its own; how the released model is best scored (see `Shown`); then how
much of it goes with which item model; at last, how it is best scored beside that one. The silo on its own is taken
unless another recipe is better by more than a standard error of the difference between them, user by user (the rule
of Breiman et al. 1984): the models that are measured were fitted to three quarters of the users, and the silo on its
own gains most from the rest. So what is taken is never worse than the silo on its own on the same users. All of this
stays in the silo and is not released.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.evaluation.metrics import ndcg_at
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.models.histories import weighted_histories
from recsys_fed.models.items import ItemEmbeddings, user_vectors
from recsys_fed.personalisation.fusion import Effects, Texts, Told, fit_effects, fit_fusion
from recsys_fed.personalisation.private_parts import fit_private_parts, has_private_parts
from recsys_fed.personalisation.silo_model import (
    AS_RELEASED,
    Floats,
    Recipe,
    Shown,
    SiloModel,
    SiloPairs,
    Singles,
    blend_scores,
    fit_item_model,
    fit_silo_model,
    regularization_of,
    score_spread,
    scores_shown,
    silo_pairs,
    spread_users,
    view_released,
)

_HELD_OUT, _HIT = 0.2, 0.5
# Silos of so many users validate on some of them only, once; and of so many cells, as long as some users are left.
_LARGE, _ENOUGH = 1_000, 500
_MOST_CELLS, _LEAST = 1 << 24, 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One fold. Private to the silo.

    Attributes:
        n_users: whom recipes are fitted to.
        pairs: of their histories.
        some: histories of some of them, to set a scale.
        kept, held: of the other users, what is known of them and what is to be found, csr of the same rows.
        fitted, asked: rows of these users, and of the others, in the histories that were split.
    """

    n_users: int
    pairs: SiloPairs
    some: sparse.csr_matrix
    kept: sparse.csr_matrix
    held: sparse.csr_matrix
    fitted: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]

    @property
    def n_measured(self) -> int:
        """Users with something to be found."""
        return int((np.diff(self.held.indptr) > 0).sum())


def split_folds(train: sparse.csr_matrix, *, rng: np.random.Generator, folds: int = 4) -> tuple[Fold, ...]:
    """Every user of the silo in one fold; of a large silo 500 random users in a single one.

    Of a huge catalogue they are fewer. A user who is asked keeps four fifths of the history. Folds in which nobody
    has anything to hold out are left out.
    """
    checks.at_least(2, folds=folds)
    n_users, n_items = train.shape
    most = max(_MOST_CELLS // max(n_items, 1), _LEAST)
    large = n_users >= min(_LARGE, max(most, 2 * _LEAST))
    order = rng.permutation(n_users)
    number = (order >= min(_ENOUGH, most)).astype(int) if large else order % folds
    return tuple(_make_folds(train, number, range(1 if large else folds), rng=rng))


def _make_folds(
    train: sparse.csr_matrix, number: np.ndarray, folds: range, *, rng: np.random.Generator
) -> Iterator[Fold]:
    for k in folds:
        kept, held = hold_out_items(train[number == k], share=_HELD_OUT, rng=rng)
        rest = train[number != k]
        if held.nnz and rest.nnz:
            yield Fold(
                n_users=rest.shape[0],
                pairs=silo_pairs(rest),
                some=spread_users(rest),
                kept=kept,
                held=held,
                fitted=np.flatnonzero(number != k),
                asked=np.flatnonzero(number == k),
            )


def hold_out_items(
    users: sparse.csr_matrix, *, share: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """What is kept of each history, and a random share apart from it: at least one item of two or more.

    Of what is apart, only what weighs half of the user's heaviest item or more is to be found again.
    """
    rows, columns = users.nonzero()
    weights = users.data[users.data != 0]
    order = np.lexsort((rng.random(len(rows)), rows))
    sizes = np.diff(users.indptr)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.where(sizes > 1, np.maximum(np.round(share * sizes), 1), 0)
    held = place < np.repeat(wanted, sizes)
    # Weights are relative to the heaviest.
    found = held & (weights[order] >= _HIT)
    kept, taken = (
        sparse.csr_matrix((weights[order][mask], (rows[order][mask], columns[order][mask])), shape=users.shape)
        for mask in (~held, found)
    )
    return kept, taken


_STRENGTHS = (0.3, 0.7, 2.0)
"""Of the item model on its own, in users of the silo."""
_PULLED = ((1.0, 0.3), (1.0, 0.6), (3.0, 0.3), (3.0, 0.6), (10.0, 0.3))
"""Pulls with their strengths: with a pull there is more to lean on, and less strength is best."""
_OWN_WEIGHTS = (1.0, 2.0, 4.0, 8.0)
WAYS = tuple(Shown(row_exponent=exponent, bias=bias) for exponent in (0.0, 0.25, 0.5) for bias in (True, False))
"""In which the released model is scored; the first is how it was released."""
_USER_ONLY, _FITTED = Recipe(own_weight=0.0), Recipe(own_weight=0.0, private_parts=True)
# With fewer users a standard error says nothing, and the best is taken as it is.
ENOUGH_USERS = 30
# Scores that are held at once: 32 MB in float64.
_CELLS = 1 << 22
_K = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Alone:
    """The silo on its own: what no released model changes. Private to the silo.

    Attributes:
        recipe: the best "local-only" one.
        per_user: ndcg@20 of all validation users, fold after fold, by recipe.
        scores: its scores of each fold's users, float32 [n_kept, n_items], and their spread.
    """

    recipe: Recipe
    per_user: Mapping[Recipe, Floats] = field(repr=False)
    scores: tuple[tuple[Singles, float], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What was taken and why.

    Attributes:
        recipe: what is taken.
        alone: the best of the silo on its own.
        validation: mean of ndcg@20 over all validation users, by recipe. Private to the silo.
    """

    recipe: Recipe
    alone: Recipe
    validation: Mapping[Recipe, float] = field(repr=False)


def choose(
    train: sparse.csr_matrix, released: ItemEmbeddings, *, rng: np.random.Generator, ways: tuple[Shown, ...] = WAYS
) -> Choice:
    """Measure recipes on the users of a silo, csr [n_users, n_items] of ones or weights; see `choose_on`."""
    folds = split_folds(train, rng=rng)
    return choose_on(folds, choose_alone(folds), released, ways=ways)


def choose_alone(folds: tuple[Fold, ...]) -> Alone:
    """The best strength of the silo's item model without any released one; of equal ones the first."""
    recipes = [Recipe(own_weight=math.inf, regularization=part) for part in _STRENGTHS]
    values: dict[Recipe, list[Floats]] = {recipe: [] for recipe in recipes}
    scores: dict[Recipe, list[tuple[Singles, float]]] = {recipe: [] for recipe in recipes}
    for recipe in recipes:
        for fold in folds:
            model = fit_item_model(fold.pairs, None, pull=0.0, regularization=regularization_of(recipe, fold.n_users))
            found = model.scores(fold.kept).astype(np.float32)
            scores[recipe].append((found, score_spread(model.scores(fold.some))))
            values[recipe].append(_ndcg(found, fold.kept, fold.held))
    per_user = _join_folds(values)
    best = max(recipes, key=lambda recipe: float(per_user[recipe].sum()))
    return Alone(recipe=best, per_user=per_user, scores=tuple(scores[best]))


def choose_on(
    folds: tuple[Fold, ...], own: Alone, released: ItemEmbeddings, *, ways: tuple[Shown, ...] = WAYS
) -> Choice:
    """The recipe of a silo whose folds and own models are known.

    Where there is nobody to measure on, the released model is taken as it is.
    """
    if not sum(fold.n_measured for fold in folds):
        return Choice(recipe=_USER_ONLY, alone=own.recipe, validation={})
    # Of equal ones the first: the released model as it is, where few users tell nothing apart.
    per_user = dict(_measure(folds, own, released, ways)) | dict(own.per_user)
    validation = {recipe: float(found.mean()) for recipe, found in per_user.items()}
    best = max(validation, key=validation.__getitem__)
    few = len(per_user[best]) < ENOUGH_USERS
    better = few or is_better(per_user[best], per_user[own.recipe])
    return Choice(recipe=best if better else own.recipe, alone=own.recipe, validation=validation)


def is_better(one: Floats, other: Floats, *, errors: float = 1.0) -> bool:
    """Whether the mean over users is larger by more than so many standard errors of the difference, user by user."""
    gain = one - other
    return bool(gain.mean() > errors * gain.std(ddof=1) / math.sqrt(len(gain)))


def _measure(
    folds: tuple[Fold, ...], own: Alone, released: ItemEmbeddings, ways: tuple[Shown, ...]
) -> Iterator[tuple[Recipe, Floats]]:
    """ndcg@20 of all that the released model has a part in and that is tried; see the module for the order."""
    measured = _Measured(folds, released, {own.recipe: list(own.scores)})
    tried: dict[Recipe, float] = {}

    def try_all(recipes: list[Recipe]) -> Iterator[tuple[Recipe, Floats]]:
        for recipe in recipes:
            found = measured.per_user(recipe)
            tried[recipe] = float(found.sum())
            yield recipe, found

    yield from try_all([replace(_USER_ONLY, shown=way) for way in ways])
    shown = max(tried, key=tried.__getitem__).shown
    tried.clear()
    pulled = [Recipe(own_weight=math.inf, pull=pull, regularization=part) for pull, part in _PULLED]
    for recipe in pulled:
        measured.add(recipe)
    blends = [replace(one, own_weight=weight) for one in (own.recipe, *pulled) for weight in _OWN_WEIGHTS]
    yield from try_all(pulled + [replace(blend, shown=shown) for blend in blends])
    best = max(tried, key=tried.__getitem__)
    if not math.isinf(best.own_weight):
        yield from try_all([replace(best, shown=way) for way in ways if way != shown])
    if has_private_parts(released):
        measured.fit_parts()
        beside = [replace(own.recipe, own_weight=weight, private_parts=True) for weight in _OWN_WEIGHTS]
        yield from try_all([_FITTED, *beside])


class _Measured:
    """The users of all folds under any recipe; holds the scores of the item models, and those last asked for."""

    def __init__(
        self, folds: tuple[Fold, ...], released: ItemEmbeddings, own: dict[Recipe, list[tuple[Singles, float]]]
    ) -> None:
        self._folds, self._released, self._own = folds, released, own
        self._seen = view_released(released)
        self._users = [_fold_in(released, fold.kept) for fold in folds]
        self._some = [_fold_in(released, fold.some) for fold in folds]
        self._spreads: dict[Shown, list[float]] = {}
        self._shown: tuple[Shown, list[Singles]] = (AS_RELEASED, [])
        self._fitted: list[tuple[Singles, float]] = []

    def add(self, recipe: Recipe) -> None:
        """Fit the item model of a recipe, which can then be asked for with any weight."""
        self._own[recipe] = []
        for fold in self._folds:
            strength = regularization_of(recipe, fold.n_users)
            model = fit_item_model(fold.pairs, self._seen, pull=recipe.pull, regularization=strength)
            found = model.scores(fold.kept).astype(np.float32)
            self._own[recipe].append((found, score_spread(model.scores(fold.some))))

    def fit_parts(self) -> None:
        """Fit the private parts of the released model's module to each fold's users."""
        for fold in self._folds:
            parts = fit_private_parts(fold.pairs.histories, self._released)
            self._fitted.append((parts.scores(fold.kept).astype(np.float32), score_spread(parts.scores(fold.some))))

    def per_user(self, recipe: Recipe) -> Floats:
        """ndcg@20 of the users with something to be found, fold after fold."""
        alone = replace(recipe, own_weight=math.inf, shown=AS_RELEASED, private_parts=False)
        if recipe.private_parts:
            whole, scales = [one for one, _ in self._fitted], [spread for _, spread in self._fitted]
        else:
            whole = [] if math.isinf(recipe.own_weight) else self._released_scores(recipe.shown)
            scales = self._spreads_of(recipe.shown) if 0 < recipe.own_weight < math.inf else []
        found = []
        for number, fold in enumerate(self._folds):
            rows = max(1, _CELLS // fold.kept.shape[1])
            for start in range(0, fold.kept.shape[0], rows):
                block = slice(start, start + rows)
                if math.isinf(recipe.own_weight):
                    values = self._own[alone][number][0][block]
                elif not recipe.own_weight:
                    values = whole[number][block]
                else:
                    own, spread = self._own[alone][number]
                    spreads = scales[number], spread
                    values = blend_scores(whole[number][block], own[block], recipe.own_weight, spreads)
                found.append(_ndcg(values, fold.kept[block], fold.held[block]))
        return np.concatenate([np.zeros(0), *found])

    def _released_scores(self, shown: Shown) -> list[Singles]:
        if self._shown[0] != shown or not self._shown[1]:
            scored = [scores_shown(self._released, users, shown).astype(np.float32) for users in self._users]
            self._shown = (shown, scored)
        return self._shown[1]

    def _spreads_of(self, shown: Shown) -> list[float]:
        if shown not in self._spreads:
            some = [scores_shown(self._released, users, shown) for users in self._some]
            self._spreads[shown] = [score_spread(values) for values in some]
        return self._spreads[shown]


def _fold_in(released: ItemEmbeddings, users: sparse.csr_matrix) -> torch.Tensor:
    return user_vectors(released, weighted_histories(users, device=released.vectors.device))


def _join_folds(values: Mapping[Recipe, list[Floats]]) -> dict[Recipe, Floats]:
    return {recipe: np.concatenate([np.zeros(0), *parts]) for recipe, parts in values.items()}


def _ndcg(values: Floats | Singles, kept: sparse.csr_matrix, held: sparse.csr_matrix) -> Floats:
    """ndcg@20 of the users with something to be found, as `evaluate_ranking` measures it."""
    table = torch.from_numpy(values.copy())
    users, items = kept.nonzero()
    table[torch.from_numpy(users).long(), torch.from_numpy(items).long()] = -torch.inf
    best = top_items(table, _K)
    hits = torch.from_numpy(held.toarray() > 0).gather(1, best)
    there = torch.from_numpy(np.diff(held.indptr).astype(np.int64))
    return np.asarray(ndcg_at(hits[there > 0], there[there > 0], _K).numpy())


# Of an attribute's effects, in standard deviations of the score; requests that are asked at most.
_FUSED, _MOST_REQUESTS = (0.2, 0.4, 0.8, 1.6), 2_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """What users ask for, a row a request: a user, or where there are contexts a user in one of them.

    Attributes:
        kept, held: what is no candidate, and what is to be found, csr [n_requests, n_items].
        values: name of an attribute or context -> value of each request.
        scores: float32 [n_requests, n_items].
    """

    kept: sparse.csr_matrix
    held: sparse.csr_matrix
    values: Mapping[str, Texts]
    scores: Singles

    def plus(self, name: str, effects: Effects, weight: float) -> "Requests":
        """The same with the effects of one attribute or context."""
        return replace(self, scores=self.scores + np.float32(weight) * effects.of(self.values[name]))

    def ndcg(self) -> Floats:
        """ndcg@20 of each request."""
        return _ndcg(self.scores, self.kept, self.held)


def make_requests(
    kept: sparse.csr_matrix, held: sparse.csr_matrix, scores: Floats, told: Told, *, most: int = _MOST_REQUESTS
) -> Requests:
    """The requests of users by what is held out of them, evenly chosen among all where these are more than `most`.

    Args:
        kept, held: of users, csr [n_users, n_items]. scores: float64 [n_users, n_items].
        told: attributes of these users, and contexts beside the entries of `held`.
        most: of a huge catalogue they are fewer.
    """
    users, items = np.repeat(np.arange(held.shape[0]), np.diff(held.indptr)), held.indices
    codes = [np.unique(column, return_inverse=True)[1] for column in told.contexts.values()]
    _, first, request = np.unique(np.array([users, *codes]), axis=1, return_index=True, return_inverse=True)
    most = min(len(first), most, max(_MOST_CELLS // max(held.shape[1], 1), _LEAST))
    taken = np.unique(np.linspace(0, len(first) - 1, most).astype(np.int64))
    row_of = np.full(len(first), -1)
    row_of[taken] = np.arange(len(taken))
    row, asking = row_of[request.ravel()], users[first[taken]]
    cells = (row[row >= 0], items[row >= 0])
    values = {name: column[asking] for name, column in told.attributes.items()}
    values |= {name: column[first[taken]] for name, column in told.contexts.items()}
    return Requests(
        kept=kept[asking],
        held=sparse.csr_matrix((np.ones(len(cells[0])), cells), shape=(len(taken), held.shape[1])),
        values=values,
        scores=scores[asking].astype(np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class FusionChoice:
    """Which attributes and contexts were taken, and what that gave.

    Attributes:
        weights: of those that were taken, in standard deviations of the score.
        without, gain: mean of ndcg@20 over requests of validation users without any, and what is gained by those
            that were taken. Private to the silo.
        n_requests: on which it was measured.
    """

    weights: Mapping[str, float]
    without: float
    gain: float
    n_requests: int


def choose_fusion(
    train: sparse.csr_matrix, told: Told, folds: tuple[Fold, ...], released: ItemEmbeddings, recipe: Recipe
) -> FusionChoice:
    """Take what is told of users and of interactions, one after the other, where it wins on users not fitted to.

    An attribute or context is taken with its best weight if that is better by more than a standard error of the
    difference, request by request; so what is taken is never worse than without on the same requests.

    Args:
        train: the histories that were split. told: beside them. folds: of them.
        released, recipe: what the scores without come from, fitted to each fold's users.
    """
    asked = [_fold_requests(train, told, fold, released, recipe) for fold in folds]
    without = best = _join_ndcg(asked)
    weights: dict[str, float] = {}
    for name in told.names if len(without) >= ENOUGH_USERS else ():
        effects = [fit_effects(train, told, name, users=fold.fitted) for fold in folds]
        tried = {
            weight: [one.plus(name, own, weight) for one, own in zip(asked, effects, strict=True)]
            for weight in _FUSED
        }
        found = {weight: _join_ndcg(requests) for weight, requests in tried.items()}
        weight = max(found, key=lambda weight: float(found[weight].sum()))
        if is_better(found[weight], best):
            weights[name], best, asked = weight, found[weight], tried[weight]
    return FusionChoice(
        weights=weights,
        without=float(without.mean()) if len(without) else 0.0,
        gain=float((best - without).mean()) if weights else 0.0,
        n_requests=len(without),
    )


def _join_ndcg(asked: list[Requests]) -> Floats:
    return np.concatenate([np.zeros(0), *(one.ndcg() for one in asked)])


def _fold_requests(
    train: sparse.csr_matrix, told: Told, fold: Fold, released: ItemEmbeddings, recipe: Recipe
) -> Requests:
    model = fit_silo_model(train[fold.fitted], released, recipe, pairs=fold.pairs)
    # Where in `train` each held item stands: what is told of it.
    places = sparse.csr_matrix((np.arange(1, train.nnz + 1), train.indices, train.indptr), shape=train.shape)
    users = np.repeat(fold.asked, np.diff(fold.held.indptr))
    place = np.asarray(places[users, fold.held.indices]).ravel() - 1
    of_fold = Told(
        attributes={name: column[fold.asked] for name, column in told.attributes.items()},
        contexts={name: column[place] for name, column in told.contexts.items()},
    )
    scores = model.scores(fold.kept)
    return make_requests(fold.kept, fold.held, scores / score_spread(scores), of_fold)


def fit_with_fusion(
    train: sparse.csr_matrix, told: Told, released: ItemEmbeddings, recipe: Recipe, weights: Mapping[str, float]
) -> SiloModel:
    """A recipe fitted to all users of a silo, with the effects that were chosen; see `fit_silo_model`."""
    model = fit_silo_model(train, released, recipe)
    spread = score_spread(model.scores(spread_users(train))) if weights else 1.0
    return replace(model, fusion=fit_fusion(train, told, weights, spread=spread))
