"""The clipped sums equal those of Opacus' own per-sample hooks, with one user as one sample.

Opacus sees nn.Linear whose weight is V and whose inputs are the users' vectors, held constant. Our
contributions are half the gradient, so its clip norm is twice ours and its sum is twice ours.
"""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.models.items import FoldIn, gramian_of
from recsys_fed.trainers.loss import Batch
from recsys_fed.trainers.losses import ImplicitALS
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum

W = 0.3
HOW = FoldIn(kind="ridge", unobserved_weight=W, regularization=0.8)


def gradients(vectors, histories):
    """Half the gradients of the implicit-ALS loss, as the trainer forms them."""
    batch = Batch(vectors=vectors, histories=histories, negatives=None, gramian=gramian_of(vectors))
    return ImplicitALS().contributions(batch, how=HOW, unobserved_weight=HOW.unobserved_weight)


cases = given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 7), st.integers(2, 9), st.integers(1, 4)),
    density=st.sampled_from([0.1, 0.5, 1.0]),
    l2_clip_norm=st.sampled_from([0.1, 1.0, 5.0]),
)
few = settings(max_examples=40, deadline=None)


def case(seed, shape, density):
    n_users, n_items, dim = shape
    rng = np.random.default_rng(seed)
    matrix = (rng.random((n_users, n_items)) < density).astype(np.float32)
    return matrix, torch.from_numpy(rng.standard_normal((n_items, dim))).float()


def backward(module, users, matrix):
    """Per-sample gradients of sum_H (1 - s)^2 + w sum s^2, one user a sample."""
    history = torch.from_numpy(matrix)
    score = module(users)
    (history * (1 - score).square() + W * score.square()).sum().backward()


def module_of(vectors, bias=None):
    linear = torch.nn.Linear(vectors.shape[1], len(vectors), bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(vectors)
        if bias is not None:
            linear.bias.copy_(bias)
    return GradSampleModule(linear, loss_reduction="sum")


def opacus_sums(module, users, matrix, *, max_grad_norm):
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=max_grad_norm,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    backward(module, users, matrix)
    optimizer.pre_step()
    return [parameter.summed_grad for parameter in optimizer.params]


@few
@cases
def test_flat_clipping_equals_opacus(seed, shape, density, l2_clip_norm):
    matrix, vectors = case(seed, shape, density)
    batch = gradients(vectors, from_dense(matrix))
    ours = clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode="flat")
    (theirs,) = opacus_sums(module_of(vectors), batch.right, matrix, max_grad_norm=2 * l2_clip_norm)
    torch.testing.assert_close(2 * ours, theirs.double(), rtol=1e-4, atol=2e-5 * l2_clip_norm * len(matrix))


@few
@cases
def test_automatic_clipping_equals_opacus_gradients_over_their_norms(seed, shape, density, l2_clip_norm):
    matrix, vectors = case(seed, shape, density)
    batch = gradients(vectors, from_dense(matrix))
    ours = clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode="automatic")
    module = module_of(vectors)
    backward(module, batch.right, matrix)
    samples = module._module.weight.grad_sample.double()
    norms = samples.flatten(1).norm(dim=1)
    factors = torch.where(norms > 0, l2_clip_norm / norms, 0.0)
    theirs = (samples * factors[:, None, None]).sum(0)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-5 * l2_clip_norm * len(matrix))


@few
@cases
def test_item_biases_are_one_more_column(seed, shape, density, l2_clip_norm):
    matrix, vectors = case(seed, shape, density)
    bias = torch.linspace(-0.5, 0.5, len(vectors))
    users = gradients(vectors, from_dense(matrix)).right
    histories, table = from_dense(matrix), torch.cat([vectors, bias[:, None]], dim=1)
    right = torch.cat([users, torch.ones(len(users), 1)], dim=1)
    fitted = (table[histories.items] * right[histories.users]).sum(1)
    batch = RankOneContributions(
        histories=histories, values=fitted - 1, basis=table, coefficients=W * right, right=right
    )
    ours = 2 * clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode="flat")
    weight, offset = opacus_sums(module_of(vectors, bias), users, matrix, max_grad_norm=2 * l2_clip_norm)
    tolerance = {"rtol": 1e-4, "atol": 2e-5 * l2_clip_norm * len(matrix)}
    torch.testing.assert_close(ours[:, :-1], weight.double(), **tolerance)
    torch.testing.assert_close(ours[:, -1], offset.double(), **tolerance)
