"""The one text of a record that is hashed and signed: JSON with sorted keys, no spaces, ASCII only.

>>> canonical({"b": 1, "a": "é"})
b'{"a":"\\\\u00e9","b":1}'
>>> parse_canonical(b'{"a":1}')
{'a': 1}
>>> parse_canonical(b'{"a": 1}')
Traceback (most recent call last):
...
recsys_fed.errors.DataFormatError: Expected a record with sorted keys, without spaces, in ASCII, got another text.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from recsys_fed.errors import DataFormatError

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the record's only text. Numbers are finite; an infinite one must be written as a text."""
    return _ENCODER.encode(record).encode()


def parse_canonical(text: bytes) -> dict[str, Any]:
    """Read a record and accept no other spelling of it, so that every byte of the text counts.

    Raises:
        DataFormatError: it is not JSON, not an object, or not in canonical form.
    """
    record = read_json(text)
    if not isinstance(record, dict):
        raise DataFormatError(f"Expected a record (a JSON object), got {type(record).__name__}.")
    try:
        same = canonical(record) == text
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"Expected a record of finite numbers: {error}.") from error
    if not same:
        raise DataFormatError("Expected a record with sorted keys, without spaces, in ASCII, got another text.")
    return record


def read_json(text: bytes) -> object:
    """Read JSON in any spelling; raises DataFormatError for anything else."""
    try:
        found: object = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"Expected JSON in ASCII, got something else: {error}.") from error
    return found


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def exactly(record: object, names: set[str], what: str) -> Mapping[str, Any]:
    """Return the record if it has these keys and no others; raises DataFormatError."""
    if not isinstance(record, Mapping) or set(record) != names:
        got = sorted(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise DataFormatError(f"Expected {what} with the keys {sorted(names)}, got {got}.")
    return record


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Return a text of the record; raises DataFormatError."""
    if not isinstance(record[name], str):
        raise DataFormatError(f"Expected {name} to be a text, got {type(record[name]).__name__}.")
    return str(record[name])
