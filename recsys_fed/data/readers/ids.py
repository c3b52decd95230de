"""The one spelling of an id: decided by its own cell, never by the column that it stands in."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd

_WHOLE = re.compile(r"(-?[1-9][0-9]*|0)\.0+")
_ZERO = re.compile(r"-0\.0+")
# Digits that a number may have to be written out; no float has more.
_MOST_DIGITS = 400


def decode(cell: bytes) -> str:
    """Bytes as text: UTF-8, or Windows-1252 (Latin-1 where that has no letter) if they are no UTF-8.

    >>> decode("é".encode()), decode(b"\\xe9"), decode(b"\\x81")
    ('é', 'é', '\\x81')
    """
    for encoding in ("utf-8", "cp1252"):
        try:
            return cell.decode(encoding)
        except UnicodeDecodeError:
            continue
    return cell.decode("latin-1")


def spell_id(cell: object) -> str | None:
    """The id of a cell as text, or None where there is none.

    Whole numbers are spelled alike, whatever wrote them: 12, 12.0, Decimal("12.00"), "12.0" and b"12" are "12".
    Text is stripped and otherwise kept ("007", "1e3"); bytes are text, see `decode`. None, NaN, infinity, blank text,
    lists and other collections, and text that no UTF-8 can hold are no ids.

    >>> [spell_id(cell) for cell in (12.0, " 12.000 ", b"u1", "007", 2**60, float("nan"), "", [1])]
    ['12', '12', 'u1', '007', '1152921504606846976', None, None, None]
    """
    if isinstance(cell, bytes):
        return _spell_text(decode(cell))
    if isinstance(cell, str):
        return _spell_text(cell) if cell.isascii() or _in_utf8(cell) else None
    return _spell_other(cell)


def _spell_text(text: str) -> str | None:
    text = text.strip()
    if text.endswith("0"):
        if _WHOLE.fullmatch(text):
            return text.partition(".")[0]
        if _ZERO.fullmatch(text):
            return "0"
    return text or None


def _in_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _spell_other(cell: object) -> str | None:
    if isinstance(cell, bytearray | memoryview):
        return spell_id(bytes(cell))
    if isinstance(cell, np.bool_ | np.number):
        cell = cell.item()
    if isinstance(cell, float):
        return _spell_float(cell)
    if isinstance(cell, Decimal):
        return _spell_decimal(cell)
    missing = cell is None or cell is pd.NA or cell is pd.NaT
    if missing or isinstance(cell, list | tuple | dict | set | frozenset | np.ndarray):
        return None
    try:
        return _spell_text(str(cell))
    except ValueError:  # an int of thousands of digits
        return None


def _spell_float(cell: float) -> str | None:
    if not np.isfinite(cell):
        return None
    return str(int(cell)) if cell.is_integer() else str(cell)


def _spell_decimal(cell: Decimal) -> str | None:
    if not cell.is_finite():
        return None
    if not cell:
        return "0"
    if abs(cell.adjusted()) > _MOST_DIGITS or len(cell.as_tuple().digits) > _MOST_DIGITS:
        return str(cell)
    text = format(cell, "f")
    return _spell_text(text.rstrip("0").rstrip(".") if "." in text else text)
