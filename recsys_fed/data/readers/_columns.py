"""The rules of `cells` over whole columns: whatever else a column holds, a cell means the same.

A column is an Arrow array, whose type its source declares, or a list of Python's objects. Where a whole column can
be done at once, the result is that of the rule for each cell; tests compare both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_fed.data.readers.cells import (
    FAR,
    LATEST_SECONDS,
    MISSING,
    PER_SECOND,
    UNREADABLE,
    spell_id,
    tail_of,
    time_of,
    value_of,
)

Column: TypeAlias = "pa.Array | Sequence[object]"

# Arrow knows how to tell decimals apart from this width on.
_DECIMAL_BITS = 128
_HEAD = 19
# 2024-01-31T12:00:00: where its digits stand, and its separators.
_DIGITS_AT = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_SEPARATORS = ((4, b"--"), (7, b"--"), (10, b"T "), (13, b"::"), (16, b"::"))


@dataclass(frozen=True, kw_only=True, eq=False)
class IdColumn:
    """Ids of a column: codes int64 [n] into `ids` (distinct str), -1 where a cell holds none."""

    codes: npt.NDArray[np.int64]
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueColumn:
    """Numbers float64 [n], and where a cell is empty (or NaN), or holds something else, bool [n]."""

    values: npt.NDArray[np.float64]
    missing: npt.NDArray[np.bool_]
    unreadable: npt.NDArray[np.bool_]


def ids_of(column: Column) -> IdColumn:
    """The ids of a column, each cell by `spell_id`."""
    cells, codes = _distinct(column)
    code_of: dict[str, int] = {}
    spelled = [
        -1 if text is None else code_of.setdefault(text, len(code_of)) for text in (spell_id(c) for c in cells)
    ]
    return IdColumn(codes=np.array([*spelled, -1], dtype=np.int64)[codes], ids=tuple(code_of))


def values_of(column: Column) -> ValueColumn:
    """The numbers of a column, each cell by `value_of`."""
    column = _to_array(column)
    if isinstance(column, pa.Array) and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        filled = column.fill_null(0).to_numpy(zero_copy_only=False)
        values = np.where(_gaps(column), np.nan, filled.astype(np.float64))
        missing = np.isnan(values)
        return ValueColumn(values=values, missing=missing, unreadable=np.zeros(len(values), dtype=bool))
    cells, codes = _distinct(column)
    found = [value_of(cell) for cell in cells]
    values = np.array([np.nan if value is None else value for value in [*found, np.nan]], dtype=np.float64)[codes]
    unreadable = np.array([value is None for value in found] + [False], dtype=bool)[codes]
    return ValueColumn(values=values, missing=np.isnan(values) & ~unreadable, unreadable=unreadable)


def times_of(column: Column, unit: str = "") -> npt.NDArray[np.int64]:
    """Nanoseconds since 1970, MISSING or UNREADABLE, int64 [n], each cell by `time_of`."""
    column = _to_array(column)
    if not isinstance(column, pa.Array):
        return np.array([time_of(cell, unit) for cell in column], dtype=np.int64)
    kind = column.type
    if pa.types.is_binary(kind):
        return _times_of_text(column, unit)
    if pa.types.is_integer(kind):
        found = _times_of_whole(_numbers(column), unit)
    elif pa.types.is_floating(kind):
        found = _times_of_floats(_numbers(column).astype(np.float64), unit)
    elif pa.types.is_timestamp(kind):
        found = _times_of_whole(_numbers(column.cast(pa.timestamp(kind.unit)).view(pa.int64())), kind.unit)
    elif pa.types.is_date(kind):
        days = _numbers(column.view(pa.int32() if pa.types.is_date32(kind) else pa.int64()))
        found = _times_of_whole(
            days * 86_400 if pa.types.is_date32(kind) else days, "s" if pa.types.is_date32(kind) else "ms"
        )
    else:
        return _by_distinct(column, lambda cell: time_of(cell, unit), MISSING)
    return np.where(_gaps(column), MISSING, found)


def _by_distinct(column: Column, rule: Callable[[object], int], missing: int) -> npt.NDArray[np.int64]:
    cells, codes = _distinct(column)
    return np.array([*(rule(cell) for cell in cells), missing], dtype=np.int64)[codes]


def _to_array(column: Column) -> Column:
    """A list of cells of one kind as an array, which is quicker and means the same; text and views as bytes."""
    if not isinstance(column, pa.Array):
        kinds = set(map(type, column)) - {type(None)}
        wanted = {frozenset({bytes}): pa.binary(), frozenset({int}): pa.int64(), frozenset({float}): pa.float64()}
        try:
            return pa.array(column, type=wanted[frozenset(kinds)])
        except (KeyError, OverflowError, pa.ArrowException):
            return column
    return plain(column)


def plain(array: pa.Array) -> pa.Array:
    """Without extensions, dictionaries, small decimals and the many kinds of text."""
    if array.type.equals(pa.uuid()):
        return pa.array(
            [None if cell is None else str(cell).encode() for cell in array.to_pylist()], type=pa.binary()
        )
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if isinstance(array, pa.DictionaryArray):
        # Arrow cannot decode a dictionary of views, such as Polars' categories.
        return plain(plain(array.dictionary).take(array.indices))
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = array.cast(pa.large_binary())
    elif pa.types.is_string(kind) or pa.types.is_fixed_size_binary(kind):
        array = array.cast(pa.binary())
    elif pa.types.is_decimal(kind) and kind.bit_width < _DECIMAL_BITS:
        array = array.cast(pa.decimal128(kind.precision, kind.scale))
    # A block holds far less than the two gigabytes that 32-bit offsets reach.
    return array.cast(pa.binary()) if pa.types.is_large_binary(array.type) else array


def _distinct(column: Column) -> tuple[list[object], npt.NDArray[np.int64]]:
    """The distinct cells as Python's objects, and each row's position among them, -1 where there is none."""
    column = _to_array(column)
    if not isinstance(column, pa.Array):
        return _distinct_objects(column)
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_null(kind) or pa.types.is_interval(kind):
        # Something, whatever it holds, that is no id, no number and no time.
        return [()], np.where(_gaps(column), -1, 0)
    if pa.types.is_temporal(kind):
        # As text: Python's own dates and times end in the year 9999.
        zoneless = column.cast(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else column
        column = (
            zoneless.cast(pa.int64()) if pa.types.is_duration(kind) else zoneless.cast(pa.string()).cast(pa.binary())
        )
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.fill_null(-1)).astype(np.int64)


def _distinct_objects(column: Sequence[object]) -> tuple[list[object], npt.NDArray[np.int64]]:
    """By kind and value: 1, 1.0 and True are equal in Python, and three ids."""
    code_of: dict[object, int] = {}
    cells: list[object] = []
    codes = np.full(len(column), -1, dtype=np.int64)
    for row, cell in enumerate(column):
        try:
            code = code_of.setdefault((type(cell), cell), len(cells))
        except TypeError:  # a list has no hash
            code = len(cells)
        if code == len(cells):
            cells.append(cell)
        codes[row] = code
    return cells, codes


def _gaps(array: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """Without gaps (0 there); unsigned numbers that no int64 holds are the largest one."""
    filled = array.fill_null(0) if array.null_count else array
    numbers: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind == "u":
        numbers = np.minimum(numbers, np.uint64(2**63 - 1)).astype(np.int64)
    return numbers.astype(np.int64) if numbers.dtype.kind == "i" else numbers


def _times_of_whole(numbers: npt.NDArray[np.int64], unit: str) -> npt.NDArray[np.int64]:
    """`_time_of_whole` over an array."""
    if unit:
        factor = PER_SECOND["ns"] // PER_SECOND[unit]
        limit = FAR // factor
        found = numbers.clip(-limit, limit) * factor
        return np.where(np.abs(numbers.clip(-FAR, FAR)) > limit, np.sign(numbers) * FAR, found)
    size = np.abs(numbers.clip(-FAR, FAR))
    if len(size) and size.max() <= LATEST_SECONDS:
        return _times_of_whole(numbers, "s")
    found = numbers.clip(-FAR, FAR)
    for name in ("us", "ms", "s"):
        fits = size <= LATEST_SECONDS * PER_SECOND[name]
        if fits.any():
            found = np.where(fits, _times_of_whole(np.where(fits, numbers, 0), name), found)
    return found


def _times_of_floats(numbers: npt.NDArray[np.float64], unit: str) -> npt.NDArray[np.int64]:
    """`_time_of_fraction` over an array; NaN, and what is far off, by the rule for one cell."""
    near = np.abs(numbers) < FAR
    whole = np.floor(np.where(near, numbers, 0))
    factor = np.full(len(numbers), PER_SECOND["ns"] // PER_SECOND[unit or "ns"])
    if not unit:
        for name in ("us", "ms", "s"):
            fits = np.abs(numbers) <= LATEST_SECONDS * PER_SECOND[name]
            factor[fits] = PER_SECOND["ns"] // PER_SECOND[name]
    limit = FAR // factor
    wholes = whole.astype(np.int64)
    fraction = np.floor((np.where(near, numbers, 0) - whole) * factor).astype(np.int64)
    found = (wholes.clip(-limit, limit) * factor + fraction).clip(-FAR, FAR)
    found = np.where(np.abs(wholes) > limit, np.sign(wholes) * FAR, found)
    found[~near] = [time_of(number, unit) for number in numbers[~near].tolist()]
    return found


def _times_of_text(cells: pa.Array, unit: str) -> npt.NDArray[np.int64]:
    """Whole numbers and 2024-01-31T12:00:00 with what may follow at once, the rest one by one."""
    found = np.full(len(cells), MISSING, dtype=np.int64)
    whole = _true(pc.match_substring_regex(cells, r"^[0-9]{1,18}$"))
    found[whole] = _times_of_whole(np.asarray(cells.filter(pa.array(whole)).cast(pa.string()).cast(pa.int64())), unit)
    dated = np.flatnonzero(~whole & _true(pc.greater_equal(pc.binary_length(cells), _HEAD)))
    if len(dated):
        found[dated] = times = _times_of_dates(cells.take(pa.array(dated)))
        dated = dated[times != UNREADABLE]
    rest = ~whole & ~_gaps(cells)
    rest[dated] = False
    if rest.any():
        found[rest] = _by_distinct(cells.filter(pa.array(rest)), lambda cell: time_of(cell, unit), MISSING)
    return found


def _times_of_dates(cells: pa.Array) -> npt.NDArray[np.int64]:
    """Nanoseconds of cells that begin as 2024-01-31T12:00:00 does, UNREADABLE for others; none is missing."""
    heads = pc.binary_slice(cells, 0, _HEAD).cast(pa.binary(_HEAD))
    letters = np.frombuffer(heads.buffers()[1], dtype=np.uint8)[: len(cells) * _HEAD].reshape(-1, _HEAD)
    digits = letters[:, _DIGITS_AT].astype(np.int64) - ord("0")
    good = ((digits >= 0) & (digits <= 9)).all(axis=1)
    for place, (one, other) in _SEPARATORS:
        good &= (letters[:, place] == one) | (letters[:, place] == other)
    year = digits[:, :4] @ np.array([1_000, 100, 10, 1])
    month, day, hour, minute, second = (10 * digits[:, at] + digits[:, at + 1] for at in (4, 6, 8, 10, 12))
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour <= 23) & (minute <= 59) & (second <= 59)
    months = np.where(good, 12 * (year - 1970) + month - 1, 0)
    first, following = (m.astype("M8[M]").astype("M8[D]").astype(np.int64) for m in (months, months + 1))
    good &= day <= following - first
    seconds = 86_400 * (first + day - 1) + 3_600 * hour + 60 * minute + second
    longest = pc.max(pc.binary_length(cells)).as_py()
    tails = _by_distinct(pc.binary_slice(cells, _HEAD, longest + 1), _tail, UNREADABLE)
    good &= tails != UNREADABLE
    limit = FAR // PER_SECOND["ns"] - 86_400
    near = PER_SECOND["ns"] * seconds.clip(-limit, limit) + np.where(good, tails, 0)
    found = np.where(np.abs(seconds) <= limit, near, np.sign(seconds) * FAR)
    return np.where(good, found, UNREADABLE)


def _tail(cell: object) -> int:
    """`tail_of` of bytes; blanks at the end are left to the rule for one cell."""
    assert isinstance(cell, bytes)  # noqa: S101
    more = tail_of(cell.decode("latin-1"))
    return UNREADABLE if more is None else more


def _true(mask: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(mask.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
