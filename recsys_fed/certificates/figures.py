"""The epsilon that a certificate states, against the events that it states it for."""

import math
from collections.abc import Iterable, Mapping

from recsys_fed.certificates.terms import epsilon_from_record
from recsys_fed.errors import LedgerIntegrityError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee

# Another machine, or another version of an accountant, gives another last digit, not another figure.
TOLERANCE = 1e-3
# The accountants whose larger figure counts.
COUNTING = ("pld", "prv")


def check_figures(
    stated: Mapping[str, float | str], events: Iterable[PrivacyEvent], guarantee: Guarantee, *, what: str
) -> dict[str, float]:
    """Recompute a certificate's figures by every accountant and return them.

    Raises:
        LedgerIntegrityError: an accountant is missing, or a figure is not that of the events.
    """
    if stated.keys() != ACCOUNTANTS.keys():
        raise LedgerIntegrityError(f"Expected the {what} by {sorted(ACCOUNTANTS)}, got {sorted(stated)}.")
    history = guarantee.over_silos_kinds(events)
    found = {
        name: epsilon_of_history(history, delta=guarantee.delta, accountant=name) for name in sorted(ACCOUNTANTS)
    }
    for name, epsilon in found.items():
        said = epsilon_from_record(stated[name])
        if not (said == epsilon or math.isclose(said, epsilon, rel_tol=TOLERANCE, abs_tol=TOLERANCE)):
            raise LedgerIntegrityError(
                f"Expected the {what} to be {epsilon:.4f} by {name.upper()}, as its events say, it is {said:.4f}."
            )
    return found


def counting(figures: Mapping[str, float | str]) -> float:
    """The figure that counts: the larger of PLD and PRV."""
    return max(epsilon_from_record(figures[name]) for name in COUNTING)
