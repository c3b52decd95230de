"""Rényi accountant over Opacus: a loose upper bound, to check the tight ones against.

Rényi DP: arXiv 1702.07476; of the Poisson-sampled Gaussian mechanism: arXiv 1908.10530; conversion
to (epsilon, delta): arXiv 1905.09982, Theorem 21.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from opacus.accountants import RDPAccountant

from recsys_fed import checks
from recsys_fed.privacy.accounting.slack import delta_left
from recsys_fed.privacy.events import PrivacyEvent

# Opacus' binomial coefficients overflow beyond order 1,029; without sampling rdp(alpha) is linear.
SAMPLED_ORDERS = (
    [1 + x / 100 for x in range(1, 10)]
    + [1 + x / 10 for x in range(1, 100)]
    + list(range(11, 64))
    + [int(order) for order in np.geomspace(64, 1000, 30)]
)
GAUSSIAN_ORDERS = [1 + float(x) for x in np.geomspace(1e-3, 1e6, 2000)]
# Opacus sums the series of an order that is not whole until its terms are below e^-30, a term at a time: 10 us each.
MOST_RDP_TERMS = 60_000


def rdp_terms(events: Sequence[PrivacyEvent]) -> float:
    """Return about how many terms Opacus sums for the default orders (1.1, 1.2, ... 10.9) of all sampled kinds.

    Term i of order a is about exp(-z^2 / (2 noise^2)) i^-(a + 1) min(1, noise / i), z = noise^2 log(1 / q - 1) + 1/2.
    """
    terms = 0.0
    for event in events:
        noise, q = event.noise_multiplier, event.sampling_probability
        if q < 1:
            z = noise**2 * math.log(1 / q - 1) + 0.5
            size = max(26.0 - (z / noise) ** 2 / 2, 0.0)
            wide = size + max(math.log(noise), 0.0)
            orders = [1 + tenth / 10 for tenth in range(1, 100)]
            terms += sum(math.exp(min(size / (order + 1), wide / (order + 2))) for order in orders)
    return terms


def epsilon_rdp(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return an upper bound on epsilon from the Rényi divergences of `events`.

    Definition: the least over orders alpha > 1 of
    rdp(alpha) + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1), where rdp(alpha)
    is the sum over all steps. Neighbouring relation: one user added or removed. Typically 5 to
    30% above the truth, more where delta is large. No events: 0; an event without noise: inf.
    Raises ConfigurationError unless 0 < delta < 1.
    """
    checks.fraction(delta=delta)
    if not events:
        return 0.0
    delta = delta_left(events, delta=delta)
    if delta <= 0 or any(event.noise_multiplier == 0 for event in events):
        return float("inf")
    sampled = any(event.sampling_probability < 1 for event in events)
    accountant = RDPAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_probability, event.steps) for event in events]
    # Opacus warns when the best order is the last one; the bound holds at any order.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        epsilon = accountant.get_epsilon(delta, alphas=SAMPLED_ORDERS if sampled else GAUSSIAN_ORDERS)
    return max(0.0, float(epsilon))
