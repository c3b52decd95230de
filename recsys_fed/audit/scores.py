"""White-box scores: the projection of everything that was released on each canary's own contribution.

For canary j in view v (a silo's releases, or the sum's) with contribution g_jr in round r, noise of standard
deviation s_r on each entry, the others' contribution b_vr known to the auditor, and half of every canary taken off:

    score_j = sum_r <Y_vr - b_vr - 1/2 sum_{i in v} g_ir, g_jr> / s_r^2

If contributions are orthogonal this is the log-likelihood ratio of "in" against "out", the best score there is.
Everything but the coins is known to the auditor, as to the adversary of the definition.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.audit.mechanisms.mechanism import SUM, label
from recsys_fed.federation.messages import Request
from recsys_fed.federation.metrics_round import STAGE as METRICS_STAGE
from recsys_fed.models.histories import histories_of
from recsys_fed.trainers.trainer import Trainer

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Contributions of all canaries in one round, float32 [n_canaries, entries], in the unit of the sum."""

    request: Request
    table: npt.NDArray[np.float32]

    @property
    def norms(self) -> npt.NDArray[np.float64]:
        """Length of each, in clip norms."""
        squares = np.einsum("ij,ij->i", self.table, self.table, dtype=np.float64)
        return np.asarray(np.sqrt(squares) / self.request.l2_clip_norm)

    def interference(self) -> float:
        """What the other canaries add to the variance of a score, in squared lengths, on average: 0 if orthogonal."""
        gram = np.abs(self.table @ self.table.T).astype(np.float64)
        np.fill_diagonal(gram, 0.0)
        return float(np.mean(np.sum(gram**2, axis=1)) / 4 / self.request.l2_clip_norm**4)


def attackable(request: Request) -> bool:
    """Whether canaries are in this release at all: they hold out nothing, so metrics know nothing of them."""
    return request.stage != METRICS_STAGE


def directions(request: Request, trainer: Trainer, canaries: sparse.csr_matrix) -> Directions:
    """Each canary's own contribution to what the request asks for, by the trainer's own code."""
    settings = {**request.settings, "l2_clip_norm": request.l2_clip_norm}
    weight = request.steps * request.sampling_probability if request.noise_inside else 1.0
    users = histories_of(canaries)
    table = np.empty((users.n_users, request.shape[0] * request.shape[1]), dtype=np.float32)
    for row in range(users.n_users):
        one = trainer.contribution(request.stage, request.tables, users.block(row, row + 1), settings=settings)
        table[row] = one.numpy().ravel()
    table *= weight
    return Directions(request=request, table=table)


def round_scores(
    found: Directions,
    seen: Mapping[str, Integers],
    others: Mapping[str, Integers],
    *,
    silo_of_canary: npt.NDArray[np.int64],
    deviation: float,
) -> npt.NDArray[np.float64]:
    """One round's part of the scores, float64 [n_canaries].

    Args:
        found: the canaries' contributions.
        seen: what the server saw, in grid steps, by view.
        others: what it would have seen of the ordinary users alone and without noise.
        silo_of_canary: which silo each canary is in, or would be in; -1 for one whose silo is not seen.
        deviation: of the noise on each entry, in grid steps; 0 counts as 1.
    """
    step, scores = found.request.grid_step, np.zeros(len(found.table))
    labels = np.array([label(silo) for silo in silo_of_canary])
    variance = (max(deviation, 1.0) * step) ** 2
    for view, released in seen.items():
        here = silo_of_canary >= 0 if view == SUM else labels == view
        if not here.any():
            continue
        table = found.table[here]
        residual = (released - others[view]).ravel() * step - 0.5 * table.sum(0, dtype=np.float64)
        scores[here] = table @ residual.astype(np.float32) / variance
    return scores
