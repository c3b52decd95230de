"""Tables and the distribution function behind them are exact, to the last bit of U."""

from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest

from recsys_fed.privacy.discrete_gaussian import _cumulative_floors, _inversion_table, _InversionTable, _weights
from recsys_fed.privacy.random_bits import RandomBits, simulation_key

SCALES = [0.2, 0.5, 1.0, 7.3, 100.0]


class GivenBits:
    """Bits that a test chooses, 32 at a time."""

    def __init__(self, *words: int) -> None:
        self.words = list(words)

    def uint16(self, count):
        return np.arange(2**16, dtype=np.uint16)[:count]

    def uint32(self, count):
        return np.array([self.words.pop(0) for _ in range(count)], dtype=np.uint32)


def distribution(scale, digits=90):
    """Values and F by plain summation in decimals."""
    with localcontext() as context:
        context.prec = digits
        reach = int(16 * scale) + 16
        spread = 2 * Decimal(scale) ** 2
        weights = [(-(Decimal(v) ** 2) / spread).exp() for v in range(-reach, reach + 1)]
        sums, total = list(accumulate(weights)), sum(weights)
        return {v: s / total for v, s in zip(range(-reach, reach + 1), sums, strict=True)}


@pytest.mark.parametrize("bits", [48, 80, 160])
@pytest.mark.parametrize("scale", SCALES)
def test_floors_are_those_of_a_plain_sum(scale, bits):
    floors = _cumulative_floors(scale, bits)
    reach, exact = len(floors) // 2, distribution(scale)
    with localcontext() as context:
        context.prec = 90
        # The tail that the plain sum leaves out is below e^-128.
        for value in range(-min(reach, 14 * int(scale + 1)), min(reach, 14 * int(scale + 1))):
            assert floors[value + reach] == min(int(exact[value] * 2**bits), 2**bits - 1)


@pytest.mark.parametrize("scale", [*SCALES, 1_500.0, 2_000.0, 1e-300])
def test_floors_grow_reach_the_ends_and_are_symmetric(scale):
    floors, finer = _cumulative_floors(scale, 48), _cumulative_floors(scale, 160)
    assert list(floors) == sorted(floors)
    assert (floors[0], floors[-1]) == (0, 2**48 - 1)
    # F(-v - 1) = 1 - F(v), which is never a multiple of 2^-48.
    assert all(low + high == 2**48 - 1 for low, high in zip(floors[:-1], reversed(floors[:-1]), strict=True))
    shift, inner = 160 - 48, len(finer) // 2 - len(floors) // 2
    assert [f >> shift for f in finer[inner : len(finer) - inner]] == list(floors)


def test_weights_err_downwards_and_by_less_than_they_may():
    carried, scale = 160, 25.0
    weights = _weights(Fraction(scale), carried)
    with localcontext() as context:
        context.prec = 120
        for value, weight in enumerate(weights):
            exact = (-(Decimal(value) ** 2) / (2 * Decimal(scale) ** 2)).exp() * 2**carried
            assert 0 <= exact - weight < 2 * (value + 1) ** 2


@pytest.mark.parametrize("scale", [*SCALES, 1_500.0])
def test_a_draw_is_the_inverse_of_the_distribution_function(scale):
    """All first 16 bits once, with random next ones: X is the number of F(v) at or below U."""
    table = _inversion_table(scale)
    rest = np.random.default_rng(0).integers(0, 2**32, 2**16, dtype=np.uint32)
    unsettled = table.cells == table.cells.min() if (table.cells == -(2**15)).any() else np.zeros(2**16, bool)
    drawn = table.draw(2**16, GivenBits(*rest[unsettled].tolist()))
    words = (np.arange(2**16, dtype=np.uint64) << np.uint64(32)) | 0
    words[unsettled] |= rest[unsettled]
    # Settled cells: whatever comes next, so the first and the last word of the cell give the same.
    for filler in (0, 2**32 - 1):
        words[~unsettled] = (words[~unsettled] >> np.uint64(32) << np.uint64(32)) | np.uint64(filler)
        below = np.searchsorted(table.floors, words, side="left")
        assert not np.isin(words[unsettled], table.floors).any()
        assert np.array_equal(drawn, below - len(table.floors) // 2)


@pytest.mark.parametrize("scale", SCALES)
def test_ties_are_settled_by_further_bits(scale):
    """On the 48 bits of F(v) itself zeros next give v, ones give v + 1; on its 80 bits the ones after them decide."""
    table, reach = _inversion_table(scale), len(_cumulative_floors(scale, 48)) // 2
    finer = _cumulative_floors(scale, 80)
    for value in range(-int(3 * scale) - 1, int(3 * scale) + 1):
        word = _cumulative_floors(scale, 48)[value + reach]
        assert table.beyond(word, GivenBits(0)) == value
        assert table.beyond(word, GivenBits(2**32 - 1)) == value + 1
        same = finer[value + len(finer) // 2] & (2**32 - 1)
        assert table.beyond(word, GivenBits(same, 0)) == value
        assert table.beyond(word, GivenBits(same, 2**32 - 1)) == value + 1


def test_the_tails_have_no_end():
    """Bits that are all zeros or all ones ask for values far out: more of them, farther out."""
    table = _inversion_table(10.0)
    low = [table.beyond(0, GivenBits(*[0] * length, 2**10, 77)) for length in (0, 1, 3)]
    ones = 2**32 - 1
    high = [table.beyond(2**48 - 1, GivenBits(*[ones] * length, ones - 2**10, ones - 77)) for length in (0, 1, 3)]
    assert low[2] < low[1] < low[0] < -60
    assert high == [-value for value in low]
    # P[X <= -v] is about 2^-70, 2^-102 and 2^-166 there, a little more than exp(-v^2 / 2 s^2) / 10.
    expected = [-10 * (2 * (bits - 3) * np.log(2)) ** 0.5 for bits in (70, 102, 166)]
    assert low == pytest.approx(expected, rel=0.05)


def test_ties_in_bulk_go_the_same_way():
    """A draw whose next 32 bits hit F(v) exactly is not settled by the table alone."""
    table = _inversion_table(7.3)
    first = int(np.flatnonzero((table.cells == -(2**15)) & (table.lower != -(2**15)))[0])
    value, bound = int(table.lower[first]), int(table.bounds[first])
    cells = np.array([first], dtype=np.uint16)
    assert table._settle(cells, GivenBits(bound - 1)).tolist() == [value]
    assert table._settle(cells, GivenBits(bound + 1)).tolist() == [value + 1]
    assert table._settle(cells, GivenBits(bound, 0)).tolist() == [value]
    assert table._settle(cells, GivenBits(bound, 2**32 - 1)).tolist() == [value + 1]


def test_a_table_is_made_once():
    table = _inversion_table(55.5)
    assert isinstance(table, _InversionTable)
    assert _inversion_table(55.5) is table
    assert table.draw(1_000, RandomBits(simulation_key(1))).dtype == np.int16
