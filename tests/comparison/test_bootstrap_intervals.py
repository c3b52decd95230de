"""Bootstrap intervals cover the mean as often as they say; pairing, absent users and seeds count."""

import numpy as np
import pytest

from recsys_fed.comparison.record import bootstrap
from recsys_fed.errors import ConfigurationError


def interval(values, *, seed=1, **settings):
    return bootstrap([np.atleast_2d(values)], rng=np.random.default_rng(seed), **settings)[0]


def test_the_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).exponential(size=4_000)
    found = interval(values, resamples=4_000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(("level", "low", "high"), [(0.95, 0.89, 0.985), (0.5, 0.42, 0.58)])
def test_it_covers_the_truth_as_often_as_it_says(level, low, high):
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(200):
        found = interval(rng.standard_normal(100), seed=seed, resamples=200, level=level)
        covered.append(found.low < 0 < found.high)
    assert low < np.mean(covered) < high


def test_users_whom_a_figure_does_not_concern_are_left_out():
    values = np.random.default_rng(3).random(300)
    some = np.where(np.arange(300) % 3 == 0, values, np.nan)
    found = interval(some, resamples=4_000)
    half = 1.96 * values[::3].std() / 10
    assert found.mean == pytest.approx(values[::3].mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)
    assert interval(np.full(5, np.nan)) is None


def test_figures_share_their_draws_so_that_a_constant_difference_has_no_spread():
    values = np.random.default_rng(4).random((1, 50))
    first, second, change = bootstrap([values, values + 0.1, values + 0.1 - values], rng=np.random.default_rng(0))
    assert second.low - first.low == pytest.approx(0.1)
    assert change.low == pytest.approx(change.high)


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not():
    users = np.random.default_rng(5).random(400)
    alone = interval(users)
    equal = interval(np.tile(users, (4, 1)))
    apart = interval(users + np.array([-0.3, -0.1, 0.1, 0.3])[:, None])
    assert apart.mean == pytest.approx(alone.mean)
    assert equal.high - equal.low == pytest.approx(alone.high - alone.low, rel=0.1)
    # Mean of 4 drawn out of 4 with standard deviation 0.2236: 0.112 beside 0.014 of the users.
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * 0.112, rel=0.2)


def test_chunks_do_not_change_how_many_are_drawn(monkeypatch):
    monkeypatch.setattr("recsys_fed.comparison.record._CHUNK_CELLS", 130)
    found = interval(np.arange(50.0), resamples=501)
    assert found.low < found.mean == 24.5 < found.high


def test_figures_of_other_users_and_no_draws_are_refused():
    with pytest.raises(ConfigurationError, match="same users"):
        bootstrap([np.zeros((1, 3)), np.zeros((1, 4))], rng=np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="resamples"):
        interval(np.zeros(3), resamples=0)
    assert bootstrap([], rng=np.random.default_rng(0)) == []
