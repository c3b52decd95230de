"""Tables of interactions of any kind, drawn as files with all that goes wrong in them."""

import gzip
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from table_oracle import json_rows, text_rows

from recsys_fed.data.readers.reading import SEPARATORS

KINDS = "view=0.1,buy=1,gift=0"
OPTIONAL = ("value", "time", "kind")
SUFFIXES = {".csv": "comma", ".tsv": "tab", ".tab": "tab", ".dat": "colons", ".txt": ""}
# Usual names, and one that has to be said.
NAMES = {
    "user": ("user", "User-ID", "who"),
    "item": ("itemId", "sku", "what"),
    "value": ("rating", "stars", "how much"),
    "time": ("timestamp", "date_added", "when"),
    "kind": ("event", "behavior", "doing"),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to be written, settings to read it by as on the command line, and its rows of cells for an oracle."""

    name: str
    write: Callable[[Path], object] = field(repr=False)
    rows: Callable[[], Any] = field(repr=False)
    columns: str = ""
    kinds: str = ""
    form: str = ""
    lists: str = ""


IDS = [b"1", b"1.0", b"1.00", b"01", b" 1", b"2", b"-0.0", b"0", b"u", "é".encode(), b"\xe9", b"", b" ", b"nan",
       b"1e3", b"a,b", b"a;b", b"a b", b"x\ty", b'5" disk', b'"', b'"Heroes', b"a::b", b":", b"a|b", b"a+b", b"\x00",
       b"\xc2\x85", "\u2028".encode(), b"x\ry", b"'q'"]  # fmt: skip
VALUES = [
    b"4",
    b"4.5",
    b"4,5",
    b"1,234.5",
    b"",
    b"NaN",
    b"inf",
    b"1e39",
    b"4/5",
    b"five",
    b"-0",
    b"0",
    b"1e-50",
    b"-3",
]
TIMES = [b"0", b"-1", b"1700000000", b"1700000000.5", b"1700000000123", b"1700000000123456", b"1700000000123456789",
         b"1.7e9", b"2024-01-31", b"2024-01-31T12:00:00Z", b"2024-01-31 12:00:00.000000001", b"2024-01",
         b"2024-01-31T12:00:00+01:00", b"31.01.2024 12:00", b"1/31/2024 12:00:00 PM", b"01/02/2024",
         b"Wed Jan 31 12:00:00 +0000 2024", b"", b" ", b"soon", b"nan", b"inf", b"9999-12-31", b"1969-12-31",
         b"1e300", b"4102444800", b"4102444801", b"99999999999999999999", b" 1700000000 "]  # fmt: skip
CELLS = {
    # Mostly few of them, so that pairs are repeated.
    "user": st.sampled_from([b"1", b"1", b"2"]) | st.sampled_from([b"1.0", b'"1"', b"u"]) | st.sampled_from(IDS),
    "item": st.sampled_from([b"1", b"2"]) | st.sampled_from([b"1", b"2.0", b"3"]) | st.sampled_from(IDS),
    "value": st.sampled_from(VALUES),
    "time": st.sampled_from(TIMES) | st.integers(1_700_000_000, 1_700_000_003).map(lambda second: b"%d" % second),
    "kind": st.sampled_from([b"view", b"VIEW ", b"buy", b"gift", b"other", b""]),
    "": st.sampled_from([b"", b"x", b'"', b"a,b", b"\xff", b'say ""', b"910005"]),
}
STYLES = st.sampled_from(["plain"] * 5 + ["quoted", "quoted", "blanks", "open"])
JUNK = st.lists(st.sampled_from([b",", b"\t", b";", b"|", b"::", b" ", b'"', b"a", b"\x00", b"\xff"]), max_size=8)


def written(cell: bytes, style: str) -> bytes:
    """A field."""
    cell = cell.replace(b"\n", b"")
    if style in ("quoted", "blanks"):
        field = b'"' + cell.replace(b'"', b'""') + b'"'
        return b" " + field + b"  " if style == "blanks" else field
    return b'"' + cell if style == "open" else cell


@st.composite
def lines(draw, columns, separator):
    """A line, mostly one of the table."""
    if draw(st.integers(0, 9)) == 0:
        return b"".join(draw(JUNK))
    fields = [written(draw(CELLS[role]), draw(STYLES)) for role in columns]
    more = draw(st.sampled_from([None] * 6 + [[b""], [b"", b""], [b'""'], [b"x"], [b"", b"x"], "less"]))
    fields = fields[:-1] if more == "less" else fields + (more or [])
    return separator.join(fields)


@st.composite
def layouts(draw):
    """Role of each column, "" for superfluous ones, in any order."""
    there = [role for role in OPTIONAL if draw(st.booleans())]
    return draw(st.permutations(["user", "item", *there, *draw(st.sampled_from([[], [""], ["", ""]]))]))


@st.composite
def named(draw, layout, *, all_of_them=False):
    """Names of the columns, and the option that says those that are unusual."""
    name_of = {role: draw(st.sampled_from(NAMES[role])) for role in NAMES}
    names = [name_of[role] if role else "note" for role in layout]
    said = {role: name_of[role] for role in layout if role and (all_of_them or name_of[role] == NAMES[role][-1])}
    off = [role for role in ("value", "time") if role not in layout]
    if "" in layout and off and draw(st.booleans()):
        # A usual name of a column that is switched off.
        names[names.index("note")] = NAMES[off[0]][0]
        said[off[0]] = ""
    if all_of_them:
        said |= dict.fromkeys(off, "")
    return names, ",".join(f"{role}={name}" for role, name in said.items())


@st.composite
def text_tables(draw):
    """Text with any separator, with and without a header, compressed, in UTF-8, UTF-16 and what is neither."""
    layout, word = draw(layouts()), draw(st.sampled_from(list(SEPARATORS)))
    suffix, separator = draw(st.sampled_from(list(SUFFIXES))), SEPARATORS[word].encode()
    some = draw(st.lists(lines(layout, separator), max_size=10))
    lists = draw(st.sampled_from(["", "", "+", " "]))
    lists = "" if lists.encode() == separator else lists
    form = [f"lists={'blank' if lists == ' ' else lists}"] if lists else []
    names, columns = draw(named(layout))
    has_header = draw(st.integers(0, 3)) > 0
    if not has_header:
        columns = ",".join(f"{role}={place}" for place, role in enumerate(layout) if role)
    seen = word == (SUFFIXES[suffix] or "blank") or word != "blank" if has_header else word == SUFFIXES[suffix]
    form += [] if seen and draw(st.booleans()) else [f"separator={word}"]
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    body = end.join(some) + draw(st.sampled_from([b"", end]))
    head = separator.join(name.replace(" ", "_").encode() if word == "blank" else name.encode() for name in names)
    if word == "blank":
        columns = columns.replace("how much", "how_much")
    whole, body, form = _encoded(draw, head + end + body if has_header else body, body, form)
    packed = draw(st.sampled_from(["", "", "", ".gz", ".zst"]))
    at = {role: place for place, role in enumerate(layout) if role}
    return Table(
        name=f"t{suffix}{packed}",
        write=lambda path: path.write_bytes(_compressed(whole, packed)),
        rows=lambda: text_rows(body, separator, at, n_fields=len(layout) if has_header else 0),
        columns=columns,
        kinds=KINDS if "kind" in layout else "",
        form=",".join(form),
        lists=lists,
    )


def _encoded(draw, whole, body, form):
    """The bytes of the file, the body as UTF-8, and the format."""
    how = draw(st.sampled_from(["", "", "", "mark", "utf-16", "cp1251"]))
    if how == "mark":
        return b"\xef\xbb\xbf" + whole, body, form
    if how == "utf-16":
        return whole.decode("latin-1").encode("utf-16"), body.decode("latin-1").encode(), form
    if how == "cp1251":
        text = body.decode("cp1251", errors="replace")
        return whole, text.encode(), [*form, "encoding=cp1251"]
    # Bytes that happen to be a mark at the beginning are one.
    return (b"\n" + whole if whole[:2] in (b"\xff\xfe", b"\xfe\xff") else whole), body, form


def _compressed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content, compresslevel=1)
    return pa.Codec("zstd").compress(content, asbytes=True) if suffix else content


OBJECTS = [1, 1.0, "1", "1.0", 2, 2.5, None, "u", "", True, [], {}, ["a"], {"a": [1]}, float("nan"), float("inf"),
           -0.0, 0, "é", "\ud800", 2**53 + 1, 10**30, "4,5", "five", "2024-01-31", 1_700_000_000, 1_700_000_000.25,
           -1]  # fmt: skip
TEXTS = {
    role: st.sampled_from([cell.decode("latin-1") for cell in cells])
    for role, cells in (("user", IDS), ("item", IDS), ("value", VALUES), ("time", TIMES), ("kind", [b"view", b"Buy"]))
}
OBJECT_OF = {role: st.sampled_from(OBJECTS) | texts for role, texts in TEXTS.items()}
OBJECT_OF["user"] |= st.sampled_from([1, "1"]) | st.just(1)
OBJECT_OF["item"] |= st.sampled_from([1, 2.0, "2"]) | st.just(1) | st.lists(st.sampled_from(OBJECTS), max_size=3)
BROKEN = [b"", b"{", b"[1]", b"null", b"{'user': 1}", b'{"user": 1}', b"\xff", b'{"user": NaN, "who": 01}']


@st.composite
def json_tables(draw):
    """JSON lines with cells of all kinds, and lines that are no objects."""
    layout = draw(layouts())
    names, columns = draw(named(layout, all_of_them=True))
    name_of = {role: name for role, name in zip(layout, names, strict=True) if role}
    some = []
    for _ in range(draw(st.integers(0, 10))):
        if draw(st.integers(0, 7)) == 0:
            some.append(draw(st.sampled_from(BROKEN)))
            continue
        cells = {name: draw(OBJECT_OF[role]) for role, name in name_of.items() if draw(st.integers(0, 9))}
        some.append(json.dumps(cells | {"more": draw(st.sampled_from(OBJECTS))}).encode())
    text = draw(st.sampled_from([b"\n", b"\r\n"])).join(some)
    return Table(
        name=f"t{draw(st.sampled_from(['.jsonl', '.ndjson', '.json']))}",
        write=lambda path: path.write_bytes(text),
        rows=lambda: json_rows(text, name_of),
        columns=columns,
        kinds=KINDS if "kind" in layout else "",
    )


WHOLE = st.integers(0, 5) | st.sampled_from([2**53 + 1, -1, 1_700_000_000, 1_700_000_000_000])
MOMENTS = st.sampled_from(
    [
        datetime(2024, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
        *(datetime(year, 1, 31, tzinfo=UTC) for year in (1969, 2024, 2150)),
    ]
)
_TEXT = st.sampled_from(["1", "1.0", "u", "é", "", "2024-01-31", "4,5", "view", "buy", "1700000000.5"])
_WHOLE_MOMENTS = st.none() | MOMENTS.map(lambda when: when.replace(microsecond=0))
_LEAST = {"s": _WHOLE_MOMENTS, "us": st.none() | MOMENTS, "ns": st.none() | MOMENTS}
TYPED = {
    pa.int64(): st.none() | WHOLE,
    pa.float64(): st.none() | WHOLE.map(float) | st.sampled_from([2.5, float("nan"), float("inf"), -0.0, 1e300]),
    **{kind: st.none() | st.integers(0, 5) for kind in (pa.int8(), pa.uint16(), pa.float32(), pa.float16())},
    **{kind: st.none() | _TEXT for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))},
    **{kind: st.none() | st.sampled_from([b"1", b"u", b"\xff"]) for kind in (pa.binary(), pa.large_binary())},
    **{kind: st.none() | st.sampled_from(list(map(Decimal, ("1.00", "2.5", "0", "-3"))))
       for kind in (pa.decimal128(20, 2), pa.decimal256(50, 10))},
    pa.bool_(): st.none() | st.booleans(),
}  # fmt: skip
DATED = {
    **{pa.timestamp(unit, tz="UTC"): _LEAST[unit] for unit in _LEAST},
    pa.timestamp("ms"): _LEAST["s"].map(lambda when: when and when.replace(tzinfo=None)),
    pa.date32(): st.none() | st.sampled_from([date(2024, 1, 31), date(1969, 12, 31), date(9999, 12, 31)]),
    pa.date64(): st.none() | st.just(date(2024, 1, 31)),
}
LISTED = {kind: st.none() | st.lists(st.none() | _TEXT, max_size=3)
          for kind in (pa.list_(pa.string()), pa.large_list(pa.string()))}  # fmt: skip


@st.composite
def typed_columns(draw, roles, n_rows):
    """A column of each role, of a type of its own."""
    found = {}
    for role in roles:
        kinds = TYPED | (DATED if role == "time" else LISTED if role == "item" else {})
        kind = draw(st.sampled_from(list(kinds)))
        found[role] = pa.array(draw(st.lists(kinds[kind], min_size=n_rows, max_size=n_rows)), type=kind)
    return found


@st.composite
def parquet_tables(draw):
    """One file, or several in a folder, each with types of its own."""
    layout = [role for role in draw(layouts()) if role]
    names, columns = draw(named(layout, all_of_them=True))
    parts = [
        draw(typed_columns(layout, draw(st.integers(0, 6)))) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    ]

    def write(path):
        several = len(parts) > 1
        path.mkdir() if several else None
        for number, part in enumerate(parts):
            table = pa.table([*part.values(), pa.nulls(len(part["user"]))], names=[*names, "note"])
            pq.write_table(table, path / f"{number}.parquet" if several else path, row_group_size=3)

    def rows():
        for part in parts:
            lists = {role: column.to_pylist() for role, column in part.items()}
            yield from ({role: cells[row] for role, cells in lists.items()} for row in range(len(part["user"])))

    return Table(
        name="t" if len(parts) > 1 else "t.parquet",
        write=write,
        rows=rows,
        columns=columns,
        kinds=KINDS if "kind" in layout else "",
    )


@st.composite
def sqlite_tables(draw):
    """A table whose cells have any kinds, read by a query."""
    layout = [role for role in draw(layouts()) if role]
    cell = (
        st.none() | st.integers(-1, 3) | st.sampled_from([1.0, 2.5, float("inf"), 1e39, 1_700_000_000, b"1", b"\xff"])
    )
    each = [cell | TEXTS[role].map(lambda text: text.replace("\0", "")) for role in layout]
    some = draw(st.lists(st.tuples(*each), max_size=10))

    def write(path):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"CREATE TABLE t ({', '.join(layout)})")
        connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(layout))})", some)
        connection.commit()
        connection.close()

    return Table(
        name="t.sqlite",
        write=write,
        rows=lambda: (dict(zip(layout, row, strict=True)) for row in some),
        columns=",".join(f"{role}={role}" for role in layout),
        kinds=KINDS if "kind" in layout else "",
    )
