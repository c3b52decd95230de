"""On which earlier trainings each training builds, as this silo has had it proven; see `certificates.earlier`.

    earlier/TRAINING.json    of each its id and SHA-256 of its released tables, oldest first; beside the silo's state

Public, and no memory that a guarantee rests on: a silo that has lost it answers no round of a training that builds on
others until it is shown the proof again, which every start of the server does.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from recsys_fed.certificates.earlier import EarlierRun
from recsys_fed.errors import ProtocolError
from recsys_fed.files import write_whole
from recsys_fed.silo.settings import SiloSettings


def note_earlier(settings: SiloSettings, training: str, found: Sequence[EarlierRun]) -> None:
    """Keep what was proven; of a training that builds on none there is nothing to keep.

    Raises:
        ProtocolError: the training began with others.
    """
    path, before = _path(settings, training), earlier_of(settings, training)
    if path.is_file() and before != tuple(found):
        raise ProtocolError(
            f"Expected the {len(before)} earlier trainings that {training} began with, got {len(found)}. Resume it "
            "as it was, or start a new one."
        )
    if found and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps([asdict(one) for one in found]) + "\n")


def earlier_of(settings: SiloSettings, training: str) -> tuple[EarlierRun, ...]:
    """The earlier trainings that this one builds on; none where nothing was noted."""
    path = _path(settings, training)
    return tuple(EarlierRun(**one) for one in json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ()


def _path(settings: SiloSettings, training: str) -> Path:
    """Names of trainings are letters, digits and hyphens (`client.context`)."""
    return Path(settings.state) / "earlier" / f"{training}.json"
