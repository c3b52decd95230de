"""The bytes that a charge pays for: pending from the charge on, settled once they are computed, kept until the next.

A pending payload is an empty row. Whoever settles it first decides which bytes ever leave under its charge.
"""

from sqlalchemy.engine import Connection

from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.ledger.entries import Entry, Release
from recsys_fed.ledger.storage import payloads_table
from recsys_fed.privacy.events import ReleaseEvent

_PENDING = b""
_columns = payloads_table.c


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
    return same and content_of(connection, run=newest.body.run, request=request) is not None


def begin(connection: Connection, *, run: str, request: str, keep: bool) -> None:
    """Let go of the run's older payload; the new one is pending if it will be kept."""
    connection.execute(payloads_table.delete().where(_columns.run == run))
    if keep:
        connection.execute(payloads_table.insert().values(run=run, request=request, content=_PENDING))


def settle(connection: Connection, *, run: str, request: str, payload: bytes) -> bytes:
    """Store a pending payload and return it; the one that is there already wins.

    Raises:
        ProtocolError: the run's newest release does not answer this request, or keeps nothing.
    """
    if payload == _PENDING:
        raise ConfigurationError("Expected the bytes of a payload, got none.")
    settled = content_of(connection, run=run, request=request)
    if settled is None:
        raise ProtocolError(
            "Expected the request that this training's newest charge pays for, got another one. Nothing leaves."
        )
    if settled != _PENDING:
        return settled
    whose = (_columns.run == run, _columns.request == request)
    connection.execute(payloads_table.update().where(*whose).values(content=payload))
    return payload


def kept(connection: Connection, *, run: str, request: str) -> bytes | None:
    """Return the settled payload of the run's newest release if it answers this request."""
    return content_of(connection, run=run, request=request) or None


def content_of(connection: Connection, *, run: str, request: str) -> bytes | None:
    """Return what is stored: b"" while the payload is pending, None if there is no row."""
    query = payloads_table.select().where(_columns.run == run, _columns.request == request)
    row = connection.execute(query).one_or_none()
    return None if row is None else bytes(row.content)
