"""Histories on disk: the items of all users in one file, read block by block.

    items.i32    column of each interaction, user by user
    starts.i64   first interaction of each user, and their number

Only a user's first interaction is held in memory (8 bytes a user), and the blocks that are being worked on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.models.histories import Histories
from recsys_fed.models.user_blocks import block_bounds, block_size

ITEMS, STARTS = "items.i32", "starts.i64"
_LITTLE32, _LITTLE64 = np.dtype("<i4"), np.dtype("<i8")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredHistories:
    """The histories of `first` to `last` - 1 of the users in a folder, or of those chosen of them.

    Attributes:
        folder: holds the two files.
        n_items: number of columns.
        starts: first interaction of each of these users, in the file, int64 [n_users + 1].
        device: where blocks go.
        chosen: bool [n_users]; the others have no history. None: all.
    """

    folder: Path
    n_items: int
    starts: npt.NDArray[np.int64]
    device: torch.device
    chosen: torch.Tensor | None = None

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
        items = np.fromfile(path, dtype=_LITTLE32, count=stop - start, offset=start * _LITTLE32.itemsize)
        if len(items) != stop - start or (len(items) and not 0 <= items.min() <= items.max() < self.n_items):
            raise DataFormatError(f"Expected {stop - start} items in [0, {self.n_items}) in {path}. Group it anew.")
        starts = torch.from_numpy(self.starts[first : last + 1] - start)
        return Histories(
            items=torch.from_numpy(items).to(self.device), starts=starts.to(self.device), n_items=self.n_items
        )


class HistoryWriter:
    """Appends users to a folder; the folder can be opened once the writer is closed without an error."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STARTS).unlink(missing_ok=True)
        self._folder = folder
        self._items = (folder / ITEMS).open("wb")
        self._sizes: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]

    def __enter__(self) -> "HistoryWriter":
        return self

    def append(self, matrix: sparse.csr_matrix) -> None:
        """Add the users of a csr [n_users, n_items]; its values are not read."""
        matrix.sort_indices()
        matrix.indices.astype(_LITTLE32).tofile(self._items)
        self._sizes.append(np.diff(matrix.indptr).astype(np.int64))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.close()
        if kind is None:
            partial = self._folder / (STARTS + ".part")
            np.cumsum(np.concatenate(self._sizes)).astype(_LITTLE64).tofile(partial)
            partial.replace(self._folder / STARTS)


def stored_histories(folder: Path, *, n_items: int, device: torch.device | str = "cpu") -> StoredHistories:
    """Open what a `HistoryWriter` wrote.

    Raises:
        DataNotFoundError: nothing is there, or its writing did not come to an end.
        DataFormatError: the two files do not fit together.
    """
    if not (folder / STARTS).is_file():
        raise DataNotFoundError(f"Expected histories in {folder}, found none or a part. Group them anew.")
    starts = np.fromfile(folder / STARTS, dtype=_LITTLE64).astype(np.int64)
    size = (folder / ITEMS).stat().st_size
    if not len(starts) or starts[-1] * _LITTLE32.itemsize != size or (np.diff(starts) < 0).any():
        raise DataFormatError(f"Expected {ITEMS} and {STARTS} of one writing in {folder}. Group them anew.")
    return StoredHistories(folder=folder, n_items=n_items, starts=starts, device=torch.device(device))
