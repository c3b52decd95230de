"""Text tables, CSV and TSV, line by line: what one line holds never changes how another one is read.

A row is a line, which ends in LF or CRLF. Fields are separated by commas (.csv) or tabs (.tsv). A field in quotes
may hold separators and doubled quotes ("5"" disk"), no line end; a quote within a field that does not begin with one
is a letter. A line with a quote that is not closed, with more or fewer fields than the header, or of more than a
mebibyte is malformed: it is dropped and counted, and that is all. A line of nothing is no row.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_fed.errors import DataFormatError
from recsys_fed.silo.block import Block, positions

LONGEST_LINE = 2**20
_SMALLEST_PIECE, _LARGEST_PIECE, _BYTES_A_ROW = 2**16, 2**23, 256
_BOM = b"\xef\xbb\xbf"


def text_blocks(path: Path, columns: Mapping[str, str], *, block_rows: int) -> Iterator[Block]:
    """The rows of a text table, at most `block_rows` at a time.

    Memory takes a piece of the file: 256 bytes for each of `block_rows`, between 64 KiB and 8 MiB, and a line.

    Raises:
        MissingColumnError: the header lacks a column.
        DataFormatError: there is no header that can be read.
    """
    separator = b"\t" if path.suffix == ".tsv" else b","
    with path.open("rb") as file:
        names = _header(file, separator, path)
        at = positions(columns, names, path)
        for lines in _lines(file, block_rows):
            yield _block(lines, separator, len(names), at)


def fields_of(line: bytes, separator: bytes = b",") -> list[bytes] | None:
    """The fields of one line without its end; None if a quote does not close where a field ends.

    >>> fields_of(b'a,"b,c",5" disk,"d""e"')
    [b'a', b'b,c', b'5" disk', b'd"e']
    >>> fields_of(b'a,"b,c')
    """
    field = re.compile(_field(separator))
    fields, place = [], -1
    while place < len(line):
        found = field.match(line, place + 1)
        place = -1 if found is None else found.end()
        if found is None or line[place : place + 1] not in (b"", separator):
            return None
        fields.append(_unquoted(found[0]))
    return fields


def _field(separator: bytes) -> bytes:
    """In quotes up to the quote that is not doubled; else up to a separator."""
    return rb'(?:"(?:[^"]|"")*+"|(?!")[^%b]*+)' % separator


def _unquoted(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field[:1] == b'"' else field


def _header(file: BinaryIO, separator: bytes, path: Path) -> list[str]:
    line = file.readline(LONGEST_LINE).removeprefix(_BOM)
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    fields = fields_of(line, separator)
    try:
        if not line or fields is None or len(line) >= LONGEST_LINE - 1 or b"\r" in line:
            raise ValueError
        return [name.decode() for name in fields]
    except ValueError as error:
        raise DataFormatError(
            f"Expected a first line with the names of columns in {path}, in UTF-8 and ended by LF or CRLF."
        ) from error


def _lines(file: BinaryIO, block_rows: int) -> Iterator[pa.Array]:
    """Lines without their ends, binary arrays of at most `block_rows`; of a line that is too long, its beginning."""
    size = min(max(_BYTES_A_ROW * block_rows, _SMALLEST_PIECE), _LARGEST_PIECE)
    rest = b""
    while piece := file.read(size):
        whole, end, begun = piece.rpartition(b"\n")
        if end:
            yield from _split(rest + whole, block_rows)
            rest = b""
        # What is kept of a line that is too long is still too long, and bounded.
        rest = (rest + begun)[: LONGEST_LINE + 2]
    if rest:
        yield from _split(rest, block_rows)


def _split(text: bytes, block_rows: int) -> Iterator[pa.Array]:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    lines = pc.split_pattern(pa.array([text], type=pa.large_binary()), pattern=b"\n").values.cast(pa.binary())
    lines = lines.filter(pc.greater(pc.binary_length(lines), 0))
    for first in range(0, len(lines), block_rows):
        yield lines.slice(first, block_rows)


def _block(lines: pa.Array, separator: bytes, n_fields: int, at: Mapping[str, int]) -> Block:
    """The cells of lines without quotes at once, of the others one by one."""
    quoted = _true(pc.match_substring(lines, '"'))
    short = _true(pc.less_equal(pc.binary_length(lines), LONGEST_LINE))
    simple = short & ~quoted
    split = pc.split_pattern(lines.filter(pa.array(simple)), pattern=separator)
    simple[simple] = right = _true(pc.equal(pc.list_value_length(split), n_fields))
    cells = split.filter(pa.array(right)).flatten()
    columns = {role: cells.take(pa.array(np.arange(place, len(cells), n_fields))) for role, place in at.items()}
    if not quoted.any():
        return Block(well_formed=simple, cells=columns)
    rows = np.flatnonzero(quoted & short)
    good, others = _quoted_cells(lines.take(pa.array(rows)), separator, n_fields, at)
    order = pa.array(np.argsort(np.concatenate([np.flatnonzero(simple), rows[good]]), kind="stable"))
    simple[rows[good]] = True
    both = {role: pa.concat_arrays([columns[role], others[role]]).take(order) for role in at}
    return Block(well_formed=simple, cells=both)


def _quoted_cells(
    lines: pa.Array, separator: bytes, n_fields: int, at: Mapping[str, int]
) -> tuple[npt.NDArray[np.bool_], dict[str, pa.Array]]:
    """Which of the lines are well formed, bool [n], and the cells of these."""
    places = sorted(set(at.values()))
    field = _field(separator)
    wanted = (b"(%b)" % field if place in places else field for place in range(n_fields))
    whole_line = re.compile(separator.join(wanted))
    found = [whole_line.fullmatch(line) for line in lines.to_pylist()]
    raw = [match.groups() for match in found if match is not None]
    cells = {
        place: pa.array([_unquoted(fields[group]) for fields in raw], type=pa.binary())
        for group, place in enumerate(places)
    }
    return np.array([match is not None for match in found], dtype=bool), {role: cells[p] for role, p in at.items()}


def _true(mask: pa.Array) -> npt.NDArray[np.bool_]:
    return np.array(mask.to_numpy(zero_copy_only=False), dtype=bool)
