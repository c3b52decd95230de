"""A table as a stream of blocks of cells named by their roles, whatever it is read from.

A source is opened for reading only, and nothing but the path or the query that was given is ever read. No cell is
given a type here that depends on another cell: text stays text, and what a source types by itself stays as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.data.readers._columns import ids_of
from recsys_fed.data.readers._lines import (
    TextTable,
    json_blocks,
    json_roles,
    suffix_of,
    text_blocks,
    text_table,
)
from recsys_fed.data.readers.reading import (
    DATABASES,
    ROLES,
    Block,
    Blocks,
    Reading,
    Roles,
    TextFormat,
    check_roles,
    find_roles,
)
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat", ".inter", ".data", ".base", ".test"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
# RecBole's atomic files.
ATOMIC = TextFormat(separator="\t", header="yes", quotes=False)


def source_of(path: Path) -> str:
    """Which of SOURCES a file or a folder of parts is, by the names alone; "" if it is none.

    A folder is what the files in it are, if they are of one kind; Parquet files go before others.
    """
    if path.is_dir():
        kinds = {source_of(file) for file in _parts(path)}
        return "parquet" if "parquet" in kinds else (next(iter(kinds)) if len(kinds) == 1 else "")
    return _SUFFIXES.get(suffix_of(path), "")


def blocks_of(reading: Reading) -> Blocks:
    """The rows of a table, at most `block_rows` at a time, columns named by their roles.

    Raises, before the first row is read:
        DataNotFoundError: there is no such file, folder or database.
        MissingColumnError: it lacks a column that was named or is needed.
        ConfigurationError: a role that there is not, or kinds without a column, or columns that need kinds.

    Raises:
        DataFormatError: it is something else. Unlike those above this may follow from its rows: a query can fail on
            one, a Parquet file can be damaged in the middle.
    """
    check_roles(reading.columns, ROLES)
    if reading.columns.get("kind") and not reading.kinds:
        raise ConfigurationError("Expected --kinds beside a column of kinds: which kinds count, and how much each.")
    source = reading.source or source_of(Path(reading.path))
    if source in DATABASES:
        yield from _query_blocks(reading)
    elif source == "parquet":
        yield from _parquet_blocks(reading)
    elif source:
        yield from _text_blocks(reading, source)
    else:
        raise DataFormatError(f"Expected a table at {reading.path}: {', '.join(sorted(_SUFFIXES))}, perhaps .gz.")


def ids_in_column(path: Path, column: str) -> list[str]:
    """The ids in a column of a table, each once, spelled as in interactions.

    Args:
        path: any table that training reads; a text file with an id a line is one.
        column: its name, or its position from 0 in a table without a header.

    Raises:
        DataError: see `blocks_of`.
    """
    found: dict[str, None] = {}
    for block in blocks_of(Reading(path=str(path), columns={"user": column, "item": column}, usual=False)):
        found |= dict.fromkeys(ids_of(block.cells["user"]).ids)
    return list(found)


def usual_columns(reading: Reading) -> dict[str, str]:
    """Role -> name of its column, of the columns of a file that have usual names; see `roles`.

    Raises:
        DataError: see `blocks_of`.
    """
    path = Path(reading.path)
    source = reading.source or source_of(path)
    file = _files(path, source)[0]
    if source == "parquet":
        roles, names = _parquet_roles(file, reading)
    elif source == "json":
        roles, names = json_roles(file, reading.columns, encoding=reading.format.encoding, **_wanted_roles(reading))
    else:
        table = _text_table(file, reading)
        roles, names = table.roles, table.names
    return {role: names[at] if names.count(names[at]) == 1 else str(at) for role, at in roles.at.items()}


def check_place(reading: Reading) -> None:
    """Look whether there is anything to read, and at nothing in it: what this says does not follow from any row.

    Raises:
        DataNotFoundError: there is no such file, folder or SQLite database.
    """
    if reading.source in DATABASES:
        from recsys_fed.data.readers._database import check_database  # noqa: PLC0415  (an engine that files need not)

        check_database(reading)
    else:
        _there(Path(reading.path))


def _wanted_roles(reading: Reading) -> dict[str, Any]:
    """Roles that are looked for by usual names, and those that are needed: kinds where they count, never a split."""
    kind = ("kind",) if reading.kinds else ()
    usual = ("user", "item", "value", "time") if reading.usual else ()
    return {"usual": (*usual, *kind), "needed": ("user", "item", *kind)}


def _text_blocks(reading: Reading, source: str) -> Blocks:
    files = _files(Path(reading.path), source)
    named = len(files) > 1
    if source == "json":
        encoding = reading.format.encoding
        found = [json_roles(file, reading.columns, encoding=encoding, **_wanted_roles(reading)) for file in files]
        streams = [
            json_blocks(file, roles, names, block_rows=reading.block_rows, encoding=encoding)
            for file, (roles, names) in zip(files, found, strict=True)
        ]
    else:
        tables = [_text_table(file, reading) for file in files]
        streams = [text_blocks(table, block_rows=reading.block_rows) for table in tables]
    for file, stream in zip(files, streams, strict=True):
        for block in stream:
            yield replace(block, file=file.name) if named else block


def _text_table(file: Path, reading: Reading) -> TextTable:
    """How a text file is written; an atomic file is written in one way only."""
    atomic = suffix_of(file) == ".inter"
    form = ATOMIC if atomic else reading.format
    return text_table(file, reading.columns, form, typed_names=atomic, **_wanted_roles(reading))


def _parquet_blocks(reading: Reading) -> Blocks:
    path = _there(Path(reading.path))
    try:
        files = _files(path, "parquet")
        # Every file has its own types; all of their headers come before any row.
        found = [_parquet_roles(file, reading)[0] for file in files]
        for file, roles in zip(files, found, strict=True):
            yield from _file_blocks(file, roles, reading, named=len(files) > 1)
    except (pa.ArrowException, OSError) as error:
        # Without the parser's text, which may hold a row.
        raise DataFormatError(f"Expected Parquet in {path}, got {type(error).__name__}.") from error


def _parquet_roles(file: Path, reading: Reading) -> tuple[Roles, tuple[str, ...]]:
    """Roles of the columns of one file, and the names of all."""
    try:
        names = tuple(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        # Without the parser's text, which may hold a row.
        raise DataFormatError(f"Expected Parquet in {file}, got {type(error).__name__}.") from error
    return find_roles(names, reading.columns, place=str(file), **_wanted_roles(reading)), names


def _file_blocks(file: Path, roles: Roles, reading: Reading, *, named: bool) -> Blocks:
    # Several columns may have one name: columns are asked for by their places in the schema.
    wanted = sorted(set(roles.at.values()))
    place = {at: number for number, at in enumerate(wanted)}
    with pq.ParquetFile(file) as opened:
        first = 1
        for batch in _batches(opened, wanted, reading.block_rows):
            if batch.num_rows:
                yield Block(
                    well_formed=np.ones(batch.num_rows, dtype=bool),
                    cells={role: batch.column(place[at]) for role, at in roles.at.items()},
                    numbers=range(first, first + batch.num_rows),
                    file=file.name if named else "",
                    positions=roles.positions,
                )
            first += batch.num_rows


def _batches(opened: pq.ParquetFile, columns: Sequence[int], rows: int) -> Iterator[pa.RecordBatch]:
    names = opened.schema_arrow.names
    if len(set(names)) == len(names):
        yield from opened.iter_batches(batch_size=rows, columns=[names[at] for at in columns], use_threads=False)
        return
    for batch in opened.iter_batches(batch_size=rows, use_threads=False):
        yield pa.RecordBatch.from_arrays([batch.column(at) for at in columns], names=[str(at) for at in columns])


def _query_blocks(reading: Reading) -> Blocks:
    from recsys_fed.data.readers._database import query_blocks  # noqa: PLC0415  (an engine that files need not)

    first = 1
    for roles, rows in query_blocks(reading, **_wanted_roles(reading)):
        columns = dict(zip(roles.at, zip(*rows, strict=True), strict=True))
        yield Block(
            well_formed=np.ones(len(rows), dtype=bool),
            cells=columns,
            numbers=range(first, first + len(rows)),
            positions=roles.positions,
        )
        first += len(rows)


def _files(path: Path, source: str) -> list[Path]:
    """The file, or those of a folder, in the order of their names."""
    if not _there(path).is_dir():
        return [path]
    files = [file for file in _parts(path) if source_of(file) == source]
    if not files:
        raise DataNotFoundError(f"There are no {source} files in {path}.")
    return files


def _parts(folder: Path) -> list[Path]:
    """Files of one table: Parquet, also in folders named key=value below; text only if named part..."""
    found = []
    for file in folder.iterdir():
        if file.name[0] in "._":
            continue
        if file.is_dir():
            found += _parts(file) if "=" in file.name else []
        elif source_of(file) == "parquet" or file.name.startswith("part"):
            found.append(file)
    return sorted(found)


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataNotFoundError(f"There is nothing at {path}.")
    return path
