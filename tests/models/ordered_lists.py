"""Histories in order from lists of items, the oldest first."""

import numpy as np
import torch
from hypothesis import strategies as st

from recsys_fed.models.histories import Histories, Signals

N_ITEMS = 6
users = st.lists(
    st.permutations(range(N_ITEMS)).flatmap(lambda items: st.integers(0, N_ITEMS).map(lambda n: items[:n])),
    max_size=5,
)


def histories_in_order(lists, times=None):
    """Histories of lists of items, the oldest first; rows are sorted by item, as everywhere."""
    items = [item for one in lists for item in sorted(one)]
    rank = [one.index(item) for one in lists for item in sorted(one)]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    columns = {"rank": torch.tensor(rank, dtype=torch.int32)}
    if times is not None:
        stamps = [time[one.index(item)] for one, time in zip(lists, times, strict=True) for item in sorted(one)]
        columns["time"] = torch.tensor(stamps, dtype=torch.int64)
    return Histories(
        items=torch.tensor(items, dtype=torch.int32), starts=torch.from_numpy(starts).long(), n_items=N_ITEMS,
        signals=Signals(**columns),
    )  # fmt: skip
