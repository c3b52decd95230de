"""Gradients that touch few rows: those of a user's history and of the user's negatives, each row once."""

from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.observed import observed_scores
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.negatives import Negatives
from recsys_fed.trainers.rank_one import ClippedSum, RankOneContributions, clip


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


def negatives_of(batch: Batch) -> Negatives:
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
