"""The ledger of one silo: it holds an event before anything is computed for it, and the bytes before they leave.

    charge   with the write lock:  witness? rounds? limit? allowance? -> next entry, signed -> commit (durable)
    compute  whatever becomes of it, also if it fails because of the data, is charged
    settle   with the write lock:  the first bytes computed under a charge -> commit (durable) -> they may leave

A crash before the first commit has computed nothing and charged nothing. After it the release is charged: the same
request computes what is still pending, or gets the bytes that are settled, and is not charged again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.certificates.certificate import Head
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import (
    ClockError,
    ConfigurationError,
    DataFormatError,
    KeyFileError,
    LedgerError,
    LedgerIntegrityError,
    PrivacyError,
)
from recsys_fed.files import write_whole
from recsys_fed.ledger.agreed_schedule import AgreedSchedule, check_schedule
from recsys_fed.ledger.agreements import Agreement, append_agreement, read_agreements
from recsys_fed.ledger.budget import (
    ROUNDING,
    Allowance,
    Spending,
    account_spending,
    check_beginning,
    check_budget,
    check_training,
    would_spend,
)
from recsys_fed.ledger.entries import (
    NOTHING_BEFORE,
    Body,
    Entry,
    KeyChange,
    Limit,
    Release,
    draw_name,
    federation_in,
    parse_utc,
    read_entry,
    utc_text,
)
from recsys_fed.ledger.storage import Storage, entries_table
from recsys_fed.ledger.transactions import (
    begin_payload,
    begin_states,
    charged_already,
    check_round,
    consume_state,
    entry_at,
    kept_payload,
    kinds_charged,
    last_entry,
    newest_entries,
    newest_of_run,
    row_of,
    runs_begun,
    runs_charged,
    settle_payload,
    terms_now,
)
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent
from recsys_fed.signing import SigningKey, canonical, parse_canonical

_Clock = Callable[[], datetime]
# A clock may be set back by so much without a person looking at it; entries then keep the last time.
_CLOCK_TOLERANCE = timedelta(seconds=2)
_PAGE = 1_000
_ANYTHING = Allowance()
_columns = entries_table.c


def now() -> datetime:
    """The system's time."""
    return datetime.now(UTC)


def _check_noise_source(event: ReleaseEvent, terms: LedgerTerms) -> None:
    if not terms.simulated and event.noise_source != "operating-system":
        raise PrivacyError(
            "Expected noise from the operating system's generator, got noise that a seed repeats: it protects nobody "
            "from whoever knows the seed. Only a simulation's ledger takes it."
        )


@dataclass(frozen=True, kw_only=True)
class _NotedEntry:
    """An entry that was in the ledger."""

    number: int
    hash: str


@dataclass(frozen=True)
class RollbackGuard:
    """The file that notes the ledger's head, so that a silo notices when an older copy of its ledger is put back.

    The chain alone cannot tell: an older copy is a good ledger of an earlier day, with more budget left. The note is
    written after each entry; after a crash in between it is one entry behind, which is fine.
    """

    path: Path

    def read(self) -> _NotedEntry | None:
        """Return the note, or None if there is none yet; raises LedgerIntegrityError for anything else."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"Cannot read the ledger's witness {self.path}: {error}.") from error
        try:
            record = parse_canonical(text)
            return _NotedEntry(number=int(record["number"]), hash=str(record["hash"]))
        except (DataFormatError, KeyError, TypeError, ValueError) as error:
            raise LedgerIntegrityError(f"Expected the note of an entry in {self.path}: {error}") from error

    def write(self, number: int, hash: str) -> None:
        """Replace the note; raises LedgerError."""
        try:
            write_whole(self.path, canonical({"number": number, "hash": hash}))
        except OSError as error:
            raise LedgerError(
                f"Cannot note the ledger's head in {self.path}: {error}. The entry itself is in the ledger."
            ) from error


class Ledger:
    """An open ledger. Several processes may use the same one at the same time.

    Guarantees:
        - An entry that `charge` has returned is on the disk (SQLite: synchronous = FULL), and so are bytes that
          `settle` has returned.
        - The entries in the ledger never exceed its limit, whoever else writes at the same time.
        - Under one charged release at most one draw of noise leaves, whatever crashes and however many processes
          of the silo answer at once.
        - What was written is never changed; a failure leaves the ledger as it was.
    """

    def __init__(
        self, storage: Storage, *, key: SigningKey | None = None, clock: _Clock = now, witness: Path | None = None
    ) -> None:
        self._storage, self._key, self._clock = storage, key, clock
        self._guard = RollbackGuard(witness) if witness else None

    @classmethod
    def create(
        cls,
        url: str,
        *,
        key: SigningKey,
        terms: LedgerTerms,
        clock: _Clock = now,
        witness: Path | None = None,
        durable: bool = True,
    ) -> Self:
        """Start a ledger with its terms.

        Args:
            url: path of an SQLite file, or a URL of SQLite or PostgreSQL.
            key: signs every entry; its public half is in the terms.
            terms: the genesis entry.
            clock: gives the time of entries.
            witness: file in which the head is noted, best on another medium; see `RollbackGuard`.
            durable: False gives up the wait for the disk: for simulations only.

        Raises:
            ConfigurationError: there is a ledger already, or the key is not that of the terms.
            LedgerError: it cannot be written.
        """
        if key.public_key != terms.public_key:
            raise ConfigurationError("Expected the terms to name the public half of the key that signs.")
        storage = Storage(url, durable=durable)
        if storage.exists():
            raise ConfigurationError(f"There is a ledger at {storage.place} already. Open it.")
        ledger = cls(storage, key=key, clock=clock, witness=witness)
        with storage.creating() as connection:
            entry = ledger._append(connection, "genesis", terms, terms=terms, last=None, time=ledger._time(None))
        ledger._note(entry)
        return ledger

    @classmethod
    def open(
        cls,
        url: str,
        *,
        key: SigningKey | None = None,
        clock: _Clock = now,
        witness: Path | None = None,
        durable: bool = True,
    ) -> Self:
        """Open a ledger to read, or with its key to write: then one of an earlier version is brought to this one's.

        Raises:
            DataNotFoundError: there is none.
            LedgerError: it cannot be read, or a newer version wrote it.
            KeyFileError: the key is not the ledger's.
            LedgerIntegrityError: its last entry does not hold, or it is older than its witness.
        """
        storage = Storage(url, durable=durable)
        storage.check()
        ledger = cls(storage, key=key, clock=clock, witness=witness)
        # Before the ledger: what another process has noted by now is in what is read next.
        noted = ledger._read_note()
        with storage.reading() as connection:
            terms, last = terms_now(connection), last_entry(connection)
            ledger._check_key(terms)
            # The entry that changes the key is the last one of the key before.
            last.check_signature(terms_now(connection, until=last.number - 1 if last.number else 0).public_key)
            ledger._check_rollback(connection, noted)
        if key is not None:
            # Whoever only reads, perhaps from a medium that cannot be written, reads every schema as it is.
            storage.upgrade()
        return ledger

    @property
    def place(self) -> str:
        """Its address, without a password."""
        return self._storage.place

    def terms(self, *, until: int | None = None) -> LedgerTerms:
        """Return the terms, with the limit that holds now, or held at entry `until`."""
        with self._storage.reading() as connection:
            return terms_now(connection, until=until)

    def head(self) -> Head:
        """Return number and hash of the last entry."""
        with self._storage.reading() as connection:
            last = last_entry(connection)
            return Head(number=last.number, hash=last.hash)

    def releases(self, *, until: int | None = None) -> int:
        """Return how many releases were ever charged, or were at entry `until`."""
        query = sa.select(sa.func.count()).where(_columns.kind == "release")
        with self._storage.reading() as connection:
            query = query if until is None else query.where(_columns.number <= until)
            return connection.execute(query).scalar_one()

    def spending(self, *, delta: float | None = None, run: str | None = None, until: int | None = None) -> Spending:
        """Return what was spent in all, by one run, or up to an entry, at the ledger's delta or another one."""
        with self._storage.reading() as connection:
            guarantee = terms_now(connection, until=until).guarantee
            return account_spending(kinds_charged(connection, run=run, until=until), guarantee, delta=delta)

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
        allowance: Allowance = _ANYTHING,
        schedule: AgreedSchedule | None = None,
        keep: bool = True,
    ) -> Entry:
        """Charge a release before anything is computed for it; the entry is durable when this returns.

        A request that the run's newest release was charged for already gets that entry, and nothing is charged: the
        process died before it settled, or another one answers at the same time. The entry's `draw` names the draw
        of noise that it pays for, and belongs into the bytes as their nonce.

        Args:
            event: what the answer to the request will cost.
            run: that asks, as `run_name` has it.
            request: SHA-256 of the request.
            code_version: of the software that computes the answer.
            allowance, schedule: what the silo allows this federation beside the ledger's limit, which is for all.
            keep: the bytes will be settled, and kept until the run's next charge. False for an attempt at a masked
                round: each is charged, whatever was charged before.

        Raises:
            LedgerIntegrityError: the ledger lacks the entry that its witness has seen.
            PrivacyError: noise from a seed, and the ledger is not a simulation's.
            ProtocolError: the run has left this round behind, or has answered it.
            BudgetExceededError: it would exceed the limit, or what the silo allows; or trainings begin too often.
            ClockError: the clock is behind the last entry.
            LedgerError: it could not be written. If only the witness could not be, the release is charged, and the
                text says so. After any other error the ledger is unchanged.
        """
        with self._storage.writing() as connection:
            self._check_rollback(connection, self._read_note())
            terms, newest = terms_now(connection), newest_of_run(connection, run)
            _check_noise_source(event, terms)
            if newest is not None and keep and charged_already(connection, newest, event, request):
                entry = newest
            else:
                check_round(newest, event, keep=keep)
                check_budget(kinds_charged(connection), event, terms.guarantee)
                check_training(kinds_charged(connection, run=run), event, terms.guarantee, allowance)
                last, own, begins = last_entry(connection), federation_in(run), newest is None
                time = self._time(last)
                at = parse_utc(time)
                if begins and allowance.trainings:
                    check_beginning(runs_begun(connection, federation=own, newest=allowance.trainings), at, allowance)
                check_schedule(connection, event, terms.guarantee, schedule, federation=own, begins=begins, now=at)
                draw = draw_name(silo=terms.silo, number=last.number + 1, request=request)
                body = Release(event=event, run=run, request=request, payload=draw, code_version=code_version)
                entry = self._append(connection, "release", body, terms=terms, last=last, time=time)
                begin_payload(connection, run=run, request=request, keep=keep)
        self._note(entry)
        return entry

    def settle(self, *, run: str, request: str, payload: bytes) -> bytes:
        """Store the bytes that were computed under a charge, and return those that may leave, never others.

        The first to settle a request wins: whoever comes later gets its bytes, and throws the own ones away.

        Raises:
            ProtocolError: the run's newest release does not answer this request, or it is not one that is kept.
            LedgerError: it could not be written; nothing may leave.
        """
        with self._storage.writing() as connection:
            return settle_payload(connection, run=run, request=request, payload=payload)

    def kept_payload(self, *, run: str, request: str) -> bytes | None:
        """Return the run's newest payload if it answers this request: charged and settled, so it may leave again."""
        with self._storage.reading() as connection:
            return kept_payload(connection, run=run, request=request)

    def begin_states(self, *, run: str, state: str) -> None:
        """Note the first state of a masked round; see `transactions`."""
        with self._storage.writing() as connection:
            begin_states(connection, run=run, state=state)

    def consume_state(self, *, run: str, used: str, after: str) -> None:
        """Exchange the state of a masked round, or end it with after = ""; raises ProtocolError if it was used."""
        with self._storage.writing() as connection:
            consume_state(connection, run=run, used=used, after=after)

    def set_limit(self, epsilon: float, *, reason: str) -> Entry:
        """Replace the epsilon limit from now on; the entry is signed and keeps the reason.

        Raises:
            ConfigurationError: epsilon is not above 0, below what is spent already, or there is no reason.
        """
        limit = Limit(epsilon=epsilon, reason=reason)
        with self._storage.writing() as connection:
            self._check_rollback(connection, self._read_note())
            last, terms = last_entry(connection), terms_now(connection)
            spent = account_spending(kinds_charged(connection), terms.guarantee).epsilon
            if spent > epsilon * (1 + ROUNDING):
                raise ConfigurationError(
                    f"Expected a limit of at least what is spent, epsilon {spent:.4f}, got {epsilon:g}: what was "
                    "released cannot be taken back."
                )
            entry = self._append(connection, "limit", limit, terms=terms, last=last, time=self._time(last))
        self._note(entry)
        return entry

    def change_key(self, key: SigningKey, *, reason: str) -> Entry:
        """Let another key sign from now on: the entry is signed by the key before, and keeps the reason.

        Other processes that have the ledger open with the key before can write no more.

        Raises:
            ConfigurationError: it is the key that signs already, or there is no reason.
        """
        with self._storage.writing() as connection:
            self._check_rollback(connection, self._read_note())
            last, terms = last_entry(connection), terms_now(connection)
            if key.public_key == terms.public_key:
                raise ConfigurationError("Expected another key than the one that signs already.")
            body = KeyChange.to(key, previous=last.hash, reason=reason)
            entry = self._append(connection, "key", body, terms=terms, last=last, time=self._time(last))
        self._key = key
        self._note(entry)
        return entry

    def agree(self, what: str, *, version: int, digest: str) -> Agreement:
        """Note that the silo agrees to a version of something from now on, of this SHA-256; see `agreements`.

        Raises:
            KeyFileError: opened without the ledger's key. LedgerError: it could not be written.
        """
        with self._storage.writing() as connection:
            key, time = self._signing_key(terms_now(connection)), utc_text(self._clock())
            return append_agreement(connection, what, version=version, digest=digest, time=time, key=key)

    def agreements(self) -> list[Agreement]:
        """What the silo has agreed to, in order; raises LedgerIntegrityError if one does not hold."""
        with self._storage.reading() as connection:
            return read_agreements(connection)

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
        return (read_entry(bytes(row.content), row.signature) for row in self.rows())

    def releases_of(self, run: str) -> list[Entry]:
        """Return the release entries of one run, in order."""
        query = sa.select(_columns.content, _columns.signature).where(_columns.run == run).order_by(_columns.number)
        with self._storage.reading() as connection:
            return [read_entry(bytes(content), signature) for content, signature in connection.execute(query)]

    def close(self) -> None:
        """Close the database."""
        self._storage.close()

    def _append(
        self, connection: Connection, kind: str, body: Body, *, terms: LedgerTerms, last: Entry | None, time: str
    ) -> Entry:
        entry = Entry(
            number=last.number + 1 if last else 0,
            time=time,
            previous=last.hash if last else NOTHING_BEFORE,
            kind=kind,
            body=body,
        ).signed(self._signing_key(terms))
        connection.execute(entries_table.insert().values(**row_of(entry)))
        return entry

    def _signing_key(self, terms: LedgerTerms) -> SigningKey:
        if self._key is None:
            raise KeyFileError("This ledger was opened without its key, for reading. Open it with the key to write.")
        self._check_key(terms)
        return self._key

    def _check_key(self, terms: LedgerTerms) -> None:
        if self._key is not None and self._key.public_key != terms.public_key:
            raise KeyFileError(
                f"Expected the key {terms.public_key[:16]}... of the ledger {self.place}, got "
                f"{self._key.public_key[:16]}.... Use the silo's own key; after a change, the new one."
            )

    def _time(self, last: Entry | None) -> str:
        time = self._clock()
        if last is None or time >= parse_utc(last.time):
            return utc_text(time)
        if parse_utc(last.time) - time <= _CLOCK_TOLERANCE:
            return last.time
        raise ClockError(
            f"Expected a time after the last entry's {last.time}, the clock says {utc_text(time)}. "
            "Set the clock right; nothing was released and nothing was charged."
        )

    def _read_note(self) -> _NotedEntry | None:
        return None if self._guard is None else self._guard.read()

    def _check_rollback(self, connection: Connection, noted: _NotedEntry | None) -> None:
        if self._guard is None or noted is None:
            return
        query = sa.select(_columns.hash).where(_columns.number == noted.number)
        if connection.execute(query).scalar() != noted.hash:
            raise LedgerIntegrityError(
                f"Expected entry {noted.number} that the witness {self._guard.path} has seen, the ledger "
                f"{self.place} lacks it: an older copy was put in its place. Restore the newest one; what it has "
                "spent stays spent."
            )

    def _note(self, entry: Entry) -> None:
        """Note an entry, unless another process has noted a later one meanwhile."""
        noted = self._read_note()
        if self._guard is not None and (noted is None or entry.number == 0 or noted.number < entry.number):
            self._guard.write(entry.number, entry.hash)
