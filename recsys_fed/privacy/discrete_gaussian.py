"""Many draws of the discrete Gaussian N_Z(0, sigma^2) of any scale, from uniform bits, without floating point.

*Small scales* s are looked up, by exact inversion:

    P[X = v] = exp(-v^2 / 2 s^2) / sum_k exp(-k^2 / 2 s^2),      X = min {v : U < F(v)},   U uniform on [0, 1)

U is revealed bit by bit and only as far as needed. Its first 16 bits settle X but for cells of [0, 1) that hold a
value of F; 48 bits settle it but for one draw in 2^33 or fewer, and for that one F is worked out to as many bits as
it takes (`_cumulative_floors`), by integers with a bound on their error:

    F(v) = sum_{k <= v} w(k) / sum_k w(k),     w(k) = exp(-k^2 / 2 s^2) = w(k - 1) q(k - 1),   q(k) = q(k - 1) r

with r = exp(-1 / s^2) and q(0) = w(1) = exp(-1 / 2 s^2). Nothing is rounded: given uniform bits the law is exact,
tails included.

*Larger scales* are put together from small ones: for independent X1 ~ N_Z(0, s1^2) and X2 ~ N_Z(0, s2^2) and an
integer k

    P[k X1 + X2 = y] = rho(y) sum_x exp(-(x - c y)^2 / 2 t^2) / normaliser,      rho(y) = exp(-y^2 / 2 sigma^2)
    sigma^2 = k^2 s1^2 + s2^2,      t = s1 s2 / sigma,      c = k s1^2 / sigma^2

and by Poisson summation the sum over x is the same for all y up to a factor within 1 +- 2.01 exp(-2 pi^2 t^2)
(Micciancio and Walter, eprint 2017/259). k is chosen for t^2 >= 3: the law of k X1 + X2 is that of
N_Z(0, sigma^2) up to a factor within 1 +- e^-57 on every integer.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.random_bits import RandomBits

_SPARE_BITS = 100
# Values stay within 16 bits: fifteen and a half times the scale is where the table ends.
LARGEST_SCALE = 2_000.0
# Marks in `cells` and `lower`: more bits are needed; more than one value of F lies in the cell.
_UNSETTLED = _CROWDED = np.iinfo(np.int16).min
_CELL_BITS, _REST_BITS = 16, 32
_WORD_BITS = _CELL_BITS + _REST_BITS
_REST = np.uint64(2**_REST_BITS - 1)
LARGEST = 2.0**40
# Scale of X2. Its table settles 97 of 100 draws with 16 bits, and stays in a processor's own cache.
_BASE = 256.0
_LARGEST_LOOKED_UP = 1_500.0
_LEAST_SQUARED_T = 3.0
# Draws that are worked on together, so that they stay in the cache. Part of what a key's stream means.
_BLOCK = 2**16
# Below it all sums on the way fit into 32 bits.
_SHORT = 2.0**25


@lru_cache(maxsize=8)
def _cumulative_floors(scale: float, bits: int) -> tuple[int, ...]:
    """floor(2^bits F(v)) for v = -reach to reach, exactly; the mass beyond the reach is far below 2^-bits.

    F is enclosed between two fractions. Where their floors differ, more bits are carried; F lies strictly between
    0 and 1, so that the ends need no more of them.
    """
    carried = bits + _SPARE_BITS
    while True:
        floors = _agreed_floors(Fraction(scale), bits, carried)
        if floors is not None:
            return floors
        carried *= 2


def _agreed_floors(scale: Fraction, bits: int, carried: int) -> tuple[int, ...] | None:
    weights = _weights(scale, carried)
    sums = list(accumulate([*reversed(weights[1:]), *weights]))
    # w(v) is too small by less than 2 (v + 1)^2 units; beyond the last one, where v >= s and the integer is zero, the
    # weights of either end add up to less than s times that. Together less than this:
    error = 6 * (len(weights) + 1) ** 3
    low = [max(0, (total << bits) // (sums[-1] + error)) for total in sums]
    high = [min((1 << bits) - 1, (total + error << bits) // sums[-1]) for total in sums]
    return tuple(low) if low == high else None


def _weights(scale: Fraction, carried: int) -> list[int]:
    """2^carried w(v) as integers, v = 0, 1, ..., never too large, up to the first zero at v >= s.

    Products are cut off to integers and factors are at most 1, so q(v) is too small by less than 3 v + 3 units and
    w(v) by less than 2 (v + 1)^2.
    """
    ratio = exponential(-1 / scale**2, carried)
    quotient = exponential(-1 / (2 * scale**2), carried)
    weights = [1 << carried]
    while weights[-1] or len(weights) <= scale:
        weights.append(weights[-1] * quotient >> carried)
        quotient = quotient * ratio >> carried
    return weights


def exponential(exponent: Fraction, carried: int) -> int:
    """2^carried e^exponent for exponent <= 0, never too large and by less than two units too small.

    Decimal rounds exp correctly.
    """
    if exponent < -carried:
        return 0
    context = Context(prec=carried)
    power = context.exp(context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))
    return max(0, int(context.multiply(power, Decimal(1 << carried))) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _InversionTable:
    """The law of one scale, ready to be looked up.

    Attributes:
        scale: s, at most LARGEST_SCALE.
        floors: floor(2^48 F(v)) for v = -reach to reach, uint64 [2 reach + 1].
        cells: X for each value of U's first 16 bits, int16 [2^16], or _UNSETTLED.
        lower: for a cell with one value F(v) in it, that v, int16 [2^16], or _CROWDED; X is v or v + 1.
        bounds: the last 32 bits of floor(2^48 F(v)) for that v, uint32 [2^16].
    """

    scale: float
    floors: npt.NDArray[np.uint64]
    cells: npt.NDArray[np.int16]
    lower: npt.NDArray[np.int16]
    bounds: npt.NDArray[np.uint32]

    def draw(self, count: int, bits: RandomBits) -> npt.NDArray[np.int16]:
        """Independent draws of N_Z(0, s^2)."""
        first = bits.uint16(count)
        # Sixteen bits are never out of range; "wrap" is the fastest way to say so.
        values = np.take(self.cells, first, mode="wrap")
        unsettled = np.flatnonzero(values == _UNSETTLED)
        if len(unsettled):
            values[unsettled] = self._settle(first[unsettled], bits)
        return values

    def _settle(self, first: npt.NDArray[np.uint16], bits: RandomBits) -> npt.NDArray[np.int16]:
        """X for draws whose first 16 bits do not settle it."""
        rest = bits.uint32(len(first))
        lower, bounds = np.take(self.lower, first, mode="clip"), np.take(self.bounds, first, mode="clip")
        values = lower + (rest > bounds)
        crowded = np.flatnonzero(lower == _CROWDED)
        words = (first[crowded].astype(np.uint64) << np.uint64(_REST_BITS)) | rest[crowded]
        below = np.searchsorted(self.floors, words, side="left")
        values[crowded] = below - len(self.floors) // 2
        tied = np.flatnonzero((rest == bounds) & (lower != _CROWDED))
        also = crowded[self.floors[below] == words]
        for place in (*tied, *also):
            values[place] = self.beyond(int(first[place]) << _REST_BITS | int(rest[place]), bits)
        return values

    def beyond(self, word: int, bits: RandomBits) -> int:
        """X for a draw whose first 48 bits are `word`, one of `floors`, with as many more bits as it takes."""
        length = _WORD_BITS
        while True:
            word, length = word << _REST_BITS | int(bits.uint32(1)[0]), length + _REST_BITS
            floors = _cumulative_floors(self.scale, length)
            below = bisect_left(floors, word)
            if floors[below] != word:
                return below - len(floors) // 2


@lru_cache(maxsize=128)
def _inversion_table(scale: float) -> _InversionTable:
    """The table of a scale, kept for the next call."""
    floors = np.array(_cumulative_floors(scale, _WORD_BITS), dtype=np.uint64)
    reach = len(floors) // 2
    start = np.arange(2**_CELL_BITS, dtype=np.uint64) << np.uint64(_REST_BITS)
    below = np.searchsorted(floors, start, side="left")
    inside = np.searchsorted(floors, start | _REST, side="right") - below
    one = inside == 1
    return _InversionTable(
        scale=scale,
        floors=floors,
        cells=np.where(inside == 0, below - reach, _UNSETTLED).astype(np.int16),
        lower=np.where(one, below - reach, _CROWDED).astype(np.int16),
        bounds=(floors[np.minimum(below, 2 * reach)] & _REST).astype(np.uint32),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recipe:
    """X = ((X_0 k_1 + X_1) k_2 + X_2) ..., X_0 from `first` and the others of scale _BASE."""

    first: _InversionTable
    multipliers: tuple[int, ...]


def discrete_gaussian(
    shape: tuple[int, ...], *, standard_deviation: float, bits: RandomBits
) -> npt.NDArray[np.int64]:
    """Draws of that shape, independent, of N_Z(0, standard_deviation^2), the discrete Gaussian of arXiv 2004.00010.

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
        block[:] = _draw(recipe, len(block), bits, kind=kind)
    return draws.reshape(shape)


@lru_cache(maxsize=256)
def _recipe(standard_deviation: float) -> _Recipe:
    if standard_deviation <= _LARGEST_LOOKED_UP:
        return _Recipe(first=_inversion_table(standard_deviation), multipliers=())
    rest = standard_deviation**2 - _BASE**2
    # t^2 = s1^2 s2^2 / sigma^2 with s1^2 = rest / k^2; rest > 0.97 sigma^2, so k is 145 or more.
    multiplier = math.floor(_BASE / standard_deviation * math.sqrt(rest / _LEAST_SQUARED_T))
    inner = _recipe(math.sqrt(rest) / multiplier * (1 + 2.0**-49))
    return _Recipe(first=inner.first, multipliers=(*inner.multipliers, multiplier))


def _draw(recipe: _Recipe, count: int, bits: RandomBits, *, kind: str) -> npt.NDArray[Any]:
    total: npt.NDArray[Any] = recipe.first.draw(count, bits).astype(kind)
    for multiplier in recipe.multipliers:
        total *= multiplier
        total += _inversion_table(_BASE).draw(count, bits)
    return total
