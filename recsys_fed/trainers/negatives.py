"""Items that a user did not interact with, drawn for each user by a stream of the user's own.

The catalogue's rows are cut into as many strata as there are negatives, and one row is drawn from each, so no row
is drawn twice. The draw is a hash of (key, the user's own history, stratum): a function of nothing else, so that
another user more or less changes nobody's negatives, even where the key is public.
"""

from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories

# Of splitmix64 (Steele, Lea and Flood 2014), as signed 64-bit integers.
_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_MASK = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Negatives:
    """Negatives of a batch of users.

    Attributes:
        items: rows, int64 [n_users, n_negatives], ascending.
        weights: how many rows each stands for, those of its stratum; 0 for a row of the user's own history.
            float64 [n_users, n_negatives].
    """

    items: torch.Tensor
    weights: torch.Tensor


def draw_negatives(histories: Histories, *, count: int, key: int) -> Negatives:
    """One row of every stratum, uniform on it, for each user; at most as many strata as rows.

    Guarantees: a user's row of the result depends on `key`, on the number of rows and on that user's history alone.
    Weighted by `weights`, a sum over the negatives is on average the sum over all rows outside the history.
    """
    n_items, device = histories.n_items, histories.items.device
    count = min(count, n_items)
    bounds = torch.arange(count + 1, device=device) * n_items // max(count, 1)
    sizes = bounds.diff()
    streams = _mixed(_fingerprints(histories) ^ _mixed(torch.tensor(key, device=device)))
    numbers = _mixed(streams[:, None] + _GOLDEN * torch.arange(1, count + 1, device=device))
    items = bounds[:-1] + (numbers & _MASK) % sizes.clamp_min(1)
    weights = torch.where(_observed(histories, items), 0.0, sizes.double())
    return Negatives(items=items, weights=weights)


def _fingerprints(histories: Histories) -> torch.Tensor:
    """A number for each user's set of items, int64 [n_users]; the order of the items does not matter."""
    hashes = _mixed(histories.items.long() + 1)
    sums = torch.zeros(len(hashes) + 1, dtype=torch.int64, device=hashes.device)
    sums[1:] = hashes.cumsum(0)
    return sums[histories.starts].diff()


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64, on int64 that wrap around."""
    numbers = numbers + _GOLDEN
    numbers = (numbers ^ _shifted(numbers, 30)) * _FIRST
    numbers = (numbers ^ _shifted(numbers, 27)) * _SECOND
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: torch.Tensor, places: int) -> torch.Tensor:
    """Shift to the right, filled with zeros."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)


def _observed(histories: Histories, items: torch.Tensor) -> torch.Tensor:
    """Whether the user has the item already, bool like `items` [n_users, count]."""
    if not len(histories.items):
        return torch.zeros_like(items, dtype=torch.bool)
    # Ascending, as a user's items are.
    pairs = histories.users * histories.n_items + histories.items.long()
    wanted = torch.arange(histories.n_users, device=items.device)[:, None] * histories.n_items + items
    places = torch.searchsorted(pairs, wanted).clamp_max(len(pairs) - 1)
    return pairs[places] == wanted
