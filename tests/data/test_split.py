from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.dataset import Dataset, clean_report
from recsys_fed.data.interactions import Interactions, id_array
from recsys_fed.data.split import METHODS, global_temporal, leave_last_out, per_user_random, shuffle_order, split
from recsys_fed.errors import ConfigurationError, DataError


@pytest.fixture
def make_dataset(make_interactions):
    def make(user, item, *, is_test=None, time=None):
        interactions = make_interactions(user, item, time=time)
        return Dataset(
            name="t",
            interactions=interactions,
            catalogue=Catalogue(item_ids=interactions.item_ids),
            report=clean_report("t", len(user)),
            is_test=is_test,
        )

    return make


def _rng(seed=0):
    return np.random.default_rng(seed)


def test_per_user_random_holds_out_the_share_of_each_user(make_interactions):
    user = np.repeat([0, 1, 2], [10, 100, 1])
    interactions = make_interactions(user.tolist(), np.arange(111).tolist())
    mask = per_user_random(interactions, test_fraction=0.2, rng=_rng())
    assert np.bincount(user, weights=mask).tolist() == [2, 20, 0]


def test_per_user_random_is_exact_on_average_for_short_histories(make_interactions):
    n_users = 20_000
    user = np.repeat(np.arange(n_users), 3).tolist()
    mask = per_user_random(make_interactions(user, [0, 1, 2] * n_users), test_fraction=0.1, rng=_rng())
    # The number held out of 3 is 0 or 1 with probability 0.3: 6 standard deviations are 390.
    assert abs(mask.sum() - 0.3 * n_users) < 390
    # Each of the three places is held out equally often.
    assert np.ptp(mask.reshape(n_users, 3).sum(axis=0)) < 300


def test_the_seed_decides(make_interactions):
    interactions = make_interactions([0] * 50, list(range(50)))
    first, again, other = (per_user_random(interactions, test_fraction=0.5, rng=_rng(s)) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_leave_last_out_takes_the_latest_and_of_equal_times_the_last_row(make_interactions):
    interactions = make_interactions([1, 0, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2], time=[5, 9, 3, 5, 1, 5])
    assert leave_last_out(interactions).nonzero()[0].tolist() == [1, 5]
    assert leave_last_out(interactions, n_last=2).nonzero()[0].tolist() == [1, 2, 3, 5]


def test_global_temporal_cuts_at_one_time_and_leaves_each_user_its_first(make_interactions):
    interactions = make_interactions([0, 0, 1, 1, 2], [0, 1, 0, 1, 0], time=[1, 7, 8, 9, 10])
    # The latest 80% are all but the first row; users 1 and 2 keep their earliest.
    assert global_temporal(interactions, test_fraction=0.8).tolist() == [False, True, False, True, False]
    assert global_temporal(interactions, test_fraction=0.4).tolist() == [False, False, False, True, False]


def test_splits_by_time_need_times(make_interactions):
    interactions = make_interactions([0, 0], [0, 1])
    with pytest.raises(DataError, match="with times"):
        leave_last_out(interactions)
    with pytest.raises(DataError, match="with times"):
        global_temporal(interactions, test_fraction=0.5)


def test_auto_is_the_given_split_where_there_is_one(make_dataset):
    given_mask = np.array([True, False, False])
    dataset = make_dataset([0, 1, 1], [0, 0, 1], is_test=given_mask)
    assert split(dataset, rng=_rng()).tolist() == given_mask.tolist()
    plain = make_dataset([0] * 10, list(range(10)))
    assert split(plain, rng=_rng()).sum() == 1
    with pytest.raises(DataError, match="come with a split"):
        split(plain, method="given", rng=_rng())


def test_bad_settings_are_refused(make_dataset):
    dataset = make_dataset([0, 0], [0, 1], time=[1, 2])
    with pytest.raises(ConfigurationError, match="one of auto, given, global-temporal"):
        split(dataset, method="guess", rng=_rng())
    for method in ("per-user-random", "global-temporal"):
        with pytest.raises(ConfigurationError, match="0 < test_fraction < 1, got 1"):
            split(dataset, method=method, test_fraction=1.0, rng=_rng())
    with pytest.raises(ConfigurationError, match="n_last to be an integer >= 1"):
        split(dataset, method="leave-last-out", n_last=0, rng=_rng())


def test_a_mask_of_another_length_is_no_given_split(make_dataset):
    with pytest.raises(DataError, match=r"is_test of shape \(2,\), got \(1,\)"):
        make_dataset([0, 0], [0, 1], is_test=np.array([True]))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=30),
    method=st.sampled_from(sorted(set(METHODS) - {"given"})),
    share=st.floats(0.01, 0.99),
)
def test_no_split_takes_all_of_a_user(rows, method, share):
    user = np.array([user for user, _ in rows], dtype=np.int32)
    dataset = _dataset(user, np.array([time for _, time in rows], dtype=np.int64))
    mask = split(dataset, method=method, test_fraction=share, n_last=3, rng=_rng())
    assert mask.dtype == np.bool_
    assert mask.shape == user.shape
    assert set(user[~mask].tolist()) == set(user.tolist())


def _dataset(user, time):
    ids = id_array(range(6))
    interactions = Interactions(user=user, item=user * 0, user_ids=ids, item_ids=ids, time=time)
    return Dataset(
        name="t",
        interactions=interactions,
        catalogue=Catalogue(item_ids=ids),
        report=clean_report("t", len(user)),
    )


def test_shuffled_order_moves_items_with_their_values_within_a_users_train_rows(make_interactions):
    user = [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0]
    interactions = replace(
        make_interactions(user, [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7], time=[7] * 12),
        value=np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7], dtype=np.float32),
    )
    train = np.array([True] * 10 + [False] * 2)
    found = shuffle_order(interactions, train, rng=_rng())
    assert (found.item[~train] == interactions.item[~train]).all()
    assert (found.item != interactions.item).any()
    assert (found.value == found.item).all()
    for one in (0, 1):
        own = interactions.user == one
        assert sorted(found.item[own]) == sorted(interactions.item[own])
    assert (found.time == interactions.time).all()
