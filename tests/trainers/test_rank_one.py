"""Norms and clipped sums of rank-one contributions equal those of the matrices, formed user by user."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import contributions, from_dense, plain_clipped_sum
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.models.items import FoldIn, gramian_of
from recsys_fed.trainers import rank_one
from recsys_fed.trainers.loss import Batch
from recsys_fed.trainers.losses import ImplicitALS
from recsys_fed.trainers.rank_one import RankOneContributions, _contribution_norms, clip, clipped_sum

HOW = FoldIn(kind="ridge", unobserved_weight=0.3, regularization=0.8)


def gradients(vectors, histories):
    """Half the gradients of the implicit-ALS loss, as the trainer forms them."""
    batch = Batch(vectors=vectors, histories=histories, negatives=None, gramian=gramian_of(vectors))
    return ImplicitALS().contributions(batch, how=HOW, unobserved_weight=HOW.unobserved_weight)


modes = st.sampled_from(["flat", "automatic"])
clip_norms = st.sampled_from([0.05, 1.0, 50.0])


@st.composite
def batches(draw, dtype=torch.float64):
    """Random parts, small and large, over random histories; none of them is a user's by construction."""
    n_users, n_items, k, m = (draw(st.integers(low, high)) for low, high in ((0, 6), (1, 7), (0, 3), (0, 2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrix = rng.random((n_users, n_items)) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    scale = 10.0 ** rng.integers(-3, 3, (n_users, 1))

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    return RankOneContributions(
        histories=from_dense(matrix),
        values=normal(int(matrix.sum())),
        basis=normal(n_items, m),
        coefficients=normal(n_users, m),
        right=normal(n_users, k) * torch.from_numpy(scale).to(dtype),
    )


@settings(max_examples=150, deadline=None)
@given(batches())
def test_norms_are_those_of_the_matrices(batch):
    expected = contributions(batch).flatten(1).norm(dim=1)
    torch.testing.assert_close(_contribution_norms(batch), expected, rtol=1e-7, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(batches(), st.integers(1, 30))
def test_the_sum_is_the_same_in_blocks_of_any_size_over_whatever_was_there(batch, floats):
    expected = plain_clipped_sum(batch, l2_clip_norm=1.0, mode="flat")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rank_one, "_BLOCK_FLOATS", floats)
        total = clip(batch, l2_clip_norm=1.0)
        table = torch.full(expected.shape, torch.nan, dtype=torch.float64)
        torch.testing.assert_close(total.into(table), expected, rtol=1e-5, atol=1e-5)
        found = [(start, rows.clone()) for start, rows in total.blocks()]
    torch.testing.assert_close(torch.cat([rows for _, rows in found]), expected, rtol=1e-5, atol=1e-5)
    assert [start for start, _ in found] == np.cumsum([0, *(len(rows) for _, rows in found[:-1])]).tolist()


@settings(max_examples=150, deadline=None)
@given(batches(), clip_norms, modes)
def test_the_clipped_sum_is_that_of_the_clipped_matrices(batch, l2_clip_norm, mode):
    found = clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode=mode)
    expected = plain_clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode=mode)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * l2_clip_norm)


def plain_gradients(vectors, matrix):
    """Half the gradient of every user's loss with the user's vector held constant, by autograd: float64."""
    halves = []
    for history in torch.as_tensor(np.asarray(matrix, dtype=np.float64)):
        V = vectors.double().clone().requires_grad_()
        H = history.bool()
        fixed = V.detach()
        normal = fixed[H].T @ fixed[H] + HOW.unobserved_weight * fixed.T @ fixed
        user = torch.linalg.solve(
            normal + HOW.regularization * torch.eye(V.shape[1], dtype=torch.float64), fixed[H].sum(0)
        )
        score = V @ user
        loss = (1 - score[H]).square().sum() + HOW.unobserved_weight * score.square().sum()
        halves.append(torch.autograd.grad(loss, V)[0] / 2)
    return torch.stack(halves)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 8), st.integers(1, 4))
def test_implicit_als_contributions_are_half_the_gradients(seed, n_users, n_items, dim):
    rng = np.random.default_rng(seed)
    matrix, vectors = rng.random((n_users, n_items)) < 0.4, torch.from_numpy(rng.standard_normal((n_items, dim)))
    batch = gradients(vectors.float(), from_dense(matrix))
    expected = plain_gradients(vectors.float(), matrix)
    torch.testing.assert_close(contributions(batch), expected, rtol=1e-3, atol=1e-4)


def test_nobody_gives_the_zero_matrix():
    batch = gradients(torch.ones(4, 2), from_dense(np.zeros((0, 4))))
    assert torch.equal(clipped_sum(batch, l2_clip_norm=1.0), torch.zeros(4, 2))


@pytest.mark.parametrize("mode", ["flat", "automatic"])
@pytest.mark.parametrize("broken", [float("inf"), float("nan"), 1e38])
def test_a_user_whose_contribution_overflows_counts_for_nothing(mode, broken):
    matrix = np.array([[1, 1, 0], [0, 1, 1]])
    good = gradients(torch.tensor([[1.0, 0.2], [0.1, 0.9], [0.5, 0.5]]), from_dense(matrix))
    right = good.right.clone()
    right[1] = broken
    parts = {"basis": good.basis, "coefficients": good.coefficients, "right": right}
    batch = RankOneContributions(histories=good.histories, values=good.values, **parts)
    expected = contributions(good)[0] * (1 / good_norm(good) if mode == "automatic" else min(1, 1 / good_norm(good)))
    found = clipped_sum(batch, l2_clip_norm=1.0, mode=mode).double()
    if broken == 1e38:
        # Float64 holds the norm of what overflows float32: it is clipped like any other.
        assert (found - expected).norm() <= 1 + 1e-5
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def good_norm(batch):
    return float(contributions(batch)[0].norm())
