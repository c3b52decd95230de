"""sampled-softmax: the softmax over all items with its sum over the unobserved ones estimated from negatives.

    L_u = sum_{i in H} (log Z - s_i),      Z = sum_{i in H} e^{s_i} + sum_{j in N} m_j e^{s_j}

for a user's negatives N, each of which stands for m_j rows, so that Z is right on average; with as many negatives
as rows it is the softmax itself.
    r_i = |H| e^{s_i} / Z - 1 on H,      r_j = |H| m_j e^{s_j} / Z on N.
"""

import torch

from recsys_fed.models.items import FoldIn
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.touched import clipped_touched, negatives_of, touched_scores
from recsys_fed.trainers.losses.user_vectors import user_vectors
from recsys_fed.trainers.rank_one import ClippedSum


class SampledSoftmax:
    """The loss; see the module."""

    name = "sampled-softmax"
    sharpness = 2.0
    reads_all_items = False
    learning_rates = {"synchronous": 0.1, "local": 3.0}  # noqa: RUF012  (a constant of the loss)

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """The ridge of implicit ALS: a user's own softmax regression has no closed form."""
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed; `unobserved_weight` plays no part."""
        users, histories = self.sharpness * user_vectors(batch, how=how), batch.histories
        scores, weights = touched_scores(batch, users), negatives_of(batch).weights
        # Scores are taken from the user's largest one: Z is then between 1 and the number of rows.
        highest = scores.negative.amax(1) if weights.shape[1] else scores.positive.new_zeros(histories.n_users)
        highest = highest.scatter_reduce(0, histories.users, scores.positive, "amax")
        positive = (scores.positive - highest[histories.users]).exp()
        negative = weights * (scores.negative - highest[:, None]).exp()
        sizes = histories.starts.diff().double()
        factors = sizes / (histories.per_user(positive) + negative.sum(1)).clamp_min(torch.finfo(torch.float64).tiny)
        return clipped_touched(
            scores,
            users,
            positive=factors[histories.users] * positive - 1.0,
            negative=factors[:, None] * negative,
            clipping=clipping,
        )
