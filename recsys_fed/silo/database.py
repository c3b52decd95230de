"""The silo's database: one configured query, in a transaction that cannot write, read in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.silo.settings import DataSettings

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


def query_blocks(data: DataSettings) -> Iterator[pd.DataFrame]:
    """The rows of the query with the database's own column names.

    Guarantees: the transaction is read-only in the database's own terms (PostgreSQL: `default_transaction_read_only`;
    SQLite: opened with mode = ro), and is rolled back. ":since" and ":until" are bound as parameters, never
    pasted into the text.

    Raises:
        DataNotFoundError: there is no such SQLite file.
        DataFormatError: the database refuses the query; its text, which may hold values, is not repeated.
    """
    engine = _engine(data)
    statement = sa.text(data.query)
    bound = {name: getattr(data, name) for name in ("since", "until") if name in statement.compile().params}
    try:
        with engine.connect() as connection:
            rows = connection.execution_options(yield_per=data.block_rows).execute(statement, bound)
            names = list(rows.keys())
            for part in rows.partitions(data.block_rows):
                yield pd.DataFrame.from_records([tuple(row) for row in part], columns=names, coerce_float=True)
    except SQLAlchemyError as error:
        reason = type(getattr(error, "orig", None) or error).__name__
        raise DataFormatError(
            f"Expected {_place(engine.url)} to answer data.query, got {reason}. Run the query by hand to see why."
        ) from error
    finally:
        engine.dispose()


def _engine(data: DataSettings) -> sa.Engine:
    url = _url(data)
    if data.source == "postgresql":
        arguments: dict[str, Any] = {"options": "-c default_transaction_read_only=on", "connect_timeout": 10}
    else:
        path = Path(url.database or "")
        if not path.is_file():
            raise DataNotFoundError(f"Expected an SQLite database at {path}, there is no such file.")
        url, arguments = url.set(database=path.resolve().as_uri(), query={"mode": "ro", "uri": "true"}), {}
    try:
        return sa.create_engine(url, connect_args=arguments, poolclass=sa.NullPool, hide_parameters=True)
    except (SQLAlchemyError, ImportError) as error:
        raise DataFormatError(
            f'Expected a driver for {data.source}. For PostgreSQL: pip install "recsys-fed[postgresql]".'
        ) from error


def _url(data: DataSettings) -> sa.URL:
    """The URL; for SQLite a path will do."""
    if "://" not in data.url:
        return sa.URL.create("sqlite", database=data.url)
    try:
        url = sa.make_url(data.url)
    except SQLAlchemyError as error:
        raise DataFormatError("Expected data.url as postgresql://user@host/name or a path of SQLite.") from error
    if url.get_backend_name() != data.source:
        raise DataFormatError(f"Expected data.url of {data.source}, got one of {url.get_backend_name()}.")
    return url.set(drivername=_DRIVERS[data.source])


def _place(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)
