"""Dates and times as people and programs write them, each by its own text alone, in nanoseconds since 1970."""

import re
from datetime import datetime, timedelta

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
            return within_reach(_nanoseconds(datetime.fromisoformat(text[:10] + "T" + text[11:19])) + more)
        return within_reach(_nanoseconds(datetime.fromisoformat(text)))
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


def within_reach(nanoseconds: int) -> int:
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
    return UNREADABLE if more is None else within_reach(_nanoseconds(when) + more)


def _month(parts: dict[str, str | None]) -> int:
    """The number of the month, 0 where its name is none."""
    name = parts.get("name")
    if name is None:
        return int(parts["month"] or 0)
    return next((number for number, month in enumerate(_MONTHS, start=1) if name.lower().startswith(month)), 0)
