"""Text tables: each line is read as if it stood alone."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_fed.data.readers import _lines
from recsys_fed.data.readers._lines import fields_of, text_blocks, text_table
from recsys_fed.data.readers.reading import TextFormat
from recsys_fed.errors import DataFormatError, MissingColumnError

HEADER = b"user,item,note\n"
COLUMNS = {"user": "user", "item": "item"}
letters = st.sampled_from(
    [b",", b'"', b'""', b"a", b"12", b"\xff", b"\x00", b" ", b"\r", b"\r\n", b"\n", b"\xc3\xa9"]
)
content = st.lists(letters, max_size=80).map(b"".join)


def rows_of(path, *, block_rows=1000, columns=COLUMNS, **form):
    """(user, item) of each row, None where it is malformed."""
    found = []
    table = text_table(path, columns, TextFormat(**form))
    for block in text_blocks(table, block_rows=block_rows):
        assert len(block) <= block_rows
        cells = iter(zip(block.cells["user"].to_pylist(), block.cells["item"].to_pylist(), strict=True))
        found += [next(cells) if well_formed else None for well_formed in block.well_formed.tolist()]
        assert next(cells, None) is None
    return found


@given(content, st.sampled_from([1, 2, 5, 1000]), st.sampled_from([1, 3, 50]), st.sampled_from([6, 20, 1000]))
def test_a_file_is_its_lines_one_by_one(tmp_path_factory, text, block_rows, piece, longest):
    def alone(line):
        for fields in (fields_of(line), line.split(b",")):
            if fields is not None and len(fields) >= 3 and not any(fields[3:]) and len(line) <= longest:
                return fields[0], fields[1]
        return None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_lines, "_SMALLEST_PIECE", piece)
        patched.setattr(_lines, "_LARGEST_PIECE", piece)
        path = tmp_path_factory.mktemp("lines") / "t.csv"
        path.write_bytes(HEADER + text)
        patched.setattr(_lines, "LONGEST_LINE", max(longest, len(HEADER) + 2))
        longest = _lines.LONGEST_LINE
        stripped = [line.removesuffix(b"\r") for line in text.split(b"\n")]
        assert rows_of(path, block_rows=block_rows) == [alone(line) for line in stripped if line]


@given(st.lists(st.text("a\",\t é'\\", max_size=6), min_size=1, max_size=4), st.sampled_from(",\t"))
def test_what_csv_writes_is_read_again(cells, separator):
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator="").writerow(cells)
    assert fields_of(written.getvalue().encode(), separator.encode()) == [cell.encode() for cell in cells]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b"u,i,n", (b"u", b"i")),
        (b'"u,1",i,n', (b"u,1", b"i")),
        (b'"u ""1""",i,n', (b'u "1"', b"i")),
        (b'5" disk,i,n', (b'5" disk', b"i")),
        (b'"",i,n', (b"", b"i")),
        (b"u,i,\xff", (b"u", b"i")),
        (b"u\x00,i,n", (b"u\x00", b"i")),
        (b"u\r1,i,n", (b"u\r1", b"i")),
        (b"u,i,n\r", (b"u", b"i")),
        (b"u,i", None),
        (b"u,i,n,m", None),
        (b"u,i,n,", (b"u", b"i")),
        (b"u,i,n,,", (b"u", b"i")),
        (b"u,i,n,,x", None),
        (b'"u","i","n",""', (b"u", b"i")),
        (b'"u,i,n', (b'"u', b"i")),
        (b'u,"i,n', (b"u", b'"i')),
        (b'u,i,"n', (b"u", b"i")),
        (b'"u"1,i,n', (b'"u"1', b"i")),
        (b'"u" , "i",n', (b"u", b"i")),
        (b'"u,i', None),
        (b'"', None),
        (b" ", None),
        (b"x" * (2**20 + 1), None),
        (b'"' * (2**20 + 1), None),
    ],
)
def test_a_line_swallows_nothing_after_it(line, row, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + b"before,1,n\n" + line + b"\n\nafter,2,n")
    for block_rows in (1, 2, 1000):
        assert rows_of(path, block_rows=block_rows) == [(b"before", b"1"), row, (b"after", b"2")]


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"\n", DataFormatError),
        (b'"user,item\n', MissingColumnError),
        (b"\xff,item\n", MissingColumnError),
        (b"u\0s\0e\0r\0,\0", DataFormatError),
        (b"user,item\ru,i\r", DataFormatError),
        (b"user" * 2**19, DataFormatError),
        (b"user,thing\n", MissingColumnError),
        (b"910005,17\n", MissingColumnError),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error_before_any_row(header, error, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(header + b"u,i\n")
    with pytest.raises(error) as refused:
        rows_of(path)
    assert "910005" not in str(refused.value)
    assert isinstance(refused.value, MissingColumnError) == (error is MissingColumnError)
    path.write_bytes(b"")
    with pytest.raises(DataFormatError):
        rows_of(path)


def test_tabs_separate_and_columns_stand_in_any_order(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b'note\titem\tuser\r\na,b\t"i\t1"\tu\r\n')
    assert rows_of(path) == [(b"u", b"i\t1")]
