"""One total order of the items of each user: by score, and among equal scores by lower item row.

The tie rule looks at nothing but the row number of the item, so it cannot favour test items, and it gives the
same list on every machine: the order in which `torch.topk` returns equal scores is not specified.
"""

from collections.abc import Callable

import torch

# A row so long that its maxima by groups are worth a pass of their own.
_LONG_ROW, _GROUP = 1 << 13, 64


def top_items(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k items that rank first.

    Args:
        scores: floating [n_users, n_items]; -inf is allowed and ranks last.
        k: length of the lists, at least 1.

    Returns:
        int64 [n_users, min(k, n_items)], item rows, best first.
    """
    n_items = scores.shape[1]
    k = min(k, n_items)
    # One value more than asked for shows which lists end inside a group of equal scores.
    values, items = _largest(scores, min(k + 1, n_items))
    items = items[:, :k]
    if n_items > k:
        tied = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        items[tied] = _lowest_rows(scores[tied], values[tied, :k])
    # Rows ascending first; the stable sort by score then keeps that order among equals.
    items = items.sort(dim=1).values
    order = scores.gather(1, items).sort(dim=1, descending=True, stable=True).indices
    return items.gather(1, order)


def _largest(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk` over rows: the values are its values; which of equal scores it names is as unspecified.

    In a long row the k groups with the largest maxima hold k largest scores, and the maxima cost one plain pass.
    """
    n_users, n_items = scores.shape
    n_groups = n_items // _GROUP
    if n_items < _LONG_ROW or n_groups < 2 * k:
        return torch.topk(scores, k, dim=1)
    maxima = scores[:, : n_groups * _GROUP].reshape(n_users, n_groups, _GROUP).amax(2)
    groups = torch.topk(maxima, k, dim=1, sorted=False).indices
    inside = groups[:, :, None] * _GROUP + torch.arange(_GROUP, device=scores.device)
    rest = torch.arange(n_groups * _GROUP, n_items, device=scores.device).expand(n_users, -1)
    candidates = torch.cat((inside.flatten(1), rest), dim=1)
    values, places = torch.topk(scores.gather(1, candidates), k, dim=1)
    return values, candidates.gather(1, places)


def _lowest_rows(scores: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Items above the last of the k `best` scores, and the lowest rows of those at it; rows ascending."""
    k = best.shape[1]
    threshold = best[:, -1:]
    room = (best == threshold).sum(dim=1, keepdim=True)
    at = scores == threshold
    chosen = (scores > threshold) | (at & (at.cumsum(dim=1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)


def first_relevant_rank(scores: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return the rank of the best-ranked relevant item of each user, by counting what is before it.

    Args:
        scores: floating [n_users, n_items].
        users, items: int64 [n_relevant], the relevant pairs as rows and columns of `scores`; every user
            must be there at least once.

    Returns:
        int64 [n_users], 1 for the top of the list.
    """
    n_users, n_items = scores.shape
    at_pairs = scores[users, items]
    best = scores.new_full((n_users,), -torch.inf).scatter_reduce(0, users, at_pairs, "amax")
    rows = torch.where(at_pairs == best[users], items, n_items)
    best_row = rows.new_full((n_users,), n_items).scatter_reduce(0, users, rows, "amin")
    return 1 + _count(torch.gt, scores, best) + _equal_before(scores, best, best_row)


def area_under_curve(scores: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return the chance that a relevant item scores higher than another candidate, ties one half, for each user.

    By the sum of the relevant items' ranks (Mann and Whitney 1947, doi 10.1214/aoms/1177730491), exactly.

    Args:
        scores: floating [n_users, n_items]; items at -inf are no candidates.
        users, items: int64 [n_relevant], the relevant pairs as rows and columns of `scores`, candidates all; every
            user must be there at least once.

    Returns:
        float64 [n_users] in [0, 1]; one half where a user has no other candidate.
    """
    ascending = scores.sort(dim=1).values
    place = (torch.arange(len(users), device=users.device) - torch.searchsorted(users, users)).long()
    n_relevant = torch.bincount(users, minlength=len(scores))
    # Every user's relevant scores side by side; what fills the rows up is not read.
    wanted = scores.new_zeros(len(scores), int(n_relevant.max()))
    wanted[users, place] = scores[users, items]
    below, through = (torch.searchsorted(ascending, wanted, right=right)[users, place] for right in (False, True))
    excluded = torch.isneginf(scores).sum(1)
    # Twice the mean rank among equals, so that all is whole numbers.
    twice = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    twice.index_add_(0, users, below + through + 1 - 2 * excluded[users])
    others = scores.shape[1] - excluded - n_relevant
    pairs = 2 * n_relevant * others
    return torch.where(pairs > 0, (twice - n_relevant * (n_relevant + 1)).double() / pairs.clamp_min(1), 0.5)


def _equal_before(scores: torch.Tensor, value: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """How many items of each user score exactly `value` and come before the item `row`, which does too."""
    n_before = torch.zeros_like(row)
    tied = (_count(torch.eq, scores, value) > 1).nonzero().squeeze(1)
    columns = torch.arange(scores.shape[1], device=scores.device)
    equal = scores[tied] == value[tied, None]
    n_before[tied] = (equal & (columns < row[tied, None])).sum(dim=1)
    return n_before


def _count(compare: Callable[..., torch.Tensor], scores: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """How many items of each user compare true with `value`."""
    # Ones written as floats add up several times faster than booleans, exactly below 2**24 items.
    ones = torch.empty_like(scores)
    return compare(scores, value[:, None], out=ones).sum(dim=1).long()
