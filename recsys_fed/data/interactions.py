"""Interactions: who touched what, as codes into two tables of ids.

Identifiers of users and items are always str, in one order that no row order can change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import DataError

_INT64_DIGITS = 18


def id_array(ids: Iterable[object]) -> npt.NDArray[np.object_]:
    """An object array of the ids as str, [n]."""
    texts = [str(value) for value in ids]
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def id_order(ids: Sequence[str] | npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Positions of the ids in id order, int64 [n]: by number if all are whole numbers, else by text."""
    keys: list[tuple[int, str]] = [(0, text) for text in ids]
    if all(text.isascii() and text.isdigit() and len(text) <= _INT64_DIGITS for text in ids):
        keys = [(int(text), text) for text in ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


# In place of a time, for a row that has none; a user's rows without a time stand before those with one.
MISSING_TIME = -(2**63)


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """Private data of one silo (or, in a simulation, of all of them), one entry a row, in the order of the source.

    Attributes:
        user: row of each interaction in `user_ids`, int32 or int64 [n].
        item: row of each interaction in `item_ids`, int32 or int64 [n].
        user_ids: object array of str [n_users].
        item_ids: object array of str [n_items]; a silo's own list, not the catalogue.
        value: a rating or a count, float32 [n], NaN where a row has none; or None.
        time: int64 [n], nanoseconds since 1970 (positions without `clock`), MISSING_TIME where a row has none; or
            None. Of equal times the later row is later.
        weight: what an interaction counts by its kind or by itself, float32 [n] above zero, or None.
        clock: whether times are those of a clock; otherwise only their order means something.

    The rows stand in the order of their source; each user and item occur together once where a reader made them.

    Raises:
        DataError: columns of different lengths, or a code outside of its table.
    """

    user: npt.NDArray[np.integer[Any]]
    item: npt.NDArray[np.integer[Any]]
    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    value: npt.NDArray[np.float32] | None = None
    time: npt.NDArray[np.int64] | None = None
    weight: npt.NDArray[np.float32] | None = None
    clock: bool = True

    def __post_init__(self) -> None:
        for name in ("user", "item", "value", "time", "weight"):
            column = getattr(self, name)
            if column is not None and column.shape != (len(self.user),):
                raise DataError(f"Expected {name} of shape ({len(self.user)},), got {column.shape}.")
        _check_codes("user", self.user, self.n_users)
        _check_codes("item", self.item, self.n_items)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of rows of `user_ids`."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of rows of `item_ids`."""
        return len(self.item_ids)

    def select(self, mask: npt.NDArray[np.bool_]) -> "Interactions":
        """The interactions where `mask` (bool [n]) is true; the tables of ids, and so the codes, stay."""
        if mask.dtype != np.bool_ or mask.shape != self.user.shape:
            raise DataError(f"Expected a bool mask of shape {self.user.shape}, got {mask.dtype} {mask.shape}.")
        return Interactions(
            user=self.user[mask],
            item=self.item[mask],
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            value=None if self.value is None else self.value[mask],
            time=None if self.time is None else self.time[mask],
            weight=None if self.weight is None else self.weight[mask],
            clock=self.clock,
        )


def _check_codes(name: str, codes: npt.NDArray[np.integer[Any]], size: int) -> None:
    if not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"Expected {name} codes to be integers, got {codes.dtype}.")
    if len(codes) and (codes.min() < 0 or codes.max() >= size):
        raise DataError(f"Expected {name} codes in [0, {size}), got one outside.")
