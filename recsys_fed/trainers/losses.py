"""Losses of dp-sgd, by name: each with its gradient in closed form, and as a function of scores for other modules.

Adding one is a class and a line here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from recsys_fed import checks
from recsys_fed.models.exact_scores import OnGrid, items_on_grid, observed_scores, users_on_grid
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.loss import (
    Asked,
    Batch,
    Clipping,
    Loss,
    TouchedScores,
    clipped_touched,
    negatives_of,
    per_user,
    positives_of,
    sigmoid_,
    touched_scores,
    user_vectors,
)
from recsys_fed.trainers.rank_one import ClippedSum, RankOneContributions, clip


class ImplicitALS(Loss):
    """The loss; see the module."""

    name = "implicit-als"
    reads_all_items = True

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """Half the gradients, clipped and summed."""
        contributions = self.contributions(batch, how=how, unobserved_weight=unobserved_weight)
        return clip(contributions, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """(sum_H (1 - s)^2 + w sum s^2) / 2."""
        squares = asked.positive * (1 - scores).square() + unobserved_weight * asked.weights * scores.square()
        return squares.sum(1) / 2

    def contributions(self, batch: Batch, *, how: FoldIn, unobserved_weight: float) -> RankOneContributions:
        """Half the gradient of every user, as rank-one contributions."""
        users = user_vectors(batch, how=how)
        fitted = observed_scores(batch.histories, users, batch.vectors)
        weights, _ = positives_of(batch.histories)
        return RankOneContributions(
            histories=batch.histories,
            values=weights.to(fitted.dtype) * (fitted - 1.0),
            basis=batch.vectors,
            coefficients=unobserved_weight * users.double(),
            right=users,
            reads=unobserved_weight * fitted,
            gramian=batch.gramian,
        )


# Items and users of a block of scores: public, so that who else is there does not decide which scores meet.
_ITEMS, _USERS = 1 << 10, 1 << 11
# A logit that counts for nothing, in either type.
_NOWHERE = -1e30
# The proof's.
_MOST_ITEMS = 1 << 26
_CANCELLING = 2.0**-19


class Softmax(Loss):
    """The loss; see the module."""

    name = "softmax"
    sharpness = 2.0
    reads_all_items = True

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> "SoftmaxSum":
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        checks.at_most(_MOST_ITEMS, n_items=len(batch.vectors))
        users = self.sharpness * user_vectors(batch, how=how).double()
        histories, (weights, sizes) = batch.histories, positives_of(batch.histories)
        items, folded = items_on_grid(batch.vectors), users_on_grid(users)
        folded = OnGrid(whole=folded.whole, scales=folded.scales * items.scales)
        highest, z, squares = _normalisers(items.whole, folded)
        # The yeses of a user, |H| where they have no weights, over Z.
        shares = sizes / z
        own = observed_scores(histories, folded.whole, items.whole) * folded.scales[histories.users]
        cross = shares * histories.per_user((own - highest[histories.users]).exp_().mul_(weights))
        dense = shares.square() * squares
        parts = dense + 2 * cross + histories.squared_lengths
        bounds = (dense - 2 * cross + histories.squared_lengths).clamp_min_(0) + _rounding(len(batch.vectors)) * parts
        norms = torch.maximum(bounds, _CANCELLING * parts).sqrt_() * torch.linalg.vector_norm(users, dim=1)
        scaled = users * clip_factors(norms, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)[:, None]
        return SoftmaxSum(
            items=items.whole,
            histories=histories,
            observed=weights,
            users=folded,
            highest=highest,
            scaled=scaled,
            counted=scaled * shares[:, None],
            within=norms <= clipping.l2_clip_norm,
        )

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """|H| log Z - sum_H a s."""
        return _cross_entropy(self.sharpness * scores, asked)


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftmaxSum:
    """sum_u c_u r_u u^T of the softmax, formed in blocks of items.

    Attributes:
        items: V on its grid, float64 [n_items, dim].
        histories: over its rows.
        observed: what their interactions count, float64 [n_interactions].
        users: u on theirs, with the scales of the scores.
        highest: the largest score, float64 [n_users].
        scaled, counted: c_u u and, times the user's yeses over Z, c_u u, float64 [n_users, dim].
        within: whether a user's norm is at most the clip norm, bool [n_users]; private.
    """

    items: torch.Tensor
    histories: Histories
    observed: torch.Tensor
    users: OnGrid
    highest: torch.Tensor
    scaled: torch.Tensor
    counted: torch.Tensor
    within: torch.Tensor

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, as the first row of each block and the block, float64 [n_rows, dim]."""
        sparse = self.histories.transposed_times(self.observed, self.scaled)
        for first, rows in _item_blocks(self.items):
            total = -sparse[first : first + len(rows)]
            for part in _user_parts(self.users):
                scores = _scores(rows, self.users, part)
                total.addmm_(scores.sub_(self.highest[part]).exp_(), self.counted[part])
            yield first, total


def _normalisers(items: torch.Tensor, users: OnGrid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """m, Z and S of every user, float64 [n_users], from one pass over blocks of items; without items 0, 1 and 0."""
    highest = torch.full_like(users.scales, -torch.inf)
    z, squares = torch.zeros_like(highest), torch.zeros_like(highest)
    for part in _user_parts(users):
        for _, rows in _item_blocks(items):
            scores = _scores(rows, users, part)
            largest = torch.maximum(highest[part], scores.amax(0))
            factors = (highest[part] - largest).exp_()
            scores.sub_(largest).exp_()
            z[part] = z[part] * factors + scores.sum(0)
            squares[part] = squares[part] * factors.square() + scores.square_().sum(0)
            highest[part] = largest
    return (highest, z, squares) if len(items) else (torch.zeros_like(z), torch.ones_like(z), squares)


def _rounding(n_items: int) -> float:
    """2 t."""
    return 2.0**-52 * (n_items + 4000 * (n_items / 1024 + 5))


def _scores(rows: torch.Tensor, users: OnGrid, part: slice) -> torch.Tensor:
    """Exact scores of a block of items and users, float64 [n_rows, n_users], to be overwritten."""
    return (rows @ users.whole[part].T).mul_(users.scales[part])


def _item_blocks(items: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    for first in range(0, len(items), _ITEMS):
        yield first, items[first : first + _ITEMS]


def _user_parts(users: OnGrid) -> Iterator[slice]:
    for first in range(0, len(users.scales), _USERS):
        yield slice(first, first + _USERS)


def _cross_entropy(logits: torch.Tensor, asked: Asked) -> torch.Tensor:
    weights = asked.weights
    there = weights > 0
    counted = torch.where(there, logits + torch.where(there, weights, 1.0).log(), _NOWHERE)
    losses: torch.Tensor = asked.positive.sum(1) * counted.logsumexp(1) - (asked.positive * logits).sum(1)
    return losses


class SampledSoftmax(Loss):
    """The loss; see the module."""

    name = "sampled-softmax"
    sharpness = 2.0
    reads_all_items = False

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        users, histories = self.sharpness * user_vectors(batch, how=how), batch.histories
        scores, weights = touched_scores(batch, users), negatives_of(batch).weights
        # Scores are taken from the user's largest one: Z is then between 1 and the number of rows.
        highest = scores.negative.amax(1) if weights.shape[1] else scores.positive.new_zeros(histories.n_users)
        highest = highest.scatter_reduce(0, histories.users, scores.positive, "amax")
        positive = (scores.positive - highest[histories.users]).exp()
        negative = weights * (scores.negative - highest[:, None]).exp()
        yes, sizes = positives_of(histories)
        factors = sizes / (histories.per_user(positive) + negative.sum(1)).clamp_min(torch.finfo(torch.float64).tiny)
        return clipped_touched(
            scores,
            users,
            positive=factors[histories.users] * positive - yes,
            negative=factors[:, None] * negative,
            clipping=clipping,
        )

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """|H| log Z - sum_H a s."""
        return _cross_entropy(self.sharpness * scores, asked)


class BCE(Loss):
    """The loss; see the module."""

    name = "bce"
    sharpness = 10.0
    ratio = 4.0
    reads_all_items = False

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed."""
        users = self.sharpness * user_vectors(batch, how=how)
        scores, weights = touched_scores(batch, users), negatives_of(batch).weights
        # As many noes as `ratio` times the yeses.
        yes, sizes = positives_of(batch.histories)
        weights = self.ratio * weights * (sizes / weights.sum(1).clamp_min(1.0))[:, None]
        middle = self.sharpness / 2
        return clipped_touched(
            scores,
            users,
            positive=-yes * sigmoid_(middle - scores.positive),
            negative=weights * sigmoid_(scores.negative - middle),
            clipping=clipping,
        )

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """log(1 + e^-(a s - a / 2)) of each yes, log(1 + e^(a s - a / 2)) of each no."""
        negative = asked.negative / asked.negative.sum(1, keepdim=True).clamp_min(1.0)
        negative = self.ratio * negative * asked.positive.sum(1, keepdim=True)
        over = self.sharpness * (scores - 0.5)
        losses: torch.Tensor = asked.positive * softplus(-over) + negative * softplus(over)
        return losses.sum(1)


# Pairs that are held at once.
_PAIRS = 1 << 22


class BPR(Loss):
    """The loss; see the module."""

    name = "bpr"
    sharpness = 2.0
    reads_all_items = False

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        users = self.sharpness * user_vectors(batch, how=how)
        scores = touched_scores(batch, users)
        positive, negative = _pairs(scores, batch, negatives_of(batch).weights)
        return clipped_touched(scores, users, positive=positive, negative=negative, clipping=clipping)

    def of_scores(self, scores: torch.Tensor, asked: Asked, *, unobserved_weight: float) -> torch.Tensor:
        """log(1 + e^(a s_j - a s_i)) over the pairs of a yes i and a no j."""
        logits = self.sharpness * scores
        pairs = softplus(logits[:, None, :] - logits[:, :, None])
        return torch.einsum("ui,uij,uj->u", asked.positive, pairs, asked.negative)


def _pairs(scores: TouchedScores, batch: Batch, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """r on the histories [n_interactions] and on the negatives [n_users, n_negatives], in blocks of users."""
    histories, positive, negative = batch.histories, [], []
    yes, _ = positives_of(histories)
    most = int(histories.starts.diff().max()) if histories.n_users else 0
    step = max(1, _PAIRS // max(1, most * weights.shape[1]))
    for first in range(0, histories.n_users, step):
        last = min(first + step, histories.n_users)
        part = histories.block(first, last)
        low, high = int(histories.starts[first]), int(histories.starts[last])
        others = scores.negative[first:last].index_select(0, part.users)
        lost = sigmoid_(others - scores.positive[low:high, None]).mul_(weights[first:last][part.users])
        lost *= yes[low:high, None]
        positive.append(-lost.sum(1))
        negative.append(per_user(part, lost))
    if not positive:
        return scores.positive, scores.negative
    return torch.cat(positive), torch.cat(negative)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (ImplicitALS(), Softmax(), SampledSoftmax(), BCE(), BPR())}


def loss_of(name: str) -> Loss:
    """The loss of a name.

    Raises:
        ConfigurationError: there is no such loss.
    """
    checks.one_of(LOSSES, loss=name)
    return LOSSES[name]
