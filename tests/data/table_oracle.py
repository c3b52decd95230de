"""Interactions by the documented rules, in plain Python: line by line, row by row, cell by cell."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from doors import Entry

from recsys_fed.data.readers.cells import LATEST, MISSING, UNREADABLE, spell_id, time_of, value_of

BLANKS = re.compile(rb"[ \t]+")
MOST = float(np.finfo(np.float32).max)
Cells = Mapping[str, object]


def text_rows(text: bytes, separator: bytes, at: Mapping[str, int], *, n_fields: int = 0) -> Iterator[Cells | None]:
    """The cells of each line; None for a malformed one. `n_fields` is of the header, 0 where there is none."""
    for line in (whole.removesuffix(b"\r") for whole in text.split(b"\n")):
        if line:
            one = BLANKS.sub(b" ", line.strip(b" \t")) if separator == b" " else line
            readings = (_in_quotes(one, separator) if b'"' in one else None, one.split(separator))
            rows = (fields for fields in readings if fields is not None and _fits(fields, at, n_fields))
            fields = next(rows, None)
            yield None if fields is None else {role: fields[place] for role, place in at.items()}


def _fits(fields: list[bytes], at: Mapping[str, int], n_fields: int) -> bool:
    if not n_fields:
        return len(fields) > max(at.values())
    return len(fields) >= n_fields and not any(fields[n_fields:])


def _in_quotes(line: bytes, separator: bytes) -> list[bytes] | None:
    """Fields of which some are in quotes; None where a quote does not close at the end of a field."""
    fields, place, around = [], 0, b"" if separator == b" " else b" "
    while True:
        start = place
        while around and line[start : start + 1] == around:
            start += 1
        if line[start : start + 1] == b'"':
            end = start + 1
            while end < len(line) and (line[end : end + 1] != b'"' or line[end : end + 2] == b'""'):
                end += 1 if line[end : end + 1] != b'"' else 2
            if end >= len(line):
                return None
            fields.append(line[start + 1 : end].replace(b'""', b'"'))
            end += 1
            while around and line[end : end + 1] == around:
                end += 1
        else:
            found = line.find(separator, place)
            end = len(line) if found < 0 else found
            fields.append(line[place:end])
        if end == len(line):
            return fields
        if not line.startswith(separator, end):
            return None
        place = end + len(separator)


def json_rows(text: bytes, names: Mapping[str, str]) -> Iterator[Cells | None]:
    """The cells of each line."""
    for line in (whole.removesuffix(b"\r") for whole in text.split(b"\n")):
        if line:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            yield {role: found.get(name) for role, name in names.items()} if isinstance(found, dict) else None


def expected(
    rows: Iterable[Cells | None], *, kinds: Mapping[str, float], lists: str = "", by_content: bool = False
) -> tuple[dict[str, list[Entry]], int, Counter[str], Counter[str]]:
    """Entries of each user, from the earliest on; number of rows; counts by rule and by note."""
    rules, notes, kept, n_rows = Counter(), Counter(), [], 0
    for row in rows:
        for cells in [None] if row is None else _spread(row, lists):
            n_rows += 1
            entry, rule, noted = (None, "malformed row", ()) if cells is None else _entry(cells, kinds)
            if rule:
                rules[rule] += 1
            else:
                notes.update(noted)
                kept.append(entry)
    if by_content:
        kept.sort(key=lambda one: (_time(one[1]), *_content(one[1]), one[1].item))
    pairs = defaultdict(list)
    for place, (user, entry) in enumerate(kept):
        pairs[user, entry.item].append((place, entry))
    users = defaultdict(list)
    for (user, _), some in pairs.items():
        last = {entry: place for place, entry in some}
        rules["exact duplicate"] += len(some) - len(last)
        rules["repeated pair"] += len(last) - 1
        users[user].append(max(last.items(), key=lambda one: (one[0].weight or 0, _time(one[0]), one[1])))
    ordered = {
        user: [entry for entry, _ in sorted(some, key=lambda one: (_time(one[0]), one[1]))]
        for user, some in users.items()
    }
    return ordered, n_rows, +rules, notes


def _time(entry: Entry) -> int:
    return MISSING if entry.time is None else entry.time


def _content(entry: Entry) -> tuple:
    return (entry.value is None, entry.value or 0.0, entry.weight or 0.0)


def _spread(row: Cells, lists: str) -> list[Cells]:
    """A row for each item of a list."""
    items = row["item"]
    if lists and isinstance(items, bytes):
        items = BLANKS.split(items.strip(b" \t")) if lists == " " else items.split(lists.encode())
    elif lists and isinstance(items, str):
        items = re.split("[ \t]+", items.strip(" \t")) if lists == " " else items.split(lists)
    if not isinstance(items, list):
        return [row]
    return [{**row, "item": item} for item in items or [None]]


def _entry(cells: Cells, kinds: Mapping[str, float]) -> tuple[tuple[str, Entry] | None, str, list[str]]:
    user, item, notes, more = spell_id(cells["user"]), spell_id(cells["item"]), [], {}
    if user is None or item is None:
        return None, "missing user" if user is None else "missing item", []
    if "kind" in cells:
        kind = (spell_id(cells["kind"]) or "").casefold()
        more["weight"] = float(np.float32({name.casefold(): weight for name, weight in kinds.items()}.get(kind, 0)))
        if not more["weight"]:
            return None, "other kind", []
    if "time" in cells:
        time = time_of(cells["time"])
        if time in (MISSING, UNREADABLE):
            notes.append("missing time" if time == MISSING else "unreadable time")
        elif not 0 <= time <= LATEST:
            return None, "negative time" if time < 0 else "absurd time", []
        else:
            more["time"] = time
    if "value" in cells:
        value = value_of(cells["value"])
        if value is None or abs(value) > MOST:
            notes.append("unreadable value")
        elif math.isnan(value):
            notes.append("missing value")
        else:
            more["value"] = float(np.float32(value))
    return (user, Entry(item, **more)), "", notes
