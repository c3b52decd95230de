"""The Gaussian view of an audit: mu of the scores, its lower confidence limit, and epsilon. An estimate, no bound.

For releases that are Gaussian mechanisms without sampling, the log-likelihood ratio of one canary is N(-mu^2/2, mu^2)
without it and N(mu^2/2, mu^2) with it, so mu = (mean with - mean without) / standard deviation. If other canaries
blur the score, or the score is not the best one, the estimate is too low; if scores are not normal it means nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

from recsys_fed import checks
from recsys_fed.privacy.accounting.closed_forms import gaussian_delta

_LEAST_GROUP = 2


@dataclass(frozen=True, kw_only=True)
class GaussianEstimate:
    """mu as estimated, its lower confidence limit, and the epsilon of each at delta."""

    mu: float
    mu_low: float
    epsilon: float
    epsilon_low: float


def epsilon_of_mu(mu: float, *, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian mechanism with parameter mu; 0 where delta alone covers it."""
    checks.fraction(delta=delta)
    if not mu > 0 or gaussian_delta(mu, epsilon=0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon=epsilon) - delta, 0.0, high, xtol=1e-9))


def gaussian_estimate(
    scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], *, delta: float, confidence: float
) -> GaussianEstimate:
    """mu from the two groups of scores, one-sided.

    mu is the difference of means over the pooled standard deviation; its variance is 1/n_in + 1/n_out +
    mu^2 / (2 (n - 2)). A group of fewer than two, or no spread, gives zeros.
    """
    checks.fraction(confidence=confidence)
    inside, outside = scores[included], scores[~included]
    n_in, n_out = len(inside), len(outside)
    if min(n_in, n_out) < _LEAST_GROUP:
        return GaussianEstimate(mu=0.0, mu_low=0.0, epsilon=0.0, epsilon_low=0.0)
    left = float(inside.var(ddof=1) * (n_in - 1) + outside.var(ddof=1) * (n_out - 1)) / (n_in + n_out - 2)
    if not (math.isfinite(left) and left > 0):
        return GaussianEstimate(mu=0.0, mu_low=0.0, epsilon=0.0, epsilon_low=0.0)
    mu = float(inside.mean() - outside.mean()) / math.sqrt(left)
    deviation = math.sqrt(1 / n_in + 1 / n_out + mu**2 / (2 * (n_in + n_out - 2)))
    low = max(0.0, mu - float(norm.ppf(confidence)) * deviation)
    mu = max(0.0, mu)
    return GaussianEstimate(
        mu=mu,
        mu_low=low,
        epsilon=epsilon_of_mu(mu, delta=delta),
        epsilon_low=epsilon_of_mu(low, delta=delta),
    )
