"""PLD accountant over Google's dp-accounting: composition of discretised privacy loss distributions.

Papers: Koskela, Jälkö, Prediger and Honkela, arXiv 2006.07134, and Koskela and Honkela, arXiv 2102.12412
(composition by FFT); Doroshenko, Ghazi, Kamath, Kumar and Manurangsi, arXiv 2207.04380 (the "connect the
dots" discretisation used here).
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import reduce

import numpy as np
from dp_accounting.pld import privacy_loss_distribution

from recsys_fed import checks
from recsys_fed.privacy.accounting.slack import delta_left
from recsys_fed.privacy.events import PrivacyEvent

RELATIVE_INTERVAL = 0.03  # over the standard deviation of one step's privacy loss
LARGEST_GRID = 2**22  # points that one event's privacy loss may take


def epsilon_pld(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `events`, tight to about 0.1%.

    Definition: the least epsilon whose hockey-stick divergence is at most delta in both directions
    of the neighbouring relation, one user added and one user removed; the discretisation errs
    upwards ("pessimistic"). No events: 0; an event without noise: inf. Where the losses are too
    wide for a grid that fits into memory, the figure is looser; above about 600 it may be inf.
    Raises ConfigurationError unless 0 < delta < 1.
    """
    checks.fraction(delta=delta)
    if not events:
        return 0.0
    delta = delta_left(events, delta=delta)
    if delta <= 0 or any(event.noise_multiplier == 0 for event in events):
        return math.inf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        distributions = _distributions(events, _interval(events))
        composed = reduce(lambda left, right: left.compose(right), distributions)
        return max(0.0, float(composed.get_epsilon_for_delta(delta)))


def loss_deviation(events: Sequence[PrivacyEvent]) -> float:
    """Return the scale of the whole privacy loss, roughly its standard deviation, for noise above zero.

    It is the square root of the sum over steps of the chi^2 divergence q^2 (exp(1 / noise^2) - 1), at
    most 1 / noise^2 as without sampling; exact in the limit of many small losses. No bound of any kind.
    """
    variance = 0.0
    for event in events:
        inverse = event.noise_multiplier**-2
        sampled = event.sampling_probability**2 * math.expm1(min(inverse, 700.0))
        variance += event.steps * min(inverse, sampled)
    return math.sqrt(variance)


def _interval(events: Sequence[PrivacyEvent]) -> float:
    """Width of the grid of privacy losses.

    Rounding n steps to a grid of width h adds variance of the order n h^2 to the whole loss; at
    h = 0.03 deviation / sqrt(n) that is 1e-3 of it. Gaussians without sampling are one step.
    """
    steps = sum(event.steps for event in events if event.sampling_probability < 1)
    tight = RELATIVE_INTERVAL * loss_deviation(events) / math.sqrt(steps + 1)
    return max(tight, _loss_range(events) / LARGEST_GRID)


def _distributions(
    events: Sequence[PrivacyEvent], interval: float
) -> list[privacy_loss_distribution.PrivacyLossDistribution]:
    """One distribution for all Gaussians without sampling (exactly one Gaussian), one per sampled kind."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[(event.sampling_probability, event.noise_multiplier)] += event.steps
    squared_mu = math.fsum(count / noise**2 for (q, noise), count in steps.items() if q == 1)
    distributions = [
        _gaussian(noise, q, interval).self_compose(count) for (q, noise), count in sorted(steps.items()) if q < 1
    ]
    if squared_mu > 0:
        distributions.append(_gaussian(1 / math.sqrt(squared_mu), 1.0, interval))
    return distributions


def _gaussian(
    noise_multiplier: float, sampling_probability: float, interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_probability,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
        use_connect_dots=True,
    )


def _loss_range(events: Sequence[PrivacyEvent]) -> float:
    """Width of the widest single privacy loss: mu^2 + 20 mu covers all but e^-50 of a Gaussian's."""
    squared_mu = math.fsum(e.steps / e.noise_multiplier**2 for e in events if e.sampling_probability == 1)
    sampled = (1 / e.noise_multiplier for e in events if e.sampling_probability < 1)
    return max(mu**2 + 20 * mu for mu in (math.sqrt(squared_mu), *sampled))
