"""The silo's interactions into the log, through the same validation as training; and out again for the next round.

Run as a process of its own, `python -m recsys_fed.serving.importing FILE FOLDER --store ADDRESS`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_fed.data.interactions import Interactions
from recsys_fed.data.readers.interactions import frame_block, interactions_of
from recsys_fed.data.readers.reading import Reading
from recsys_fed.data.sources import Request, read
from recsys_fed.errors import RecsysFedError
from recsys_fed.serving.events import IMPORTED, Event
from recsys_fed.serving.place import ServicePlace
from recsys_fed.serving.stamp import stamp_of
from recsys_fed.serving.store import FeedbackStore


def import_interactions(path: Path, store: FeedbackStore) -> int:
    """Replace what was imported by the interactions of a file or folder; returns how many came in.

    Every format of `data.sources` is read, and validated as for training. Users who were forgotten are left out.

    Raises:
        DataError: see `data.sources.read`; nothing was changed.
    """
    found = read(Request(path=path)).interactions
    return store.replace_imported(_events(found), source=stamp_of(path))


def export_training(store: FeedbackStore, path: Path) -> int:
    """Write what the next training reads as a table with user, item, value and time (.csv or .parquet).

    It passes the reading of `data.readers` on the way out, so that a round refuses nothing of it later.
    """
    frame = pd.DataFrame(store.training(), columns=["user", "item", "value", "time"])
    log = Reading(path="the service's log")
    kept, _, _ = interactions_of([frame_block(frame)], log, may_be_empty=True)
    table = pd.DataFrame(
        {
            "user": kept.user_ids[kept.user],
            "item": kept.item_ids[kept.item],
            "value": kept.value,
            "time": kept.time,
        }
    )
    partial = path.with_name(path.name + ".part")
    if path.suffix == ".parquet":
        table.to_parquet(partial, index=False)
    else:
        table.to_csv(partial, index=False)
    partial.replace(path)
    return len(table)


def _events(found: Interactions) -> Iterator[Event]:
    """In the order of time where there are times."""
    n = len(found)
    times = np.zeros(n) if found.time is None else found.time.astype(np.float64)
    values = [None] * n if found.value is None else found.value.tolist()
    for row in np.argsort(times, kind="stable").tolist():
        yield Event(
            user=found.user_ids[found.user[row]],
            item=found.item_ids[found.item[row]],
            kind=IMPORTED,
            time=_seconds(float(times[row])),
            value=values[row],
        )


def _seconds(time: float) -> float:
    """Milliseconds since 1970 as seconds; positions and seconds as they are."""
    return time / 1_000.0 if time > 4_102_444_800 else time


def main(arguments: Sequence[str] | None = None) -> int:
    """Import and print how many interactions came in; an error of the library is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m recsys_fed.serving.importing", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", default="")
    given = parser.parse_args(arguments)
    place = ServicePlace(folder=given.folder, store=given.store)
    try:
        store = FeedbackStore(place.address, key=place.key())
        sys.stdout.write(f"{import_interactions(given.path, store)}\n")
        store.close()
    except RecsysFedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
