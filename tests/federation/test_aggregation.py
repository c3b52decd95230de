"""The sum over silos is exact, the same in every order, and its noise is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_messages import REQUEST, honest_update

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.aggregation import noise_on_total, total_of
from recsys_fed.privacy.integer_mechanism import add_noise
from recsys_fed.privacy.noise import SeededNoise

_entries = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4)


@given(st.lists(_entries, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_sum_is_exact_in_every_order(totals, random):
    updates = [honest_update(total=np.array(total)[:, None]) for total in totals]
    expected = [sum(column) * REQUEST.grid_step for column in zip(*totals, strict=True)]
    assert total_of(updates, REQUEST)[:, 0].tolist() == expected
    shuffled = random.sample(updates, len(updates))
    assert torch.equal(total_of(shuffled, REQUEST), total_of(updates, REQUEST))


def test_sum_is_not_weighted_or_averaged():
    updates = [honest_update(total=[[1024], [0], [-1024], [512]])] * 3
    assert total_of(updates, REQUEST)[:, 0].tolist() == [3.0, 0.0, -3.0, 1.5]


def test_no_update_is_an_error():
    with pytest.raises(ProtocolError, match="No silo sent an update"):
        total_of([], REQUEST)


def test_noise_on_the_sum_is_known():
    """The figure of the request, and half a per cent for rounding."""
    own = replace(REQUEST, noise_multiplier=1.5, l2_clip_norm=2.0, noise_share=1.0)
    assert noise_on_total(own, 1) == pytest.approx(3.0 * 1.003, rel=3e-3)
    assert noise_on_total(own, 9) == pytest.approx(3 * noise_on_total(own, 1))
    central = replace(own, noise_share=1 / 9)
    assert noise_on_total(central, 9) == pytest.approx(noise_on_total(own, 1), rel=1e-5)
    assert noise_on_total(central, 4) == pytest.approx(2 / 3 * noise_on_total(own, 1), rel=1e-5)


@pytest.mark.parametrize("share", [1.0, 1 / 8])
def test_noise_on_the_sum_is_what_silos_really_add(share):
    request = replace(REQUEST, noise_share=share, shape=(4000, 1))
    updates = [
        honest_update(request, add_noise(np.zeros((4000, 1)), mechanism=request.mechanism, noise=SeededNoise(silo)))
        for silo in range(8)
    ]
    measured = total_of(updates, request).std()
    assert float(measured) == pytest.approx(noise_on_total(request, 8), rel=0.05)
