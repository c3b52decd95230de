"""A lower bound of epsilon from one run: Steinke, Nasr and Jagielski, arXiv 2305.08846, Theorem 5.2.

If the mechanism is (epsilon, delta)-differentially private, the number of right guesses out of r among m canaries is
stochastically dominated by W + F, where W ~ Binomial(r, e^epsilon / (e^epsilon + 1)) and F counts how often delta
"fails". So

    P[correct >= v] <= beta + 2 m delta alpha,   beta = P[W >= v],   alpha = max_{1 <= i <= v} P[v - i <= W < v] / i

and the bound is the largest epsilon at which this p-value is at most 1 - confidence.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from recsys_fed import checks
from recsys_fed.audit.statistics.guesses import Guesses

_LARGEST = 64.0


def one_run_p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses if the mechanism is (epsilon, delta)-private."""
    checks.non_negative(epsilon=epsilon, delta=delta)
    made, correct = guesses.made, guesses.correct
    if not correct:
        return 1.0
    q = expit(epsilon)
    beta = float(binom.sf(correct - 1, made, q))
    number = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - number, made, q))
    alpha = float(np.max(below / number))
    return min(1.0, beta + 2 * guesses.canaries * delta * alpha)


def one_run_epsilon(guesses: Guesses, *, delta: float, confidence: float) -> float:
    """The largest epsilon that the guesses refute at this confidence; 0 if they refute none.

    Guarantees: for any (epsilon, delta)-private mechanism (add or remove one canary, each in with probability one
    half) the result exceeds epsilon with probability at most 1 - confidence, whatever the guesser does. m right
    guesses out of m refute at most about log(m / log(1 / (1 - confidence))).
    """
    checks.fraction(confidence=confidence)

    def excess(epsilon: float) -> float:
        return one_run_p_value(guesses, epsilon=epsilon, delta=delta) - (1 - confidence)

    if not guesses.made or excess(0.0) > 0:
        return 0.0
    # With delta > 0 the p-value need not fall below alpha again beyond the first crossing: take the first.
    high = 0.5
    while high < _LARGEST and excess(high) <= 0:
        high += 0.5
    return float(brentq(excess, high - 0.5, high, xtol=1e-6)) if high < _LARGEST else _LARGEST
