"""Scores of the observed pairs alone: a sampled product of two thin tables, nothing of size n_users x n_items."""

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
