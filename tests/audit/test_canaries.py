"""Crafted users: histories, coins, and the federation that they are put into."""

import numpy as np
import pytest
from scipy import sparse
from small_audit import small_audit

from recsys_fed.audit._audited_run import _crafted_canaries


@pytest.mark.parametrize(("count", "n_head"), [(100, 900), (300, 700), (500, 300), (40, 9), (5, 1)])
def test_histories_spread_evenly_over_the_head_and_no_further(count, n_head):
    popularity = np.random.default_rng(0).permutation(1_000).astype(float)
    canaries = _crafted_canaries(popularity, count=count, n_head=n_head, rng=np.random.default_rng(1))
    head = np.argsort(-popularity)[:n_head]
    used = np.asarray(canaries.histories.sum(axis=0)).ravel()
    assert len(canaries) == canaries.histories.shape[0] == count
    assert not used[np.setdiff1d(np.arange(1_000), head)].any()
    assert len(set(np.diff(canaries.histories.indptr))) == 1
    assert used[used > 0].max() - used[used > 0].min() <= 3
    if count * 2 <= n_head:
        overlap = (canaries.histories @ canaries.histories.T).toarray()
        assert not (overlap - np.diag(np.diag(overlap))).any(), "there is room for disjoint histories"


def test_coins_are_fair_and_follow_the_generator_alone():
    popularity = np.arange(500.0)
    one, again, other = (
        _crafted_canaries(popularity, count=2_000, n_head=400, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert abs(one.included.mean() - 0.5) < 0.05
    assert np.array_equal(one.included, again.included)
    assert not np.array_equal(one.included, other.included)


def test_canaries_are_in_the_files_of_the_run_exactly_if_their_coin_says_so():
    placed = small_audit(8.0).run.placed
    train, histories = placed.federation.train, placed.canaries.histories
    everybody = np.concatenate([*placed.others])
    there = np.setdiff1d(np.arange(train.shape[0]), everybody)
    assert len(there) == placed.canaries.included.sum()
    assert sorted(map(bytes, rows(train[there]))) == sorted(map(bytes, rows(histories[placed.canaries.included])))
    assert not placed.federation.test[there].nnz, "canaries hold nothing out"
    for index, users in enumerate(placed.federation.users_of_silo):
        mine = np.flatnonzero(placed.canaries.included & (placed.silo_of_canary == index))
        here = np.intersect1d(users, there)
        assert sorted(map(bytes, rows(train[here]))) == sorted(map(bytes, rows(histories[mine])))


def test_withheld_users_are_gone():
    placed = small_audit(8.0).run.placed
    assert placed.withheld.shape[0] == 60
    assert len(np.concatenate(placed.others)) == 340


def rows(matrix):
    return np.asarray(sparse.csr_matrix(matrix).todense(), dtype=np.uint8)
