"""implicit-als: squares on the history, and a weak pull of all scores towards zero (Hu, Koren and Volinsky 2008).

    L_u = sum_{i in H} (1 - s_i)^2 + w sum_i s_i^2,      r_u / 2 = w V u - (1 - s) on H

All items take part through V^T V and V (U^T diag(c) U), never as a matrix of users and items.
"""

from recsys_fed.models.items import FoldIn
from recsys_fed.models.observed import observed_scores
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.user_vectors import user_vectors
from recsys_fed.trainers.rank_one import ClippedSum, RankOneContributions, clip


class ImplicitALS:
    """The loss; see the module."""

    name = "implicit-als"
    reads_all_items = True
    learning_rates = {"synchronous": 0.1, "local": 3.0}  # noqa: RUF012  (a constant of the loss)

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """The minimum of the same loss in u, plus a ridge."""
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """Half the gradients, clipped and summed."""
        contributions = self.contributions(batch, how=how, unobserved_weight=unobserved_weight)
        return clip(contributions, l2_clip_norm=clipping.l2_clip_norm, mode=clipping.mode)

    def contributions(self, batch: Batch, *, how: FoldIn, unobserved_weight: float) -> RankOneContributions:
        """Half the gradient of every user, as rank-one contributions."""
        users = user_vectors(batch, how=how)
        fitted = observed_scores(batch.histories, users, batch.vectors)
        return RankOneContributions(
            histories=batch.histories,
            values=fitted - 1.0,
            basis=batch.vectors,
            coefficients=unobserved_weight * users.double(),
            right=users,
            reads=unobserved_weight * fitted,
            gramian=batch.gramian,
        )
