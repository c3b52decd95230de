"""What would have been: the value of the model's own choice, estimated from what exploration showed.

Each logged place has the item that was shown, its propensity p, a reward r in {0, 1}, and the item g that the model
alone would have shown. With w = 1{shown = g} / p:

    IPS                mean of w r                                   unbiased
    self-normalised    sum of w r / sum of w                         less variance, a bias of order 1/n
    doubly robust      mean of q(g) + w (r - q(shown))               unbiased whatever q is (arXiv 1103.4601)

q is a straight line in the model's score, fitted on the users of the other half.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """Explored places, one entry each.

    Attributes:
        user: code of the user, int64 [n]. propensity, reward: float64 [n].
        greedy: whether the model's own choice was shown, bool [n].
        score, greedy_score: of what was shown and of the model's own choice, float64 [n].
    """

    user: npt.NDArray[np.int64]
    propensity: Floats64
    reward: Floats64
    greedy: npt.NDArray[np.bool_]
    score: Floats64
    greedy_score: Floats64


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its standard error, in which a user's places count as one observation."""

    value: float
    error: float


def estimates(logged: Logged) -> dict[str, Estimate]:
    """The value of what was shown ("shown"), and of the model's own choice by three estimators."""
    weights = np.where(logged.greedy, 1.0 / logged.propensity, 0.0)
    total = max(float(weights.sum()), np.finfo(np.float64).tiny)
    normalised = float((weights * logged.reward).sum()) / total
    shown, own = _fitted(logged)
    n = len(weights)
    terms = {
        "shown": logged.reward,
        "ips": weights * logged.reward,
        "doubly robust": own + weights * (logged.reward - shown),
    }
    found = {
        name: Estimate(value=float(t.mean()), error=_error(t - t.mean(), logged.user)) for name, t in terms.items()
    }
    # The delta method: a ratio varies like its numerator less the ratio times its denominator.
    spread = _error(weights * (logged.reward - normalised) * n / total, logged.user)
    return found | {"self-normalised": Estimate(value=normalised, error=spread)}


def _fitted(logged: Logged) -> tuple[Floats64, Floats64]:
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


def _error(residuals: Floats64, user: npt.NDArray[np.int64]) -> float:
    """Standard error of a mean whose residuals are summed by user."""
    if not len(residuals):
        return math.nan
    sums = np.bincount(np.unique(user, return_inverse=True)[1], weights=residuals)
    return float(np.sqrt((sums**2).sum()) / len(residuals))
