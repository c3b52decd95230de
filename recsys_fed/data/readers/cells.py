"""What one cell means, as an id, a time or a value: rules that see that cell and the settings, and nothing else.

The one spelling of an id is decided by its own cell, never by the column that it stands in. Dates and times are read
as people and programs write them, each by its own text alone, in nanoseconds since 1970. `columns` applies the rules
to whole columns.
"""

import math
import re
from datetime import date, datetime, timedelta
from decimal import Decimal

import numpy as np

_WHOLE_ID = re.compile(r"(-?[1-9][0-9]*|0)\.0+")
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
        if _WHOLE_ID.fullmatch(text):
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
    # Those of pandas are known by their names: whoever reads a file without it need not import it.
    missing = cell is None or type(cell).__name__ in {"NAType", "NaTType"}
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


# 2100-01-01T00:00:00Z: no interaction is later, and what unit a number has follows from it.
LATEST_SECONDS = 4_102_444_800
LATEST = LATEST_SECONDS * 1_000_000_000

# Times are nanoseconds since 1970 as int64; these two say why there is none. What is further off than FAR is FAR.
MISSING, UNREADABLE = -(2**63), -(2**63) + 1
FAR = 2**62

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
# What may follow the first 19 characters of 2024-01-31T12:00:00.
_TAIL = re.compile(r"(?:[.,]([0-9]+))? ?(?:([Zz]|UTC|GMT)|([+-])([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?)?")
_CLOCK = r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>[.,][0-9]+)?)?"
_ZONE = r"(?: ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?"
_DAY_OF_WEEK = r"(?:[A-Za-z]{3,9},? )?"
_MONTH_NAME = r"(?P<name>[A-Za-z]{3,9})\.?"
_FORMS = tuple(
    re.compile(form)
    for form in (
        # 2024/01/31 12:00:00
        rf"(?P<year>[0-9]{{4}})/(?P<month>[0-9]{{1,2}})/(?P<day>[0-9]{{1,2}})(?:[ T]{_CLOCK}{_ZONE})?",
        # 31.1.2024 12:00: with dots the day comes first.
        rf"(?P<day>[0-9]{{1,2}})\.(?P<month>[0-9]{{1,2}})\.(?P<year>[0-9]{{4}})(?:,? {_CLOCK}{_ZONE})?",
        # 1/31/2024 12:00:00 PM: with AM or PM the month comes first; without them nobody knows.
        rf"(?P<month>[0-9]{{1,2}})/(?P<day>[0-9]{{1,2}})/(?P<year>[0-9]{{4}}),? {_CLOCK} ?(?P<half>[AaPp])[Mm]",
        # 01 31, 2024
        r"(?P<month>[0-9]{1,2}) (?P<day>[0-9]{1,2}), (?P<year>[0-9]{4})",
        # Wed Jan 31 12:00:00 +0000 2024, and January 31, 2024
        rf"{_DAY_OF_WEEK}{_MONTH_NAME} +(?P<day>[0-9]{{1,2}}),?(?: {_CLOCK}{_ZONE})? (?P<year>[0-9]{{4}})",
        # Wed, 31 Jan 2024 12:00:00 GMT, and 31 Jan 2024, 12:00
        rf"{_DAY_OF_WEEK}(?P<day>[0-9]{{1,2}})[ -]{_MONTH_NAME}[ -](?P<year>[0-9]{{4}})(?:,? {_CLOCK}{_ZONE})?",
    )
)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND = timedelta(microseconds=1)


def moment_of_text(text: str) -> int:
    """Nanoseconds since 1970 of a date or time, or UNREADABLE; without a zone it is UTC, without a time midnight.

    ISO 8601 in its forms, 2024/01/31, 31.01.2024, 1/31/2024 12:00:00 PM, Wed Jan 31 12:00:00 +0000 2024 and its
    relatives. 01/02/2024 is unreadable: half of the world reads it the other way round.

    >>> moment_of_text("1970-01-02 00:00:00 UTC"), moment_of_text("1/2/1970 12:00:01 AM")
    (86400000000000, 86401000000000)
    >>> moment_of_text("Fri Jan 02 00:00:00 +0000 1970") == moment_of_text("1970-01-02")
    True
    """
    if _YEAR_MONTH.fullmatch(text):
        text += "-01"
    more = tail_of(text[19:])
    try:
        # The common form first, without what Python's own versions differ in.
        if more is not None and len(text) >= 19 and text[10] in "Tt ":
            return _within_reach(_nanoseconds(datetime.fromisoformat(text[:10] + "T" + text[11:19])) + more)
        return _within_reach(_nanoseconds(datetime.fromisoformat(text)))
    except ValueError:
        found = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
        return UNREADABLE if found is None else _moment_of_parts(found.groupdict())


def tail_of(text: str) -> int | None:
    """Nanoseconds that what follows 2024-01-31T12:00:00 adds: its fraction less its offset; None if it is neither.

    >>> tail_of(""), tail_of(".25Z"), tail_of("+01:00"), tail_of(" UTC"), tail_of("am")
    (0, 250000000, -3600000000000, 0, None)
    """
    found = _TAIL.fullmatch(text)
    if found is None:
        return None
    fraction, _, sign, hours, minutes, seconds = found.groups()
    nanos = int((fraction or "0")[:9].ljust(9, "0"))
    if sign is None:
        return nanos
    offset = [int(part or 0) for part in (hours, minutes, seconds)]
    if offset[0] > 23 or max(offset) > 59:
        return None
    ahead = 1_000_000_000 * (3_600 * offset[0] + 60 * offset[1] + offset[2])
    return nanos - ahead if sign == "+" else nanos + ahead


def _within_reach(nanoseconds: int) -> int:
    """The same within +-FAR."""
    return max(-FAR, min(FAR, nanoseconds))


def _nanoseconds(when: datetime) -> int:
    try:
        return (when - (_EPOCH if when.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND * 1_000
    except OverflowError as error:
        raise ValueError from error


def _moment_of_parts(parts: dict[str, str | None]) -> int:
    hour, month = int(parts.get("hour") or 0), _month(parts)
    if parts.get("half"):
        if not 1 <= hour <= 12:
            return UNREADABLE
        hour = hour % 12 + (12 if (parts["half"] or "").lower() == "p" else 0)
    more = tail_of((parts.get("fraction") or "") + (parts.get("zone") or ""))
    minute, second = (int(parts.get(name) or 0) for name in ("minute", "second"))
    try:
        when = datetime(int(parts["year"] or 0), month, int(parts["day"] or 0), hour, minute, second)
    except ValueError:
        return UNREADABLE
    return UNREADABLE if more is None else _within_reach(_nanoseconds(when) + more)


def _month(parts: dict[str, str | None]) -> int:
    """The number of the month, 0 where its name is none."""
    name = parts.get("name")
    if name is None:
        return int(parts["month"] or 0)
    return next((number for number, month in enumerate(_MONTHS, start=1) if name.lower().startswith(month)), 0)


UNITS = ("", "s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_DIGITS = 30
_WHOLE = re.compile(rf"[+-]?[0-9]{{1,{_DIGITS}}}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
# With commas: 1,234.5 and 1,234,567 and 1.234,5 and 1.234.567 and 4,5; but 1,234 may be either and is no number.
_COMMAS_IN_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}((,[0-9]{3})+\.[0-9]+|(,[0-9]{3}){2,})")
_DOTS_IN_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}((\.[0-9]{3})+,[0-9]+|(\.[0-9]{3}){2,})")
_DECIMAL_COMMA = re.compile(r"[+-]?(?![1-9][0-9]{0,2},[0-9]{3}$)[0-9]*,[0-9]+")


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


def _time_of_whole(number: int, unit: str) -> int:
    """Nanoseconds since 1970 of a whole number in `unit`."""
    number = max(-(2**63), min(2**63 - 1, number))
    found = number * (PER_SECOND["ns"] // PER_SECOND[unit or _unit_of(number)])
    return max(-FAR, min(FAR, found))


def _unit_of(number: int | Decimal) -> str:
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
        return _time_of_whole(int(text), unit)
    number = _number_text(text)
    if not number:
        return moment_of_text(text)
    return _time_of_number(Decimal(number), unit)


def _time_of_number(number: float | Decimal, unit: str) -> int:
    if isinstance(number, int):
        return _time_of_whole(number, unit)
    exact = Decimal(number)
    if exact.is_nan():
        return MISSING
    if exact.copy_abs() >= FAR:
        return FAR if number > 0 else -FAR
    unit = unit or _unit_of(exact)
    whole = math.floor(number)
    # The two parts by themselves: a float has no digits left for nanoseconds of a whole date.
    parts = PER_SECOND["ns"] // PER_SECOND[unit]
    fraction = (number - whole) * parts
    return max(-FAR, min(FAR, _time_of_whole(whole, unit) + math.floor(fraction)))


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
