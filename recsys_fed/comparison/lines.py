"""One line of the comparison: a method, its budget, and what every user got from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys_fed.comparison.measuring import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """What a method gave.

    Attributes:
        method: its name.
        epsilon: the budget of every user; infinity where nothing is private or nothing is released.
        per_user: metric or group of test items -> [n_seeds, n_users] over all rows of the federation, NaN for users
            without such test items; one row for methods that no seed changes.
        note: what there is to say of it.
    """

    method: str
    epsilon: float = math.inf
    per_user: Mapping[str, Floats] = field(repr=False)
    note: str = ""


def line(method: str, of_seeds: Sequence[Mapping[str, Floats]], *, epsilon: float = math.inf, note: str = "") -> Line:
    """A line from what `measured` gave under each seed."""
    stacked = {name: np.stack([found[name] for found in of_seeds]) for name in of_seeds[0]}
    return Line(method=method, epsilon=epsilon, per_user=stacked, note=note)
