"""A lower bound of epsilon from many runs: error rates of a test between two neighbours, Clopper and Pearson.

An (epsilon, delta)-private mechanism lets no test have a true positive rate above e^epsilon times its false positive
rate plus delta, nor a true negative rate above e^epsilon times the false negative rate plus delta (arXiv 1311.0776).
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError


def binomial_limits(successes: int, trials: int, *, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's limits of a probability, each one-sided at `confidence`."""
    checks.fraction(confidence=confidence)
    if not 0 <= successes <= trials or not trials:
        raise ConfigurationError(f"Expected 0 <= successes <= trials, got {successes} of {trials}.")
    low = beta.ppf(1 - confidence, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(confidence, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def many_run_epsilon(
    with_user: npt.NDArray[np.float64],
    without_user: npt.NDArray[np.float64],
    *,
    delta: float,
    confidence: float,
) -> float:
    """Lower bound from the scores of independent runs with and without one user.

    The first half of each chooses the threshold and the direction, the second half measures: two limits, each at
    (1 + confidence) / 2.

    Guarantees: for any (epsilon, delta)-private mechanism the result exceeds epsilon with probability at most
    1 - confidence. n runs of each kind refute at most about log(n / 2 / log(2 / (1 - confidence))).
    """
    checks.non_negative(delta=delta)
    halves = [(scores[: len(scores) // 2], scores[len(scores) // 2 :]) for scores in (with_user, without_user)]
    (chosen_in, test_in), (chosen_out, test_out) = halves
    if not min(len(chosen_in), len(chosen_out)):
        raise ConfigurationError(f"Expected two runs of each kind or more, got {len(with_user)}, {len(without_user)}.")
    level = (1 + confidence) / 2
    threshold, above = _threshold(chosen_in, chosen_out, delta=delta, level=level)
    return _bound(test_in, test_out, threshold=threshold, above=above, delta=delta, level=level)


def _threshold(
    inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64], *, delta: float, level: float
) -> tuple[float, bool]:
    """The threshold and side with the best bound on the half that chooses."""
    candidates = np.unique(np.concatenate([inside, outside]))
    candidates = candidates[np.unique(np.linspace(0, len(candidates) - 1, min(64, len(candidates))).astype(int))]
    found = [
        (_bound(inside, outside, threshold=float(c), above=above, delta=delta, level=level), float(c), above)
        for c in candidates
        for above in (True, False)
    ]
    _, threshold, above = max(found)
    return threshold, above


def _bound(
    inside: npt.NDArray[np.float64],
    outside: npt.NDArray[np.float64],
    *,
    threshold: float,
    above: bool,
    delta: float,
    level: float,
) -> float:
    """log((p - delta) / q): p of the side that is likely with its own group, q with the other."""
    likely, other = (inside, outside) if above else (outside, inside)
    hits = [int(np.count_nonzero(x >= threshold if above else x < threshold)) for x in (likely, other)]
    low, _ = binomial_limits(hits[0], len(likely), confidence=level)
    _, high = binomial_limits(hits[1], len(other), confidence=level)
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
