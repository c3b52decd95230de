"""A test of two variants that may be looked at after every user: testing by betting (arXiv 2010.09686).

Users come in the order of their first list, user t in arm A_t (1 with probability p) with an outcome Y_t in [0, 1].
With m the mean outcome of the users before,

    Z_t = (A_t / p - (1 - A_t) / (1 - p)) (Y_t - m)

has mean tau, the difference of the arms' means, whatever came before. So for the right tau

    W_t = 1/2 prod_s (1 + lambda_s (Z_s - tau)) + 1/2 prod_s (1 - lambda_s (Z_s - tau))

is a fair game, lambda_s being chosen from the users before s: by Ville's inequality it ever reaches 1/level with
probability at most `level`. No assumption on the outcomes, no number of users fixed before.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

# Candidate differences; the interval is as fine as this.
_STEP = 0.0025
# No bet may lose more than this share of the wealth.
_STAKE = 0.5
Floats64 = npt.NDArray[np.float64]
Share: TypeAlias = float | Floats64


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What is known of the difference between two arms, at any time.

    Attributes:
        users: in both arms. means: mean outcome of control and treatment, None of an arm without users.
        p_value: valid at every look; it never rises. significant: whether it is at most the level.
        low, high: confidence sequence of the difference, which holds at every look at once: all candidates whose
        wealth is below 1 / level at this look, so that a difference that fades is seen to. Sets of earlier looks
        are not intersected: that could leave nothing, or an interval beside what is observed.
    """

    users: tuple[int, int]
    means: tuple[float | None, float | None]
    p_value: float
    low: float
    high: float
    significant: bool


def compare_arms(treated: npt.NDArray[np.bool_], outcomes: Floats64, *, share: Share, level: float) -> _Comparison:
    """Compare treatment and control.

    Args:
        treated: arm of each user, in the order of their first list, bool [n].
        outcomes: of each user, in [0, 1], [n].
        share: probability of the treatment; of each user where it was not the same for all.
        level: of the test, over all looks.
    """
    checks.fraction(level=level)
    if not ((np.asarray(share) > 0) & (np.asarray(share) < 1)).all():
        raise ConfigurationError("Expected shares between 0 and 1, got one that is not.")
    if len(outcomes) and not (outcomes.min() >= 0 and outcomes.max() <= 1):
        raise ConfigurationError("Expected outcomes in [0, 1], got one outside.")
    differences = np.round(np.arange(-1.0, 1.0 + _STEP / 2, _STEP), 6)
    now, most = _log_wealths(treated, outcomes, differences, share=share, level=level)
    # log(1 + x) <= x: some difference has no wealth above 1, so that only a coarse grid could leave nothing.
    inside = differences[now <= max(math.log(1.0 / level), now.min())]
    means = [float(outcomes[arm].mean()) if arm.any() else None for arm in (~treated, treated)]
    p_value = min(1.0, math.exp(-most[len(differences) // 2]))
    return _Comparison(
        users=(int((~treated).sum()), int(treated.sum())),
        means=(means[0], means[1]),
        p_value=p_value,
        low=float(inside.min()),
        high=float(inside.max()),
        significant=p_value <= level,
    )


def largest_log_wealth(
    treated: npt.NDArray[np.bool_], outcomes: Floats64, differences: Floats64, *, share: Share, level: float
) -> Floats64:
    """log of the largest wealth so far against each candidate difference, [n_differences]."""
    return _log_wealths(treated, outcomes, differences, share=share, level=level)[1]


def _log_wealths(
    treated: npt.NDArray[np.bool_], outcomes: Floats64, differences: Floats64, *, share: Share, level: float
) -> tuple[Floats64, Floats64]:
    """log of the wealth after the last user, and of the largest so far, [n_differences] each.

    Guarantees: against the true difference the wealth's expectation is 1 after every user.
    """
    values = _centre(treated, outcomes, share)
    rates = _rates(values, level)
    largest = 1.0 / np.minimum(share, 1.0 - np.asarray(share))
    bounds = np.broadcast_to(largest, len(values)).tolist()
    width = np.abs(differences)
    up, down = np.zeros(len(differences)), np.zeros(len(differences))
    now, most = np.zeros(len(differences)), np.zeros(len(differences))
    for value, rate, bound in zip(values.tolist(), rates.tolist(), bounds, strict=True):
        stake = np.minimum(rate, _STAKE / (bound + width)) * (value - differences)
        up += np.log1p(stake)
        down += np.log1p(-stake)
        now = np.logaddexp(up, down) - math.log(2.0)
        most = np.maximum(most, now)
    return now, most


def _centre(treated: npt.NDArray[np.bool_], outcomes: Floats64, share: Share) -> Floats64:
    """Z of every user, [n]; the mean starts at 1/2."""
    before = np.concatenate(([0.0], np.cumsum(outcomes)[:-1])) if len(outcomes) else outcomes
    means = (before + 0.5) / (np.arange(len(outcomes)) + 1.0)
    return np.where(treated, 1.0 / share, -1.0 / (1.0 - share)) * (outcomes - means)


def _rates(values: Floats64, level: float) -> Floats64:
    """Stake of each user from the users before: sqrt(2 log(2 / level) / (variance t log(t + 1)))."""
    t = np.arange(1, len(values) + 1, dtype=np.float64)
    squares = np.concatenate(([0.0], np.cumsum(values**2)[:-1])) if len(values) else values
    variance = (squares + 0.25) / t
    return np.sqrt(2.0 * math.log(2.0 / level) / (variance * t * np.log(t + 1.0)))
