"""Leave no copy of what was deleted: not in the pages of the database, not in its write-ahead log.

A deleted row is gone for every query, but its bytes are not: SQLite keeps copies of index entries in pages that it
rearranged, PostgreSQL keeps dead rows, and both have the row in their write-ahead logs. So after deletions the
tables are written anew, from the rows that are there, and the log is cut. Neither can be done while somebody still
reads an older state; then it is not done yet, and is tried again.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

_PATIENCE_MILLISECONDS = 100
SERVER_LOG = (
    "The write-ahead log of the PostgreSQL server, its archive and replicas have deleted rows until the server "
    "overwrites them: this account may not cut the log, or the server recycles or archives it."
)


class Eraser:
    """Of one database. Used by one thread at a time; every method may raise SQLAlchemyError."""

    def __init__(self, engine: sa.Engine, *, tables: Sequence[str], lock_seconds: float) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._tables, self._lock_milliseconds = tables, round(1e3 * lock_seconds)
        self._sqlite = engine.dialect.name == "sqlite"
        self._rebuilt: frozenset[str] = frozenset()
        self._cuts_log = True

    def erase(self, receipts: frozenset[str]) -> bool:
        """Remove the copies of what was deleted under these receipts; False while somebody reads an older state.

        Tables that were written anew for some receipts are not written again for these: only the log is left to cut.
        """
        with self._engine.connect() as connection, self._impatient(connection):
            if not receipts <= self._rebuilt:
                if not (self._vacuum(connection) if self._sqlite else self._vacuum_full(connection)):
                    return False
                self._rebuilt = receipts
            if self._sqlite:
                blocked = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
                return not blocked
            self._cut_server_log(connection)
        return True

    def remains(self) -> list[str]:
        """What this account cannot erase, in words, as of the last time; empty where everything is gone."""
        if self._sqlite:
            return []
        asked = "SELECT current_setting('wal_recycle') = 'off' AND current_setting('archive_mode') = 'off'"
        with self._engine.connect() as connection:
            removes = connection.exec_driver_sql(asked).scalar()
        return [] if removes and self._cuts_log else [SERVER_LOG]

    @contextmanager
    def _impatient(self, connection: sa.Connection) -> Iterator[None]:
        """Whoever waits for a lock keeps others waiting behind: rather come again."""
        how = "PRAGMA busy_timeout = {0}" if self._sqlite else "SET lock_timeout = {0}"
        connection.exec_driver_sql(how.format(_PATIENCE_MILLISECONDS))
        try:
            yield
        finally:
            connection.exec_driver_sql(how.format(self._lock_milliseconds))

    def _vacuum(self, connection: sa.Connection) -> bool:
        connection.exec_driver_sql("VACUUM")
        return True

    def _vacuum_full(self, connection: sa.Connection) -> bool:
        """Whether no reader made it copy dead rows: how many, each table's notice says first in its detail."""
        driver: Any = connection.connection.driver_connection
        dead: list[int] = []

        def noticed(notice: Any) -> None:
            number = re.search(r"\d+", notice.message_detail or "")
            dead.append(int(number[0]) if number else 0)

        driver.add_notice_handler(noticed)
        try:
            for table in self._tables:
                connection.exec_driver_sql(f"VACUUM (FULL, VERBOSE) {table}")
        finally:
            driver.remove_notice_handler(noticed)
        return len(dead) >= len(self._tables) and not any(dead)

    def _cut_server_log(self, connection: sa.Connection) -> None:
        """Begin a new segment, and let the server drop the old ones; what an account may not do, `remains` says."""
        try:
            connection.exec_driver_sql("SELECT pg_switch_wal()")
            connection.exec_driver_sql("CHECKPOINT")
        except ProgrammingError:
            self._cuts_log = False
        else:
            self._cuts_log = True
