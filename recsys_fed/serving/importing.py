"""The silo's interactions into the log, through the same validation as training; and out again for the next round.

Run as a process of its own, `python -m recsys_fed.serving.importing FILE FOLDER --store ADDRESS`.
"""

import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_fed.data.interactions import MISSING_TIME, Interactions
from recsys_fed.data.readers.interactions import block_of, interactions_of
from recsys_fed.data.readers.reading import Reading
from recsys_fed.data.sources import Request, read
from recsys_fed.errors import RecsysFedError
from recsys_fed.files import OWNER_ONLY, whole_file
from recsys_fed.serving.history import EARLIEST, IMPORTED, UNTIMED, Event
from recsys_fed.serving.paths import ServicePaths
from recsys_fed.serving.store import FeedbackStore, open_store
from recsys_fed.serving.versions import fingerprint_of


def import_interactions(path: Path, store: FeedbackStore) -> int:
    """Replace what was imported by the interactions of a file or folder; returns how many came in.

    Every format of `data.sources` is read, and validated as for training. Users who were forgotten are left out.
    What has no time, a position for one, or a time before 1990 counts as of the import in which it first came; a time
    later than the import counts as of the import.

    Raises:
        DataError: see `data.sources.read`; nothing was changed.
    """
    found = read(Request(path=path)).interactions
    return store.replace_imported(_events(found), source=fingerprint_of(path))


def export_training(store: FeedbackStore, path: Path, *, items: Collection[str] | None = None) -> int:
    """Write what the next training reads as a table with user, item, value and time (.csv or .parquet), mode 0600.

    Items that are not in `items` (of the catalogue; None: all are) are left out. In .csv an id that a spreadsheet
    would execute has an apostrophe before it (see `_disarm`); `import_interactions` takes it away again.

    It passes the reading of `data.readers` on the way out, so that a round refuses nothing of it later. Rows are in
    order: what came without time first, as it came, and with an empty cell; then positions, as they came; then
    seconds since 1970. Where there are no seconds the column is named time_rank, and where nothing has a time there
    is none.
    """
    # Of a pair that is there twice the last row stays, which is the latest.
    rows = sorted(store.training(), key=lambda row: -math.inf if row[3] is None else row[3])
    if items is not None:
        rows = [row for row in rows if row[1] in items]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("user", "item", "value"))}
    kept, report, _ = interactions_of([block_of(columns)], Reading(path="the service's log"), may_be_empty=True)
    users, names = kept.user_ids, kept.item_ids
    if path.suffix != ".parquet":
        users, names = (np.array([_disarm(name) for name in ids], dtype=object) for ids in (users, names))
    table: dict[str, Any] = {"user": users[kept.user], "item": names[kept.item], "value": kept.value}
    time = np.array([row[3] for row in rows], dtype=np.float64)[report.kept]
    if not len(time) or not np.isnan(time).all():
        positions = len(time) and np.nanmax(time) < EARLIEST
        table["time_rank" if positions else "time"] = _whole(pa.array(time, from_pandas=True))
    _write_table(pa.table(table), path)
    return len(time)


def _whole(time: pa.Array) -> pa.Array:
    """Times as integers where all that are there are, float64 else."""
    return time.cast(pa.int64()) if pc.all(pc.equal(time, pc.floor(time)), min_count=0).as_py() else time


def _write_table(table: pa.Table, path: Path) -> None:
    with whole_file(path, mode=OWNER_ONLY) as file:
        if path.suffix == ".parquet":
            pq.write_table(table, file)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.column_names)
        # As lists a value that is missing is None, which is written as nothing; values have the digits of a float32.
        columns = (one.to_numpy() if one.type == pa.float32() else one.to_pylist() for one in table)
        writer.writerows(zip(*columns, strict=True))
        text.detach()


# What a spreadsheet takes for a formula, and an apostrophe that was there already; numbers are none.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]+)?")


def _disarm(cell: str) -> str:
    """A cell that no spreadsheet executes; `_rearm` gives the cell again.

    >>> _disarm("=HYPERLINK(A1)"), _disarm("-5"), _disarm("anna")
    ("'=HYPERLINK(A1)", '-5', 'anna')
    """
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _rearm(cell: str) -> str:
    """The cell that `_disarm` was given.

    >>> _rearm("'=HYPERLINK(A1)"), _rearm("'anna'")
    ('=HYPERLINK(A1)', "'anna'")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _events(found: Interactions) -> Iterator[Event]:
    """In the order of time, or of positions; what has neither comes first, in the order of the source."""
    n = len(found)
    order = np.arange(n) if found.time is None else np.argsort(found.time, kind="stable")
    times = _seconds(found)
    values = [None] * n if found.value is None else found.value.tolist()
    users, items = ([_rearm(str(name)) for name in ids] for ids in (found.user_ids, found.item_ids))
    for row in order.tolist():
        yield Event(
            user=users[found.user[row]],
            item=items[found.item[row]],
            kind=IMPORTED,
            time=float(times[row]),
            value=values[row],
        )


def _seconds(found: Interactions) -> npt.NDArray[np.float64]:
    """Times as the log has them, float64 [n]: seconds since 1970, positions below EARLIEST, or UNTIMED."""
    if found.time is None:
        return np.full(len(found), UNTIMED)
    missing, times = found.time == MISSING_TIME, found.time.astype(np.float64)
    if found.clock:
        times = times / 1e9
    elif (times >= EARLIEST).any():
        # Only the order of positions counts: as ranks they are smaller than any time.
        times = np.unique(times, return_inverse=True)[1].astype(np.float64)
    times[missing] = UNTIMED
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Import and print how many interactions came in; an error of the library is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m recsys_fed.serving.importing", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", default="")
    given = parser.parse_args(arguments)
    place = ServicePaths(folder=given.folder, store=given.store)
    try:
        store = open_store(place)
        sys.stdout.write(f"{import_interactions(given.path, store)}\n")
        store.close()
    except RecsysFedError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
