"""What the results page measures: data sets, trainers, budgets and ways to add the noise."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Specification of a data set -> how the page calls it.
DATA = {
    "ml-1m#random90": "MovieLens-1M, random90 split",
    "ultragcn": "MovieLens-1M, UltraGCN split",
}
SILOS = 10
DELTA = 1e-6
EPSILONS = (1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One line of the table.

    Attributes:
        data: a key of `DATA`.
        trainer: name of the trainer; schedule: of dp-sgd, "" for others.
        noise: "own", or "masked": once on the sum, under secure aggregation; nothing where epsilon is infinite.
        epsilon: the budget.
        seeds: runs to average over.
    """

    data: str
    trainer: str = "spectral"
    schedule: str = ""
    noise: str = "own"
    epsilon: float = math.inf
    seeds: tuple[int, ...] = SEEDS


def all_points() -> list[Point]:
    """Every line of the page, data set by data set."""
    return [point for data in DATA for point in (*_spectral(data), *_dp_sgd(data))]


def quick_points() -> list[Point]:
    """A few lines, to see that the page can be made."""
    budgets = (("own", 8.0), ("masked", 8.0), ("own", math.inf))
    return [Point(data=data, noise=noise, epsilon=budget, seeds=(0,)) for data in DATA for noise, budget in budgets]


def jobs(points: Sequence[Point]) -> list[tuple[Point, int]]:
    """Every run of the points, as (point, seed): runs on the same data and seed follow one another."""
    order = list(DATA)
    runs = [(point, seed) for point in points for seed in point.seeds]
    return sorted(runs, key=lambda run: (order.index(run[0].data), run[1]))


def _spectral(data: str) -> Iterator[Point]:
    for noise in ("own", "masked"):
        for epsilon in EPSILONS:
            yield Point(data=data, noise=noise, epsilon=epsilon)
    yield Point(data=data)


def _dp_sgd(data: str) -> Iterator[Point]:
    """Fewer points and one seed: a run takes several times as long."""
    for noise, epsilon in (("own", 8.0), ("masked", 2.0), ("masked", 8.0), ("own", math.inf)):
        yield Point(
            data=data, trainer="dp-sgd", schedule="synchronous", noise=noise, epsilon=epsilon, seeds=SEEDS[:1]
        )
    yield Point(data=data, trainer="dp-sgd", schedule="local", epsilon=8.0, seeds=SEEDS[:1])
