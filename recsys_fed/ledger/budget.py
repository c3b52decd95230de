"""What a ledger answers about money: spent and left, by every accountant, and what a plan would cost.

Composition is not additive, so runs that have not happened are each accounted.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from recsys_fed import checks
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.errors import BudgetExceededError, ConfigurationError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history, kinds_of
from recsys_fed.privacy.accounting.composition import Kinds, repeat
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee

# Calibration meets its target to 1e-4 from below; these only absorb the rounding of a recomputation.
ROUNDING = 1e-6
_ROUNDING_OF_TRAINING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a silo allows beside its ledger's limit: to one training, and how many of them in what time.

    Attributes:
        epsilon: of one training (run).
        trainings: that may begin in any `days` days; 0: any number.
        days: length of that time, at most a hundred years.
    """

    epsilon: float = math.inf
    trainings: int = 0
    days: float = 0.0

    def __post_init__(self) -> None:
        checks.positive_or_inf(epsilon=self.epsilon)
        checks.at_least(0, trainings=self.trainings)
        checks.non_negative(days=self.days)
        if self.days > checks.MOST_DAYS:
            raise ConfigurationError(f"Expected days of at most {checks.MOST_DAYS:,}, got {self.days:g}.")


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What a history has spent of a guarantee.

    Attributes:
        guarantee: limit, delta, and in how many silos a user may be.
        kinds: the history of one silo.
        epsilon: the figure that counts, the larger of PLD and PRV.
        by_accountant: PLD, PRV and RDP at the guarantee's delta.
    """

    guarantee: Guarantee
    kinds: Kinds
    epsilon: float
    by_accountant: dict[str, float]

    @property
    def left(self) -> float:
        """Limit less epsilon, not below 0. Budgets do not add up: ask `would_spend` what a plan costs."""
        return math.inf if math.isinf(self.guarantee.epsilon) else max(0.0, self.guarantee.epsilon - self.epsilon)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "epsilon": epsilon_to_record(self.epsilon),
            "epsilon_limit": epsilon_to_record(self.guarantee.epsilon),
            "epsilon_left": epsilon_to_record(self.left),
            "delta": self.guarantee.delta,
            "max_silos_per_user": self.guarantee.max_silos_per_user,
            **{f"epsilon_{name}": epsilon_to_record(value) for name, value in self.by_accountant.items()},
        }


def account_spending(events: Iterable[PrivacyEvent], guarantee: Guarantee, *, delta: float | None = None) -> Spending:
    """Account for a history; `delta` other than the guarantee's gives the figures of the same events there."""
    asked = guarantee if delta is None else replace(guarantee, delta=delta)
    kinds = kinds_of(events)
    everywhere = asked.over_silos_kinds(kinds)
    figures = {
        name: epsilon_of_history(everywhere, delta=asked.delta, accountant=name) for name in sorted(ACCOUNTANTS)
    }
    return Spending(guarantee=asked, kinds=kinds, epsilon=max(figures["pld"], figures["prv"]), by_accountant=figures)


def would_spend(kinds: Sequence[PrivacyEvent], planned: Iterable[PrivacyEvent], guarantee: Guarantee) -> float:
    """Return the epsilon of the history with the planned events added to it."""
    return epsilon_of_history(guarantee.over_silos_kinds((*kinds, *planned)), delta=guarantee.delta)


def would_exceed(kinds: Sequence[PrivacyEvent], planned: Iterable[PrivacyEvent], guarantee: Guarantee) -> bool:
    """Whether the planned events would take the history beyond its limit."""
    return would_spend(kinds, planned, guarantee) > guarantee.epsilon * (1 + ROUNDING)


def _excess(
    kinds: Sequence[PrivacyEvent], planned: PrivacyEvent, guarantee: Guarantee, *, limit: float, rounding: float
) -> str:
    """What the history with the planned event would have cost, as text, if that is more than a limit; else ""."""
    if math.isinf(limit):
        return ""
    total = would_spend(kinds, [planned], guarantee)
    return _text(total) if total > limit * (1 + rounding) else ""


def check_budget(kinds: Sequence[PrivacyEvent], planned: PrivacyEvent, guarantee: Guarantee) -> None:
    """Refuse a release that would take a silo beyond its own limit, whatever the server asks.

    Raises:
        BudgetExceededError: nothing was released.
    """
    total = _excess(kinds, planned, guarantee, limit=guarantee.epsilon, rounding=ROUNDING)
    if total:
        raise BudgetExceededError(
            f"Expected a release within the limit epsilon {guarantee.epsilon:g} at delta {guarantee.delta:g}, it "
            f"would take what this silo has ever spent to {total}. Ask for fewer rounds or more noise."
        )


def check_training(
    kinds: Sequence[PrivacyEvent], planned: PrivacyEvent, guarantee: Guarantee, allowance: Allowance
) -> None:
    """Refuse a release that would take its training, whose history is `kinds`, beyond what one may cost.

    Raises:
        BudgetExceededError: nothing was released.
    """
    total = _excess(kinds, planned, guarantee, limit=allowance.epsilon, rounding=_ROUNDING_OF_TRAINING)
    if total:
        raise BudgetExceededError(
            f"Expected a training of at most the agreed epsilon {allowance.epsilon:g}, this one would have cost "
            f"{total}."
        )


def check_beginning(begun: Sequence[datetime], now: datetime, allowance: Allowance) -> None:
    """Refuse the first release of a training if as many as are allowed have begun in the time before `now`.

    Args:
        begun: when the newest `allowance.trainings` trainings began, the newest first.
        now: by the ledger's clock.
        allowance: how many may begin in how many days.

    Raises:
        BudgetExceededError: it says when the next may begin.
    """
    if not allowance.trainings or len(begun) < allowance.trainings:
        return
    next_begins = begun[allowance.trainings - 1] + timedelta(days=allowance.days)
    if now < next_begins:
        raise BudgetExceededError(
            f"Expected at most {allowance.trainings} trainings to begin in {allowance.days:g} days, as many have. "
            f"The next may begin at {_utc_minute(next_begins)}. The silo's operator decides: trainings and "
            "per-days in the table [silo] of silo.toml."
        )


def _utc_minute(moment: datetime) -> str:
    """The first whole minute from `moment` on."""
    return f"{moment + timedelta(seconds=59, microseconds=999_999):%Y-%m-%dT%H:%MZ}"


def _text(epsilon: float) -> str:
    return f"{epsilon:.4f}" if math.isfinite(epsilon) else "infinity"


# More runs than this are as good as any number.
MOST_RUNS = 100_000


@dataclass(frozen=True, kw_only=True)
class _AfterRun:
    """The budget after one more run.

    Attributes:
        run: from 1.
        epsilon: of everything until then, this run included.
        left: limit less epsilon, not below 0.
        fits: whether the limit still holds.
    """

    run: int
    epsilon: float
    left: float
    fits: bool


def runs_that_fit(kinds: Sequence[PrivacyEvent], planned: Sequence[PrivacyEvent], guarantee: Guarantee) -> int:
    """Return how many equal runs still fit into the limit after a history, at most `MOST_RUNS`."""

    def fits(runs: int) -> bool:
        return not would_exceed(kinds, repeat(planned, runs), guarantee)

    if math.isinf(guarantee.epsilon):
        return MOST_RUNS
    if not fits(1):
        return 0
    least, over = 1, 2
    while over <= MOST_RUNS and fits(over):
        least, over = over, 2 * over
    over = min(over, MOST_RUNS + 1)
    while over - least > 1:
        middle = (least + over) // 2
        least, over = (middle, over) if fits(middle) else (least, middle)
    return least


def budget_after_runs(
    kinds: Sequence[PrivacyEvent], planned: Sequence[PrivacyEvent], guarantee: Guarantee, *, runs: int | None = None
) -> Iterator[_AfterRun]:
    """Yield the budget after each of `runs` equal runs; without a number, until one no longer fits (it comes too)."""
    number = 0
    while runs is None or number < runs:
        number += 1
        epsilon = would_spend(kinds, repeat(planned, number), guarantee)
        fits = epsilon <= guarantee.epsilon * (1 + ROUNDING)
        yield _AfterRun(run=number, epsilon=epsilon, left=max(0.0, guarantee.epsilon - epsilon), fits=fits)
        if runs is None and (not fits or number >= MOST_RUNS):
            return
