"""What one cell means as a value or as a time: rules that see that cell and the settings, and nothing else.

`columns` applies them to whole columns; ids have `ids.spell_id`, dates in words `dates.moment_of_text`.
"""

import math
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

from recsys_fed.data.readers.dates import FAR, LATEST_SECONDS, MISSING, UNREADABLE, moment_of_text
from recsys_fed.data.readers.ids import decode

UNITS = ("", "s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_DIGITS = 30
_WHOLE = re.compile(rf"[+-]?[0-9]{{1,{_DIGITS}}}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
# With commas: 1,234.5 and 1,234,567 and 1.234,5 and 1.234.567 and 4,5; but 1,234 may be either and is no number.
_COMMAS_IN_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}((,[0-9]{3})+\.[0-9]+|(,[0-9]{3}){2,})")
_DOTS_IN_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}((\.[0-9]{3})+,[0-9]+|(\.[0-9]{3}){2,})")
_DECIMAL_COMMA = re.compile(r"[+-]?(?![1-9][0-9]{0,2},[0-9]{3}$)[0-9]*,[0-9]+")
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def value_of(cell: object) -> float | None:
    """The number in a cell: NaN where the cell is empty, None where it holds something else.

    >>> value_of(b" 4.50 "), value_of("4,5"), value_of(True), value_of("4/5"), value_of("")
    (4.5, 4.5, 1.0, None, nan)
    """
    text = _text_of(cell)
    if text is not None:
        number = _number_text(text)
        return float(number) if number else (None if text else math.nan)
    if cell is None:
        return math.nan
    if isinstance(cell, bool | int | float | Decimal):
        try:
            return float(cell)
        except OverflowError:
            return math.inf if cell > 0 else -math.inf
        except ValueError:  # a signalling NaN
            return math.nan
    return None


def time_of(cell: object, unit: str = "") -> int:
    """Nanoseconds since 1970 (UTC), MISSING where the cell is empty, UNREADABLE where it holds something else.

    A number counts `unit` (one of UNITS); with "" the cell's own size says which: up to the year 2100 it is seconds,
    else milliseconds, microseconds, nanoseconds, the first in which it is. Text is a number or a date (see
    `moment_of_text`); a date is its midnight; what names no time zone is UTC. What is finer than a nanosecond is cut.

    >>> [time_of(cell) for cell in (86_400, "86400000000", "1970-01-02", "1970-01-02T01:00:00+01:00", 0.25)]
    [86400000000000, 86400000000000000, 86400000000000, 86400000000000, 250000000]
    """
    text = _text_of(cell)
    if text is not None:
        return _time_of_text(text, unit) if text else MISSING
    if cell is None:
        return MISSING
    if isinstance(cell, int | float | Decimal):
        return UNREADABLE if isinstance(cell, bool) else _time_of_number(cell, unit)
    return _time_of_date(cell)


def time_of_whole(number: int, unit: str) -> int:
    """Nanoseconds since 1970 of a whole number in `unit`."""
    number = max(-(2**63), min(2**63 - 1, number))
    found = number * (PER_SECOND["ns"] // PER_SECOND[unit or unit_of(number)])
    return max(-FAR, min(FAR, found))


def unit_of(number: int | Decimal) -> str:
    """The unit in which a number lies before the year 2100; nanoseconds for what lies in none."""
    size = Decimal(number).copy_abs()
    return next((unit for unit in ("s", "ms", "us") if size <= LATEST_SECONDS * PER_SECOND[unit]), "ns")


def _text_of(cell: object) -> str | None:
    """A cell of text or bytes as stripped text; None for other cells."""
    if isinstance(cell, bytes | bytearray | memoryview):
        cell = decode(bytes(cell))
    return cell.strip() if isinstance(cell, str) else None


def _number_text(text: str) -> str:
    """A number as Python writes it, "" where the text is none."""
    if _NUMBER.fullmatch(text):
        return text
    if "," in text or "." in text:
        if _COMMAS_IN_THOUSANDS.fullmatch(text):
            return text.replace(",", "")
        if _DOTS_IN_THOUSANDS.fullmatch(text):
            return text.replace(".", "").replace(",", ".")
        if _DECIMAL_COMMA.fullmatch(text):
            return text.replace(",", ".")
    return ""


def _time_of_text(text: str, unit: str) -> int:
    if _WHOLE.fullmatch(text):
        return time_of_whole(int(text), unit)
    number = _number_text(text)
    if not number:
        return moment_of_text(text)
    return _time_of_number(Decimal(number), unit)


def _time_of_number(number: float | Decimal, unit: str) -> int:
    if isinstance(number, int):
        return time_of_whole(number, unit)
    exact = Decimal(number)
    if exact.is_nan():
        return MISSING
    if exact.copy_abs() >= FAR:
        return FAR if number > 0 else -FAR
    unit = unit or unit_of(exact)
    whole = math.floor(number)
    # The two parts by themselves: a float has no digits left for nanoseconds of a whole date.
    parts = PER_SECOND["ns"] // PER_SECOND[unit]
    fraction = (number - whole) * parts
    return max(-FAR, min(FAR, time_of_whole(whole, unit) + math.floor(fraction)))


def _time_of_date(cell: object) -> int:
    if isinstance(cell, datetime):
        return _since_epoch(cell)
    if isinstance(cell, date):
        return _since_epoch(datetime(cell.year, cell.month, cell.day))
    return UNREADABLE


def _since_epoch(when: datetime) -> int:
    try:
        found = (when - (_EPOCH if when.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND * 1_000
    except (ValueError, TypeError, OverflowError):  # a time zone that does not know its offset
        return UNREADABLE
    return max(-FAR, min(FAR, found))
