"""Lines of a text file of a known layout."""

from pathlib import Path

from recsys_fed.data.readers.ids import decode
from recsys_fed.data.readers.lines import LONGEST_LINE, open_text
from recsys_fed.errors import DataFormatError, DataNotFoundError


def read_lines(path: Path) -> list[str]:
    """All lines of a text file that is not empty, without their ends (LF or CRLF).

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is empty or binary.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected a file at {path}, there is none.")
    with open_text(path, "") as (file, _):
        text = b"".join(iter(lambda: file.read(1 << 20), b""))
    if not text.strip() or b"\0" in text:
        raise DataFormatError(f"Expected text in {path}, got {'binary data' if text.strip() else 'an empty file'}.")
    return [decode(line.removesuffix(b"\r")) for line in text.removesuffix(b"\n").split(b"\n")]


def first_line(path: Path) -> str:
    """The first line of a file, without its end; "" where there is none."""
    with open_text(path, "") as (file, _):
        return decode(file.readline(LONGEST_LINE).rstrip(b"\r\n"))
