"""Rows as interactions: codes into tables of ids, each user and item together once, every row accounted for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_fed.data.dataset import LEFT_OUT, Finding, ValidationReport
from recsys_fed.data.interactions import Interactions, id_array, id_order
from recsys_fed.data.readers._columns import Column, IdColumn
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.data.readers.reading import DATABASES, Block, Reading, are_positions
from recsys_fed.data.readers.rows import Account, rows_of
from recsys_fed.errors import DataFormatError

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.int64]


def _repeated_rows(pair: npt.NDArray[np.int64]) -> Rows:
    """The rows whose pair, int64 [n], occurs in more than one of them, ascending."""
    # Sorting numbers is much faster than hashing them, and most data has no repeated pair at all.
    ordered = np.sort(pair)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    if not len(twice):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(pc.is_in(pa.array(pair), value_set=pa.array(np.unique(twice))))


def _exact_duplicates(rows: Rows, columns: Sequence[Numbers]) -> Mask:
    """True for each of the rows that a later one of them repeats in all columns [n], bool [len(rows)].

    NaN equals NaN: neither row has a value.
    """
    # The sort is stable: of equal rows the last in `rows` comes last.
    order = np.lexsort([column[rows] for column in columns])
    repeated = np.ones(max(len(rows) - 1, 0), dtype=bool)
    for column in columns:
        before, after = column[rows[order[:-1]]], column[rows[order[1:]]]
        repeated &= (before == after) | (np.isnan(before) & np.isnan(after))
    found = np.zeros(len(rows), dtype=bool)
    found[order[:-1]] = repeated
    return found


def _outdated_pairs(rows: Rows, pair: npt.NDArray[np.int64], *, keys: Sequence[Numbers]) -> Mask:
    """True for each of the rows whose pair has a better row among them, bool [len(rows)].

    Better is by the first of the keys, each [n], then the next, then by position.
    """
    order = np.lexsort([rows, *(key[rows] for key in reversed(keys)), pair[rows]])
    ordered = pair[rows[order]]
    outdated = np.zeros(len(rows), dtype=bool)
    outdated[order[:-1]] = ordered[:-1] == ordered[1:]
    return outdated


Place = Callable[[int], str]

_EXAMPLES = 5
_TYPES = {"kept": "?", "user": "i4", "item": "i4", "value": "f4", "time": "i8", "weight": "f4", "test": "?"}
# Columns of the rows that are kept, and the roles that each comes from.
_OPTIONAL = {"value": ("value",), "time": ("time",), "weight": ("kind", "weight"), "test": ("test",)}
# Of rows that are whole, in the order in which they apply.
DROPPED = {
    "exact duplicate": "Expected each row once; the last of equal rows is kept.",
    "repeated pair": "Expected a user and an item together once; {which} is kept.",
    **LEFT_OUT,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Rows that were kept, in the order of their source, [n_rows].

    Attributes:
        user, item: codes, int32, into user_ids and item_ids (object arrays of str).
        value, time, weight, test: see `Rows`; None where the source has none.
        positions: whether times are places in an order.
    """

    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    value: npt.NDArray[np.float32] | None = None
    time: npt.NDArray[np.int64] | None = None
    weight: npt.NDArray[np.float32] | None = None
    test: Mask | None = None
    positions: bool = False

    def taken(self, rows: "npt.NDArray[Any]") -> "Columns":
        """Some rows, by their numbers or a mask; the ids stay."""
        names = ("user", "item", "value", "time", "weight", "test")
        some = {name: column[rows] for name in names if (column := getattr(self, name)) is not None}
        return replace(self, **some)

    def renumber(self, order: Callable[["npt.NDArray[np.object_]"], npt.NDArray[np.int64]]) -> "Columns":
        """The same rows with the ids in another order: `order` gives positions of ids, int64 [n_ids]."""
        user, user_ids = _renumber(self.user, self.user_ids, order)
        item, item_ids = _renumber(self.item, self.item_ids, order)
        return replace(self, user=user, user_ids=user_ids, item=item, item_ids=item_ids)


class Codes:
    """Codes of ids over all blocks, in the order in which they first occur."""

    def __init__(self, rename: Callable[[str], str] | None = None) -> None:
        self._code_of: dict[str, int] = {}
        self._rename = rename

    def of(self, column: IdColumn) -> npt.NDArray[np.int32]:
        """Codes int32 [n] of a block's ids."""
        used = np.zeros(len(column.ids), dtype=bool)
        used[column.codes] = True
        ids = (column.ids[code] for code in np.flatnonzero(used).tolist())
        names = ids if self._rename is None else map(self._rename, ids)
        code_of = np.zeros(len(used), dtype=np.int32)
        code_of[used] = [self._code_of.setdefault(name, len(self._code_of)) for name in names]
        return code_of[column.codes]

    def ids(self) -> npt.NDArray[np.object_]:
        """The ids by their codes, object array of str."""
        return id_array(self._code_of)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Collected:
    """All rows of a source: those kept, which of all these are, bool [n_rows], and an account of the others."""

    columns: Columns
    kept: Mask
    account: Account


def collect(blocks: Iterable[Block], reading: Reading, *, rename: Callable[[str], str] | None = None) -> _Collected:
    """The kept rows of all blocks; `rename` gives users other names, and theirs are gone once a block is taken in."""
    users, items, account = Codes(rename), Codes(), Account()
    # A source of no rows has its columns all the same.
    asked = [name for name, roles in _OPTIONAL.items() if any(map(reading.columns.get, roles))]
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("kept", "user", "item", *asked)}
    positions = are_positions(reading.columns.get("time", ""))
    for block in blocks:
        rows = rows_of(block, reading)
        account.add(rows)
        positions |= rows.positions
        parts["kept"].append(rows.broken == 0)
        parts["user"].append(users.of(rows.user))
        parts["item"].append(items.of(rows.item))
        for name in ("value", "time", "weight", "test"):
            column = getattr(rows, name)
            if column is not None:
                parts.setdefault(name, []).append(column)
    kept = _join(parts.pop("kept"), "kept")
    return _Collected(
        columns=Columns(
            user=_join(parts.pop("user"), "user"),
            item=_join(parts.pop("item"), "item"),
            user_ids=users.ids(),
            item_ids=items.ids(),
            positions=positions,
            **{name: _join(parts.pop(name), name) for name in list(parts)},
        ),
        kept=kept,
        account=account,
    )


def _join(parts: list[npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """One array of all, [n]; the parts are let go."""
    found = np.concatenate(parts) if parts else np.empty(0, dtype=_TYPES[name])
    parts.clear()
    return found


def _renumber(
    codes: npt.NDArray[np.int32],
    ids: npt.NDArray[np.object_],
    order: Callable[["npt.NDArray[np.object_]"], npt.NDArray[np.int64]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.object_]]:
    ordered = order(ids)
    position = np.empty(len(ids), dtype=np.int32)
    position[ordered] = np.arange(len(ids), dtype=np.int32)
    return position[codes], ids[ordered]


def without_repeated(columns: Columns) -> tuple[Interactions, Mask, dict[str, Mask]]:
    """Each user and item together once: of rows with both the one of most weight, of these the latest.

    Guarantees: which rows of a user are kept follows from the rows of that user alone.

    Returns:
        The interactions, of users and items that are left; which rows they are, bool [n_rows]; and by rule those that
        repeat them.
    """
    kept = np.ones(len(columns.user), dtype=bool)
    pair = columns.user.astype(np.int64) * max(1, len(columns.item_ids)) + columns.item
    rows = _repeated_rows(pair)
    rules: dict[str, Mask] = {}
    if len(rows):
        cells = [pair, *(c for c in (columns.value, columns.time, columns.weight) if c is not None)]
        again = _exact_duplicates(rows, cells)
        rules["exact duplicate"] = _at(rows[again], len(kept))
        rows = rows[~again]
        outdated = _outdated_pairs(rows, pair, keys=[c for c in (columns.weight, columns.time) if c is not None])
        rules["repeated pair"] = _at(rows[outdated], len(kept))
        kept[rules["exact duplicate"] | rules["repeated pair"]] = False
    return _interactions(columns, kept), kept, rules


def _at(rows: npt.NDArray[np.int64], n: int) -> Mask:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask


def text_order(ids: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Positions of ids in the order of their text, int64 [n_ids]."""
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)


def order_of(columns: Columns, source: str) -> npt.NDArray[np.int64] | None:
    """Rows of a query, which have no order of their own, by time, value, weight and item; None for other sources."""
    if source not in DATABASES:
        return None
    place = np.empty(len(columns.item_ids), dtype=np.int64)
    place[text_order(columns.item_ids)] = np.arange(len(place))
    signals = (columns.weight, columns.value, columns.time)
    return np.lexsort([place[columns.item], *(column for column in signals if column is not None)])


def in_source(mask: Mask, order: npt.NDArray[np.int64]) -> Mask:
    """A mask over rows that were put into an order, in the order of the source."""
    found = np.empty_like(mask)
    found[order] = mask
    return found


def dropped_findings(rules: dict[str, Mask], *, timed: bool, place: Place | None) -> tuple[Finding, ...]:
    """Whole rows that were dropped as findings; `place` names a row by its number among all that were looked at."""
    which = "the latest (of equal times the last row)" if timed else "the last row"
    return tuple(
        Finding(
            rule=rule,
            count=int(np.count_nonzero(mask)),
            action="dropped",
            explanation=DROPPED[rule].format(which=which),
            examples=() if place is None else tuple(map(place, np.flatnonzero(mask)[:_EXAMPLES].tolist())),
        )
        for rule, mask in rules.items()
        if mask.any()
    )


def read_interactions(reading: Reading) -> tuple[Interactions, ValidationReport, Mask | None]:
    """Read a table to its end.

    Returns:
        The interactions with ids in id order, the report, and which of them the table marks as held out, or None.

    Raises:
        DataError, ConfigurationError: see `blocks_of`; or no row is left.
    """
    return interactions_of(blocks_of(reading), reading)


def interactions_of(
    blocks: Iterable[Block], reading: Reading, *, may_be_empty: bool = False
) -> tuple[Interactions, ValidationReport, Mask | None]:
    """What `read_interactions` makes of blocks."""
    found = collect(blocks, reading)
    columns = found.columns.renumber(id_order)
    order = order_of(columns, reading.source)
    columns = columns if order is None else columns.taken(order)
    interactions, kept, rules = without_repeated(columns)
    test = None if columns.test is None else columns.test[kept]
    if order is not None:
        kept, rules = in_source(kept, order), {rule: in_source(mask, order) for rule, mask in rules.items()}
    rows_left = np.flatnonzero(found.kept) if rules else np.empty(0, dtype=np.int64)
    repeated = dropped_findings(
        rules, timed=columns.time is not None, place=lambda row: found.account.place(int(rows_left[row]))
    )
    found.kept[found.kept] = kept
    report = found.account.report(reading.place, repeated, kept=found.kept)
    if not len(interactions) and not may_be_empty:
        raise DataFormatError(
            "\n".join([f"Expected interactions in {reading.place}, none is left.", *report.table()])
        )
    if interactions.time is not None and not (interactions.time >= 0).any():
        # A column without one time is as good as none, and says so where times are needed.
        interactions = replace(interactions, time=None)
    return interactions, report, test


def block_of(cells: Mapping[Any, Any]) -> Block:
    """Columns of equal length by role, as one block; Arrow arrays, series and NumPy arrays are taken as they are."""
    rows = len(next(iter(cells.values())))
    columns = {str(role): _cells(column) for role, column in cells.items()}
    return Block(well_formed=np.ones(rows, dtype=bool), cells=columns, numbers=range(1, rows + 1))


def _cells(column: Any) -> Column:
    try:
        found = column if isinstance(column, pa.Array) else pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError):  # cells of several kinds
        return list(column)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _interactions(columns: Columns, kept: Mask) -> Interactions:
    some = columns if kept.all() else columns.taken(kept)
    user, user_ids = _compact(some.user, some.user_ids)
    item, item_ids = _compact(some.item, some.item_ids)
    return Interactions(
        user=user,
        item=item,
        user_ids=user_ids,
        item_ids=item_ids,
        value=some.value,
        time=some.time,
        weight=some.weight,
        clock=not some.positions,
    )


def _compact(
    codes: npt.NDArray[np.int32], ids: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.object_]]:
    """Codes into the ids that still occur."""
    used = np.zeros(len(ids), dtype=bool)
    used[codes] = True
    if used.all():
        return codes, ids
    return (np.cumsum(used) - 1).astype(np.int32)[codes], ids[used]
