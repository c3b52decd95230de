"""Events are those of a uniform 64-bit number below a bound, and as likely as asked for: not more, not less."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy import random_bits
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.privacy.random_bits import RandomBits, bernoulli, simulation_key


class Scripted:
    """A stream of given 16-bit numbers."""

    def __init__(self, numbers):
        self._numbers = list(numbers)

    def uint16(self, count):
        taken, self._numbers = self._numbers[:count], self._numbers[count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.uint16)


def plain(count, probability, bits, chunk):
    """Event by event: its four digits as one number below the bound, the digits read as they are needed."""
    bound = Fraction(probability) * 2**64
    happens = []
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        numbers = [[int(digit)] for digit in bits.uint16(size)]
        for known in (1, 2, 3):
            for number in numbers:
                if len(number) == known and value(number) == (int(bound) >> 16 * (4 - known)):
                    number.append(int(bits.uint16(1)[0]))
        # Digits that nobody asked for do not matter: the number is below the bound, or above, whatever they are.
        happens += [value(number + [2**16 - 1] * (4 - len(number))) < int(bound) for number in numbers]
    return np.array(happens, dtype=bool)


def value(digits):
    return sum(digit << 16 * (len(digits) - 1 - place) for place, digit in enumerate(digits))


probabilities = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.integers(-80, 0).map(lambda exponent: 2.0**exponent),
    st.floats(-20, 0).map(lambda exponent: 10.0**exponent),
)


@settings(max_examples=300, deadline=None)
@given(probability=probabilities, count=st.integers(0, 40), chunk=st.integers(1, 17), data=st.data())
def test_it_is_the_plain_comparison_on_the_same_bits(probability, count, chunk, data):
    bound = int(Fraction(probability) * 2**64)
    digits = [bound >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
    # Digits of the bound and their neighbours, so that every tie occurs.
    near = st.sampled_from(sorted({max(0, min(digit + by, 0xFFFF)) for digit in digits for by in (-1, 0, 1)}))
    stream = data.draw(st.lists(near | st.integers(0, 0xFFFF), min_size=4 * count, max_size=4 * count))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(random_bits, "_EVENTS", chunk)
        found = bernoulli(count, probability=probability, bits=Scripted(stream))
    expected = np.ones(count, bool) if probability == 1 else plain(count, probability, Scripted(stream), chunk)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("probability", [0.9, 0.5, 0.01, 3e-4, 2.0**-16, 5e-6])
def test_events_are_as_likely_as_asked_for_and_not_a_tenth_more_or_less(probability):
    """With 6,000 expected events a tenth is eight standard deviations or more."""
    count = int(6_000 / min(probability, 1 - probability))
    happened = 0
    bits = RandomBits(simulation_key(1, int(1e9 * probability)))
    for start in range(0, count, 10_000_000):
        size = min(10_000_000, count - start)
        happened += int(bernoulli(size, probability=probability, bits=bits).sum())

    def pvalue(rate):
        return stats.binomtest(happened, count, min(rate, 1.0)).pvalue

    assert pvalue(probability) > 1e-4
    assert pvalue(1.1 * probability) < 1e-9
    assert pvalue(0.9 * probability) < 1e-9


def test_events_are_independent_of_each_other():
    events = bernoulli(1_000_000, probability=0.3, bits=RandomBits(simulation_key(7))).astype(float)
    for lag in (1, 2, 16, 4096):
        assert abs(np.corrcoef(events[lag:], events[:-lag])[0, 1]) < 5 / len(events) ** 0.5


def test_what_is_certain_reads_no_bits_and_what_is_impossible_is_refused():
    assert bernoulli(5, probability=1.0, bits=Scripted([])).all()
    assert bernoulli(0, probability=0.5, bits=Scripted([])).shape == (0,)
    for wrong in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="probability"):
            bernoulli(5, probability=wrong, bits=Scripted([]))


def test_less_than_one_in_two_to_the_64_never_happens():
    """Rounded down: an event is never more likely than asked for."""
    assert not bernoulli(4, probability=2.0**-65, bits=Scripted([0] * 16)).any()
    assert bernoulli(4, probability=2.0**-64, bits=Scripted([0] * 16)).all()
    below_one = np.nextafter(1.0, 0.0)
    assert not bernoulli(1, probability=below_one, bits=Scripted([0xFFFF, 0xFFFF, 0xFFFF, 0xF800])).any()
    assert bernoulli(1, probability=below_one, bits=Scripted([0xFFFF, 0xFFFF, 0xFFFF, 0xF7FF])).all()


@pytest.mark.soak
def test_what_is_next_to_impossible_happens_next_to_never():
    """Of 10^9 draws at 10^-12 a thousandth happens on average; a generator of 24 bits would give 60 or more."""
    source, happened = SeededNoise(2026), 0
    for _ in range(100):
        happened += int(source.events(10_000_000, probability=1e-12).sum())
    assert happened <= 5
