"""Whose turn it is in a masked round: a silo's state is used once, whatever a server sends and however often.

A state travels with the silo's process (see `secure_aggregation.silo_state`). A server that sends two messages at
once may make two processes start from copies of it, and two answers from one state would sign two views of the round.
So before an answer leaves, the digest of the state that it used is exchanged for that of the state after it, in the
one database that all processes of the silo share.
"""

from sqlalchemy.engine import Connection

from recsys_fed.errors import ProtocolError
from recsys_fed.ledger.storage import turns_table

_columns = turns_table.c


def begin_turns(connection: Connection, *, run: str, state: str) -> None:
    """Start a round, or start it anew: whatever state was in use before is none any more."""
    connection.execute(turns_table.delete().where(_columns.run == run))
    connection.execute(turns_table.insert().values(run=run, state=state))


def take_turn(connection: Connection, *, run: str, used: str, after: str) -> None:
    """Exchange the state that was used for the one after it; "" ends the round.

    Raises:
        ProtocolError: the state was used already, or is of another round.
    """
    whose = (_columns.run == run, _columns.state == used)
    change = turns_table.update().where(*whose).values(state=after) if after else turns_table.delete().where(*whose)
    if connection.execute(change).rowcount != 1:
        raise ProtocolError(
            "Expected each step of a masked round once, this one was taken already. Begin the round again."
        )
