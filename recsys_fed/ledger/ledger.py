"""The ledger of one silo: it is asked before a release, and holds the event before the bytes leave.

    with the write lock:  witness -> order -> limit -> allowance -> next entry, signed -> commit (durable)
    then, without it:     the release is computed
    with the write lock:  the payload is kept -> commit (durable) -> it may leave

A crash before the first commit has charged nothing and looked at nothing. After it the release is charged, whatever
comes: if nothing was kept, nothing has left, and the same request is computed anew under the same charge; what was
kept leaves again as it is.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.certificates.certificate import Head
from recsys_fed.certificates.terms import Terms
from recsys_fed.errors import ClockError, ConfigurationError, KeyFileError, LedgerIntegrityError, PrivacyError
from recsys_fed.ledger import turns
from recsys_fed.ledger.budget import ROUNDING, Allowance, Spending, check_budget, spending, would_spend
from recsys_fed.ledger.entries import (
    NOTHING_BEFORE,
    Body,
    Entry,
    Limit,
    Release,
    entry_of,
    moment_of,
    utc_text,
)
from recsys_fed.ledger.payloads import begin_payload, payload_of_request, pending, settle_payload
from recsys_fed.ledger.queries import (
    entry_at,
    kinds_charged,
    last_entry,
    newest_entries,
    row_of,
    runs_charged,
    terms_now,
)
from recsys_fed.ledger.storage import Storage, entries_table
from recsys_fed.ledger.trainings import check_allowance, check_order
from recsys_fed.ledger.witness import Witness
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent
from recsys_fed.signing.canonical import canonical, sha256
from recsys_fed.signing.keys import SigningKey

Clock = Callable[[], datetime]
# A clock may be set back by so much without a person looking at it; entries then keep the last time.
CLOCK_TOLERANCE = timedelta(seconds=2)
_PAGE = 1_000
_columns = entries_table.c
_UNLIMITED = Allowance()


def now() -> datetime:
    """The system's time."""
    return datetime.now(UTC)


def _check_noise_source(event: ReleaseEvent, terms: Terms) -> None:
    if not terms.simulated and event.noise_source != "operating-system":
        raise PrivacyError(
            "Expected noise from the operating system's generator, got noise that a seed repeats: it protects nobody "
            "from whoever knows the seed. Only a simulation's ledger takes it."
        )


class Ledger:
    """An open ledger. Several processes may use the same one at the same time.

    Guarantees:
        - An entry that `charge` has returned is on the disk (SQLite: synchronous = FULL).
        - The entries in the ledger never exceed its limit, whoever else writes at the same time.
        - What was written is never changed; a failure leaves the ledger as it was.
    """

    def __init__(
        self, storage: Storage, *, key: SigningKey | None = None, clock: Clock = now, witness: Path | None = None
    ) -> None:
        self._storage, self._key, self._clock = storage, key, clock
        self._witness = Witness(witness) if witness else None

    @classmethod
    def create(
        cls,
        url: str,
        *,
        key: SigningKey,
        terms: Terms,
        clock: Clock = now,
        witness: Path | None = None,
        durable: bool = True,
    ) -> Self:
        """Start a ledger with its terms.

        Args:
            url: path of an SQLite file, or a URL of SQLite or PostgreSQL.
            key: signs every entry; its public half is in the terms.
            terms: the genesis entry.
            clock: gives the time of entries.
            witness: file in which the head is noted, best on another medium; see `witness`.
            durable: False gives up the wait for the disk: for simulations only.

        Raises:
            ConfigurationError: there is a ledger already, or the key is not that of the terms.
            LedgerError: it cannot be written.
        """
        if key.public_key != terms.public_key:
            raise ConfigurationError("Expected the terms to name the public half of the key that signs.")
        storage = Storage(url, durable=durable)
        if storage.exists():
            raise ConfigurationError(f"Expected no ledger at {storage.place} yet, there is one. Open it.")
        ledger = cls(storage, key=key, clock=clock, witness=witness)
        with storage.creating() as connection:
            entry = ledger._append(connection, "genesis", terms)
        ledger._note(entry)
        return ledger

    @classmethod
    def open(
        cls,
        url: str,
        *,
        key: SigningKey | None = None,
        clock: Clock = now,
        witness: Path | None = None,
        durable: bool = True,
    ) -> Self:
        """Open a ledger to read, or with its key to write.

        Raises:
            DataNotFoundError: there is none.
            LedgerError: it cannot be read, or a newer version wrote it.
            KeyFileError: the key is not the ledger's.
            LedgerIntegrityError: its last entry does not hold, or it is older than its witness.
        """
        storage = Storage(url, durable=durable)
        storage.check()
        ledger = cls(storage, key=key, clock=clock, witness=witness)
        with storage.reading() as connection:
            terms, last = terms_now(connection), last_entry(connection)
            if key is not None and key.public_key != terms.public_key:
                raise KeyFileError(
                    f"Expected the key {terms.public_key[:16]}... of the ledger {storage.place}, got "
                    f"{key.public_key[:16]}.... Use the silo's own key."
                )
            last.check_signature(terms.public_key)
            ledger._check_witness(connection)
        return ledger

    @property
    def place(self) -> str:
        """Its address, without a password."""
        return self._storage.place

    def terms(self, *, until: int | None = None) -> Terms:
        """Return the terms, with the limit that holds now, or held at entry `until`."""
        with self._storage.reading() as connection:
            return terms_now(connection, until=until)

    def head(self) -> Head:
        """Return number and hash of the last entry."""
        with self._storage.reading() as connection:
            last = last_entry(connection)
            return Head(number=last.number, hash=last.hash)

    def releases(self) -> int:
        """Return how many releases were ever charged."""
        with self._storage.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).where(_columns.kind == "release")).scalar_one()

    def spending(self, *, delta: float | None = None, run: str | None = None, until: int | None = None) -> Spending:
        """Return what was spent in all, by one run, or up to an entry, at the ledger's delta or another one."""
        with self._storage.reading() as connection:
            guarantee = terms_now(connection, until=until).guarantee
            return spending(kinds_charged(connection, run=run, until=until), guarantee, delta=delta)

    def runs(self, *, newest: int) -> list[tuple[str, int]]:
        """Return the runs that charged last, the newest first, and how many releases each has charged."""
        with self._storage.reading() as connection:
            return runs_charged(connection, newest=newest)

    def newest(self, count: int, *, run: str | None = None) -> list[Entry]:
        """Return the last `count` entries, or of one run, in order."""
        with self._storage.reading() as connection:
            return newest_entries(connection, newest=count, run=run)

    def would_spend(self, planned: tuple[PrivacyEvent, ...], *, run: str | None = None) -> float:
        """Return the epsilon after a plan, in all or of one run, without charging anything."""
        with self._storage.reading() as connection:
            return would_spend(kinds_charged(connection, run=run), planned, terms_now(connection).guarantee)

    def charge(
        self,
        event: ReleaseEvent,
        *,
        run: str,
        request: str,
        code_version: str,
        allowance: Allowance = _UNLIMITED,
        keep: bool = True,
    ) -> Entry:
        """Charge a release; when this returns, it may be computed, and never before.

        The entry's `payload` names the draw under which the release leaves. With `keep`, what is computed must be
        given to `settle`, and what that returns is what leaves. A charge whose answer was never settled, as the
        process died, is not charged again for the same request: nothing has left under it.

        Args:
            event: what the release costs.
            run: of the training.
            request: SHA-256 of the request that is answered.
            code_version: of this library.
            allowance: what the silo allows beside the ledger's limit.
            keep: False for what is never sent again, as in masked rounds.

        Guarantees, under the write lock: the ledger is the one whose head the witness has noted; its limit and the
        allowance hold with the entry; rounds of a run never go back; a round is answered once (with `keep`).

        Raises:
            BudgetExceededError: it would exceed the limit or the allowance; the ledger is unchanged.
            ProtocolError: the round is over for this silo; the ledger is unchanged.
            PrivacyError: noise from a seed, and the ledger is not a simulation's.
            LedgerIntegrityError: an older copy of the ledger was put in its place.
            LedgerError: it could not be written; the ledger is unchanged. If only the witness could not be, the
                release is charged, and the text says so.
            ClockError: the clock is behind the last entry.
        """
        with self._storage.writing() as connection:
            self._check_witness(connection)
            terms = terms_now(connection)
            _check_noise_source(event, terms)
            newest = newest_entries(connection, newest=1, run=run)
            if newest and keep and pending(connection, run=run, request=request):
                return newest[0]
            check_order(newest, event, keep=keep)
            check_budget(kinds_charged(connection), event, terms.guarantee)
            check_allowance(
                connection, event, run=run, allowance=allowance, guarantee=terms.guarantee, now=self._clock()
            )
            number = last_entry(connection).number + 1
            name = sha256(canonical({"silo": terms.silo, "number": number, "request": request}))
            release = Release(event=event, run=run, request=request, payload=name, code_version=code_version)
            entry = self._append(connection, "release", release)
            begin_payload(connection, run=run, request=request if keep else None)
        self._note(entry)
        return entry

    def settle(self, *, run: str, request: str, payload: bytes) -> bytes:
        """Keep what was computed for a charge, and return the bytes that may leave, durable when this returns.

        If another process has settled the same charge before, its bytes are returned and these are thrown away:
        under one charge one draw leaves.

        Raises:
            ProtocolError: there is no such charge.
        """
        with self._storage.writing() as connection:
            return settle_payload(connection, run=run, request=request, payload=payload)

    def kept_payload(self, *, run: str, request: str) -> bytes | None:
        """Return the run's newest payload if it answers this request: charged already, so it may leave again."""
        with self._storage.reading() as connection:
            return payload_of_request(connection, run=run, request=request) or None

    def begin_turns(self, *, run: str, state: str) -> None:
        """Note the first state of a masked round; see `turns`."""
        with self._storage.writing() as connection:
            turns.begin_turns(connection, run=run, state=state)

    def take_turn(self, *, run: str, used: str, after: str) -> None:
        """Exchange the state of a masked round, or end it with after = ""; raises ProtocolError if it was used."""
        with self._storage.writing() as connection:
            turns.take_turn(connection, run=run, used=used, after=after)

    def set_limit(self, epsilon: float, *, reason: str) -> Entry:
        """Replace the epsilon limit from now on; the entry is signed and keeps the reason.

        Raises:
            ConfigurationError: epsilon is not above 0, below what is spent already, or there is no reason.
        """
        limit = Limit(epsilon=epsilon, reason=reason)
        with self._storage.writing() as connection:
            spent = spending(kinds_charged(connection), terms_now(connection).guarantee).epsilon
            if spent > epsilon * (1 + ROUNDING):
                raise ConfigurationError(
                    f"Expected a limit of at least what is spent, epsilon {spent:.4f}, got {epsilon:g}: what was "
                    "released cannot be taken back."
                )
            entry = self._append(connection, "limit", limit)
        self._note(entry)
        return entry

    def entry(self, number: int) -> Entry:
        """Return one entry; raises LedgerIntegrityError if it is missing."""
        with self._storage.reading() as connection:
            return entry_at(connection, number)

    def rows(self) -> Iterator[sa.Row[tuple[object, ...]]]:
        """Yield all stored rows in order, a page at a time."""
        # The first page starts where the table does: no row hides by a number below 0.
        query = first = sa.select(entries_table).order_by(_columns.number).limit(_PAGE)
        while True:
            with self._storage.reading() as connection:
                page = connection.execute(query).all()
            if not page:
                return
            yield from page
            query = first.where(_columns.number > page[-1].number)

    def entries(self) -> Iterator[Entry]:
        """Yield all entries in order; nothing is verified."""
        return (entry_of(bytes(row.content), row.signature) for row in self.rows())

    def releases_of(self, run: str) -> list[Entry]:
        """Return the release entries of one run, in order."""
        query = sa.select(_columns.content, _columns.signature).where(_columns.run == run).order_by(_columns.number)
        with self._storage.reading() as connection:
            return [entry_of(bytes(content), signature) for content, signature in connection.execute(query)]

    def close(self) -> None:
        """Close the database."""
        self._storage.close()

    def _append(self, connection: Connection, kind: str, body: Body) -> Entry:
        if self._key is None:
            raise KeyFileError("Expected the ledger to be opened with its key in order to write.")
        last = None if kind == "genesis" else last_entry(connection)
        entry = Entry(
            number=last.number + 1 if last else 0,
            time=self._time(last),
            previous=last.hash if last else NOTHING_BEFORE,
            kind=kind,
            body=body,
        ).signed(self._key)
        connection.execute(entries_table.insert().values(**row_of(entry)))
        return entry

    def _time(self, last: Entry | None) -> str:
        time = self._clock()
        if last is None or time >= moment_of(last.time):
            return utc_text(time)
        if moment_of(last.time) - time <= CLOCK_TOLERANCE:
            return last.time
        raise ClockError(
            f"Expected a time after the last entry's {last.time}, the clock says {utc_text(time)}. "
            "Set the clock right; nothing was released and nothing was charged."
        )

    def _check_witness(self, connection: Connection) -> None:
        if self._witness is None:
            return
        noted = self._witness.read()
        if noted is None:
            return
        query = sa.select(_columns.hash).where(_columns.number == noted.number)
        if connection.execute(query).scalar() != noted.hash:
            raise LedgerIntegrityError(
                f"Expected entry {noted.number} that the witness {self._witness.path} has seen, the ledger "
                f"{self.place} lacks it: an older copy was put in its place. Restore the newest one; what it has "
                "spent stays spent."
            )

    def _note(self, entry: Entry) -> None:
        if self._witness is not None:
            self._witness.write(entry.number, entry.hash)
