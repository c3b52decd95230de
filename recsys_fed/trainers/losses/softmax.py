"""softmax: a user's items against the whole catalogue, in blocks of items.

    L_u = sum_{i in H} (log Z - s_i),      Z = sum_i e^{s_i},      r_u = |H| p - 1 on H,      p = e^s / Z
    ||r_u||^2 = |H|^2 ||p||^2 - 2 |H| sum_{i in H} p_i + |H|

Two passes over the items: one for Z and ||p||, one for the sum. Users times one block of items is what is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn
from recsys_fed.models.observed import observed_scores
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.user_vectors import user_vectors

# Scores that are held at once.
_SCORES = 1 << 21


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
        users, histories = self.sharpness * user_vectors(batch, how=how).double(), batch.histories
        log_z, squares = _normalisers(batch.vectors, users)
        sizes = histories.starts.diff().double()
        own = histories.per_user((observed_scores(histories, users, batch.vectors) - log_z[histories.users]).exp())
        left = (sizes.square() * squares - 2 * sizes * own + sizes).clamp_min(0)
        norms = (left * users.square().sum(1)).sqrt()
        factors = clip_factors(norms, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)
        usable = norms.isfinite()
        users = torch.where(usable[:, None], users, 0.0)
        return SoftmaxSum(
            vectors=batch.vectors,
            histories=histories,
            users=users,
            log_z=torch.where(usable, log_z, 0.0),
            left=users * factors[:, None],
            sizes=sizes * usable,
            within=norms <= clipping.l2_clip_norm,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftmaxSum:
    """sum_u c_u r_u u^T of the softmax, formed in blocks of items.

    Attributes:
        vectors: V [n_items, dim].
        histories: over its rows.
        users, log_z: u and log Z, float64 [n_users, dim] and [n_users].
        left: c_u u, float64 [n_users, dim].
        sizes: |H|, 0 for users whose gradient overflowed.
        within: whether a user's norm is at most the clip norm, bool [n_users]; private.
    """

    vectors: torch.Tensor
    histories: Histories
    users: torch.Tensor
    log_z: torch.Tensor
    left: torch.Tensor
    sizes: torch.Tensor
    within: torch.Tensor

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, as the first row of each block and the block, float64 [n_rows, dim]."""
        observed = torch.ones(len(self.histories.items), dtype=torch.float64, device=self.users.device)
        sparse = self.histories.transposed_times(observed, self.left)
        counted = self.left * self.sizes[:, None]
        for first, rows in _item_blocks(self.vectors, len(self.users)):
            shares = (rows @ self.users.T).sub_(self.log_z).exp_()
            yield first, shares @ counted - sparse[first : first + len(rows)]


def _normalisers(vectors: torch.Tensor, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log Z and ||p||^2 of every user, float64 [n_users], from one pass over blocks of items."""
    log_z = torch.full((len(users),), -torch.inf, dtype=torch.float64, device=users.device)
    log_squares = log_z.clone()
    for _, rows in _item_blocks(vectors, len(users)):
        scores = rows @ users.T
        log_z = torch.logaddexp(log_z, scores.logsumexp(0))
        log_squares = torch.logaddexp(log_squares, (2 * scores).logsumexp(0))
    return log_z, (log_squares - 2 * log_z).exp()


def _item_blocks(vectors: torch.Tensor, n_users: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows in float64. What is not finite there is zero, so that no user's presence shows in a NaN."""
    step = max(1, _SCORES // max(1, n_users))
    for first in range(0, len(vectors), step):
        rows = vectors[first : first + step].double()
        yield first, torch.where(rows.isfinite(), rows, 0.0)
