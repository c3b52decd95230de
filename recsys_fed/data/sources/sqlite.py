"""A table of an SQLite database, PATH#TABLE; without a name the only one that it has."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.interactions import read_interactions
from recsys_fed.data.sources.item_file import catalogue_of
from recsys_fed.data.sources.source import Request, Source, reading_of
from recsys_fed.errors import DataFormatError

_SUFFIXES = (".sqlite", ".sqlite3", ".db")


def _matches(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def _read(request: Request) -> Dataset:
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


SOURCE = Source(
    name="SQLite",
    layout=f"a {', '.join(_SUFFIXES)} file, as PATH#TABLE",
    matches=_matches,
    read=_read,
    named_columns=True,
    any_split=True,
)
