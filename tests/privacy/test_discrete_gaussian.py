"""The sampler has the law that it says: against the formula, an exact oracle, moments, and wrong scales."""

import math
import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from exact_sampler import exact_discrete_gaussian
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy import discrete_gaussian as sampler
from recsys_fed.privacy.discrete_gaussian import LARGEST, discrete_gaussian
from recsys_fed.privacy.random_bits import RandomBits, simulation_key

SAMPLES = 200_000
# One table; just above the largest table; two and three of them; sums in 32 and in 64 bits.
LARGE = [40.0, 1_499.0, 1_501.0, 20_000.0, 1e6, 3e7, 1e10]


def drawn(standard_deviation, *, count=SAMPLES, key=0):
    bits = RandomBits(simulation_key(key))
    return discrete_gaussian((count,), standard_deviation=standard_deviation, bits=bits)


def expected_counts(sigma, count):
    """Values and their expected counts, from the formula."""
    values = np.arange(-math.ceil(12 * sigma) - 2, math.ceil(12 * sigma) + 3)
    weights = np.exp(-(values**2) / (2 * sigma**2))
    return values, count * weights / weights.sum()


def chi_square_p(sample, sigma):
    """Chi-square of the integers themselves; those of which fewer than 25 are expected are put together."""
    values, expected = expected_counts(sigma, len(sample))
    kept = expected >= 25
    observed = np.array([(sample == value).sum() for value in values[kept]])
    observed = np.append(observed, len(sample) - observed.sum())
    expected = np.append(expected[kept], expected[~kept].sum())
    # A cell that hardly occurs counts as if five were expected: it accepts more, and still rejects many.
    terms = (observed - expected) ** 2 / np.maximum(expected, 5)
    return stats.chi2.sf(terms.sum(), len(expected) - 1)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.5, 8.0, 40.0])
def test_chi_square_accepts_the_scale_and_rejects_others(sigma):
    sample = drawn(sigma)
    assert chi_square_p(sample, sigma) > 1e-4
    assert chi_square_p(sample, sigma * 2 / 3) < 1e-9
    assert chi_square_p(sample, sigma * 3 / 2) < 1e-9
    # Three per cent are noticed as well, where there are more than three values.
    assert sigma < 0.5 or chi_square_p(sample, sigma * 1.03) < 1e-4


@pytest.mark.parametrize("sigma", LARGE)
def test_kolmogorov_smirnov_accepts_the_scale_and_rejects_others(sigma):
    sample = drawn(sigma, count=50_000)
    # Spread over its step, an integer is as good as a real number here.
    spread = sample + np.random.default_rng(0).uniform(-0.5, 0.5, len(sample))
    assert stats.kstest(spread, "norm", args=(0, sigma)).pvalue > 1e-4
    assert stats.kstest(sample, "norm", args=(0, sigma * 2 / 3)).pvalue < 1e-9
    assert stats.kstest(sample, "norm", args=(0, sigma * 3 / 2)).pvalue < 1e-9


@pytest.mark.parametrize("sigma", [1.0, 8.0, *LARGE])
def test_moments_to_the_fourth(sigma):
    scaled = drawn(sigma, count=1_000_000) / sigma
    error = 5 / len(scaled) ** 0.5
    # Standard deviations of the mean, the second, third and fourth power of a standard normal.
    for power, (mean, deviation) in enumerate([(0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5)], start=1):
        assert abs((scaled**power).mean() - mean) < error * deviation


@pytest.mark.parametrize("sigma", LARGE[1:])
def test_no_residue_is_preferred(sigma):
    """Sums of scaled draws could favour multiples of a multiplier; the law has none to favour."""
    sample = drawn(sigma, count=400_000)
    for modulus in (2, 16, 147):
        counts = np.bincount(sample % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.5, 3.25])
def test_it_agrees_with_the_exact_oracle(sigma):
    source, count = random.Random(5), 4_000
    oracle = np.array([exact_discrete_gaussian(Fraction(sigma), source) for _ in range(count)])
    ours = drawn(sigma, count=count)
    assert contingency_p(oracle, ours) > 1e-4
    assert contingency_p(oracle, drawn(sigma * 1.5, count=count)) < 1e-9
    assert chi_square_p(oracle, sigma) > 1e-4


def test_sums_of_tables_agree_with_the_exact_oracle():
    source, count = random.Random(6), 2_000
    oracle = np.array([exact_discrete_gaussian(Fraction(5000), source) for _ in range(count)])
    assert stats.ks_2samp(oracle, drawn(5000.0, count=count)).pvalue > 1e-4
    assert stats.ks_2samp(oracle, drawn(7500.0, count=count)).pvalue < 1e-9


def contingency_p(one, two):
    """Chi-square of two samples: the same law? Rare values are put together."""
    values, both = np.unique(np.concatenate([one, two]), return_counts=True)
    often = values[both >= 20]
    table = [[(sample == value).sum() for value in often] for sample in (one, two)]
    table = [[*row, len(one) - sum(row)] for row in table]
    columns = [column for column in zip(*table, strict=True) if sum(column)]
    return stats.chi2_contingency(np.array(columns).T).pvalue


@pytest.mark.parametrize("sigma", [200.0, 5_000.0])
def test_rows_columns_and_calls_are_independent(sigma):
    bits = RandomBits(simulation_key(1))
    first = discrete_gaussian((4_000, 6), standard_deviation=sigma, bits=bits) / sigma
    second = discrete_gaussian((4_000, 6), standard_deviation=sigma, bits=bits) / sigma
    columns = np.corrcoef(np.hstack([first, second]).T)
    assert np.abs(columns[np.triu_indices(12, 1)]).max() < 5 / 4_000**0.5
    rows = np.corrcoef(first[:-1].ravel(), first[1:].ravel())[0, 1]
    sizes = np.corrcoef(np.abs(first[:-1]).ravel(), np.abs(first[1:]).ravel())[0, 1]
    assert max(abs(rows), abs(sizes)) < 5 / first.size**0.5
    # Of independent draws the sum has variance 2: neither a repetition (4) nor a cancellation (0).
    assert (first + second).var() == pytest.approx(2.0, rel=0.05)


def test_the_key_decides_the_integers():
    assert np.array_equal(drawn(5_000.0), drawn(5_000.0))
    assert (drawn(5_000.0) == drawn(5_000.0, key=1)).mean() < 0.001


def test_a_longer_table_begins_like_a_block():
    """Whole blocks of draws do not depend on what follows."""
    block = sampler._BLOCK
    assert np.array_equal(drawn(9.0, count=3 * block)[:block], drawn(9.0, count=block))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_empty_shapes(shape):
    bits = RandomBits(simulation_key(0))
    assert discrete_gaussian(shape, standard_deviation=3.0, bits=bits).shape == shape


def test_shapes_and_type():
    bits = RandomBits(simulation_key(0))
    for sigma in (0.0, 3.0, 5_000.0, 1e9):
        draws = discrete_gaussian((2, 3), standard_deviation=sigma, bits=bits)
        assert (draws.shape, draws.dtype) == ((2, 3), np.int64)
        assert draws.any() == (sigma > 0)


@pytest.mark.parametrize("sigma", [5e-324, 1e-300, 1e-3])
def test_next_to_no_noise_is_zeros(sigma):
    assert not drawn(sigma).any()


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, 2 * LARGEST])
def test_scales_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="standard_deviation"):
        drawn(wrong)


@pytest.mark.parametrize("sigma", [1_500.0, np.nextafter(1_500.0, 2e3), 3e3, 1e5, 2e5, 1e7, 1e10, LARGEST])
def test_recipes_add_up_to_the_scale_and_are_smooth_enough(sigma):
    """sigma^2 = k^2 s1^2 + s2^2 in exact arithmetic, never below; t^2 = (s1 s2 / sigma)^2 >= 3 at every stage."""
    recipe = sampler._recipe(float(sigma))
    squares = [Fraction(recipe.first.scale) ** 2]
    for multiplier in recipe.multipliers:
        squares.append(multiplier**2 * squares[-1] + Fraction(sampler._BASE) ** 2)
    assert 1 <= squares[-1] / Fraction(sigma) ** 2 <= 1 + Fraction(1, 2**44)
    for inner, outer in pairwise(squares):
        assert inner * Fraction(sampler._BASE) ** 2 / outer >= Fraction(299, 100)
    # Five stages at 1 +- e^-57 are within the e^-55 that is promised.
    assert len(recipe.multipliers) <= 5


@pytest.mark.parametrize(("s1", "k"), [(40.0, 15), (12.0, 40)])
def test_a_sum_of_two_is_a_discrete_gaussian_to_the_factor_promised(s1, k):
    """P[k X1 + X2 = y] summed up exactly, against the formula, on every integer to 8 sigma."""
    s2 = 3**0.5 * math.sqrt(k**2 * s1**2 + (1.8 * k) ** 2) / s1
    sigma = math.hypot(k * s1, s2)
    assert (s1 * s2 / sigma) ** 2 >= 2.99
    y = np.arange(-int(8 * sigma), int(8 * sigma) + 1)
    law = np.zeros(len(y))
    for x in range(-int(12 * s1), int(12 * s1) + 1):
        law += np.exp(-(x**2) / (2 * s1**2) - (y - k * x) ** 2 / (2 * s2**2))
    ratio = law / np.exp(-(y**2) / (2 * sigma**2))
    # Doubles see no difference; with t^2 = 0.3 they would.
    assert ratio.max() / ratio.min() < 1 + 1e-11


def test_the_largest_scale_is_drawn_and_the_next_refused():
    bits = RandomBits(bytes(32))
    assert np.abs(discrete_gaussian((4,), standard_deviation=2.0**40, bits=bits)).max() > 2**30
    with pytest.raises(ConfigurationError, match="coarser grid"):
        discrete_gaussian((4,), standard_deviation=np.nextafter(2.0**40, np.inf), bits=bits)
