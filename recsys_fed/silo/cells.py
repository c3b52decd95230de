"""What one cell means as a value or as a time: rules that see that cell and silo.toml, and nothing else.

`recsys_fed.silo.columns` applies them to whole columns; ids have `recsys_fed.catalogue.ids.spell_id`.
"""

import math
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

from recsys_fed.data.columns import LATEST_SECONDS

UNITS = ("", "s", "ms", "us", "ns")
# No time of an interaction is later than LATEST_SECONDS, and what unit a number has follows from it.
LATEST = LATEST_SECONDS * 1_000_000

# Times are microseconds since 1970 as int64; these two say why there is none. Anything further off than FAR is FAR.
MISSING, UNREADABLE = -(2**63), -(2**63) + 1
FAR = 2**62

_DIGITS = 30
_WHOLE = re.compile(rf"[+-]?[0-9]{{1,{_DIGITS}}}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
# What may follow the first 19 characters of 2024-01-31T12:00:00.
_TAIL = re.compile(r"(?:[.,]([0-9]+))? ?(?:([Zz])|([+-])([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?)?")
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def value_of(cell: object) -> float | None:
    """The number in a cell: NaN where the cell is empty, None where it holds something else.

    >>> value_of(b" 4.50 "), value_of(True), value_of("five"), value_of("")
    (4.5, 1.0, None, nan)
    """
    text = _text_of(cell)
    if text is not None:
        return float(text) if _NUMBER.fullmatch(text) else (None if text else math.nan)
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
    """Microseconds since 1970 (UTC), MISSING where the cell is empty, UNREADABLE where it holds something else.

    A number counts `unit` (one of UNITS); with "" the cell's own size says which: up to the year 2100 it is seconds,
    else milliseconds, microseconds, nanoseconds, the first in which it is. Text is a number or ISO 8601; a date is
    its midnight; what names no time zone is UTC.

    >>> [time_of(cell) for cell in (86_400, "86400000000", "1970-01-02", "1970-01-02T01:00:00+01:00", 0.25)]
    [86400000000, 86400000000000, 86400000000, 86400000000, 250000]
    """
    text = _text_of(cell)
    if text is not None:
        return _time_of_text(text, unit) if text else MISSING
    if cell is None:
        return MISSING
    if isinstance(cell, bool):
        return UNREADABLE
    if isinstance(cell, int):
        return time_of_whole(cell, unit)
    if isinstance(cell, float | Decimal):
        return _time_of_fraction(cell, unit)
    return _time_of_date(cell)


def time_of_whole(number: int, unit: str) -> int:
    """Microseconds since 1970 of a whole number in `unit`; fractions of a microsecond are cut."""
    number = max(-(2**63), min(2**63 - 1, number))
    unit = unit or unit_of(number)
    found = number // 1_000 if unit == "ns" else number * {"s": 1_000_000, "ms": 1_000, "us": 1}[unit]
    return max(-FAR, min(FAR, found))


def unit_of(number: int | float) -> str:
    """The unit in which a number lies before the year 2100; nanoseconds for what lies in none."""
    size = abs(number)
    for unit, factor in (("s", 1), ("ms", 1_000), ("us", 1_000_000)):
        if size <= LATEST_SECONDS * factor:
            return unit
    return "ns"


def tail_of(text: str) -> int | None:
    """Microseconds that what follows 2024-01-31T12:00:00 adds: its fraction less its offset; None if it is neither.

    >>> tail_of(""), tail_of(".25Z"), tail_of("+01:00"), tail_of("am")
    (0, 250000, -3600000000, None)
    """
    found = _TAIL.fullmatch(text)
    if found is None:
        return None
    fraction, _, sign, hours, minutes, seconds = found.groups()
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    if sign is None:
        return micros
    offset = [int(part or 0) for part in (hours, minutes, seconds)]
    if offset[0] > 23 or max(offset) > 59:
        return None
    ahead = 1_000_000 * (3_600 * offset[0] + 60 * offset[1] + offset[2])
    return micros - ahead if sign == "+" else micros + ahead


def _text_of(cell: object) -> str | None:
    """A cell of text or bytes as stripped text; None for other cells. Bytes that are not UTF-8 are no number."""
    if isinstance(cell, bytes | bytearray | memoryview):
        cell = bytes(cell).decode(errors="replace")
    return cell.strip() if isinstance(cell, str) else None


def _time_of_text(text: str, unit: str) -> int:
    if _WHOLE.fullmatch(text):
        return time_of_whole(int(text), unit)
    if _NUMBER.fullmatch(text):
        return _time_of_fraction(float(text), unit)
    if _MONTH.fullmatch(text):
        text += "-01"
    more = tail_of(text[19:])
    try:
        # The common form first, without what Python's own versions differ in.
        if more is not None and len(text) >= 19 and text[10] in "Tt ":
            return _since_epoch(datetime.fromisoformat(text[:10] + "T" + text[11:19])) + more
        return _since_epoch(datetime.fromisoformat(text))
    except ValueError:
        return UNREADABLE


def _time_of_fraction(number: float | Decimal, unit: str) -> int:
    if isinstance(number, Decimal):
        whole = number.is_finite() and number.adjusted() < _DIGITS and number == number.to_integral_value()
        if whole:
            return time_of_whole(int(number), unit)
        number = math.nan if number.is_nan() else float(number)
    if math.isnan(number):
        return MISSING
    if abs(number) >= FAR:
        return FAR if number > 0 else -FAR
    if number.is_integer():
        return time_of_whole(int(number), unit)
    factor = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}[unit or unit_of(number)]
    return max(-FAR, min(FAR, round(number * factor) if factor > 1 else math.floor(number * factor)))


def _time_of_date(cell: object) -> int:
    if isinstance(cell, datetime):
        return _since_epoch(cell)
    if isinstance(cell, date):
        return _since_epoch(datetime(cell.year, cell.month, cell.day))
    return UNREADABLE


def _since_epoch(when: datetime) -> int:
    try:
        return (when - (_EPOCH if when.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND
    except (ValueError, TypeError, OverflowError):  # a time zone that does not know its offset
        return UNREADABLE
