"""The silo's log of events: durable before it is acknowledged, read by user, forgotten on request.

`writer` is the one thread that writes to it.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import OperationalError, SQLAlchemyError, TimeoutError

from recsys_fed.errors import DataError, StoreBusyError
from recsys_fed.serving._erasure import Eraser
from recsys_fed.serving._tables import (
    RATING_MINIMUM,
    TRAINING_VIEW,
    create_tables,
    events,
    exposures,
    forgotten,
    note_shares,
    open_engine,
    settings,
)
from recsys_fed.serving.history import EARLIEST, IMPORTED, Event, event_time
from recsys_fed.serving.paths import ServicePaths
from recsys_fed.user_digests import LeftOut, Stamp, append_digests, digest_of, read_digests, stamp_of

_PAGE = 20_000
# What makes an event one.
_IDENTITY = (events.c.user, events.c.event_key, events.c.source)
# Plain text: the columns have the types of `Event` as they come, and a history is hundreds of rows.
_OF_USER = sa.text(
    'SELECT "user", item, kind, time, value, event_key, request, number, accepted, '
    "CASE WHEN received > 0 THEN received ELSE :opened END AS received, source "
    'FROM events WHERE "user" = :name ORDER BY number'
)
_OF_NO_SOURCE = sa.text("SELECT 1 FROM events WHERE \"user\" = :user AND event_key = :key AND source = ''")
_LOCK_SECONDS = 30.0
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


class Forgotten(NamedTuple):
    """What is kept of a user who was forgotten, under a keyed digest of the id.

    Attributes:
        time: when. receipt: by which its state is asked for. erased: when the last copy was gone, None before.
        readmitted: since when the user is taken in again, None: not.
    """

    time: float
    receipt: str
    erased: float | None = None
    readmitted: float | None = None


# Instead of the number of an event: its user was forgotten, and it was not taken in.
OF_FORGOTTEN = 0


def open_store(place: ServicePaths, *, lock_seconds: float = _LOCK_SECONDS) -> "FeedbackStore":
    """The store of a service's folder."""
    return FeedbackStore(place.address, key=place.key(), noted=place.forgotten, lock_seconds=lock_seconds)


class FeedbackStore:
    """An open database. Reading is safe from any thread; writing is the business of one `FeedbackWriter`.

    Guarantees: no event, no exposure and no import of a user who was forgotten is taken in, unless the user was
    readmitted and it happened since. That holds for a database that was put back from an older copy, too: digests of
    all who were forgotten are also in a file beside it, and whoever is in that file is forgotten when it is opened.
    """

    def __init__(
        self, address: str, *, key: bytes, noted: Path | None = None, lock_seconds: float = _LOCK_SECONDS
    ) -> None:
        """Open, and create what is missing.

        Args:
            address: a path of SQLite or a PostgreSQL URL.
            key: of the digests of forgotten users.
            noted: the file of those digests; without it, `forgotten.txt` beside an SQLite file.
            lock_seconds: how long a statement waits for a lock.

        Raises:
            StoreBusyError: the database is locked or cannot be reached.
        """
        self._key = key
        self._engine = open_engine(address, lock_seconds=lock_seconds)
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._noted = noted or (Path(address).with_name("forgotten.txt") if "://" not in address else None)
        # Made once: composing a statement costs more than executing it.
        added = _insert(self._sqlite)(events).on_conflict_do_nothing()
        self._append = added.returning(events.c.number)
        self._append_many = added.returning(*_IDENTITY, events.c.number)
        self._eraser = Eraser(self._engine, tables=("events", "exposures"), lock_seconds=lock_seconds)
        with self._translate_errors():
            self._opened = create_tables(self._engine)
        with self.reading() as connection:
            of_no_source = sa.exists().where(events.c.event_key.is_not(None) & (events.c.source == ""))
            self._has_keys_of_no_source = bool(connection.execute(sa.select(of_no_source)).scalar())
        self._forgotten: dict[str, Forgotten] = {}
        self._seen: Stamp = None
        self._read_forgotten()
        self.take_noted()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is durable when the block ends."""
        with self._translate_errors(), self._engine.execution_options(write=True).begin() as connection:
            if not self._sqlite:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads one state."""
        with self._translate_errors(), self._engine.connect() as connection:
            yield connection

    def append(self, connection: sa.Connection, event: Event) -> int | None:
        """Add an event in a transaction.

        Returns:
            Its number; None if the user's event of this key and source is there already; OF_FORGOTTEN if it was not
            taken in because its user was forgotten.
        """
        if self._is_refused(event.user, event_time(event)):
            return OF_FORGOTTEN
        if self._has_keys_of_no_source and event.source and event.key is not None:
            same = {"user": event.user, "key": event.key}
            if connection.execute(_OF_NO_SOURCE, same).scalar() is not None:
                return None
        return connection.execute(self._append, _row(event)).scalar()

    def append_all(self, connection: sa.Connection, batch: Sequence[Event]) -> list[int | None]:
        """Add events in their order, in one statement: what `append` returns for each."""
        single = self._has_keys_of_no_source or any(event.key is None for event in batch)
        if single or len(batch) < 2:
            return [self.append(connection, event) for event in batch]
        firsts: dict[tuple[str, str | None, str], Event] = {}
        refused = [self._is_refused(event.user, event_time(event)) for event in batch]
        for event, is_refused in zip(batch, refused, strict=True):
            if not is_refused:
                firsts.setdefault((event.user, event.key, event.source), event)
        numbers: dict[tuple[Any, ...], int] = {}
        if firsts:
            added = connection.execute(self._append_many, list(map(_row, firsts.values())))
            numbers = {tuple(row[:-1]): row[-1] for row in added}
        # The first of several has the number; the others repeat it.
        return [
            OF_FORGOTTEN if is_refused else numbers.pop((event.user, event.key, event.source), None)
            for event, is_refused in zip(batch, refused, strict=True)
        ]

    def log_exposures(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add what was shown, in a transaction; nothing of users who were forgotten."""
        kept = [row for row in rows if not self._is_refused(row["user"], row["time"])]
        if kept:
            connection.execute(exposures.insert(), kept)

    def of_user(self, user: str) -> list[Event]:
        """All events of one user, in the order of the log."""
        with self.reading() as connection:
            found = connection.execute(_OF_USER, {"name": user, "opened": self._opened})
            return list(map(Event._make, found.all()))

    def user_record(self, user: str) -> dict[str, Any]:
        """All that is kept of a user, as JSON values: rows of each table, and when the user was forgotten."""
        note = self._forgotten.get(self.digest(user))
        rows: dict[str, Any] = {}
        with self.reading() as connection:
            for table in (events, exposures):
                mine = connection.execute(sa.select(table).where(table.c.user == user).order_by(table.c.number))
                rows[table.name] = [dict(row) for row in mine.mappings()]
        return {**rows, "forgotten": None if note is None else note.time}

    def first_variant(self, user: str, experiment: str) -> str | None:
        """The variant of the user's first list in an experiment; None before."""
        shown = exposures.c
        query = sa.select(shown.variant).where((shown.user == user) & (shown.experiment == experiment))
        with self.reading() as connection:
            return connection.execute(query.order_by(shown.number).limit(1)).scalar()

    def put_aside(self, connection: sa.Connection, user: str, *, since: float) -> int:
        """Mark a user's feedback received from `since` on as a robot's; returns how many events."""
        mine = (
            (events.c.user == user) & (events.c.kind != IMPORTED) & (events.c.received >= since) & events.c.accepted
        )
        return connection.execute(events.update().where(mine).values(accepted=False, aside=time.time())).rowcount

    def forget(self, connection: sa.Connection, user: str, *, time: float) -> tuple[dict[str, int], str]:
        """Remove all that is kept of a user, in a transaction, and note (as a keyed digest) to take in no more.

        Returns:
            Rows removed by table, and a receipt. The last copies are gone when `erase_forgotten` has said so.
        """
        removed = {
            table.name: connection.execute(table.delete().where(table.c.user == user)).rowcount
            for table in (events, exposures)
        }
        note = Forgotten(time, secrets.token_hex(12))
        self._note(connection, {self.digest(user): note})
        return removed, note.receipt

    def readmit(self, connection: sa.Connection, user: str, *, time: float) -> bool:
        """Take in what a forgotten user does from `time` on; False if the user was not forgotten."""
        digest = self.digest(user)
        note = self._forgotten.get(digest)
        if note is None:
            return False
        mine = forgotten.c.digest == digest
        if self._noted is not None:
            append_digests(self._noted, {digest: LeftOut(note.time, time)})
        connection.execute(forgotten.update().where(mine).values(readmitted=time))
        self._forgotten[digest] = note._replace(readmitted=time)
        return True

    def take_noted(self) -> frozenset[str]:
        """Forget, or readmit, whoever the file says so of and the database does not yet, if the file has changed.

        That is an older copy of the database, or a silo that has noted its opt-outs there. The file, in turn, gets
        whom it lacks. Returns the digests of those who were forgotten.
        """
        if self._noted is None or (self._seen is not None and stamp_of(self._noted) == self._seen):
            return frozenset()
        before = dict(self._forgotten)
        # Another process that opened the database may have done it already.
        self._read_forgotten()
        noted = read_digests(self._noted)
        newer = {digest: note for digest, note in noted.items() if self._is_news(digest, note)}
        if newer:
            self._take_in(newer)
        lacking = {
            digest: LeftOut(note.time, note.readmitted)
            for digest, note in self._forgotten.items()
            if (last := noted.get(digest)) is None
            or last.since < note.time
            or (note.readmitted is not None and last.readmitted is None)
        }
        if lacking:
            append_digests(self._noted, lacking)
        self._seen = stamp_of(self._noted)
        return frozenset(
            digest
            for digest, note in self._forgotten.items()
            if digest not in before or before[digest].time < note.time
        )

    def _is_news(self, digest: str, note: LeftOut) -> bool:
        known = self._forgotten.get(digest)
        if known is None or known.time < note.since:
            return True
        return known.time == note.since and known.readmitted is None and note.readmitted is not None

    def _take_in(self, newer: Mapping[str, LeftOut]) -> None:
        """Write what the file alone knew; rows of those who are forgotten by it go in the same transaction."""
        lost = {digest for digest, note in newer.items() if not self._knows(digest, note.since)}
        names = sa.union(sa.select(events.c.user), sa.select(exposures.c.user))
        notes = {
            digest: self._forgotten[digest]._replace(readmitted=note.readmitted)
            if digest not in lost
            else Forgotten(note.since, secrets.token_hex(12), None, note.readmitted)
            for digest, note in newer.items()
        }
        with self.writing() as connection:
            for user in connection.execute(names).scalars().all() if lost else ():
                if self.digest(user) in lost:
                    for table in (events, exposures):
                        connection.execute(table.delete().where(table.c.user == user))
            self._write_notes(connection, notes)

    def _knows(self, digest: str, since: float) -> bool:
        known = self._forgotten.get(digest)
        return known is not None and known.time == since

    def erase_forgotten(self) -> bool:
        """Remove the last copies of all that was forgotten; False while somebody reads an older state.

        Raises:
            StoreBusyError: the database is locked or cannot be reached.
        """
        waiting = self.waiting_receipts()
        if not waiting:
            return True
        with self._translate_errors():
            if not self._eraser.erase(waiting):
                return False
        now = time.time()
        with self.writing() as connection:
            connection.execute(forgotten.update().where(forgotten.c.receipt.in_(waiting)).values(erased=now))
        for digest, note in self._forgotten.items():
            if note.receipt in waiting:
                self._forgotten[digest] = note._replace(erased=now)
        return True

    def waiting_receipts(self) -> frozenset[str]:
        """Receipts of users of whom there may still be copies."""
        return frozenset(note.receipt for note in self._forgotten.values() if note.erased is None)

    def receipt(self, receipt: str) -> Forgotten | None:
        """What a receipt stands for; None if there is none of this name."""
        return next((note for note in self._forgotten.values() if note.receipt == receipt), None)

    def remains(self) -> list[str]:
        """What erasure cannot reach, in words; empty where it reaches everything."""
        with self._translate_errors():
            return self._eraser.remains()

    def note_settings(self, *, rating_minimum: float, experiment: str, shares: dict[str, float]) -> None:
        """Note what the training view and reports need to know of the service's settings."""
        with self.reading() as connection:
            known = connection.execute(sa.select(settings.c.value).where(settings.c.name == RATING_MINIMUM)).scalar()
        if known == repr(rating_minimum) and not experiment:
            return
        with self.writing() as connection:
            self._set(connection, RATING_MINIMUM, repr(rating_minimum))
            if experiment:
                note_shares(connection, experiment, shares, now=time.time())

    def replace_imported(self, imported: Iterable[Event], *, source: str) -> int:
        """Replace all imported interactions by new ones in one transaction; forgotten users are left out.

        They are received now; those without a time that were imported before were received when they first were.

        Args:
            imported: of kind "imported", one for each user and item.
            source: what they came from; `imported_from` returns it.
        """
        count, now = 0, time.time()
        with self.writing() as connection:
            gone = set(connection.execute(sa.select(forgotten.c.digest)).scalars()) | set(self._forgotten)
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
        return digest_of(user, key=self._key)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _is_refused(self, user: str, happened: float) -> bool:
        """Whether the user was forgotten, and not readmitted before this happened."""
        if not self._forgotten:
            return False
        note = self._forgotten.get(self.digest(user))
        return note is not None and (note.readmitted is None or happened < note.readmitted)

    def _note(self, connection: sa.Connection, notes: Mapping[str, Forgotten]) -> None:
        """Note digests, in the file first: what is only there is forgotten when the store is opened again."""
        if self._noted is not None:
            append_digests(
                self._noted, {digest: LeftOut(note.time, note.readmitted) for digest, note in notes.items()}
            )
        self._write_notes(connection, notes)

    def _write_notes(self, connection: sa.Connection, notes: Mapping[str, Forgotten]) -> None:
        table = _insert(self._sqlite)(forgotten)
        fresh = table.on_conflict_do_update(
            index_elements=[forgotten.c.digest],
            set_={name: table.excluded[name] for name in ("time", "receipt", "erased", "readmitted")},
        )
        connection.execute(fresh, [{"digest": digest, **note._asdict()} for digest, note in notes.items()])
        self._forgotten.update(notes)

    def _read_forgotten(self) -> None:
        with self.reading() as connection:
            self._forgotten |= {
                row.digest: Forgotten(row.time, row.receipt, row.erased, row.readmitted)
                for row in connection.execute(sa.select(forgotten))
            }

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
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = type(getattr(error, "orig", None) or error).__name__
            busy = isinstance(error, OperationalError | TimeoutError)
            raise (StoreBusyError if busy else DataError)(
                f"Cannot read or write {self._engine.url.render_as_string(hide_password=True)}: {reason}. "
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
        "source": event.source,
        "user": event.user,
        "item": event.item,
        "kind": event.kind,
        "value": event.value,
        "time": event.time,
        "received": event.received,
        "request": event.request,
        "accepted": event.accepted,
    }
