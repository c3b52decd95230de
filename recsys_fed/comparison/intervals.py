"""Bootstrap intervals of means over users and seeds (Efron 1979, doi 10.1214/aos/1176344552)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over users and seeds, and its percentile interval."""

    mean: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """The three figures, as JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap(
    figures: list[npt.NDArray[np.float64]],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> list[Interval | None]:
    """Means of several figures of the same users, with percentile intervals.

    Users are drawn with replacement, and so are the seeds of a figure that has several; all figures share the draws
    of users. For a difference of two methods give the differences user by user: that is the paired interval.

    Args:
        figures: each [n_seeds, n_users]; NaN in all rows for users whom it does not concern.
        rng: of the draws.
        resamples: number of draws.
        level: of the interval.

    Returns:
        An interval a figure; None for figures that concern nobody.

    Raises:
        ConfigurationError: figures of other users, no resamples, or a level outside (0, 1).
    """
    checks.at_least(1, resamples=resamples)
    checks.fraction(level=level)
    n_users = {values.shape[1] for values in figures}
    if len(n_users) > 1:
        raise ConfigurationError(f"Expected figures of the same users, got {sorted(n_users)} of them.")
    means: list[list[npt.NDArray[np.float64]]] = [[] for _ in figures]
    for counts in _draws(max(n_users, default=0), resamples, rng):
        for values, parts in zip(figures, means, strict=True):
            parts.append(_over_seeds(_means(values, counts), rng))
    return [_interval(values, np.concatenate(parts), level) for values, parts in zip(figures, means, strict=True)]


def _draws(n_users: int, resamples: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.float64]]:
    """How often each user was drawn, [n_chunk, n_users], for all resamples in chunks."""
    chunk = max(1, _CHUNK_CELLS // max(n_users, 1))
    for start in range(0, resamples, chunk):
        draws = (rng.integers(max(n_users, 1), size=n_users) for _ in range(min(chunk, resamples - start)))
        yield np.stack([np.bincount(draw, minlength=n_users) for draw in draws]).astype(np.float64)


def _means(values: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of each resample under each seed, [n_chunk, n_seeds]; NaN where nobody was drawn whom it concerns."""
    known = ~np.isnan(values[0])
    weights = (counts @ known.astype(np.float64))[:, None]
    sums = counts @ np.where(known, values, 0.0).T
    return np.asarray(np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0))


def _over_seeds(means: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    n_chunk, n_seeds = means.shape
    if n_seeds == 1:
        return means[:, 0]
    drawn = rng.integers(n_seeds, size=(n_chunk, n_seeds))
    return np.asarray(np.take_along_axis(means, drawn, axis=1).mean(axis=1))


def _interval(values: npt.NDArray[np.float64], means: npt.NDArray[np.float64], level: float) -> Interval | None:
    known = ~np.isnan(values[0])
    if not known.any():
        return None
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(values[:, known].mean()), low=float(low), high=float(high))
