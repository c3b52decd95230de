"""The grid is public, fits, and is rounded to without bias."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, _to_grid, grid_step, to_int32

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
ALL = np.arange(2**16, dtype=np.uint16)
noise_multipliers = st.one_of(st.just(0.0), st.floats(0.3, 1e4))
clip_norms = st.sampled_from([1e-4, 0.5, 1.0, 3.0, 1e3])


def rounded(values, step=1.0, dither=0):
    values = np.asarray(values, dtype=float)
    return _to_grid(values, step=step, dither=np.full(values.shape, dither, dtype=np.uint16))


@settings(max_examples=200, deadline=None)
@given(noise_multipliers, clip_norms, st.integers(1, 10**8), st.integers(1, 10**8), st.integers(1, 50))
def test_the_grid_is_a_power_of_two_and_fits(multiplier, clip, users, entries, steps):
    step = grid_step(
        noise_multiplier=multiplier, l2_clip_norm=clip, declared_users=users, entries=entries, steps=steps
    )
    assert math.frexp(step)[0] == 0.5
    largest = (users * steps + 8 * multiplier * steps**0.5) * clip
    assert largest / step <= INT32_MAX
    assert rounded([largest, -largest], step).tolist() == [int(largest / step), math.floor(-largest / step)]


@settings(max_examples=200, deadline=None)
@given(st.floats(0.5, 100), clip_norms, st.integers(1, 100_000), st.integers(1, 1_000_000))
def test_integers_cost_under_one_per_cent_of_the_noise(multiplier, clip, users, entries):
    """Silos of up to 100,000 users and tables of a million entries; beyond that see the next test."""
    step = grid_step(noise_multiplier=multiplier, l2_clip_norm=clip, declared_users=users, entries=entries)
    mechanism = IntegerMechanism(noise_multiplier=multiplier, l2_clip_norm=clip, grid_step=step, entries=entries)
    assert 1 <= mechanism.inflation < 1.01


@pytest.mark.parametrize(
    ("users", "entries", "most"), [(10**6, 864_000, 1.03), (10**5, 64 * 10**7, 1.3), (10**7, 27_000, 1.25)]
)
def test_where_32_bits_leave_a_coarse_grid_the_noise_grows_and_says_so(users, entries, most):
    step = grid_step(noise_multiplier=5.0, l2_clip_norm=1.0, declared_users=users, entries=entries)
    mechanism = IntegerMechanism(noise_multiplier=5.0, l2_clip_norm=1.0, grid_step=step, entries=entries)
    assert 1.005 < mechanism.inflation < most


def test_small_tables_and_no_noise_have_a_fine_grid():
    assert grid_step(noise_multiplier=0.0, l2_clip_norm=1.0, declared_users=100, entries=10) <= 2.0**-11


@pytest.mark.parametrize(
    "wrong", [{"l2_clip_norm": 0.0}, {"declared_users": 0}, {"noise_multiplier": -1.0}, {"entries": 0}, {"steps": 0}]
)
def test_a_grid_of_nothing_is_refused(wrong):
    right = {"noise_multiplier": 1.0, "l2_clip_norm": 1.0, "declared_users": 10, "entries": 10}
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        grid_step(**(right | wrong))


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(-8, 8))
def test_over_all_dithers_the_mean_is_the_value(value, exponent):
    """Exactly, once the value is rounded down to 2^-16 steps; and only its two neighbours occur."""
    step = 2.0**exponent
    points = _to_grid(np.full(2**16, value), step=step, dither=ALL)
    exact = Fraction(value) / Fraction(step)
    assert points.sum() == math.floor(exact * 2**16)
    assert set(points.tolist()) <= {math.floor(exact), math.floor(exact) + 1}


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 12345.0, -(2.0**31)])
def test_integers_stay_as_they_are_whatever_the_dither(value):
    assert (_to_grid(np.full(2**16, value), step=1.0, dither=ALL) == value).all()


def test_a_fixed_dither_is_what_the_formula_says():
    values = np.array([0.25, -0.25, 2.5, -2.5, 1e-9, -1e-9])
    for dither in (0, 1, 2**14, 2**15, 2**16 - 1):
        expected = [math.floor(math.floor(v * 2**16) / 2**16 + dither / 2**16) for v in values]
        assert rounded(values, dither=dither).tolist() == expected


@pytest.mark.parametrize("dither", [0, 2**16 - 1])
def test_what_does_not_fit_is_cut_off_at_the_ends_and_nan_is_zero(dither):
    ends = rounded([1e30, -1e30, math.inf, -math.inf, 2.0**31, -(2.0**31) - 1], dither=dither)
    assert ends.tolist() == [INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN]
    assert rounded([math.nan], dither=dither).tolist() == [0]
    assert rounded([1e300], 1e-300, dither=dither).tolist() == [INT32_MAX]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12), st.integers(0, 2**16 - 1))
def test_rounding_moves_no_two_values_apart_by_more_than_a_step(one, two, dither):
    """Also where one of them, or both, are cut off."""
    first, second = rounded([one, two], dither=dither).tolist()
    assert (second - first) * np.sign(two - one) >= 0
    assert abs(second - first) < abs(two - one) + 1 + 2**-16


def test_large_tables_are_rounded_like_small_ones():
    rng = np.random.default_rng(0)
    values, dither = rng.normal(size=(300, 1_000)) * 50, rng.integers(0, 2**16, (300, 1_000), dtype=np.uint16)
    expected = np.floor(np.floor(values * 2**20) / 2**16 + dither / 2**16)
    assert np.array_equal(_to_grid(values, step=2.0**-4, dither=dither), expected)
    assert np.array_equal(_to_grid(values.T, step=2.0**-4, dither=dither.T), expected.T)


def test_noised_integers_travel_in_32_bits():
    integers = np.array([5, -5, 2**40, -(2**40)])
    assert to_int32(integers).tolist() == [5, -5, INT32_MAX, INT32_MIN]
    assert to_int32(integers).dtype == np.int32
