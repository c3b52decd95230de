"""What a loss of dp-sgd is: the clipped sum over users of its gradients in the item vectors.

The user's vector u is folded in anew from V and held constant, so that a user's gradient is r_u u^T with
r_u = dL_u/ds at the scores s = V u: rank one, whatever the loss is. A user's loss depends on that user's history and
negatives and on released tables only.

Gradients touch few rows: those of a user's history and of the user's negatives, each row once. Negatives are items
that a user did not interact with, drawn for each user by a stream of the user's own: the catalogue's rows are cut
into as many strata as there are negatives, and one row is drawn from each, so no row is drawn twice. The draw is a
hash of (key, the user's own history, stratum): a function of nothing else, so that another user more or less changes
nobody's negatives, even where the key is public.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from recsys_fed import checks
from recsys_fed.models.exact_scores import observed_scores
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, fold_in, ridge
from recsys_fed.trainers.rank_one import ClippedSum, RankOneContributions, clip


class RowBlocks(Protocol):
    """A clipped sum over item rows that is formed block by block; `within` says whose norm the clip norm holds."""

    @property
    def within(self) -> torch.Tensor:
        """Whether a user's norm is at most the clip norm, bool [n_users]; private."""

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order: the first row of each block and the block, float64 [n_rows, dim], until the next."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The users of a step, and the rows of V that they read.

    Attributes:
        vectors: V, or those of its rows that the batch reads, [n_rows, dim].
        histories: over these rows.
        negatives: over these rows, for losses that have some.
        gramian: V^T V over all rows, float64 [dim, dim], of this V or of an earlier released one.
        bias_scale: the last column of V is a bias over so much: vectors of users who have something end with it. 0:
            there is no bias.
    """

    vectors: torch.Tensor
    histories: Histories
    negatives: "Negatives | None"
    gramian: torch.Tensor
    bias_scale: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How a user's gradient is bounded; see `privacy.clipping`."""

    l2_clip_norm: float
    mode: str = "automatic"

    def __post_init__(self) -> None:
        # Before a user is read: whether a silo refuses must not depend on whether it has users.
        checks.positive(l2_clip_norm=self.l2_clip_norm)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What users are asked about: items in the order of their scores, [n_users, n_asked].

    Attributes:
        positive: 1 for an item that the user has.
        negative: for how many items that the user does not have an item stands, see `Negatives`; else 0.
    """

    positive: torch.Tensor
    negative: torch.Tensor

    @property
    def weights(self) -> torch.Tensor:
        """Both."""
        return self.positive + self.negative


class Loss(ABC):
    """A loss by its name.

    Attributes:
        name: in the configuration.
        reads_all_items: a user's gradient touches every row, so that there are no negatives to draw.
        learning_rates: that work, of the synchronous and of the local schedule.
    """

    name: ClassVar[str]
    reads_all_items: ClassVar[bool]
    learning_rates: ClassVar[Mapping[str, float]] = {"synchronous": 0.1, "local": 3.0}

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """How a user's vector follows from V and a history, in training as in serving.

        It is the ridge of implicit ALS: the minimum of that loss in u. A user's own softmax or logistic regression,
        or ranking problem, has no closed form.
        """
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    @abstractmethod
    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> RowBlocks:
        """Sum over users of the gradients, each clipped as a whole; sensitivity clipping.l2_clip_norm."""

    @abstractmethod
    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """Each user's loss [n_users], of scores [n_users, n_asked] from any module: what `clipped` differentiates."""


def user_vectors(batch: Batch, *, how: FoldIn) -> torch.Tensor:
    """u of every user, [n_users, dim]; a row depends on that user's history and on released tables alone."""
    vectors, gramian = batch.vectors, batch.gramian
    if batch.bias_scale:
        vectors, gramian = vectors[:, :-1].contiguous(), gramian[:-1, :-1]
    weights = torch.ones(len(vectors), dtype=vectors.dtype, device=vectors.device)
    if how.kind == "ridge":
        users = ridge(vectors, batch.histories, weights, gramian=gramian, how=how)
    else:
        users = fold_in(vectors, batch.histories, weights, how=how)
    if not batch.bias_scale:
        return users
    # Who has nothing here has the zero vector all the same.
    has_some = (batch.histories.starts.diff() > 0).to(users.dtype)
    return torch.cat([users, batch.bias_scale * has_some[:, None]], 1)


def positives_of(histories: Histories) -> tuple[torch.Tensor, torch.Tensor]:
    """What each interaction counts as a yes, [n_interactions], and all of each user's, [n_users]: float64, exact."""
    weights = histories.weights
    if weights is None:
        ones = torch.ones(len(histories.items), dtype=torch.float64, device=histories.device)
        return ones, histories.starts.diff().double()
    return weights, torch.bincount(histories.users, weights=weights, minlength=histories.n_users)


@dataclass(frozen=True, kw_only=True, eq=False)
class TouchedScores:
    """Scores of what every user touches.

    Attributes:
        pattern: a user's history, then the user's negatives.
        of_history, of_negatives: their places in the pattern, [n_interactions] and [n_users, n_negatives].
        positive, negative: the scores there.
    """

    pattern: Histories
    of_history: torch.Tensor
    of_negatives: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor


def negatives_of(batch: Batch) -> "Negatives":
    """The batch's negatives, none where it has none."""
    if batch.negatives is not None:
        return batch.negatives
    nothing = torch.zeros(batch.histories.n_users, 0, device=batch.vectors.device)
    return Negatives(items=nothing.long(), weights=nothing.double())


def touched_scores(batch: Batch, users: torch.Tensor) -> TouchedScores:
    """Scores of histories and negatives for user vectors [n_users, dim]."""
    histories, negatives = batch.histories, negatives_of(batch)
    n_users, count = negatives.items.shape
    places = torch.arange(len(histories.items), device=users.device)
    of_history = places + count * histories.users
    before = torch.arange(n_users, device=users.device) * count
    of_negatives = (histories.starts[1:] + before)[:, None] + torch.arange(count, device=users.device)
    items = torch.empty(len(places) + n_users * count, dtype=histories.items.dtype, device=users.device)
    items[of_history] = histories.items
    items[of_negatives] = negatives.items.to(items.dtype)
    starts = histories.starts + count * torch.arange(n_users + 1, device=users.device)
    pattern = Histories(items=items, starts=starts, n_items=histories.n_items)
    drawn = Histories(
        items=negatives.items.flatten().to(items.dtype),
        starts=count * torch.arange(n_users + 1, device=users.device),
        n_items=histories.n_items,
    )
    return TouchedScores(
        pattern=pattern,
        of_history=of_history,
        of_negatives=of_negatives,
        positive=observed_scores(histories, users, batch.vectors),
        negative=observed_scores(drawn, users, batch.vectors).view(n_users, count),
    )


def clipped_touched(
    scores: TouchedScores, users: torch.Tensor, *, positive: torch.Tensor, negative: torch.Tensor, clipping: Clipping
) -> ClippedSum:
    """The clipped sum of r_u u^T with r_u = `positive` on the history and `negative` on the negatives.

    A negative that is in the user's history must come with 0; then no row is touched twice, and the norm is that of
    the very numbers that are summed, whatever they went through before. (`draw_negatives` gives such a negative
    weight 0; a product with it is 0, or NaN, which counts for nothing.)
    """
    values = torch.empty(len(scores.pattern.items), dtype=torch.float64, device=users.device)
    values[scores.of_history] = positive.double()
    values[scores.of_negatives] = negative.double()
    batch = RankOneContributions(
        histories=scores.pattern,
        values=values,
        basis=users.new_zeros(scores.pattern.n_items, 0),
        coefficients=users.new_zeros(len(users), 0),
        right=users,
    )
    return clip(batch, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)


def sigmoid_(values: torch.Tensor) -> torch.Tensor:
    """1 / (1 + e^-x) in place. The library's own gives entries at the ends of its blocks other last bits."""
    return values.neg_().exp_().add_(1.0).reciprocal_()


def per_user(histories: Histories, values: torch.Tensor) -> torch.Tensor:
    """Sums over each user's interactions of rows `values` [n_interactions, k]: float64 [n_users, k]."""
    places = torch.arange(len(values), device=values.device)
    ones = torch.ones(len(values), dtype=values.dtype, device=values.device)
    whole = Histories(items=places, starts=histories.starts, n_items=len(values))
    return whole.times(ones, values)


# Of splitmix64 (Steele, Lea and Flood 2014), as signed 64-bit integers.
GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
MASK = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Negatives:
    """Negatives of a batch of users.

    Attributes:
        items: rows, int64 [n_users, n_negatives], ascending.
        weights: how many rows each stands for, those of its stratum; 0 for a row of the user's own history.
            float64 [n_users, n_negatives].
    """

    items: torch.Tensor
    weights: torch.Tensor


def draw_negatives(histories: Histories, *, count: int, key: int) -> Negatives:
    """One row of every stratum, uniform on it, for each user; at most as many strata as rows.

    Guarantees: a user's row of the result depends on `key`, on the number of rows and on that user's history alone.
    Weighted by `weights`, a sum over the negatives is on average the sum over all rows outside the history.
    """
    n_items, device = histories.n_items, histories.items.device
    count = min(count, n_items)
    bounds = torch.arange(count + 1, device=device) * n_items // max(count, 1)
    sizes = bounds.diff()
    streams = mix(fingerprints(histories) ^ mix(torch.tensor(key, device=device)))
    numbers = mix(streams[:, None] + GOLDEN * torch.arange(1, count + 1, device=device))
    items = bounds[:-1] + (numbers & MASK) % sizes.clamp_min(1)
    weights = torch.where(_is_observed(histories, items), 0.0, sizes.double())
    return Negatives(items=items, weights=weights)


def fingerprints(histories: Histories) -> torch.Tensor:
    """A number for each user's set of items, int64 [n_users]; the order of the items does not matter."""
    hashes = mix(histories.items.long() + 1)
    sums = torch.zeros(len(hashes) + 1, dtype=torch.int64, device=hashes.device)
    sums[1:] = hashes.cumsum(0)
    return sums[histories.starts].diff()


def mix(numbers: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64, on int64 that wrap around."""
    numbers = numbers + GOLDEN
    numbers = (numbers ^ _shift_right(numbers, 30)) * _FIRST
    numbers = (numbers ^ _shift_right(numbers, 27)) * _SECOND
    return numbers ^ _shift_right(numbers, 31)


def _shift_right(numbers: torch.Tensor, places: int) -> torch.Tensor:
    """Shift to the right, filled with zeros."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)


def _is_observed(histories: Histories, items: torch.Tensor) -> torch.Tensor:
    """Whether the user has the item already, bool like `items` [n_users, count]."""
    if not len(histories.items):
        return torch.zeros_like(items, dtype=torch.bool)
    # Ascending, as a user's items are.
    pairs = histories.users * histories.n_items + histories.items.long()
    wanted = torch.arange(histories.n_users, device=items.device)[:, None] * histories.n_items + items
    places = torch.searchsorted(pairs, wanted).clamp_max(len(pairs) - 1)
    return pairs[places] == wanted
