"""Rows of ordinary users in every notation that means the same, and a newcomer's rows of what readers trip over."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

COLUMNS = {"user": "customer", "item": "sku", "value": "stars", "time": "at"}
ITEMS = [str(2_000 + item) for item in range(12)]
# Ids of ordinary users; a newcomer's rows come under any others.
ORDINARY = range(1_000, 1_007)
_START, _DAY = 1_609_459_200, 86_400
# An ordinary user's id must not stand in what the newcomer writes.
_ORDINARY = re.compile(rb"(?<![0-9])10[0-9]{2}(?![0-9])")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row means: numbers of user and item, a value, seconds since 1970; of a newcomer's row, nothing much.

    The cells of a row are drawn from `number`, so that a row can stand in two tables with the same cells.
    """

    number: int
    user: int
    item: int
    value: int
    time: int
    newcomer: bool = False


Rows = list[Row]


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How a table writes what its rows mean: two tables of one notation write a row with the same bytes.

    A uniform one has one way a column for all ordinary rows, as tables have in practice; else each row has its own.
    """

    seed: int
    uniform: bool

    def of_table(self) -> np.random.Generator:
        """What the header and the types of columns are drawn from."""
        return np.random.default_rng([self.seed, 0])

    def of(self, row: Row) -> np.random.Generator:
        """What the cells of a row are drawn from."""
        return np.random.default_rng([self.seed, 1 if self.uniform and not row.newcomer else 2 + row.number])


def ordinary_rows(rng: np.random.Generator) -> Rows:
    """Rows of a few users, with repeated pairs and equal times."""
    n_users = int(rng.integers(2, len(ORDINARY)))
    return [
        Row(
            number=number,
            user=ORDINARY.start + int(rng.integers(n_users)),
            item=2_000 + int(rng.integers(14)),
            value=int(rng.integers(1, 6)),
            time=_START + 60 * _DAY * int(rng.integers(12)) + int(rng.choice([0, 0, 43_200, 61])),
        )
        for number in range(int(rng.integers(4, 25)))
    ]


def rows_of_newcomer(rng: np.random.Generator, ordinary: int) -> Rows:
    """One row or many more than all others have together."""
    n_rows = int(rng.integers(1, 4)) if rng.random() < 0.7 else int(rng.integers(1, 3 * ordinary))
    row = Row(number=0, user=999, item=2_000, value=3, time=_START, newcomer=True)
    return [replace(row, number=ordinary + number) for number in range(n_rows)]


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A way to store a column: its type in Arrow and PostgreSQL, an ordinary number as a cell, and hostile cells."""

    arrow: tuple[pa.DataType, ...]
    sql: str
    cell: Callable[[np.random.Generator, int], object]
    hostile: tuple[object, ...]


_HOSTILE_TEXT = (
    "", " ", None, "nan", "NaN", "inf", "-inf", "None", "NULL", "five", "x", "0.5", "-1", "0", "true", "1e999", "1_0",
    "٣", "é", "a,b", "a\tb", 'a"b', '"', '""', "\x00", "\r", "x" * 3_000, "9" * 400, "[1, 2]", "{}", "1700000000",
    "1700000000000", "1700000000000000000", "1700000000.25", "2024-01-31", "2024-01-31T12:00:00Z", "9999-12-31",
    "9999-12-31T23:59:59.999999-14:00", "0001-01-01T00:00:00+14:00", "2024-02-30", "2024-01-31 12:00:00+01",
    "20240131", "2024-W05-1", "12:00", "31.12.2024", "2024-01-31T12:00:00[Europe/Paris]", "9007199254740993",
)  # fmt: skip
_HOSTILE_BYTES = (b"", b" ", None, b"\xff\xfe", b"\x00", b"x", b"five", b"\xc3", b"2024-01-31", b"1700000000000")
_HOSTILE_WHOLE = (
    None,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**53 + 1,
    1_700_000_000,
    1_700_000_000_000,
    1_700_000_000_000_000_000,
)
_HOSTILE_FLOATS = (None, math.nan, math.inf, -math.inf, 0.5, -0.0, 1e300, 1.7e12, 1_700_000_000.25, 5e-324)
_HOSTILE_DECIMALS = tuple(None if text is None else Decimal(text) for text in (None, "0.5", "-1", "1.7E12", "1E20"))
_HOSTILE_TIMES = (
    None,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
    datetime(1969, 1, 1, tzinfo=UTC),
)
_TEXTS = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))

_NUMBERS = (
    _Kind(
        arrow=_TEXTS,
        sql="text",
        cell=lambda rng, n: _pick(rng, (f"{n}", f"{n}.0", f" {n} ", f"{n}.000")),
        hostile=_HOSTILE_TEXT,
    ),
    _Kind(arrow=(pa.binary(), pa.large_binary()), sql="bytea", cell=lambda _, n: b"%d" % n, hostile=_HOSTILE_BYTES),
    _Kind(arrow=(pa.int64(),), sql="int8", cell=lambda _, n: n, hostile=_HOSTILE_WHOLE),
    _Kind(arrow=(pa.float64(),), sql="float8", cell=lambda _, n: float(n), hostile=_HOSTILE_FLOATS),
    _Kind(arrow=(pa.decimal128(38, 4),), sql="numeric", cell=lambda _, n: Decimal(n), hostile=_HOSTILE_DECIMALS),
)  # fmt: skip


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, as it is."""
    return choices[int(rng.integers(len(choices)))]


def _time_text(rng: np.random.Generator, seconds: int) -> str:
    """A moment as text, in one of the notations that mean it."""
    when = _moment(seconds)
    later = (when + timedelta(hours=1)).replace(tzinfo=None)
    plain = when.replace(tzinfo=None)
    forms = [f"{seconds}", f"{seconds}.0", f"{seconds}000", f"{seconds}000000", f"{seconds}000000000"]
    forms += [
        f"{plain.isoformat()}Z",
        str(plain),
        str(when),
        f"{later.isoformat()}+01:00",
        f"{plain}.000",
        f" {plain} ",
    ]
    return _pick(rng, forms + ([f"{plain.date()}"] if plain.hour + plain.minute == 0 else []))


def _in_a_unit(rng: np.random.Generator, seconds: int) -> int:
    return seconds * int(_pick(rng, (1, 1_000, 1_000_000)))


_TIMES = (
    _Kind(arrow=_TEXTS, sql="text", cell=_time_text, hostile=_HOSTILE_TEXT),
    _Kind(arrow=(pa.binary(),), sql="bytea", cell=lambda rng, t: _time_text(rng, t).encode(), hostile=_HOSTILE_BYTES),
    _Kind(arrow=(pa.int64(),), sql="int8", cell=_in_a_unit, hostile=_HOSTILE_WHOLE),
    _Kind(
        arrow=(pa.float64(),), sql="float8", cell=lambda rng, t: float(_in_a_unit(rng, t)), hostile=_HOSTILE_FLOATS
    ),
    _Kind(arrow=(pa.decimal128(38, 4),), sql="numeric", cell=lambda _, t: Decimal(t), hostile=_HOSTILE_DECIMALS),
    _Kind(
        arrow=(pa.timestamp("us", "UTC"), pa.timestamp("ms"), pa.timestamp("s")),
        sql="timestamptz",
        cell=lambda _, t: _moment(t),
        hostile=_HOSTILE_TIMES,
    ),
)  # fmt: skip
KINDS = {"user": _NUMBERS, "item": _NUMBERS, "value": _NUMBERS, "time": _TIMES}
# Kinds that a source without types holds as well.
UNTYPED = ("text", "bytea", "int8", "float8")
# Columns that hold nothing that can be read: files of the newcomer alone may have them.
_USELESS = (
    (pa.list_(pa.int64()), [1]), (pa.bool_(), True), (pa.null(), None), (pa.struct([("a", pa.int8())]), {"a": 1}),
    (pa.date32(), datetime(2024, 1, 31).date()), (pa.duration("s"), timedelta(1)), (pa.float32(), 0.5),
    (pa.uint64(), 2**64 - 1), (pa.time64("us"), datetime(2024, 1, 31, 12).time()),
)  # fmt: skip


def _typed_cells(notation: Notation, rows: Rows, role: str, kind: _Kind) -> list[Any]:
    """A column of one kind."""
    return [_cell(notation.of(row), row, role, kind) for row in rows]


def typed_columns(notation: Notation, rows: Rows) -> dict[str, pa.Array]:
    """Arrow columns, each of a type that holds its cells."""
    rng = notation.of_table()
    columns = {}
    for role, name in COLUMNS.items():
        kind = _pick(rng, KINDS[role])
        cells, arrow = _typed_cells(notation, rows, role, kind), _pick(rng, kind.arrow)
        if rows and all(row.newcomer for row in rows) and rng.random() < 0.5:
            arrow, cell = _pick(rng, _USELESS)
            cells = [cell] * len(rows)
        columns[name] = pa.array(cells, type=arrow)
    return columns


def any_cells(notation: Notation, row: Row) -> dict[str, Any]:
    """The cells of a row by role, each of a kind of its own, for sources whose columns have no type."""
    rng = notation.of(row)
    kinds = {role: _pick(rng, [kind for kind in KINDS[role] if kind.sql in UNTYPED]) for role in COLUMNS}
    return {role: _cell(rng, row, role, kind) for role, kind in kinds.items()}


def text_lines(rng: np.random.Generator, cells: Sequence[object], separator: bytes, *, careless: bool) -> list[bytes]:
    """A row as a line of a text table; a careless writer forgets quotes, fields and line ends, or adds junk."""
    fields = [_field(rng, cell, separator, careless=careless and rng.random() < 0.3) for cell in cells]
    if not careless:
        return [separator.join(fields)]
    if rng.random() < 0.2:
        fields = fields[: int(rng.integers(len(fields)))] if rng.random() < 0.5 else [*fields, b"more"]
    letters = (
        separator,
        b'"',
        b'""',
        b"x",
        b"\xff",
        b"\x00",
        b"\r",
        b"\n",
        b" ",
        b"999",
        b"2000",
        b"\xef\xbb\xbf",
        b"'",
        b"\\",
    )
    junk = [b"".join(_pick(rng, letters) for _ in range(int(rng.integers(0, 30))))] if rng.random() < 0.3 else []
    return [line for line in (separator.join(fields), *junk) if not _ORDINARY.search(line)]


def _cell(rng: np.random.Generator, row: Row, role: str, kind: _Kind) -> object:
    if row.newcomer and rng.random() < (0.2 if role == "user" else 0.5):
        return _pick(rng, kind.hostile)
    number: int = getattr(row, role)
    return kind.cell(rng, number)


def _field(rng: np.random.Generator, cell: object, separator: bytes, *, careless: bool) -> bytes:
    raw = cell if isinstance(cell, bytes) else b"" if cell is None else str(cell).encode()
    needed = separator in raw or b'"' in raw or b"\r" in raw
    if (rng.random() < 0.2 or needed) and not careless:
        return b'"' + raw.replace(b'"', b'""') + b'"'
    return raw + (b'"' if careless and rng.random() < 0.3 else b"")


def _moment(seconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
