"""Shamir's sharing: any t shares give the secret, t - 1 say nothing, and the arithmetic is that of a plain oracle."""

import random
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.errors import OutOfFieldShareError, WrongShareError
from recsys_fed.federation.secure_aggregation.shares import (
    PRIME,
    SHARE_BYTES,
    _field_element,
    combine_shares,
    split_secret,
)


def oracle(points: dict[int, int]) -> int:
    """f(0) by solving the Vandermonde system with Gaussian elimination modulo p."""
    rows = [[pow(x, j, PRIME) for j in range(len(points))] + [y] for x, y in points.items()]
    n = len(rows)
    for i in range(n):
        pivot = next(r for r in range(i, n) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        inverse = pow(rows[i][i], PRIME - 2, PRIME)
        rows[i] = [value * inverse % PRIME for value in rows[i]]
        for r in range(n):
            if r != i and rows[r][i]:
                factor = rows[r][i]
                rows[r] = [(a - factor * b) % PRIME for a, b in zip(rows[r], rows[i], strict=True)]
    return rows[0][n]


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_t_shares_give_the_secret(secret: bytes, threshold: int, spare: int, rng: random.Random) -> None:
    points = rng.sample(range(1, 1000), threshold + spare)
    shares = split_secret(secret, points, threshold=threshold)
    chosen = {point: shares[point] for point in rng.sample(points, threshold)}
    assert combine_shares(chosen, threshold=threshold) == secret
    assert oracle({x: int.from_bytes(y, "big") for x, y in chosen.items()}) == int.from_bytes(secret, "big")


def test_the_modulus_is_the_least_prime_above_32_bytes() -> None:
    assert probably_prime(PRIME)
    assert not any(probably_prime(number) for number in range(2**256 + 1, PRIME))


def probably_prime(n: int) -> bool:
    """Miller and Rabin, 20 bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1

    def passes(base: int) -> bool:
        x = pow(base, odd, n)
        return x in (1, n - 1) or any((x := x * x % n) == n - 1 for _ in range(twos - 1))

    return n % 2 == 1 and all(passes(base) for base in range(2, 22))


def test_too_few_shares_fit_every_secret() -> None:
    """To t - 1 shares and any other secret there is exactly one polynomial: they say nothing about the secret."""
    shares = split_secret(b"\x01" * 32, [1, 2, 3], threshold=3)
    two = {x: int.from_bytes(shares[x], "big") for x in (1, 2)}
    for other in (0, 7, 2**255):
        third = through({0: other, **two}, at=3)
        completed = {1: shares[1], 2: shares[2], 3: third.to_bytes(SHARE_BYTES, "big")}
        assert combine_shares(completed, threshold=3) == other.to_bytes(32, "big")


def through(points: dict[int, int], *, at: int) -> int:
    """The value at `at` of the polynomial through the points."""
    return oracle({x - at: y for x, y in points.items()})


def test_shares_of_one_secret_are_uniform() -> None:
    drawn = [split_secret(bytes(32), [1, 2], threshold=2)[2] for _ in range(4000)]
    assert stats.chisquare(histogram([share[-1] for share in drawn])).pvalue > 1e-6
    assert stats.chisquare(histogram([share[1] for share in drawn])).pvalue > 1e-6
    # The same test does reject the shares of a polynomial without random coefficients.
    assert stats.chisquare(histogram([(2 * i) % 256 for i in range(4000)])).pvalue < 1e-6


def histogram(values: list[int]) -> list[int]:
    return [values.count(value) for value in range(256)]


def test_wrong_input_is_refused() -> None:
    secret = secrets.token_bytes(32)
    shares = split_secret(secret, [1, 2, 3], threshold=2)
    with pytest.raises(WrongShareError, match="Expected 2 shares, got 1"):
        combine_shares({1: shares[1]}, threshold=2)
    for bad in (PRIME.to_bytes(SHARE_BYTES, "big"), b"\xff" * SHARE_BYTES, shares[1][1:], shares[1] + b"\0", b""):
        with pytest.raises(OutOfFieldShareError):
            _field_element(bad)
        with pytest.raises(OutOfFieldShareError):
            combine_shares({1: bad, 2: shares[2]}, threshold=2)
    with pytest.raises(WrongShareError, match="32 bytes"):
        combine_shares({1: (PRIME - 1).to_bytes(SHARE_BYTES, "big")}, threshold=1)
    assert combine_shares({1: shares[1], 2: shares[3]}, threshold=2) != secret
    for points, threshold in (([0, 1], 2), ([1, 1], 2), ([1, 2], 3), ([1, 2], 0)):
        with pytest.raises(ConfigurationError):
            split_secret(secret, points, threshold=threshold)
    with pytest.raises(ConfigurationError, match="32 bytes"):
        split_secret(b"short", [1, 2], threshold=2)
