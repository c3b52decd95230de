"""Scores without rounding: two tables are rounded to grids once, and their products are then whole numbers.

A matrix product in floating point gives a user's row other last bits where other users stand beside it, in blocks of
other sizes. On tables of whole numbers of few digits it is exact, whatever the order of its additions, so that a
user's scores are a function of that user's vector and of the item table alone, in every pass over them.

    v_i = 2^a V_i,  u = 2^b U  (V_i, U whole)     v_i u = 2^(a + b) V_i U     |V_i U| <= dim 2^(24 + digits) <= 2^53
"""

from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories


def observed_scores(histories: Histories, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """v_i u_u for every interaction (u, i), [n_interactions], from [n_users, dim] and [n_items, dim].

    In the wider of the two tables' types, to `rounding_of` it. Each score is summed by one thread in one order, so
    that the bytes do not depend on the number of threads.
    """
    columns, kind = histories.items, torch.promote_types(users.dtype, items.dtype)
    if not len(columns) or not users.shape[1]:
        return torch.zeros(len(columns), dtype=kind, device=columns.device)
    if len(items) > 4 * len(columns):
        # A large catalogue: only rows that are read are turned into float64.
        rows, places = torch.unique(columns, return_inverse=True)
        columns = places.to(columns.dtype)
        items = items.index_select(0, rows)
    zeros = torch.zeros(len(columns), dtype=kind, device=columns.device)
    pattern = torch.sparse_csr_tensor(
        histories.starts.to(columns.dtype),
        columns,
        zeros,
        size=(histories.n_users, len(items)),
        check_invariants=False,
    )
    found: torch.Tensor = torch.sparse.sampled_addmm(pattern, users.to(kind), items.to(kind).T, beta=0.0)
    return found.values()


def rounding_of(scores: torch.Tensor, *, dim: int) -> float:
    """Bound on the rounding of a score over |v| |u|: a sum of `dim` products in any order."""
    return float(torch.finfo(scores.dtype).eps * (dim + 1))


_MANTISSA = 53
# Of items: what float32 has. Users get what is left, up to as much.
_DIGITS = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class OnGrid:
    """A table of whole numbers, float64 [n_rows, dim], and the power of two that each row is to be multiplied by."""

    whole: torch.Tensor
    scales: torch.Tensor


def items_on_grid(vectors: torch.Tensor) -> OnGrid:
    """Item vectors on one grid, 2^-24 of the table's largest entry; what is not finite is zero. `scales` is [1]."""
    table = torch.nan_to_num(vectors.double(), nan=0.0, posinf=0.0, neginf=0.0)
    largest = table.abs().max() if table.numel() else table.sum()
    return _round(table, largest.reshape(1), digits=_DIGITS)


def users_on_grid(users: torch.Tensor) -> OnGrid:
    """User vectors, each on a grid of its own: 20 digits or more for up to 512 dimensions; `scales` is [n_users]."""
    table = torch.nan_to_num(users.double(), nan=0.0, posinf=0.0, neginf=0.0)
    dim = table.shape[1]
    digits = min(_DIGITS, _MANTISSA - _DIGITS - max(dim - 1, 0).bit_length())
    largest = table.abs().amax(1) if dim else table.new_zeros(len(table))
    return _round(table, largest, digits=digits)


def _round(table: torch.Tensor, largest: torch.Tensor, *, digits: int) -> OnGrid:
    """Every entry a whole number of at most 2^digits; `largest` [1] or [n_rows] are finite."""
    _, exponents = torch.frexp(largest)
    steps = _power_of_two(digits - exponents.long())
    # Only `round` rounds.
    return OnGrid(whole=(table * steps[:, None]).round_(), scales=1 / steps)


def _power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^k in float64 for int64 k of the size of float32's exponents: by its bits, as a library's power may round."""
    return (exponents + 1023 << 52).view(torch.float64)
