"""A silo's rows as a stream of blocks with the columns user, item, value and time, whatever they are read from.

A source is opened for reading only, and nothing but the path or the query of silo.toml is ever read. No cell is
given a type here that depends on another cell: text stays text, and what a source types by itself stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.silo.block import Block, positions
from recsys_fed.silo.database import check_database, query_blocks
from recsys_fed.silo.lines import text_blocks
from recsys_fed.silo.settings import DATABASES, DataSettings

Blocks = Iterator[Block]


def blocks_of(data: DataSettings) -> Blocks:
    """The rows of the configured source, at most `block_rows` at a time, columns named by their roles.

    Raises, before the first row is read:
        DataNotFoundError: there is no such file, folder or database.
        MissingColumnError: it lacks a column that was named.

    Raises:
        DataFormatError: it is something else. Unlike the two above this may follow from its rows: a query can fail
            on one, a Parquet file can be damaged in the middle.
    """
    return _READERS[data.source](data)


def check_place(data: DataSettings) -> None:
    """Look whether there is anything to read, and at nothing in it: what this says does not follow from any row.

    Raises:
        DataNotFoundError: there is no such file, folder or SQLite database.
    """
    if data.source in DATABASES:
        check_database(data)
    else:
        _there(Path(data.path))


def _csv_blocks(data: DataSettings) -> Blocks:
    path = _there(Path(data.path))
    try:
        yield from text_blocks(path, data.columns, block_rows=data.block_rows)
    except OSError as error:
        raise _unreadable(path, "CSV in UTF-8", error) from error


def _parquet_blocks(data: DataSettings) -> Blocks:
    path = _there(Path(data.path))
    try:
        files = pads.dataset(path, format="parquet", exclude_invalid_files=False).files
        if not files:
            raise DataNotFoundError(f"Expected Parquet files in {path}, there is none. See data.path of silo.toml.")
        # Every file has its own types; all of their headers come before any row.
        places = [positions(data.columns, pq.read_schema(file).names, file) for file in files]
        for file, at in zip(files, places, strict=True):
            yield from _file_blocks(file, at, data)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from error


def _file_blocks(file: str, at: dict[str, int], data: DataSettings) -> Blocks:
    with pq.ParquetFile(file) as opened:
        names = list(dict.fromkeys(data.columns.values()))
        for batch in opened.iter_batches(batch_size=data.block_rows, columns=names, use_threads=False):
            if batch.num_rows:
                place = {name: position for position, name in reversed(list(enumerate(batch.schema.names)))}
                cells = {role: batch.column(place[data.columns[role]]) for role in at}
                yield Block(well_formed=np.ones(batch.num_rows, dtype=bool), cells=cells)


def _query_blocks(data: DataSettings) -> Blocks:
    for rows in query_blocks(data):
        cells: dict[str, Sequence[object]] = dict(zip(data.columns, zip(*rows, strict=True), strict=True))
        yield Block(well_formed=np.ones(len(rows), dtype=bool), cells=cells)


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataNotFoundError(f"Expected the silo's data at {path}, there is nothing. See data.path of silo.toml.")
    return path


def _unreadable(path: Path, expected: str, error: Exception) -> DataFormatError:
    """Without the parser's text, which may hold a row."""
    return DataFormatError(f"Expected {expected} with the columns of [data] in {path}, got {type(error).__name__}.")


_READERS: dict[str, Callable[[DataSettings], Blocks]] = {
    "csv": _csv_blocks,
    "parquet": _parquet_blocks,
    "sqlite": _query_blocks,
    "postgresql": _query_blocks,
}
