"""A database: one query, in a transaction that cannot write, read in blocks."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from recsys_fed.data.readers.reading import Reading, Roles, find_roles
from recsys_fed.database import build_engine, hide_password, parse_address, read_only
from recsys_fed.errors import DataFormatError, DataNotFoundError

# Dates are written as ISO 8601 has them, and text arrives as UTF-8, whatever the server's own habits are.
_OPTIONS = "-c default_transaction_read_only=on -c datestyle=ISO -c client_encoding=UTF8"


def query_blocks(
    data: Reading, *, usual: Sequence[str], needed: Sequence[str]
) -> Iterator[tuple[Roles, list[tuple[object, ...]]]]:
    """The rows of the query, for each the cells of the roles in their order; see `find_roles`.

    Guarantees: the transaction is read-only in the database's own terms (PostgreSQL: `default_transaction_read_only`;
    SQLite: opened with mode = ro), and is rolled back. ":since" and ":until" are bound as parameters, never
    pasted into the text. Every cell arrives as the database holds it; none that Python has no value for (a date after
    the year 9999, text that is no UTF-8) makes the reading fail.

    Raises:
        DataNotFoundError: there is no such SQLite file.
        MissingColumnError: the answer lacks a column; before its first row is read.
        DataFormatError: the database refuses the query, or fails on a row; its text, which may hold values, is not
            repeated.
    """
    engine = _engine(data)
    statement = sa.text(data.query)
    bound = {name: text for name, text in data.parameters.items() if name in statement.compile().params}
    try:
        with engine.connect() as connection:
            _CELLS[data.source](connection.connection.dbapi_connection)
            rows = connection.execution_options(yield_per=data.block_rows).execute(statement, bound)
            roles = find_roles(list(rows.keys()), data.columns, place=data.source, usual=usual, needed=needed)
            for part in rows.partitions(data.block_rows):
                yield roles, [tuple(row[place] for place in roles.at.values()) for row in part]
    except SQLAlchemyError as error:
        raise DataFormatError(
            f"Expected {hide_password(engine.url)} to answer data.query, got {_reason(error)}. "
            "Run the query by hand to see why."
        ) from error
    finally:
        engine.dispose()


def _reason(error: SQLAlchemyError) -> str:
    """What the database says of a connection or of the query's own words; of a row only the kind of the error.

    Only its first line: those after it may repeat the query, which may hold values.
    """
    cause = getattr(error, "orig", None) or error
    kind, text = type(cause).__name__, str(cause).partition("\n")[0].strip()
    of_the_query = isinstance(error, ProgrammingError) or text.startswith("no such ")
    of_the_connection = isinstance(error, OperationalError) and text.startswith(("connection ", "unable to open"))
    return f"{kind}: {text}" if of_the_query or of_the_connection else kind


def _sqlite_cells(connection: Any) -> None:
    """Text as bytes: SQLite holds text that is no UTF-8, on which the driver would fail."""
    connection.text_factory = bytes


def _postgresql_cells(connection: Any) -> None:
    """Numbers, truth values and bytes as they are, other scalars as their text; arrays are no cells."""
    from psycopg.adapt import Loader  # noqa: PLC0415  (an extra)

    class TextBytes(Loader):
        def load(self, data: Any) -> bytes:
            return bytes(data)

    class Json(Loader):
        def load(self, data: Any) -> object:
            try:
                return json.loads(bytes(data), parse_int=Decimal)
            except (ValueError, RecursionError):
                return ()

    class NoCell(Loader):
        def load(self, data: Any) -> tuple[()]:
            return ()

    adapters = connection.adapters
    # Kinds that Python knows nothing of, as enumerations are, have the loader of kind 0.
    adapters.register_loader(0, TextBytes)
    for kind in adapters.types:
        if kind.name not in _OWN_LOADERS:
            adapters.register_loader(kind.oid, Json if kind.name in ("json", "jsonb") else TextBytes)
        if kind.array_oid:
            adapters.register_loader(kind.array_oid, NoCell)


_OWN_LOADERS = {"bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "bytea"}
_CELLS = {"sqlite": _sqlite_cells, "postgresql": _postgresql_cells}


def check_database(data: Reading) -> None:
    """Raise DataNotFoundError where an SQLite file is not there; a server is not asked."""
    path = Path(_url(data).database or "")
    if data.source == "sqlite" and not path.is_file():
        raise DataNotFoundError(f"Cannot find an SQLite database at {path}.")


def _engine(data: Reading) -> sa.Engine:
    check_database(data)
    url = _url(data)
    if data.source == "sqlite":
        return build_engine(read_only(url), error=DataFormatError, pooled=False)
    return build_engine(
        url, error=DataFormatError, connect={"options": _OPTIONS, "connect_timeout": 10}, pooled=False
    )


def _url(data: Reading) -> sa.URL:
    url = parse_address(data.url, error=DataFormatError)
    if url.get_backend_name() != data.source:
        raise DataFormatError(f"Expected data.url of {data.source}, got one of {url.get_backend_name()}.")
    return url
