"""Histories of users: who interacted with what, in memory, in blocks of users, and with the signals beside it.

`scipy` matrices are what the data layer gives; trainers and fold-in work on torch tensors of any device.
X [n_users, n_items] and its transpose are both used in CSR form: each row of X T and of X^T Y is then
summed by one thread in one order, so results do not depend on the number of threads.

A silo's users fall into the same blocks whether its histories are in memory or on disk. Blocks are also what
threads share: several are worked on at once, each by one thread, which needs no waiting for each other in between.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError

Signal = Literal["order", "time", "value", "weight"]
# What most trainers read.
NOTHING: frozenset[Signal] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Signals:
    """Columns beside `Histories.items`, each [n_interactions]; None: nobody reads it, or the data has none.

    Which of them are there follows from the trainer and from which columns the silo's source has, never from a row.

    Attributes:
        rank: place in the user's own order, int32: 0 is the earliest, and none is left out. By time; of equal times
            as in the source; interactions without a time, as in the source, are before all others.
        time: nanoseconds since 1970, int64; `data.interactions.MISSING_TIME` where an interaction has none. Positions
            are no times: they are in `rank` alone.
        value: a rating or a count, float32; NaN where an interaction has none.
        weight: what the interaction counts beside others of its user, float32, of any scale: see `Histories.weights`.
    """

    rank: torch.Tensor | None = None
    time: torch.Tensor | None = None
    value: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {name: tuple(column.shape) for name, column in self.columns().items()}
        if len(set(sizes.values())) > 1:
            raise ConfigurationError(f"Expected signals of the same interactions, got {sizes}.")

    def columns(self) -> Mapping[str, torch.Tensor]:
        """Those that are there, by name."""
        there = {"rank": self.rank, "time": self.time, "value": self.value, "weight": self.weight}
        return {name: column for name, column in there.items() if column is not None}

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Signals":
        """The signals after `change` of every column."""
        return Signals(**{name: change(column) for name, column in self.columns().items()})


def join_signals(parts: Sequence[Signals | None]) -> Signals | None:
    """The signals of histories one after the other; those that all of them have."""
    columns = [part.columns() if part is not None else {} for part in parts]
    names = set.intersection(*(set(part) for part in columns)) if columns else set()
    return Signals(**{name: torch.cat([part[name] for part in columns]) for name in names}) if names else None


# A block costs a pass over an item table beside the work on its interactions: it has at least so many interactions,
# and so many for each item.
_LEAST_INTERACTIONS = 1 << 20
_INTERACTIONS_AN_ITEM = 8


class UserHistories(Protocol):
    """Histories of a silo's users. `Histories` is the one in memory."""

    @property
    def n_users(self) -> int:
        """Number of users, also those without an interaction."""

    @property
    def n_items(self) -> int:
        """Number of items of the catalogue."""

    @property
    def device(self) -> torch.device:
        """Where the blocks are, and where contributions are computed."""

    def blocks(self) -> Iterator["Histories"]:
        """Every user once, in blocks of consecutive users."""

    def subset(self, chosen: torch.Tensor) -> "UserHistories":
        """Only the users where `chosen` [n_users] is true."""


def block_size(n_items: int) -> int:
    """Interactions of a block at most, for a catalogue of `n_items`: a public number.

    >>> block_size(3_000), block_size(1_000_000)
    (1048576, 8000000)
    """
    return max(_LEAST_INTERACTIONS, _INTERACTIONS_AN_ITEM * n_items)


def block_bounds(starts: npt.NDArray[np.int64], *, interactions: int) -> list[tuple[int, int]]:
    """First user and the one after the last of every block, from the users' first interactions [n_users + 1].

    A block has at most so many `interactions`, but a user is never split: who has more alone makes a block.
    """
    bounds, first, n_users = [], 0, len(starts) - 1
    while first < n_users:
        last = int(np.searchsorted(starts, starts[first] + interactions, side="right")) - 1
        last = min(max(last, first + 1), n_users)
        bounds.append((first, last))
        first = last
    return bounds


def for_each_block(histories: UserHistories, work: Callable[[int, "Histories"], None]) -> None:
    """Call `work` on every block, on a CPU on as many at once as torch has threads, each then with one thread.

    `work` gets the row of the block's first user, and the block. It may run in several threads at the same time and
    in any order. No more blocks than threads are held.
    """
    threads = torch.get_num_threads()
    blocks = _enumerate_blocks(histories)
    some = list(islice(blocks, 2))
    if threads == 1 or len(some) < 2 or histories.device.type != "cpu":
        for first, block in chain(some, blocks):
            work(first, block)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            running: set[Future[None]] = set()
            for first, block in chain(some, blocks):
                running.add(pool.submit(work, first, block))
                if len(running) >= threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()
    finally:
        # What a thread sets becomes the default of threads to come.
        torch.set_num_threads(threads)


def _enumerate_blocks(histories: UserHistories) -> Iterator[tuple[int, "Histories"]]:
    first = 0
    for block in histories.blocks():
        yield first, block
        first += block.n_users


warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)

_INT32 = torch.iinfo(torch.int32)
# Weights are whole parts of one, so that sums of their products are exact.
PARTS = 32
# A cell counts at most so many times the user's median cell: one item is never all of a user of several.
_MOST_OF_MEDIAN = 16


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
    def weights(self) -> torch.Tensor | None:
        """What each interaction counts: k / PARTS, k in 1 ... PARTS, float64 [n_interactions]; None: all the same.

        Relative to the largest weight of the user, or to 16 times the user's median (the lower of two) where that is
        less. What is no number above zero counts for nothing, 0.

        Guarantees: those of a user's interactions follow from the weights of that user's alone. Equal weights are all
        exactly 1. Whether there are any follows from the silo's columns, not from its rows.
        """
        given = self.signals.weight if self.signals is not None else None
        if given is None:
            return None
        raw = given.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0.0)
        top = self._largest_counted(raw)[self.users]
        parts = (raw / top.clamp_min(torch.finfo(torch.float64).tiny) * PARTS).round_().clamp_(1.0, PARTS)
        return torch.where(raw > 0, parts / PARTS, 0.0)

    @cached_property
    def squared_lengths(self) -> torch.Tensor:
        """Sum of the squares of each user's weights, or number of items without any: exact, float64 [n_users]."""
        if self.weights is None:
            return self.starts.diff().double()
        return torch.bincount(self.users, weights=self.weights.square(), minlength=self.n_users)

    def _largest_counted(self, raw: torch.Tensor) -> torch.Tensor:
        """The largest weight of each user, capped, float64 [n_users], from weights [n_interactions] not below 0."""
        order = torch.argsort(raw, stable=True)
        ordered = raw[order[torch.argsort(self.users[order], stable=True)]]
        counted = _cumulative(raw > 0)[self.starts].diff()
        last = self.starts[1:] - 1
        there = counted > 0
        top = torch.zeros(self.n_users, dtype=torch.float64, device=self.device)
        median = ordered[(last - counted // 2)[there]]
        top[there] = torch.minimum(ordered[last[there]], _MOST_OF_MEDIAN * median)
        return top

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

    def to(self, device: torch.device | str) -> "Histories":
        """The same histories on another device."""
        signals = None if self.signals is None else self.signals.each(lambda column: column.to(device))
        return replace(self, items=self.items.to(device), starts=self.starts.to(device), signals=signals)

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
        return self._keep_order(kept, part)

    def rows(self, chosen: torch.Tensor) -> "Histories":
        """The histories of the users `chosen`, int64 [n_chosen], in that order."""
        sizes = self.starts.diff()[chosen]
        starts = _cumulative(sizes)
        places = torch.arange(int(starts[-1]), device=self.device)
        places += torch.repeat_interleave(self.starts[chosen] - starts[:-1], sizes, output_size=len(places))
        signals = None if self.signals is None else self.signals.each(lambda column: column[places])
        return Histories(items=self.items[places], starts=starts, n_items=self.n_items, signals=signals)

    def latest_apart(self) -> tuple["Histories", "Histories"]:
        """Without each user's latest interaction, and these alone, of the same users; who has one only keeps it.

        Raises:
            ConfigurationError: they have no order.
        """
        latest = torch.zeros(len(self.items), dtype=torch.bool, device=self.device)
        ends = self.starts[1:][self.starts.diff() > 1]
        latest[self.by_order[ends - 1]] = True
        return self.where(~latest), self.where(latest)

    def where(self, kept: torch.Tensor) -> "Histories":
        """The same users with only the interactions where `kept` [n_interactions] is true, ranked anew."""
        starts = _cumulative(kept)[self.starts]
        signals = self._signals_of(kept, starts)
        part = Histories(items=self.items[kept], starts=starts, n_items=self.n_items, signals=signals)
        return self._keep_order(kept, part)

    def matrix(self) -> sparse.csr_matrix:
        """A csr float32 [n_users, n_items] of the weights, ones without any."""
        ones = np.ones(len(self.items), dtype=np.float32)
        values = ones if self.weights is None else self.weights.float().cpu().numpy()
        arrays = (values, self.items.cpu().numpy(), self.starts.cpu().numpy())
        return sparse.csr_matrix(arrays, shape=(self.n_users, self.n_items))

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
        return self._keep_order(kept, part)

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

    def _keep_order(self, kept: torch.Tensor, part: "Histories") -> "Histories":
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

    `weighted_histories` reads them.

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
    starts = torch.from_numpy(csr.indptr.astype("int64"))
    items = torch.from_numpy(csr.indices.astype("int32" if narrow else "int64"))
    return Histories(items=items, starts=starts, n_items=csr.shape[1], signals=signals).to(device)


def weighted_histories(matrix: sparse.csr_matrix, *, device: torch.device | str = "cpu") -> Histories:
    """Histories of a scipy matrix [n_users, n_items] whose values are weights, as `Histories.matrix` makes it."""
    if (matrix.data == 1).all():
        return histories_of(matrix, device=device)
    ordered = matrix if matrix.has_sorted_indices else matrix.sorted_indices()
    weights = torch.from_numpy(ordered.data.astype(np.float32))
    return histories_of(ordered, signals=Signals(weight=weights), device=device)


def join_histories(first: Histories, then: Histories) -> Histories:
    """Each user's interactions of `first` and, all of them later, those of `then`; they share no cell.

    Signals are those that both have; the ranks of `then` follow those of `first`.
    """
    sizes = first.starts.diff()
    users, items = torch.cat([first.users, then.users]), torch.cat([first.items, then.items.to(first.items.dtype)])
    order = torch.argsort(users * first.n_items + items)
    columns: dict[str, torch.Tensor] = {}
    if first.signals is not None and then.signals is not None:
        later = dict(then.signals.columns())
        if "rank" in later:
            later["rank"] = later["rank"] + sizes[then.users].to(later["rank"].dtype)
        for name in first.signals.columns().keys() & later.keys():
            columns[name] = torch.cat([first.signals.columns()[name], later[name]])[order]
    starts = _cumulative(sizes + then.starts.diff())
    signals = Signals(**columns) if columns else None
    return Histories(items=items[order], starts=starts, n_items=first.n_items, signals=signals)


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
