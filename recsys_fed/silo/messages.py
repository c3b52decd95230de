"""What a silo was asked and what became of it: one JSON line a message in log.jsonl of its folder, and their counts.

A line has the kind of message, the public name of the training, the round and, of a refusal, the kind of error. No
other word of the server's is in it, and nothing of a user.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys_fed.logs import EventLog, Field

FILE = "log.jsonl"
ANSWERED, REFUSED, FAILED = "message answered", "message refused", "message failed"


@dataclass(frozen=True, kw_only=True)
class _MessageCounts:
    """Messages since the log was begun.

    Attributes:
        answered: by kind of message. refused: by kind of error; the silo did not agree to what was asked.
        failed: by kind of error; the silo could not answer, for a reason of its own.
        last: time of the last message, UTC; "" without one.
    """

    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    last: str = ""


class MessageLog:
    """Appends lines; without a folder (a simulated silo) it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._log = EventLog(folder / FILE) if folder is not None else None

    def answered(self, message: str, **facts: Field) -> None:
        """A message was answered; `facts` are those of `logs.FIELDS`."""
        self._write(ANSWERED, message, facts)

    def refused(self, message: str, error: Exception, **facts: Field) -> None:
        """A message was refused."""
        self._write(REFUSED, message, facts | {"error": type(error).__name__})

    def failed(self, message: str, error: Exception, **facts: Field) -> None:
        """A message could not be answered."""
        self._write(FAILED, message, facts | {"error": type(error).__name__})

    def _write(self, event: str, message: str, facts: dict[str, Field]) -> None:
        if self._log is not None:
            self._log.write(event, message=message, **facts)


def message_counts(folder: Path) -> _MessageCounts:
    """Count the lines of a silo's log; a line that a power failure cut short is passed over."""
    counted: dict[str, Counter[str]] = {ANSWERED: Counter(), REFUSED: Counter(), FAILED: Counter()}
    last = ""
    for line in _lines(folder / FILE):
        event = str(line.get("event"))
        if event in counted:
            counted[event][str(line.get("message" if event == ANSWERED else "error", ""))] += 1
            last = str(line.get("time", ""))
    return _MessageCounts(answered=counted[ANSWERED], refused=counted[REFUSED], failed=counted[FAILED], last=last)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line
