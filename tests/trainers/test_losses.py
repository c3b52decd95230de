"""Every loss of dp-sgd: a user's gradient is that of autograd on the plain loss, and clipped sums are Opacus'."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import weighted_histories
from recsys_fed.models.items import gramian_of
from recsys_fed.trainers.local_steps import Task, sum_clipped
from recsys_fed.trainers.loss import Batch, Clipping, Negatives, draw_negatives, user_vectors
from recsys_fed.trainers.losses import BCE, LOSSES, loss_of

WEIGHT = 0.3
losses = pytest.mark.parametrize("name", sorted(LOSSES))
cases = given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(1, 4)),
    density=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)
few = settings(max_examples=30, deadline=None)


def batch_of(name, seed, shape, density):
    n_users, n_items, dim = shape
    rng = np.random.default_rng(seed)
    matrix = (rng.random((n_users, n_items)) < density).astype(float)
    vectors = torch.from_numpy(rng.standard_normal((n_items, dim))).float()
    # Half of the cases have weights.
    weights = rng.choice([0.1, 0.5, 1.0], matrix.shape) if seed % 2 else np.ones(matrix.shape)
    histories = weighted_histories(sparse.csr_matrix(matrix * weights))
    negatives = None if LOSSES[name].reads_all_items else draw_negatives(histories, count=5, key=seed)
    batch = Batch(vectors=vectors, histories=histories, negatives=negatives, gramian=gramian_of(vectors))
    return torch.from_numpy(histories.matrix().toarray()).double(), batch


def how(name):
    return LOSSES[name].fold_in(unobserved_weight=WEIGHT, regularization=0.8)


def plain_loss(name, scores, history, negatives: Negatives | None, user):
    """One user's loss at scores [n_items], written down as the module says."""
    own = history.bool()
    counts = history[own]
    if name == "implicit-als":
        return ((counts * (1 - scores[own]).square()).sum() + WEIGHT * scores.square().sum()) / 2
    scores = LOSSES[name].sharpness * scores
    if name == "softmax":
        return (counts * (scores.logsumexp(0) - scores[own])).sum()
    weights, others = negatives.weights[user], scores[negatives.items[user]]
    if name == "sampled-softmax":
        total = scores[own].exp().sum() + (weights * others.exp()).sum()
        return (counts * (total.log() - scores[own])).sum() if own.any() else 0 * scores.sum()
    if name == "bpr":
        lost = torch.nn.functional.softplus(others[None, :] - scores[own][:, None])
        return (counts[:, None] * weights * lost).sum()
    middle = BCE.sharpness / 2
    share = BCE.ratio * counts.sum() / weights.sum().clamp_min(1.0)
    yes = (counts * torch.nn.functional.softplus(middle - scores[own])).sum()
    return yes + share * (weights * torch.nn.functional.softplus(others - middle)).sum()


def plain_gradients(name, batch, matrix):
    """By autograd, the user's vector held constant: float64 [n_users, n_items, dim]."""
    users, gradients = user_vectors(batch, how=how(name)).double(), []
    for user, history in enumerate(matrix):
        vectors = batch.vectors.double().requires_grad_()
        plain_loss(name, vectors @ users[user], history, batch.negatives, user).backward()
        gradients.append(vectors.grad)
    return torch.stack(gradients)


def clipped(name, batch, *, l2_clip_norm, mode):
    table = LOSSES[name].clipped(
        batch, how=how(name), unobserved_weight=WEIGHT, clipping=Clipping(l2_clip_norm=l2_clip_norm, mode=mode)
    )
    return torch.cat([block.clone() for _, block in table.blocks()])


@losses
@few
@cases
def test_the_sum_is_that_of_plain_gradients_clipped_user_by_user(name, seed, shape, density):
    matrix, batch = batch_of(name, seed, shape, density)
    gradients = plain_gradients(name, batch, matrix)
    norms = gradients.flatten(1).norm(dim=1)
    for mode, factors in (
        ("flat", (0.7 / norms).clamp_max(1.0)),
        ("automatic", torch.where(norms > 5e-2, 0.7 / norms, torch.nan)),
    ):
        if factors.isnan().any():
            continue
        expected = (factors[:, None, None] * gradients).sum(0)
        found = clipped(name, batch, l2_clip_norm=0.7, mode=mode)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


@losses
@few
@cases
def test_flat_sums_equal_those_of_opacus_hooks(name, seed, shape, density):
    matrix, batch = batch_of(name, seed, shape, density)
    users = user_vectors(batch, how=how(name))
    linear = torch.nn.Linear(shape[2], shape[1], bias=False)
    with torch.no_grad():
        linear.weight.copy_(batch.vectors)
    scores = GradSampleModule(linear, loss_reduction="sum")(users)
    sum(
        plain_loss(name, scores[user], history, batch.negatives, user) for user, history in enumerate(matrix)
    ).backward()
    samples = linear.weight.grad_sample.double()
    factors = (0.7 / samples.flatten(1).norm(dim=1)).clamp_max(1.0)
    expected = torch.einsum("u,uij->ij", factors, samples)
    torch.testing.assert_close(clipped(name, batch, l2_clip_norm=0.7, mode="flat"), expected, rtol=2e-3, atol=2e-4)


def test_as_many_negatives_as_items_make_the_softmax_itself():
    _, whole = batch_of("softmax", 5, (6, 12, 3), 0.4)
    every = draw_negatives(whole.histories, count=12, key=0)
    sampled = Batch(vectors=whole.vectors, histories=whole.histories, negatives=every, gramian=whole.gramian)
    torch.testing.assert_close(
        clipped("sampled-softmax", sampled, l2_clip_norm=1.0, mode="automatic"),
        clipped("softmax", whole, l2_clip_norm=1.0, mode="automatic"),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@losses
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e3, 1e20, float("inf"), float("nan")]))
def test_one_user_more_changes_the_sum_by_at_most_the_clip_norm(name, seed, scale):
    """Whatever the table holds, and wherever among the others the user comes."""
    rng = np.random.default_rng(seed)
    matrix = (rng.random((5, 9)) < 0.4).astype(float)
    vectors = torch.from_numpy(rng.standard_normal((9, 3))).float()
    vectors[: int(rng.integers(1, 10))] *= scale
    loss = LOSSES[name]
    task = Task(
        loss=loss, how=how(name), unobserved_weight=WEIGHT, n_negatives=4, clipping=Clipping(l2_clip_norm=2.0)
    )
    without = np.delete(matrix, int(rng.integers(5)), axis=0)
    one, other = (
        sum_clipped(task, vectors, from_dense(some), head=torch.arange(9), key=seed).total
        for some in (matrix, without)
    )
    assert torch.equal(one.isfinite(), other.isfinite())
    assert (other - one).nan_to_num(0.0).norm() <= 2 * (1 + 1e-5)


@losses
def test_blocks_of_items_and_users_do_not_change_the_sum(name, monkeypatch):
    from recsys_fed.trainers import losses, rank_one

    _, batch = batch_of(name, 2, (6, 12, 3), 0.4)
    whole = clipped(name, batch, l2_clip_norm=1.0, mode="automatic")
    monkeypatch.setattr(rank_one, "_BLOCK_FLOATS", 7)
    monkeypatch.setattr(losses, "_ITEMS", 5)
    monkeypatch.setattr(losses, "_USERS", 4)
    monkeypatch.setattr(losses, "_PAIRS", 1)
    torch.testing.assert_close(clipped(name, batch, l2_clip_norm=1.0, mode="automatic"), whole)


def test_another_name_is_refused():
    with pytest.raises(ConfigurationError, match="loss"):
        loss_of("hinge")
