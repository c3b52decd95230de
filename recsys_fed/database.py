"""The one builder of SQLAlchemy engines, for ledgers, the service's store and databases of interactions.

An address is the path of an SQLite file or a URL. Parameters of statements may be private and are in no message.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from recsys_fed.errors import RecsysFedError

_EXTRA = 'For PostgreSQL: pip install "recsys-fed[postgresql]".'


def parse_address(text: str, *, error: type[RecsysFedError]) -> sa.URL:
    """A path of SQLite, made absolute, or a URL, PostgreSQL's with its driver; raises `error` for anything else."""
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().resolve()))
    try:
        url = sa.make_url(text)
    except SQLAlchemyError as cause:
        raise error("Expected a path or a URL such as postgresql://user@host/name.") from cause
    if "password" in url.query:
        raise error("The URL has a password among its options, where messages would show it. Use ~/.pgpass.")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def hide_password(url: sa.URL) -> str:
    """The address for messages."""
    return url.render_as_string(hide_password=True)


def read_only(url: sa.URL, *, immutable: bool = False) -> sa.URL:
    """The SQLite file opened for reading alone; `immutable`: on a medium where SQLite cannot make its lock files."""
    path = Path(url.database or "").resolve()
    query = {"mode": "ro", "uri": "true"} | ({"immutable": "1"} if immutable else {})
    return url.set(database=path.as_uri(), query=query)


def build_engine(
    url: sa.URL,
    *,
    error: type[RecsysFedError],
    connect: Mapping[str, Any] | None = None,
    pragmas: Sequence[str] = (),
    pooled: bool = True,
    compiled: dict[Any, Any] | None = None,
) -> sa.Engine:
    """An engine; on SQLite each transaction starts by BEGIN, or by BEGIN IMMEDIATE with the execution option `write`.

    With the isolation level AUTOCOMMIT no transaction is started: VACUUM takes none.

    Args:
        url: from `parse_address`.
        error: what is raised where there is no such database or driver.
        connect: arguments of the driver.
        pragmas: what SQLite is told at each connection, such as "synchronous = FULL".
        pooled: keep connections open; False opens one for each use.
        compiled: statements that several engines share.
    """
    sqlite = url.get_backend_name() == "sqlite"
    pool: dict[str, Any] = {"pool_pre_ping": not sqlite} if pooled else {"poolclass": sa.NullPool}
    options = {} if compiled is None else {"compiled_cache": compiled}
    try:
        engine = sa.create_engine(
            url, connect_args=dict(connect or {}), hide_parameters=True, execution_options=options, **pool
        )
    except (SQLAlchemyError, ImportError) as cause:
        raise error(f"Cannot use this database, SQLite and PostgreSQL are supported: {cause}. {_EXTRA}") from cause
    if sqlite:

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _: object) -> None:
            # The driver starts no transactions of its own; those of SQLAlchemy start below, with the lock needed.
            connection.isolation_level = None
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}").close()

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            options = connection.get_execution_options()
            if options.get("isolation_level") != "AUTOCOMMIT":
                connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("write") else "BEGIN")

    return engine
