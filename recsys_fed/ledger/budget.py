"""What a ledger answers about money: spent and left, by every accountant, and what a plan would cost."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.errors import BudgetExceededError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history, kinds_of
from recsys_fed.privacy.accounting.kinds import Kinds
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee

# Calibration meets its target to 1e-4 from below; this only absorbs the rounding of a recomputation.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a silo allows beside its ledger's limit: to one training, and how many of them in what time.

    A server that calls its requests by another training's name gets another training, not more of this one.

    Attributes:
        epsilon: of one training.
        trainings: that may begin in any `days` days; 0 is any number.
        days: see `trainings`.
    """

    epsilon: float = math.inf
    trainings: int = 0
    days: float = 0.0


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


def spending(events: Iterable[PrivacyEvent], guarantee: Guarantee, *, delta: float | None = None) -> Spending:
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


def check_budget(kinds: Sequence[PrivacyEvent], planned: PrivacyEvent, guarantee: Guarantee) -> None:
    """Refuse a release that would take a silo beyond its own limit, whatever the server asks.

    Raises:
        BudgetExceededError: nothing was released.
    """
    if math.isinf(guarantee.epsilon):
        return
    total = would_spend(kinds, [planned], guarantee)
    if total > guarantee.epsilon * (1 + ROUNDING):
        raise BudgetExceededError(
            f"Expected a release within the limit epsilon {guarantee.epsilon:g} at delta {guarantee.delta:g}, it "
            f"would take what this silo has ever spent to {_text(total)}. Ask for fewer rounds or more noise."
        )


def _text(epsilon: float) -> str:
    return f"{epsilon:.4f}" if math.isfinite(epsilon) else "infinity"
