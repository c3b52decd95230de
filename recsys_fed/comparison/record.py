"""The comparison as a record: figures with intervals, by silo, activity and item popularity, and sentences."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.comparison.compare import BOTH, LISTS, LOCAL, Compared, Floats, Groups, Line
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.groups import groups_of, worst_group
from recsys_fed.evaluation.metrics import (
    ACTIVITY_GROUPS,
    HEADLINE_CUTOFF,
    HEADLINE_NAMES,
    NEXT_NAMES,
    POPULARITY_GROUPS,
    RECALL,
    coverage,
    gini,
    items_by_popularity,
    users_by_activity,
)

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
    """Means of several figures of the same users, with percentile intervals (Efron 1979, doi 10.1214/aos/1176344552).

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


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What joining changes for the users of a silo at one budget, in the first metric of the comparison.

    Attributes:
        epsilon: the budget.
        change: with all minus alone, user by user.
        alone, joined: the two means.
    """

    epsilon: float
    change: Interval
    alone: float
    joined: float


def sentence(silo: str, gains: Sequence[Gain], *, metric: str = "Recall@20") -> str:
    """What the largest budget gives, and from which budget on the interval is above zero.

    Args:
        silo: its name.
        gains: by ascending epsilon; empty where no user of the silo has a test item.
        metric: what they are of.
    """
    if not gains:
        return f"{silo}: no user has a test item, so nothing can be said."
    last = gains[-1]
    change = last.change
    figures = f"{change.mean:+.4f} {metric} (95% interval {change.low:+.4f} to {change.high:+.4f})"
    levels = f"{last.alone:.4f} alone, {last.joined:.4f} with all, at epsilon {last.epsilon:g}"
    if change.high < 0:
        return f"{silo}: joining does not pay, it costs {figures}: {levels}."
    if change.low > 0:
        return f"{silo}: joining pays by {figures}: {levels}; it pays from epsilon {_least(gains):g} on."
    return f"{silo}: joining does not pay for sure, {figures}: {levels}."


def _least(gains: Sequence[Gain]) -> float:
    """The smallest budget from which on every larger one pays, too."""
    least = gains[-1].epsilon
    for gain in reversed(gains):
        if gain.change.low <= 0:
            break
        least = gain.epsilon
    return least


KIND, FILE = "comparison", "comparison.json"
NOT_PRIVATISED = "simulation: figures not privatised; choosing by them would have to be charged"
_BY_GROUP = RECALL.at(HEADLINE_CUTOFF)


def label_metric(name: str) -> str:
    """A metric's name for people.

    >>> label_metric("recall@20"), label_metric("ndcg@10")
    ('Recall@20', 'NDCG@10')
    """
    return name.capitalize() if name.startswith("recall") else name.upper()


def comparison_record(compared: Compared, *, seed: int = 0) -> dict[str, Any]:
    """Everything that the table, the picture, the page and --json show; an infinite epsilon is the text "inf".

    Args:
        compared: what came out.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    federation, config = compared.federation, compared.comparison.simulation.federation
    metrics = NEXT_NAMES if config.target == "next" else HEADLINE_NAMES
    silos = [
        _silo(f"silo-{number}", compared.lines, users, metrics=metrics, rng=rng)
        for number, users in enumerate(federation.users_of_silo)
    ]
    return {
        "kind": KIND,
        "data": federation.dataset.name,
        "n_users": federation.train.shape[0],
        "n_items": federation.train.shape[1],
        "n_silos": len(federation.users_of_silo),
        "trainer": config.trainer,
        "noise": config.noise,
        "secure_aggregation": config.secure_aggregation == "on",
        "delta": config.delta,
        "n_seeds": compared.comparison.n_seeds,
        "note": NOT_PRIVATISED,
        "metrics": list(metrics),
        "lines": [
            figures | {"beyond_accuracy": beyond_accuracy(line, items_by_popularity(federation.train))}
            for line, figures in zip(
                compared.lines,
                _lines(compared.lines, np.diff(federation.train.indptr), metrics=metrics, rng=rng),
                strict=True,
            )
        ],
        "silos": silos,
        "sentences": [silo.pop("sentence") for silo in silos],
        "new_items": compared.new_items,
        "by_attribute": _by_attribute(compared, seed=seed) if compared.attributes else None,
        "fusion": [{**one, "epsilon": _finite(one["epsilon"])} for one in compared.fusion] or None,
    }


def _by_attribute(compared: Compared, *, seed: int) -> dict[str, Any]:
    """Recall@20 of each group of users by attribute: attribute -> a record a method, and the worst group of each."""
    rng = np.random.default_rng([seed, 1])
    groups = list(groups_of(compared.attributes))
    figures = [
        np.where(inside, line.per_user[_BY_GROUP], np.nan) for line in compared.lines for _, _, inside in groups
    ]
    found = iter(bootstrap(figures, rng=rng))
    record: dict[str, Any] = {name: [] for name in compared.attributes}
    for line in compared.lines:
        of_line: dict[str, dict[str, Any]] = {name: {} for name in compared.attributes}
        for name, value, inside in groups:
            interval = next(found)
            if interval is not None:
                measured = int(np.count_nonzero(inside & ~np.isnan(line.per_user[_BY_GROUP][0])))
                of_line[name][value] = {"n_users": measured, **interval.record()}
        for name, values in of_line.items():
            method = {"method": line.method, "epsilon": _finite(line.epsilon), "note": line.note}
            record[name].append({**method, "groups": values, "worst": worst_group(values)})
    return record


def beyond_accuracy(line: Line, groups: Groups) -> dict[str, float] | None:
    """What users are recommended, mean of the seeds: catalogue coverage, Gini index, share of each group of items.

    None where nobody is recommended anything.
    """
    n_items = len(groups[POPULARITY_GROUPS[0]])
    found: list[dict[str, float]] = []
    for lists in line.per_user[LISTS]:
        items = lists[~np.isnan(lists)].astype(np.int64)
        counts = np.bincount(items, minlength=n_items)
        if counts.sum():
            shares = {name: float(counts[groups[name]].sum() / counts.sum()) for name in POPULARITY_GROUPS}
            seen = {"coverage": coverage(torch.from_numpy(counts > 0)), "gini": gini(torch.from_numpy(counts))}
            found.append(seen | shares)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]} if found else None


def write_comparison(folder: Path, record: dict[str, Any]) -> None:
    """Write the record beside the runs that it is about."""
    (folder / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _lines(
    lines: Sequence[Line], sizes: Floats, *, metrics: Sequence[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    activity = users_by_activity(sizes)
    names = [*metrics, *POPULARITY_GROUPS, *activity]
    figures = [
        values
        for line in lines
        for values in (
            *(line.per_user[name] for name in (*metrics, *POPULARITY_GROUPS)),
            *(np.where(inside, line.per_user[_BY_GROUP], np.nan) for inside in activity.values()),
        )
    ]
    found = iter(bootstrap(figures, rng=rng))
    return [_line(line, {name: next(found) for name in names}, metrics=metrics) for line in lines]


def _line(line: Line, found: dict[str, Interval | None], *, metrics: Sequence[str]) -> dict[str, Any]:
    records = {name: interval.record() if interval is not None else None for name, interval in found.items()}
    return {
        "method": line.method,
        "epsilon": _finite(line.epsilon),
        "note": line.note,
        **{name: records[name] for name in metrics},
        "std_over_seeds": {name: _std_over_seeds(line.per_user[name]) for name in metrics},
        "by_activity": {name: records[name] for name in ACTIVITY_GROUPS},
        "by_item_popularity": {name: records[name] for name in POPULARITY_GROUPS},
    }


def _silo(
    name: str,
    lines: Sequence[Line],
    users: npt.NDArray[np.int64],
    *,
    metrics: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Every method for the users of one silo, and what joining gains there over the silo alone."""
    alone = next(line for line in lines if line.method == LOCAL)
    joined = [line for line in lines if line.method == BOTH]
    told = metrics[0]
    figures = [line.per_user[metric][:, users] for line in lines for metric in metrics]
    figures += [line.per_user[told][:, users] - alone.per_user[told][:, users] for line in joined]
    found = iter(bootstrap(figures, rng=rng) if len(users) else [None] * len(figures))
    records = [_silo_line(line, {metric: next(found) for metric in metrics}) for line in lines]
    gains = [
        Gain(epsilon=line.epsilon, change=change, alone=_mean(alone, users, told), joined=_mean(line, users, told))
        for line, change in zip(joined, found, strict=True)
        if change is not None
    ]
    return {
        "silo": name,
        "n_users": len(users),
        "lines": records,
        "gains": [{"epsilon": gain.epsilon, **gain.change.record()} for gain in gains],
        "sentence": sentence(name, gains, metric=label_metric(told)),
    }


def _silo_line(line: Line, found: dict[str, Interval | None]) -> dict[str, Any]:
    figures = {name: interval.record() if interval is not None else None for name, interval in found.items()}
    return {"method": line.method, "epsilon": _finite(line.epsilon), **figures}


def _mean(line: Line, users: npt.NDArray[np.int64], metric: str) -> float:
    return float(np.nanmean(line.per_user[metric][:, users]))


def _std_over_seeds(values: Floats) -> float | None:
    """Standard deviation of the mean over users; None where there is one seed, or none that changes it."""
    if len(values) < 2 or np.isnan(values).all():
        return None
    return float(np.nanmean(values, axis=1).std(ddof=1))


def _finite(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else epsilon
