"""What a silo allows its trainings: rounds that never go back, a price for each, and so many in so much time."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed.errors import BudgetExceededError, ProtocolError
from recsys_fed.ledger.budget import Allowance, would_spend
from recsys_fed.ledger.entries import Entry, Release, moment_of
from recsys_fed.ledger.queries import entry_at, kinds_charged
from recsys_fed.ledger.storage import entries_table
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee

_ROUNDING = 1e-9
_columns = entries_table.c


def check_order(newest: Sequence[Entry], event: ReleaseEvent, *, keep: bool) -> None:
    """Refuse a round before the run's newest one; of the same one only further attempts, which are not kept.

    Raises:
        ProtocolError: the round is over for this silo.
    """
    for body in (entry.body for entry in newest):
        if isinstance(body, Release) and event.round < body.event.round + int(keep):
            raise ProtocolError(
                f"Expected a round after the last that this silo has answered in this training, {body.event.round}, "
                f"got {event.round}."
            )


def check_allowance(
    connection: Connection,
    event: ReleaseEvent,
    *,
    run: str,
    allowance: Allowance,
    guarantee: Guarantee,
    now: datetime,
) -> None:
    """Refuse what is within the ledger's limit, but more than one training or a row of trainings may cost.

    Raises:
        BudgetExceededError: nothing was released.
    """
    history = kinds_charged(connection, run=run)
    spent = would_spend(history, (event,), guarantee)
    if spent > allowance.epsilon * (1 + _ROUNDING):
        raise BudgetExceededError(
            f"Expected a training of at most the agreed epsilon {allowance.epsilon:g}, this one would have cost "
            f"{spent:.4f}."
        )
    if history or not allowance.trainings:
        return
    period = timedelta(days=allowance.days)
    begun = [moment for moment in _beginnings(connection, newest=allowance.trainings) if moment > now - period]
    if len(begun) >= allowance.trainings:
        raise BudgetExceededError(
            f"Expected at most {allowance.trainings} trainings to begin in {allowance.days:g} days, as many have. "
            f"The next may begin after {min(begun) + period:%Y-%m-%dT%H:%M:%SZ}; see trainings and per-days in "
            "[silo] of silo.toml."
        )


def _beginnings(connection: Connection, *, newest: int) -> list[datetime]:
    """When the newest trainings began: the times of their first releases."""
    first = sa.func.min(_columns.number)
    query = sa.select(first).where(_columns.run.is_not(None)).group_by(_columns.run).order_by(first.desc())
    return [moment_of(entry_at(connection, number).time) for (number,) in connection.execute(query.limit(newest))]
