"""Many draws of the discrete Gaussian N_Z(0, sigma^2) of any scale, from uniform bits, without floating point.

Small scales are looked up (see `inversion_table`, which is exact). Larger ones are put together from small ones:
for independent X1 ~ N_Z(0, s1^2) and X2 ~ N_Z(0, s2^2) and an integer k

    P[k X1 + X2 = y] = rho(y) sum_x exp(-(x - c y)^2 / 2 t^2) / normaliser,      rho(y) = exp(-y^2 / 2 sigma^2)
    sigma^2 = k^2 s1^2 + s2^2,      t = s1 s2 / sigma,      c = k s1^2 / sigma^2

and by Poisson summation the sum over x is the same for all y up to a factor within 1 +- 2.01 exp(-2 pi^2 t^2)
(Micciancio and Walter, eprint 2017/259). k is chosen for t^2 >= 3: the law of k X1 + X2 is that of
N_Z(0, sigma^2) up to a factor within 1 +- e^-57 on every integer.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.inversion_table import InversionTable, inversion_table
from recsys_fed.privacy.random_bits import RandomBits

LARGEST = 2.0**40
# Scale of X2. Its table settles 97 of 100 draws with 16 bits, and stays in a processor's own cache.
_BASE = 256.0
_LARGEST_LOOKED_UP = 1_500.0
_LEAST_SQUARED_T = 3.0
# Draws that are worked on together, so that they stay in the cache. Part of what a key's stream means.
_BLOCK = 2**16
# Below it all sums on the way fit into 32 bits.
_SHORT = 2.0**25


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recipe:
    """X = ((X_0 k_1 + X_1) k_2 + X_2) ..., X_0 from `first` and the others of scale _BASE."""

    first: InversionTable
    multipliers: tuple[int, ...]


def discrete_gaussian(
    shape: tuple[int, ...], *, standard_deviation: float, bits: RandomBits
) -> npt.NDArray[np.int64]:
    """Independent draws of N_Z(0, standard_deviation^2), the discrete Gaussian of arXiv 2004.00010.

    `standard_deviation` is the law's parameter sigma (its standard deviation itself for sigma >= 1 or so, and less
    below); 0 gives zeros.

    Guarantees, given uniform bits:
        - The probability of every integer is that of N_Z(0, sigma^2) times a factor within 1 +- e^-55, with a sigma
          that is the one asked for up to a relative 2^-45, and never below it. No tail is cut off.
        - Draws are independent, and a function of the key and of the calls before.

    Not guaranteed: that the time it takes does not depend on the values drawn.

    Raises:
        ConfigurationError: a scale below 0, not finite, or above 2^40.
    """
    checks.non_negative(standard_deviation=standard_deviation)
    if standard_deviation > LARGEST:
        raise ConfigurationError(
            f"Expected standard_deviation <= 2^40, got {standard_deviation:g}. Use a coarser grid."
        )
    if standard_deviation == 0:
        return np.zeros(shape, dtype=np.int64)
    recipe = _recipe(float(standard_deviation))
    kind = "int32" if standard_deviation < _SHORT else "int64"
    draws = np.empty(math.prod(shape), dtype=np.int64)
    for start in range(0, len(draws), _BLOCK):
        block = draws[start : start + _BLOCK]
        block[:] = _drawn(recipe, len(block), bits, kind=kind)
    return draws.reshape(shape)


@lru_cache(maxsize=256)
def _recipe(standard_deviation: float) -> _Recipe:
    if standard_deviation <= _LARGEST_LOOKED_UP:
        return _Recipe(first=inversion_table(standard_deviation), multipliers=())
    rest = standard_deviation**2 - _BASE**2
    # t^2 = s1^2 s2^2 / sigma^2 with s1^2 = rest / k^2; rest > 0.97 sigma^2, so k is 145 or more.
    multiplier = math.floor(_BASE / standard_deviation * math.sqrt(rest / _LEAST_SQUARED_T))
    inner = _recipe(math.sqrt(rest) / multiplier * (1 + 2.0**-49))
    return _Recipe(first=inner.first, multipliers=(*inner.multipliers, multiplier))


def _drawn(recipe: _Recipe, count: int, bits: RandomBits, *, kind: str) -> npt.NDArray[Any]:
    total: npt.NDArray[Any] = recipe.first.draw(count, bits).astype(kind)
    for multiplier in recipe.multipliers:
        total *= multiplier
        total += inversion_table(_BASE).draw(count, bits)
    return total
