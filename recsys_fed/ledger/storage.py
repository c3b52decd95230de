"""Where entries are kept: SQLite (a file a silo) or PostgreSQL (a URL), the same tables, through SQLAlchemy.

SQLite runs with a write-ahead log and synchronous = FULL: a committed entry survives a power failure. Every
transaction that writes first takes the one write lock (BEGIN IMMEDIATE; on PostgreSQL the lock on the row of
`ledger`), so what it has read stays true until it commits. Triggers refuse to change or delete entries.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from recsys_fed.database import build_engine, hide_password, parse_address, read_only
from recsys_fed.errors import DataNotFoundError, LedgerError

# 2 has the table of agreements; see `_migrations`.
_SCHEMA = 2
_LOCK_SECONDS = 120.0

_metadata = sa.MetaData()
ledger_table = sa.Table(
    "ledger",
    _metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
)
entries_table = sa.Table(
    "entries",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
    # Copies of what the content says, so that a question does not read every entry; `verify` compares them.
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("run", sa.Text, index=True),
    sa.Column("payload", sa.String(64), index=True),
    sa.Column("noise_multiplier", sa.Double),
    sa.Column("sampling_probability", sa.Double),
    sa.Column("steps", sa.BigInteger),
    sa.Column("slack_units", sa.BigInteger),
)
# What a history costs is asked before every release: this answers it without reading the entries themselves.
_columns = entries_table.c
sa.Index(
    "ix_entries_history",
    _columns.kind,
    _columns.noise_multiplier,
    _columns.sampling_probability,
    _columns.steps,
    _columns.slack_units,
)
# The newest payload of each run, so that a request that is repeated after a crash gets the same bytes; it is empty
# from the charge until it is computed. See `transactions`.
payloads_table = sa.Table(
    "payloads",
    _metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

# Digest of the one state of a masked round that the silo may use next, by run: so no state is used twice, whichever
# process holds a copy of it. The digest is of secrets of 256 bits, and says nothing of them.
states_table = sa.Table(
    "turns",
    _metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("state", sa.String(64), nullable=False),
)

# What the silo has agreed to since it joined: signed records, each with the digest of the one before.
agreements_table = sa.Table(
    "agreements",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
)

# The one on INSERT is for INSERT OR REPLACE, which deletes without telling a trigger.
_SQLITE_TRIGGERS = tuple(
    f"CREATE TRIGGER entries_no_{verb.split()[0].lower()} BEFORE {verb} "
    f"BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END"
    for verb in (
        "UPDATE ON entries",
        "DELETE ON entries",
        "INSERT ON entries WHEN NEW.number <> (SELECT COALESCE(MAX(number), -1) + 1 FROM entries)",
    )
)
_POSTGRESQL_TRIGGERS = (
    "CREATE OR REPLACE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'a ledger is append-only'; END $$",
    "CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()",
)
_POSTGRESQL_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)


# All ledgers of a process make the same few statements: what SQLAlchemy compiles for one serves the others.
_COMPILED: dict[Any, Any] = {}


class Storage:
    """An open database of one ledger. It knows tables and transactions, nothing of what entries mean."""

    def __init__(self, url: str, *, durable: bool = True) -> None:
        self.url = parse_address(url, error=LedgerError)
        self._engine = _engine(self.url, durable=durable)

    @property
    def place(self) -> str:
        """The ledger's address without a password, for messages."""
        return hide_password(self.url)

    def exists(self) -> bool:
        """Whether there is a ledger at this address."""
        with self._translate_errors("open"):
            if self._missing_file():
                return False
            with self._engine.connect() as connection:
                return sa.inspect(connection).has_table("ledger")

    @contextmanager
    def creating(self) -> Iterator[Connection]:
        """A transaction that makes the tables; what is written in it is there with them, or nothing is."""
        with self._translate_errors("open"), self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                # Kept in the file; must not be inside a transaction.
                connection.connection.driver_connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
        with self._transaction() as connection:
            _metadata.create_all(connection, checkfirst=False)
            triggers = _SQLITE_TRIGGERS if connection.dialect.name == "sqlite" else _POSTGRESQL_TRIGGERS
            for statement in triggers:
                connection.exec_driver_sql(statement)
            connection.execute(ledger_table.insert().values(id=1, schema_version=_SCHEMA))
            yield connection

    def check(self) -> None:
        """Refuse an address without a ledger, and a ledger of a newer version.

        Raises:
            DataNotFoundError: there is no ledger.
            LedgerError: it cannot be read, or is of a newer version; nothing was changed.
        """
        if not self.exists():
            raise DataNotFoundError(f"There is no ledger at {self.place}. Create it first.")
        with self.reading() as connection:
            found = _schema_of(connection)
        if not 1 <= found <= _SCHEMA:
            raise LedgerError(
                f"Ledger {self.place} has schema {found}, this version reads schemas 1 to {_SCHEMA}. "
                "Install the version that wrote it."
            )

    def upgrade(self) -> None:
        """Bring a ledger of an earlier version to this one's schema, all or nothing; its entries stay as they are.

        Raises:
            LedgerError: it cannot be written; it is as it was.
        """
        with self.reading() as connection:
            if _schema_of(connection) == _SCHEMA:
                return
        from recsys_fed.ledger._migrations import upgrade  # noqa: PLC0415  (Alembic takes longer than most commands)

        with self.writing() as connection:
            # Another process may have been first.
            found = _schema_of(connection)
            if found < _SCHEMA:
                upgrade(connection, schema=found)
                connection.execute(ledger_table.update().values(schema_version=_SCHEMA))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads one state of the ledger."""
        with self._translate_errors("open"), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start and is durable when the block ends."""
        with self._transaction() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(sa.select(ledger_table.c.id).with_for_update())
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._translate_errors("write to"), self._engine.connect() as connection:
            connection.execution_options(write=True)
            if connection.dialect.name != "sqlite":
                # Whatever the server's defaults are: after the lock, see what others have committed, and wait for
                # the disk.
                connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                if connection.dialect.name != "sqlite":
                    connection.exec_driver_sql(_POSTGRESQL_DURABLE)
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _missing_file(self) -> bool:
        name = self.url.database
        return self.url.get_backend_name() == "sqlite" and not (name and Path(name).is_file())

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            raise LedgerError(
                f"Cannot {action} ledger {self.place}: {reason}. Nothing was released; "
                "what the ledger held is still there."
            ) from error


def _schema_of(connection: Connection) -> int:
    return int(connection.execute(sa.select(ledger_table.c.schema_version)).scalar_one())


def _engine(url: sa.URL, *, durable: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        return build_engine(url, error=LedgerError, compiled=_COMPILED)
    return build_engine(
        _readable(url),
        error=LedgerError,
        connect={"timeout": _LOCK_SECONDS},
        pragmas=(f"synchronous = {'FULL' if durable else 'OFF'}",),
        pooled=False,
        compiled=_COMPILED,
    )


def _readable(url: sa.URL) -> sa.URL:
    """On a read-only medium SQLite cannot make its lock files; a ledger without an open log is read without them."""
    path = Path(url.database or "")
    log = path.with_name(path.name + "-wal")
    try:
        if not path.is_file() or os.access(path, os.W_OK) or (log.is_file() and log.stat().st_size):
            return url
    except OSError:  # not to be looked at: whoever opens it gets the reason
        return url
    return read_only(url, immutable=True)
