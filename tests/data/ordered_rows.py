"""Rows of users in any order, and what each user's ordered history must be, in plain Python."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import MISSING_TIME, Interactions, id_array
from recsys_fed.models.histories import Histories

N_ITEMS = 9
# The columns have another order than the items' codes, and two items are unknown.
CATALOGUE = Catalogue(item_ids=id_array([7, 3, 8, 0, 5, 1, 2]))
COLUMN_OF = {int(item): column for column, item in enumerate(CATALOGUE.item_ids)}


class Row(NamedTuple):
    """One interaction; None where it has no time, value or weight."""

    user: int
    item: int
    time: int | None
    value: float | None
    weight: float


@st.composite
def rows(draw, *, n_users=6):
    """Rows with every user and item together once at most, few times and so many ties, some without a time."""
    pairs = draw(
        st.lists(st.tuples(st.integers(0, n_users - 1), st.integers(0, N_ITEMS - 1)), unique=True, max_size=40)
    )
    times = st.one_of(st.none(), st.integers(0, 3), st.integers(1_700_000_000_000_000_000, 1_700_000_000_000_000_002))
    values = st.one_of(st.none(), st.integers(1, 5).map(float))
    return [Row(*pair, draw(times), draw(values), draw(st.sampled_from([0.25, 0.5, 1.0]))) for pair in pairs]


def interactions_of(some: list[Row], *, n_users: int = 6, **changes) -> Interactions:
    """The rows with all their columns, in their order; `changes` replace columns."""
    columns = {
        "time": np.array([MISSING_TIME if row.time is None else row.time for row in some], dtype=np.int64),
        "value": np.array([np.nan if row.value is None else row.value for row in some], dtype=np.float32),
        "weight": np.array([row.weight for row in some], dtype=np.float32),
    }
    return Interactions(
        user=np.array([row.user for row in some], dtype=np.int32),
        item=np.array([row.item for row in some], dtype=np.int32),
        user_ids=id_array(range(n_users)),
        item_ids=id_array(range(N_ITEMS)),
        **(columns | changes),
    )


def ordered(some: list[Row], *, n_users: int = 6) -> list[list[tuple]]:
    """For each user (column, time, value, weight) of the known items, from the earliest to the latest."""
    found: list[list[tuple]] = [[] for _ in range(n_users)]
    for row in some:
        if row.item in COLUMN_OF:
            found[row.user].append((COLUMN_OF[row.item], *row[2:]))
    # Sorting is stable: of equal times, and of none, the rows stay in their order.
    return [sorted(user, key=lambda one: (one[1] is not None, one[1] or 0)) for user in found]


def read_back(histories) -> list[list[tuple]]:
    """The same from histories in memory or on disk, block by block."""
    return [user for block in histories.blocks() for user in _users_of(block)]


def _users_of(block: Histories) -> list[list[tuple]]:
    signals, starts = block.signals, block.starts.tolist()
    assert signals is not None
    for first, last in pairwise(starts):
        assert sorted(signals.rank[first:last].tolist()) == list(range(last - first))
    return [
        [_entry(block, place) for place in block.by_order[first:last].tolist()] for first, last in pairwise(starts)
    ]


def _entry(block: Histories, place: int) -> tuple:
    time, value = int(block.signals.time[place]), float(block.signals.value[place])
    return (
        int(block.items[place]),
        None if time == MISSING_TIME else time,
        None if np.isnan(value) else value,
        float(block.signals.weight[place]),
    )


def chosen_users(data, n_users: int = 6) -> torch.Tensor:
    """Some of the users, drawn."""
    return torch.tensor(data.draw(st.lists(st.booleans(), min_size=n_users, max_size=n_users)))
