"""What is asked of the tables inside one transaction: single entries, the terms, and the history by kinds."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.ledger.entries import Entry, Limit, Release, entry_of, moment_of
from recsys_fed.ledger.storage import entries_table
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of, slack_of, slack_units
from recsys_fed.privacy.events import PrivacyEvent

_columns = entries_table.c


def entry_at(connection: Connection, number: int) -> Entry:
    """Return one entry; raises LedgerIntegrityError if it is missing."""
    query = sa.select(_columns.content, _columns.signature).where(_columns.number == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LedgerIntegrityError(f"Expected entry {number} in the ledger, it is missing.")
    return entry_of(bytes(row.content), row.signature)


def last_entry(connection: Connection) -> Entry:
    """Return the newest entry; raises LedgerIntegrityError if there is none."""
    number = connection.execute(sa.select(sa.func.max(_columns.number))).scalar()
    if number is None:
        raise LedgerIntegrityError("Expected entries in the ledger, there are none.")
    return entry_at(connection, number)


def terms_now(connection: Connection, *, until: int | None = None) -> LedgerTerms:
    """Return the terms with the limit that holds now, or held at entry `until`."""
    genesis = entry_at(connection, 0)
    if not isinstance(genesis.body, LedgerTerms):
        raise LedgerIntegrityError("Expected the first entry of the ledger to hold its terms, got another one.")
    newest = sa.select(sa.func.max(_columns.number)).where(_columns.kind == "limit")
    number = connection.execute(_upto(newest, until)).scalar()
    limit = None if number is None else entry_at(connection, number).body
    return genesis.body.with_limit(limit.epsilon) if isinstance(limit, Limit) else genesis.body


def kinds_charged(connection: Connection, *, run: str | None = None, until: int | None = None) -> Kinds:
    """Return the history, or that of one run, or up to an entry, by kinds: the database adds up the steps."""
    what = (_columns.noise_multiplier, _columns.sampling_probability)
    sums = sa.func.sum(_columns.steps), sa.func.sum(_columns.slack_units)
    query = sa.select(*what, *sums).group_by(*what)
    # Only releases have a run. Asking for one thing at a time lets the right index answer.
    query = query.where(_columns.kind == "release" if run is None else _columns.run == run)
    rows = connection.execute(_upto(query, until))
    return kinds_of(
        PrivacyEvent(
            noise_multiplier=noise, sampling_probability=probability, steps=int(steps), slack=slack_of(int(units))
        )
        for noise, probability, steps, units in rows
    )


def runs_charged(connection: Connection, *, newest: int) -> list[tuple[str, int]]:
    """Return the runs that charged last, the newest first, and how many releases each has charged."""
    last = sa.func.max(_columns.number)
    query = sa.select(_columns.run, sa.func.count()).where(_columns.run.is_not(None)).group_by(_columns.run)
    return [(str(run), int(count)) for run, count in connection.execute(query.order_by(last.desc()).limit(newest))]


def newest_entries(connection: Connection, *, newest: int, run: str | None = None) -> list[Entry]:
    """Return the last entries, or the last ones of a run, in order."""
    query = sa.select(_columns.content, _columns.signature).order_by(_columns.number.desc()).limit(newest)
    rows = connection.execute(query if run is None else query.where(_columns.run == run)).all()
    return [entry_of(bytes(content), signature) for content, signature in reversed(rows)]


def newest_of_run(connection: Connection, run: str) -> Entry | None:
    """Return the newest entry of a run, None if it has none."""
    number = connection.execute(sa.select(sa.func.max(_columns.number)).where(_columns.run == run)).scalar()
    return None if number is None else entry_at(connection, number)


def runs_begun(connection: Connection, *, newest: int) -> list[datetime]:
    """Return when the newest runs began, which is the time of their first entry; the newest first."""
    first = sa.func.min(_columns.number)
    query = sa.select(first).where(_columns.run.is_not(None)).group_by(_columns.run)
    numbers = connection.execute(query.order_by(first.desc()).limit(newest)).scalars().all()
    return [moment_of(entry_at(connection, number).time) for number in numbers]


def _upto(query: sa.Select[Any], number: int | None) -> sa.Select[Any]:
    return query if number is None else query.where(_columns.number <= number)


def row_of(entry: Entry) -> dict[str, object]:
    """The stored row of an entry: its bytes, and copies of what questions are asked about."""
    row: dict[str, object] = {
        "number": entry.number,
        "kind": entry.kind,
        "content": entry.content,
        "signature": entry.signature,
        "hash": entry.hash,
    }
    if isinstance(entry.body, Release):
        event = entry.body.event
        row |= {
            "run": entry.body.run,
            "payload": entry.body.payload,
            "noise_multiplier": event.noise_multiplier,
            "sampling_probability": event.sampling_probability,
            "steps": event.steps,
            "slack_units": slack_units(event.slack),
        }
    return row
