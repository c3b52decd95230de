"""softmax: a user's items against the whole catalogue, in blocks of items.

    L_u = sum_{i in H} (log Z - s_i),      Z = sum_i e^{s_i},      r_u = |H| p - 1 on H,      p = e^s / Z
    ||r_u||^2 = |H|^2 ||p||^2 - 2 |H| sum_{i in H} p_i + |H|

Two passes over the items: one for Z and ||p||, one for the sum. Users times one block of items is what is held.

*Rounding.* Let m = max_i s_i, e_i = exp(s_i - m), Z = sum e_i and S = sum e_i^2: p = e / Z, ||p||^2 = S / Z^2. What
is summed is the vector r with r_i = |H| e_i / Z - [i in H] for the Z that was computed, whatever its own error.

1. Scores are exact (see `exact_scores`), and so is m: all passes see the same ones.
2. e_i is zero where s_i - m < -745; elsewhere the difference is right to 745 u and exp to 4 u, for u = 2^-53, so that
   two computations of e_i agree to 2000 u of it. Blocks of 1024 items before the largest score are scaled by such a
   factor for each block after them; sums over n items add n u. So the three terms of ||r||^2 are right to
   t = (n + 4000 (n / 1024 + 5)) u of themselves, arithmetic included, which is below 2^-24 for up to 2^26 items
   (`_MOST_ITEMS`). With M = |H|^2 ||p||^2 + 2 |H| sum_{i in H} p_i + |H|, whatever cancels,

       ||r||^2 <= computed + 2 t M

3. The norm is taken to be sqrt(2^-19 M) at least. As M >= (|H| ||p|| + sqrt(|H|))^2 / 2, the parts of a clipped term
   are together not longer than 2^10 clip norms: their rounding is within the margin of `clip_factors`, and that of
   sums over users is what `rank_one.clipped_sum` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recsys_fed import checks
from recsys_fed.models.exact_scores import OnGrid, items_on_grid, users_on_grid
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn
from recsys_fed.models.observed import observed_scores
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.user_vectors import user_vectors

# Items and users of a block of scores: public, so that who else is there does not decide which scores meet.
_ITEMS, _USERS = 1 << 10, 1 << 11
# The proof's.
_MOST_ITEMS = 1 << 26
_CANCELLING = 2.0**-19


class Softmax:
    """The loss; see the module."""

    name = "softmax"
    sharpness = 2.0
    reads_all_items = True
    learning_rates = {"synchronous": 0.1, "local": 3.0}  # noqa: RUF012  (a constant of the loss)

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """The ridge of implicit ALS: a user's own softmax regression has no closed form."""
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> "SoftmaxSum":
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        checks.at_most(_MOST_ITEMS, n_items=len(batch.vectors))
        users = self.sharpness * user_vectors(batch, how=how).double()
        histories, sizes = batch.histories, batch.histories.starts.diff().double()
        items, folded = items_on_grid(batch.vectors), users_on_grid(users)
        folded = OnGrid(whole=folded.whole, scales=folded.scales * items.scales)
        highest, z, squares = _normalisers(items.whole, folded)
        # |H| / Z
        shares = sizes / z
        own = observed_scores(histories, folded.whole, items.whole) * folded.scales[histories.users]
        cross = shares * histories.per_user((own - highest[histories.users]).exp_())
        dense = shares.square() * squares
        parts = dense + 2 * cross + sizes
        bounds = (dense - 2 * cross + sizes).clamp_min_(0) + _rounding(len(batch.vectors)) * parts
        norms = torch.maximum(bounds, _CANCELLING * parts).sqrt_() * torch.linalg.vector_norm(users, dim=1)
        scaled = users * clip_factors(norms, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)[:, None]
        return SoftmaxSum(
            items=items.whole,
            histories=histories,
            users=folded,
            highest=highest,
            scaled=scaled,
            counted=scaled * shares[:, None],
            within=norms <= clipping.l2_clip_norm,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftmaxSum:
    """sum_u c_u r_u u^T of the softmax, formed in blocks of items.

    Attributes:
        items: V on its grid, float64 [n_items, dim].
        histories: over its rows.
        users: u on theirs, with the scales of the scores.
        highest: the largest score, float64 [n_users].
        scaled, counted: c_u u and |H| / Z c_u u, float64 [n_users, dim].
        within: whether a user's norm is at most the clip norm, bool [n_users]; private.
    """

    items: torch.Tensor
    histories: Histories
    users: OnGrid
    highest: torch.Tensor
    scaled: torch.Tensor
    counted: torch.Tensor
    within: torch.Tensor

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, as the first row of each block and the block, float64 [n_rows, dim]."""
        observed = torch.ones(len(self.histories.items), dtype=torch.float64, device=self.items.device)
        sparse = self.histories.transposed_times(observed, self.scaled)
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
