"""Noise sources: one sampler, two kinds of key; no two of them, and no two calls, share a stream."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.events import NOISE_SOURCES
from recsys_fed.privacy.noise import SeededNoise, SystemNoise, poisson_sample

SIGMA = 2_500.0
COUNT = 40_000
# Purpose, seed, silo and round, as a silo uses them; neighbours differ in one place or trade places.
KEYS = [(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0), (2, 0, 0, 0), (1, 0, 2, 1), (1, 0, 1, 2)]


def integers(source, shape=(COUNT,), sigma=SIGMA):
    return source.integers(shape, standard_deviation=sigma)


@pytest.mark.parametrize("source", [SeededNoise(1, 2), SystemNoise()], ids=lambda source: source.name)
def test_noise_has_the_scale_asked_for_and_no_other(source):
    sample = integers(source, (COUNT // 4, 4))
    assert sample.shape == (COUNT // 4, 4)
    assert sample.dtype == np.int64
    assert source.name in NOISE_SOURCES
    assert stats.kstest(sample.ravel(), "norm", args=(0, SIGMA)).pvalue > 1e-4
    assert stats.kstest(sample.ravel(), "norm", args=(0, SIGMA * 2 / 3)).pvalue < 1e-9
    assert stats.kstest(sample.ravel(), "norm", args=(0, SIGMA * 3 / 2)).pvalue < 1e-9


def test_no_noise_is_zero_and_less_than_none_is_refused():
    assert not integers(SeededNoise(1), (3, 2), 0.0).any()
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="standard_deviation"):
            integers(SeededNoise(1), (3,), wrong)


def test_the_same_key_repeats_its_stream_and_draws_go_on():
    first, again = SeededNoise(1, 5), SeededNoise(1, 5)
    draws = [integers(first) for _ in range(2)]
    assert np.array_equal(draws[0], integers(again))
    assert (draws[0] == draws[1]).mean() < 0.01
    assert np.array_equal(SeededNoise(3).dither((7, 2)), SeededNoise(3).dither((7, 2)))


def test_the_operating_systems_noise_never_repeats():
    one, two = integers(SystemNoise()), integers(SystemNoise())
    assert (one == two).mean() < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / COUNT**0.5


@pytest.mark.parametrize("keys", list(combinations(KEYS, 2)), ids=str)
def test_streams_of_different_keys_are_independent(keys):
    one, two = (integers(SeededNoise(*key)) for key in keys)
    assert (one == two).mean() < 0.01
    # Of independent streams the correlation has the standard deviation 1 / sqrt(n), and sums have scale sqrt(2).
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / COUNT**0.5
    assert stats.kstest(one + two, "norm", args=(0, SIGMA * 2**0.5)).pvalue > 1e-5


def test_dither_is_uniform_and_not_the_bits_of_the_noise():
    source = SeededNoise(4)
    noise, dither = integers(source), source.dither((COUNT,))
    assert (dither.shape, dither.dtype) == ((COUNT,), np.uint16)
    assert stats.kstest((dither + 0.5) / 2**16, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(noise, dither)[0, 1]) < 5 / COUNT**0.5
    assert source.dither((0, 3)).shape == (0, 3)


def test_a_seeded_source_does_not_show_its_key():
    """Neither kind prints its key, whatever is logged."""
    for source in (SeededNoise(123456789), SystemNoise()):
        assert "123456789" not in repr(source) + str(vars(source))


def test_events_follow_the_key_and_go_on():
    first, again, other = SeededNoise(2, 7), SeededNoise(2, 7), SeededNoise(1, 7)
    drawn = [source.events(2_000, probability=0.5) for source in (first, again, other, first)]
    assert np.array_equal(drawn[0], drawn[1])
    for later in drawn[2:]:
        assert 0.4 < (drawn[0] == later).mean() < 0.6


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.9])
def test_each_user_is_in_the_sample_with_the_probability_asked_for(probability):
    source, n_users, draws = SeededNoise(5), 500, 60
    samples = torch.stack([poisson_sample(n_users, probability, source) for _ in range(draws)])
    assert samples.shape == (draws, n_users)
    # All n_users * draws inclusions together, then the sizes: of independent users they are binomial.
    assert stats.binomtest(int(samples.sum()), n_users * draws, probability).pvalue > 1e-4
    spread = samples.sum(1).double().var() / (n_users * probability * (1 - probability))
    assert 0.4 < float(spread) < 2.0
    per_user = samples.sum(0).numpy()
    expected = stats.binom(draws, probability)
    assert abs(per_user.mean() - expected.mean()) < 5 * expected.std() / n_users**0.5
    assert per_user.var() == pytest.approx(expected.var(), rel=0.35)


def test_samples_follow_the_key():
    one, same, other = (poisson_sample(200, 0.5, SeededNoise(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nobody_and_everybody():
    source = SeededNoise(0)
    nobody = poisson_sample(0, 0.5, source)
    assert (nobody.shape, nobody.dtype) == ((0,), torch.bool)
    assert poisson_sample(1_000, 1.0, source).all()
    assert not poisson_sample(3, 1e-12, source).any()
