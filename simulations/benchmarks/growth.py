"""How the time of a subspace round grows: exponents fitted to times at a few sizes, one size after the other in turn.

One silo, one thread, uniform random histories. An exponent is the slope of log time over log size; 1 is linear.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import sparse

from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.trainers.subspace import power_step
from recsys_fed.trainers.trainer import Tables
from simulations.benchmarks.federation_run import Federation, alternating, private_run, timed
from simulations.benchmarks.line import Line

REPETITIONS = 3
LINEAR = 1.05


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of one silo's round."""

    users: int = 40_000
    items: int = 20_000
    history: int = 50
    dim: int = 32


BASE = Size()
SERIES = {
    "users (interactions with them)": [replace(BASE, users=n) for n in (20_000, 40_000, 80_000, 160_000)],
    "interactions of each user": [replace(BASE, history=n) for n in (25, 50, 100, 200)],
    "items (interactions fixed)": [replace(BASE, items=n) for n in (5_000, 20_000, 80_000, 320_000)],
    "users x items (interactions fixed)": [
        replace(BASE, users=n, items=n // 2, history=2_400_000 // n) for n in (20_000, 40_000, 80_000, 160_000)
    ],
    "dimensions": [replace(BASE, dim=n) for n in (8, 16, 32, 64)],
}
_BARS = {"users (interactions with them)": LINEAR, "interactions of each user": LINEAR}
_SILOS = (5, 10, 20, 40)


def growth_lines() -> list[Line]:
    """One exponent a series; linear growth in interactions is what is promised."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lines = [
            Line(name=f"time of a round: exponent in {name}", value=_exponent(sizes), unit="", bar=_BARS.get(name))
            for name, sizes in SERIES.items()
        ]
        return [*lines, *_silo_lines()]
    finally:
        torch.set_num_threads(threads)


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size by least squares.

    >>> round(fit_exponent([1, 2, 4], [3, 6, 12]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _exponent(series: Sequence[Size]) -> float:
    problems = [_problem(size) for size in series]
    times = [partial(timed, partial(_round, *problem)) for problem in problems]
    for way in times:
        way()
    seconds = alternating(times, repetitions=REPETITIONS)
    return fit_exponent([_factors(size, series) for size in series], seconds)


def _factors(size: Size, series: Sequence[Size]) -> float:
    """What grows along a series; where histories get shorter to keep the interactions, they do not count."""
    names = [name for name in ("users", "items", "dim", "history") if len({getattr(s, name) for s in series}) > 1]
    return float(math.prod(getattr(size, name) for name in names if len(names) == 1 or name != "history"))


def _problem(size: Size) -> tuple[Tables, Histories]:
    rng = np.random.default_rng(0)
    columns = rng.integers(0, size.items, (size.users, size.history))
    columns.sort(axis=1)
    starts = np.arange(size.users + 1) * size.history
    ones = np.ones(columns.size, dtype=np.float32)
    histories = histories_of(sparse.csr_matrix((ones, columns.ravel(), starts), shape=(size.users, size.items)))
    for block in histories.blocks():
        _ = block.users_by_item
    direction = torch.rand(size.items, generator=torch.Generator().manual_seed(0)) + 0.5
    tables = {
        "head": torch.arange(size.items),
        "damping": torch.ones(size.items),
        "direction": direction / direction.norm(),
        "subspace": torch.from_numpy(rng.standard_normal((size.items, size.dim))).float(),
    }
    return tables, histories


def _round(tables: Tables, histories: Histories) -> None:
    power_step(tables, histories, l2_clip_norm=1.0)


def _silo_lines() -> list[Line]:
    """Whole runs of one federation cut into more and more silos, whose noisy tables are what grows."""
    runs = [Federation(n_users=20_000, n_items=5_000, mean_interactions=50, silos=n) for n in _SILOS]
    for federation in runs:
        federation.train()
    times = [partial(timed, partial(private_run, federation)) for federation in runs]
    seconds = alternating(times, repetitions=REPETITIONS)
    slope = float(np.polyfit(_SILOS, seconds, 1)[0])
    return [
        Line(name="time of a whole run: exponent in silos", value=fit_exponent(_SILOS, seconds), unit=""),
        Line(name="the same: of one more silo, three rounds, 5,000 items", value=1e3 * slope, unit="ms"),
    ]
