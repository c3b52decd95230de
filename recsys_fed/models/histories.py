"""Histories of users as a sparse matrix in torch, multiplied row by row from both sides.

`scipy` matrices are what the data layer gives; trainers and fold-in work on torch tensors of any device.
X [n_users, n_items] and its transpose are both used in CSR form: each row of X T and of X^T Y is then
summed by one thread in one order, so results do not depend on the number of threads.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy import sparse

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Who interacted with what; rows are users, columns are catalogue rows (or rows of a head).

    Attributes:
        items: column of each interaction, user by user, int64 [n_interactions].
        starts: first interaction of each user, int64 [n_users + 1].
        n_items: number of columns.
    """

    items: torch.Tensor
    starts: torch.Tensor
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of users, also those without an interaction."""
        return len(self.starts) - 1

    @cached_property
    def users(self) -> torch.Tensor:
        """Row of each interaction, int64 [n_interactions], ascending."""
        rows = torch.arange(self.n_users, device=self.items.device)
        return torch.repeat_interleave(rows, self.starts.diff())

    @cached_property
    def order(self) -> torch.Tensor:
        """Interactions sorted by item, those of one item by user, int64 [n_interactions]."""
        return torch.argsort(self.items, stable=True)

    @cached_property
    def _item_starts(self) -> torch.Tensor:
        return _cumulative(torch.bincount(self.items, minlength=self.n_items))

    def times(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """X T with `values` [n_interactions] as the entries of X: [n_users, k] for a table [n_items, k]."""
        return _product((self.n_users, self.n_items), self.starts, self.items, values=values, table=table)

    def transposed_times(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """X^T Y with `values` [n_interactions] as the entries of X: [n_items, k] for Y [n_users, k]."""
        shape, columns = (self.n_items, self.n_users), self.users[self.order]
        return _product(shape, self._item_starts, columns, values=values[self.order], table=table)

    def per_user(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` [n_interactions] over each user's interactions: [n_users]."""
        ones = torch.ones(self.n_items, 1, dtype=values.dtype, device=values.device)
        return self.times(values, ones)[:, 0]

    def block(self, start: int, stop: int) -> "Histories":
        """The histories of users start to stop - 1, over all items."""
        first, last = int(self.starts[start]), int(self.starts[stop])
        return Histories(
            items=self.items[first:last], starts=self.starts[start : stop + 1] - first, n_items=self.n_items
        )

    def subset(self, chosen: torch.Tensor) -> "Histories":
        """The histories of the users where `chosen` [n_users] is true, over all items."""
        kept = chosen[self.users]
        starts = _cumulative(self.starts.diff()[chosen])
        return self._kept(kept, Histories(items=self.items[kept], starts=starts, n_items=self.n_items))

    def restricted(self, rows: torch.Tensor) -> "Histories":
        """The same users over the items `rows` [n_rows] (ascending) only; column k is then item rows[k]."""
        column = torch.full((self.n_items,), -1, dtype=torch.int64, device=self.items.device)
        column[rows] = torch.arange(len(rows), device=self.items.device)
        columns = column[self.items]
        kept = columns >= 0
        starts = _cumulative(kept)[self.starts]
        return self._kept(kept, Histories(items=columns[kept], starts=starts, n_items=len(rows)))

    def _kept(self, kept: torch.Tensor, part: "Histories") -> "Histories":
        """Give `part` its order by item from this one's: dropping interactions keeps the order of the others."""
        order = self.order[kept[self.order]]
        part.__dict__["order"] = _cumulative(kept)[order]
        return part


def histories_of(matrix: sparse.csr_matrix, *, device: torch.device | str = "cpu") -> Histories:
    """Histories of a scipy matrix [n_users, n_items]; its values are not read, an entry is an interaction."""
    csr = sparse.csr_matrix(matrix)
    csr.sort_indices()
    starts = torch.from_numpy(csr.indptr.astype("int64")).to(device)
    items = torch.from_numpy(csr.indices.astype("int64")).to(device)
    return Histories(items=items, starts=starts, n_items=csr.shape[1])


def _cumulative(counts: torch.Tensor) -> torch.Tensor:
    """Sums of the entries before each position, and of all: int64 [n + 1]."""
    sums = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    sums[1:] = counts.cumsum(0)
    return sums


def _product(
    shape: tuple[int, int],
    starts: torch.Tensor,
    columns: torch.Tensor,
    *,
    values: torch.Tensor,
    table: torch.Tensor,
) -> torch.Tensor:
    if not len(values) or not table.shape[1]:
        return torch.zeros(shape[0], table.shape[1], dtype=table.dtype, device=table.device)
    matrix = torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)
    return matrix @ table
