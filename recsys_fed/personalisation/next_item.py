"""What a silo recommends next: the released model, transitions of its own users, EASE, or these together.

A large silo may add self-attention (`models.self_attention`), whose item vectors start from the released ones.

Private to the silo, as all of this package. Each part's scores are divided by their standard deviation over the
silo's users, and added:

    released model (a history weighed by age) + own_weight own,   own = transitions + ease_weight EASE

of the released model those of one of four ways (`silo_model.Shown`).

The silo's users choose; of each the latest interaction is kept away and asked for. Among few users, or among many
recipes, the best is mostly lucky. So it begins with a favourite that is known without looking: directed transitions
with EASE, whose weight grows with the number of the silo's users, as what they know does, beside the released model
without its bias. Another recipe is taken where it is better by more than two standard errors of the difference, user
by user. Where the favourite is worse than the silo alone, its own part is doubled until it is not; at last the silo
alone is taken: what is taken is never worse than that on these users. Self-attention is added where that is better by
more than one standard error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from recsys_fed.evaluation.protocol import Scorer
from recsys_fed.evaluation.ranking import first_relevant_rank
from recsys_fed.models.device import resolve_device
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import ItemEmbeddings, user_vectors
from recsys_fed.models.self_attention import (
    AttentionSettings,
    SelfAttention,
    attention_scores,
    fit_self_attention,
)
from recsys_fed.models.transitions import Following, Transitions, fit_transitions
from recsys_fed.personalisation.choice import ENOUGH_USERS, is_better
from recsys_fed.personalisation.silo_model import (
    AS_RELEASED,
    Floats,
    ItemModel,
    Shown,
    Singles,
    fit_item_model,
    score_spread,
    scores_shown,
    silo_pairs,
)

_FOLLOWING = (Following(), Following(directed=False))
_EASE_WEIGHTS = (0.0, 0.3, 1.0)
_OWN_WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0)
# The silo's own part weighs as much as the released model where it has so many users; see docs/order.md.
_EQUAL_USERS = 600
_DOUBLED = tuple(2.0**doubling for doubling in range(7))
# So many recipes are compared with the favourite that one of them is better by one standard error by luck.
_ERRORS = 2.0
_ATTENTION_WEIGHTS = (0.3, 1.0, 3.0, 10.0)
_FAVOURITE_WAY = Shown(bias=False)
_WAYS = tuple(Shown(row_exponent=exponent, bias=bias) for exponent in (0.0, 0.25) for bias in (True, False))
# Strength of EASE, in users of the silo.
_EASE_STRENGTH = 0.7
# A silo of more users chooses on so many of them; spreads are those of so many.
_ENOUGH, _SPREAD_USERS = 1_000, 256
_K = 10
# Scores of a recipe that are held: 32 MB; fewer users are asked where the catalogue is larger.
_CELLS = 1 << 23


@dataclass(frozen=True, kw_only=True)
class NextRecipe:
    """How a silo's scores of the next item come about.

    Attributes:
        own_weight: of what the silo has alone; 0 is "user-only", infinity "local-only".
        ease_weight: of EASE beside transitions.
        following: how transitions are counted and scored.
        shown: what is scored of the released model.
        attention_weight: of self-attention beside the sum of all else; 0 is without.
    """

    own_weight: float
    ease_weight: float = 0.0
    attention_weight: float = 0.0
    following: Following = _FOLLOWING[0]
    shown: Shown = AS_RELEASED

    @property
    def name(self) -> str:
        """Which of the three kinds it is."""
        if self.attention_weight or 0 < self.own_weight < math.inf:
            return "silo-trusted"
        return "local-only" if self.own_weight else "user-only"

    @property
    def alone(self) -> "NextRecipe":
        """The same without the released model."""
        return replace(self, own_weight=math.inf, shown=AS_RELEASED)


@dataclass(frozen=True, kw_only=True, eq=False)
class NextItemModel:
    """A fitted recipe. Private to the silo.

    Attributes:
        recipe: which.
        released: the federation's model.
        transitions, item_model: of the silo's users; None for what the recipe leaves out.
        spreads: of the scores of the released model, of transitions and of EASE over the silo's users.
        attention: of the silo's users, and the spread of its scores; None without.
    """

    recipe: NextRecipe
    released: ItemEmbeddings
    transitions: Transitions | None
    item_model: ItemModel | None
    spreads: tuple[float, float, float]
    attention: tuple[SelfAttention, float] | None = None

    def scores(self, histories: Histories) -> Floats:
        """Float64 [n_users, n_items], higher is better; items of the history itself have no meaningful score."""
        total = np.zeros((histories.n_users, histories.n_items))
        weight = self.recipe.own_weight
        if not math.isinf(weight):
            total += _released_next_scores(self.released, histories, shown=self.recipe.shown) / self.spreads[0]
        own = 1.0 if math.isinf(weight) else weight
        if self.transitions is not None:
            total += self.transitions.scores(histories) * (own / self.spreads[1])
        if self.item_model is not None:
            total += self.item_model.scores(histories.matrix()) * (own * self.recipe.ease_weight / self.spreads[2])
        if self.attention is not None:
            model, spread = self.attention
            total += attention_scores(model, histories).numpy() * (self.recipe.attention_weight / spread)
        return total


def _released_next_scores(model: ItemEmbeddings, histories: Histories, *, shown: Shown = AS_RELEASED) -> Floats:
    """Scores of folded-in users, float64 [n_users, n_items]."""
    return scores_shown(model, user_vectors(model, histories.to(model.vectors.device)), shown)


def scorer_of_next(model: NextItemModel, histories: Histories) -> Scorer:
    """The users of `histories` as an evaluation asks for them."""

    def score(rows: slice) -> torch.Tensor:
        first, last, _ = rows.indices(histories.n_users)
        return torch.from_numpy(model.scores(histories.block(first, last)))

    return score


class OwnParts:
    """All that recipes are made of beside the released model, fitted to some users. Private to the silo."""

    def __init__(self, histories: Histories) -> None:
        self.transitions = {how: fit_transitions(histories, how) for how in _FOLLOWING}
        strength = max(_EASE_STRENGTH * histories.n_users, 1.0)
        self.ease = fit_item_model(silo_pairs(histories.matrix()), None, pull=0.0, regularization=strength)
        chosen = np.unique(np.linspace(0, histories.n_users - 1, _SPREAD_USERS).astype(np.int64))
        self.some = histories.rows(torch.from_numpy(chosen))
        self._ease_spread = score_spread(self.ease.scores(self.some.matrix()))
        self._spreads = {
            how: score_spread(model.scores(self.some).astype(np.float64)) for how, model in self.transitions.items()
        }

    def spreads(self, released: ItemEmbeddings, recipe: NextRecipe) -> tuple[float, float, float]:
        """See `NextItemModel`."""
        whole = _released_next_scores(released, self.some, shown=recipe.shown)
        return score_spread(whole), self._spreads[recipe.following], self._ease_spread

    def scores(self, histories: Histories) -> Mapping[NextRecipe, Singles]:
        """Scores [n_users, n_items] of every recipe without the released model."""
        ease = self.ease.scores(histories.matrix()) / self._ease_spread
        found: dict[NextRecipe, Singles] = {}
        for how, model in self.transitions.items():
            following = model.scores(histories) / self._spreads[how]
            for ease_weight in _EASE_WEIGHTS:
                recipe = NextRecipe(own_weight=math.inf, ease_weight=ease_weight, following=how)
                found[recipe] = (following + ease_weight * ease).astype(np.float32)
        return found


def fit_next_item_model(
    histories: Histories,
    released: ItemEmbeddings,
    recipe: NextRecipe,
    *,
    own: OwnParts | None = None,
    attention: AttentionSettings | None = None,
) -> NextItemModel:
    """Fit a recipe to the histories of a silo, in order; without any it is "user-only".

    Guarantees: none but for "user-only". What else comes out depends on the silo's users without noise and must never
    leave the silo; between its users it is as private as any ordinary recommender.

    Args:
        histories: of the silo's users. released: the federation's model. recipe: which.
        own: fitted to these histories already, where several models are compared.
        attention: sizes of self-attention, where the recipe has some; None: as by default.
    """
    if not len(histories.items) or not (recipe.own_weight or recipe.attention_weight):
        recipe = NextRecipe(own_weight=0.0, shown=recipe.shown if len(histories.items) else AS_RELEASED)
        return NextItemModel(
            recipe=recipe, released=released, transitions=None, item_model=None, spreads=(1.0, 1.0, 1.0)
        )
    own = own or OwnParts(histories)
    return NextItemModel(
        recipe=recipe,
        released=released,
        transitions=own.transitions[recipe.following] if recipe.own_weight else None,
        item_model=own.ease if recipe.own_weight and recipe.ease_weight else None,
        spreads=own.spreads(released, recipe),
        attention=_fit_attention(histories, released, own.some, attention) if recipe.attention_weight else None,
    )


def _fit_attention(
    histories: Histories, released: ItemEmbeddings, some: Histories, settings: AttentionSettings | None
) -> tuple[SelfAttention, float]:
    """Fitted where there is a GPU, for use on a CPU; and the spread of its scores of `some` users."""
    model = fit_self_attention(histories.to(resolve_device("auto")), settings, start=released.vectors).to("cpu")
    return model, score_spread(attention_scores(model, some).double().numpy())


@dataclass(frozen=True, kw_only=True, eq=False)
class NextChoice:
    """What was taken and why.

    Attributes:
        recipe: what is taken. alone: the best of the silo on its own.
        validation: ndcg@10 of the silo's users, whose latest interaction was asked for. Private to the silo.
    """

    recipe: NextRecipe
    alone: NextRecipe
    validation: Mapping[NextRecipe, float] = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class NextValidation:
    """A silo's users with the latest interaction of each kept away. Private to the silo.

    Attributes:
        kept: what is known of all users.
        known, wanted: of the users who are asked, what is known of them, and the latest interaction.
        own: fitted to what is known of all users; None where nobody can be asked.
        scores: of `own` for the users who are asked, [n_asked, n_items] by recipe.
        per_user: ndcg@10 of these.
    """

    kept: Histories
    known: Histories
    wanted: Histories
    own: OwnParts | None
    scores: Mapping[NextRecipe, Singles] = field(repr=False)
    per_user: Mapping[NextRecipe, Floats] = field(repr=False)


def hold_out_latest(histories: Histories, *, rng: np.random.Generator) -> NextValidation:
    """Keep the latest interactions away, and measure what the silo has alone.

    Raises:
        ConfigurationError: the histories have no order.
    """
    kept, held = histories.latest_apart()
    asked = np.flatnonzero(held.starts.diff().numpy())
    most = min(_ENOUGH, max(ENOUGH_USERS, _CELLS // max(1, histories.n_items)))
    if len(asked) > most:
        asked = np.sort(rng.choice(asked, most, replace=False))
    known, wanted = (one.rows(torch.from_numpy(asked)) for one in (kept, held))
    if not len(asked):
        return NextValidation(kept=kept, known=known, wanted=wanted, own=None, scores={}, per_user={})
    own = OwnParts(kept)
    found = own.scores(known)
    per_user = {recipe: _ndcg(values, known, wanted) for recipe, values in found.items()}
    return NextValidation(kept=kept, known=known, wanted=wanted, own=own, scores=found, per_user=per_user)


def choose_next(
    held: NextValidation, released: ItemEmbeddings, *, attention: AttentionSettings | None = None
) -> NextChoice:
    """The recipe that is taken; see the module. Where there is nobody to ask, the released model.

    With sizes for `attention` self-attention is tried, too, for which it is trained once.
    """
    user_only, alone = NextRecipe(own_weight=0.0), NextRecipe(own_weight=math.inf)
    if held.own is None:
        return NextChoice(recipe=user_only, alone=alone, validation={})
    alone = max(held.per_user, key=lambda recipe: float(held.per_user[recipe].mean()))
    favourites = _favourites(held.kept.n_users)
    blends = [replace(alone, own_weight=weight) for weight in _OWN_WEIGHTS]
    per_user: dict[NextRecipe, Floats] = {}
    for shown in _WAYS:
        whole = _released_next_scores(released, held.known, shown=shown)
        per_user[replace(user_only, shown=shown)] = _ndcg(whole, held.known, held.wanted)
        whole /= held.own.spreads(released, replace(alone, shown=shown))[0]
        ruled = (recipe for recipe in favourites if recipe.shown == shown)
        for recipe in (*ruled, *(replace(blend, shown=shown) for blend in blends)):
            together = whole + recipe.own_weight * held.scores[recipe.alone]
            per_user[recipe] = _ndcg(together, held.known, held.wanted)
    per_user |= held.per_user
    taken = _take(per_user, favourites, alone)
    if attention is not None:
        tried = _with_attention(held, released, taken, attention)
        per_user |= tried
        best = max(tried, key=lambda recipe: float(tried[recipe].mean()), default=taken)
        few = len(per_user[best]) < ENOUGH_USERS
        taken = best if few or is_better(per_user[best], per_user[taken]) else taken
    validation = {recipe: float(found.mean()) for recipe, found in per_user.items()}
    return NextChoice(recipe=taken, alone=alone, validation=validation)


def _favourites(n_users: int) -> tuple[NextRecipe, ...]:
    """What the rule takes in a silo of so many users, and the same with its own part doubled again and again."""
    rule = NextRecipe(own_weight=n_users / _EQUAL_USERS, ease_weight=_EASE_WEIGHTS[-1], shown=_FAVOURITE_WAY)
    return tuple(replace(rule, own_weight=rule.own_weight * times) for times in _DOUBLED)


def _take(per_user: Mapping[NextRecipe, Floats], favourites: tuple[NextRecipe, ...], alone: NextRecipe) -> NextRecipe:
    """See the module."""
    means = {recipe: float(found.mean()) for recipe, found in per_user.items()}
    best = max(means, key=means.__getitem__)
    enough = len(per_user[best]) >= ENOUGH_USERS
    if enough and is_better(per_user[best], per_user[favourites[0]], errors=_ERRORS):
        return best
    return next((recipe for recipe in favourites if means[recipe] >= means[alone]), alone)


def _with_attention(
    held: NextValidation, released: ItemEmbeddings, taken: NextRecipe, settings: AttentionSettings
) -> dict[NextRecipe, Floats]:
    """ndcg@10 of what was taken with self-attention added, by weight."""
    model = fit_next_item_model(
        held.kept, released, replace(taken, attention_weight=1.0), own=held.own, attention=settings
    )
    if model.attention is None:
        return {}
    without = replace(model, attention=None).scores(held.known)
    added = model.scores(held.known) - without
    return {
        replace(taken, attention_weight=weight): _ndcg(without + weight * added, held.known, held.wanted)
        for weight in _ATTENTION_WEIGHTS
    }


def _ndcg(values: Floats | Singles, known: Histories, wanted: Histories) -> Floats:
    """ndcg@10 of users with one wanted item each, among all but what is known."""
    table = torch.from_numpy(values)
    table = table.index_put((known.users, known.items.long()), table.new_tensor(-torch.inf))
    rank = first_relevant_rank(table, wanted.users, wanted.items.long()).double()
    return np.asarray(torch.where(rank <= _K, 1 / torch.log2(1 + rank), 0.0).numpy())
