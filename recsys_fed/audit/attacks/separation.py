"""How well scores tell members from others: AUC and advantage, each with an interval."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

_LEAST = 4


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with the limits of its two-sided interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Separation:
    """AUC (0.5: coin tossing) and advantage (true less false positive rate; 0: coin tossing).

    The advantage is that of the threshold that is best on one half of the scores, measured on the other half.
    """

    auc: Figure
    advantage: Figure
    members: int
    others: int

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def separation(
    members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, confidence: float = 0.95
) -> Separation:
    """Separation of two groups of scores, four of each or more.

    AUC by rank sums with DeLong's variance (1988); ties count half.
    """
    checks.fraction(confidence=confidence)
    if min(len(members), len(others)) < _LEAST:
        raise ConfigurationError(f"Expected {_LEAST} scores of each kind, got {len(members)} and {len(others)}.")
    z = float(norm.ppf((1 + confidence) / 2))
    return Separation(
        auc=_auc(members, others, z=z),
        advantage=_advantage(members, others, z=z),
        members=len(members),
        others=len(others),
    )


def mean_figure(values: npt.NDArray[np.float64], *, confidence: float = 0.95) -> Figure:
    """Mean over people with a normal interval."""
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = float(norm.ppf((1 + confidence) / 2)) * spread / len(values) ** 0.5
    return Figure(value=mean, low=mean - half, high=mean + half)


def _auc(members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, z: float) -> Figure:
    n, m = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    # Placement of each score among those of the other group.
    above = (ranks[:n] - rankdata(members)) / m
    below = 1 - (ranks[n:] - rankdata(others)) / n
    value = float(above.mean())
    half = z * float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
    return Figure(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def _advantage(members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, z: float) -> Figure:
    candidates = np.unique(np.concatenate([members[::2], others[::2]]))
    rates = [np.mean(members[::2] >= t) - np.mean(others[::2] >= t) for t in candidates]
    threshold = candidates[int(np.argmax(rates))]
    hits, alarms = members[1::2] >= threshold, others[1::2] >= threshold
    value = float(hits.mean() - alarms.mean())
    half = z * float(np.sqrt(hits.var() / len(hits) + alarms.var() / len(alarms)))
    return Figure(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))
