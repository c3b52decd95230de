"""A lower bound of epsilon from many runs: error rates of a test between two neighbours, Clopper and Pearson.

An (epsilon, delta)-private mechanism lets no test have a true positive rate above e^epsilon times its false positive
rate plus delta, nor a true negative rate above e^epsilon times the false negative rate plus delta (arXiv 1311.0776).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

Counts = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


def binomial_limits(successes: Counts, trials: int, *, confidence: float) -> tuple[Rates, Rates]:
    """Clopper and Pearson's limits of probabilities [n] from successes [n], each limit one-sided at `confidence`."""
    checks.fraction(confidence=confidence)
    checks.at_least(1, trials=trials)
    if successes.min(initial=0) < 0 or successes.max(initial=0) > trials:
        raise ConfigurationError(f"Expected successes from 0 to the {trials} trials, got {successes}.")
    low = betaincinv(np.maximum(successes, 1), trials - successes + 1, 1 - confidence)
    high = betaincinv(successes + 1, np.maximum(trials - successes, 1), confidence)
    return np.where(successes > 0, low, 0.0), np.where(successes < trials, high, 1.0)


def many_run_epsilon(with_user: Rates, without_user: Rates, *, delta: float, confidence: float) -> float:
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
        raise ConfigurationError(
            f"Expected two runs or more of each kind, got {len(with_user)} and {len(without_user)}."
        )
    level = (1 + confidence) / 2
    candidates = np.unique(np.concatenate([chosen_in, chosen_out]))
    found = [
        _bounds(chosen_in, chosen_out, candidates, above=above, delta=delta, level=level) for above in (True, False)
    ]
    above = bool(found[0].max() >= found[1].max())
    best = candidates[[int(np.argmax(found[0 if above else 1]))]]
    return float(_bounds(test_in, test_out, best, above=above, delta=delta, level=level)[0])


def _bounds(inside: Rates, outside: Rates, thresholds: Rates, *, above: bool, delta: float, level: float) -> Rates:
    """max(0, log((p - delta) / q)) by threshold: p the rate of the side's own group on it, q that of the other."""
    likely, other = (inside, outside) if above else (outside, inside)
    hits = []
    for group in (likely, other):
        below = np.searchsorted(np.sort(group), thresholds, side="left")
        hits.append(len(group) - below if above else below)
    low, _ = binomial_limits(hits[0], len(likely), confidence=level)
    _, high = binomial_limits(hits[1], len(other), confidence=level)
    refuted = low - delta > high
    return np.log(np.where(refuted, low - delta, 1.0) / np.where(refuted, high, 1.0))
