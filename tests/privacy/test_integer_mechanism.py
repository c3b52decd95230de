"""Sensitivity after rounding is within what the noise is scaled for, and the noise is what the accountants think."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_ndtr

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.accounting.closed_forms import gaussian_delta
from recsys_fed.privacy.integer_mechanism import (
    ARITHMETIC_ERROR,
    ROUNDING_SLACK,
    SMOOTHING,
    IntegerMechanism,
    _to_grid,
    add_noise,
)
from recsys_fed.privacy.noise import SeededNoise

ENTRIES = 10_000


def mechanism(**changes):
    figures = {"noise_multiplier": 5.0, "l2_clip_norm": 1.5, "grid_step": 2.0**-9, "entries": ENTRIES}
    return IntegerMechanism(**(figures | changes))


def rounded_distance(sums, change, *, how, dither):
    one = _to_grid(sums, step=how.grid_step, dither=dither)
    two = _to_grid(sums + change, step=how.grid_step, dither=dither)
    return float(np.linalg.norm(two - one))


def direction(kind, rng):
    """What a user adds, of norm 1: everywhere alike, at random, on few entries, or just above whole steps."""
    if kind == "even":
        return np.full(ENTRIES, ENTRIES**-0.5)
    if kind == "few":
        return np.concatenate([np.full(9, 1 / 3), np.zeros(ENTRIES - 9)])
    drawn = rng.normal(size=ENTRIES)
    return drawn / np.linalg.norm(drawn)


@pytest.mark.parametrize("kind", ["even", "random", "few"])
@pytest.mark.parametrize("step", [2.0**-3, 2.0**-7, 2.0**-10])
def test_rounded_neighbours_stay_within_the_sensitivity(kind, step):
    """The bound fails once in 10^15 times; it is no more than a few per cent above what occurs."""
    rng, how = np.random.default_rng(3), mechanism(grid_step=step)
    distances = []
    for _ in range(40):
        sums = rng.normal(size=ENTRIES) * 20
        change = how.l2_clip_norm * direction(kind, rng)
        dither = rng.integers(0, 2**16, ENTRIES, dtype=np.uint16)
        distances.append(rounded_distance(sums, change, how=how, dither=dither))
    assert max(distances) <= how.sensitivity
    if kind != "few":
        # What the bound allows beyond the mean is the tail of one in 10^15, and the worst direction.
        assert how.sensitivity < (1.06 if step < 0.1 else 1.5) * np.mean(distances)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["even", "random", "few"]), st.floats(0.0, 1.0), st.integers(-10, 0))
def test_neighbours_stay_within_the_sensitivity_wherever_they_lie(seed, kind, offset, exponent):
    rng, how = np.random.default_rng(seed), mechanism(grid_step=2.0**exponent)
    sums = (np.floor(rng.normal(size=ENTRIES) * 50) + offset) * how.grid_step
    change = how.l2_clip_norm * direction(kind, rng)
    dither = rng.integers(0, 2**16, ENTRIES, dtype=np.uint16)
    assert rounded_distance(sums, change, how=how, dither=dither) <= how.sensitivity


def test_without_the_dither_the_sensitivity_would_not_hold():
    """Sums that lie just below a step, and a user who adds just above one to each: all entries move by two."""
    how = mechanism(grid_step=2.0**-6, l2_clip_norm=1.01 * ENTRIES**0.5 * 2.0**-6)
    sums = np.full(ENTRIES, -how.grid_step * 2**-10)
    change = np.full(ENTRIES, how.l2_clip_norm * ENTRIES**-0.5)
    still = rounded_distance(sums, change, how=how, dither=np.zeros(ENTRIES, dtype=np.uint16))
    dither = np.random.default_rng(0).integers(0, 2**16, ENTRIES, dtype=np.uint16)
    moving = rounded_distance(sums, change, how=how, dither=dither)
    assert still > how.sensitivity > moving


def test_the_sensitivity_is_that_of_the_formula():
    how = mechanism(grid_step=1.0, l2_clip_norm=100.0, entries=400)
    b = 100 * (1 + ARITHMETIC_ERROR) + 20 / 2**16
    expected = math.sqrt(b**2 + 100 + (2 * b + 20) * math.sqrt(math.log(1e15) / 2))
    coarse = mechanism(grid_step=128.0, l2_clip_norm=100.0, entries=400)
    c = 100 / 128 * (1 + ARITHMETIC_ERROR) + 20 / 2**16
    assert coarse.sensitivity == pytest.approx(
        math.sqrt(20 * c + (2 * c + 20) * math.sqrt(math.log(1e15) / 2)), rel=1e-12
    )
    assert how.sensitivity == pytest.approx(expected, rel=1e-12)
    assert how.standard_deviation == pytest.approx(math.sqrt((5 * expected) ** 2 + SMOOTHING), rel=1e-12)


@pytest.mark.parametrize("silos", [1, 10])
def test_shares_of_the_noise_add_up_to_at_least_the_whole(silos):
    one = mechanism(noise_share=1 / silos).standard_deviation
    assert silos * one**2 >= mechanism().standard_deviation ** 2
    assert silos * one**2 == pytest.approx(mechanism().standard_deviation ** 2, rel=1e-5)


def test_no_noise_stays_none():
    bare = mechanism(noise_multiplier=0.0)
    assert (bare.standard_deviation, bare.inflation) == (0.0, 1.0)
    assert add_noise(np.full((3, 2), 2.0), mechanism=bare, noise=SeededNoise(1)).tolist() == [[1024, 1024]] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid_step": 2.0, "entries": 1, "noise_multiplier": 0.3},
        {"noise_share": 1e-12},
        {"grid_step": 0.3},
        {"grid_step": 0.0},
        {"l2_clip_norm": 0.0},
        {"noise_share": 0.0},
        {"noise_multiplier": -1.0},
    ],
)
def test_noise_below_the_grid_and_figures_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        mechanism(**wrong)


@pytest.mark.parametrize("total", [0.0, 40.0], ids=["all zero", "not zero"])
def test_every_entry_gets_noise_of_the_scale_asked_for(total):
    how = mechanism(entries=20_000)
    released = add_noise(np.full((10_000, 2), total), mechanism=how, noise=SeededNoise(3)) * how.grid_step - total
    scale = 5.0 * 1.5 * how.inflation
    assert how.inflation < 1.08
    for column in (released[:, 0], released[:, 1]):
        assert stats.kstest(column, "norm", args=(0, scale)).pvalue > 1e-4
        assert stats.kstest(column, "norm", args=(0, scale * 2 / 3)).pvalue < 1e-9
        assert stats.kstest(column, "norm", args=(0, scale * 3 / 2)).pvalue < 1e-9


def discrete(sigma, reach):
    values = np.arange(-reach, reach + 1)
    weights = np.exp(-(values**2) / (2 * sigma**2))
    return weights / weights.sum()


def hockey_stick(law, shifted, epsilon):
    return np.maximum(law - math.exp(epsilon) * shifted, 0).sum()


@pytest.mark.parametrize("shift", [1, 3, 8, 21])
@pytest.mark.parametrize("tau", [8.0, 12.7])
def test_delta_of_the_integers_is_at_most_that_of_the_continuous_noise(tau, shift):
    """One entry, by summation over the integers, against the closed form with a variance that is smaller by 3."""
    sigma, reach = math.sqrt(tau**2 + SMOOTHING), int(20 * tau)
    law = np.pad(discrete(sigma, reach), shift)
    one, two = law[shift:], law[: len(law) - shift]
    for epsilon in np.linspace(0.0, 4.0, 81):
        for first, second in ((one, two), (two, one)):
            assert hockey_stick(first, second, epsilon) <= gaussian_delta(shift / tau, epsilon=epsilon) + 1e-15


def test_without_the_smoothing_the_integers_can_cost_more():
    """So the 3 is needed: at some epsilons N_Z(0, s^2) is worse than the continuous N(0, s^2)."""
    sigma, shift = 8.0, 8
    law = np.pad(discrete(sigma, 160), shift)
    worse = [
        hockey_stick(law[shift:], law[: len(law) - shift], epsilon) / gaussian_delta(shift / sigma, epsilon=epsilon)
        for epsilon in np.linspace(0.0, 4.0, 81)
    ]
    assert 1 + 1e-5 < max(worse) < 1.05


@pytest.mark.parametrize("shift", [(1, 1), (5, -3), (8, 0), (2, 9)])
def test_two_entries_cost_no_more_than_one_of_the_same_length(shift):
    tau = 8.0
    law = discrete(math.sqrt(tau**2 + SMOOTHING), 130)
    padded = [np.pad(law, 10) for _ in shift]
    moved = [np.roll(values, step) for values, step in zip(padded, shift, strict=True)]
    one, two = np.outer(*padded), np.outer(*moved)
    for epsilon in np.linspace(0.0, 3.0, 31):
        bound = gaussian_delta(math.hypot(*shift) / tau, epsilon=epsilon)
        assert hockey_stick(one, two, epsilon) <= bound + 1e-15


def sampled_gaussian_delta(mu, q, epsilon):
    """Hockey-stick divergence of (1 - q) N(0, 1) + q N(mu, 1) from N(0, 1): the direction of removing a user."""
    ratio = (math.exp(epsilon) - 1 + q) / q
    if ratio <= 0:
        return 1 - math.exp(epsilon)
    point = math.log(ratio) / mu + mu / 2
    return (1 - q - math.exp(epsilon)) * math.exp(log_ndtr(-point)) + q * math.exp(log_ndtr(mu - point))


@pytest.mark.parametrize("q", [0.01, 0.3])
def test_sampling_of_users_costs_no_more_than_with_continuous_noise(q):
    tau, shift = 8.0, 8
    law = np.pad(discrete(math.sqrt(tau**2 + SMOOTHING), 160), shift)
    absent, present = law[shift:], law[: len(law) - shift]
    mixed = (1 - q) * absent + q * present
    for epsilon in np.linspace(0.0, 3.0, 61):
        assert hockey_stick(mixed, absent, epsilon) <= sampled_gaussian_delta(shift / tau, q, epsilon) + 1e-15


@pytest.mark.parametrize(("sigma", "shift"), [(8.2, 8), (30.0, 10)])
def test_googles_accountant_agrees_on_the_discrete_gaussian(sigma, shift):
    """Two implementations of the discrete law: theirs, and the plain sum of these tests."""
    theirs = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        sigma, sensitivity=shift, value_discretization_interval=1e-4, pessimistic_estimate=True
    )
    law = np.pad(discrete(sigma, int(15 * sigma)), shift)
    for epsilon in (0.1, 1.0, 2.5):
        ours = hockey_stick(law[shift:], law[: len(law) - shift], epsilon)
        assert theirs.get_delta_for_epsilon(epsilon) == pytest.approx(ours, rel=1e-2, abs=1e-12)


def test_the_slack_is_far_below_any_delta_in_use():
    assert 41 * 20 * ROUNDING_SLACK < 1e-12
