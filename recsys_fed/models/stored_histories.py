"""Histories on disk: the items of all users in one file, read block by block.

    items.i32    column of each interaction, user by user
    starts.i64   first interaction of each user, and their number
    rank.i32, time.i64, value.f32, weight.f32
                 signals of each interaction, those that are read alone: see `models.histories`

Only a user's first interaction is held in memory (8 bytes a user), and the blocks that are being worked on.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.models.histories import Histories, Signals, block_bounds, block_size, check_sorted

ITEMS, STARTS = "items.i32", "starts.i64"
_LITTLE32, _LITTLE64 = np.dtype("<i4"), np.dtype("<i8")
# File and type of each column of `Signals`.
SIGNALS: dict[str, tuple[str, np.dtype[Any]]] = {
    "rank": ("rank.i32", _LITTLE32),
    "time": ("time.i64", _LITTLE64),
    "value": ("value.f32", np.dtype("<f4")),
    "weight": ("weight.f32", np.dtype("<f4")),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredHistories:
    """The histories of `first` to `last` - 1 of the users in a folder, or of those chosen of them.

    Attributes:
        folder: holds the files.
        n_items: number of columns.
        starts: first interaction of each of these users, in the file, int64 [n_users + 1].
        device: where blocks go.
        chosen: bool [n_users]; the others have no history. None: all.
        signals: names of the columns of `Signals` that the folder holds.
    """

    folder: Path
    n_items: int
    starts: npt.NDArray[np.int64]
    device: torch.device
    chosen: torch.Tensor | None = None
    signals: tuple[str, ...] = ()

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.starts) - 1

    def blocks(self) -> Iterator[Histories]:
        """Every user once, in the blocks that the same users in memory fall into."""
        bounds = block_bounds(self.starts, interactions=block_size(self.n_items))
        for first, last in bounds:
            block = self._read(first, last)
            yield block if self.chosen is None else block.subset(self.chosen[first:last].to(self.device))

    def subset(self, chosen: torch.Tensor) -> "StoredHistories":
        """Only the users where `chosen` [n_users] is true; nothing is read yet."""
        return replace(self, chosen=chosen.cpu() if self.chosen is None else chosen.cpu() & self.chosen)

    def users_from(self, first: int, last: int) -> "StoredHistories":
        """The users `first` to `last` - 1 alone."""
        chosen = None if self.chosen is None else self.chosen[first:last]
        return replace(self, starts=self.starts[first : last + 1], chosen=chosen)

    def _read(self, first: int, last: int) -> Histories:
        start, stop = int(self.starts[first]), int(self.starts[last])
        path = self.folder / ITEMS
        items = _column(path, _LITTLE32, start=start, stop=stop)
        if len(items) and not 0 <= items.min() <= items.max() < self.n_items:
            raise DataFormatError(f"Expected {stop - start} items in [0, {self.n_items}) in {path}. Group it anew.")
        starts = torch.from_numpy(self.starts[first : last + 1] - start)
        return Histories(
            items=torch.from_numpy(items).to(self.device),
            starts=starts.to(self.device),
            n_items=self.n_items,
            signals=self._read_signals(first, last) if self.signals else None,
        )

    def _read_signals(self, first: int, last: int) -> Signals:
        start, stop = int(self.starts[first]), int(self.starts[last])
        columns = {}
        for name in self.signals:
            path, dtype = self.folder / SIGNALS[name][0], SIGNALS[name][1]
            column = _column(path, dtype, start=start, stop=stop)
            if name == "rank":
                sizes = np.diff(self.starts[first : last + 1])
                if (column < 0).any() or (column >= np.repeat(sizes, sizes)).any():
                    raise DataFormatError(f"Expected places in each user's order in {path}. Group it anew.")
            columns[name] = torch.from_numpy(column).to(self.device)
        return Signals(**columns)


def _column(path: Path, dtype: "np.dtype[Any]", *, start: int, stop: int) -> npt.NDArray[Any]:
    column = np.fromfile(path, dtype=dtype, count=stop - start, offset=start * dtype.itemsize)
    if len(column) != stop - start:
        raise DataFormatError(f"Expected {stop - start} interactions in {path}, got {len(column)}. Group it anew.")
    return column


class HistoryWriter:
    """Appends users to a folder; the folder can be opened once the writer is closed without an error."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (STARTS, *(file for file, _ in SIGNALS.values())):
            (folder / name).unlink(missing_ok=True)
        self._folder = folder
        self._items = (folder / ITEMS).open("wb")
        self._files = ExitStack()
        # Of the signals, from the first users on.
        self._columns: dict[str, BinaryIO] | None = None
        self._sizes: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]

    def __enter__(self) -> "HistoryWriter":
        return self

    def append(self, matrix: sparse.csr_matrix, signals: Signals | None = None) -> None:
        """Add the users of a csr [n_users, n_items]; its values are not read.

        Raises:
            ConfigurationError: the signals are those of other entries, or others than users before have.
        """
        check_sorted(matrix, signals)
        self._append_signals(signals or Signals(), size=matrix.nnz)
        matrix.sort_indices()
        matrix.indices.astype(_LITTLE32).tofile(self._items)
        self._sizes.append(np.diff(matrix.indptr).astype(np.int64))

    def _append_signals(self, signals: Signals, *, size: int) -> None:
        columns = signals.columns()
        if self._columns is None:
            self._columns = {
                name: self._files.enter_context((self._folder / SIGNALS[name][0]).open("wb")) for name in columns
            }
        if columns.keys() != self._columns.keys() or any(len(column) != size for column in columns.values()):
            raise ConfigurationError(
                f"Expected the signals {sorted(self._columns)} of {size} interactions, got {sorted(columns)}."
            )
        for name, column in columns.items():
            column.cpu().numpy().astype(SIGNALS[name][1]).tofile(self._columns[name])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.close()
        self._files.close()
        if kind is None:
            partial = self._folder / (STARTS + ".part")
            np.cumsum(np.concatenate(self._sizes)).astype(_LITTLE64).tofile(partial)
            partial.replace(self._folder / STARTS)


def stored_histories(folder: Path, *, n_items: int, device: torch.device | str = "cpu") -> StoredHistories:
    """Open what a `HistoryWriter` wrote.

    Raises:
        DataNotFoundError: nothing is there, or its writing did not come to an end.
        DataFormatError: the files do not fit together.
    """
    if not (folder / STARTS).is_file():
        raise DataNotFoundError(f"The histories in {folder} are missing or incomplete. Group them anew.")
    starts = np.fromfile(folder / STARTS, dtype=_LITTLE64).astype(np.int64)
    if not len(starts) or (np.diff(starts) < 0).any():
        raise DataFormatError(
            f"The users' first interactions in {folder / STARTS} are missing or broken. Group them anew."
        )
    there = tuple(name for name, (file, _) in SIGNALS.items() if (folder / file).is_file())
    for file, dtype in ((ITEMS, _LITTLE32), *(SIGNALS[name] for name in there)):
        if (folder / file).stat().st_size != starts[-1] * dtype.itemsize:
            raise DataFormatError(f"Expected {file} and {STARTS} of one writing in {folder}. Group them anew.")
    return StoredHistories(folder=folder, n_items=n_items, starts=starts, device=torch.device(device), signals=there)
