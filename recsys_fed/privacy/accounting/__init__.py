"""How much epsilon a history of events has spent: two accountants that share no code.

All of them take events and return an upper bound on epsilon at a given delta, for the
neighbouring relation "one user added or removed", over the adaptive composition of all events.
An empty history costs 0; any event without noise costs infinity. See `pld`, `prv` and `rdp`.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from recsys_fed.privacy.accounting.kinds import Kinds, few_kinds, kinds_of
from recsys_fed.privacy.accounting.pld import epsilon_pld
from recsys_fed.privacy.accounting.prv import epsilon_prv
from recsys_fed.privacy.accounting.rdp import epsilon_rdp
from recsys_fed.privacy.events import PrivacyEvent

__all__ = [
    "ACCOUNTANTS",
    "Accountant",
    "epsilon_of_history",
    "epsilon_pld",
    "epsilon_prv",
    "epsilon_rdp",
    "epsilon_spent",
    "kinds_of",
]


class Accountant(Protocol):
    """From events and a delta to an upper bound on epsilon."""

    def __call__(self, events: Sequence[PrivacyEvent], *, delta: float) -> float:
        """Return epsilon >= 0, or infinity."""


ACCOUNTANTS: dict[str, Accountant] = {"pld": epsilon_pld, "prv": epsilon_prv, "rdp": epsilon_rdp}


def epsilon_spent(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return the epsilon that `events` have spent: the larger of PLD and PRV, never one alone.

    Guarantees: both figures are upper bounds, so the larger one is too, and stays one if either
    library has a fault that makes its figure too small. PLD looks at a user added and at a user
    removed, PRV at a user removed. Raises ConfigurationError unless 0 < delta < 1.
    """
    return max(epsilon_pld(events, delta=delta), epsilon_prv(events, delta=delta))


def epsilon_of_history(events: Iterable[PrivacyEvent], *, delta: float, accountant: str = "") -> float:
    """Return the epsilon of a history of any length, in any order, by one accountant or (by default) the two.

    Guarantees: an upper bound; the same bits for any order of the events. Beyond 32 different sampled kinds
    the bound is looser, see `kinds.few_kinds`. Raises ConfigurationError unless 0 < delta < 1.
    """
    return _of_kinds(few_kinds(events), delta, accountant)


@lru_cache(maxsize=4096)
def _of_kinds(kinds: Kinds, delta: float, accountant: str) -> float:
    """Histories come back: every silo of a simulation has the same one, and a check precedes each release."""
    return ACCOUNTANTS[accountant](kinds, delta=delta) if accountant else epsilon_spent(kinds, delta=delta)
