"""The silo's log of events: durable before it is acknowledged, read by user, forgotten on request.

One thread that writes: whatever waits is committed together, and each caller hears of it after the commit.
"""

import hashlib
import hmac
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import SQLAlchemyError

from recsys_fed.errors import DataError, RecsysFedError
from recsys_fed.serving.history import EARLIEST, IMPORTED, Event
from recsys_fed.serving.tables import (
    TRAINING_VIEW,
    create_tables,
    events,
    exposures,
    forgotten,
    open_engine,
    settings,
)

_PAGE = 20_000
# Plain text: the columns have the types of `Event` as they come, and a history is hundreds of rows.
_OF_USER = sa.text(
    'SELECT "user", item, kind, time, value, event_key, request, number, accepted, '
    "CASE WHEN received > 0 THEN received ELSE :opened END AS received "
    'FROM events WHERE "user" = :name ORDER BY number'
)
# An interaction without a time that was imported before keeps the time at which it first came in.
_BEFORE = (
    'CREATE TABLE imported_before AS SELECT "user", item, MIN(CASE WHEN received > 0 THEN received ELSE {opened!r} '
    "END) AS received FROM events WHERE kind = 'imported' AND time < {earliest!r} GROUP BY \"user\", item",
    'CREATE UNIQUE INDEX ix_imported_before ON imported_before ("user", item)',
)
_SAME = 'FROM imported_before b WHERE b."user" = events."user" AND b.item = events.item'
_AS_BEFORE = (
    f"UPDATE events SET received = (SELECT b.received {_SAME}) "  # noqa: S608  (constants)
    "WHERE kind = 'imported' AND time < {earliest!r} AND EXISTS (SELECT 1 " + _SAME + ")",
    "DROP TABLE imported_before",
)


class FeedbackStore:
    """An open database. Reading is safe from any thread; writing is the business of one `FeedbackWriter`."""

    def __init__(self, address: str, *, key: bytes) -> None:
        """Open, and create what is missing; `key` keys the digests of forgotten users."""
        self._key = key
        self._engine = open_engine(address)
        self._sqlite = self._engine.dialect.name == "sqlite"
        # Made once: composing a statement costs more than executing it.
        added = _insert(self._sqlite)(events).on_conflict_do_nothing(index_elements=[events.c.event_key])
        self._append = added.returning(events.c.number)
        with self._translated():
            self._opened = create_tables(self._engine)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is durable when the block ends."""
        with self._translated(), self._engine.execution_options(write=True).begin() as connection:
            if not self._sqlite:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads one state."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    def append(self, connection: sa.Connection, event: Event) -> int | None:
        """Add an event in a transaction; its number, or None if its key is there already."""
        return connection.execute(self._append, _row(event)).scalar()

    def log_exposures(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add what was shown, in a transaction."""
        connection.execute(exposures.insert(), list(rows))

    def of_user(self, user: str) -> list[Event]:
        """All events of one user, in the order of the log."""
        with self.reading() as connection:
            found = connection.execute(_OF_USER, {"name": user, "opened": self._opened})
            return list(map(Event._make, found.all()))

    def put_aside(self, connection: sa.Connection, user: str, *, since: float) -> int:
        """Mark a user's feedback received from `since` on as a robot's; returns how many events."""
        mine = (
            (events.c.user == user) & (events.c.kind != IMPORTED) & (events.c.received >= since) & events.c.accepted
        )
        return connection.execute(events.update().where(mine).values(accepted=False)).rowcount

    def forget(self, connection: sa.Connection, user: str, *, time: float) -> dict[str, int]:
        """Remove all that is kept of a user, and note (as a keyed digest) that imports must leave the user out."""
        removed = {
            table.name: connection.execute(table.delete().where(table.c.user == user)).rowcount
            for table in (events, exposures)
        }
        note = _insert(self._sqlite)(forgotten).values(digest=self.digest(user), time=time)
        connection.execute(note.on_conflict_do_nothing(index_elements=[forgotten.c.digest]))
        return removed

    def checkpoint(self) -> None:
        """Empty SQLite's write-ahead log, which otherwise holds copies of removed rows for a while."""
        if self._sqlite:
            with self._translated(), self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def replace_imported(self, imported: Iterable[Event], *, source: str) -> int:
        """Replace all imported interactions by new ones in one transaction; forgotten users are left out.

        They are received now; those without a time that were imported before were received when they first were.

        Args:
            imported: of kind "imported", one for each user and item.
            source: what they came from; `imported_from` returns it.
        """
        count, now = 0, time.time()
        with self.writing() as connection:
            gone = set(connection.execute(sa.select(forgotten.c.digest)).scalars())
            self._run(connection, _BEFORE)
            connection.execute(events.delete().where(events.c.kind == IMPORTED))
            page: list[tuple[Any, ...]] = []
            skipped: dict[str, bool] = {}
            for event in imported:
                if gone and skipped.setdefault(event.user, self.digest(event.user) in gone):
                    continue
                page.append((event.user, event.item, event.kind, event.value, event.time, now, True))
                if len(page) == _PAGE:
                    count += self._add_page(connection, page)
                    page = []
            count += self._add_page(connection, page)
            self._run(connection, _AS_BEFORE)
            self._set(connection, "imported", source)
        return count

    def imported_from(self) -> str | None:
        """What the imported interactions came from, or None."""
        with self.reading() as connection:
            return connection.execute(sa.select(settings.c.value).where(settings.c.name == "imported")).scalar()

    def training(self) -> Iterator[tuple[str, str, float, float | None]]:
        """User, item, value and time (as `Event` has it, None without one) of what the next training reads.

        In the order of the log.
        """
        columns = '"user", item, value, time'
        view = sa.text(f"SELECT {columns} FROM {TRAINING_VIEW} ORDER BY number")  # noqa: S608  (constants)
        with self.reading() as connection:
            for row in connection.execution_options(yield_per=_PAGE).execute(view):
                yield str(row[0]), str(row[1]), float(row[2]), None if row[3] is None else float(row[3])

    def quarantined(self) -> list[tuple[str, int]]:
        """Users with events that were put aside, and how many, most first."""
        count = sa.func.count()
        query = (
            sa.select(events.c.user, count).where(~events.c.accepted).group_by(events.c.user).order_by(count.desc())
        )
        with self.reading() as connection:
            return [(str(user), int(number)) for user, number in connection.execute(query)]

    def digest(self, user: str) -> str:
        """Keyed digest of a user's id (HMAC-SHA256, hex)."""
        return hmac.new(self._key, b"forgotten\0" + user.encode(), hashlib.sha256).hexdigest()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _add_page(self, connection: sa.Connection, page: list[tuple[Any, ...]]) -> int:
        """Many rows without the cost of a statement for each; returns how many."""
        if page:
            mark = "?" if self._sqlite else "%s"
            columns = '"user", item, kind, value, time, received, accepted'
            marks = ", ".join([mark] * 7)
            connection.exec_driver_sql(f"INSERT INTO events ({columns}) VALUES ({marks})", page)  # noqa: S608
        return len(page)

    def _run(self, connection: sa.Connection, statements: Sequence[str]) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement.format(opened=self._opened, earliest=EARLIEST))

    def _set(self, connection: sa.Connection, name: str, value: str) -> None:
        insert = _insert(self._sqlite)(settings).values(name=name, value=value)
        connection.execute(insert.on_conflict_do_update(index_elements=[settings.c.name], set_={"value": value}))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = type(getattr(error, "orig", None) or error).__name__
            raise DataError(
                f"Expected to read and write {self._engine.url.render_as_string(hide_password=True)}: {reason}. "
                "What was acknowledged is still there."
            ) from error


def _insert(sqlite: bool) -> Any:
    """Insert with ON CONFLICT, which both databases spell alike but SQLAlchemy has in each dialect."""
    if sqlite:
        return sqlite_insert
    # A third of a second that only a service on PostgreSQL needs.
    from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415

    return insert


def _row(event: Event) -> dict[str, Any]:
    return {
        "event_key": event.key,
        "user": event.user,
        "item": event.item,
        "kind": event.kind,
        "value": event.value,
        "time": event.time,
        "received": event.received,
        "request": event.request,
        "accepted": event.accepted,
    }


_TOGETHER = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """Something to do in a transaction, and who waits for its result."""

    do: Callable[[sa.Connection], Any]
    done: "Future[Any]"


class FeedbackWriter:
    """Writes to a store in the order in which it is asked.

    Guarantees: a future is resolved after its transaction is durable, never before; tasks are done in the order of
    the calls, so whoever forgets a user after handing in events removes those events too.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="feedback-writer", daemon=True)
        self._thread.start()

    def append(self, event: Event) -> "Future[int | None]":
        """Add an event; the result is its number, or None if its key is there already."""
        return self._submit(lambda connection: self._store.append(connection, event))

    def expose(self, row: Mapping[str, Any]) -> "Future[None]":
        """Log what was shown; nobody needs to wait for it."""
        return self._submit(lambda connection: self._store.log_exposures(connection, [row]))

    def put_aside(self, user: str, *, since: float) -> "Future[int]":
        """Mark a user's events as a robot's."""
        return self._submit(lambda connection: self._store.put_aside(connection, user, since=since))

    def forget(self, user: str) -> "Future[dict[str, int]]":
        """Remove a user."""
        return self._submit(lambda connection: self._store.forget(connection, user, time=time.time()))

    def close(self) -> None:
        """Write what waits, and stop."""
        self._tasks.put(None)
        self._thread.join()

    def _submit(self, do: Callable[[sa.Connection], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        self._tasks.put(_Task(do=do, done=done))
        return done

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._waiting()
            if batch:
                self._commit(batch)

    def _waiting(self) -> tuple[list[_Task], bool]:
        """Wait for a task, and take along what else is there; False where the writer is closed."""
        batch: list[_Task] = []
        task = self._tasks.get()
        while task is not None:
            batch.append(task)
            if len(batch) == _TOGETHER:
                return batch, True
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: list[_Task]) -> None:
        results: list[Any] = []
        try:
            with self._store.writing() as connection:
                results = [task.do(connection) for task in batch]
        except RecsysFedError as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001  (whatever it was, the callers must hear of it)
            self._fail(batch, DataError(f"Expected to write to the store, got {type(error).__name__}."))
        else:
            for task, result in zip(batch, results, strict=True):
                task.done.set_result(result)

    def _fail(self, batch: list[_Task], error: RecsysFedError) -> None:
        """Nothing of the batch was written. One bad task must not fail the others: they are tried by themselves."""
        if len(batch) == 1:
            batch[0].done.set_exception(error)
            return
        for task in batch:
            self._commit([task])
