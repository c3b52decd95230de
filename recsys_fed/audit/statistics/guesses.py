"""Guesses about canaries: who was in, who was out, and for whom the auditor does not guess."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Outcome of a guessing game in which every canary was in with probability one half, independently.

    Attributes:
        canaries: how many took part, m.
        made: guesses made, r; the auditor abstained from the others.
        correct: right guesses, v.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        checks.at_least(0, canaries=self.canaries, made=self.made, correct=self.correct)
        if not self.correct <= self.made <= self.canaries:
            raise ConfigurationError(
                f"Expected correct <= made <= canaries, got {self.correct}, {self.made} and {self.canaries}."
            )


def extreme_guesses(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], *, made: int) -> Guesses:
    """Guess "in" for the highest scores and "out" for the lowest, half of `made` each (the odd one is "in").

    The number must be fixed before the scores are seen. Ties go by position, which the coins do not know. A score
    that is not finite counts as the lowest.
    """
    if scores.shape != included.shape or scores.ndim != 1:
        raise ConfigurationError(f"Expected a score a canary, got shapes {scores.shape} and {included.shape}.")
    checks.at_least(0, made=made)
    made = min(made, len(scores))
    order = np.argsort(np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
    out = made // 2
    correct = np.count_nonzero(included[order[len(order) - (made - out) :]])
    correct += np.count_nonzero(~included[order[:out]])
    return Guesses(canaries=len(scores), made=made, correct=int(correct))
