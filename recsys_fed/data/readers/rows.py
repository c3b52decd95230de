"""Blocks as rows that can be trained on, and an account of all others: a row falls to the first rule that it breaks.

Whether a row is kept, and with what, follows from that row and the settings alone. (Repeated rows come later, see
`interactions`.) What nobody needs takes no row with it: a value or a time that cannot be read is left out, and noted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_fed.data.dataset import Finding, ValidationReport
from recsys_fed.data.readers._columns import IdColumn, ids_of, plain, times_of, values_of
from recsys_fed.data.readers.cells import LATEST, MISSING, UNREADABLE
from recsys_fed.data.readers.reading import Block, Numbers, Reading

Mask = npt.NDArray[np.bool_]
_Floats: TypeAlias = "npt.NDArray[np.float32] | None"

_EXAMPLES = 5
_MOST_VALUE = float(np.finfo(np.float32).max)
_TRUE = ("1", "true", "t", "yes", "test")
# In the order in which they apply.
RULES = {
    "malformed row": "Expected a row of the table: a line with as many fields as the header has, or a JSON object.",
    "missing user": "Expected a user id, got none.",
    "missing item": "Expected an item id, got none.",
    "other kind": "Left out: a kind of event that is not among the kinds that count.",
    "no weight": "Left out: a weight that is not a finite number above zero.",
    "negative time": "Expected a time from 1970 on.",
    "absurd time": "Expected a time before the year 2100, in the unit of the settings or by the size of each number.",
    "outside since and until": "Left out by since and until.",
}
NOTES = {
    "unreadable value": "Expected a finite number as value, got something else: the row counts without it.",
    "missing value": "Expected a value, got none (or NaN): the row counts without it.",
    "unreadable time": "Expected a number, or a date that has one meaning: the row counts without it.",
    "missing time": "Expected a time, got none (or NaN): the row counts without it.",
}
_CODE = {rule: code for code, rule in enumerate(RULES, start=1)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The kept rows of a block, in their order.

    Attributes:
        broken: uint8 [rows of the block], which rule a row breaks (1 is the first), 0 for those that are kept.
        user, item: ids of the kept rows; every code is 0 or more.
        value: float32, NaN where there is none. time: int64, nanoseconds since 1970 or a position, MISSING where
            there is none. weight: float32, of the row's kind times its own. test: bool. All are of the kept rows;
            None where the source lacks the column.
        notes: what kept rows lack, bool [rows of the block].
        numbers, file, unit: see `Block`.
        positions: whether times are places in an order.
    """

    broken: npt.NDArray[np.uint8]
    user: IdColumn
    item: IdColumn
    value: npt.NDArray[np.float32] | None
    time: npt.NDArray[np.int64] | None
    weight: npt.NDArray[np.float32] | None
    test: Mask | None
    notes: Mapping[str, Mask]
    numbers: Numbers
    file: str
    unit: str
    positions: bool

    def __len__(self) -> int:
        return len(self.user.codes)


def rows_of(block: Block, reading: Reading) -> Rows:
    """Read the cells of a block.

    Guarantees: which rows are kept, and with what, is a function of each row by itself and of `reading`.
    """
    block = _spread(block, lists=reading.format.lists)
    cells = block.cells
    user, item = ids_of(cells["user"]), ids_of(cells["item"])
    broken: dict[str, Mask] = {"missing user": user.codes < 0, "missing item": item.codes < 0}
    notes: dict[str, Mask] = {}
    value = time = weight = test = None
    if "kind" in cells:
        weight = _weights(ids_of(cells["kind"]), reading.kinds)
        broken["other kind"] = weight == 0
    if "weight" in cells:
        weight = _times_own(weight, values_of(cells["weight"]).values)
        broken["no weight"] = weight == 0
    if "value" in cells:
        column = values_of(cells["value"])
        infinite = np.abs(column.values) > _MOST_VALUE
        notes |= {"unreadable value": column.unreadable | infinite, "missing value": column.missing}
        # Zero has one sign.
        value = np.where(infinite, np.nan, column.values).astype(np.float32) + np.float32(0)
    if "time" in cells:
        time = times_of(cells["time"], "ns" if block.positions else reading.time_unit)
        lacking = {"unreadable time": time == UNREADABLE, "missing time": time == MISSING}
        notes |= lacking
        read = ~(lacking["unreadable time"] | lacking["missing time"])
        broken |= {"negative time": read & (time < 0), "absurd time": read & (time > LATEST)}
        broken["outside since and until"] = ~_in_span(time, read, reading)
        time = np.where(read, time, MISSING)
    if "test" in cells:
        test = _parse_marks(ids_of(cells["test"]))
    return _keep(block, (user, item), broken=broken, notes=notes, columns=(value, time, weight, test))


def _keep(
    block: Block,
    ids: tuple[IdColumn, IdColumn],
    *,
    broken: Mapping[str, Mask],
    notes: Mapping[str, Mask],
    columns: "tuple[_Floats, npt.NDArray[np.int64] | None, _Floats, Mask | None]",
) -> Rows:
    user, item = ids
    first = np.zeros(len(user.codes), dtype=np.uint8)
    for rule in reversed(list(broken)):
        first[broken[rule]] = _CODE[rule]
    kept = first == 0
    whole = np.full(len(block), _CODE["malformed row"], dtype=np.uint8)
    whole[block.well_formed] = first
    noted: dict[str, Mask] = {}
    for note, mask in notes.items():
        if (mask & kept).any():
            noted[note] = np.zeros(len(block), dtype=bool)
            noted[note][block.well_formed] = mask & kept
    every = bool(kept.all())
    value, time, weight, test = columns
    return Rows(
        broken=whole,
        user=user if every else IdColumn(codes=user.codes[kept], ids=user.ids),
        item=item if every else IdColumn(codes=item.codes[kept], ids=item.ids),
        value=value if every or value is None else value[kept],
        time=time if every or time is None else time[kept],
        weight=weight if every or weight is None else weight[kept],
        test=test if every or test is None else test[kept],
        notes=noted,
        numbers=block.numbers,
        file=block.file,
        unit=block.unit,
        positions=block.positions,
    )


def _weights(kinds: IdColumn, weights: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """Weight of each row's kind, compared without case; 0 where there is none."""
    plain = {kind.casefold(): weight for kind, weight in weights.items()}
    of_id = [plain.get(kind.casefold(), 0.0) for kind in kinds.ids]
    return np.array([*of_id, 0.0], dtype=np.float32)[kinds.codes]


def _times_own(of_kind: _Floats, own: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Weights of kinds (ones without any) times the rows' own, float32; 0 where that is no number above zero.

    What is beyond the ends of float32 counts as its end.
    """
    there = np.isfinite(own) & (own > 0)
    product = np.where(there, own, 0.0) * (1.0 if of_kind is None else of_kind)
    least, most = np.finfo(np.float32).tiny, _MOST_VALUE
    return np.where(product > 0, np.clip(product, least, most), 0.0).astype(np.float32)


def _parse_marks(column: IdColumn) -> Mask:
    return np.array([*(text.casefold() in _TRUE for text in column.ids), False], dtype=bool)[column.codes]


def _in_span(time: npt.NDArray[np.int64], read: Mask, reading: Reading) -> Mask:
    """From `since` on and before `until`, on the clock of the rows; a row without a time is outside of any span."""
    inside = np.ones(len(time), dtype=bool)
    if reading.since is not None:
        inside &= read & (time >= reading.since)
    if reading.until is not None:
        inside &= read & (time < reading.until)
    return inside


def _spread(block: Block, *, lists: str) -> Block:
    """The block with a row for each item of a list: of a cell that is one, or of text with `lists` between items."""
    items = block.cells["item"]
    if isinstance(items, pa.Array):
        if lists and pa.types.is_binary(plain(items).type):
            items = _split_lists(plain(items), lists)
        if not _is_list(items.type):
            return block
    else:
        if lists:
            items = [_split_cell(cell, lists) for cell in items]
        if not any(isinstance(cell, list | tuple) for cell in items):
            return block
        # A cell that is no list is a list of one.
        items = [list(cell) if isinstance(cell, list | tuple) else [cell] for cell in items]
    lengths, flat = _flatten(items)
    parent = np.repeat(np.arange(len(lengths)), lengths)
    cells = {role: flat if role == "item" else _take(column, parent) for role, column in block.cells.items()}
    copies = np.ones(len(block), dtype=np.int64)
    copies[block.well_formed] = lengths
    return replace(
        block,
        well_formed=np.repeat(block.well_formed, copies),
        cells=cells,
        numbers=np.repeat(np.asarray(block.numbers), copies),
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _split_lists(cells: pa.Array, lists: str) -> pa.Array:
    if lists == " ":
        cells = pc.replace_substring_regex(cells, pattern="[ \t]+", replacement=" ")
        cells = pc.replace_substring_regex(cells, pattern="^ | $", replacement="")
    return pc.split_pattern(cells, pattern=lists)


def _split_cell(cell: object, lists: str) -> object:
    if isinstance(cell, bytes):
        return re.split(b"[ \t]+", cell.strip(b" \t")) if lists == " " else cell.split(lists.encode())
    if isinstance(cell, str):
        return re.split("[ \t]+", cell.strip(" \t")) if lists == " " else cell.split(lists)
    return cell


def _flatten(items: "pa.Array | list[list[object]]") -> tuple[npt.NDArray[np.int64], "pa.Array | list[object]"]:
    """Items of each list (at least 1, an empty cell for an empty list), and all of them."""
    if not isinstance(items, pa.Array):
        full = [cell or [None] for cell in items]
        return np.array([len(cell) for cell in full], dtype=np.int64), [item for cell in full for item in cell]
    items = items.cast(pa.large_list(items.type.value_type))
    held = np.asarray(pc.list_value_length(items).fill_null(0)).astype(np.int64)
    lengths = np.maximum(held, 1)
    starts = np.asarray(items.offsets)[:-1].astype(np.int64)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + within
    empty = np.repeat(held == 0, lengths)
    return lengths, items.values.take(pa.array(np.where(empty, 0, places), mask=empty))


def _take(column: object, rows: npt.NDArray[np.int64]) -> "pa.Array | list[object]":
    if isinstance(column, pa.Array):
        return column.take(pa.array(rows))
    assert isinstance(column, list | tuple)  # noqa: S101
    return [column[row] for row in rows.tolist()]


@dataclass(kw_only=True)
class Account:
    """Which rows of a source fell to which rule, counted block by block; the operator's own."""

    n_rows: int = 0
    n_kept: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[int]] = field(default_factory=dict)
    # First row (of all), numbers in their file, file and unit of each block.
    _spans: list[tuple[int, Numbers, str, str]] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        """Take in the rows of the next block."""
        self._spans.append((self.n_rows, rows.numbers, rows.file, rows.unit))
        for rule, code in _CODE.items():
            self._count(rule, rows.broken == code)
        for note, mask in rows.notes.items():
            self._count(note, mask)
        self.n_rows += len(rows.broken)
        self.n_kept += len(rows)

    def _count(self, rule: str, mask: Mask) -> None:
        found = int(np.count_nonzero(mask))
        if found:
            self._counts[rule] = self._counts.get(rule, 0) + found
            examples = self._examples.setdefault(rule, [])
            if len(examples) < _EXAMPLES:
                examples += (self.n_rows + np.flatnonzero(mask)[: _EXAMPLES - len(examples)]).tolist()

    def place(self, row: int) -> str:
        """Where the row of this number (of all, from 0) stands: "line 3", "part-1.parquet row 7"."""
        first, numbers, file, unit = next(span for span in reversed(self._spans) if span[0] <= row)
        return f"{file} {unit} {int(numbers[row - first])}".strip()

    def _findings(self, texts: Mapping[str, str], action: str) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                rule=rule,
                count=self._counts[rule],
                action=action,
                explanation=explanation,
                examples=tuple(map(self.place, self._examples[rule])),
            )
            for rule, explanation in texts.items()
            if rule in self._counts
        )

    def report(self, source: str, repeated: tuple[Finding, ...], *, kept: Mask) -> ValidationReport:
        """All that was dropped: here, and what `repeated` says of the rows that were left."""
        return ValidationReport(
            source=source,
            n_rows=self.n_rows,
            kept=kept,
            findings=(*self._findings(RULES, "dropped"), *repeated),
            notes=self._findings(NOTES, "kept without it"),
        )
