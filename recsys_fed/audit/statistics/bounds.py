"""All statements about epsilon that one run's canaries allow, at several confidences, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr

from recsys_fed.audit.statistics.gaussian import GaussianEstimate, gaussian_estimate
from recsys_fed.audit.statistics.guesses import Guesses, extreme_guesses
from recsys_fed.audit.statistics.one_run import one_run_epsilon
from recsys_fed.audit.statistics.one_run_fdp import one_run_fdp_epsilon
from recsys_fed.privacy.accounting.closed_forms import largest_mu

CONFIDENCES = (0.95, 0.99)
# Shares of the canaries that may be guessed about; the plan takes one of them before any score is seen.
_SHARES = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the scores of one run say at one confidence.

    Attributes:
        confidence: of each figure by itself.
        guesses: the game that was played.
        one_run: lower bound for any (epsilon, delta)-private mechanism.
        one_run_fdp: lower bound for Gaussian mechanisms.
        gaussian: an estimate for Gaussian mechanisms, no bound.
    """

    confidence: float
    guesses: Guesses
    one_run: float
    one_run_fdp: float
    gaussian: GaussianEstimate

    @property
    def strongest(self) -> float:
        """The larger of the two bounds: what is held against a claim (at twice the chance of error)."""
        return max(self.one_run, self.one_run_fdp)

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def bounds_of(
    scores: npt.NDArray[np.float64],
    included: npt.NDArray[np.bool_],
    *,
    made: int,
    delta: float,
    confidences: Sequence[float] = CONFIDENCES,
) -> tuple[Bounds, ...]:
    """Bounds at each confidence; `made`, how many guesses, must not depend on the scores (see `planned_guesses`)."""
    guesses = extreme_guesses(scores, included, made=made)
    return tuple(
        Bounds(
            confidence=confidence,
            guesses=guesses,
            one_run=one_run_epsilon(guesses, delta=delta, confidence=confidence),
            one_run_fdp=one_run_fdp_epsilon(guesses, delta=delta, confidence=confidence),
            gaussian=gaussian_estimate(scores, included, delta=delta, confidence=confidence),
        )
        for confidence in confidences
    )


@lru_cache(maxsize=256)
def planned_guesses(canaries: int, *, epsilon: float, delta: float) -> int:
    """How many guesses to make about `canaries` of a mechanism that claims epsilon: public numbers decide.

    It is the share with which canaries that nothing blurs would give the best f-DP bound at 95%.
    """
    mu = largest_mu(epsilon=min(epsilon, 64.0), delta=delta)
    plans = {max(1, round(share * canaries)) for share in _SHARES}
    return max(sorted(plans), key=lambda made: _expected_bound(canaries, made, mu=mu, delta=delta))


def ceiling(canaries: int, *, epsilon: float, delta: float) -> float:
    """The f-DP bound at 95% that ideal canaries of a Gaussian mechanism give in the middle."""
    mu = largest_mu(epsilon=min(epsilon, 64.0), delta=delta)
    made = planned_guesses(canaries, epsilon=epsilon, delta=delta)
    return _expected_bound(canaries, made, mu=mu, delta=delta)


def _expected_bound(canaries: int, made: int, *, mu: float, delta: float) -> float:
    """The bound if as many of the extreme guesses are right as expected of N(0, 1) against N(mu, 1)."""
    share = min(made / canaries, 1.0) / 2
    threshold = brentq(lambda t: (ndtr(-t) + ndtr(mu - t)) / 2 - share, -40.0, 40.0)
    precision = float(ndtr(mu - threshold)) / 2 / share
    guesses = Guesses(canaries=canaries, made=made, correct=int(made * precision))
    return one_run_fdp_epsilon(guesses, delta=delta, confidence=0.95)
