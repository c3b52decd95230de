"""Exact independent events of one probability, from uniform bits: who is in a Poisson sample.

An event happens where a uniform 64-bit number U is below floor(q 2^64): with probability q rounded down to a multiple
of 2^-64, never more than q. U is read as four digits of 16 bits, the highest first, and of those whose digits so far
equal the bound's, which is one in 2^16, the next digit alone. So an event costs two bytes of the stream.
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.privacy.random_bits import RandomBits

_BITS, _DIGIT = 64, 16
# Events whose digits are held at once.
_CHUNK = 1 << 17


def bernoulli(count: int, *, probability: float, bits: RandomBits) -> npt.NDArray[np.bool_]:
    """`count` independent events, bool [count].

    Guarantees, given uniform bits: each happens with probability floor(probability 2^64) / 2^64, independently of the
    others; all happen for a probability of 1, which reads no bits.
    """
    checks.probability(probability=probability)
    # Exact: a float is a fraction.
    bound = int(Fraction(probability) * 2**_BITS)
    if bound == 2**_BITS:
        return np.ones(count, dtype=np.bool_)
    digits = [bound >> shift & (1 << _DIGIT) - 1 for shift in range(_BITS - _DIGIT, -1, -_DIGIT)]
    happens = np.empty(count, dtype=np.bool_)
    for start in range(0, count, _CHUNK):
        part = happens[start : start + _CHUNK]
        drawn = bits.uint16(len(part))
        np.less(drawn, digits[0], out=part)
        equal = np.flatnonzero(drawn == digits[0])
        for digit in digits[1:]:
            drawn = bits.uint16(len(equal))
            part[equal[drawn < digit]] = True
            equal = equal[drawn == digit]
    return happens
