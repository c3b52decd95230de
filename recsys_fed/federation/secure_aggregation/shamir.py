"""Shamir's secret sharing over the integers modulo p = 2^256 + 297, the least prime that holds 32 bytes.

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)   with uniform a_i,      share of x = f(x),      secret = f(0)

Any t - 1 shares are uniform and independent of the secret; t of them give it back.
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.errors import OutOfFieldShareError, WrongShareError

PRIME = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, points: Sequence[int], *, threshold: int) -> dict[int, bytes]:
    """One share for each point (from 1), `threshold` of which give the secret back.

    Guarantees: `threshold - 1` shares say nothing about the secret; coefficients come from the operating system.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"Expected a secret of {SECRET_BYTES} bytes, got {len(secret)}.")
    if len(set(points)) != len(points) or min(points) < 1 or not 1 <= threshold <= len(points):
        raise ConfigurationError(
            f"Expected different points from 1 and a threshold up to their number {len(points)}."
        )
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of `threshold` shares or more, by point; the first `threshold` of them are used.

    Raises:
        OutOfFieldShareError: a share is no element of the field.
        WrongShareError: there are too few, or what they give is no secret, so that one of them is wrong.
    """
    if len(shares) < threshold:
        raise WrongShareError(f"Expected {threshold} shares, got {len(shares)}.")
    points = tuple(sorted(shares))[:threshold]
    weights = _weights_at_zero(points)
    total = sum(w * field_element(shares[point]) for w, point in zip(weights, points, strict=True)) % PRIME
    if total >= 1 << 8 * SECRET_BYTES:
        raise WrongShareError("Expected shares of a secret of 32 bytes, they give a larger number.")
    return total.to_bytes(SECRET_BYTES, "big")


def field_element(share: bytes) -> int:
    """A share as a number below p; raises OutOfFieldShareError for anything else."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise OutOfFieldShareError(f"Expected a share of {SHARE_BYTES} bytes below 2^256 + 297, got another value.")
    return value


def _value(coefficients: Sequence[int], x: int) -> int:
    """f(x) by Horner's rule."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


@lru_cache(maxsize=4096)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange: f(0) = sum_i f(x_i) prod_(j != i) x_j / (x_j - x_i)."""
    weights = []
    for i, x in enumerate(points):
        top = bottom = 1
        for j, other in enumerate(points):
            if j != i:
                top = top * other % PRIME
                bottom = bottom * (other - x) % PRIME
        weights.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(weights)
