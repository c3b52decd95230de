"""Text tables line by line: what one line holds never changes how another one is read.

A row is a line, which ends in LF or CRLF. Between its fields stands one separator. A field in quotes may hold
separators and doubled quotes ("5"" disk"), no line end; a quote within a field that does not begin with one is a
letter. So are all quotes of a line in which one opens and never closes. More fields than the header has are read if
those at the end are empty, as spreadsheets write them. A line that still has more or fewer fields, or more than a
mebibyte, is malformed: it is dropped and counted, and that is all. A line of nothing is no row.

The header, and nothing after it, says what separates fields, where the settings and the file's name do not.

JSON lines hold an object a line, whose fields are found by their names; a line that is no object is malformed.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_fed.data.readers.cells import decode
from recsys_fed.data.readers.reading import (
    Block,
    Blocks,
    Numbers,
    Roles,
    TextFormat,
    are_numbers,
    find_roles,
    parse_numbered_roles,
)
from recsys_fed.errors import ConfigurationError, DataFormatError

LONGEST_LINE = 2**20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_SMALLEST_PIECE, _LARGEST_PIECE, _BYTES_A_ROW = 2**16, 2**25, 128
_MARKS = {codecs.BOM_UTF8: "", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_BY_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".dat": "::", ".inter": "\t", ".item": "\t"}
_GUESSES = ("::", "\t", ";", "|", ",")
_BLANKS = re.compile(rb"[ \t]+")


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A text table whose first line was read, or needs no reading.

    Attributes:
        separator: between fields. roles: where its columns are. names: of all columns, () without a header.
        n_fields: of a row; 0: as many as the columns need, or more.
        has_header: whether the first line is no row.
        encoding: that has to be decoded, "" for UTF-8.
    """

    path: Path
    separator: bytes
    roles: Roles
    names: tuple[str, ...]
    n_fields: int
    has_header: bool
    encoding: str
    quotes: bool

    @property
    def least(self) -> int:
        """Fields that a row needs."""
        return self.n_fields or max(self.roles.at.values()) + 1


def text_table(
    path: Path,
    columns: Mapping[str, str],
    form: TextFormat,
    *,
    usual: Sequence[str] = (),
    needed: Sequence[str] = ("user", "item"),
    typed_names: bool = False,
) -> TextTable:
    """Find out from settings, name and header how a text table is written; see `find_roles` for the columns.

    `typed_names`: whether each name of the header has a type behind a colon (RecBole).

    Raises:
        MissingColumnError: the header lacks a column.
        DataFormatError: there is no header that can be read.
        ConfigurationError: nothing says what separates the fields of a file without a header.
    """
    has_header = form.header == "yes" or (form.header == "auto" and not are_numbers(columns))
    names: list[str] = []
    with open_text(path, form.encoding) as (file, encoding):
        if has_header:
            line = _header(file, path)
            separator = form.separator or _guess_separator(line, path, quotes=form.quotes)
            names = [decode(name).strip() for name in _fields(line, separator.encode(), quotes=form.quotes)]
            if typed_names:
                names = [name.rpartition(":")[0] or name for name in names]
            roles = find_roles(names, columns, place=str(path), usual=usual, needed=needed, public=False)
        else:
            separator = form.separator or _BY_SUFFIX.get(suffix_of(path), "")
            roles = parse_numbered_roles(columns, place=str(path), needed=needed)
    if not separator:
        raise ConfigurationError(
            f"Expected a separator for {path}, which has no header to show it: --format separator=tab (or comma, "
            "semicolon, pipe, colons, blank)."
        )
    return TextTable(
        path=path,
        separator=separator.encode(),
        roles=roles,
        names=tuple(names),
        n_fields=len(names) or form.n_fields,
        has_header=has_header,
        encoding=encoding,
        quotes=form.quotes,
    )


def text_blocks(table: TextTable, *, block_rows: int) -> Blocks:
    """The rows of a text table, at most `block_rows` at a time.

    Memory takes a piece of the file: 128 bytes for each of `block_rows`, between 64 KiB and 32 MiB, and a line.
    """
    for lines, numbers in _line_blocks(
        table.path, encoding=table.encoding, block_rows=block_rows, has_header=table.has_header
    ):
        yield _block(lines, numbers, table)


def _line_blocks(
    path: Path, *, encoding: str, block_rows: int, has_header: bool = False
) -> Iterator[tuple[pa.Array, Numbers]]:
    """Lines without their ends, binary arrays of at most `block_rows`, and their numbers; those of nothing left out.

    Of a line that is longer than LONGEST_LINE there is its beginning, which is longer, too.
    """
    size = min(max(_BYTES_A_ROW * block_rows, _SMALLEST_PIECE), _LARGEST_PIECE)
    first, rest = 1, b""
    with open_text(path, encoding) as (file, _):
        if has_header:
            file.readline(LONGEST_LINE)
            first = 2
        while piece := file.read(size):
            whole, end, begun = piece.rpartition(b"\n")
            if end:
                yield from _split(rest + whole, first, block_rows)
                first += whole.count(b"\n") + 1
                rest = b""
            # What is kept of a line that is too long is still too long, and bounded.
            rest = (rest + begun)[: LONGEST_LINE + 2]
        if rest:
            yield from _split(rest, first, block_rows)


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[tuple[BinaryIO, str]]:
    """The bytes of a text file after its byte order mark, in UTF-8 where its encoding is known; and that encoding.

    Raises:
        DataFormatError: it is not compressed as its name says.
    """
    try:
        file = pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower()))
        stream = cast("BinaryIO", pa.BufferedInputStream(file, _SMALLEST_PIECE))
        start = stream.read(3)
        mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
        encoding = _MARKS[mark] if mark else encoding
        rest = start[len(mark) :]
        yield cast("BinaryIO", _Bytes(stream, rest, encoding)), encoding
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"Expected text in {path}, got {type(error).__name__} while reading it.") from error


class _Bytes:
    """Bytes of a stream behind those that were read already, in UTF-8."""

    def __init__(self, stream: BinaryIO, rest: bytes, encoding: str) -> None:
        plain = not encoding or codecs.lookup(encoding).name in ("utf-8", "ascii")
        self._decoder: Any = None if plain else codecs.getincrementaldecoder(encoding)(errors="replace")
        self._stream, self._rest = stream, b""
        self._rest = self._utf8(rest)

    def read(self, size: int) -> bytes:
        """About `size` bytes, b"" at the end."""
        if self._rest:
            found, self._rest = self._rest, b""
            return found
        while piece := self._stream.read(size):
            if found := self._utf8(piece):
                return found
        if self._decoder is not None:
            found, self._decoder = self._decoder.decode(b"", final=True).encode(errors="replace"), None
            return bytes(found)
        return b""

    def readline(self, size: int) -> bytes:
        """Up to and with the next LF, of `size` bytes or little more."""
        line = b""
        while b"\n" not in line and len(line) < size and (piece := self.read(_SMALLEST_PIECE)):
            line += piece
        found, end, self._rest = line.partition(b"\n")
        return found + end

    def _utf8(self, piece: bytes) -> bytes:
        return piece if self._decoder is None else self._decoder.decode(piece).encode(errors="replace")


def fields_of(line: bytes, separator: bytes = b",") -> list[bytes] | None:
    """The fields of one line without its end; None if a quote does not close where a field ends.

    >>> fields_of(b'a,"b,c",5" disk,"d""e"')
    [b'a', b'b,c', b'5" disk', b'd"e']
    >>> fields_of(b'a,"b,c')
    """
    field = re.compile(_field(separator))
    fields, place = [], -len(separator)
    while place < len(line):
        found = field.match(line, place + len(separator))
        place = -1 if found is None else found.end()
        if found is None or (place < len(line) and not line.startswith(separator, place)):
            return None
        fields.append(_unquote(found[0]))
    return fields


def _fields(line: bytes, separator: bytes, *, quotes: bool) -> list[bytes]:
    """The fields of one line; where a quote does not close all quotes are letters."""
    if separator == b" ":
        line = _BLANKS.sub(b" ", line.strip(b" \t"))
    fields = fields_of(line, separator) if quotes else None
    return line.split(separator) if fields is None else fields


def _field(separator: bytes) -> bytes:
    """In quotes, perhaps between blanks, up to the quote that is not doubled; else up to a separator."""
    blank = b"" if separator == b" " else b" *+"
    letter = b"[^%b]" % re.escape(separator) if len(separator) == 1 else b"(?:(?!%b).)" % re.escape(separator)
    return rb'(?:%b"(?:[^"]|"")*+"%b|(?!%b")%b*+)' % (blank, blank, blank, letter)


def _unquote(field: bytes) -> bytes:
    bare = field.strip(b" ")
    return bare[1:-1].replace(b'""', b'"') if bare[:1] == b'"' else field


def suffix_of(path: Path) -> str:
    """The suffix of a file's name before that of its compression."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def _header(file: BinaryIO, path: Path) -> bytes:
    line = file.readline(LONGEST_LINE)
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    wrong = {
        "an empty file": not line and not file.read(1),
        "an empty first line": not line,
        "a line without an end": len(line) >= LONGEST_LINE - 1 or b"\r" in line,
        "a byte of zero: another encoding than UTF-8 (--format encoding=NAME), or no text": b"\0" in line,
    }
    found = next((what for what, holds in wrong.items() if holds), None)
    if found is not None:
        raise DataFormatError(f"Expected a first line with the names of columns in {path}, got {found}.")
    return line


def _guess_separator(line: bytes, path: Path, *, quotes: bool) -> str:
    """Of the usual separators that which makes most fields of a header; the file's name decides between equals."""
    by_name = _BY_SUFFIX.get(suffix_of(path), "")
    fields = {mark: fields_of(line, mark.encode()) if quotes else None for mark in _GUESSES}
    counts = {mark: len(found or ()) for mark, found in fields.items()}
    if max(counts.values()) <= 1:
        # Quotes that do not close where fields end are letters, and what stands between them is what it is.
        counts = {mark: line.count(mark.encode()) + 1 for mark in _GUESSES}
    if max(counts.values()) == 1:
        return by_name or (" " if b" " in line.strip() else ",")
    return max(_GUESSES, key=lambda mark: (counts[mark], mark == by_name))


def _split(text: bytes, first: int, block_rows: int) -> Iterator[tuple[pa.Array, Numbers]]:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    lines = pc.split_pattern(pa.array([text], type=pa.large_binary()), pattern=b"\n").values.cast(pa.binary())
    numbers: Numbers = range(first, first + len(lines))
    filled = _true(pc.greater(pc.binary_length(lines), 0))
    if not filled.all():
        lines, numbers = lines.filter(pa.array(filled)), first + np.flatnonzero(filled)
    for start in range(0, len(lines), block_rows):
        yield lines.slice(start, block_rows), numbers[start : start + block_rows]


def _block(lines: pa.Array, numbers: Numbers, table: TextTable) -> Block:
    """The cells of lines without quotes at once, of the others one by one where they must be."""
    short = _true(pc.less_equal(pc.binary_length(lines), LONGEST_LINE))
    quoted = _true(pc.match_substring(lines, '"')) & short if table.quotes else np.zeros(len(lines), dtype=bool)
    if quoted.any():
        plain, odd = _without_quotes(lines, quoted, table)
    else:
        plain, odd = lines, quoted
    well_formed = short & ~odd
    good, columns = _split_fields(plain.filter(pa.array(well_formed)) if not well_formed.all() else plain, table)
    well_formed[well_formed] = good
    if odd.any():
        rows = np.flatnonzero(odd)
        good, others = _parse_quoted(lines.take(pa.array(rows)), table)
        order = pa.array(np.argsort(np.concatenate([np.flatnonzero(well_formed), rows[good]]), kind="stable"))
        well_formed[rows[good]] = True
        columns = {role: pa.concat_arrays([columns[role], others[role]]).take(order) for role in columns}
    return Block(
        well_formed=well_formed, cells=columns, numbers=numbers, unit="line", positions=table.roles.positions
    )


def _without_quotes(
    lines: pa.Array, quoted: npt.NDArray[np.bool_], table: TextTable
) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Lines without the quotes around whole fields; and which have others, or quoted separators, bool [n]."""
    odd = quoted.copy()
    if len(table.separator) > 1 or table.separator == b" ":
        return lines, odd
    mark = re.escape(table.separator.decode())
    field = rf'(?:"[^"{mark}]*"|[^"{mark}]*)'
    rows = np.flatnonzero(quoted)
    some = lines.take(pa.array(rows))
    easy = _true(pc.match_substring_regex(some, rf"^{field}(?:{mark}{field})*$"))
    odd[rows[easy]] = False
    bare = pc.replace_substring(lines, pattern='"', replacement="") if easy.any() else lines
    return bare, odd


def _split_fields(lines: pa.Array, table: TextTable) -> tuple[npt.NDArray[np.bool_], dict[str, pa.Array]]:
    """Which lines have the fields of a row, bool [n], and the cells of these."""
    if table.separator == b" ":
        text = _BLANKS.sub(b" ", b"\n".join(line.strip(b" \t") for line in lines.to_pylist()))
        lines = pc.split_pattern(pa.array([text], type=pa.large_binary()), pattern=b"\n").values.cast(pa.binary())[
            : len(lines)
        ]
    fields = pc.split_pattern(lines, pattern=table.separator)
    lengths = np.asarray(pc.list_value_length(fields))
    good = lengths == table.n_fields if table.n_fields else lengths >= table.least
    cells, starts = fields.values, np.asarray(fields.offsets)[:-1]
    if table.n_fields:
        for more in np.unique(lengths[lengths > table.n_fields] - table.n_fields).tolist():
            rows = np.flatnonzero(lengths == table.n_fields + more)
            extra = starts[rows][:, None] + table.n_fields + np.arange(more)
            filled = _true(pc.greater(pc.binary_length(cells.take(pa.array(extra.ravel()))), 0))
            good[rows[~filled.reshape(extra.shape).any(axis=1)]] = True
    starts = starts[good]
    return good, {role: cells.take(pa.array(starts + place)) for role, place in table.roles.at.items()}


def _parse_quoted(lines: pa.Array, table: TextTable) -> tuple[npt.NDArray[np.bool_], dict[str, pa.Array]]:
    """Which of the lines are well formed, bool [n], and the cells of these."""
    rows = [row_of(line, table) for line in lines.to_pylist()]
    good = [row for row in rows if row is not None]
    cells = {role: pa.array([row[at] for row in good], type=pa.binary()) for role, at in table.roles.at.items()}
    return np.array([row is not None for row in rows], dtype=bool), cells


def row_of(line: bytes, table: TextTable) -> list[bytes] | None:
    """The fields of one line if they make a row; quotes are letters where they do not close or make none.

    The plain rule that `_block` follows for many lines at once.
    """
    if len(line) > LONGEST_LINE:
        return None
    if table.separator == b" ":
        line = _BLANKS.sub(b" ", line.strip(b" \t"))
    quoted = fields_of(line, table.separator) if table.quotes and b'"' in line else None
    found = None if quoted is None else _as_row(quoted, table)
    if found is None:
        found = _as_row(line.split(table.separator), table)
    return found


def _as_row(fields: list[bytes], table: TextTable) -> list[bytes] | None:
    if not table.n_fields:
        return fields if len(fields) >= table.least else None
    return fields if len(fields) >= table.n_fields and not any(fields[table.n_fields :]) else None


def _true(mask: pa.Array) -> npt.NDArray[np.bool_]:
    return np.array(mask.to_numpy(zero_copy_only=False), dtype=bool)


# Objects whose fields are looked at.
_FIRST = 100


def json_roles(
    path: Path, columns: Mapping[str, str], *, encoding: str, usual: Sequence[str], needed: Sequence[str]
) -> tuple[Roles, tuple[str, ...]]:
    """Roles of the fields of the first objects, and the names of their fields.

    Fields that are named need no object: which fields one has may follow from somebody's row.

    Raises:
        MissingColumnError: a field that is needed is neither named nor found.
        DataFormatError: none of the first lines is an object.
    """
    named = {role: name for role, name in columns.items() if name}
    open_roles = [role for role in usual if role not in columns]
    if set(needed) <= set(named) and not open_roles:
        names = tuple(dict.fromkeys(named.values()))
        return find_roles(names, named, place=str(path), public=False), names
    with open_text(path, encoding) as (file, _):
        lines = [file.readline(LONGEST_LINE).rstrip(b"\r\n") for _ in range(_FIRST)]
    objects = [found for found in map(_object, lines) if found is not None]
    if not objects:
        raise DataFormatError(f"Expected JSON lines in {path}, an object a line; its first {_FIRST} hold none.")
    names = tuple(dict.fromkeys([*(name for found in objects for name in found), *named.values()]))
    # Somebody's id may be a name, as in {"ann": ["book"]}.
    return find_roles(names, columns, place=str(path), usual=usual, needed=needed, public=False), names


def json_blocks(path: Path, roles: Roles, names: Sequence[str], *, encoding: str, block_rows: int) -> Blocks:
    """The objects of a file, at most `block_rows` at a time; a field that an object lacks is an empty cell."""
    for lines, numbers in _line_blocks(path, encoding=encoding, block_rows=block_rows):
        objects = [_object(line) if len(line) <= LONGEST_LINE else None for line in lines.to_pylist()]
        good = [found for found in objects if found is not None]
        yield Block(
            well_formed=np.array([found is not None for found in objects], dtype=bool),
            cells={role: [found.get(names[at]) for found in good] for role, at in roles.at.items()},
            numbers=numbers,
            unit="line",
            positions=roles.positions,
        )


def _object(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
