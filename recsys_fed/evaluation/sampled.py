"""The sampled protocol: one test item ranked among a few drawn negatives, "1 + 99" in arXiv 1708.05031.

For comparison with such papers only. Sampled metrics need not order models as the full ranking does (Krichene
and Rendle 2020, doi 10.1145/3394486.3403226), so every name here says "sampled"; `evaluate_ranking` gives
the headline.
"""

from collections.abc import Sequence

import numpy as np
import torch

from recsys_fed.checks import at_least
from recsys_fed.errors import DataError
from recsys_fed.evaluation.metrics import METRICS, reciprocal_rank
from recsys_fed.evaluation.negatives import NO_ITEM
from recsys_fed.evaluation.protocol import RankingMetrics, check_cutoffs
from recsys_fed.evaluation.scorer import Scorer, score_block

_REPORTED = ("hr", "ndcg")


def evaluate_sampled(
    score: Scorer,
    *,
    users: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    n_items: int,
    cutoffs: Sequence[int] = (10,),
    block_users: int = 1024,
) -> RankingMetrics:
    """Rank each positive among its own negatives and measure the position.

    rank = 1 + #{negatives that score at least as high}: ties count against the model, so that constant scores
    give a hit rate of 0 (at k <= n_negatives) and not of 1. A positive that stands among its own negatives
    does not compete with itself; published tables of negatives hold such entries.

    Args:
        score: maps a slice of user rows to finite scores [n_block, n_items]; it is called once for each block
            of rows that holds one of `users`.
        users: int [n], row of the user of each trial; a user may come more than once, in any order.
        positives: int [n], the test item of each trial.
        negatives: int [n, n_negatives]; `NO_ITEM` (-1) stands for a negative that could not be drawn and
            never ranks above the positive.
        n_items: size of the catalogue.
        cutoffs: list lengths k to report.
        block_users: width of a block of user rows; it bounds the memory and does not change the result.

    Returns:
        "sampled_hr@k", "sampled_ndcg@k" for every k and "sampled_mrr", per trial in the order of `users`.

    Raises:
        ConfigurationError: a number is below 1, or the scores are of the wrong shape or type or not finite.
        DataError: there is no trial, the lengths differ, or an index is out of range.
    """
    check_cutoffs(cutoffs)
    at_least(1, block_users=block_users, n_items=n_items)
    _check_trials(users, positives, negatives, n_items)
    candidates = np.column_stack([positives, negatives]).astype(np.int64)
    ranks = torch.zeros(len(users), dtype=torch.int64)
    blocks = users // block_users
    for block in np.unique(blocks):
        trials = np.flatnonzero(blocks == block)
        rows = slice(int(block) * block_users, int(users[trials].max()) + 1)
        scores = score_block(score, rows, n_items)
        ranks[torch.from_numpy(trials)] = _ranks(scores, users[trials] - rows.start, candidates[trials])
    return RankingMetrics(users=users, per_user=_measure(ranks, cutoffs), catalogue={})


def _check_trials(users: np.ndarray, positives: np.ndarray, negatives: np.ndarray, n_items: int) -> None:
    if not (users.ndim == 1 and users.shape == positives.shape and negatives.shape[:-1] == users.shape):
        raise DataError(
            "Expected users [n], positives [n] and negatives [n, n_negatives], got other shapes. "
            "Give one entry or row per trial to all three."
        )
    if not users.size:
        raise DataError("Expected at least one trial, got none. Check the split.")
    if users.min() < 0 or positives.min() < 0 or positives.max() >= n_items:
        raise DataError(f"Expected users >= 0 and positives in 0..{n_items - 1}, got one outside. Reindex them.")
    if negatives.size and (negatives.min() < NO_ITEM or negatives.max() >= n_items):
        raise DataError(f"Expected negatives in {NO_ITEM}..{n_items - 1}, got one outside. Reindex them.")


def _ranks(scores: torch.Tensor, users: np.ndarray, candidates: np.ndarray) -> torch.Tensor:
    """Ranks [n] of the first of each row of `candidates` [n, 1 + n_negatives] among that row."""
    rows = torch.from_numpy(users).to(scores.device)[:, None]
    items = torch.from_numpy(candidates).to(scores.device)
    values = scores[rows, items.clamp(min=0)]
    competes = (items[:, 1:] != NO_ITEM) & (items[:, 1:] != items[:, :1])
    return (1 + (competes & (values[:, 1:] >= values[:, :1])).sum(dim=1)).cpu()


def _measure(ranks: torch.Tensor, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    hits = ranks[:, None] == torch.arange(1, max(cutoffs) + 1)
    one_relevant = torch.ones_like(ranks)
    values = {
        f"sampled_{name}@{k}": METRICS[name](hits, one_relevant, k).numpy() for name in _REPORTED for k in cutoffs
    }
    return values | {"sampled_mrr": reciprocal_rank(ranks).numpy()}
