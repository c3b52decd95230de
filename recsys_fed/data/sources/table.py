"""Any table with columns for user and item: text, JSON lines, Parquet (a file, or a folder of parts), SQLite.

A table of an SQLite database is PATH#TABLE; without a name the only one that it has.
"""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.blocks import source_of
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.sources.source import Request, Source, catalogue_of, reading_of
from recsys_fed.errors import DataFormatError


def _is_table(path: Path) -> bool:
    return path.exists() and bool(source_of(path))


def _read_table(request: Request) -> Dataset:
    path = request.path
    interactions, report, is_test = read_interactions(reading_of(request, path=path, source=source_of(path)))
    return Dataset(
        name=path.name.partition(".")[0],
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids),
        report=report,
        is_test=is_test,
        note="a table of the user's own",
    )


TABLE = Source(
    name="table",
    layout="a .csv, .tsv, .tab, .dat, .txt, .jsonl (each perhaps .gz or .zst) or .parquet file with columns for user "
    "and item, or a folder of such files",
    matches=_is_table,
    read=_read_table,
    named_columns=True,
)


_SUFFIXES = (".sqlite", ".sqlite3", ".db")


def _is_sqlite(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def _read_sqlite(request: Request) -> Dataset:
    tables = _tables(request.path)
    named = request.split or (tables[0] if len(tables) == 1 else "")
    if named not in tables:
        raise DataFormatError(
            f"Expected {request.path}#TABLE with one of the tables {', '.join(tables)}, got {named or 'none'!r}."
        )
    quoted = named.replace('"', '""')
    reading = reading_of(request, path=request.path, source="sqlite")
    query = f'SELECT * FROM "{quoted}"'  # noqa: S608  (a name that the database gave)
    reading = replace(reading, url=str(request.path), query=query)
    interactions, report, is_test = read_interactions(reading)
    return Dataset(
        name=named,
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids),
        report=report,
        is_test=is_test,
        note="a table of the user's own",
    )


def _tables(path: Path) -> list[str]:
    """Names of the tables and views."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
            return [name for (name,) in found if not name.startswith("sqlite_")]
    except sqlite3.DatabaseError as error:
        raise DataFormatError(f"Expected an SQLite database in {path}, got another file.") from error


SQLITE = Source(
    name="SQLite",
    layout=f"a {', '.join(_SUFFIXES)} file, as PATH#TABLE",
    matches=_is_sqlite,
    read=_read_sqlite,
    named_columns=True,
    any_split=True,
)
