"""Metrics as bounded sums: right without noise, at most one unit a user, and never a failing answer."""

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.evaluation.metric_sums import metric_sums, metrics_from_sums
from recsys_fed.evaluation.metrics import HEADLINE_NAMES
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.models import histories as user_blocks
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, scores, user_vectors

N_USERS, N_ITEMS, DIM = 40, 60, 4


def world(seed: int = 0) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    rng = np.random.default_rng(seed)
    drawn = rng.random((N_USERS, N_ITEMS))
    train, test = drawn < 0.15, (drawn >= 0.15) & (drawn < 0.22)
    test[:5] = False
    return sparse.csr_matrix(train), sparse.csr_matrix(test)


def model_of(vectors: torch.Tensor, kind: str = "projection") -> ItemEmbeddings:
    return ItemEmbeddings(
        vectors=vectors,
        bias=torch.zeros(len(vectors)),
        history_weights=torch.ones(len(vectors)),
        fold_in=FoldIn(kind=kind, unobserved_weight=0.1),
        catalogue_hash="c0ffee",
    )


@pytest.fixture
def model() -> ItemEmbeddings:
    return model_of(torch.randn(N_ITEMS, DIM, generator=torch.Generator().manual_seed(0)))


def test_without_noise_the_means_are_those_of_the_protocol(model):
    train, test = world()
    total = metric_sums(model, histories_of(train), test, l2_clip_norm=0.7)
    found = metrics_from_sums(total, noise_std=0.0, l2_clip_norm=0.7)
    users = user_vectors(model, histories_of(train))
    expected = evaluate_ranking(lambda rows: scores(model, users[rows]), train=train, test=test).means()
    assert {name: values["value"] for name, values in found.items()} == pytest.approx(
        {name: expected[name] for name in HEADLINE_NAMES}
    )


def test_blocks_that_threads_share_give_the_sums_of_one_block(model, monkeypatch):
    train, test = world()
    expected = metric_sums(model, histories_of(train), test, l2_clip_norm=1.0)
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", 30)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            histories = histories_of(train)
            assert len(list(histories.blocks())) > 4
            found.append(metric_sums(model, histories, test, l2_clip_norm=1.0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert torch.allclose(expected, found[0], rtol=1e-6)


def test_one_user_moves_the_sums_by_at_most_the_clip_norm(model):
    train, test = world()
    whole = metric_sums(model, histories_of(train), test, l2_clip_norm=2.0)
    for user in range(N_USERS):
        others = np.arange(N_USERS) != user
        without = metric_sums(model, histories_of(train[others]), test[others], l2_clip_norm=2.0)
        assert torch.linalg.vector_norm(whole - without) <= 2.0 + 1e-9


@pytest.mark.parametrize("dim", [3, 5, 12, 16, 24, 33])
def test_ties_do_not_turn_with_who_else_is_measured(dim):
    """Scores so near each other that in floating point their order would follow the shape of the block."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n_users, n_items = int(rng.integers(3, 90)), 301
        drawn = rng.random((n_users, n_items))
        train, test = sparse.csr_matrix(drawn < 0.1), sparse.csr_matrix((drawn >= 0.1) & (drawn < 0.15))
        hostile = model_of(torch.from_numpy(1 + 1e-7 * rng.standard_normal((n_items, dim))).float() / 3)

        def sums(some, train=train, test=test, hostile=hostile):
            return metric_sums(hostile, histories_of(train[some]), test[some], l2_clip_norm=1.0)

        everybody = np.arange(n_users)
        for first in (1, n_users // 2, n_users - 1):
            parts = sums(everybody[:first]) + sums(everybody[first:])
            assert (sums(everybody) - parts).norm() < 1e-9


def test_a_user_whose_metrics_are_all_one_moves_them_by_exactly_the_clip_norm():
    vectors = torch.eye(3)[[0, 0, 1, 2]]
    train = sparse.csr_matrix([[1, 0, 0, 0]])
    test = sparse.csr_matrix([[0, 1, 0, 0]])
    total = metric_sums(model_of(vectors), histories_of(train), test, l2_clip_norm=2.0)
    assert torch.linalg.vector_norm(total) == pytest.approx(2.0)
    assert torch.linalg.vector_norm(total) < 2.0


@pytest.mark.parametrize("kind", ["projection", "ridge"])
@pytest.mark.parametrize("size", [1e38, 3e38])
def test_no_model_makes_the_answer_fail_or_leave_its_bound(kind, size):
    train, test = world()
    vectors = torch.full((N_ITEMS, DIM), size)
    vectors[::2] *= -1
    total = metric_sums(model_of(vectors, kind), histories_of(train), test, l2_clip_norm=1.0)
    assert total.isfinite().all()
    assert torch.linalg.vector_norm(total) <= N_USERS


@pytest.mark.parametrize("test", [None, sparse.csr_matrix((N_USERS, N_ITEMS))])
def test_a_silo_that_holds_nothing_out_answers_with_zeros(model, test):
    total = metric_sums(model, histories_of(world()[0]), test, l2_clip_norm=1.0)
    assert total.shape == (1 + len(HEADLINE_NAMES), 1)
    assert not total.any()


def test_a_silo_without_users_answers_with_zeros(model):
    nobody = sparse.csr_matrix((0, N_ITEMS))
    assert not metric_sums(model, histories_of(nobody), nobody, l2_clip_norm=1.0).any()


def test_too_few_users_under_the_noise_give_no_metric(model):
    train, test = world()
    total = metric_sums(model, histories_of(train), test, l2_clip_norm=1.0)
    assert metrics_from_sums(total, noise_std=100.0, l2_clip_norm=1.0) == {}


def test_the_stated_noise_is_the_spread_of_the_noised_means(model):
    train, test = world()
    total = metric_sums(model, histories_of(train), test, l2_clip_norm=1.0) * 20
    rng = torch.Generator().manual_seed(1)
    draws = [
        metrics_from_sums(total + torch.randn(total.shape, generator=rng), noise_std=1.0, l2_clip_norm=1.0)
        for _ in range(2_000)
    ]
    for name in HEADLINE_NAMES:
        spread = np.std([draw[name]["value"] for draw in draws])
        assert spread == pytest.approx(np.mean([draw[name]["noise"] for draw in draws]), rel=0.06)
