"""The release of co-occurrence equals its formula in loops, is exact, and a user moves it by the clip norm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import facts_of, from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.models import histories as user_blocks
from recsys_fed.models.histories import histories_of
from recsys_fed.models.stored_histories import HistoryWriter, stored_histories
from recsys_fed.trainers.cooccurrence import cooccurrence_step, pack, packed_columns, unpack
from recsys_fed.trainers.spectral import COOCCURRENCE, SUBSPACE, Size, Spectral


def tables_of(n_items, *, head, seed=0):
    rng = np.random.default_rng(seed)
    direction = torch.from_numpy(rng.random(len(head)) + 0.1)
    return {
        "head": torch.tensor(head, dtype=torch.int64),
        "damping": torch.from_numpy(rng.random(len(head)) + 0.5).float(),
        "direction": (direction / direction.norm()).float(),
    }


def plain(tables, matrix, *, l2_clip_norm):
    """sum over users of P (x x^T - diag(x^2)) P over its Frobenius norm, in loops."""
    head, damping = tables["head"].numpy(), tables["damping"].double().numpy()
    q = tables["direction"].double().numpy()
    q = q / np.linalg.norm(q)
    centring = np.eye(len(q)) - np.outer(q, q)
    total = np.zeros((len(q), len(q)))
    for row in matrix:
        x = row[head] * damping
        term = centring @ (np.outer(x, x) - np.diag(x**2)) @ centring
        size = np.linalg.norm(term)
        # Below 2^-6 of ||x||^2 a user counts for less, and here for nothing that a tolerance could miss.
        if size > 2.0**-6 * (x @ x):
            total += l2_clip_norm * term / size
        elif size > 0:
            total += l2_clip_norm * term / (2.0**-6 * (x @ x))
    return torch.from_numpy(total)


@given(n_rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_packing_keeps_the_norm_and_comes_back(n_rows, seed):
    table = np.random.default_rng(seed).standard_normal((n_rows, n_rows))
    symmetric = torch.from_numpy(table + table.T)
    packed = pack(symmetric)
    assert packed.shape == (n_rows, packed_columns(n_rows))
    assert float(packed.norm()) == pytest.approx(float(symmetric.norm()))
    torch.testing.assert_close(unpack(packed), symmetric)


@pytest.mark.parametrize("n_rows", [30, 31])
def test_noise_on_a_pair_is_smaller_by_the_root_of_two(n_rows):
    rng = np.random.default_rng(0)
    drawn = torch.stack(
        [unpack(torch.from_numpy(rng.standard_normal((n_rows, packed_columns(n_rows))))) for _ in range(400)]
    )
    deviations = drawn.std(0)
    diagonal = deviations.diagonal()
    pairs = deviations[~torch.eye(n_rows, dtype=torch.bool)]
    assert float(diagonal.mean()) == pytest.approx(1, abs=0.03)
    assert float(pairs.mean()) == pytest.approx(0.5**0.5, abs=0.01)
    # Each pair by itself: none has the noise of the diagonal.
    assert float(pairs.max()) < 0.85 < float(diagonal.min())


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 9999), n_users=st.integers(0, 7), clip=st.floats(0.05, 9))
def test_it_is_the_formula(seed, n_users, clip):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((n_users, 9)) < rng.choice([0.1, 0.4, 0.9])).astype(float)
    tables = tables_of(9, head=sorted(rng.choice(9, rng.integers(1, 10), replace=False).tolist()), seed=seed)
    found = unpack(cooccurrence_step(tables, from_dense(matrix), l2_clip_norm=clip))
    torch.testing.assert_close(found, plain(tables, matrix, l2_clip_norm=clip), atol=1e-6 * clip, rtol=0)


def large(seed=0, n_users=400, n_items=300):
    return sparse.random(n_users, n_items, density=0.1, format="csr", rng=np.random.default_rng(seed))


def test_honest_users_count_with_the_whole_clip_norm():
    tables = tables_of(300, head=list(range(0, 300, 3)))
    for row in large(n_users=20):
        term = cooccurrence_step(tables, histories_of(row), l2_clip_norm=2.0)
        assert 2.0 * (1 - 1e-4) < term.norm() <= 2.0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block", [1, 500])
def test_blocks_threads_the_order_of_users_and_the_disk_do_not_change_a_bit(threads, block, monkeypatch, tmp_path):
    tables, matrix = tables_of(300, head=list(range(0, 300, 2))), large()
    expected = cooccurrence_step(tables, histories_of(matrix), l2_clip_norm=0.7)
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", block)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shuffled = matrix[np.random.default_rng(5).permutation(400)]
        assert torch.equal(cooccurrence_step(tables, histories_of(shuffled), l2_clip_norm=0.7), expected)
        with HistoryWriter(tmp_path) as writer:
            writer.append(matrix[:150])
            writer.append(matrix[150:])
        stored = stored_histories(tmp_path, n_items=300)
        assert torch.equal(cooccurrence_step(tables, stored, l2_clip_norm=0.7), expected)
    finally:
        torch.set_num_threads(before)


def test_who_has_no_pair_of_the_head_adds_nothing():
    tables = tables_of(6, head=[0, 2, 4])
    nobody = np.array([[0.0] * 6, [1, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 1]])
    assert not cooccurrence_step(tables, from_dense(nobody), l2_clip_norm=1.0).any()


scales = st.sampled_from([1e-45, 1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e20, 3e38])


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.tuples(scales, scales), uneven=st.booleans())
def test_whatever_the_tables_hold_a_user_moves_the_sum_by_the_clip_norm_at_most(seed, scale, uneven):
    rng = np.random.default_rng(seed)
    n_items = int(rng.integers(1, 40))
    tables = tables_of(n_items, head=list(range(n_items)), seed=seed)
    for name, size in zip(("damping", "direction"), scale, strict=True):
        exponents = rng.integers(-30, 1, tables[name].shape) if uneven else 0
        signs = rng.choice([-1, 1], tables[name].shape)
        table = tables[name].double() * size * torch.as_tensor(signs * 10.0**exponents)
        tables[name] = table.float().clamp(-3e38, 3e38)
    if rng.random() < 0.3:
        # Histories that are nearly parallel to q: what is left of E is the rounding of its parts.
        tables["direction"] = tables["damping"] * (1 + 1e-6 * torch.from_numpy(rng.standard_normal(n_items))).float()
    matrix = (rng.random((3, n_items)) < rng.choice([0.2, 0.9, 1.0])).astype(float)
    clip = float(rng.choice([0.1, 1.0, 30.0]))
    with_user, without = (
        cooccurrence_step(tables, from_dense(rows), l2_clip_norm=clip) for rows in (matrix, matrix[1:])
    )
    assert with_user.isfinite().all()
    assert (with_user - without).norm() <= clip * (1 + 1e-9)


def test_two_rounds_are_counts_and_a_model_of_the_pairs_alone():
    """The planted groups are found from co-occurrence, and the subspace rounds agree with it."""
    rng = np.random.default_rng(0)
    group = np.arange(24) % 4
    matrix = ((group == (np.arange(300) % 4)[:, None]) & (rng.random((300, 24)) < 0.75)).astype(float)
    facts = facts_of(24)
    planted = np.eye(4)[group]
    for rounds in (2, 3):
        trainer = Spectral(fixed=Size(embedding_dim=4, n_head=24, n_start=23, rounds=rounds))
        state = trainer.start(facts, rng)
        for stage in trainer.plan(facts):
            settings_ = {"l2_clip_norm": 1.0}
            total = trainer.contribution(
                stage.name, trainer.tables(state, stage), from_dense(matrix), settings=settings_
            )
            state = trainer.step(state, stage, total, noise_std=0.0, n_silos=1)
        assert [stage.name for stage in trainer.plan(facts)][1:] == [COOCCURRENCE, SUBSPACE][: rounds - 1]
        q = state.popularity.direction.numpy()
        centred = planted - np.outer(q, q @ planted)
        left = np.linalg.svd(centred)[0][:, :3]
        # Of the pairs alone one item of 24 has no row.
        assert np.linalg.svd(state.subspace.numpy().T @ left, compute_uv=False).min() > (0.9 if rounds == 2 else 0.97)
