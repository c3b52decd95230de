"""A lower bound from one run for Gaussian mechanisms: Mahloujifar, Melis and Chaudhuri, arXiv 2410.22235.

Hypothesis: the mechanism is f-DP for the trade-off curve f of a Gaussian mechanism with parameter mu (arXiv
1905.02383). The paper's Algorithm 3 (with its cap for abstentions) bounds by a recursion how probable it is to guess
v or more of r right among m canaries. With g(x) = Phi(Phi^-1(x) - mu), alpha = 1 - confidence,

    r_v = alpha v / m,   h_v = alpha (r - v) / m
    h_{i-1} = max(h_i, g(r_i)),   r_{i-1} = r_i + (i - 1) / (r - i + 1) (h_{i-1} - h_i),   i = v, ..., 1

and mu is refuted if r_0 + h_0 > r / m. Many candidates mu are worked on at once.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from recsys_fed import checks
from recsys_fed.audit.statistics.gaussian import epsilon_of_mu
from recsys_fed.audit.statistics.guesses import Guesses

_CANDIDATES = 33
_LARGEST_MU = 12.0
_REFINEMENTS = 3


def refuted(guesses: Guesses, mu: npt.NDArray[np.float64], *, confidence: float) -> npt.NDArray[np.bool_]:
    """Which of the parameters mu >= 0 the guesses refute at this confidence, bool [len(mu)]."""
    checks.fraction(confidence=confidence)
    alpha, total = 1 - confidence, guesses.canaries
    if not guesses.made or not guesses.correct:
        return np.zeros(mu.shape, dtype=bool)
    right = np.full(mu.shape, alpha * guesses.correct / total)
    wrong = np.full(mu.shape, alpha * (guesses.made - guesses.correct) / total)
    for i in range(guesses.correct - 1, -1, -1):
        before = wrong
        wrong = np.maximum(wrong, ndtr(ndtri(np.minimum(right, 1.0)) - mu))
        if np.array_equal(wrong, before):
            # Nothing changes any more, as h can only grow by what r has grown.
            break
        right = np.minimum(right + i / (guesses.made - i) * (wrong - before), 1.0)
    found: npt.NDArray[np.bool_] = right + wrong > guesses.made / total
    return found


def refuted_mu(guesses: Guesses, *, confidence: float) -> float:
    """The largest mu that the guesses refute, to 1e-3 from below; 0 if they refute none."""
    low, high = 0.0, _LARGEST_MU
    for _ in range(_REFINEMENTS):
        candidates = np.linspace(low, high, _CANDIDATES)
        kept = refuted(guesses, candidates, confidence=confidence)
        # The first that stands: refutation is monotone in mu.
        first = int(np.argmin(kept)) if not kept.all() else len(kept) - 1
        if not first:
            return 0.0
        low, high = float(candidates[first - 1]), float(candidates[first])
    return low


def one_run_fdp_epsilon(guesses: Guesses, *, delta: float, confidence: float) -> float:
    """Epsilon at `delta` of the largest refuted Gaussian parameter.

    Guarantees: if the releases together are mu-GDP for the canaries (compositions of Gaussian mechanisms without
    sampling are, exactly), the result exceeds their epsilon(delta) with probability at most 1 - confidence. Of other
    mechanisms it refutes the Gaussian claim, not (epsilon, delta) as such.
    """
    return epsilon_of_mu(refuted_mu(guesses, confidence=confidence), delta=delta)
