"""ratings: what a user would rate an item, from noisy item means and, where the budget pays, residual factors.

With x_ui a rating on the agreed scale, moved to [-1, 1], the model is

    x_ui  ~  a_i + z_i w_u,      z_i = [1, a_i - a, public features of i, residual factors of i]

a_i and the factors are released; w_u (the user's own level, how strongly the user follows the crowd, tastes in public
features, factors) is solved in the silo from the user's own ratings and costs nothing, see `FoldIn`.

The first round releases two sums over users in one table, each user's row of them scaled to norm exactly 1:

    w_u sum_i e_i [1, BETA x_ui]           w_u = 1 / sqrt(sum_i 1 + BETA^2 x_ui^2)

Their quotient is the item's mean. It is shrunk by what is known of the noise towards what the public features, and
in the end all items, say of it (empirical Bayes), so that noise alone can never make a mean worse than none at all.
The rounds after it are a power iteration on the users' residuals r_u, damped by the noisy counts, with terms
r_u (r_u^T W) of norm exactly 1 as in `spectral`, one basis from all releases of it. They are planned where the public
signal is large enough to pay for them; below, the whole budget goes into the means (docs/evaluation.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Histories, Signal, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings, ridge
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.exact_sum import UNIT, in_units
from recsys_fed.trainers.pooling import Products, pool_counts, pool_products, product, products_of, side_by_side
from recsys_fed.trainers.popularity import most_frequent
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum
from recsys_fed.trainers.subspace import even_out_scales, principal_features
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, TableLayout, Tables, Trainer

MEANS, RESIDUALS = "item means", "residuals"
# Weight of ratings beside counts in a user's row.
BETA = 2.0
# In squared halves of the scale: spread of item means about the features' estimate, of ratings about their item's
# mean, and the prior variances of a user's level, slope, taste in features and factors. Chosen on validation parts.
_ITEM_SPREAD, _RATING_SPREAD = 0.25**2, 0.3
LEVEL, _SLOPE, _TASTE, FACTORS = 0.05, 0.1, 0.0425, 0.0125
_FEATURE_RIDGE = 0.1
_FEATURE_DIM = 60
# Users to noise above which factors pay for themselves; the means' share of the budget where there are any.
_LEAST_SIGNAL, MEANS_SHARE, _LATER_SHARE = 15_000.0, 0.3, 2.0
_ITERATIONS, _ITERATIONS_WITHOUT_NOISE = 2, 5
_DIM, _DIM_WITHOUT_NOISE, _OVERSAMPLED = 12, 32, 8
# Rows a signal of one pays for, and how rows are damped: count^-DAMPING.
_ROWS, _LEAST_ROWS, _DAMPING = 0.05, 50, 0.5
_ROUNDING = 1e-15


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemMeans:
    """What follows from the first release; public.

    Attributes:
        counts: weighted counts, not below a third of their noise, float64 [n_items].
        means: a, on the scale [-1, 1], float64 [n_items].
        known: columns of z before the factors, with the scale of their prior, float64 [n_items, k].
        head: rows that get factors, ascending, int64 [n_head].
    """

    counts: torch.Tensor
    means: torch.Tensor
    known: torch.Tensor
    head: torch.Tensor

    @property
    def damping(self) -> torch.Tensor:
        """Weight of the residuals of each item of the head, float64 [n_head], mean count -> 1."""
        return (self.counts / self.counts.mean())[self.head] ** -_DAMPING


@dataclass(frozen=True, kw_only=True, eq=False)
class RatingsState:
    """What the server holds between rounds; all of it follows from releases and public facts.

    Attributes:
        asked: W of the next residual round, float64 [n_items, columns], then [n_head, columns].
        releases: noisy sums of residual rounds, in units of their noise where there is any.
        factors: columns of z on the head, with the scale of their prior, float64 [n_head, dim].
        own: residual rounds of a training that came after others, which it pools with theirs.
    """

    facts: PublicFacts
    asked: torch.Tensor
    items: ItemMeans | None = None
    releases: tuple[torch.Tensor, ...] = ()
    factors: torch.Tensor | None = None
    own: Products | None = None


@dataclass(frozen=True, kw_only=True)
class Ratings(Trainer):
    """The trainer; see the module. Data without ratings gives the model of nobody.

    Attributes:
        lowest, highest: the scale, public; what is beyond counts as its end.
        biases: whether items have means and users levels; without them x_ui is the rating over the larger end of
            the scale, and all there is are factors.
        regularization: variance of a rating about its prediction, in squared halves of the scale: what a user's
            vector is held to its prior by.
    """

    name: ClassVar[str] = "ratings"
    reads: ClassVar[frozenset[Signal]] = frozenset({"value"})

    lowest: float = 1.0
    highest: float = 5.0
    biases: bool = True
    regularization: float = 0.19

    def __post_init__(self) -> None:
        checks.positive(regularization=self.regularization)
        if not -math.inf < self.lowest < self.highest < math.inf:
            raise ConfigurationError(f"Expected lowest < highest, got {self.lowest:g} and {self.highest:g}.")

    @property
    def middle(self) -> float:
        """Of the scale: what becomes 0."""
        return (self.lowest + self.highest) / 2 if self.biases else 0.0

    @property
    def half(self) -> float:
        """Of the scale: what becomes 1."""
        return (self.highest - self.lowest) / 2 if self.biases else max(abs(self.lowest), abs(self.highest))

    def _rounds(self, facts: PublicFacts) -> int:
        """How many rounds of residuals."""
        if facts.rounds:
            return facts.rounds - 1
        if not facts.noise_level:
            return _ITERATIONS_WITHOUT_NOISE
        wanted = facts.embedding_dim or not self.biases or facts.signal_to_noise >= _LEAST_SIGNAL
        return _ITERATIONS if wanted else 0

    def _size(self, facts: PublicFacts) -> tuple[int, int, int]:
        """Rows of the head, factors, and columns of a residual round."""
        signal = min(facts.signal_to_noise, 1e12)
        n_head = int(min(max(_ROWS * signal, _LEAST_ROWS), facts.n_items))
        dim = facts.embedding_dim or (_DIM if facts.noise_level else _DIM_WITHOUT_NOISE)
        more = 0 if facts.noise_level else _OVERSAMPLED
        return n_head, min(dim, n_head), min(dim + more, n_head)

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The means, then as many residual rounds as the signal pays for, the first with a smaller share."""
        rounds = self._rounds(facts)
        means = 1.0 if not rounds else MEANS_SHARE
        parts = [1.0, *[_LATER_SHARE] * (rounds - 1)] if rounds else []
        shares = [(1 - means) * part / sum(parts) for part in parts]
        first = self.means_stage(share=means)
        releases = [PlannedRelease(released="item embeddings", relative_noise=share**-0.5) for share in shares]
        return (first, *[replace(first, name=RESIDUALS, release=one) for one in releases])

    def means_stage(self, *, share: float) -> Stage:
        """The round that releases counts and ratings, for a share of the budget."""
        return Stage(
            name=MEANS,
            release=PlannedRelease(released="item counts and ratings", relative_noise=share**-0.5),
            settings={"middle": self.middle, "half": self.half, "regularization": self.regularization},
            kept=True,
        )

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> RatingsState:
        """Draw a random start of the power iteration, [n_items, columns]."""
        start = rng.standard_normal((facts.n_items, self._size(facts)[2]))
        return RatingsState(facts=facts, asked=torch.from_numpy(start))

    def tables(self, state: RatingsState, stage: Stage) -> Tables:
        """The means and known columns of all items; the head, its damping and W; nothing before the means."""
        if stage.name == MEANS or state.items is None:
            return {}
        return {
            "means": state.items.means.float(),
            "known": state.items.known.float(),
            "head": state.items.head,
            "damping": state.items.damping.float(),
            "subspace": state.asked.float(),
        }

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts and ratings [n_items, 2], then residuals [n_head, columns]."""
        if stage.name == MEANS:
            return Layout(shape=(facts.n_items, 2))
        n_head, _, columns = self._size(facts)
        tables = {
            "means": TableLayout(dtype=torch.float32, shape=(facts.n_items,)),
            "known": TableLayout(dtype=torch.float32, shape=(facts.n_items, self._known_dim(facts))),
            "head": TableLayout(dtype=torch.int64, shape=(n_head,)),
            "damping": TableLayout(dtype=torch.float32, shape=(n_head,)),
            "subspace": TableLayout(dtype=torch.float32, shape=(n_head, columns)),
        }
        return Layout(shape=(n_head, columns), tables=tables)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Sum over users of terms of norm l2_clip_norm: counts and ratings [n_items, 2], or residuals [n_head, k].

        Guarantees:
            - Unit: a user. Neighbouring relation: add or remove one user. L2 sensitivity settings["l2_clip_norm"],
              whatever the ratings and the tables hold: ratings are cut off at the ends of the agreed scale, an
              interaction without a rating counts for nothing, and so does a user without a rating.
            - A user's term depends on that user's ratings and on the tables only (see `ridge`).
            - Counts and ratings are exact sums of whole units: blocks and the order of users do not change a bit.
              Residuals are summed in float64, with the guarantees of `rank_one.clipped_sum`.
        """
        if stage == MEANS:
            return _sum_ratings(histories, settings)
        total = torch.zeros(tables["subspace"].shape, dtype=torch.float64, device=histories.device)
        for block in histories.blocks():
            total += _sum_residuals(block, tables, settings)
        return total

    def step(
        self, state: RatingsState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> RatingsState:
        """Means from counts and ratings, or the factors of all residual rounds so far."""
        if stage.name == MEANS:
            items = self.item_means(state.facts, total, noise_std=noise_std)
            state = replace(state, items=items, asked=torch.linalg.qr(state.asked[items.head]).Q)
            earlier = _earlier_products(state)
            return self._with_factors(state, pool_products(earlier).table, noise_std=1.0) if earlier else state
        _items(state)
        table = total.double() / noise_std if noise_std else total.double()
        # Without noise the last round alone is the furthest on.
        releases = (*state.releases, table) if noise_std else (table,)
        state = replace(state, releases=releases)
        if not state.facts.earlier_trainings or not noise_std:
            return self._with_factors(state, torch.cat(releases, dim=1), noise_std=noise_std)
        own = product(state.asked, total.double(), noise_std=noise_std)
        own = own if state.own is None else side_by_side([state.own, own])
        pooled = pool_products([*_earlier_products(state), own]).table
        return self._with_factors(replace(state, own=own), pooled, noise_std=1.0)

    def _with_factors(self, state: RatingsState, table: torch.Tensor, *, noise_std: float) -> RatingsState:
        """Factors, and what is asked next, of a table with noise of 1, or without any."""
        _, dim, columns = self._size(state.facts)
        basis, singular, _ = torch.linalg.svd(table, full_matrices=False)
        basis = basis[:, :columns]
        if noise_std:
            strength = singular[:dim] * (1 - len(table) / singular[:dim].square().clamp_min(1e-300)).clamp_min(0)
        else:
            strength = singular[:dim] - (singular[dim] if len(singular) > dim else 0.0)
        factors = with_spread(
            basis[:, :dim] * strength.sqrt(),
            counts=_items(state).counts[_items(state).head],
            spread=FACTORS if self.biases else _RATING_SPREAD,
        )
        asked = basis * even_out_scales(singular[:columns])
        return replace(state, asked=torch.nn.functional.pad(asked, (0, columns - asked.shape[1])), factors=factors)

    def item_embeddings(self, state: RatingsState) -> ItemEmbeddings:
        """Rows z with the scale of their prior, the mean of each item as its bias; ratings on their own scale."""
        n_items = state.facts.n_items
        vectors, bias = torch.zeros(n_items, 1, dtype=torch.float64), torch.zeros(n_items, dtype=torch.float64)
        if state.items is not None:
            vectors, bias = state.items.known, state.items.means
            if state.factors is not None:
                factors = vectors.new_zeros(n_items, state.factors.shape[1])
                factors[state.items.head] = state.factors
                vectors = torch.cat([vectors, factors], dim=1)
        return ItemEmbeddings(
            vectors=(self.half * vectors).float(),
            bias=(self.middle + self.half * bias).float(),
            history_weights=torch.ones(n_items),
            fold_in=FoldIn(
                kind="ratings",
                regularization=self.regularization * self.half**2,
                lowest=self.lowest,
                highest=self.highest,
            ),
            catalogue_hash=state.facts.catalogue_hash,
        )

    def _known_dim(self, facts: PublicFacts) -> int:
        """Columns of z that need no residuals; those that the features do not fill are zero."""
        if not self.biases:
            return 1
        return 2 + (_FEATURE_DIM if facts.features is not None else 0)

    def item_means(self, facts: PublicFacts, total: torch.Tensor, *, noise_std: float) -> ItemMeans:
        """What follows from the noisy sum of the first round, [n_items, 2], and those of earlier trainings."""
        total, noise_std = pool_counts(total.double(), facts.released_before(MEANS), noise_std=noise_std)
        counts = total[:, 0].clamp_min(max(noise_std / 3, 1e-9))
        head = most_frequent(counts, self._size(facts)[0])
        known = torch.zeros(facts.n_items, self._known_dim(facts), dtype=torch.float64)
        if not self.biases:
            return ItemMeans(counts=counts, means=torch.zeros_like(counts), known=known, head=head)
        weights = counts / counts.sum()
        features = known[:, 2:]
        if facts.features is not None:
            found = principal_features(facts.features, weights=weights.sqrt(), dim=_FEATURE_DIM)
            features[:, : found.shape[1]] = with_spread(found, counts=counts, spread=_TASTE)
        means = _item_means(counts, total[:, 1] / BETA, features, noise_std=noise_std, users=facts.declared_users)
        known[:, 0] = LEVEL**0.5
        known[:, 1] = _SLOPE**0.5 * (means - weights @ means)
        return ItemMeans(counts=counts, means=means, known=known, head=head)


def _items(state: RatingsState) -> ItemMeans:
    if state.items is None:
        raise ConfigurationError("Expected the item means before a residual round. Run the plan in order.")
    return state.items


def _earlier_products(state: RatingsState) -> list[Products]:
    """One for each earlier training that has released residuals, oldest first, over the rows of the head."""
    head = _items(state).head
    by_training = state.facts.released_by_training(RESIDUALS)
    return [found for releases in by_training if (found := products_of(releases, now=head)) is not None]


def with_spread(columns: torch.Tensor, *, counts: torch.Tensor, spread: float) -> torch.Tensor:
    """Columns scaled so that the mean squared length of a row, weighed by counts, is `spread`; zeros stay zeros."""
    found = counts @ columns.square().sum(1) / counts.sum()
    scaled: torch.Tensor = columns * (spread / found).sqrt() if float(found) > 0 else columns
    return scaled


def _item_means(
    counts: torch.Tensor, ratings: torch.Tensor, features: torch.Tensor, *, noise_std: float, users: int
) -> torch.Tensor:
    """Posterior means of the items' ratings, float64 [n_items], from the noisy sums of counts and of ratings.

    a ~ N(m + F t, _ITEM_SPREAD), and the quotient of the sums is a with a variance of two parts: the noise of the
    ratings' sum, and that of the ratings themselves, of users who weigh about E[w^2] / E[w]. The latter follows from
    the sums and the declared users: with w = c / sqrt(n_u), the counts add up to c sqrt(n) for each user.
    """
    share = 1 / (1 + BETA**2 * _RATING_SPREAD)
    weight = min(1.0, share * users / max(float(counts.sum()), 1e-12))
    quotient = (ratings / counts).clamp(-1, 1)
    variance = ((noise_std / BETA) ** 2 + weight * counts * _RATING_SPREAD) / counts.square()
    precision = 1 / (variance + _ITEM_SPREAD)
    design = torch.cat([torch.ones(len(counts), 1, dtype=torch.float64), features], dim=1)
    prior = torch.full((design.shape[1],), _FEATURE_RIDGE, dtype=torch.float64)
    prior[0] = 1e-9
    normal = design.T @ (precision[:, None] * design) + torch.diag(prior)
    expected = design @ torch.linalg.solve(normal, design.T @ (precision * quotient))
    posterior: torch.Tensor = expected + (quotient - expected) * _ITEM_SPREAD * precision
    return posterior.clamp(-1, 1)


def rated_interactions(block: Histories, *, middle: float, half: float) -> tuple[Histories, torch.Tensor]:
    """The interactions that have a rating, and the ratings moved to [-1, 1], float64 [n_interactions]."""
    values = block.signals.value if block.signals is not None else None
    if values is None:
        return block.where(torch.zeros(len(block.items), dtype=torch.bool, device=block.device)), torch.zeros(
            0, dtype=torch.float64, device=block.device
        )
    there = ~values.isnan()
    scaled = (values[there].double() - middle) / half
    return block.where(there), scaled.clamp(-1, 1)


def _sum_ratings(histories: UserHistories, settings: Mapping[str, float]) -> torch.Tensor:
    """w_u [1, BETA x_ui] added up for each item, float64 [n_items, 2]; exact for up to 2^22 users."""
    total = torch.zeros(histories.n_items, 2, dtype=torch.float64, device=histories.device)
    for block in histories.blocks():
        rated, ratings = rated_interactions(block, middle=settings["middle"], half=settings["half"])
        squares = rated.per_user(1 + (BETA * ratings).square())
        # A sum of n numbers is right to n 2^-53 of it.
        weights = squares.clamp_min(1).rsqrt() * (1 - _ROUNDING - rated.n_items * 2.0**-52)
        of_interaction = weights[rated.users]
        for column, part in enumerate((of_interaction, of_interaction * BETA * ratings)):
            total[:, column] += torch.bincount(rated.items, weights=in_units(part), minlength=rated.n_items)
    return total * (UNIT * settings["l2_clip_norm"])


def _sum_residuals(block: Histories, tables: Tables, settings: Mapping[str, float]) -> torch.Tensor:
    """Terms D r (r^T D W) of norm l2_clip_norm added up, float64 [n_head, k]; r is what z w_u leaves of ratings."""
    rated, ratings = rated_interactions(block, middle=settings["middle"], half=settings["half"])
    known, means = tables["known"].double(), tables["means"].double()
    targets = ratings - means[rated.items]
    how = FoldIn(kind="ratings", regularization=settings["regularization"])
    users = ridge(known, rated, torch.ones_like(means), targets=targets, how=how)
    residuals = targets - observed_scores(rated, users, known)
    kept = torch.zeros(block.n_items, dtype=torch.bool, device=block.device)
    kept[tables["head"]] = True
    head = rated.restricted(tables["head"])
    values = residuals[kept[rated.items]] * tables["damping"].double()[head.items]
    subspace = tables["subspace"].double()
    batch = RankOneContributions(
        histories=head,
        values=values,
        basis=subspace.new_zeros(len(subspace), 0),
        coefficients=subspace.new_zeros(head.n_users, 0),
        right=head.times(values, subspace),
    )
    return clipped_sum(batch, l2_clip_norm=settings["l2_clip_norm"], mode="automatic")
