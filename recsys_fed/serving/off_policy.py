"""What would have been: the value of the model's own choice, estimated from what exploration showed.

Each logged place has the item that was shown, its propensity p, a reward r in {0, 1}, the item g that the model alone
would have shown, and its propensity p(g). With w = 1{shown = g} / p(g):

    IPS                mean of w r                                   unbiased
    self-normalised    sum of w r / sum of w                         less variance, a bias of order 1/n
    doubly robust      mean of q(g) + w (r - q(shown))               unbiased whatever q is (arXiv 1103.4601)

q is a straight line in the model's score, fitted on the users of the other half.

Where p(g) is small, w is large and rare: most logs have no such place, their estimates are too low and their standard
errors far too small, although the mean over all logs is right. No estimator knows what it has never seen. So the
estimates are about the places with p(g) >= LEAST_PROPENSITY, and say how many of all places that is: there weights
are bounded. p(g) is known before anything is shown, so choosing by it biases nothing. `[exploration] own-share` gives
the model's own choice a chance at every place.

Intervals are of Student's t with as many degrees of freedom as there are effective users less one, that is
(sum W)^2 / sum W^2 for the sums W of the users' weights. Below LEAST_USERS of them there is no estimate.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_PROPENSITY = 0.1
LEAST_USERS = 30.0
_Z = 1.959964  # of the standard normal law, at 95%
_Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """Explored places, one entry each.

    Attributes:
        user: code of the user, int64 [n]. propensity, reward: float64 [n].
        greedy_propensity: p(g), float64 [n]; NaN where it was not logged, by the version before.
        greedy: whether the model's own choice was shown, bool [n].
        score, greedy_score: of what was shown and of the model's own choice, float64 [n].
    """

    user: npt.NDArray[np.int64]
    propensity: _Floats64
    greedy_propensity: _Floats64
    reward: _Floats64
    greedy: npt.NDArray[np.bool_]
    score: _Floats64
    greedy_score: _Floats64


@dataclass(frozen=True)
class _Estimate:
    """A value, its standard error, in which a user's places count as one observation, and its interval at 95%."""

    value: float
    error: float
    low: float
    high: float


def estimates(logged: Logged) -> dict[str, _Estimate]:
    """The value of what was shown ("shown"), and of the model's own choice by three estimators.

    At the places where p(g) is at least LEAST_PROPENSITY; none where there are too few effective users.
    """
    kept = estimable(logged)
    logged = Logged(**{name: column[kept] for name, column in vars(logged).items()})
    weights = np.where(logged.greedy, 1.0 / logged.greedy_propensity, 0.0)
    users = _effective_users(weights, logged.user)
    if users < LEAST_USERS:
        return {}
    total = float(weights.sum())
    normalised = float((weights * logged.reward).sum()) / total
    shown, own = _fit(logged)
    n = len(weights)
    terms = {
        "shown": logged.reward,
        "ips": weights * logged.reward,
        "doubly robust": own + weights * (logged.reward - shown),
    }
    quantile = _t_quantile(users - 1.0)
    found = {
        name: _estimate(float(t.mean()), _error(t - t.mean(), logged.user), quantile) for name, t in terms.items()
    }
    # The delta method: a ratio varies like its numerator less the ratio times its denominator.
    spread = _error(weights * (logged.reward - normalised) * n / total, logged.user)
    return found | {"self-normalised": _estimate(normalised, spread, quantile)}


def estimable(logged: Logged) -> npt.NDArray[np.bool_]:
    """The places that the estimates are about, bool [n]."""
    return np.asarray(logged.greedy_propensity >= LEAST_PROPENSITY)


def _estimate(value: float, error: float, quantile: float) -> _Estimate:
    return _Estimate(value, error, value - quantile * error, value + quantile * error)


def _effective_users(weights: _Floats64, user: npt.NDArray[np.int64]) -> float:
    """(sum W)^2 / sum W^2 of the users' sums W: as many users of equal weight would know as much."""
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=weights) if len(user) else np.zeros(1)
    squares = float((sums**2).sum())
    return float(sums.sum() ** 2 / squares) if squares else 0.0


def _t_quantile(freedom: float) -> float:
    """The two-sided 95% quantile of Student's t, by the first terms of its expansion; within 1e-4 from 29 on.

    >>> round(_t_quantile(29.0), 3)
    2.045
    """
    first = (_Z**3 + _Z) / (4.0 * freedom)
    return _Z + first + (5.0 * _Z**5 + 16.0 * _Z**3 + 3.0 * _Z) / (96.0 * freedom**2)


def _fit(logged: Logged) -> tuple[_Floats64, _Floats64]:
    """q of what was shown and of the model's own choice, [n] each, by cross-fitting over two halves of the users."""
    shown, own = np.zeros(len(logged.reward)), np.zeros(len(logged.reward))
    for half in (0, 1):
        other, mine = logged.user % 2 != half, logged.user % 2 == half
        if not other.any():
            continue
        table = np.column_stack((np.ones(int(other.sum())), logged.score[other]))
        line = np.linalg.lstsq(table, logged.reward[other], rcond=None)[0]
        shown[mine] = np.clip(line[0] + line[1] * logged.score[mine], 0.0, 1.0)
        own[mine] = np.clip(line[0] + line[1] * logged.greedy_score[mine], 0.0, 1.0)
    return shown, own


def _error(residuals: _Floats64, user: npt.NDArray[np.int64]) -> float:
    """Standard error of a mean whose residuals are summed by user."""
    if not len(residuals):
        return math.nan
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=residuals)
    return float(np.sqrt((sums**2).sum()) / len(residuals))
