"""What a silo agrees to for years: how many trainings, how far apart, and what all of them may cost together."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.engine import Connection

from recsys_fed import checks
from recsys_fed.errors import BudgetExceededError, ConfigurationError
from recsys_fed.ledger.budget import ROUNDING, would_spend
from recsys_fed.ledger.transactions import first_since, kinds_charged, runs_begun
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee


@dataclass(frozen=True, kw_only=True)
class AgreedSchedule:
    """A schedule that a silo keeps to, whatever a server asks; the ledger's limit holds besides.

    Attributes:
        trainings: that may begin in all, from 1.
        spacing_days: least time from the beginning of one to the beginning of the next.
        epsilon: of all of them together.
        period_days: 0: `epsilon` is over their life. Else it is of any so many days, and is spent again afterwards: a
            promise per period, not over a life.
        since: what began, or was charged, before then is not counted; None counts all.
    """

    trainings: int
    spacing_days: float
    epsilon: float = math.inf
    period_days: float = 0.0
    since: datetime | None = None

    def __post_init__(self) -> None:
        checks.at_least(1, trainings=self.trainings)
        checks.non_negative(spacing_days=self.spacing_days, period_days=self.period_days)
        checks.positive_or_inf(epsilon=self.epsilon)
        if max(self.spacing_days, self.period_days) > checks.MOST_DAYS:
            raise ConfigurationError(f"Expected spacing and period of at most {checks.MOST_DAYS:,} days.")

    def sentence(self) -> str:
        """What is agreed to, in words."""
        paced = f"at most {self.trainings} trainings, {self.spacing_days:g} days or more apart"
        if math.isinf(self.epsilon):
            return f"{paced}; what they cost together is left to the ledger's limit"
        if self.period_days:
            return (
                f"{paced}; epsilon {self.epsilon:g} in any {self.period_days:g} days, which is a promise per period "
                "and none over a life: what two periods tell adds up, within the ledger's limit"
            )
        return f"{paced}; epsilon {self.epsilon:g} for all of them together"


def check_schedule(
    connection: Connection,
    event: ReleaseEvent,
    guarantee: Guarantee,
    schedule: AgreedSchedule | None,
    *,
    federation: str,
    begins: bool,
    now: datetime,
) -> None:
    """Refuse a release beyond the schedule.

    Args:
        connection: of the ledger, under its write lock.
        event: the planned release. guarantee: of the ledger; its delta and overlap count, not its epsilon.
        schedule: what was agreed to; None: nothing.
        federation: of several that share the ledger; each has a schedule of its own.
        begins: whether it would be the first of its training.
        now: by the ledger's clock.

    Raises:
        BudgetExceededError: too many trainings, one too early, or too dear together; nothing was charged.
    """
    if schedule is None:
        return
    first = 0 if schedule.since is None else first_since(connection, schedule.since)
    if begins:
        begun = runs_begun(connection, federation=federation, newest=schedule.trainings, since=first)
        if len(begun) >= schedule.trainings:
            raise BudgetExceededError(
                f"All {schedule.trainings} trainings of the schedule that this silo agreed to have begun. Its "
                "operator decides about another one: [schedule] of silo.toml."
            )
        earliest = begun[0] + timedelta(days=schedule.spacing_days) if begun else now
        if now < earliest:
            raise BudgetExceededError(
                f"Expected trainings {schedule.spacing_days:g} days apart, as this silo's schedule says; the next "
                f"may begin at {earliest.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}."
            )
    if math.isinf(schedule.epsilon):
        return
    if schedule.period_days:
        first = max(first, first_since(connection, now - timedelta(days=schedule.period_days)))
    spent = would_spend(kinds_charged(connection, federation=federation, since=first), [event], guarantee)
    if spent > schedule.epsilon * (1 + ROUNDING):
        over = f"any {schedule.period_days:g} days" if schedule.period_days else "all trainings together"
        raise BudgetExceededError(
            f"Expected at most epsilon {schedule.epsilon:g} for {over}, as this silo's schedule says; with this "
            f"release it would be {spent:.4f}."
        )
