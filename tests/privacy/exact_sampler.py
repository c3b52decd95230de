"""Oracle: the exact discrete Gaussian sampler of arXiv 2004.00010 (algorithms 1 to 3), in integers and fractions."""

import math
import random
from fractions import Fraction


def bernoulli_exp(gamma: Fraction, source: random.Random) -> bool:
    """True with probability exp(-gamma)."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), source):
            return False
        gamma -= 1
    trials = 1
    while source.randrange(gamma.denominator * trials) < gamma.numerator:
        trials += 1
    return trials % 2 == 1


def discrete_laplace(scale: int, source: random.Random) -> int:
    """P[X = x] proportional to exp(-|x| / scale)."""
    while True:
        low = source.randrange(scale)
        if not bernoulli_exp(Fraction(low, scale), source):
            continue
        high = 0
        while bernoulli_exp(Fraction(1), source):
            high += 1
        size = low + scale * high
        negative = source.randrange(2) == 1
        if not (negative and size == 0):
            return -size if negative else size


def exact_discrete_gaussian(sigma: Fraction, source: random.Random) -> int:
    """P[X = x] proportional to exp(-x^2 / 2 sigma^2)."""
    scale = math.floor(sigma) + 1
    while True:
        value = discrete_laplace(scale, source)
        if bernoulli_exp((abs(value) - sigma**2 / scale) ** 2 / (2 * sigma**2), source):
            return value
