"""Sums over users that are exact: users' vectors are integers before they are added.

A user's vector is cut off at multiples of UNIT clip norms (towards zero, so that it never gets longer). Integers add
up without rounding, so the sum depends on nothing but the set of users: not on their order, on blocks, threads, ranks
or devices. What floating-point summation would add to the sensitivity is zero.
"""

from threading import Lock

import torch

from recsys_fed.models.histories import PARTS, Histories

# 2^-26 clip norms: 1e-5 of an entry of a user with thousands of interactions.
UNIT = 2.0**-26
# Longest vector of a user, in clip norms. 2^31 units, so that the sums of 2^22 users are exact in float64.
LONGEST = 2.0**5
# Rows of a product that are held at once: 64 MB at 32 columns.
_ITEM_ROWS = 1 << 18
# Whole parts of units of so many users are exact in float64.
_MOST_USERS = 1 << 17


def in_units(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length at most LONGEST, as whole numbers of units in float64; never longer than before.

    Guarantees: ||in_units(v) * UNIT|| <= ||v||. What is not finite becomes zero.
    """
    units = torch.nan_to_num(vectors.double() * (1 / UNIT), nan=0.0, posinf=0.0, neginf=0.0)
    return units.clamp_(-LONGEST / UNIT, LONGEST / UNIT).trunc_()


def add_by_item(
    total: torch.Tensor, block: Histories, units: torch.Tensor, *, rows: torch.Tensor, adding: Lock
) -> None:
    """Add PARTS sum_u w_ui units_u to row k of `total` (int64 [n_rows, k]), where i = rows[k], rows ascending.

    `units` [n_users, k] holds whole numbers in float64, at most LONGEST / UNIT. w_ui are the block's weights, ones
    without any; times PARTS they are whole. Parts of the catalogue without one of `rows` are passed over. Several
    threads may add to one total under one lock.
    """
    if not len(block.items) or not units.shape[1]:
        return
    if block.weights is not None and block.n_users > _MOST_USERS:
        for first in range(0, block.n_users, _MOST_USERS):
            last = min(first + _MOST_USERS, block.n_users)
            add_by_item(total, block.block(first, last), units[first:last], rows=rows, adding=adding)
        return
    for first in range(0, block.n_items, _ITEM_ROWS):
        last = min(first + _ITEM_ROWS, block.n_items)
        low, high = (int(torch.searchsorted(rows, bound)) for bound in (first, last))
        if low < high:
            product = _rows_of_product(block, units, first=first, last=last)
            added = product.index_select(0, rows[low:high] - first).long()
            if block.weights is None:
                added *= PARTS
            with adding:
                total[low:high] += added


def _rows_of_product(block: Histories, units: torch.Tensor, *, first: int, last: int) -> torch.Tensor:
    """Rows first to last - 1 of X^T Y, float64, with ones as the entries of X, or PARTS times the weights."""
    starts = block.item_starts[first : last + 1]
    low, high = int(starts[0]), int(starts[-1])
    users = block.users_by_item[low:high]
    if block.weights is None:
        entries = torch.ones(high - low, dtype=torch.float64, device=units.device)
    else:
        entries = PARTS * block.weights.index_select(0, block.order[low:high])
    if not len(entries):
        return torch.zeros(last - first, units.shape[1], dtype=torch.float64, device=units.device)
    places, shape = (starts - low).to(users.dtype), (last - first, block.n_users)
    return torch.sparse_csr_tensor(places, users, entries, size=shape, check_invariants=False) @ units
