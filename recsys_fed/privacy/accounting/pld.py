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
from dp_accounting.pld import common, privacy_loss_distribution

from recsys_fed import checks
from recsys_fed.privacy.events import PrivacyEvent, delta_left

RELATIVE_INTERVAL = 0.03  # over the standard deviation of one step's privacy loss
LARGEST_GRID = 2**18  # points that the privacy losses of all kinds may take, each of one step
LARGEST_CONVOLUTION = 2**21  # points that those of all steps may take
_FEW_POINTS = 2**16
_TRUNCATED = 1e-15  # dp-accounting's own tail mass of a composition
_ATTEMPTS = 12


def epsilon_pld(events: Sequence[PrivacyEvent], *, delta: float) -> float:
    """Return an upper bound on epsilon of the composition of `events`, tight to about 0.1%.

    Definition: the least epsilon whose hockey-stick divergence is at most delta in both directions
    of the neighbouring relation, one user added and one user removed; the discretisation errs
    upwards ("pessimistic"). No events: 0; an event without noise: inf. Where the losses are too
    wide for a grid of bounded size, the grid is coarser and the figure looser; above about 600 it may be inf.
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
        interval = _interval(events)
        for _ in range(_ATTEMPTS):
            steps = _distributions(events, interval)
            if sum(_convolved_points(one, count) for one, count in steps) <= LARGEST_CONVOLUTION:
                composed = reduce(lambda left, right: left.compose(right), (_compose(one, n) for one, n in steps))
                return max(0.0, float(composed.get_epsilon_for_delta(delta)))
            interval *= 4
    return math.inf


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
) -> list[tuple[privacy_loss_distribution.PrivacyLossDistribution, int]]:
    """The privacy loss of one step of each sampled kind, with its steps; all others are one Gaussian, with 0."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[(event.sampling_probability, event.noise_multiplier)] += event.steps
    squared_mu = math.fsum(count / noise**2 for (q, noise), count in steps.items() if q == 1)
    distributions = [(_gaussian(noise, q, interval), count) for (q, noise), count in sorted(steps.items()) if q < 1]
    if squared_mu > 0:
        distributions.append((_gaussian(1 / math.sqrt(squared_mu), 1.0, interval), 0))
    return distributions


def _compose(
    one: privacy_loss_distribution.PrivacyLossDistribution, steps: int
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """The privacy loss of all steps; `steps` is 0 for a distribution that is composed already."""
    if not steps:
        return one
    remove, add = one._pmf_remove, one._pmf_add
    if steps > 1 and min(remove.size, add.size) == 1:
        # A distribution of one point is composed a step at a time unless it is dense.
        one = privacy_loss_distribution.PrivacyLossDistribution(remove.to_dense_pmf(), add.to_dense_pmf())
    return one.self_compose(steps)


def _convolved_points(one: privacy_loss_distribution.PrivacyLossDistribution, steps: int) -> int:
    """Most points of the composition of so many steps, by the Chernoff bound with which dp-accounting cuts its tails.

    A few of its orders: the others only make the composition smaller.
    """
    points = 0
    for pmf in {id(pmf): pmf for pmf in (one._pmf_remove, one._pmf_add)}.values():
        if steps <= 1 or steps * pmf.size <= _FEW_POINTS:
            points += max(steps, 1) * pmf.size
            continue
        probabilities = pmf.to_dense_pmf()._probs
        orders = np.array([-20, -4, -1, 1, 4, 20]) / len(probabilities)
        low, high = common.compute_self_convolve_bounds(probabilities, steps, _TRUNCATED, orders)
        points += max(high - low + 1, len(probabilities))
    return points


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
    """Width of the single privacy losses, added up: mu^2 + 20 mu covers all but e^-50 of a Gaussian's."""
    squared_mu = math.fsum(e.steps / e.noise_multiplier**2 for e in events if e.sampling_probability == 1)
    sampled = {1 / e.noise_multiplier for e in events if e.sampling_probability < 1}
    return math.fsum(mu**2 + 20 * mu for mu in (math.sqrt(squared_mu), *sampled))
