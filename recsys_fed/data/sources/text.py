"""Delimited text through pandas' C parser, with errors that name the file, the row and what was expected."""

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from recsys_fed.errors import DataFormatError, DataNotFoundError

_NO_NUMBER = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "none", "<NA>"]
_PROBE_BYTES = 1 << 16


def first_line(path: Path, *, encoding: str = "utf-8-sig") -> str:
    """The first line of a text file, without its line end.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: the file is empty, binary or in another encoding.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected a file at {path}, there is none.")
    with path.open("rb") as file:
        probe = file.read(_PROBE_BYTES)
    if not probe.strip():
        raise DataFormatError(f"Expected rows in {path}, got an empty file.")
    if b"\0" in probe:
        raise DataFormatError(f"Expected text ({encoding}) in {path}, got binary data.")
    try:
        return probe.splitlines()[0].decode(encoding)
    except UnicodeDecodeError as error:
        raise DataFormatError(f"Expected text ({encoding}) in {path}, row 1 is not.") from error


def read_lines(path: Path, *, encoding: str = "utf-8-sig") -> list[str]:
    """All lines of a text file that is not empty; the errors are those of `first_line`."""
    first_line(path, encoding=encoding)
    try:
        return path.read_text(encoding=encoding).splitlines()
    except UnicodeDecodeError as error:
        raise _encoding_error(path, encoding) from error


def read_rows(
    path: Path,
    *,
    separator: str,
    names: Sequence[str],
    use: Mapping[str, str],
    has_header: bool = False,
    quoted: bool = False,
) -> pd.DataFrame:
    """Columns of a delimited UTF-8 file; `user` and `item` as text ("007" stays so), others as numbers.

    Args:
        path: the file.
        separator: one character.
        names: the names of all columns, in their order.
        use: name of each column to return -> its name in the file.
        has_header: whether the first line holds the names.
        quoted: whether fields may be in double quotes.

    Raises:
        DataFormatError: a row has more fields than there are names, or is not text.
    """
    first_line(path)
    ids = [name for role, name in use.items() if role in ("user", "item")]
    try:
        with warnings.catch_warnings():
            # A first row that is too long widens the table: pandas only warns, and cuts fields off.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                names=list(names),
                header=0 if has_header else None,
                index_col=False,
                # Not str, which is slower, and not category, which turns "007" into the number 7.
                dtype=dict.fromkeys(ids, object),
                keep_default_na=False,
                na_values={name: [""] if name in ids else _NO_NUMBER for name in use.values()},
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                encoding="utf-8-sig",
                low_memory=False,
            )
    except UnicodeDecodeError as error:
        raise _encoding_error(path, "utf-8-sig") from error
    except pd.errors.ParserWarning as error:
        raise DataFormatError(f"Expected {len(names)} fields a row in {path}, row 1 has more.") from error
    except pd.errors.ParserError as error:
        raise DataFormatError(
            f"Expected {len(names)} fields a row in {path}, could not read it: {str(error).strip()}."
        ) from error
    return pd.DataFrame({role: frame[name] for role, name in use.items()})


def _encoding_error(path: Path, encoding: str) -> DataFormatError:
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return DataFormatError(f"Expected text ({encoding}) in {path}, line {row} is not. Save it so.")
    return DataFormatError(f"Expected text ({encoding}) in {path}, it is not. Save it so.")
