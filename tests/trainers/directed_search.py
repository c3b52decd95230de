"""A directed search for tables and a history at which one user's term breaks the clip norm.

A case is a table in signs and exponents, one user's history and a scale for each further table. What is maximised is
either the norm itself or how far it is from the clip norm on either side: bounds on rounding show as terms that fall
short, so that following them leads to where cancellation is worst. Moves are evolutionary (1 + 1): one exponent, a
row, a part of the table, a membership, by steps of all sizes; whatever is not worse is taken.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from recsys_fed.models.histories import Histories

LARGEST = float(np.finfo(np.float32).max)
# A plateau is left after so many moves without gain.
_PATIENCE = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One user and what the server sent.

    Attributes:
        signs, exponents: of the table, [n_items, dim]; an entry is sign * 10^exponent in float32.
        has: which items the user has, bool [n_items].
        others: signs and exponents of further tables, [n_items, 2].
        knobs: exponents of public settings, [2].
        key: of negatives.
    """

    signs: np.ndarray
    exponents: np.ndarray
    has: np.ndarray
    others: np.ndarray
    knobs: np.ndarray
    key: int = field(default=0)

    @property
    def table(self) -> torch.Tensor:
        """The table, finite float32."""
        return _floats(self.signs, self.exponents)

    def column(self, number: int) -> torch.Tensor:
        """A further table of one column, positive finite float32."""
        return _floats(np.ones(len(self.others)), self.others[:, number])

    def histories(self, company: np.ndarray | None = None, place: int = 0) -> Histories:
        """The user alone, or among others [n_others, n_items], of whom `place` come before."""
        rows = self.has[None] if company is None else np.insert(company, place, self.has, axis=0)
        return dense_histories(rows)


def dense_histories(rows: np.ndarray) -> Histories:
    """Histories of a bool table [n_users, n_items]."""
    starts = np.concatenate([[0], rows.sum(1).cumsum()])
    items = np.nonzero(rows)[1].astype(np.int32)
    return Histories(items=torch.from_numpy(items), starts=torch.from_numpy(starts), n_items=rows.shape[1])


def _floats(signs: np.ndarray, exponents: np.ndarray) -> torch.Tensor:
    values = signs * np.exp(np.clip(exponents, -46, 39) * np.log(10.0))
    return torch.from_numpy(np.clip(values, -LARGEST, LARGEST).astype(np.float32))


def worst(measure: Callable[[Case], float], *, seconds: float, seed: int) -> tuple[float, Case]:
    """The largest norm that `measure` gives within the time, and where."""
    rng, end = np.random.default_rng(seed), time.monotonic() + seconds
    found: tuple[float, Case] | None = None
    while found is None or time.monotonic() < end:
        case, by_distance = start(rng), rng.random() < 0.5
        value = measure(case)
        score, idle = _score(value, by_distance), 0
        while idle < _PATIENCE:
            if found is None or value > found[0]:
                found = value, case
            if time.monotonic() >= end:
                break
            other = moved(case, rng)
            reached = measure(other)
            gained = _score(reached, by_distance)
            idle = 0 if gained > score else idle + 1
            if gained >= score:
                case, value, score = other, reached, gained
            elif reached > found[0]:
                found = reached, other
    return found


def _score(value: float, by_distance: bool) -> float:
    """A norm that is not finite is the worst there is; a term of zero is the end of a path."""
    if not np.isfinite(value):
        return np.inf
    return abs(value - 1) if by_distance and value > 0.5 else value


def start(rng: np.random.Generator) -> Case:
    """A random case, often of the kinds that broke bounds: equal rows, few scales, scores far apart."""
    dim, mine = int(rng.choice([1, 1, 2, 3, 8])), int(rng.choice([1, 2, 3, 5, 10, 30]))
    others = int(rng.choice([0, 1, 5, 50]))
    n_items = mine + others
    size = float(rng.choice([0.0, rng.normal(0, 1), rng.uniform(-45, 38)]))
    exponents = np.full((n_items, dim), size)
    signs = np.ones((n_items, dim))
    kind = rng.integers(5)
    if kind == 0:
        exponents += rng.normal(0, 10 ** rng.uniform(-8, 1), (n_items, dim))
        signs = rng.choice([-1.0, 0.0, 1.0], (n_items, dim), p=[0.4, 0.2, 0.4])
    elif kind == 1:
        signs[mine:] = -1
        exponents[mine:] += rng.uniform(-3, 3)
    elif kind == 2:
        # The user's items score alike, and all others by L less.
        signs[mine:] = -1
        exponents[:] = rng.normal(0, 0.5)
        exponents[mine:] += np.log10(rng.uniform(4, 40) / 2)
    elif kind == 3:
        exponents = exponents[:1] + rng.normal(0, 1e-7, (n_items, dim))
    else:
        exponents = rng.uniform(-45, 38, (n_items, dim))
        signs = rng.choice([-1.0, 1.0], (n_items, dim))
    return Case(
        signs=signs,
        exponents=exponents,
        has=np.arange(n_items) < mine,
        others=rng.normal(0, rng.choice([0.0, 1e-3, 1.0, 15.0]), (n_items, 2)),
        knobs=np.array([rng.uniform(-12, 6), rng.choice([-30.0, -0.5, rng.uniform(-3, 6)])]),
        key=int(rng.integers(1 << 40)),
    )


def moved(case: Case, rng: np.random.Generator) -> Case:
    """A neighbour of the case."""
    shape, step = case.exponents.shape, rng.standard_normal() * 10 ** rng.uniform(-8, 1)
    exponents, kind = case.exponents.copy(), rng.integers(9)
    row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
    if kind == 0:
        exponents[row, column] += step
    elif kind == 1:
        exponents[row] += step
    elif kind == 2:
        exponents[case.has == bool(rng.integers(2))] += step
    elif kind == 3:
        exponents[:, column] += step
    elif kind == 4:
        exponents[row] = exponents[int(rng.integers(shape[0]))]
    elif kind == 5:
        signs = case.signs.copy()
        signs[row, column] = rng.choice([-1.0, 0.0, 1.0])
        return replace(case, signs=signs)
    elif kind == 6:
        has = case.has.copy()
        has[row] = ~has[row]
        return replace(case, has=has, key=int(rng.integers(1 << 40)))
    elif kind == 7:
        knobs = case.knobs.copy()
        knobs[int(rng.integers(2))] += step
        return replace(case, knobs=knobs)
    else:
        others = case.others.copy()
        others[slice(None) if rng.random() < 0.5 else row, int(rng.integers(2))] += step
        return replace(case, others=others)
    return replace(case, exponents=exponents)
