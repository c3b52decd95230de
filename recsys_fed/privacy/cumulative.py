"""The distribution function of the discrete Gaussian to any number of bits, by integers with a bound on their error.

    F(v) = sum_{k <= v} w(k) / sum_k w(k),     w(k) = exp(-k^2 / 2 s^2) = w(k - 1) q(k - 1),   q(k) = q(k - 1) r

with r = exp(-1 / s^2) and q(0) = w(1) = exp(-1 / 2 s^2).
"""

from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

_SPARE_BITS = 100


@lru_cache(maxsize=8)
def cumulative_floors(scale: float, bits: int) -> tuple[int, ...]:
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
