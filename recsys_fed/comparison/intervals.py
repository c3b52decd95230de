"""Bootstrap intervals of means over users (Efron 1979, doi 10.1214/aos/1176344552)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed import checks

_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over users and its percentile interval."""

    mean: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """The three figures, as JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap(
    values: npt.NDArray[np.float64], *, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Mean of `values` [n_users] with the percentile interval of means of users drawn with replacement.

    For a difference of two methods give the differences user by user: that is the paired interval.

    Raises:
        ConfigurationError: no values, no resamples, or a level outside (0, 1).
    """
    checks.at_least(1, n_users=len(values), resamples=resamples)
    checks.fraction(level=level)
    chunk = max(1, _CHUNK_CELLS // len(values))
    means = np.concatenate([
        values[rng.integers(len(values), size=(min(chunk, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, chunk)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))
