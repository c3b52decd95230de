"""The counts: what a silo adds up, and what the server concludes from the noisy sum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.trainers.popularity import BUDGET_SHARE, contribute_counts, counts_stage, estimate_popularity


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), n_users=st.integers(0, 8), l2_clip_norm=st.sampled_from([0.5, 1.0, 30.0]))
def test_each_user_adds_the_history_scaled_to_the_clip_norm(seed, n_users, l2_clip_norm):
    matrix = (np.random.default_rng(seed).random((n_users, 6)) < 0.3).astype(float)
    expected = np.zeros(6)
    for row in matrix:
        if row.any():
            expected += l2_clip_norm * row / np.linalg.norm(row)
    found = contribute_counts(from_dense(matrix), l2_clip_norm=l2_clip_norm)
    assert found.shape == (6, 1)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_head_is_the_most_popular_in_the_order_of_rows_and_ties_go_to_the_lower_row():
    total = torch.tensor([[1.0], [9.0], [-4.0], [5.0], [5.0], [7.0]])
    known = estimate_popularity(total, noise_std=2.0, n_head=3)
    assert known.head.tolist() == [1, 3, 5]
    assert known.counts.tolist() == [2.0, 9.0, 2.0, 5.0, 5.0, 7.0]
    everything = estimate_popularity(total, noise_std=0.0, n_head=6)
    assert everything.head.tolist() == list(range(6))


@pytest.mark.parametrize("total", [torch.zeros(4, 1), -torch.ones(4, 1), torch.tensor([[1e9], [0.0], [-1e9], [1.0]])])
@pytest.mark.parametrize("noise_std", [0.0, 3.0])
def test_damping_and_direction_are_finite_whatever_the_counts(total, noise_std):
    known = estimate_popularity(total, noise_std=noise_std, n_head=2)
    assert (known.counts > 0).all()
    assert known.damping.isfinite().all()
    assert float(known.direction.norm()) == pytest.approx(1)


def test_frequent_items_weigh_less_and_the_mean_count_weighs_one():
    known = estimate_popularity(torch.tensor([[1.0], [4.0], [7.0]]), noise_std=0.0, n_head=3)
    assert known.damping[1].item() == pytest.approx(1)
    assert known.damping[0] > 1 > known.damping[2]
    assert known.direction.tolist() == sorted(known.direction.tolist())


def test_the_stage_costs_its_share_of_the_budget():
    stage = counts_stage()
    assert stage.release.relative_noise**-2 == pytest.approx(BUDGET_SHARE)
    assert (stage.release.steps, stage.release.sampling_probability, stage.l2_clip_norm) == (1, 1.0, 1.0)
