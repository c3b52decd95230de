"""The ridge fold-in: every user's normal equations, formed and solved in batches of users with similar histories.

    (sum_{i in H} w_i v_i v_i^T + unobserved_weight V^T V + regularization I) u = sum_{i in H} w_i v_i

The histories of a batch are padded to one length, so that the outer products are one batched matrix product.
"""

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn

# Bounds what a batch holds, in floats: gathered rows [users, length, dim] and equations [users, dim, dim].
_BATCH_FLOATS = 1 << 19
_LONG_ROWS = 512
_ALIGNED = 16


def gramian_of(vectors: torch.Tensor) -> torch.Tensor:
    """V^T V of a table [n_rows, dim], float64 [dim, dim]; see `long_product`."""
    return long_product(vectors, vectors)


def long_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left^T right of two tables with many rows, [n_rows, m] and [n_rows, k]: float64 [m, k].

    In blocks of few rows, which no library splits over threads: the bytes do not depend on their number.
    """
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for start in range(0, len(left), _LONG_ROWS):
        rows = left[start : start + _LONG_ROWS].double()
        others = rows if right is left else right[start : start + _LONG_ROWS].double()
        total.addmm_(rows.T, others)
    return total


def ridge(
    vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, gramian: torch.Tensor, how: FoldIn
) -> torch.Tensor:
    """User vectors [n_users, dim] from item vectors [n_items, dim], weights [n_items] and their gramian.

    Guarantees: a user's vector depends on the tables and on that user's history alone. The length to which a
    history is padded is a function of its own length, and every user's products lie alike in memory, so that on a CPU
    not even rounding depends on other users (the library's product of a batch is taken to treat a matrix alike
    wherever in the batch it stands; tests ask it). A user without interactions, and one whose equations overflow or
    have no solution, gets the zero vector; no exception.
    """
    dim = vectors.shape[1]
    # The library's last bits depend on where in memory a matrix of odd width starts.
    wide = dim + (-dim % _ALIGNED if dim % 4 else 0)
    users = torch.zeros(histories.n_users, dim, dtype=vectors.dtype, device=vectors.device)
    identity = torch.eye(dim, dtype=torch.float64, device=vectors.device)
    shared = (how.unobserved_weight * gramian + how.regularization * identity).to(vectors.dtype)
    projected = histories.times(weights[histories.items], vectors)
    vectors, projected = _widened(vectors, wide), _widened(projected, wide)
    shared = _widened(_widened(shared, wide).T, wide)
    shared.diagonal()[dim:] = 1.0
    lengths = _padded(histories.starts.diff())
    for length in torch.unique(lengths).tolist():
        if not length:
            continue
        same = (lengths == length).nonzero()[:, 0]
        for some in same.split(max(1, _BATCH_FLOATS // ((length + dim) * dim))):
            rows = _gathered(vectors, histories, weights, users=some, length=length)
            normal = torch.baddbmm(shared, rows.mT, rows)
            # solve_ex does not raise: whether a user's equations overflow must not decide whether a silo answers.
            users[some] = torch.linalg.solve_ex(normal, projected[some]).result[:, :dim]
    return users.masked_fill_(~users.isfinite().all(1, keepdim=True), 0.0)


def _widened(table: torch.Tensor, columns: int) -> torch.Tensor:
    """Columns of zeros beside those of a table."""
    extra = columns - table.shape[1]
    return torch.nn.functional.pad(table, (0, extra)) if extra else table


def _gathered(
    vectors: torch.Tensor, histories: Histories, weights: torch.Tensor, *, users: torch.Tensor, length: int
) -> torch.Tensor:
    """sqrt(w_i) v_i of the users' items, and zeros where a history is shorter: [n_users, length, dim]."""
    starts, stops = histories.starts[users], histories.starts[users + 1]
    places = starts[:, None] + torch.arange(length, device=starts.device)
    inside = places < stops[:, None]
    items = histories.items[torch.where(inside, places, starts[:, None])].flatten()
    rows = vectors.index_select(0, items).mul_((weights[items].sqrt() * inside.flatten())[:, None])
    return rows.view(len(users), length, -1)


def _padded(lengths: torch.Tensor) -> torch.Tensor:
    """The next length that is a power of two or 5, 6 or 7 quarters of one: at most a quarter more; 0 stays 0."""
    quarter = torch.ones_like(lengths)
    while bool((lengths > 8 * quarter).any()):
        quarter = torch.where(lengths > 8 * quarter, 2 * quarter, quarter)
    return (lengths + quarter - 1) // quarter * quarter
