from dataclasses import replace

import numpy as np
import pytest

from recsys_fed.data.interactions import MISSING_TIME, Interactions, id_order
from recsys_fed.errors import DataError


def test_select_keeps_the_tables_of_ids(make_interactions):
    whole = make_interactions([0, 1, 2], [0, 1, 1], time=[5, 6, 7], value=[1, 2, 3])
    part = whole.select(np.array([False, False, True]))
    assert (len(part), part.n_users, part.n_items) == (1, 3, 2)
    assert (part.user.tolist(), part.item.tolist()) == ([2], [1])
    assert (part.time.tolist(), part.value.tolist()) == ([7], [3.0])


def test_select_keeps_every_column_and_what_times_are(make_interactions):
    whole = replace(
        make_interactions([0, 1], [0, 1], time=[5, MISSING_TIME], value=[1, np.nan]),
        clock=False,
        weight=np.array([0.5, 1.0], dtype=np.float32),
    )
    part = whole.select(np.array([False, True]))
    assert (part.time.tolist(), part.clock, part.weight.tolist()) == ([MISSING_TIME], False, [1.0])
    assert np.isnan(part.value).tolist() == [True]


@pytest.mark.parametrize("mask", [np.array([1, 0]), np.array([True])])
def test_select_refuses_what_is_no_mask(make_interactions, mask):
    with pytest.raises(DataError, match=r"bool mask of shape \(2,\)"):
        make_interactions([0, 1], [0, 0]).select(mask)


@pytest.mark.parametrize("code", [-1, 2])
def test_a_code_outside_of_its_table_is_refused(code):
    ids = np.array(["a", "b"], dtype=object)
    one = np.array([0])
    with pytest.raises(DataError, match=r"item codes in \[0, 2\)"):
        Interactions(user=one, item=np.array([code]), user_ids=ids, item_ids=ids)


def test_columns_of_different_length_are_refused(make_interactions):
    with pytest.raises(DataError, match=r"time of shape \(2,\), got \(3,\)"):
        make_interactions([0, 1], [0, 0], time=[1, 2, 3])


@pytest.mark.parametrize(
    ("ids", "ordered"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["2", "02", "1"], ["1", "02", "2"]),
        (["²", "10", "9"], ["10", "9", "²"]),
        (["9" * 30, "10"], ["10", "9" * 30]),
        ([], []),
    ],
)
def test_ids_are_ordered_by_number_only_if_all_are_numbers(ids, ordered):
    assert [ids[place] for place in id_order(ids)] == ordered
