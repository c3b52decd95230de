"""What was computed for a charge, kept until the run's next one: one draw leaves, however often it is asked for.

An empty row stands for a charge whose answer is still being computed.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.errors import ProtocolError
from recsys_fed.ledger.storage import payloads_table

_columns = payloads_table.c


def begin_payload(connection: Connection, *, run: str, request: str | None) -> None:
    """Let the run's older payload go; with a request, wait for the answer to it."""
    connection.execute(payloads_table.delete().where(_columns.run == run))
    if request is not None:
        connection.execute(payloads_table.insert().values(run=run, request=request, content=b""))


def payload_of_request(connection: Connection, *, run: str, request: str) -> bytes | None:
    """The bytes that answer a request: empty while they are computed, None where it was not charged."""
    query = sa.select(_columns.content).where(_columns.run == run, _columns.request == request)
    found = connection.execute(query).scalar()
    return None if found is None else bytes(found)


def pending(connection: Connection, *, run: str, request: str) -> bool:
    """Whether the run's newest release is charged for this request, and its answer was not kept yet."""
    return payload_of_request(connection, run=run, request=request) == b""


def settle_payload(connection: Connection, *, run: str, request: str, payload: bytes) -> bytes:
    """Keep the first answer, and return the one that is kept; raises ProtocolError if none is waited for."""
    known = payload_of_request(connection, run=run, request=request)
    if known is None:
        raise ProtocolError("Expected the answer to the newest request of its training, this one is over.")
    if known:
        return known
    where = (_columns.run == run, _columns.request == request)
    connection.execute(payloads_table.update().where(*where).values(content=payload))
    return payload
