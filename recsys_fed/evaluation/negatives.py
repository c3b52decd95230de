"""Negatives for the sampled protocol, drawn from everything outside train.

The other test items of a user are candidates too: drawing from the items that the user never touched, test
included, would tell test items apart from the rest, and a model could learn to exploit it.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.checks import at_least
from recsys_fed.evaluation.held_out import HeldOut, hold_out

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
    excluded = _excluded(held_out)
    n_candidates = held_out.n_items - np.diff(excluded.indptr)
    ranks = _distinct_ranks(n_candidates, n, rng)
    negatives = _candidates_at(ranks, excluded)
    return SampledTrials(users=users, positives=positives, negatives=negatives)


def _excluded(held_out: HeldOut) -> csr_array:
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
