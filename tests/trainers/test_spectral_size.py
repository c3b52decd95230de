"""The rule for dimensions, head and rounds: more signal never means a smaller model, and every edge is valid."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import facts_of, run
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.trainers.popularity import BUDGET_SHARE
from recsys_fed.trainers.spectral import Spectral, size

any_facts = st.builds(
    facts_of,
    n_items=st.integers(1, 5_000),
    declared_users=st.integers(1, 10**9),
    noise_level=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
    embedding_dim=st.integers(0, 100),
    rounds=st.sampled_from([0, 2, 3, 9]),
    features=st.sampled_from([None, sparse.csr_matrix((1, 1))]),
)


@settings(max_examples=300, deadline=None)
@given(any_facts)
def test_every_size_is_valid_and_follows_what_is_asked_for(facts):
    found = size(facts)
    assert 1 <= found.embedding_dim <= found.n_start <= found.n_head <= facts.n_items
    assert found.rounds == facts.rounds or (facts.rounds == 0 and found.rounds >= 2)
    if facts.embedding_dim:
        assert found.embedding_dim == min(facts.embedding_dim, found.n_head)


@settings(max_examples=300, deadline=None)
@given(any_facts, st.floats(1, 1e4), st.booleans())
def test_more_users_or_less_noise_never_shrink_dimensions_or_rounds(facts, factor, more_users):
    change = (
        {"declared_users": math.ceil(facts.declared_users * factor)}
        if more_users
        else {"noise_level": facts.noise_level / factor}
    )
    kept = {name: getattr(facts, name) for name in ("declared_users", "noise_level", "embedding_dim", "rounds")}
    small = size(facts)
    large = size(facts_of(facts.n_items, features=facts.features, **(kept | change)))
    assert large.rounds >= small.rounds
    assert large.embedding_dim >= small.embedding_dim
    # At the same dimension the head grows; the product, entries that carry noise, grows but for rounding.
    if large.embedding_dim == small.embedding_dim:
        assert large.n_head >= small.n_head
    assert large.n_head * large.embedding_dim >= small.n_head * small.embedding_dim - small.embedding_dim


def test_infinite_signal_takes_the_whole_catalogue():
    found = size(facts_of(3_000))
    assert found.n_head == 3_000
    assert found.embedding_dim == 96
    assert found.n_start == 512


@pytest.mark.parametrize("rounds", [0, 2, 7])
def test_the_shares_of_the_plan_add_up_to_the_budget(rounds):
    stages = Spectral().plan(facts_of(100, rounds=rounds))
    shares = [stage.release.steps / stage.release.relative_noise**2 for stage in stages]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(BUDGET_SHARE)
    assert shares[1:] == pytest.approx([shares[1]] * (len(shares) - 1))
    assert len(stages) == rounds or rounds == 0


def test_one_round_leaves_nothing_after_the_counts():
    with pytest.raises(ConfigurationError, match="rounds >= 2"):
        Spectral().plan(facts_of(10, rounds=1))


@pytest.mark.parametrize("noise_multiplier", [0.0, 50.0])
@pytest.mark.parametrize(
    "facts",
    [
        facts_of(1),
        facts_of(3, embedding_dim=50),
        facts_of(4, declared_users=1, noise_level=9.0),
        facts_of(2, rounds=3),
    ],
    ids=["one item", "more dimensions than items", "one user", "two items"],
)
def test_every_edge_trains(facts, noise_multiplier):
    matrix = np.eye(facts.n_items)[np.arange(5) % facts.n_items]
    trainer = Spectral()
    model = trainer.item_embeddings(run(trainer, facts, [matrix, matrix[:0]], noise_multiplier=noise_multiplier)[-1])
    assert model.n_items == facts.n_items
    assert model.vectors.isfinite().all()
    assert torch.linalg.matrix_norm(model.vectors, 2) < 1.5


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "subspace"),
        ({"features": None}, "co-occurrence"),
        ({"features": sparse.random_array((200, 3), density=0.5, rng=0, format="csr")}, "co-occurrence"),
        ({"noise_level": 0.01}, "co-occurrence"),
        ({"noise_level": 0.0}, "co-occurrence"),
    ],
    ids=["features", "none", "fewer than directions", "pairs are clear", "no noise"],
)
def test_public_features_take_the_place_of_pairs_where_noise_hides_these(changes, start):
    features = sparse.csr_matrix(sparse.random_array((200, 40), density=0.2, rng=0, format="csr"))
    facts = facts_of(200, **({"noise_level": 2.0, "features": features} | changes))
    stages = Spectral().plan(facts)
    assert [stage.name for stage in stages] == ["item counts", start, *["subspace"] * (len(stages) - 2)]


def test_the_start_from_features_spans_their_leading_directions():
    """As a dense singular value decomposition has them: centred, weighed, without the direction of popularity."""
    rng = np.random.default_rng(0)
    features = rng.random((30, 12)) < 0.4
    facts = facts_of(30, noise_level=1.0, features=sparse.csr_matrix(features.astype(float)), embedding_dim=5)
    trainer, counts = Spectral(), torch.from_numpy(rng.integers(50, 400, (30, 1)).astype(float))
    plan = trainer.plan(facts)
    state = trainer.step(trainer.start(facts, rng), plan[0], counts, noise_std=1.0, n_silos=1)
    W = trainer.tables(state, plan[1])["subspace"].double().numpy()
    known = state.popularity
    head, weights = known.head.numpy(), np.sqrt((known.counts * known.damping.square())[known.head].numpy())
    F = features[head].astype(float)
    F = weights[:, None] * (F - weights**2 @ F / (weights @ weights))
    q = known.direction[known.head].numpy()
    q = q / np.linalg.norm(q)
    left = np.linalg.svd(F - np.outer(q, q @ F), full_matrices=False)[0][:, : W.shape[1]]
    expected, found = left @ left.T, W @ np.linalg.pinv(W)
    np.testing.assert_allclose(found, expected, atol=1e-5)
