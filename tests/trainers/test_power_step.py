"""The fused step equals the plain clipped sum, is exact, and one user moves it by no more than the clip norm."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plain_trainers import from_dense
from scipy import sparse

from recsys_fed.models import histories as user_blocks
from recsys_fed.models.histories import for_each_block, histories_of
from recsys_fed.trainers import exact_sum
from recsys_fed.trainers.exact_sum import LONGEST, UNIT, in_units
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum
from recsys_fed.trainers.subspace import power_step

modes = st.sampled_from(["automatic", "flat"])


def tables_of(n_items, *, head, k=3, seed=0):
    rng = np.random.default_rng(seed)
    direction = torch.from_numpy(rng.random(len(head)) + 0.1)
    return {
        "head": torch.tensor(head, dtype=torch.int64),
        "damping": torch.from_numpy(rng.random(len(head)) + 0.3).float(),
        "direction": (direction / direction.norm()).float(),
        "subspace": torch.from_numpy(rng.standard_normal((len(head), k))).float(),
    }


def plain(tables, matrix, *, l2_clip_norm, mode):
    """The same terms, user by user, by way of `rank_one`."""
    histories = from_dense(matrix).restricted(tables["head"])
    values = tables["damping"].double()[histories.items]
    norms = histories.per_user(values.square()).sqrt().clamp_min(1e-300)
    q, W = tables["direction"].double()[:, None], tables["subspace"].double()
    batch = RankOneContributions(
        histories=histories,
        values=values / norms[histories.users],
        basis=q / q.norm(),
        coefficients=-histories.times(values, q / q.norm()) / norms[:, None],
        right=histories.times(values, W) / norms[:, None],
    )
    return clipped_sum(batch, l2_clip_norm=l2_clip_norm, mode=mode).double()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 9999), n_users=st.integers(0, 7), k=st.integers(0, 4), mode=modes, clip=st.floats(0.05, 9))
def test_it_is_the_plain_clipped_sum(seed, n_users, k, mode, clip):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((n_users, 9)) < rng.choice([0.1, 0.4, 0.9])).astype(float)
    tables = tables_of(9, head=sorted(rng.choice(9, rng.integers(1, 10), replace=False).tolist()), k=k, seed=seed)
    # Who is nearly parallel to q counts for less, by the rounding that float32 sums might have.
    damped = torch.from_numpy(matrix[:, tables["head"].numpy()]) * tables["damping"].double()
    squares = damped.square().sum(1)
    assume((squares - (damped @ tables["direction"].double()).square() >= 0.01 * squares).all())
    found = power_step(tables, from_dense(matrix), l2_clip_norm=clip, mode=mode)
    expected = plain(tables, matrix, l2_clip_norm=clip, mode=mode)
    torch.testing.assert_close(found, expected, atol=2e-3 * clip, rtol=0)


def large(seed=0, n_users=400, n_items=300):
    return sparse.random(n_users, n_items, density=0.1, format="csr", rng=np.random.default_rng(seed))


def test_large_histories_lose_next_to_nothing_to_the_bound_on_rounding():
    tables = tables_of(300, head=list(range(300)), k=8)
    matrix = large()
    found = power_step(tables, histories_of(matrix), l2_clip_norm=1.0)
    expected = plain(tables, matrix.toarray() != 0, l2_clip_norm=1.0, mode="automatic")
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block", [1, 500, 10**7])
def test_blocks_threads_and_the_order_of_users_do_not_change_a_bit(threads, block, monkeypatch):
    tables, matrix = tables_of(300, head=list(range(0, 300, 2)), k=8), large()
    expected = power_step(tables, histories_of(matrix), l2_clip_norm=0.7)
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", block)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)
    monkeypatch.setattr(exact_sum, "_ITEM_ROWS", 37)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shuffled = matrix[np.random.default_rng(5).permutation(400)]
        found = power_step(tables, histories_of(shuffled), l2_clip_norm=0.7)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


scales = st.sampled_from([1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e20, 3e38])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.tuples(scales, scales, scales), mode=modes, uneven=st.booleans())
def test_whatever_the_tables_hold_a_user_moves_the_sum_by_the_clip_norm_at_most(seed, scale, mode, uneven):
    """The sum is exact, so the difference is the user's own term, and nothing is left for rounding."""
    rng = np.random.default_rng(seed)
    n_items, k = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    tables = tables_of(n_items, head=list(range(n_items)), k=k, seed=seed)
    for name, size in zip(("damping", "direction", "subspace"), scale, strict=True):
        exponents = rng.integers(-30, 1, tables[name].shape) if uneven else 0
        table = tables[name].double() * size * 10.0 ** torch.as_tensor(exponents).double()
        tables[name] = table.float().clamp(-3e38, 3e38)
    if rng.random() < 0.3:
        # Histories that are nearly parallel to q: what is left of x_u is the rounding of its parts.
        tables["direction"] = tables["damping"] * (1 + 1e-6 * torch.from_numpy(rng.standard_normal(n_items))).float()
    matrix = (rng.random((3, n_items)) < rng.choice([0.2, 0.9, 1.0])).astype(float)
    clip = float(rng.choice([0.1, 1.0, 30.0]))
    with_user, without = (
        power_step(tables, from_dense(rows), l2_clip_norm=clip, mode=mode) for rows in (matrix, matrix[1:])
    )
    assert with_user.isfinite().all()
    assert (with_user - without).norm() <= clip * (1 + 1e-9)


def test_an_honest_user_counts_with_the_whole_clip_norm():
    tables = tables_of(300, head=list(range(300)), k=8)
    term = power_step(tables, histories_of(large(n_users=1)), l2_clip_norm=2.0)
    assert 2.0 * (1 - 1e-3) < term.norm() <= 2.0


@given(st.lists(st.floats(-1e3, 1e3) | st.sampled_from([np.nan, np.inf, -np.inf]), min_size=1, max_size=6))
def test_units_are_whole_and_never_longer(values):
    vector = torch.tensor([values], dtype=torch.float64)
    units = in_units(vector)
    assert torch.equal(units, units.round())
    assert (units.abs() * UNIT <= vector.abs().nan_to_num(0.0)).all()
    assert (units.abs() * UNIT <= LONGEST).all()


def test_an_error_in_one_block_is_raised(monkeypatch):
    monkeypatch.setattr(user_blocks, "_LEAST_INTERACTIONS", 100)
    monkeypatch.setattr(user_blocks, "_INTERACTIONS_AN_ITEM", 0)

    def fail(_, block):
        raise ValueError(block.n_users)

    with pytest.raises(ValueError, match=r"\d"):
        for_each_block(histories_of(large()), fail)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, there is none here")
def test_cuda_gives_the_sum_of_the_cpu():
    tables, matrix = tables_of(300, head=list(range(0, 300, 2)), k=8), large(n_users=5_000)
    expected = power_step(tables, histories_of(matrix), l2_clip_norm=1.0)
    there = {name: table.cuda() for name, table in tables.items()}
    found = [power_step(there, histories_of(matrix, device="cuda"), l2_clip_norm=1.0).cpu() for _ in range(2)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
