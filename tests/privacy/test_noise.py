"""Noise has the scale it says, on every entry and from independent streams; the grid is fine and fits."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.events import NOISE_SOURCES
from recsys_fed.privacy.noise import SeededNoise, grid_step, noised, seeded_generator, to_grid

INT32_MAX = 2**31 - 1
SAMPLES = 4_000


def p_value(sample, standard_deviation):
    return stats.kstest(np.ravel(sample), stats.norm(scale=standard_deviation).cdf).pvalue


def assert_scale(sample, standard_deviation):
    """A test with power: it accepts the right scale and rejects two thirds and three halves of it."""
    assert p_value(sample, standard_deviation) > 1e-3
    assert p_value(sample, standard_deviation * 2 / 3) < 1e-9
    assert p_value(sample, standard_deviation * 3 / 2) < 1e-9


@pytest.mark.parametrize("standard_deviation", [1e-3, 1.0, 250.0])
def test_seeded_noise_is_gaussian_of_the_scale_asked_for(standard_deviation):
    sample = SeededNoise(1, 2).normal((SAMPLES, 2), standard_deviation=standard_deviation)
    assert sample.shape == (SAMPLES, 2)
    assert sample.dtype == np.float64
    assert_scale(sample, standard_deviation)


def test_no_noise_is_zero_and_less_than_none_is_refused():
    assert not SeededNoise(1).normal((3, 2), standard_deviation=0.0).any()
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="standard_deviation"):
            SeededNoise(1).normal((3,), standard_deviation=wrong)


def test_the_same_key_repeats_its_stream_and_draws_go_on():
    first, again = SeededNoise(1, 5), SeededNoise(1, 5)
    draws = [first.normal((3, 2), standard_deviation=1.0) for _ in range(2)]
    assert np.array_equal(draws[0], again.normal((3, 2), standard_deviation=1.0))
    assert not np.array_equal(draws[0], draws[1])
    assert SeededNoise.name in NOISE_SOURCES


# Purpose, seed, silo and round, as a silo uses them; neighbours differ in one place or trade places.
KEYS = [(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0), (2, 0, 0, 0), (1, 0, 2, 1), (1, 0, 1, 2)]


@pytest.mark.parametrize("keys", list(combinations(KEYS, 2)), ids=str)
def test_streams_of_different_keys_are_independent(keys):
    one, two = (SeededNoise(*key).normal((10 * SAMPLES,), standard_deviation=1.0) for key in keys)
    assert not np.intersect1d(one, two).size
    # Of independent streams the correlation has the standard deviation 1 / sqrt(n), and sums have scale sqrt(2).
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / len(one) ** 0.5
    assert_scale(one + two, 2**0.5)


def test_streams_of_torch_generators_follow_the_key():
    draws = {key: torch.rand(4, generator=seeded_generator(*key)) for key in KEYS}
    assert torch.equal(draws[KEYS[0]], torch.rand(4, generator=seeded_generator(*KEYS[0])))
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(KEYS)


noise_multipliers = st.floats(0.3, 100)
clip_norms = st.sampled_from([1e-4, 0.5, 1.0, 3.0, 1e3])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.just(0.0), noise_multipliers), clip_norms, st.integers(1, 10**8))
def test_the_grid_is_a_power_of_two_and_fits_four_times_the_declared_users(multiplier, clip, users):
    step = grid_step(standard_deviation=multiplier * clip, l2_clip_norm=clip, declared_users=users)
    assert math.frexp(step)[0] == 0.5
    largest = 4.0 * users * clip
    assert largest / step <= INT32_MAX
    assert to_grid(np.array([largest, -largest]), step=step).tolist() == [
        round(largest / step),
        -round(largest / step),
    ]


@settings(max_examples=200, deadline=None)
@given(noise_multipliers, clip_norms, st.integers(1, 10**7))
def test_rounding_adds_under_one_per_cent_to_the_noise(multiplier, clip, users):
    step = grid_step(standard_deviation=multiplier * clip, l2_clip_norm=clip, declared_users=users)
    # Rounding to a grid adds the variance of a uniform law of that width.
    assert math.hypot(multiplier * clip, step / 12**0.5) < 1.01 * multiplier * clip


def test_without_noise_the_grid_still_resolves_a_single_contribution():
    assert grid_step(standard_deviation=0.0, l2_clip_norm=1.0, declared_users=100) <= 2.0**-19


@pytest.mark.parametrize("wrong", [{"l2_clip_norm": 0.0}, {"declared_users": 0}])
def test_a_grid_of_nothing_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        grid_step(**({"standard_deviation": 1.0, "l2_clip_norm": 1.0, "declared_users": 10} | wrong))


def test_what_does_not_fit_is_cut_off_at_the_ends_and_nan_is_zero():
    values = np.array([1e30, -1e30, math.inf, -math.inf, math.nan, 2.4, -2.6])
    expected = [INT32_MAX, -INT32_MAX - 1, INT32_MAX, -INT32_MAX - 1, 0, 2, -3]
    assert to_grid(values, step=1.0).tolist() == expected
    assert to_grid(values, step=1.0).dtype == np.int32


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=6), st.integers(-8, 8))
def test_the_grid_point_is_the_nearest(values, exponent):
    step = 2.0**exponent
    error = to_grid(np.array(values), step=step) * step - np.array(values)
    assert (np.abs(error) <= step / 2).all()


def test_rounding_has_no_bias():
    step, values = 0.25, SeededNoise(7).normal((200_000,), standard_deviation=1.0)
    error = to_grid(values, step=step) * step - values
    assert abs(error.mean()) < 5 * step / 12**0.5 / len(values) ** 0.5


@pytest.mark.parametrize("total", [0.0, 40.0], ids=["all zero", "not zero"])
def test_every_entry_gets_noise_of_the_scale_asked_for(total):
    sums = np.full((SAMPLES, 2), total)
    step = grid_step(standard_deviation=1.5, l2_clip_norm=1.0, declared_users=1_000)
    released = noised(sums, standard_deviation=1.5, step=step, noise=SeededNoise(3)) * step - total
    assert_scale(released[:, 0], 1.5)
    assert_scale(released[:, 1], 1.5)
    # An entry without noise would sit on its value; of a Gaussian about 1 in 160 grid points does.
    assert (np.abs(released) < step / 2).mean() < 0.02


def test_noise_multiplies_nothing_and_adds_up_over_releases():
    sums = np.linspace(-50, 50, SAMPLES)
    parts = [noised(sums, standard_deviation=2.0, step=2.0**-6, noise=SeededNoise(silo)) for silo in range(4)]
    total = np.sum(parts, axis=0, dtype=np.int64) * 2.0**-6
    assert_scale(total - 4 * sums, 4.0)
