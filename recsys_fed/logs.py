"""Structured logs: one JSON line an event, with fields from a fixed list, so that no user data can slip in.

>>> _line_of("round finished", {"round": 1, "silos": 3}, time="2026-01-31T12:00:00Z")
'{"event": "round finished", "round": 1, "silos": 3, "time": "2026-01-31T12:00:00Z"}'
>>> _line_of("oops", {"user": "910005"}, time="2026-01-31T12:00:00Z")
Traceback (most recent call last):
...
recsys_fed.errors.ConfigurationError: Expected a known field of a log, got 'user'. Logs hold no user data.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from recsys_fed.errors import ConfigurationError

# What a line may say: public names and numbers of the protocol, and the kind of an error, never its text.
FIELDS = frozenset({
    "training", "round", "rounds", "stage", "silo", "silos", "answered", "refused", "reason", "bytes_up",
    "bytes_down", "seconds", "epsilon", "model", "error", "pid", "port", "resumed", "catalogue", "message", "noise",
})  # fmt: skip
Field = str | int | float | bool


class EventLog:
    """Appends to a file; several processes may append to the same one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, event: str, **fields: Field) -> None:
        """Append a line; a log that cannot be written never stops what is logged."""
        line = _line_of(event, fields, time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                os.write(file, line.encode() + b"\n")
            finally:
                os.close(file)
        except OSError:
            self._path = None


def _line_of(event: str, fields: dict[str, Field], *, time: str) -> str:
    """The line of an event.

    Raises:
        ConfigurationError: a field that is not known, or a value that is not plain.
    """
    for name, value in fields.items():
        if name not in FIELDS:
            raise ConfigurationError(f"Expected a known field of a log, got {name!r}. Logs hold no user data.")
        if not isinstance(value, str | int | float | bool):
            raise ConfigurationError(f"Expected a plain value of {name}, got {type(value).__name__}.")
    return json.dumps({"time": time, "event": event, **fields}, sort_keys=True)
