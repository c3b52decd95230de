"""How much epsilon a history of events has spent: two accountants that share no code.

All of them take events and return an upper bound on epsilon at a given delta, for the
neighbouring relation "one user added or removed", over the adaptive composition of all events.
An empty history costs 0; any event without noise costs infinity. See `pld` and `opacus`.

`epsilon_of_history` takes a bounded time whatever the history holds: few kinds of events, grids of bounded size, and
the Rényi bound of `closed_forms` where that is not enough. Every step on the way errs upwards.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from recsys_fed import checks
from recsys_fed.errors import PrivacyError
from recsys_fed.privacy.accounting.closed_forms import renyi_bound
from recsys_fed.privacy.accounting.composition import Kinds, drop_negligible, few_kinds, kinds_of, total_variation
from recsys_fed.privacy.accounting.opacus import MOST_RDP_TERMS, epsilon_prv, epsilon_rdp, rdp_terms
from recsys_fed.privacy.accounting.pld import epsilon_pld
from recsys_fed.privacy.events import PrivacyEvent, delta_left

__all__ = [
    "ACCOUNTANTS",
    "LARGEST_EPSILON",
    "epsilon_of_history",
    "epsilon_pld",
    "epsilon_prv",
    "epsilon_rdp",
    "epsilon_spent",
    "kinds_of",
]


class _Accountant(Protocol):
    """From events and a delta to an upper bound on epsilon."""

    def __call__(self, events: Sequence[PrivacyEvent], *, delta: float) -> float:
        """Return epsilon >= 0, or infinity."""


# Beyond it nobody is protected, and doubles end soon: privacy losses are exponents.
LARGEST_EPSILON = 600.0
# Of all sampled kinds: the rounding of so many powers of a Fourier transform would come close to delta.
MOST_STEPS = 1_000_000
# A figure so many times the Rényi bound comes from a coarse grid.
_COARSE = 2.0
ACCOUNTANTS: dict[str, _Accountant] = {"pld": epsilon_pld, "prv": epsilon_prv, "rdp": epsilon_rdp}


def epsilon_spent(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return the epsilon that `events` have spent: the larger of PLD and PRV, never one alone.

    Guarantees: both figures are upper bounds, so the larger one is too, and stays one if either
    library has a fault that makes its figure too small. PLD looks at a user added and at a user
    removed, PRV at a user removed. Raises ConfigurationError unless 0 < delta < 1.
    """
    return max(epsilon_pld(events, delta=delta), epsilon_prv(events, delta=delta))


def epsilon_of_history(events: Iterable[PrivacyEvent], *, delta: float, accountant: str = "") -> float:
    """Return the epsilon of a history of any length, in any order, by one accountant or (by default) the two.

    Guarantees:
        - An upper bound; the same bits for any order of the events.
        - Bounded work, whatever noise, sampling and steps the events have. Beyond 32 different sampled kinds the
          bound is looser, see `composition.few_kinds`; above an epsilon of about 600, beyond a million
          sampled steps, and where an accountant's numbers or its time end, it is the Rényi bound.

    Raises ConfigurationError unless 0 < delta < 1.
    """
    checks.fraction(delta=delta)
    return _of_kinds(few_kinds(events), delta, accountant)


@lru_cache(maxsize=4096)
def _of_kinds(kinds: Kinds, delta: float, accountant: str) -> float:
    """Histories come back: every silo of a simulation has the same one, and a check precedes each release."""
    if not kinds:
        return 0.0
    left = delta_left(kinds, delta=delta)
    if left <= 0 or any(kind.noise_multiplier == 0 for kind in kinds):
        return math.inf
    if math.fsum(map(total_variation, kinds)) <= left:
        return 0.0
    kinds = drop_negligible(kinds, delta=delta)
    bound = renyi_bound(kinds, delta=delta_left(kinds, delta=delta))
    if bound > LARGEST_EPSILON or sum(kind.steps for kind in kinds if kind.sampling_probability < 1) > MOST_STEPS:
        return bound
    names = [accountant] if accountant else ["pld", "prv"]
    return max(_at_most(bound, name, kinds, delta) for name in names)


def _at_most(bound: float, accountant: str, kinds: Kinds, delta: float) -> float:
    """The accountant's figure; the bound where its numbers or its time end, or its coarse grid says less."""
    if accountant != "pld" and rdp_terms(kinds) > MOST_RDP_TERMS:
        return bound
    try:
        epsilon = ACCOUNTANTS[accountant](kinds, delta=delta)
    except (ArithmeticError, ValueError, PrivacyError):
        return bound
    return epsilon if epsilon <= _COARSE * bound else bound
