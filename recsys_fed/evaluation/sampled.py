"""The sampled protocol: one test item ranked among a few drawn negatives, "1 + 99" in arXiv 1708.05031.

For comparison with such papers only. Sampled metrics need not order models as the full ranking does (Krichene
and Rendle 2020, doi 10.1145/3394486.3403226), so every name here says "sampled"; `evaluate_ranking` gives
the headline.

Negatives are drawn from everything outside train. The other test items of a user are candidates too: drawing from
the items that the user never touched, test included, would tell test items apart from the rest, and a model could
learn to exploit it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.checks import at_least
from recsys_fed.errors import DataError
from recsys_fed.evaluation.metrics import SAMPLED_METRICS, reciprocal_rank
from recsys_fed.evaluation.protocol import HeldOut, RankingMetrics, Scorer, check_cutoffs, hold_out, score_block

NO_ITEM = -1
"""Stands in a table of negatives where a user has no candidate left."""


@dataclass(frozen=True, kw_only=True)
class SampledTrials:
    """One trial per test interaction, in the order of users and then items.

    Attributes:
        users: int64 [n_trials], row of the user.
        positives: int64 [n_trials], the test item.
        negatives: int64 [n_trials, n], distinct within a row, `NO_ITEM` at the end where candidates ran out.
    """

    users: np.ndarray = field(repr=False)
    positives: np.ndarray = field(repr=False)
    negatives: np.ndarray = field(repr=False)


def draw_negatives(
    train: csr_matrix | csr_array, test: csr_matrix | csr_array, *, n: int, rng: np.random.Generator
) -> SampledTrials:
    """Draw n negatives for every test interaction, uniformly and without replacement.

    The candidates of a trial are all items that are neither in the user's train row nor the positive itself.
    A user with fewer than n candidates gets them all, then `NO_ITEM`.

    Args:
        train: sparse [n_users, n_items].
        test: sparse [n_users, n_items], without entries of `train`.
        n: negatives of a trial, at least 1.
        rng: where the draws come from; the same state gives the same table.

    Returns:
        The trials, whose fields are the arguments of `evaluate_sampled`.

    Raises:
        ConfigurationError: n is below 1.
        DataError: the matrices differ in shape, share an entry, or there is no test interaction.
    """
    at_least(1, n=n)
    held_out = hold_out(train, test)
    users, positives = held_out.test_pairs()
    excluded = _exclude(held_out)
    n_candidates = held_out.n_items - np.diff(excluded.indptr)
    ranks = _distinct_ranks(n_candidates, n, rng)
    negatives = _candidates_at(ranks, excluded)
    return SampledTrials(users=users, positives=positives, negatives=negatives)


def _exclude(held_out: HeldOut) -> csr_array:
    """Pattern [n_trials, n_items] of what a trial may not draw: train row and positive."""
    users, positives = held_out.test_pairs()
    own = csr_array(
        (np.ones_like(positives), positives, np.arange(len(users) + 1)), shape=(len(users), held_out.n_items)
    )
    excluded = csr_array(held_out.train[users] + own)
    excluded.sort_indices()
    return excluded


def _distinct_ranks(n_candidates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform n-subsets of 0..n_candidates-1, one per row, by Floyd's algorithm (CACM 30(9), 1987).

    For j = c - m, ..., c - 1: draw t from 0..j and take t, or j where t is taken already. m = min(n, c).
    """
    ranks = np.full((len(n_candidates), n), NO_ITEM, dtype=np.int64)
    first = n_candidates - np.minimum(n, n_candidates)
    for step in range(n):
        last = first + step
        drawn = rng.integers(0, last + 1)
        taken = (ranks[:, :step] == drawn[:, None]).any(axis=1)
        ranks[:, step] = np.where(last < n_candidates, np.where(taken, last, drawn), NO_ITEM)
    return ranks


def _candidates_at(ranks: np.ndarray, excluded: csr_array) -> np.ndarray:
    """Turn the rank of a candidate among the items not excluded into the item, row by row.

    With the excluded items e_0 < e_1 < ... of a row, e_j - j candidates come before e_j. The candidate of
    rank r is thus item r + #{j : e_j - j <= r}.
    """
    n_rows, n_items = excluded.shape
    starts = excluded.indptr[:-1].astype(np.int64)
    row_of = np.repeat(np.arange(n_rows), np.diff(excluded.indptr))
    candidates_before = excluded.indices - (np.arange(excluded.nnz) - starts[row_of])
    # Keys ascend over the whole table, so one binary search serves all rows.
    keys = row_of * (n_items + 1) + candidates_before
    wanted = np.arange(n_rows)[:, None] * (n_items + 1) + ranks
    passed = np.searchsorted(keys, wanted, side="right") - starts[:, None]
    return np.where(ranks == NO_ITEM, NO_ITEM, ranks + passed)


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
        f"sampled_{metric.at(k)}": metric.values(hits, one_relevant, k).numpy()
        for metric in SAMPLED_METRICS
        for k in cutoffs
    }
    return values | {"sampled_mrr": reciprocal_rank(ranks).numpy()}
