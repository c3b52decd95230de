"""The two accountants over Opacus: PRV, tight, and Rényi, a loose bound to check the tight ones against.

PRV: numerical composition of privacy loss random variables, Gopi, Lee and Wutschitz, arXiv 2106.02848. The returned
figure is the paper's upper bound: the grid's epsilon at a slightly smaller delta, plus the grid's error.

Rényi DP: arXiv 1702.07476; of the Poisson-sampled Gaussian mechanism: arXiv 1908.10530; conversion
to (epsilon, delta): arXiv 1905.09982, Theorem 21.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys_fed import checks
from recsys_fed.errors import PrivacyError
from recsys_fed.privacy.events import PrivacyEvent, delta_left

DEFAULT_EPS_ERROR = 0.01  # of Opacus
RELATIVE_EPS_ERROR = 0.002
LARGEST_GRID = 2**21  # points, of the grids of all kinds together
SMALLEST_EPS_ERROR = 1e-4
LARGEST_EPS_ERROR = 1.0  # the paper's bound is for errors below it
LARGEST_LOSS = 600.0  # Opacus takes exp of privacy losses; doubles end at exp(709)
History = list[tuple[float, float, int]]  # Opacus' order: noise_multiplier, sampling_probability, steps
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


def epsilon_prv(events: Sequence[PrivacyEvent], *, delta: float, eps_error: float | None = None) -> float:
    """Return an upper bound on epsilon of the composition of `events`.

    Definition: the least epsilon such that P[Y > epsilon] - e^epsilon E[e^-Y; Y > epsilon] <= delta
    for the sum Y of the steps' privacy loss variables, plus `eps_error`. Neighbouring relation:
    one user removed (for the sampled Gaussian the worse direction of add or remove).
    `eps_error` is the grid's absolute error; by default 0.2% of the answer and at most 0.01, which
    is Opacus' own default. Where a grid of that error would not fit into memory, it is larger.
    Above epsilon of about 600, and where the error would be above 1, it is the Rényi bound.
    No events: 0; an event without noise: inf.
    Raises ConfigurationError unless 0 < delta < 1, PrivacyError if Opacus cannot resolve so small a delta.
    """
    checks.fraction(delta=delta)
    if eps_error is not None:
        checks.positive(eps_error=eps_error)
    if not events:
        return 0.0
    delta = delta_left(events, delta=delta)
    if delta <= 0 or any(event.noise_multiplier == 0 for event in events):
        return math.inf
    history = _history(events)
    loss_bound = _rdp(history, delta / 4000)
    if loss_bound > LARGEST_LOSS:
        return _rdp(history, delta)
    least = _least_eps_error(history, delta=delta, loss_bound=loss_bound)
    if least > LARGEST_EPS_ERROR:
        return _rdp(history, delta)
    if eps_error is not None:
        return _upper_bound(history, delta=delta, eps_error=max(eps_error, least))
    return _relative_upper_bound(history, delta=delta, least=least)


def _history(events: Sequence[PrivacyEvent]) -> History:
    """Opacus' history, with k Gaussians without sampling as one: 1 / sigma^2 = sum of 1 / sigma_i^2."""
    precision = 0.0
    sampled: defaultdict[tuple[float, float], int] = defaultdict(int)
    for event in events:
        if event.sampling_probability == 1:
            precision += event.steps / event.noise_multiplier**2
        else:
            sampled[(event.noise_multiplier, event.sampling_probability)] += event.steps
    history = [(noise, probability, steps) for (noise, probability), steps in sorted(sampled.items())]
    return history if precision == 0 else [*history, (precision**-0.5, 1.0, 1)]


def _relative_upper_bound(history: History, *, delta: float, least: float) -> float:
    """Shrink the grid's error until it is 0.2% of the answer (or as small as it may be)."""
    error = max(least, min(DEFAULT_EPS_ERROR, RELATIVE_EPS_ERROR * _rdp(history, delta)))
    while True:
        epsilon = _upper_bound(history, delta=delta, eps_error=error)
        wanted = max(least, RELATIVE_EPS_ERROR * max(epsilon - error, 0.0))
        if error <= 2 * wanted:
            return epsilon
        error = wanted


def _least_eps_error(history: History, *, delta: float, loss_bound: float) -> float:
    """The error at which Opacus' grids, one a kind, have LARGEST_GRID points together.

    Its mesh is eps_error / sqrt(steps log(12 / delta_error) / 2) over [-L - 3, L + 3]; delta_error is delta / 1000.
    L is the larger of the loss of all steps at delta_error / 4 (`loss_bound`) and of one at delta_error / (8 steps).
    """
    steps = sum(count for _, _, count in history)
    of_one = max(_rdp([(noise, probability, 1)], delta / (8_000 * steps)) for noise, probability, _ in history)
    points_times_error = 2 * (max(loss_bound, of_one) + 3) * math.sqrt(steps * math.log(12_000 / delta) / 2)
    return max(points_times_error * len(history) / LARGEST_GRID, SMALLEST_EPS_ERROR)


def _accountants() -> Any:
    """Opacus' accountants, imported at the first use: that takes seconds, and most commands account for nothing."""
    from opacus import accountants  # noqa: PLC0415

    return accountants


def _upper_bound(history: History, *, delta: float, eps_error: float) -> float:
    accountant = _accountants().PRVAccountant()
    accountant.history = history
    # At sampling_probability 1 Opacus takes log(1 - 1) = -inf, which is the right end of its support.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        try:
            epsilon = accountant.get_epsilon(delta, eps_error=eps_error)
        except (RuntimeError, ValueError) as error:
            raise PrivacyError(
                f"Opacus' PRV accountant cannot resolve delta = {delta:g} ({error}). Use a larger delta."
            ) from error
    if math.isnan(epsilon):
        raise PrivacyError(f"Opacus' PRV accountant gave no number at delta = {delta:g}. Use a larger delta.")
    return max(0.0, float(epsilon))


def _rdp(history: History, delta: float) -> float:
    accountant = _accountants().RDPAccountant()
    accountant.history = history
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        return max(0.0, float(accountant.get_epsilon(delta)))


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
    accountant = _accountants().RDPAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_probability, event.steps) for event in events]
    # Opacus warns when the best order is the last one; the bound holds at any order.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        epsilon = accountant.get_epsilon(delta, alphas=SAMPLED_ORDERS if sampled else GAUSSIAN_ORDERS)
    return max(0.0, float(epsilon))
