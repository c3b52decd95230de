"""Histories of users as a sparse matrix in torch, multiplied row by row from both sides.

`scipy` matrices are what the data layer gives; trainers and fold-in work on torch tensors of any device.
X [n_users, n_items] and its transpose are both used in CSR form: each row of X T and of X^T Y is then
summed by one thread in one order, so results do not depend on the number of threads.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.signals import Signals
from recsys_fed.models.user_blocks import block_bounds, block_size

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)

_INT32 = torch.iinfo(torch.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Who interacted with what; rows are users, columns are catalogue rows (or rows of a head).

    Attributes:
        items: column of each interaction, user by user, int32 (int64 beyond its range) [n_interactions].
        starts: first interaction of each user, int64 [n_users + 1].
        n_items: number of columns.
        signals: what else is known of each interaction, where a trainer reads it and the data has it.
    """

    items: torch.Tensor
    starts: torch.Tensor
    n_items: int
    signals: Signals | None = None

    def __post_init__(self) -> None:
        columns = self.signals.columns() if self.signals is not None else {}
        if any(column.shape != self.items.shape for column in columns.values()):
            raise ConfigurationError(f"Expected signals of {len(self.items)} interactions, got others.")

    @property
    def n_users(self) -> int:
        """Number of users, also those without an interaction."""
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        """Where the tensors are, and where contributions are computed."""
        return self.items.device

    @cached_property
    def users(self) -> torch.Tensor:
        """Row of each interaction, int64 [n_interactions], ascending."""
        rows = torch.arange(self.n_users, device=self.items.device)
        return torch.repeat_interleave(rows, self.starts.diff(), output_size=len(self.items))

    @cached_property
    def order(self) -> torch.Tensor:
        """Interactions sorted by item, those of one item by user: int32 (int64 beyond its range) [n_interactions]."""
        if len(self.items) > _INT32.max:
            return torch.argsort(self.items, stable=True)
        if self.items.is_cuda:
            return torch.argsort(self.items, stable=True).int()
        by_item = self._scipy(np.arange(len(self.items), dtype=np.int32)).tocsc()
        # Both are found in one pass.
        self.__dict__.setdefault("users_by_item", torch.from_numpy(by_item.indices))
        return torch.from_numpy(by_item.data)

    @cached_property
    def by_order(self) -> torch.Tensor:
        """Interactions sorted by user, those of one user from the earliest to the latest: int64 [n_interactions].

        Raises:
            ConfigurationError: they have no order.
        """
        if self.signals is None or self.signals.rank is None:
            raise ConfigurationError(
                "Expected interactions with an order, got none. Either the trainer does not read it, or the data has "
                "no times."
            )
        places = torch.empty(len(self.items), dtype=torch.int64, device=self.device)
        places[self.starts[self.users] + self.signals.rank] = torch.arange(len(self.items), device=self.device)
        return places

    @cached_property
    def users_by_item(self) -> torch.Tensor:
        """Row of each interaction in the order by item, [n_interactions] of the type of `items`."""
        if "order" in self.__dict__ or self.items.is_cuda:
            return self.users.index_select(0, self.order).to(self.items.dtype)
        return torch.from_numpy(self._scipy(np.ones(len(self.items), dtype=np.int8)).tocsc().indices)

    @cached_property
    def item_starts(self) -> torch.Tensor:
        """First interaction of each item in the order by item, int64 [n_items + 1]."""
        return _cumulative(torch.bincount(self.items, minlength=self.n_items))

    def blocks(self) -> Iterator["Histories"]:
        """All users in turn, in the blocks of `user_blocks`; a small silo is one block."""
        # One block is not kept: it would refer to itself and live on until the next garbage collection.
        yield from (self,) if len(self.items) <= block_size(self.n_items) else self._blocks

    @cached_property
    def _blocks(self) -> tuple["Histories", ...]:
        bounds = block_bounds(self.starts.cpu().numpy(), interactions=block_size(self.n_items))
        return tuple(self.block(start, stop) for start, stop in bounds)

    def times(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """X T with `values` [n_interactions] as the entries of X: [n_users, k] for a table [n_items, k]."""
        return _product((self.n_users, self.n_items), self.starts, self.items, values=values, table=table)

    def transposed_times(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """X^T Y with `values` [n_interactions] as the entries of X: [n_items, k] for Y [n_users, k]."""
        shape, columns = (self.n_items, self.n_users), self.users_by_item
        return _product(shape, self.item_starts, columns, values=values.index_select(0, self.order), table=table)

    def per_user(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` [n_interactions] over each user's interactions: [n_users]."""
        ones = torch.ones(self.n_items, 1, dtype=values.dtype, device=values.device)
        return self.times(values, ones)[:, 0]

    def block(self, start: int, stop: int) -> "Histories":
        """The histories of users start to stop - 1, over all items."""
        first, last = int(self.starts[start]), int(self.starts[stop])
        return Histories(
            items=self.items[first:last],
            starts=self.starts[start : stop + 1] - first,
            n_items=self.n_items,
            signals=None if self.signals is None else self.signals.each(lambda column: column[first:last]),
        )

    def subset(self, chosen: torch.Tensor) -> "Histories":
        """The histories of the users where `chosen` [n_users] is true, over all items."""
        kept = chosen[self.users]
        starts = _cumulative(self.starts.diff()[chosen])
        signals = None if self.signals is None else self.signals.each(lambda column: column[kept])
        part = Histories(items=self.items[kept], starts=starts, n_items=self.n_items, signals=signals)
        return self._kept(kept, part)

    def restricted(self, rows: torch.Tensor) -> "Histories":
        """The same users over the items `rows` [n_rows] (ascending) only; column k is then item rows[k].

        Ranks are those among what is left: a user's neighbours are neighbours again once what was between them is
        gone, as if the user had never had it. Times stay as they are.
        """
        if len(rows) == self.n_items:
            return self
        column = positions(rows, self.n_items, dtype=self.items.dtype)
        columns = column[self.items]
        kept = columns >= 0
        starts = _cumulative(kept)[self.starts]
        part = Histories(
            items=columns[kept], starts=starts, n_items=len(rows), signals=self._signals_of(kept, starts)
        )
        return self._kept(kept, part)

    def _signals_of(self, kept: torch.Tensor, starts: torch.Tensor) -> Signals | None:
        """Those of the kept interactions, which start at `starts` [n_users + 1] for each user, ranked anew."""
        if self.signals is None:
            return None
        signals = self.signals.each(lambda column: column[kept])
        if signals.rank is None:
            return signals
        ordered = self.by_order[kept[self.by_order]]
        first = torch.repeat_interleave(starts[:-1], starts.diff(), output_size=len(ordered))
        rank = torch.empty_like(signals.rank)
        rank[_cumulative(kept)[ordered]] = (torch.arange(len(ordered), device=self.device) - first).to(rank.dtype)
        return replace(signals, rank=rank)

    def _kept(self, kept: torch.Tensor, part: "Histories") -> "Histories":
        """Give `part` its order by item from this one's: dropping interactions keeps the order of the others."""
        if "order" in self.__dict__:
            order = self.order[kept.index_select(0, self.order)]
            part.__dict__["order"] = _cumulative(kept).index_select(0, order).to(order.dtype)
        return part

    def _scipy(self, data: np.ndarray) -> sparse.csr_matrix:
        arrays = (data, self.items.numpy(), self.starts.to(self.items.dtype).numpy())
        return sparse.csr_matrix(arrays, shape=(self.n_users, self.n_items))


def histories_of(
    matrix: sparse.csr_matrix, *, signals: Signals | None = None, device: torch.device | str = "cpu"
) -> Histories:
    """Histories of a scipy matrix [n_users, n_items]; its values are not read, an entry is an interaction.

    Args:
        matrix: rows are users.
        signals: beside the entries of the matrix, whose indices are then sorted already.
        device: where the tensors go.

    Raises:
        ConfigurationError: the signals are those of other entries.
    """
    csr = sparse.csr_matrix(matrix)
    check_sorted(csr, signals)
    csr.sort_indices()
    narrow = max(csr.nnz, csr.shape[0], csr.shape[1]) < _INT32.max
    starts = torch.from_numpy(csr.indptr.astype("int64")).to(device)
    items = torch.from_numpy(csr.indices.astype("int32" if narrow else "int64")).to(device)
    placed = None if signals is None else signals.each(lambda column: column.to(device))
    return Histories(items=items, starts=starts, n_items=csr.shape[1], signals=placed)


def check_sorted(matrix: sparse.csr_matrix, signals: Signals | None) -> None:
    """Refuse signals beside a matrix whose indices would move when they are sorted; raises ConfigurationError."""
    if signals is not None and not matrix.has_sorted_indices:
        raise ConfigurationError("Expected a matrix with sorted indices beside signals, got others.")


def positions(rows: torch.Tensor, n_items: int, *, dtype: torch.dtype) -> torch.Tensor:
    """Place of each item in `rows` [n_rows], -1 for items that are not there: [n_items].

    Raises:
        ConfigurationError: the rows are not rows of the items, each once and ascending. Whoever is in a sum over such
            rows would be in it several times, and more than the clip norm long.
    """
    if len(rows) and not (bool((rows.diff() > 0).all()) and int(rows[0]) >= 0 and int(rows[-1]) < n_items):
        raise ConfigurationError(f"Expected rows of {n_items} items, each once and ascending, got others.")
    places = torch.full((n_items,), -1, dtype=dtype, device=rows.device)
    places[rows] = torch.arange(len(rows), dtype=dtype, device=rows.device)
    return places


def _cumulative(counts: torch.Tensor) -> torch.Tensor:
    """Sums of the entries before each position, and of all: int64 [n + 1]."""
    sums = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=sums[1:])
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
    places = starts.to(columns.dtype)
    matrix = torch.sparse_csr_tensor(places, columns, values, size=shape, check_invariants=False)
    return matrix @ table
