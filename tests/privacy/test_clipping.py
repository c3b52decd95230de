"""Clip factors: one test for each line of their guarantees."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.clipping import MODES, clip_factors

FLOAT32_MAX = torch.finfo(torch.float32).max
any_norm = st.one_of(
    st.floats(min_value=0, allow_infinity=True),
    st.sampled_from([0.0, 5e-324, 1e-310, 1e-40, 1e38, 1e308, math.nan, math.inf]),
)


def factors(*norms, l2_clip_norm=1.0, mode="flat", dtype=torch.float64):
    return clip_factors(torch.tensor(norms, dtype=dtype), l2_clip_norm=l2_clip_norm, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=300, deadline=None)
@given(norms=st.lists(any_norm, min_size=1, max_size=5), l2_clip_norm=st.sampled_from([1e-3, 0.7, 1.0, 1e4]))
def test_no_norm_exceeds_the_clip_norm_and_every_factor_fits_float32(mode, norms, l2_clip_norm):
    found = factors(*norms, l2_clip_norm=l2_clip_norm, mode=mode)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found <= FLOAT32_MAX).all()
    for norm, factor in zip(norms, found.tolist(), strict=True):
        if math.isfinite(norm):
            assert norm * factor <= l2_clip_norm
        else:
            assert factor == 0


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100, deadline=None)
@given(norm=st.floats(1e-6, 1e6), l2_clip_norm=st.floats(1e-3, 1e3))
def test_the_bound_holds_when_the_factor_is_rounded_to_float32(mode, norm, l2_clip_norm):
    factor = float(factors(norm, l2_clip_norm=l2_clip_norm, mode=mode).float())
    # A factor of exactly 1 multiplies a norm of at most the clip norm, or one that rounding put just above it.
    assert norm * factor <= l2_clip_norm * (1 + (0 if factor < 1 or mode == "automatic" else 1e-6))


def test_flat_leaves_small_contributions_and_scales_large_ones_to_the_clip_norm():
    small, edge, large = factors(0.3, 1.99, 8.0, l2_clip_norm=2.0).tolist()
    assert (small, edge) == (1.0, 1.0)
    assert large == pytest.approx(0.25, rel=1e-5)


def test_automatic_scales_every_contribution_to_the_clip_norm():
    norms = torch.tensor([1e-8, 0.3, 2.0, 8.0, 1e9], dtype=torch.float64)
    found = clip_factors(norms, l2_clip_norm=2.0, mode="automatic")
    torch.testing.assert_close(norms * found, torch.full_like(norms, 2.0), rtol=1e-5, atol=0)


def test_a_norm_of_zero_gives_one_flat_and_zero_automatic():
    assert factors(0.0, mode="flat").tolist() == [1.0]
    assert factors(0.0, mode="automatic").tolist() == [0.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_gives_zero(mode, dtype, norm):
    assert factors(norm, mode=mode, dtype=dtype).tolist() == [0.0]


def test_a_norm_too_small_for_a_finite_factor_counts_for_nothing_under_automatic():
    assert factors(1e-39, mode="automatic").tolist() == [0.0]
    assert factors(1e-39, mode="flat").tolist() == [1.0]
    assert factors(1e-37, mode="automatic").item() == pytest.approx(1e37, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=50, deadline=None)
@given(norm=any_norm, others=st.lists(any_norm, max_size=4))
def test_the_factor_depends_on_the_users_own_norm_alone(mode, norm, others):
    assert factors(norm, *others, mode=mode)[0] == factors(norm, mode=mode)[0]


@pytest.mark.parametrize("mode", MODES)
def test_nobody_gives_no_factor(mode):
    assert factors(mode=mode).shape == (0,)


@pytest.mark.parametrize("wrong", [{"l2_clip_norm": 0.0}, {"l2_clip_norm": math.nan}, {"mode": "adaptive"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        factors(1.0, **wrong)
