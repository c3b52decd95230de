"""The Gaussian mechanism without sampling, in closed form.

Balle and Wang, arXiv 1805.06083, Theorem 8, with mu the L2 sensitivity over the noise's standard
deviation. k releases are one with mu^2 = sum of mu_i^2. Only a start for calibration: accountants
have the last word.
"""

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr


def gaussian_delta(mu: float, *, epsilon: float) -> float:
    """Return the exact delta at `epsilon`: Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)."""
    first = math.exp(log_ndtr(mu / 2 - epsilon / mu))
    return first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))


def largest_mu(*, epsilon: float, delta: float) -> float:
    """Return the mu at which the exact delta at `epsilon` > 0 is `delta` in (0, 1)."""
    # mu = sqrt(2 epsilon) gives a delta above 1/4 or so; the doubling covers the deltas above that.
    low, high = 1e-9, math.sqrt(2 * epsilon) + 1.0
    while gaussian_delta(high, epsilon=epsilon) < delta:
        high *= 2
    while gaussian_delta(low, epsilon=epsilon) > delta:
        low /= 2
    return float(brentq(lambda mu: gaussian_delta(mu, epsilon=epsilon) - delta, low, high, xtol=1e-14))
