"""Points under the curve have the law that they say: by the staircase's shape, by the tails, and by what is drawn."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy import gaussian_points
from recsys_fed.privacy.gaussian_points import (
    LARGEST,
    ROUNDING,
    SMALLEST,
    STRETCH_BITS,
    UNSETTLED,
    _is_under,
    _staircase,
    add_gaussian,
)
from recsys_fed.privacy.random_bits import RandomBits, simulation_key

# Bars of one integer; just below and at the next width; places of 16 and of 17 bits; the last one.
SCALES = [64.0, 100.0, np.nextafter(128.0, 0), 128.0, 65_800.0, 64.0 * 2**16, 64.0 * 2**17, 1e9, LARGEST]


def drawn(scale, *, count=200_000, key=0):
    table = np.zeros(count, dtype=np.int32)
    add_gaussian(table, standard_deviation=scale, bits=RandomBits(simulation_key(key)))
    return table


def exact_curve(stairs, value):
    with localcontext() as context:
        context.prec = 60
        return Decimal(stairs.peak) * (-(Decimal(value) ** 2) / (2 * Decimal(stairs.scale) ** 2)).exp()


@pytest.mark.parametrize("scale", SCALES)
def test_the_cells_of_a_bar_cover_the_curve_and_settled_ones_are_under_it(scale):
    """Then P[x] is 2^-16 2^-b G(x) for every integer of every bar, so in proportion to the Gaussian."""
    stairs = _staircase(scale)
    assert len(stairs.bars) == len(stairs.floors) == len(stairs.settled) == 2**16
    # Every bar's cells lie on each other from 0 on; the tails have one cell.
    for bar in range(-stairs.reach, stairs.reach + 1):
        assert np.array_equal(np.sort(stairs.floors[stairs.bars == bar]), np.arange((stairs.bars == bar).sum()))
    assert (stairs.bars == stairs.reach).sum() == 1
    rng, settled = np.random.default_rng(0), stairs.settled != UNSETTLED
    for bar in {-stairs.reach, -1, 0, stairs.reach - 1, *rng.integers(-stairs.reach, stairs.reach, 40).tolist()}:
        first, last = bar << stairs.place_bits, ((bar + 1) << stairs.place_bits) - 1
        near, far = sorted((first, last), key=abs)
        near = 0 if first <= 0 <= last else near
        here = stairs.bars == bar
        assert here.sum() >= exact_curve(stairs, near)
        assert (settled & here).sum() <= exact_curve(stairs, far)
        assert np.all(stairs.settled[settled & here] == np.array(first).astype(np.int32))
    # Hardly a cell needs a comparison, and nearly all of the area is under the curve.
    assert settled.mean() > 0.97
    assert stairs.peak * scale * (2 * math.pi) ** 0.5 / 2**stairs.place_bits > 0.98 * 2**16


@pytest.mark.parametrize("scale", SCALES)
def test_the_tails_heights_reach_above_the_curve_in_every_stretch(scale):
    stairs = _staircase(scale)
    for stretch in range(40):
        first = (stairs.reach << stairs.place_bits) + (stretch << (stairs.place_bits + STRETCH_BITS))
        assert exact_curve(stairs, first) < Decimal(2) ** -(stretch + STRETCH_BITS + 2)


@pytest.mark.parametrize("scale", [6_500.0, 65_800.0, 3e8])
def test_points_of_the_tails_have_the_law_of_the_tails(scale):
    """What `_tail` says, kept where it is under the curve, against the Gaussian beyond the bars."""
    stairs, bits, kept = _staircase(scale), RandomBits(simulation_key(3)), []
    for _ in range(30_000):
        value, length = gaussian_points._tail(stairs, bits)
        if int(bits.uint32(1)[0]) * 2.0**-length < stairs.peak * math.exp(-0.5 * (value / scale) ** 2):
            kept.append(value)
    values = np.array(kept, dtype=float)
    assert stats.binomtest(int((values > 0).sum()), len(values)).pvalue > 1e-4
    assert np.abs(values).min() >= stairs.reach << stairs.place_bits
    # That the left tail begins one integer later does not show at these scales.
    beyond = np.abs(values + 0.5) / scale
    begin = (stairs.reach << stairs.place_bits) / scale
    spread = beyond + np.random.default_rng(0).uniform(-0.5, 0.5, len(values)) / scale
    law = stats.truncnorm(begin, np.inf)
    assert stats.kstest(spread.clip(min=begin), law.cdf).pvalue > 1e-4
    assert stats.kstest(spread, stats.expon(begin, 0.25).cdf).pvalue < 1e-6


def test_draws_of_the_least_scale_pass_a_chi_square_of_every_integer():
    sample = drawn(SMALLEST, count=1_000_000)
    for scale, passes in ((SMALLEST, True), (SMALLEST * 1.02, False), (SMALLEST * 2 / 3, False)):
        values = np.arange(-400, 401)
        expected = np.exp(-(values**2) / (2 * scale**2))
        expected *= len(sample) / expected.sum()
        kept = expected >= 10
        observed = np.bincount(sample + 400, minlength=801)[kept]
        terms = (observed - expected[kept]) ** 2 / expected[kept]
        pvalue = stats.chi2.sf(terms.sum(), kept.sum())
        assert pvalue > 1e-4 if passes else pvalue < 1e-9


@pytest.mark.parametrize("scale", [100.0, 1_501.0, 65_800.0, 64.0 * 2**17, 1e8])
def test_kolmogorov_smirnov_accepts_the_scale_and_rejects_others(scale):
    sample = drawn(scale)
    spread = sample + np.random.default_rng(0).uniform(-0.5, 0.5, len(sample))
    assert stats.kstest(spread, "norm", args=(0, scale)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2, 0.98, 1.02):
        assert stats.kstest(spread, "norm", args=(0, scale * wrong)).pvalue < (
            1e-9 if wrong in (2 / 3, 3 / 2) else 0.01
        )


@pytest.mark.parametrize("scale", [100.0, 1_501.0, 65_800.0, 1e8])
def test_moments_to_the_fourth_and_residues(scale):
    sample = drawn(scale, count=1_000_000, key=1)
    error = 5 / len(sample) ** 0.5
    for power, (mean, deviation) in enumerate([(0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5)], start=1):
        assert abs(((sample / scale) ** power).mean() - mean) < error * deviation
    # Bars could favour places in them; the law has none to favour.
    for modulus in (2, 16, 61):
        assert stats.chisquare(np.bincount(sample % modulus, minlength=modulus)).pvalue > 1e-4


def test_integers_settle_comparisons_as_floating_point_does(monkeypatch):
    """With every comparison called close, integers decide them all: the same draws, to the bit."""
    usual = drawn(5_000.0, count=20_000)
    asked = []
    monkeypatch.setattr(gaussian_points, "ROUNDING", 1e9)
    monkeypatch.setattr(gaussian_points, "_is_under", lambda *a, **k: asked.append(0) or _is_under(*a, **k))
    assert np.array_equal(drawn(5_000.0, count=20_000), usual)
    assert len(asked) > 200


@pytest.mark.parametrize("value", [0, 1, -77, 300])
def test_is_under_is_right_next_to_the_curve(value):
    stairs, bits = _staircase(100.0), RandomBits(simulation_key(0))
    for length in (8, 32, 90):
        with localcontext() as context:
            context.prec = 80
            word = int(exact_curve(stairs, value) * 2**length)
        assert _is_under(stairs, value, word - 1, length=length, bits=bits)
        assert not _is_under(stairs, value, word + 1, length=length, bits=bits)
    # A height whose first bits are the curve's own is settled by those that follow: here, a share f of them is under.
    whole = exact_curve(stairs, value) * 2**8
    found = np.mean([_is_under(stairs, value, int(whole), length=8, bits=bits) for _ in range(400)])
    assert abs(found - float(whole - int(whole))) < 4 * 0.5 / 20


def test_floating_point_is_right_to_what_is_assumed():
    exponents = -np.random.default_rng(0).uniform(0, 40, 2_000)
    with localcontext() as context:
        context.prec = 40
        exact = [Decimal(exponent).exp() for exponent in exponents.tolist()]
    worst = max(
        abs(Decimal(found) / right - 1) for found, right in zip(np.exp(exponents).tolist(), exact, strict=True)
    )
    assert worst < ROUNDING / 1000


def test_draws_are_added_modulo_2_to_the_32_and_follow_the_key():
    start = np.random.default_rng(0).integers(-(2**31), 2**31, 70_000).astype(np.int32)
    table = start.copy()
    add_gaussian(table, standard_deviation=1e8, bits=RandomBits(simulation_key(0)))
    difference = table.astype(np.int64) - start
    assert np.array_equal(difference.astype(np.int32), drawn(1e8, count=70_000))
    assert (drawn(1e8, count=70_000) == drawn(1e8, count=70_000, key=1)).mean() < 0.001
    # Of a scale beyond 32 bits every residue is as likely.
    assert stats.kstest((drawn(LARGEST) + 0.5 + 2.0**31) / 2**32, "uniform").pvalue > 1e-4
    empty = np.zeros(0, dtype=np.int32)
    add_gaussian(empty, standard_deviation=100.0, bits=RandomBits(simulation_key(0)))


@pytest.mark.parametrize("scale", [200.0, 65_800.0])
def test_neighbours_and_calls_are_independent(scale):
    bits = RandomBits(simulation_key(1))
    tables = np.zeros((2, 80_000), dtype=np.int32)
    for table in tables:
        add_gaussian(table, standard_deviation=scale, bits=bits)
    error = 5 / tables.shape[1] ** 0.5
    assert abs(np.corrcoef(tables)[0, 1]) < error
    for series in (tables[0].astype(float), np.abs(tables[0].astype(float))):
        for distance in (1, 2, 64):
            assert abs(np.corrcoef(series[:-distance], series[distance:])[0, 1]) < error


@pytest.mark.parametrize("wrong", [0.0, 63.9, 2 * LARGEST, math.nan, math.inf])
def test_scales_without_a_staircase_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="scale"):
        _staircase(wrong)


def test_a_staircase_that_settles_too_much_is_noticed(monkeypatch):
    """The chi-square has power: with no comparison at all, what is drawn is the staircase and not the curve."""
    stairs = _staircase(SMALLEST)
    first = (stairs.bars.astype(np.int64) << stairs.place_bits).astype(np.int32)
    broken = replace(stairs, settled=np.where(stairs.bars < stairs.reach, first, UNSETTLED).astype(np.int32))
    monkeypatch.setattr(gaussian_points, "_staircase", lambda scale: broken)
    with pytest.raises(AssertionError):
        test_draws_of_the_least_scale_pass_a_chi_square_of_every_integer()
