"""bce: every item is a yes or a no.

    L_u = sum_{i in H} log(1 + e^{-s_i}) + w sum_{j in N} m_j log(1 + e^{s_j})

for a user's negatives N, each of which stands for m_j rows.
    r_i = -1 / (1 + e^{s_i}) on H,      r_j = w m_j / (1 + e^{-s_j}) on N.
"""

from recsys_fed.models.items import FoldIn
from recsys_fed.trainers.losses.loss import Batch, Clipping
from recsys_fed.trainers.losses.touched import clipped_touched, negatives_of, sigmoid_, touched_scores
from recsys_fed.trainers.losses.user_vectors import user_vectors
from recsys_fed.trainers.rank_one import ClippedSum


class BCE:
    """The loss; see the module."""

    name = "bce"
    sharpness = 10.0
    ratio = 4.0
    reads_all_items = False
    learning_rates = {"synchronous": 0.1, "local": 3.0}  # noqa: RUF012  (a constant of the loss)

    def fold_in(self, *, unobserved_weight: float, regularization: float) -> FoldIn:
        """The ridge of implicit ALS: a user's own logistic regression has no closed form."""
        return FoldIn(kind="ridge", unobserved_weight=unobserved_weight, regularization=regularization)

    def clipped(self, batch: Batch, *, how: FoldIn, unobserved_weight: float, clipping: Clipping) -> ClippedSum:
        """The gradients, clipped and summed."""
        users = self.sharpness * user_vectors(batch, how=how)
        scores, weights = touched_scores(batch, users), negatives_of(batch).weights
        # As many noes as `ratio` times the yeses.
        sizes = batch.histories.starts.diff().double()
        weights = self.ratio * weights * (sizes / weights.sum(1).clamp_min(1.0))[:, None]
        middle = self.sharpness / 2
        return clipped_touched(
            scores,
            users,
            positive=-sigmoid_(middle - scores.positive),
            negative=weights * sigmoid_(scores.negative - middle),
            clipping=clipping,
        )
