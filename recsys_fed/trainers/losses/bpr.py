"""bpr: what a user has ranks above what the user does not have (Rendle et al., arXiv 1205.2618).

    L_u = sum_{i in H} sum_{j in N} m_j log(1 + e^{s_j - s_i})

for a user's negatives N, each of which stands for m_j rows; all pairs of the two.
    r_i = -sum_j m_j p_ij on H,      r_j = m_j sum_i p_ij on N,      p_ij = 1 / (1 + e^{s_i - s_j}).
"""

import torch

from recsys_fed.models.items import FoldIn
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.touched import (
    TouchedScores,
    clipped_touched,
    negatives_of,
    per_user,
    sigmoid_,
    touched_scores,
)
from recsys_fed.trainers.losses.user_vectors import user_vectors
from recsys_fed.trainers.rank_one import ClippedSum

# Pairs that are held at once.
_PAIRS = 1 << 22


class BPR:
    """The loss; see the module."""

    name = "bpr"
    sharpness = 2.0
    reads_all_items = False
    learning_rates = {"synchronous": 0.1, "local": 3.0}  # noqa: RUF012  (a constant of the loss)

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """The ridge of implicit ALS: a user's own ranking problem has no closed form."""
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        users = self.sharpness * user_vectors(batch, how=how)
        scores = touched_scores(batch, users)
        positive, negative = _pairs(scores, batch, negatives_of(batch).weights)
        return clipped_touched(scores, users, positive=positive, negative=negative, clipping=clipping)


def _pairs(scores: TouchedScores, batch: Batch, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """r on the histories [n_interactions] and on the negatives [n_users, n_negatives], in blocks of users."""
    histories, positive, negative = batch.histories, [], []
    most = int(histories.starts.diff().max()) if histories.n_users else 0
    step = max(1, _PAIRS // max(1, most * weights.shape[1]))
    for first in range(0, histories.n_users, step):
        last = min(first + step, histories.n_users)
        part = histories.block(first, last)
        low, high = int(histories.starts[first]), int(histories.starts[last])
        others = scores.negative[first:last].index_select(0, part.users)
        lost = sigmoid_(others - scores.positive[low:high, None]).mul_(weights[first:last][part.users])
        positive.append(-lost.sum(1))
        negative.append(per_user(part, lost))
    if not positive:
        return scores.positive, scores.negative
    return torch.cat(positive), torch.cat(negative)
