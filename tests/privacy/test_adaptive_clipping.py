"""A clip norm that follows a noisy quantile, and one release of bounded norm for the sum and the count together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.clipping import JointRelease, count_share


@settings(max_examples=100, deadline=None)
@given(
    share=st.floats(1e-4, 0.3),
    sensitivity=st.sampled_from([0.5, 1.0, 20.0]),
    norm=st.floats(0, 50),
    clip=st.floats(0.1, 9),
)
def test_one_users_row_has_at_most_the_norm_of_the_release(share, sensitivity, norm, clip):
    joint = JointRelease(l2_clip_norm=sensitivity, count_share=share)
    direction = torch.ones(3, 2, dtype=torch.float64) / 6**0.5
    row = joint.join(min(norm, clip) * direction, int(norm <= clip), 1, clip_norm=clip)
    assert float(row.norm()) <= sensitivity * (1 + 1e-12)
    if norm >= clip:
        assert float(row.norm()) == pytest.approx(sensitivity)


@pytest.mark.parametrize(("within", "factor"), [(0, np.exp(0.1)), (25, np.exp(0.05)), (50, 1.0), (100, np.exp(-0.1))])
def test_without_noise_the_sum_comes_back_and_the_clip_norm_moves_towards_the_median(within, factor):
    joint, total = JointRelease(l2_clip_norm=2.0, count_share=0.1), torch.randn(4, 3, dtype=torch.float64)
    body, clip_norm = joint.split(joint.join(total, within, 100, clip_norm=0.7), clip_norm=0.7, declared_users=100)
    torch.testing.assert_close(body, total)
    assert clip_norm == pytest.approx(0.7 * factor)


def test_under_noise_the_clip_norm_finds_the_median_and_stays_there():
    rng, declared, clip_norm = np.random.default_rng(0), 1_000, 1.0
    norms = rng.lognormal(1.0, 0.5, 900)
    joint = JointRelease(l2_clip_norm=1.0, count_share=count_share(noise_multiplier=5.0, declared_users=declared))
    found = []
    for _ in range(80):
        table = joint.join(torch.zeros(2, 2), int((norms <= clip_norm).sum()), len(norms), clip_norm=clip_norm)
        table += torch.from_numpy(5.0 * rng.standard_normal((3, 2)))
        _, clip_norm = joint.split(table, clip_norm=clip_norm, declared_users=declared)
        found.append(clip_norm)
    assert np.mean(found[40:]) == pytest.approx(np.median(norms), rel=0.1)


def test_noise_larger_than_the_count_moves_the_clip_norm_by_no_more_than_a_step():
    joint = JointRelease(l2_clip_norm=1.0, count_share=0.01)
    for noise in (-1e9, 1e9):
        table = torch.zeros(3, 2, dtype=torch.float64)
        table[-1, 0] = noise
        _, clip_norm = joint.split(table, clip_norm=2.0, declared_users=10)
        assert 2 * np.exp(-0.1) * (1 - 1e-9) <= clip_norm <= 2 * np.exp(0.1) * (1 + 1e-9)


def test_the_count_gets_as_much_as_its_noise_needs_and_never_most_of_the_release():
    assert count_share(noise_multiplier=5.0, declared_users=1_000) == pytest.approx(0.05)
    assert count_share(noise_multiplier=5.0, declared_users=2) == 0.3
    assert 0 < count_share(noise_multiplier=0.0, declared_users=1_000) < 1e-3


@pytest.mark.parametrize("wrong", [{"l2_clip_norm": 0.0}, {"count_share": 0.0}, {"count_share": 1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        JointRelease(**({"l2_clip_norm": 1.0, "count_share": 0.1} | wrong))
