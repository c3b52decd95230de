"""Bounds in closed form: of the Gaussian mechanism without sampling, and of any history by Rényi divergences.

The Gaussian mechanism: Balle and Wang, arXiv 1805.06083, Theorem 8, with mu the L2 sensitivity over the noise's
standard deviation. k releases are one with mu^2 = sum of mu_i^2. Only a start for calibration: accountants have the
last word.

The Rényi bound is for histories that the accountants cannot compute in a bounded time. Rényi divergence of order a of
the Poisson-sampled Gaussian mechanism, for whole a >= 2 (arXiv 1908.10530, 3.3):

    (a - 1) rdp(a) = log sum_i binomial(a, i) (1 - q)^(a - i) q^i exp((i^2 - i) / (2 noise^2))

and a / (2 noise^2) for any a without sampling. It does not fall with the order, so that rdp(a) <= rdp(ceil(a)). The
conversion to (epsilon, delta) is that of arXiv 1905.09982, Theorem 21. Nothing is iterated: some 10^5 terms a kind.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr, logsumexp, xlog1py, xlogy

from recsys_fed.privacy.events import PrivacyEvent

_WHOLE = np.unique(np.concatenate([np.arange(2, 65), np.geomspace(64, 1024, 40).round()])).astype(np.int64)
# Orders that are not whole: near 1 for large epsilons, beyond the whole ones for histories without sampling.
_LOW, _HIGH = 1 + np.geomspace(1e-6, 0.99, 200), np.geomspace(1030, 1e9, 300)


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


def renyi_bound(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return an upper bound on the epsilon of `events`, all with noise, whose slack delta has paid for already.

    Typically 5 to 30% above the truth; more where the best order is above 1,024 and some event is sampled. Infinite
    where doubles end.
    """
    sampled = [event for event in events if event.sampling_probability < 1]
    orders = np.concatenate([_LOW, _WHOLE] if sampled else [_LOW, _WHOLE, _HIGH])
    with np.errstate(all="ignore"):
        precision = np.sum(
            [e.steps / np.float64(e.noise_multiplier) ** 2 for e in events if e.sampling_probability == 1]
        )
        rdp = orders * precision / 2
        for event in sampled:
            whole = _sampled(event.noise_multiplier, event.sampling_probability)
            rdp = rdp + float(event.steps) * whole[np.searchsorted(_WHOLE, np.ceil(orders))]
        epsilon = rdp + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    least = np.min(np.where(np.isnan(epsilon), np.inf, epsilon))
    return max(0.0, float(least))


@lru_cache(maxsize=4096)
def _sampled(noise_multiplier: float, sampling_probability: float) -> npt.NDArray[np.float64]:
    """rdp of one step at the whole orders."""
    order, i, log_binomial = _terms()
    with np.errstate(all="ignore"):
        inverse = 1 / np.float64(noise_multiplier) ** 2
        chance = xlogy(i, sampling_probability) + xlog1py(np.maximum(order - i, 0), -sampling_probability)
        # The terms for i = 0 and 1 have no factor of the noise, whatever it is.
        growth = np.where(i > 1, (i * i - i) / 2 * inverse, 0.0)
        # Errors of a sum near 1 are errors of its logarithm: rounded up.
        moments = logsumexp(log_binomial + chance + growth, axis=1) + 1e-12
        values = moments / (_WHOLE - 1)
    finite: npt.NDArray[np.float64] = np.maximum(np.nan_to_num(values, nan=np.inf, posinf=np.inf), 0.0)
    return finite


@lru_cache(maxsize=1)
def _terms() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Orders, numbers of terms, and log binomials, which are -inf beyond the order."""
    order, i = _WHOLE[:, None].astype(np.float64), np.arange(_WHOLE[-1] + 1, dtype=np.float64)[None, :]
    log_binomial = gammaln(order + 1) - gammaln(i + 1) - gammaln(np.maximum(order - i, 0) + 1)
    return order, i, np.where(i <= order, log_binomial, -np.inf)
