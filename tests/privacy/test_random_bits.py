"""The key stream is AES-256 in counter mode, goes on where it ended, and is never the same for two keys."""

from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy import random_bits
from recsys_fed.privacy.random_bits import KEY_BYTES, RandomBits, secret_key, simulation_key

KEY = bytes(range(KEY_BYTES))


def test_the_stream_is_aes_256_of_the_counter():
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()  # noqa: S305
    expected = b"".join(encryptor.update(counter.to_bytes(16, "big")) for counter in range(4))
    assert RandomBits(KEY).uint16(32).astype("<u2").tobytes() == expected


def test_the_first_block_is_the_published_one():
    """AES-256 of a block of zeros under a key of zeros (FIPS 197 implementations agree on it)."""
    assert RandomBits(bytes(32)).uint32(4).astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_reads_go_on_and_their_sizes_do_not_matter(monkeypatch):
    whole = RandomBits(KEY).uint16(1_000)
    bits = RandomBits(KEY)
    assert np.array_equal(np.concatenate([bits.uint16(n) for n in (0, 1, 7, 500, 492)]), whole)
    monkeypatch.setattr(random_bits, "_CHUNK", 64)
    assert np.array_equal(RandomBits(KEY).uint16(1_000), whole)


def test_numbers_are_uniform():
    numbers = RandomBits(secret_key()).uint16(400_000)
    assert stats.chisquare(np.bincount(numbers >> 8, minlength=256)).pvalue > 1e-6
    assert stats.chisquare(np.bincount(numbers & 255, minlength=256)).pvalue > 1e-6
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 5 / 400_000**0.5


def test_secret_keys_are_fresh():
    assert len({secret_key() for _ in range(20)}) == 20
    assert len(secret_key()) == KEY_BYTES


@pytest.mark.parametrize(
    ("one", "two"),
    list(combinations([(), (0,), (0, 0), (1, 2), (12,), (2, 1), (1, 2, 0), (-12,), (1, -2), (2**70,)], 2)),
    ids=str,
)
def test_different_integers_make_different_keys(one, two):
    assert simulation_key(*one) != simulation_key(*two)
    assert simulation_key(*one) == simulation_key(*one)


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ConfigurationError, match="32 bytes"):
        RandomBits(b"too short")
