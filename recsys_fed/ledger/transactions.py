"""What is asked of the tables, and written to them, inside one transaction of a ledger.

Payloads are the bytes that a charge pays for: pending from the charge on, settled once they are computed, kept until
the next. A pending one is an empty row, and whoever settles it first decides which bytes ever leave under its charge.

States are those of masked rounds: a silo's state is used once, whatever a server sends and however often. A state
travels with the silo's process (see `secure_aggregation.silo_state`). A server that sends two messages at once may
make two processes start from copies of it, and two answers from one state would sign two views of the round. So
before an answer leaves, the digest of the state that it used is exchanged for that of the state after it, in the one
database that all processes of the silo share.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import ConfigurationError, LedgerIntegrityError, ProtocolError
from recsys_fed.ledger.entries import Body, Entry, KeyChange, Limit, Release, parse_utc, read_entry
from recsys_fed.ledger.storage import entries_table, payloads_table, states_table
from recsys_fed.privacy.accounting.composition import Kinds, kinds_of, slack_of, slack_units
from recsys_fed.privacy.events import PrivacyEvent, ReleaseEvent

_entries = entries_table.c


def entry_at(connection: Connection, number: int) -> Entry:
    """Return one entry; raises LedgerIntegrityError if it is missing."""
    query = sa.select(_entries.content, _entries.signature).where(_entries.number == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LedgerIntegrityError(f"The ledger lacks entry {number}.")
    return read_entry(bytes(row.content), row.signature)


def last_entry(connection: Connection) -> Entry:
    """Return the newest entry; raises LedgerIntegrityError if there is none."""
    number = connection.execute(sa.select(sa.func.max(_entries.number))).scalar()
    if number is None:
        raise LedgerIntegrityError("Expected entries in the ledger, there are none.")
    return entry_at(connection, number)


def terms_now(connection: Connection, *, until: int | None = None) -> LedgerTerms:
    """Return the terms with the limit and the key that hold now, or held at entry `until`."""
    terms = entry_at(connection, 0).body
    if not isinstance(terms, LedgerTerms):
        raise LedgerIntegrityError("Expected the first entry of the ledger to hold its terms, got another one.")
    for body in (_newest_of_kind(connection, kind, until=until) for kind in ("limit", "key")):
        if isinstance(body, Limit):
            terms = terms.with_limit(body.epsilon)
        elif isinstance(body, KeyChange):
            terms = terms.with_key(body.public_key)
    return terms


def _newest_of_kind(connection: Connection, kind: str, *, until: int | None) -> Body | None:
    newest = sa.select(sa.func.max(_entries.number)).where(_entries.kind == kind)
    number = connection.execute(_upto(newest, until)).scalar()
    return None if number is None else entry_at(connection, number).body


def keys_until_now(connection: Connection) -> frozenset[str]:
    """Return every key that signs the ledger or ever did."""
    numbers = connection.execute(sa.select(_entries.number).where(_entries.kind == "key")).scalars().all()
    bodies = (entry_at(connection, number).body for number in (0, *numbers))
    return frozenset(body.public_key for body in bodies if isinstance(body, LedgerTerms | KeyChange))


def first_since(connection: Connection, moment: datetime) -> int:
    """Return the number of the first entry that is not older than a moment; one past the last where all are.

    Times of entries never go back, so a few of them are read.
    """
    low, high = 0, last_entry(connection).number + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if parse_utc(entry_at(connection, middle).time) >= moment else (middle + 1, high)
    return low


def kinds_charged(
    connection: Connection,
    *,
    run: str | None = None,
    federation: str | None = None,
    since: int = 0,
    until: int | None = None,
) -> Kinds:
    """Return the history, or that of one run, from and up to an entry, by kinds: the database adds up the steps.

    Of all federations that share the ledger, or of one.
    """
    what = (_entries.noise_multiplier, _entries.sampling_probability)
    sums = sa.func.sum(_entries.steps), sa.func.sum(_entries.slack_units)
    query = sa.select(*what, *sums).group_by(*what)
    # Only releases have a run. Asking for one thing at a time lets the right index answer.
    query = query.where(_entries.kind == "release" if run is None else _entries.run == run)
    query = query if federation is None else query.where(_is_of(federation))
    rows = connection.execute(_upto(query if not since else query.where(_entries.number >= since), until))
    return kinds_of(
        PrivacyEvent(
            noise_multiplier=noise, sampling_probability=probability, steps=int(steps), slack=slack_of(int(units))
        )
        for noise, probability, steps, units in rows
    )


def runs_charged(connection: Connection, *, newest: int) -> list[tuple[str, int]]:
    """Return the runs that charged last, the newest first, and how many releases each has charged."""
    last = sa.func.max(_entries.number)
    query = sa.select(_entries.run, sa.func.count()).where(_entries.run.is_not(None)).group_by(_entries.run)
    return [(str(run), int(count)) for run, count in connection.execute(query.order_by(last.desc()).limit(newest))]


def newest_entries(connection: Connection, *, newest: int, run: str | None = None) -> list[Entry]:
    """Return the last entries, or the last ones of a run, in order."""
    query = sa.select(_entries.content, _entries.signature).order_by(_entries.number.desc()).limit(newest)
    rows = connection.execute(query if run is None else query.where(_entries.run == run)).all()
    return [read_entry(bytes(content), signature) for content, signature in reversed(rows)]


def newest_of_run(connection: Connection, run: str) -> Entry | None:
    """Return the newest entry of a run, None if it has none."""
    number = connection.execute(sa.select(sa.func.max(_entries.number)).where(_entries.run == run)).scalar()
    return None if number is None else entry_at(connection, number)


def _is_of(federation: str) -> sa.ColumnElement[bool]:
    """The condition that a run is one of this federation's."""
    other = _entries.run.contains("/", autoescape=True)
    return _entries.run.startswith(f"{federation}/", autoescape=True) if federation else sa.not_(other)


def runs_begun(connection: Connection, *, federation: str, newest: int, since: int = 0) -> list[datetime]:
    """Return when a federation's newest runs began, which is the time of their first entry; the newest first.

    Runs that began before the entry `since` are left out.
    """
    first = sa.func.min(_entries.number)
    query = sa.select(first).where(_is_of(federation)).group_by(_entries.run).having(first >= since)
    numbers = connection.execute(query.order_by(first.desc()).limit(newest)).scalars().all()
    return [parse_utc(entry_at(connection, number).time) for number in numbers]


def _upto(query: sa.Select[Any], number: int | None) -> sa.Select[Any]:
    return query if number is None else query.where(_entries.number <= number)


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


_PENDING = b""
_payloads = payloads_table.c


def check_round(newest: Entry | None, event: ReleaseEvent, *, keep: bool) -> None:
    """Refuse a round that the run has left behind, and a second answer to an unmasked one.

    Args:
        newest: the run's newest release.
        event: of the release that is asked for.
        keep: its bytes may be asked for again; False for an attempt at a masked round, of which there may be several.

    Raises:
        ProtocolError: nothing is charged.
    """
    if newest is None or not isinstance(newest.body, Release):
        return
    charged = newest.body.event.round
    if event.round < charged or (keep and event.round == charged):
        raise ProtocolError(
            f"Expected a round after round {charged + 1} of this training, got round {event.round + 1}: that one is "
            "charged already. A round is answered once and none before it is asked for again."
        )


def charged_already(connection: Connection, newest: Entry | None, event: ReleaseEvent, request: str) -> bool:
    """Whether the run's newest release answers this very request, with bytes that are kept or still to come."""
    if newest is None or not isinstance(newest.body, Release):
        return False
    same = newest.body.request == request and newest.body.event == event
    return same and _stored_payload(connection, run=newest.body.run, request=request) is not None


def begin_payload(connection: Connection, *, run: str, request: str, keep: bool) -> None:
    """Let go of the run's older payload; the new one is pending if it will be kept."""
    connection.execute(payloads_table.delete().where(_payloads.run == run))
    if keep:
        connection.execute(payloads_table.insert().values(run=run, request=request, content=_PENDING))


def settle_payload(connection: Connection, *, run: str, request: str, payload: bytes) -> bytes:
    """Store a pending payload and return it; the one that is there already wins.

    Raises:
        ProtocolError: the run's newest release does not answer this request, or keeps nothing.
    """
    if payload == _PENDING:
        raise ConfigurationError("Expected the bytes of a payload, got none.")
    settled = _stored_payload(connection, run=run, request=request)
    if settled is None:
        raise ProtocolError(
            "Expected the request that this training's newest charge pays for, got another one. Nothing leaves."
        )
    if settled != _PENDING:
        return settled
    whose = (_payloads.run == run, _payloads.request == request)
    connection.execute(payloads_table.update().where(*whose).values(content=payload))
    return payload


def kept_payload(connection: Connection, *, run: str, request: str) -> bytes | None:
    """Return the settled payload of the run's newest release if it answers this request."""
    return _stored_payload(connection, run=run, request=request) or None


def _stored_payload(connection: Connection, *, run: str, request: str) -> bytes | None:
    """Return what is stored: b"" while the payload is pending, None if there is no row."""
    query = payloads_table.select().where(_payloads.run == run, _payloads.request == request)
    row = connection.execute(query).one_or_none()
    return None if row is None else bytes(row.content)


_states = states_table.c


def begin_states(connection: Connection, *, run: str, state: str) -> None:
    """Start a round, or start it anew: whatever state was in use before is none any more."""
    connection.execute(states_table.delete().where(_states.run == run))
    connection.execute(states_table.insert().values(run=run, state=state))


def consume_state(connection: Connection, *, run: str, used: str, after: str) -> None:
    """Exchange the state that was used for the one after it; "" ends the round.

    Raises:
        ProtocolError: the state was used already, or is of another round.
    """
    whose = (_states.run == run, _states.state == used)
    change = states_table.update().where(*whose).values(state=after) if after else states_table.delete().where(*whose)
    if connection.execute(change).rowcount != 1:
        raise ProtocolError(
            "Expected each step of a masked round once, this one was taken already. Begin the round again."
        )
