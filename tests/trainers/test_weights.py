"""Weights of interactions: the plain rule, plain sums with them, and equal ones as if there were none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plain_trainers import facts_of
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.models import histories as user_blocks
from recsys_fed.models.histories import Histories, Signals, histories_of, weighted_histories
from recsys_fed.models.items import FoldIn, fold_in, item_embeddings_bytes
from recsys_fed.models.stored_histories import HistoryWriter, stored_histories
from recsys_fed.testing import check_trainer
from recsys_fed.trainers import exact_sum
from recsys_fed.trainers.cooccurrence import cooccurrence_step, unpack
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.losses import LOSSES
from recsys_fed.trainers.ordered import ordered_step
from recsys_fed.trainers.popularity import PopularItems, contribute_counts
from recsys_fed.trainers.registry import Auto
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.subspace import power_step

ODD = [1.0, 0.5, 0.1, 0.0, -2.0, np.nan, np.inf, -np.inf, 1e30, 1e-40]
TRAINERS = [PopularItems(), Spectral(), Auto(), *(DPSGD(loss=name) for name in sorted(LOSSES))]


def histories_with(matrix, weights, *, ranked=False) -> Histories:
    """The entries of a 0-1 matrix with the weights [n_users, n_items] at their places, perhaps in a random order."""
    csr = sparse.csr_matrix(matrix)
    csr.sort_indices()
    rows, columns = csr.nonzero()
    rank = None
    if ranked:
        rng = np.random.default_rng(7)
        sizes = np.diff(csr.indptr)
        rank = torch.from_numpy(np.concatenate([rng.permutation(n) for n in sizes] or [[]]).astype(np.int32))
    weight = torch.from_numpy(np.asarray(weights, dtype=np.float32)[rows, columns])
    return histories_of(csr, signals=Signals(weight=weight, rank=rank))


def without(histories: Histories) -> Histories:
    signals = replace(histories.signals, weight=None)
    return replace(histories, signals=signals if signals.columns() else None)


def plain_weights(given_weights):
    """The rule for one user, by hand."""
    kept = sorted(float(w) for w in given_weights if np.isfinite(w) and w > 0)
    if not kept:
        return [0.0] * len(given_weights)
    top = min(kept[-1], 16 * kept[(len(kept) - 1) // 2])
    return [
        min(max(round(32 * float(w) / top), 1), 32) / 32 if np.isfinite(w) and w > 0 else 0.0 for w in given_weights
    ]


def drawn(seed, *, n_users=6, n_items=9, values=(0.1, 0.5, 1.0, 4.0)):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((n_users, n_items)) < rng.choice([0.2, 0.5, 0.9])).astype(float)
    return matrix, rng.choice(values, matrix.shape)


def tables_of(n_items, *, k=3, seed=0):
    rng = np.random.default_rng(seed)
    direction = torch.from_numpy(rng.random(n_items) + 0.1)
    return {
        "head": torch.arange(n_items),
        "damping": torch.from_numpy(rng.random(n_items) + 0.3).float(),
        "direction": (direction / direction.norm()).float(),
        "subspace": torch.from_numpy(rng.standard_normal((n_items, k))).float(),
    }


@settings(max_examples=200, deadline=None)
@given(users=st.lists(st.lists(st.sampled_from(ODD) | st.floats(width=32), max_size=7), max_size=4))
def test_weights_follow_the_plain_rule_user_by_user(users):
    weights = torch.tensor([w for user in users for w in user], dtype=torch.float32)
    sizes = [len(user) for user in users]
    items = torch.tensor([place for n in sizes for place in range(n)], dtype=torch.int32)
    starts = torch.tensor(np.concatenate([[0], np.cumsum(sizes)]), dtype=torch.int64)
    whole = Histories(items=items, starts=starts, n_items=7, signals=Signals(weight=weights))
    rounded = [[float(np.float32(w)) for w in user] for user in users]
    assert whole.weights.tolist() == [w for user in rounded for w in plain_weights(user)]
    # What the matrix holds are weights again: the same ones.
    matrix = whole.matrix()
    assert (weighted_histories(matrix).matrix() != matrix).nnz == 0


def test_no_item_is_all_of_a_user():
    histories = histories_with(np.ones((1, 20)), np.array([[1e30] + [1.0] * 19]))
    counts = contribute_counts(histories, l2_clip_norm=1.0)[:, 0]
    assert float(counts.norm()) == pytest.approx(1.0)
    assert float(counts[0]) < 0.97 and float(counts[1]) == pytest.approx(float(counts[0]) / 16)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), ranked=st.booleans())
def test_sums_are_the_plain_ones(seed, ranked):
    matrix, weights = drawn(seed)
    histories = histories_with(matrix, weights, ranked=ranked)
    x = histories.matrix().toarray().astype(float)
    tables = tables_of(9, seed=seed)
    lengths = np.maximum(np.linalg.norm(x, axis=1), 1e-300)
    found = contribute_counts(histories, l2_clip_norm=1.0)[:, 0].numpy()
    np.testing.assert_allclose(found, (x / lengths[:, None]).sum(0), atol=1e-6)
    damping, q, W = (tables[name].double().numpy() for name in ("damping", "direction", "subspace"))
    q, damping = q / np.linalg.norm(q), damping / damping.max()
    P = np.eye(9) - np.outer(q, q)
    steps, pairs, ordered = np.zeros((9, 3)), np.zeros((9, 9)), np.zeros((9, 3))
    for user, row in enumerate(x):
        damped = row * damping
        step, pair = P @ np.outer(damped, W.T @ damped), P @ (np.outer(damped, damped) - np.diag(damped**2)) @ P
        norms = np.linalg.norm(P @ damped), np.linalg.norm(pair)
        # Who is nearly parallel to q counts for less, and an item alone for nothing.
        assume(not damped.any() or norms[0] > 0.1 * np.linalg.norm(damped))
        assume(np.count_nonzero(damped) < 2 or norms[1] > 2.0**-5 * (damped @ damped))
        steps += step / max(np.linalg.norm(step), 1e-300)
        # Nobody counts pairs with more than 32: two items of which one weighs next to nothing count for less.
        pairs += pair * min(1 / max(norms[1], 1e-300), 32) * (np.count_nonzero(damped) > 1)
        term = damping[:, None] * (plain_neighbours(histories, user, half_life=2.0) @ (damping[:, None] * W))
        ordered += term / max(np.linalg.norm(term), 1e-300)
    np.testing.assert_allclose(power_step(tables, histories, l2_clip_norm=1.0).numpy(), steps, atol=3e-3)
    np.testing.assert_allclose(unpack(cooccurrence_step(tables, histories, l2_clip_norm=1.0)), pairs, atol=1e-6)
    found = ordered_step(tables, histories, half_life=2.0, l2_clip_norm=1.0)
    np.testing.assert_allclose(found.numpy(), ordered, atol=1e-6)


def plain_neighbours(histories, user, *, half_life):
    """C_u by a loop over all pairs."""
    own = histories.block(user, user + 1)
    items, weights = own.items.tolist(), own.weights.tolist()
    ranked = own.signals.rank is not None
    rank = own.signals.rank.tolist() if ranked else [0] * len(items)
    together = np.zeros((own.n_items, own.n_items))
    for p, first in enumerate(items):
        for r, second in enumerate(items):
            if p != r:
                near = 2.0 ** (-(abs(rank[p] - rank[r]) - 1) / half_life) if ranked else 1.0
                together[first, second] += near * weights[p] * weights[r]
    return together


@pytest.mark.parametrize("constant", [1.0, 0.1, 1e30])
@pytest.mark.parametrize("ranked", [False, True])
def test_equal_weights_give_the_very_sums_without_any(constant, ranked):
    rng = np.random.default_rng(3)
    matrix = (rng.random((300, 120)) < 0.15).astype(float)
    weighed = histories_with(matrix, np.full(matrix.shape, constant), ranked=ranked)
    plain, tables = without(weighed), tables_of(120, k=5)
    for step in (
        lambda one: contribute_counts(one, l2_clip_norm=0.7),
        lambda one: cooccurrence_step(tables, one, l2_clip_norm=0.7),
        lambda one: power_step(tables, one, l2_clip_norm=0.7),
        lambda one: ordered_step(tables, one, half_life=3.5, l2_clip_norm=0.7),
    ):
        assert torch.equal(step(weighed), step(plain))
    vectors = torch.from_numpy(rng.standard_normal((120, 4))).float()
    for how in (FoldIn(kind="projection", half_life=2.0), FoldIn(kind="ridge", unobserved_weight=0.1)):
        found = (fold_in(vectors, one, torch.ones(120), how=how) for one in (weighed, plain))
        assert torch.equal(*found)


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda one: getattr(one, "loss", one.name))
def test_equal_weights_give_the_very_model(trainer):
    rng = np.random.default_rng(5)
    matrix = (rng.random((80, 40)) < 0.2).astype(float)
    weighed = histories_with(matrix, np.full(matrix.shape, 0.5))
    assert item_embeddings_bytes(trained(trainer, weighed)) == item_embeddings_bytes(
        trained(trainer, without(weighed))
    )
    heavier = histories_with(matrix, rng.choice([0.1, 1.0], matrix.shape))
    assert item_embeddings_bytes(trained(trainer, heavier)) != item_embeddings_bytes(trained(trainer, weighed))


def trained(trainer, histories):
    facts = facts_of(histories.n_items, noise_level=0.1, rounds=4 if trainer.name != "popularity" else 0)
    state, rng = trainer.start(facts, np.random.default_rng(0)), np.random.default_rng(1)
    for stage in trainer.plan(facts):
        told = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
        total = trainer.contribution(stage.name, trainer.tables(state, stage), histories, settings=told)
        noise = torch.from_numpy(0.1 * rng.standard_normal(tuple(total.shape)))
        state = trainer.step(state, stage, total + noise, noise_std=0.1, n_silos=1)
    return trainer.item_embeddings(state)


@pytest.mark.parametrize("trainer", [PopularItems(), Spectral(), DPSGD()], ids=lambda one: one.name)
def test_a_user_of_any_weights_moves_a_sum_by_the_clip_norm_at_most(trainer):
    assert trainer.reads == {"weight"}
    check_trainer(trainer, n_items=12)


@pytest.mark.soak
@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda one: getattr(one, "loss", one.name))
def test_whatever_the_weights_a_user_moves_a_sum_by_the_clip_norm_at_most(trainer):
    assert trainer.reads == {"weight"}
    check_trainer(trainer, n_items=12)


def test_blocks_threads_and_the_disk_do_not_change_a_bit(monkeypatch, tmp_path):
    matrix, weights = drawn(11, n_users=200, n_items=50, values=ODD)
    whole, tables = histories_with(matrix, weights), tables_of(50)
    steps = (
        lambda one: contribute_counts(one, l2_clip_norm=1.0),
        lambda one: cooccurrence_step(tables, one, l2_clip_norm=1.0),
        lambda one: power_step(tables, one, l2_clip_norm=1.0),
    )
    expected = [step(whole) for step in steps]
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", 300)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    monkeypatch.setattr(exact_sum, "_MOST_USERS", 3)
    with HistoryWriter(tmp_path / "silo") as writer:
        writer.append(sparse.csr_matrix(matrix), whole.signals)
    for histories in (replace(whole), stored_histories(tmp_path / "silo", n_items=50)):
        assert all(map(torch.equal, (step(histories) for step in steps), expected))
    torch.set_num_threads(2)
    assert all(map(torch.equal, (step(replace(whole)) for step in steps), expected))
    torch.set_num_threads(1)
