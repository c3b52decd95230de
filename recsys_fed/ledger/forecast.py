"""What is left of a budget after runs that have not happened: composition is not additive, so each is accounted."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys_fed.ledger.budget import ROUNDING, would_exceed, would_spend
from recsys_fed.privacy.accounting.composition import repeat
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee

# More runs than this are as good as any number.
MOST_RUNS = 100_000


@dataclass(frozen=True, kw_only=True)
class AfterRun:
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
) -> Iterator[AfterRun]:
    """Yield the budget after each of `runs` equal runs; without a number, until one no longer fits (it comes too)."""
    number = 0
    while runs is None or number < runs:
        number += 1
        epsilon = would_spend(kinds, repeat(planned, number), guarantee)
        fits = epsilon <= guarantee.epsilon * (1 + ROUNDING)
        yield AfterRun(run=number, epsilon=epsilon, left=max(0.0, guarantee.epsilon - epsilon), fits=fits)
        if runs is None and (not fits or number >= MOST_RUNS):
            return
