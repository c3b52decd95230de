"""Metrics as a release: sums over a silo's users that are bounded per user, so that noise makes them private.

A user with test items contributes (1, recall@20, ndcg@20) / sqrt(3), any other user nothing. The server divides
the noisy sums by the noisy number of users, which is post-processing.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse

from recsys_fed.evaluation.metrics import HEADLINE_CUTOFF, HEADLINE_NAMES
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.models.exact_scores import items_on_grid, users_on_grid
from recsys_fed.models.histories import Histories, UserHistories, for_each_block
from recsys_fed.models.items import ItemEmbeddings, user_vectors

# 1 / sqrt(3), and less than that by more than float64 rounds anywhere: all ones have a norm below 1.
_SCALE = (1 + len(HEADLINE_NAMES)) ** -0.5 * (1 - 1e-12)
# Below so many standard deviations of its noise the number of users says nothing, and neither do the ratios.
_CLEAR = 5.0


def metric_sums(
    model: ItemEmbeddings, histories: UserHistories, test: sparse.csr_matrix | None, *, l2_clip_norm: float
) -> torch.Tensor:
    """Silo: [1 + len(HEADLINE_NAMES), 1], number of users and sum of each metric, in units of l2_clip_norm / sqrt(3).

    Args:
        model: released.
        histories: what the silo's users have; they are folded in from it.
        test: csr [n_users, n_items], held-out interactions of the same users, or None.
        l2_clip_norm: norm of the contribution of a user whose metrics are all 1.

    Guarantees:
        - Unit: one user; neighbouring relation: add or remove one user. Each user adds a vector of norm at most
          l2_clip_norm that depends on that user's interactions and the model alone: L2 sensitivity l2_clip_norm.
          Scores are exact (see `exact_scores`), so that who else is measured cannot turn a tie.
        - In float64 the sums of n users are right to n^2 2^-53, which is within `ARITHMETIC_ERROR` for 2^20 users.
        - A silo without held-out interactions answers with zeros; no model makes the answer fail.
    """
    sums = torch.zeros(1 + len(HEADLINE_NAMES), 1, dtype=torch.float64)
    if test is None:
        return sums
    parts: dict[int, torch.Tensor] = {}

    def work(first: int, block: Histories) -> None:
        parts[first] = _sums_of_block(model, block, test[first : first + block.n_users])

    for_each_block(histories, work)
    # In the order of the users, whichever block was done first.
    for first in sorted(parts):
        sums += parts[first]
    bounded: torch.Tensor = sums * (_SCALE * l2_clip_norm)
    return bounded


def _sums_of_block(model: ItemEmbeddings, histories: Histories, test: sparse.csr_matrix) -> torch.Tensor:
    sums = torch.zeros(1 + len(HEADLINE_NAMES), 1, dtype=torch.float64)
    measurable = np.diff(test.indptr) > 0
    if not measurable.any():
        return sums
    # Users without test items have no metrics: nothing is computed for them.
    histories, test = histories.subset(torch.from_numpy(measurable).to(histories.device)), test[measurable]
    users, items = users_on_grid(user_vectors(model, histories)), items_on_grid(model.vectors)
    bias = model.bias.double().nan_to_num()

    def score(rows: slice) -> torch.Tensor:
        # No step of this rounds by what else is in the block, and none overflows.
        return (users.whole[rows] @ items.whole.T).mul_((users.scales[rows] * items.scales)[:, None]).add_(bias)

    measured = evaluate_ranking(
        score, train=histories.matrix(), test=test, cutoffs=(HEADLINE_CUTOFF,), whole_ranking=False, overwrite=True
    ).per_user
    sums[0] = len(measured[HEADLINE_NAMES[0]])
    for row, name in enumerate(HEADLINE_NAMES, start=1):
        sums[row] = float(measured[name].clip(0.0, 1.0).sum())
    return sums


def metrics_from_sums(
    total: torch.Tensor, *, noise_std: float, l2_clip_norm: float
) -> dict[str, Mapping[str, float]]:
    """Server: each metric over all silos with the standard deviation that its noise gives it.

    Nothing if the noisy number of users is not well above its noise.
    """
    users, *sums = (total[:, 0].double() / (_SCALE * l2_clip_norm)).tolist()
    deviation = noise_std / (_SCALE * l2_clip_norm)
    if users <= max(_CLEAR * deviation, 0.5):
        return {}
    found: dict[str, Mapping[str, float]] = {}
    for name, value in zip(HEADLINE_NAMES, sums, strict=True):
        mean = value / users
        found[name] = {"value": mean, "noise": deviation * math.sqrt(1 + mean**2) / users}
    return found
