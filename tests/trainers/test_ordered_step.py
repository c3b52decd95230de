"""The step over neighbours equals loops over pairs, is exact, and one user moves it by the clip norm at most."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.models import histories as user_blocks
from recsys_fed.models.histories import Histories, Signals
from recsys_fed.trainers import ordered
from recsys_fed.trainers.ordered import ordered_step, window

half_lives = st.sampled_from([0.2, 1.0, 3.5, 40.0])


def histories_of_lists(lists, n_items, *, ranked=True):
    """Histories of lists of items, the oldest first; an item may be there several times."""
    order = [sorted(range(len(one)), key=lambda place, one=one: (one[place], place)) for one in lists]
    items = [one[place] for one, places in zip(lists, order, strict=True) for place in places]
    rank = torch.tensor([place for places in order for place in places], dtype=torch.int32)
    starts = torch.tensor(np.concatenate([[0], np.cumsum([len(one) for one in lists])]), dtype=torch.int64)
    return Histories(
        items=torch.tensor(items, dtype=torch.int32),
        starts=starts,
        n_items=n_items,
        signals=Signals(rank=rank) if ranked else None,
    )


def tables_of(n_items, *, head, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "head": torch.tensor(head, dtype=torch.int64),
        "damping": torch.from_numpy(rng.random(len(head)) + 0.3).float(),
        "subspace": torch.from_numpy(rng.standard_normal((len(head), k))).float(),
    }


def plain_term(tables, items, *, half_life, ranked=True):
    """D C_u D W by a loop over all pairs of places."""
    place = {item: row for row, item in enumerate(tables["head"].tolist())}
    damping, subspace = tables["damping"].double().numpy(), tables["subspace"].double().numpy()
    together = np.zeros((len(damping), len(damping)))
    for p, first in enumerate(items):
        for r, second in enumerate(items):
            near = not ranked or abs(p - r) <= window(half_life)
            if p != r and near and first in place and second in place:
                together[place[first], place[second]] += 2.0 ** (-(abs(p - r) - 1) / half_life) if ranked else 1.0
    return damping[:, None] * (together @ (damping[:, None] * subspace))


def plain_sum(tables, lists, *, half_life, l2_clip_norm, ranked=True):
    total = np.zeros(tuple(tables["subspace"].shape))
    for items in lists:
        term = plain_term(tables, items, half_life=half_life, ranked=ranked)
        norm = np.linalg.norm(term)
        total += term * (l2_clip_norm / norm) if norm > 0 else 0.0
    return total


def drawn_lists(rng, n_items, *, n_users, longest=12, repeated=True):
    sizes = rng.integers(0, longest + 1, n_users)
    if repeated:
        return [rng.integers(0, n_items, size).tolist() for size in sizes]
    return [rng.permutation(n_items)[:size].tolist() for size in sizes]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 9999), half_lives, st.booleans(), st.booleans(), st.floats(0.05, 9), st.integers(0, 4))
def test_it_is_the_plain_sum_over_pairs(seed, half_life, repeated, ranked, clip, k):
    rng = np.random.default_rng(seed)
    n_items = int(rng.integers(1, 10))
    lists = drawn_lists(rng, n_items, n_users=int(rng.integers(0, 7)), repeated=repeated)
    tables = tables_of(
        n_items,
        head=sorted(rng.choice(n_items, rng.integers(1, n_items + 1), replace=False).tolist()),
        k=k,
        seed=seed,
    )
    histories = histories_of_lists(lists, n_items, ranked=ranked)
    found = ordered_step(tables, histories, half_life=half_life, l2_clip_norm=clip)
    expected = plain_sum(tables, lists, half_life=half_life, l2_clip_norm=clip, ranked=ranked)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5 * clip)


def large(rng_seed=0, n_users=300, n_items=200):
    return drawn_lists(np.random.default_rng(rng_seed), n_items, n_users=n_users, longest=120)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("block", "chunk"), [(1, 1), (500, 100), (10**7, 10**7)])
def test_blocks_chunks_threads_and_the_order_of_users_do_not_change_a_bit(threads, block, chunk, monkeypatch):
    tables, lists = tables_of(200, head=list(range(0, 200, 2)), k=8), large()
    expected = ordered_step(tables, histories_of_lists(lists, 200), half_life=3.5, l2_clip_norm=0.7)
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", block)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    monkeypatch.setattr(ordered, "_CHUNK", chunk)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shuffled = [lists[user] for user in np.random.default_rng(5).permutation(len(lists))]
        found = ordered_step(tables, histories_of_lists(shuffled, 200), half_life=3.5, l2_clip_norm=0.7)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


scales = st.sampled_from([1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e20, 3e38])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.tuples(scales, scales), uneven=st.booleans(), half_life=half_lives)
def test_whatever_the_tables_hold_a_user_moves_the_sum_by_the_clip_norm_at_most(seed, scale, uneven, half_life):
    """The sum is exact, so the difference is the user's own term, and nothing is left for rounding."""
    rng = np.random.default_rng(seed)
    n_items, k = int(rng.integers(1, 12)), int(rng.integers(1, 6))
    tables = tables_of(n_items, head=list(range(n_items)), k=k, seed=seed)
    for name, size in zip(("damping", "subspace"), scale, strict=True):
        exponents = rng.integers(-30, 1, tables[name].shape) if uneven else 0
        table = tables[name].double() * size * 10.0 ** torch.as_tensor(exponents).double()
        tables[name] = table.float().clamp(-3e38, 3e38)
    if rng.random() < 0.3 and n_items > 1:
        # Rows that cancel: what a user has twice adds up to next to nothing.
        tables["subspace"][1] = -tables["subspace"][0] * (1 + 1e-6)
    lists = drawn_lists(rng, n_items, n_users=3, longest=int(rng.choice([3, 30])))
    clip = float(rng.choice([0.1, 1.0, 30.0]))
    whole, without = (
        ordered_step(tables, histories_of_lists(some, n_items), half_life=half_life, l2_clip_norm=clip)
        for some in (lists, lists[1:])
    )
    assert whole.isfinite().all()
    assert (whole - without).norm() <= clip * (1 + 1e-9)


def test_an_honest_user_counts_with_the_whole_clip_norm():
    tables = tables_of(200, head=list(range(200)), k=8)
    term = ordered_step(
        tables, histories_of_lists(large(n_users=1, rng_seed=3), 200), half_life=3.5, l2_clip_norm=2.0
    )
    assert 2.0 * (1 - 1e-4) < term.norm() <= 2.0


def test_the_order_of_a_users_items_matters_and_that_of_no_other():
    tables = tables_of(20, head=list(range(20)), k=4)
    lists = [list(range(10)), list(range(10, 20))]
    turned = [lists[0], lists[1][::2] + lists[1][1::2]]
    found = [
        ordered_step(tables, histories_of_lists(some, 20), half_life=1.0, l2_clip_norm=1.0)
        for some in (lists, turned)
    ]
    assert torch.equal(found[0][:10], found[1][:10])
    assert not torch.equal(found[0][10:], found[1][10:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, there is none here")
def test_cuda_gives_the_sum_of_the_cpu():
    tables, lists = tables_of(200, head=list(range(0, 200, 2)), k=8), large(n_users=2_000)
    histories = histories_of_lists(lists, 200)
    expected = ordered_step(tables, histories, half_life=3.5, l2_clip_norm=1.0)
    there = {name: table.cuda() for name, table in tables.items()}
    found = [ordered_step(there, histories.to("cuda"), half_life=3.5, l2_clip_norm=1.0).cpu() for _ in range(2)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-6)
