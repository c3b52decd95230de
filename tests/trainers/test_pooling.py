"""Pooling of released tables: by their noise, by the ids of items, and less of what tastes have left behind."""

import numpy as np
import pytest
import torch

from recsys_fed.trainers.pooling import (
    Products,
    ReleasedTable,
    over_rows,
    pool_counts,
    pool_products,
    product,
    remap,
    side_by_side,
)

N_ITEMS, DIM = 60, 4


def second_moment(rng, *, items=N_ITEMS):
    """A symmetric C of rank DIM with eigenvalues of 100 to 40."""
    basis = np.linalg.qr(rng.standard_normal((items, DIM)))[0]
    return torch.from_numpy(basis @ np.diag(np.linspace(100, 40, DIM)) @ basis.T)


def noisy(moment, asked, noise_std, rng):
    """What a round releases: users' terms x x^T W over ||W^T x||, so C W over the root of its mean square."""
    length = float((asked * (moment @ asked)).sum() / moment.trace()) ** 0.5
    total = moment @ asked / length + noise_std * torch.from_numpy(rng.standard_normal(asked.shape))
    return product(asked, total, noise_std=noise_std)


def directions(moment, rng, *, off=0.2):
    """Orthonormal columns near the leading ones."""
    leading = torch.linalg.eigh(moment).eigenvectors[:, -DIM:]
    return torch.linalg.qr(leading + off * torch.from_numpy(rng.standard_normal(leading.shape)) / N_ITEMS**0.5).Q


def angle(table, moment):
    """Largest sine between the leading directions of a table and those of C."""
    basis = torch.linalg.svd(table, full_matrices=False).U[:, :DIM]
    leading = torch.linalg.eigh(moment).eigenvectors[:, -DIM:]
    return float(torch.linalg.matrix_norm(leading - basis @ (basis.T @ leading), 2))


def test_what_is_pooled_without_noise_is_the_product_that_it_says():
    rng = np.random.default_rng(0)
    moment = second_moment(rng)
    trainings = [Products(asked=w, table=moment @ w) for w in (directions(moment, rng), directions(moment, rng))]
    pooled = pool_products(trainings)
    torch.testing.assert_close(moment @ pooled.asked, pooled.table)
    gramian = pooled.asked.T @ pooled.asked
    torch.testing.assert_close(gramian, torch.diag(gramian.diagonal()), atol=1e-9, rtol=0)


def test_of_one_question_the_answers_are_averaged_by_their_variances():
    rng = np.random.default_rng(1)
    moment = second_moment(rng)
    asked = directions(moment, rng, off=0.0)
    stds = (1.0, 2.0)
    sums = [moment @ asked + std * torch.from_numpy(rng.standard_normal(asked.shape)) for std in stds]
    trainings = [Products(asked=asked / std, table=total / std) for total, std in zip(sums, stds, strict=True)]
    pooled = pool_products(trainings)
    # The plain oracle: inverse variances, then back to the columns that were asked for.
    oracle = (sums[0] / 1 + sums[1] / 4) / (1 + 1 / 4)
    found = (pooled.table / pooled.asked.norm(dim=0)) @ (pooled.asked / pooled.asked.norm(dim=0)).T @ asked
    torch.testing.assert_close(found, oracle)


def test_the_noise_of_the_pool_is_one():
    rng = np.random.default_rng(2)
    asked = [torch.linalg.qr(torch.from_numpy(rng.standard_normal((N_ITEMS, DIM)))).Q for _ in range(3)]
    found = []
    for _ in range(200):
        noise = [torch.from_numpy(rng.standard_normal((N_ITEMS, DIM))) for _ in asked]
        pooled = pool_products(
            [side_by_side([Products(asked=w, table=n) for w, n in zip(asked, noise, strict=True)])]
        )
        found.append(pooled.table)
    noise = torch.cat(found, dim=1)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)
    correlation = torch.stack(found).flatten(1).T.corrcoef().fill_diagonal_(0)
    assert float(correlation.abs().mean()) < 0.07


def test_earlier_trainings_make_the_estimate_better_and_the_more_the_better():
    errors = {count: [] for count in (1, 2, 6)}
    for seed in range(10):
        rng = np.random.default_rng([3, seed])
        moment = second_moment(rng)
        released = [noisy(moment, directions(moment, rng), 4.0, rng) for _ in range(6)]
        for count, found in errors.items():
            found.append(angle(pool_products(released[-count:]).table, moment))
    means = {count: np.mean(found) for count, found in errors.items()}
    assert means[6] < 0.75 * means[2] < 0.75 * 0.85 * means[1]


def test_what_another_time_released_does_not_hold_back_the_newest():
    worse, alone = [], []
    for seed in range(10):
        rng = np.random.default_rng([4, seed])
        before, now = second_moment(rng), second_moment(rng)
        old = [noisy(before, directions(before, rng), 1.0, rng) for _ in range(4)]
        # The first round of a training asks with what earlier ones have found.
        rounds = [noisy(now, directions(moment, rng), 1.0, rng) for moment in (before, now)]
        newest = side_by_side(rounds)
        worse.append(angle(pool_products([*old, newest]).table, now))
        alone.append(angle(pool_products([newest]).table, now))
    assert np.mean(worse) < 1.2 * np.mean(alone) < 0.3
    plain = side_by_side([*old, newest])
    assert angle(plain.table, now) > 3 * worse[-1]


def test_without_drift_nothing_is_taken_from_earlier_trainings_but_by_chance():
    full = 0
    for seed in range(20):
        rng = np.random.default_rng([5, seed])
        moment = second_moment(rng)
        old, newest = (noisy(moment, directions(moment, rng), 3.0, rng) for _ in range(2))
        pooled, plain = pool_products([old, newest]), pool_products([side_by_side([old, newest])])
        full += torch.allclose(pooled.table.abs(), plain.table.abs())
    assert full >= 18


def test_counts_are_pooled_by_their_noise_and_brought_to_the_scale_of_the_newest():
    rng = np.random.default_rng(6)
    truth = torch.from_numpy(rng.gamma(2.0, 300.0, (500, 1)))
    newest = truth + 10 * torch.from_numpy(rng.standard_normal(truth.shape))
    old = 0.5 * truth + 10 * torch.from_numpy(rng.standard_normal(truth.shape))
    table = ReleasedTable(stage="item counts", rows=torch.arange(500), total=old, noise_std=10.0)
    pooled, noise_std = pool_counts(newest, [table], noise_std=10.0)
    # An old count says half as much: 2 old has noise of 20 beside 10.
    scale = float(newest.sum() / old.sum())
    torch.testing.assert_close(
        pooled, (newest / 100 + scale * old / (100 * scale**2)) / (1 / 100 + 1 / (100 * scale**2))
    )
    assert noise_std == pytest.approx((1 / 100 + 1 / 400) ** -0.5, rel=0.02)
    assert float((pooled - truth).std()) < 0.95 * float((newest - truth).std())
    assert pool_counts(newest, [], noise_std=10.0)[0] is newest


def test_counts_of_other_times_are_left_behind():
    rng = np.random.default_rng(7)
    newest = torch.from_numpy(rng.gamma(2.0, 300.0, (500, 1)))
    table = ReleasedTable(
        stage="item counts",
        rows=torch.arange(500),
        total=newest[torch.from_numpy(rng.permutation(500))],
        noise_std=1.0,
    )
    pooled, _ = pool_counts(newest, [table], noise_std=1.0)
    torch.testing.assert_close(pooled, newest, rtol=0.01, atol=0.5)


def test_releases_follow_the_ids_of_items_into_another_catalogue():
    table = ReleasedTable(
        stage="subspace",
        rows=torch.tensor([0, 2, 3]),
        total=torch.tensor([[1.0], [2.0], [3.0]]),
        noise_std=1.0,
        asked=torch.tensor([[10.0], [20.0], [30.0]]),
    )
    # Item 2 is gone; the others have changed places.
    moved = remap(table, torch.tensor([5, 4, -1, 1]))
    assert moved.rows.tolist() == [1, 5]
    assert moved.total[:, 0].tolist() == [3.0, 1.0] and moved.asked[:, 0].tolist() == [30.0, 10.0]
    spread = over_rows(Products(asked=moved.asked, table=moved.total), moved.rows, now=torch.tensor([0, 1, 4]))
    assert spread.table[:, 0].tolist() == [0.0, 3.0, 0.0]
