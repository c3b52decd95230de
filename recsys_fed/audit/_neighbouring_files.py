"""Neighbouring files: one user more, with whatever cells, and nobody else's history changes.

What a mechanism promises about neighbouring data sets is worth nothing if the reading of a file couples users. Pairs
of files and tables are generated that differ by the rows of one user: among ordinary rows in any notation that means
the same, rows of what a reader may trip over. Both are read, in blocks of some size, in memory or on disk, and the
histories of all other users compared. The promise is about every pair; a breach needs no statistics.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.audit._hostile_tables import (
    COLUMNS,
    ITEMS,
    ORDINARY,
    Notation,
    Row,
    Rows,
    any_cells,
    ordinary_rows,
    rows_of_newcomer,
    text_lines,
    typed_columns,
)
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.readers.blocks import blocks_of
from recsys_fed.data.readers.cells import LATEST_SECONDS
from recsys_fed.data.readers.reading import Block
from recsys_fed.errors import RecsysFedError
from recsys_fed.models.histories import Signal
from recsys_fed.silo.interactions import SiloData, collect_silo_data, read_silo_data
from recsys_fed.silo.on_disk import StoredSiloData, read_stored_data
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import DataSettings

NAME = "neighbouring-files"
SOURCES = ("csv", "tsv", "parquet", "parquet folder", "sqlite")
QUERY = "SELECT customer, sku, stars, at FROM purchases"
SIGNALS: frozenset[Signal] = frozenset({"order", "time", "value"})
_REPORTED = 5
CATALOGUE = Catalogue(item_ids=np.array(ITEMS, dtype=object))
Read = Callable[[DataSettings, Catalogue, Pseudonyms], SiloData | StoredSiloData]
# Pseudonym -> items to train on and items held out.
Histories = dict[str, tuple[frozenset[int], frozenset[int]]]


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two sources that are neighbours: the settings that read them, without and with the newcomer."""

    without: DataSettings
    with_one_more: DataSettings


def _write_pair(rng: np.random.Generator, source: str, folder: Path) -> _Pair:
    """Generate two neighbouring files or tables of a kind in a folder."""
    data = _any_settings(rng)
    settings = []
    for name, (notation, rows) in zip(("without", "with"), _neighbouring_tables(rng), strict=True):
        path = folder / f"{name}.{source.replace(' ', '-')}"
        _WRITERS[source](notation, rows, path)
        place: dict[str, Any] = {"source": source.replace("tsv", "csv").removesuffix(" folder"), "path": str(path)}
        if source == "sqlite":
            place = {"source": source, "url": str(path), "query": QUERY}
        settings.append(DataSettings(**place, **data))
    return _Pair(without=settings[0], with_one_more=settings[1])


def _any_notation(rng: np.random.Generator) -> Notation:
    """Half of all tables write every ordinary row alike."""
    return Notation(seed=int(rng.integers(2**32)), uniform=bool(rng.random() < 0.5))


def _neighbouring_tables(rng: np.random.Generator) -> tuple[tuple[Notation, Rows], tuple[Notation, Rows]]:
    """What two neighbouring tables say, and how they are written: the second has a newcomer's rows as well."""
    rows = ordinary_rows(rng)
    more = _mix(rng, rows, rows_of_newcomer(rng, len(rows)))
    notation = _any_notation(rng)
    # At times by another writer, who means the same.
    return (notation, rows), (_any_notation(rng) if rng.random() < 0.3 else notation, more)


def _any_settings(rng: np.random.Generator) -> dict[str, Any]:
    """What silo.toml may say beside the place of the data: filters, hold-out."""
    found: dict[str, Any] = dict(COLUMNS) | {"hold_out": str(rng.choice(["none", "last"]))}
    found |= {"since": "2021-03-01"} if rng.random() < 0.2 else {}
    found |= {"until": "2022-03-01T12:00:00Z"} if rng.random() < 0.2 else {}
    found |= {"minimum_value": 3.0} if rng.random() < 0.2 else {}
    return found | {"minimum_history": int(rng.integers(1, 3))}


def _mix(rng: np.random.Generator, rows: Rows, more: Rows) -> Rows:
    """The newcomer's rows at random places among the others, whose order stays."""
    places = np.sort(rng.integers(0, len(rows) + 1, len(more)))
    return [row for _, row in sorted([*enumerate(rows, start=0), *zip(places - 0.5, more, strict=True)], key=_place)]


def _place(pair: tuple[float, Row]) -> float:
    return pair[0]


def _breach_of(rng: np.random.Generator, pair: _Pair, read: Read | None = None) -> str | None:
    """Read both sources of a pair; what is wrong, in words without contents, or None.

    Args:
        rng: chooses the sizes of blocks, and for each source whether it is read in memory or on disk.
        pair: see `_write_pair`.
        read: another reader, such as a broken copy.
    """
    pseudonyms = Pseudonyms(SiloSecret.generate())
    ordinary = {pseudonyms.of(str(user)) for user in ORDINARY}
    found: list[Histories] = []
    signals: list[dict[str, list[tuple[float, ...]]]] = []
    with TemporaryDirectory() as blocks:
        for data in (pair.without, pair.with_one_more):
            sized = replace(data, block_rows=int(rng.choice([1, 2, 3, 7, 1000])))
            on_disk = replace(sized, blocks=blocks)
            use, settings = (read_stored_data, on_disk) if rng.random() < 0.5 else (read_silo_data, sized)
            try:
                silo = (read or partial(use, reads=SIGNALS))(
                    settings if read is None else sized, CATALOGUE, pseudonyms
                )
            except (RecsysFedError, ValueError, TypeError, ArithmeticError, LookupError) as error:
                return f"the reading failed: {type(error).__name__}"
            report = silo.report
            if report.n_rows != report.n_kept + sum(finding.count for finding in report.findings):
                return "rows are not accounted for"
            users = [row for row, user in enumerate(silo.users.tolist()) if user in ordinary]
            found.append({user: items for user, items in _histories_of_all(silo).items() if user in ordinary})
            signals.append({silo.users[row]: told for row, told in _signals_of(silo, users).items()})
    if found[0].keys() != found[1].keys():
        return "another user takes part, or does not"
    if found[0] != found[1]:
        return "the history of another user changed"
    return None if signals[0] == signals[1] else "the order, times or values of another user changed"


def _histories_of_all(silo: SiloData | StoredSiloData) -> Histories:
    """What each user trains on and what is held out, by pseudonym."""
    whole = [set(row.indices.tolist()) for _, part in silo.parts() for row in part.matrix()]
    held = [set(row.indices.tolist()) for row in silo.test]
    return {
        user: (frozenset(items - out), frozenset(out))
        for user, items, out in zip(silo.users.tolist(), whole, held, strict=True)
    }


def _signals_of(silo: SiloData | StoredSiloData, rows: Sequence[int]) -> dict[int, list[tuple[float, ...]]]:
    """For some users, by their row, what is trained on: item, order, time and value of each interaction."""
    told: dict[int, list[tuple[float, ...]]] = {}
    first = 0
    for block in silo.histories().blocks():
        signals = {} if block.signals is None else block.signals.columns()
        # NaN equals nothing, not even itself.
        columns = [block.items, *(column.nan_to_num(-1) for column in signals.values())]
        starts = block.starts.tolist()
        for row in (row for row in rows if first <= row < first + block.n_users):
            part = slice(starts[row - first], starts[row - first + 1])
            told[row] = list(zip(*(column[part].tolist() for column in columns), strict=True))
        first += block.n_users
    return told


def neighbouring_files(
    *, seed: int, pairs: int, read: Read | None = None, sources: Sequence[str] = SOURCES
) -> dict[str, Any]:
    """Try `pairs` pairs, dealt evenly among the sources, and return a record of JSON values.

    Guarantees: a breach is a pair for which the promise does not hold, whatever the chance of meeting it; the
    record names its number under this seed, never a cell. `read=read_by_column` must be found out.
    """
    tried = dict.fromkeys(sources, 0)
    breaches: list[dict[str, Any]] = []
    for number in range(pairs):
        source = sources[number % len(sources)]
        rng = np.random.default_rng([seed, number])
        with TemporaryDirectory() as folder:
            what = _breach_of(rng, _write_pair(rng, source, Path(folder)), read)
        tried[source] += 1
        breaches += [] if what is None else [{"source": source, "pair": number, "what": what}]
    return {
        "name": NAME,
        "tried": pairs,
        "by_source": tried,
        "breached": len(breaches),
        "breaches": breaches[:_REPORTED],
        "found": _sentence(pairs, len(breaches)),
    }


def _sentence(pairs: int, breached: int) -> str:
    if not breached:
        return f"One user more changed nobody else's history in {pairs} pairs of files and tables."
    return f"One user more changed what is read of others in {breached} of {pairs} pairs of files and tables."


def read_by_column(data: DataSettings, catalogue: Catalogue, pseudonyms: Pseudonyms) -> SiloData:
    """A broken copy of `read_silo_data`: a column's cells decide together what its times mean."""
    blocks = map(_times_by_column, blocks_of(data.reading()))
    return collect_silo_data(blocks, replace(data, time_unit="us"), catalogue, pseudonyms)


def _times_by_column(block: Block) -> Block:
    """Numbers if any cell is one, else dates; the unit follows from the median."""
    cells = block.cells["time"]
    listed = cells.to_pylist() if isinstance(cells, pa.Array) else cells
    texts = [cell.decode(errors="replace") if isinstance(cell, bytes) else cell for cell in listed]
    column = pd.Series(texts, dtype=object).replace("", None)
    seconds = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if len(column) and (np.isnan(seconds) & column.notna().to_numpy(dtype=bool)).all():
        when = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
        seconds = np.asarray((when - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1), dtype=np.float64)
    finite = seconds[np.isfinite(seconds)]
    in_milliseconds = len(finite) > 0 and float(np.median(finite)) > LATEST_SECONDS
    micros = pa.array(seconds * (1_000 if in_milliseconds else 1_000_000), type=pa.float64(), from_pandas=True)
    return replace(block, cells=dict(block.cells) | {"time": micros})


def _write_text(notation: Notation, rows: Rows, path: Path) -> None:
    rng = notation.of_table()
    separator = b"\t" if path.suffix == ".tsv" else b","
    names = [str(name) for name in rng.permutation([*COLUMNS.values(), "note"])]
    end = b"\r\n" if rng.random() < 0.5 else b"\n"
    lines = [(b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + separator.join(name.encode() for name in names)]
    for row in rows:
        cells = any_cells(notation, row)
        written = {name: cells[role] for role, name in COLUMNS.items()} | {"note": "a note"}
        lines += text_lines(notation.of(row), [written[name] for name in names], separator, careless=row.newcomer)
    path.write_bytes(end.join(lines) + (end if rng.random() < 0.7 else b""))


def _write_parquet(notation: Notation, rows: Rows, path: Path) -> None:
    table = pa.table(typed_columns(notation, rows))
    pq.write_table(table, path, row_group_size=int(notation.of_table().integers(1, 20)))


def _write_folder(notation: Notation, rows: Rows, path: Path) -> None:
    """Several files, each with types of its own."""
    path.mkdir()
    rng = notation.of_table()
    cuts = np.sort(rng.integers(0, len(rows) + 1, int(rng.integers(0, 4)))).tolist()
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        own = replace(notation, seed=notation.seed + number)
        _write_parquet(own, rows[first:last], path / f"{number}.parquet")


def _write_sqlite(notation: Notation, rows: Rows, path: Path) -> None:
    """Columns without a type hold cells of any; the order of rows means nothing."""
    order = np.random.default_rng([notation.seed, len(rows)]).permutation(len(rows)).tolist()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE purchases (customer, sku, stars, at)")
        cells = [any_cells(notation, rows[row]) for row in order]
        listed = [tuple(found[role] for role in COLUMNS) for found in cells]
        connection.executemany("INSERT INTO purchases VALUES (?, ?, ?, ?)", listed)
        for name in COLUMNS.values():
            # Text that is no UTF-8 among it.
            where = f"typeof({name}) = 'blob' AND rowid % 2"
            connection.execute(f"UPDATE purchases SET {name} = CAST({name} AS TEXT) WHERE {where}")  # noqa: S608


_WRITERS: Mapping[str, Callable[[Notation, Rows, Path], None]] = {
    "csv": _write_text,
    "tsv": _write_text,
    "parquet": _write_parquet,
    "parquet folder": _write_folder,
    "sqlite": _write_sqlite,
}
