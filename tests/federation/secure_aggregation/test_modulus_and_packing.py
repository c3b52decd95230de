"""b bits are enough but for 1e-9, hold every integer exactly, and take at most 1.25 times the bytes of int32."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_round import Round, identities, inputs_of, terms_of
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.encoding import (
    HEADROOM,
    Modulus,
    from_words,
    modulus_for,
    pack,
    packed_size,
    to_words,
    unpack,
)
from recsys_fed.federation.secure_aggregation.errors import MalformedMessageError
from recsys_fed.federation.secure_aggregation.terms import MOST_BITS


@settings(max_examples=200, deadline=None)
@given(st.integers(2, MOST_BITS), st.lists(st.integers(-(2**38), 2**38 - 1), min_size=1, max_size=70))
def test_integers_survive_the_way_modulo_2_to_the_b(bits: int, values: list[int]) -> None:
    words = to_words(np.array(values), bits)
    packed = pack(words, bits)
    assert (
        len(packed)
        == packed_size(len(values), bits)
        == bits // 8 * len(values) + math.ceil(bits % 8 * len(values) / 8)
    )
    back = from_words(unpack(packed, entries=len(values), bits=bits), bits)
    half = 2 ** (bits - 1)
    assert back.tolist() == [(value + half) % (2 * half) - half for value in values]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, MOST_BITS), st.integers(1, 40), st.randoms(use_true_random=False))
def test_there_is_one_spelling_of_every_vector(bits: int, entries: int, rng: np.random.Generator) -> None:
    content = bytes(rng.randrange(256) for _ in range(packed_size(entries, bits)))
    unused = -(entries * (bits % 8)) % 8
    if unused and content[-1] >> (8 - unused):
        with pytest.raises(MalformedMessageError, match="zeros after"):
            unpack(content, entries=entries, bits=bits)
    else:
        assert pack(unpack(content, entries=entries, bits=bits), bits) == content
    for other in (content[:-1], content + b"\0"):
        with pytest.raises(MalformedMessageError, match="bytes for"):
            unpack(other, entries=entries, bits=bits)


def test_the_bytes_of_a_message_are_at_most_5_4_of_int32() -> None:
    keys = identities(3)
    for bits in (20, 32, 33, MOST_BITS):
        terms = terms_of(keys, entries=2000, bits=bits)
        round_ = Round(keys, terms)
        round_.run(inputs_of(terms))
        assert len(round_.sent["input"][0]) <= 1.25 * 4 * terms.entries


@pytest.mark.parametrize("declared_users", [1000, 138_000])
@pytest.mark.parametrize("entries", [100, 864_000])
@pytest.mark.parametrize("n_silos", [3, 10, 100])
def test_the_bits_are_the_least_that_keep_the_bound(declared_users: int, entries: int, n_silos: int) -> None:
    facts = {"declared_users": declared_users, "clip_steps": 2048.0, "n_silos": n_silos, "noise_steps": 3000.0}
    modulus = modulus_for(**facts, entries=entries)
    noise, sums = 3000.0 * n_silos**0.5, HEADROOM * declared_users * 2048.0 + n_silos
    # The tail of the normal law, which the bound dominates, over all entries.
    room = 2.0 ** (modulus.bits - 1) - 1 - sums
    assert 2 * entries * stats.norm.sf(room / noise) <= modulus.overflow_probability < 1e-9
    one_less = Modulus(bits=modulus.bits - 1, largest_sum=sums, noise=noise, entries=entries)
    assert one_less.overflow_probability >= 1e-9
    assert f"{modulus.bits} bits a value" in str(modulus)


def test_the_bound_where_it_can_be_counted() -> None:
    """Noise only, in a range so narrow that it overflows often: the bound is above the frequency, and not far."""
    rng = np.random.default_rng(0)
    n_silos, deviation, entries, bits = 4, 10.0, 5, 7
    modulus = Modulus(bits=bits, largest_sum=0, noise=deviation * 2, entries=entries)
    noise = np.rint(rng.normal(0, deviation, size=(40_000, n_silos, entries))).astype(np.int64).sum(1)
    overflows = (from_words(to_words(noise, bits), bits).reshape(noise.shape) != noise).any(1).mean()
    assert 0.001 < overflows < modulus.overflow_probability
    assert modulus.overflow_probability < 20 * overflows


def test_without_noise_the_sum_alone_decides() -> None:
    modulus = modulus_for(declared_users=100, clip_steps=1.0, n_silos=3, noise_steps=0.0, entries=10)
    assert modulus.overflow_probability == 0
    assert 2 ** (modulus.bits - 2) - 1 < 403 <= 2 ** (modulus.bits - 1) - 1


def test_a_grid_that_is_too_fine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="coarser grid"):
        modulus_for(declared_users=10**9, clip_steps=2048.0, n_silos=3, noise_steps=1.0, entries=10)
    with pytest.raises(ConfigurationError):
        modulus_for(declared_users=0, clip_steps=1.0, n_silos=3, noise_steps=1.0, entries=10)
