"""The spectral trainer: contributions as in the formula, and without noise the planted subspace."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import CLIP, facts_of, from_dense, run
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.errors import ConfigurationError
from recsys_fed.trainers import popularity
from recsys_fed.trainers.spectral import SUBSPACE, Spectral
from recsys_fed.trainers.subspace import orthonormal
from recsys_fed.trainers.trainer import Stage


def tables_of(n_items, *, head, dim=2, seed=0):
    rng = np.random.default_rng(seed)
    direction = torch.from_numpy(rng.random(len(head)) + 0.1)
    direction /= direction.norm()
    start = torch.from_numpy(rng.standard_normal((len(head), dim)))
    return {
        "head": torch.tensor(head),
        "damping": torch.from_numpy(rng.random(len(head)) + 0.5).float(),
        "direction": direction.float(),
        "subspace": orthonormal(start, against=direction).float(),
    }


def plain_contribution(tables, matrix, *, l2_clip_norm):
    """sum over users of (x - q q^T x)(W^T x)^T, each over its norm, in loops."""
    head, damping = tables["head"].numpy(), tables["damping"].double().numpy()
    q, W = tables["direction"].double().numpy(), tables["subspace"].double().numpy()
    total = np.zeros(W.shape)
    for row in matrix:
        x = row[head] * damping
        if np.linalg.norm(x) > 0:
            x = x / np.linalg.norm(x)
            own = np.outer(x - q * (q @ x), W.T @ x)
            if np.linalg.norm(own) > 1e-7:
                total += l2_clip_norm * own / np.linalg.norm(own)
    return total


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), n_users=st.integers(0, 6), l2_clip_norm=st.sampled_from([0.3, 1.0, 9.0]))
def test_the_contribution_is_the_formula(seed, n_users, l2_clip_norm):
    matrix = (np.random.default_rng(seed).random((n_users, 9)) < 0.3).astype(float)
    tables = tables_of(9, head=[0, 2, 3, 5, 6, 8], seed=seed)
    found = Spectral().contribution(SUBSPACE, tables, from_dense(matrix), settings={"l2_clip_norm": l2_clip_norm})
    expected = plain_contribution(tables, matrix, l2_clip_norm=l2_clip_norm)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4 * l2_clip_norm)


def test_a_user_outside_the_head_adds_nothing():
    matrix = np.array([[0.0, 1, 0, 1, 0], [1, 0, 1, 0, 0]])
    tables = tables_of(5, head=[0, 2, 4])
    both, one = (
        Spectral().contribution(SUBSPACE, tables, from_dense(m), settings=CLIP) for m in (matrix, matrix[1:])
    )
    assert torch.equal(both, one)
    assert both.norm() > 0.9


def test_the_counts_stage_is_the_release_of_popularity():
    histories = from_dense(np.array([[1, 1, 0], [0, 1, 0]]))
    found = Spectral().contribution(popularity.STAGE, {}, histories, settings=CLIP)
    assert torch.equal(found, popularity.contribute_counts(histories, l2_clip_norm=1.0))


def grouped(n_users=300, n_items=24, groups=4, seed=0):
    """Users who take three quarters of the items of one group of equal popularity."""
    rng = np.random.default_rng(seed)
    group = np.arange(n_items) % groups
    mine = np.arange(n_users) % groups
    return ((group == mine[:, None]) & (rng.random((n_users, n_items)) < 0.75)).astype(float), group


def test_without_noise_the_subspace_is_that_of_the_equally_weighed_centred_histories():
    matrix, group = grouped()
    facts = facts_of(matrix.shape[1], embedding_dim=4, rounds=12)
    state = run(Spectral(), facts, [matrix[:170], matrix[170:]])[-1]
    found = state.subspace.numpy()
    q, damping = state.popularity.direction.numpy(), state.popularity.damping.numpy()
    x = matrix * damping
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centred = x - np.outer(x @ q, q)
    # Equal weights: a user counts with norm one as a whole, so the own rows x_c (W^T x)^T are divided by both norms.
    weighed = centred / np.sqrt(np.linalg.norm(centred, axis=1) * np.linalg.norm(x @ found, axis=1))[:, None]
    _, _, right = np.linalg.svd(weighed)
    cosines = np.linalg.svd(found.T @ right[:3].T, compute_uv=False)
    assert cosines.min() > 0.999
    planted = np.linalg.qr(np.eye(4)[group] - np.outer(q, q @ np.eye(4)[group]))[0][:, :3]
    assert np.linalg.svd(found.T @ planted, compute_uv=False).min() > 0.98


def test_silos_together_are_one_big_silo():
    matrix, _ = grouped(n_users=60)
    facts = facts_of(matrix.shape[1], embedding_dim=4, rounds=4)
    whole = Spectral().item_embeddings(run(Spectral(), facts, [matrix])[-1])
    parts = Spectral().item_embeddings(run(Spectral(), facts, [matrix[:7], matrix[7:7], matrix[7:]])[-1])
    torch.testing.assert_close(
        (parts.vectors @ parts.vectors.T), (whole.vectors @ whole.vectors.T), atol=1e-3, rtol=1e-3
    )


def test_the_model_is_the_subspace_and_popularity_with_the_bias_for_empty_histories():
    matrix, _ = grouped(n_users=80)
    matrix[:, 5] = 1
    trainer, facts = Spectral(), facts_of(24, embedding_dim=4, noise_level=0.01)
    states = run(trainer, facts, [matrix])
    model = trainer.item_embeddings(states[-1])
    assert (model.n_items, model.embedding_dim, model.catalogue_hash) == (24, 4, "c")
    assert model.bias.argmax() == 5
    gram = model.vectors.T @ model.vectors
    torch.testing.assert_close(gram, torch.eye(4), atol=1e-5, rtol=0)
    before = trainer.item_embeddings(states[0])
    assert not before.vectors.any()


def test_where_noise_is_no_limit_dimensions_count_by_their_singular_values():
    matrix, _ = grouped()
    trainer, facts = Spectral(), facts_of(24, embedding_dim=6)
    state = run(trainer, facts, [matrix])[-1]
    lengths = trainer.item_embeddings(state).vectors[:, :5].norm(dim=0).double()
    table = state.pooled - torch.outer(state.popularity.direction, state.popularity.direction @ state.pooled)
    singular = torch.linalg.svdvals(table)[:5]
    torch.testing.assert_close(lengths, (singular / singular[0]) ** 0.25, atol=1e-5, rtol=0)


def test_what_comes_in_the_wrong_order_is_refused():
    trainer, facts = Spectral(), facts_of(6, embedding_dim=2)
    stages, state = trainer.plan(facts), trainer.start(facts, np.random.default_rng(0))
    assert trainer.tables(state, stages[1]) == {}
    with pytest.raises(ConfigurationError, match="counts are not there"):
        trainer.step(state, stages[1], torch.zeros(6, 1), noise_std=0.0, n_silos=1)
    with pytest.raises(ConfigurationError, match="local steps"):
        trainer.local_update({}, from_dense(np.eye(6)), settings={}, noise=None)


def test_a_stage_without_a_sensitivity_is_refused():
    with pytest.raises(ConfigurationError, match="l2_clip_norm"):
        Stage(name="x", release=popularity.counts_stage().release, l2_clip_norm=0.0)
