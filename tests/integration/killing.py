"""Kills at random moments of a training, and what was under way when each of them fell."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from recsys_fed.federation.run_files import EMBEDDINGS, LOG
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.silo.settings import read_silo_settings

BEFORE, ASKED, ANSWERED, BETWEEN, AFTER = (
    "before training",
    "request in flight",
    "reply in flight",
    "between rounds",
    "after the last round",
)
MID_ROUND = {ASKED, ANSWERED}


def events_of(training: Path) -> list[dict[str, Any]]:
    """The server's log of a training, without a line that a kill cut short."""
    path = training / LOG
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def round_events(training: Path, since: int = 0) -> list[dict[str, Any]]:
    """Begin and end of rounds, of the lines from `since` on: earlier ones are of an attempt that was killed."""
    return [e for e in events_of(training)[since:] if e["event"] in ("round begun", "round finished")]


def under_way(training: Path, silo: Path, *, rounds: int, since: int) -> str:
    """What a training is doing, told by what is on the disks: the server's log and the silo's ledger."""
    found = round_events(training, since)
    if not found:
        return BEFORE
    last = found[-1]
    if last["event"] == "round finished":
        return AFTER if last["round"] == rounds else BETWEEN
    return ANSWERED if charges(silo)[training.name] >= last["round"] else ASKED


def charges(silo: Path) -> Counter[str]:
    """How many releases each training has charged in a silo's ledger."""
    ledger = Ledger.open(read_silo_settings(silo).ledger)
    try:
        return Counter(dict(ledger.runs(newest=1000)))
    finally:
        ledger.close()


def complete(training: Path) -> bool:
    """Whether a training has its model."""
    return (training / EMBEDDINGS).is_file()
