"""From a target (epsilon, delta) to the noise of a plan: calibrate, then account again.

The noise is found on the PLD accountant, whose figure is smooth and cheap; what is returned has
passed both accountants.
"""

import math
from collections.abc import Sequence
from functools import cache

from scipy.optimize import brentq

from recsys_fed import checks
from recsys_fed.errors import CalibrationError, ConfigurationError
from recsys_fed.privacy.accounting import epsilon_pld, epsilon_prv
from recsys_fed.privacy.accounting.closed_forms import largest_mu
from recsys_fed.privacy.accounting.pld import loss_deviation
from recsys_fed.privacy.events import PlannedRelease, PrivacyEvent, events_of

SMALLEST_EPSILON, LARGEST_EPSILON = 0.01, 200.0
SMALLEST_DELTA = 1e-12
OPACUS_EPS_ERROR = 0.01
# Opacus' default figure is 0.01 and a little above the truth. Taken in proportion below epsilon = 1,
# the margin makes noise fall with epsilon everywhere.
MARGIN = 0.012
TOLERANCE = 5e-5  # relative, of the noise multiplier
FIRST_STEP = 0.1  # of the search in log noise; doubled until the root is enclosed
ATTEMPTS = 6


def calibrate_noise_multiplier(
    plan: Sequence[PlannedRelease], *, epsilon: float, delta: float, fixed: Sequence[PrivacyEvent] = ()
) -> float:
    """Return the base noise multiplier at which the whole plan costs `epsilon` at `delta`, or just less.

    `fixed` are events whose noise is settled already, spent or planned; the plan gets what they leave.

    Guarantees, for a user added or removed:
    - `epsilon_pld` and `epsilon_prv` of `fixed` and `events_of(plan, result)` together are at most `epsilon`, and for
      0.1 <= epsilon <= 16 within 2% below it (1.2% by the margin, and the grid's error);
    - for epsilon >= 1 the same holds for Opacus' PRVAccountant at its default eps_error of 0.01. Below
      that the default's error alone may exceed what 2% leave;
    - a larger epsilon never needs more noise, more steps never less (to the accountants' 0.1%).

    epsilon = inf gives 0.0, no noise. Raises ConfigurationError for values out of range and an
    empty plan, CalibrationError for targets that the accountants cannot resolve.
    """
    checks.positive_or_inf(epsilon=epsilon)
    checks.fraction(delta=delta)
    if not plan:
        raise ConfigurationError("Expected a plan with at least one release, got none.")
    if math.isinf(epsilon):
        return 0.0
    _check_reachable(plan, epsilon=epsilon, delta=delta)
    goal = epsilon - MARGIN * min(1.0, epsilon)
    for _ in range(ATTEMPTS):
        noise = _noise_for(plan, epsilon=goal, delta=delta, fixed=fixed)
        excess = _account_again((*fixed, *events_of(plan, noise)), epsilon=epsilon, delta=delta) - epsilon
        if excess <= 0:
            return noise
        goal -= 1.05 * excess
        if goal <= 0:
            break
    raise CalibrationError(
        f"The accountants do not agree near epsilon = {epsilon:g} at delta = {delta:g}."
        " Use a larger epsilon or delta, or fewer steps."
    )


def _check_reachable(plan: Sequence[PlannedRelease], *, epsilon: float, delta: float) -> None:
    if not SMALLEST_EPSILON <= epsilon <= LARGEST_EPSILON:
        raise CalibrationError(
            f"Expected {SMALLEST_EPSILON:g} <= epsilon <= {LARGEST_EPSILON:g} or inf, got {epsilon:g}."
            " Smaller ones drown in the accountants' grids; larger ones protect nobody: say inf."
        )
    if delta < SMALLEST_DELTA:
        raise CalibrationError(
            f"Expected delta >= {SMALLEST_DELTA:g}, got {delta:g}: doubles do not resolve smaller ones."
        )
    # Some sample holds the user with probability 1 - prod (1 - q)^steps. Only above delta is noise needed.
    sampled = -math.expm1(sum(r.steps * _log_absence(r.sampling_probability) for r in plan))
    if sampled <= delta * (1 + 1e-6):
        raise CalibrationError(
            f"Expected delta = {delta:g} below the chance that a user is sampled at all; as it is, no noise"
            " would satisfy the definition and nobody would be protected. Use a smaller delta."
        )


def _log_absence(sampling_probability: float) -> float:
    return math.log1p(-sampling_probability) if sampling_probability < 1 else -math.inf


def _account_again(events: Sequence[PrivacyEvent], *, epsilon: float, delta: float) -> float:
    eps_error = OPACUS_EPS_ERROR if epsilon >= 1 else None
    return max(epsilon_pld(events, delta=delta), epsilon_prv(events, delta=delta, eps_error=eps_error))


def _noise_for(
    plan: Sequence[PlannedRelease], *, epsilon: float, delta: float, fixed: Sequence[PrivacyEvent]
) -> float:
    """Base noise multiplier at which PLD gives `epsilon`, rounded up."""
    mu = _mu_left(fixed, epsilon=epsilon, delta=delta)
    # Without sampling k releases are one Gaussian with mu^2 = sum of steps / noise^2, an upper bound.
    unsampled = math.sqrt(sum(r.steps / r.relative_noise**2 for r in plan)) / mu
    probabilities = [r.sampling_probability for r in plan] + [e.sampling_probability for e in fixed]
    if all(probability == 1 for probability in probabilities):
        return unsampled * (1 + TOLERANCE)

    @cache
    def log_ratio(log_noise: float) -> float:
        spent = epsilon_pld((*fixed, *events_of(plan, math.exp(log_noise))), delta=delta)
        return math.log(min(max(spent, 1e-9), 1e9) / epsilon)

    low = high = math.log(_normal_approximation(plan, mu=mu, unsampled=unsampled))
    step = FIRST_STEP
    while log_ratio(high) > 0:
        low, high, step = high, high + step, 2 * step
    while log_ratio(low) <= 0:
        low, high, step = low - step, low, 2 * step
    root = float(brentq(log_ratio, low, high, xtol=TOLERANCE))
    return math.exp(root + 2 * TOLERANCE)


def _mu_left(fixed: Sequence[PrivacyEvent], *, epsilon: float, delta: float) -> float:
    """mu of a Gaussian mechanism at the target, less that of the fixed events without sampling.

    Raises:
        CalibrationError: the fixed events alone cost the target.
    """
    if any(event.noise_multiplier == 0 for event in fixed) or epsilon_pld(fixed, delta=delta) >= epsilon:
        raise CalibrationError(
            f"Expected a budget that something is left of, the events that are settled cost epsilon = {epsilon:g} "
            "or more on their own. Raise epsilon, or release less."
        )
    precision = math.fsum(e.steps / e.noise_multiplier**2 for e in fixed if e.sampling_probability == 1)
    return math.sqrt(max(largest_mu(epsilon=epsilon, delta=delta) ** 2 - precision, 1e-18))


def _normal_approximation(plan: Sequence[PlannedRelease], *, mu: float, unsampled: float) -> float:
    """Noise at which the whole privacy loss has the standard deviation of a Gaussian mechanism's mu."""

    def log_ratio(log_noise: float) -> float:
        return math.log(loss_deviation(events_of(plan, math.exp(log_noise))) / mu)

    highest = math.log(unsampled) + TOLERANCE
    return math.exp(float(brentq(log_ratio, highest - 30.0, highest, xtol=0.01)))
